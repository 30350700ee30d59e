"""The log line of a request: every field has the value that its name says, and lines are written as JSON, one each."""

import logging

import orjson

from tokengate.domain import Ending, Outcome, Reason, Session, Usage
from tokengate.telemetry import Line, Telemetry, line, timestamp

ALLOWED = Outcome(
    request_id="r1",
    endpoint="chat_completions",
    session=Session("alice", "acme", "crawler"),
    model="gpt-4o-mini",
    stream=True,
    status=200,
    decision="allowed",
    ending=Ending.CUT,
    estimated_nano=7_500_000_000,
    held_nano=2_000_000_000,
    actual_nano=1_250_000_000,
    assumed=True,
    usage=Usage(11, 12, cache_read_tokens=13, reasoning_tokens=5),
    started_ms=1_790_000_000_007,
    duration_us=21_500,
    overhead_us=250,
    first_byte_us=3_000,
)
REFUSED = Outcome(
    request_id="r2",
    endpoint="embeddings",
    session=None,
    model="",
    stream=False,
    status=403,
    decision="blocked",
    reason=Reason.SESSION_FROZEN,
    error="The session is frozen.",
)


def written(*outcomes: Outcome) -> list[bytes]:
    out: list[bytes] = []
    telemetry = Telemetry(out.append, logging.INFO)
    for outcome in outcomes:
        telemetry.record(outcome)
    telemetry.flush()
    return b"".join(out).splitlines(keepends=True)


async def test_every_field_has_the_value_that_its_name_says() -> None:
    allowed, refused = written(ALLOWED, REFUSED)
    assert orjson.loads(allowed) == {
        "timestamp": "2026-09-21T14:13:20.007Z",
        "event": "request",
        "request_id": "r1",
        "tenant": "acme",
        "agent": "crawler",
        "session_id": "alice",
        "endpoint": "chat_completions",
        "model": "gpt-4o-mini",
        "stream": True,
        "status": 200,
        "decision": "allowed",
        "estimated_cost": 7.5,
        "held": 2.0,
        "actual_cost": 1.25,
        "input_tokens": 11,
        "output_tokens": 12,
        "cached_tokens": 13,
        "reasoning_tokens": 5,
        "ending": "cut",
        "assumed": True,
        "duration_ms": 21.5,
        "overhead_ms": 0.25,
        "first_byte_ms": 3.0,
    }
    assert orjson.loads(refused) == {
        "timestamp": "1970-01-01T00:00:00.000Z",
        "event": "request",
        "request_id": "r2",
        "tenant": None,
        "agent": None,
        "session_id": None,
        "endpoint": "embeddings",
        "model": "",
        "stream": False,
        "status": 403,
        "decision": "blocked",
        "estimated_cost": None,
        "held": None,
        "actual_cost": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "ending": None,
        "assumed": False,
        "duration_ms": 0.0,
        "overhead_ms": 0.0,
        "first_byte_ms": None,
        "reason": "session_frozen",
        "error": "The session is frozen.",
    }


async def test_every_line_ends_and_holds_no_other_line_end() -> None:
    lines = written(ALLOWED, REFUSED, ALLOWED)
    assert len(lines) == 3
    assert all(text.endswith(b"}\n") for text in lines)


def test_an_agent_without_a_name_is_none() -> None:
    assert line(ALLOWED).agent == "crawler"
    assert line(REFUSED).agent is None
    nameless = Outcome("r3", "chat_completions", Session("alice"), "m", stream=False, status=200, decision="allowed")
    assert line(nameless).agent is None


def test_a_line_is_written_in_the_order_of_its_fields() -> None:
    assert Line.__struct_fields__[:3] == ("timestamp", "event", "request_id")
    assert Line.__struct_fields__[-2:] == ("reason", "error")


def test_a_time_has_its_milliseconds() -> None:
    assert timestamp(0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(999) == "1970-01-01T00:00:00.999Z"
    assert timestamp(1_790_000_000_045) == "2026-09-21T14:13:20.045Z"

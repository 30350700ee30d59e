"""Lines of transcripts and of the log are read as what they are, and what cannot be read is said in words."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inmemory import prices
from tests.telemetry.test_log import ALLOWED, REFUSED, written
from tokengate.cli.replay import offline
from tokengate.domain import Reason, Session, Usage
from tokengate.settings import Settings
from tokengate.transcript import DURATION_MS_MAX, Entry, TranscriptError

READER, _ = offline(Settings(default_session="fallback", tenant="acme", agent="crawler"), prices(None))
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}
CALL: dict[str, Any] = {"timestamp": "2026-03-02T09:00:00.250Z", "body": CHAT}
MEMBERS = ("session_id", "agent", "tenant", "duration_ms", "status", "url", "headers", "usage", "response", "event",
           "decision", "endpoint", "model", "stream", "input_tokens", "actual_cost")  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
AT_MS = 1_772_442_000_250


def read(**members: Any) -> Entry:
    """A call with these members; those that are None are left out."""
    line = {name: value for name, value in (CALL | members).items() if value is not None}
    entry = READER.read(json.dumps(line).encode())
    assert entry is not None
    return entry


def why(**members: Any) -> str:
    with pytest.raises(TranscriptError) as caught:
        read(**members)
    return str(caught.value)


class TestCalls:
    def test_the_least_that_a_line_may_say(self) -> None:
        entry = read()
        assert (entry.at_ms, entry.ended_ms, entry.status, entry.usage) == (AT_MS, AT_MS, 200, None)
        assert entry.session == Session("fallback", "acme", "crawler")
        assert entry.request.call.model == "gpt-4o-mini"
        assert (entry.cost_nano, entry.blocked) == (None, False)

    @pytest.mark.parametrize(
        "written",
        [
            "2026-03-02T09:00:00.250Z",
            "2026-03-02T10:00:00.250+01:00",
            "2026-03-02 09:00:00.250",
            1_772_442_000.25,
            1_772_442_000_250,
        ],
    )
    def test_times(self, written: object) -> None:
        assert read(timestamp=written).at_ms == AT_MS

    def test_an_answer_takes_its_time(self) -> None:
        entry = read(duration_ms=1500.4)
        assert (entry.ended_ms, entry.timed) == (AT_MS + 1500, True)

    def test_how_long_it_took_is_guessed_from_the_answer(self) -> None:
        entry = read(usage={"prompt_tokens": 8, "completion_tokens": 100})
        assert (entry.ended_ms, entry.timed) == (AT_MS + 500 + 100 * 20, False)

    def test_whose_it_is(self) -> None:
        named = {"session_id": "s", "agent": "a", "tenant": "t"}
        assert read(**named).session == Session("s", "t", "a")
        assert read(headers={"x-session-id": "h"}).session.id == "h"
        assert read(session_id="s", headers={"X-Session-ID": "h"}).session.id == "s"
        assert read(agent="").session.agent == ""

    @pytest.mark.parametrize(
        ("url", "body", "produces_output"),
        [
            (None, CHAT, True),
            ("/v1/chat/completions", CHAT, True),
            ("https://api.openai.com/v1/chat/completions?x=1", CHAT, True),
            (None, {"model": "text-embedding-3-small", "input": ["a", "b"]}, False),
            (None, {"model": "gpt-3.5-turbo-instruct", "prompt": "a"}, True),
        ],
    )
    def test_where_it_went(self, url: str | None, body: dict[str, Any], produces_output: bool) -> None:
        assert read(url=url, body=body).request.call.produces_output is produces_output

    def test_another_providers_call(self) -> None:
        body = {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
        for url in ("https://api.anthropic.com/v1/messages", None):
            entry = read(url=url, body=body, usage={"input_tokens": 8, "output_tokens": 21})
            assert (entry.section, entry.request.call.output_tokens_asked) == ("anthropic", 9)
            assert entry.usage == Usage(8, 21)
        gemini = read(
            url="https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent?alt=json",
            body={"contents": [{"parts": [{"text": "hi"}]}]},
            usage={"promptTokenCount": 8, "candidatesTokenCount": 21, "totalTokenCount": 29},
        )
        assert (gemini.section, gemini.request.call.model) == ("google", "gemini-2.5-flash")
        assert gemini.usage == Usage(8, 21)

    @pytest.mark.parametrize(
        "members",
        [
            {"usage": {"prompt_tokens": 8, "completion_tokens": 21}},
            {"response": {"usage": {"prompt_tokens": 8, "completion_tokens": 21}}},
            {"response": {"status_code": 200, "body": {"usage": {"prompt_tokens": 8, "completion_tokens": 21}}}},
            {"usage": {"prompt_tokens": 8, "completion_tokens": 21}, "body": CHAT | {"stream": True}},
        ],
    )
    def test_what_was_used(self, members: dict[str, Any]) -> None:
        assert read(**members).usage == Usage(8, 21)

    def test_the_model_that_answered_is_taken_from_the_answer(self) -> None:
        answer = {"model": "gpt-4o", "usage": {"prompt_tokens": 8, "completion_tokens": 21}}
        assert read(response={"body": answer}).usage == Usage(8, 21, model="gpt-4o")

    def test_a_failure_uses_nothing(self) -> None:
        usage = {"prompt_tokens": 8, "completion_tokens": 21}
        assert read(status=500, usage=usage).usage is None
        assert read(response={"status_code": 429, "body": {"error": {}}}).status == 429

    @pytest.mark.parametrize(
        ("members", "words"),
        [
            ({"timestamp": None}, "it has no timestamp"),
            ({"timestamp": "yesterday"}, "timestamp: 'yesterday' is not ISO 8601"),
            ({"timestamp": -1}, "timestamp: -1 is not a time since 1970, in seconds or milliseconds"),
            ({"timestamp": 10**15}, f"timestamp: {10**15} is not a time since 1970, in seconds or milliseconds"),
            ({"timestamp": [1]}, "timestamp: expected `int | float | str | null`, got `array`"),
            ({"body": None}, "neither a call (it has no body) nor a request of the log (it has no decision)"),
            ({"body": "text"}, "it is not clear where it went: add its url, like /v1/chat/completions"),
            ({"body": {"model": "m"}}, "it is not clear where it went: add its url, like /v1/chat/completions"),
            ({"body": CHAT | {"messages": []}}, "body: messages must be a list of at least one message."),
            ({"url": "/v1/images"}, "/v1/images is no endpoint that is metered"),
            ({"url": "/v1/models"}, "/v1/models is no endpoint that is metered"),
            (
                {"url": "/openai/deployments/gpt-4o-mini/chat/completions"},
                "there is no upstream of the kind azure (UPSTREAMS_FILE)",
            ),
            ({"session_id": "a b"}, "session_id: 'a b' is not a name"),
            ({"session_id": ""}, "session_id: '' is not a name"),
            ({"agent": "{x}"}, "agent: '{x}' is not a name"),
            ({"duration_ms": -1}, f"duration_ms: -1.0 is not from 0 to {DURATION_MS_MAX}"),
            ({"duration_ms": "1"}, "duration_ms: expected `float | null`, got `str`"),
            ({"headers": {"a": 1}}, "headers[...]: expected `str`, got `int`"),
        ],
    )
    def test_what_is_wrong_is_said(self, members: dict[str, Any], words: str) -> None:
        assert why(**members) == words

    @pytest.mark.parametrize("line", [b"nonsense", b"[]", b'"text"', b"\xff", b'{"body": {}', b'{"timestamp": NaN}'])
    def test_what_is_no_object_is_said_to_be_none(self, line: bytes) -> None:
        with pytest.raises(TranscriptError, match=r"JSON|object"):
            READER.read(line)

    def test_nothing_that_is_nested_raises_anything_else(self) -> None:
        for text in (b'{"body":' + b"[" * 100_000, b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
            with pytest.raises(TranscriptError):
                READER.read(text)

    @given(
        st.dictionaries(
            st.sampled_from([*CALL, *MEMBERS]), JSON | st.sampled_from([*CALL.values(), CHAT, "", -1, 1e300])
        ),
        st.booleans(),
    )
    def test_no_line_is_too_strange(self, members: dict[str, Any], spoilt: bool) -> None:
        line = json.dumps(CALL | members).encode()
        with contextlib.suppress(TranscriptError):
            READER.read(line[:-7] if spoilt else line)

    def test_a_blank_line_is_nothing(self) -> None:
        assert READER.read(b"  \r\n") is None


class TestLog:
    async def test_a_line_as_the_gate_writes_it(self) -> None:
        allowed, refused = written(ALLOWED, REFUSED)
        entry = READER.read(allowed)
        assert entry is not None
        assert entry.session == ALLOWED.session
        assert entry.at_ms == ALLOWED.started_ms
        assert entry.ended_ms == ALLOWED.started_ms + 22
        assert entry.cost_nano == ALLOWED.actual_nano
        assert entry.usage == Usage(11, 12, cache_read_tokens=13, reasoning_tokens=5)
        assert entry.request.call.model == "gpt-4o-mini"
        # It was refused before anybody knew what it was.
        assert READER.read(refused) is None

    def test_what_was_refused_is_tried_again_at_no_cost(self) -> None:
        line = {
            "event": "request",
            "timestamp": CALL["timestamp"],
            "decision": "blocked",
            "session_id": "s",
            "endpoint": "embeddings",
        }
        line |= {"model": "gpt-4o-mini", "reason": Reason.BUDGET_EXCEEDED, "actual_cost": None, "status": 429}
        entry = READER.read(json.dumps(line).encode())
        assert entry is not None
        assert (entry.blocked, entry.cost_nano, entry.usage) == (True, None, None)

    @pytest.mark.parametrize(
        "line",
        [
            {"event": "serving", "timestamp": "2026-03-02T09:00:00Z", "url": "http://127.0.0.1:8000"},
            {"event": "request", "decision": "allowed", "model": "", "session_id": None, "endpoint": "models"},
        ],
    )
    def test_other_lines_are_passed_over(self, line: dict[str, Any]) -> None:
        assert READER.read(json.dumps(line).encode()) is None

    @pytest.mark.parametrize("cost", [-1, 1e300])
    def test_what_is_no_amount_is_said_to_be_none(self, cost: float) -> None:
        line = {
            "timestamp": CALL["timestamp"],
            "decision": "allowed",
            "session_id": "s",
            "model": "m",
            "endpoint": "messages",
        }
        with pytest.raises(TranscriptError, match="actual_cost"):
            READER.read(json.dumps(line | {"actual_cost": cost}).encode())

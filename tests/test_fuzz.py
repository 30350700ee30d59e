"""The whole gate against nonsense: mutated requests as bytes, mutated answers cut anywhere, callers that leave.

Seeded: case N of a seed is the same every time, and a failure names it. Whatever happens, no fault of the gate shows
(status, log), every request has one log line, no hold stays, a budget is never exceeded but by what a provider billed
beyond what it was allowed, and what an answer says it used is charged.
"""

import asyncio
import json
import logging
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from unittest import mock

import orjson
import pytest
import structlog

from tests.providers import openai_shapes as shapes
from tests.support.gate import OUTPUT_NANO
from tests.support.inmemory import Answer, InMemory, load_encoding
from tests.support.scene import CHAT, MODEL
from tokengate import tokens
from tokengate.tokens import count_text

SEED: Final = 20_260_101
CASES: Final = 1500
"""For each of the budgets."""
CALLS: Final = 900

CACHED_NANO: Final = 75
"""Nano-USD a cached token of gpt-4o-mini: the least that a token of input costs."""

USER: Final[list[Any]] = [{"role": "user", "content": "Say something about gates."}]
TOOL: Final = {
    "type": "function",
    "function": {"name": "f", "description": "finds", "parameters": {"type": "object", "properties": {"a": {"enum": ["b", "c"]}}}},
}  # fmt: skip
IMAGE: Final = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}
REQUESTS: Final[list[tuple[str, dict[str, Any]]]] = [
    (CHAT, {"model": MODEL, "messages": USER}),
    (CHAT, {"model": MODEL, "messages": USER, "stream": True}),
    (CHAT, {"model": MODEL, "messages": USER, "stream": True, "stream_options": {"include_usage": True}, "n": 2}),
    (CHAT, {"model": MODEL, "messages": USER, "max_tokens": 20, "temperature": 0.5, "stop": ["\n"], "seed": 1}),
    (CHAT, {"model": MODEL, "messages": USER, "max_completion_tokens": 9, "max_tokens": 7, "user": "u", "logit_bias": {"1": 2}}),
    (CHAT, {"model": MODEL, "messages": [{"role": "system", "content": "short"}, *USER], "tools": [TOOL], "tool_choice": "auto"}),
    (CHAT, {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}], "stream": True}),
    (CHAT, {"model": MODEL, "messages": USER, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}}),
    (CHAT, {
        "model": MODEL,
        "messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                     {"role": "tool", "tool_call_id": "1", "content": "예산 " * 20}],
    }),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"], "max_tokens": 5, "best_of": 3, "n": 2}),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": [1, 2, 3], "stream": True}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"], "encoding_format": "base64"}),
]  # fmt: skip
PATHS: Final = (
    "/v1/models", "/v1/models/gpt-4o", "/v1/models/../files", "/v1/models/%2e%2e/files", "//v1/chat/completions", "/v1/../v1/embeddings",
    "/v1/chat%2Fcompletions", "/v1", "/", "*", "http://evil.example/v1/chat/completions", "/v1/files", "/v1/responses", "/v1/models/%ff%00",
    f"{CHAT}?session_id=", f"{CHAT}?session_id=a&session_id=b", f"{CHAT}?a=%zz&b", f"{CHAT}#x",
)  # fmt: skip
HEADERS: Final = (
    b"X-Session-ID: other", b"X-Session-ID: ../..", b"X-Session-ID:", b"Authorization: Bearer x", b"Authorization: Basic y",
    b"Content-Type: application/json; charset=utf-7", b"Content-Type: text/plain", b"Content-Encoding: gzip", b"Expect: 100-continue",
    b"Transfer-Encoding: chunked", b"Content-Length: 5", b"Content-Length: -1", b"Connection: close, x-a", b"Connection: Upgrade",
    b"Upgrade: h2c", b"X-A: \xff\xfe", b"X-B: a\x01b", b"Host: evil.example", b"Cookie: a=b", b"X-Long: " + b"x" * 40_000, b"Origin: null",
    b"Trailer: x-session-id", b"TE: trailers", b": no name", b"no colon", b"X-Forwarded-For: 1.2.3.4", b"Accept-Encoding: br",
)  # fmt: skip
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 16, 2**31, 2**63, 2**64, 1e300, 0.5, "", "16", "x", "\x00\n\u2028", "gpt-4o", "\U0001f512" * 9, [], {}, [[]],
    [None], {"a": 1}, "data:image/png;base64,AAAA", {"type": "web_search"}, {"url": "data:,x"}, "flex", "priority",
)  # fmt: skip
KEYS: Final = (
    "max_tokens", "max_completion_tokens", "n", "best_of", "stream", "stream_options", "model", "messages", "prompt", "input", "tools", "functions",
    "audio", "modalities", "prediction", "service_tier", "content", "role", "type", "usage", "choices", "prompt_tokens", "completion_tokens",
    "extra_body", "web_search_options", "Max_Tokens", "unknown", "", "\n",
)  # fmt: skip
CONTENT_TYPES: Final = (
    b"application/json",
    b"text/event-stream",
    b"text/event-stream; charset=utf-8",
    b"text/plain",
    b"",
    b"application/json, x",
)
STATUSES: Final = (200, 200, 200, 200, 200, 200, 201, 204, 304, 307, 400, 404, 429, 500, 503, 599)


def mutated(document: Any, dice: random.Random) -> Any:
    """A document with one of its values, anywhere in it, replaced, dropped, doubled or given a neighbour."""
    if isinstance(document, dict) and document and dice.random() < 0.8:
        key = dice.choice(sorted(document))
        changed = dict(document)
        act = dice.random()
        if act < 0.1:
            del changed[key]
        elif act < 0.3:
            changed[dice.choice(KEYS)] = dice.choice(VALUES)
        elif act < 0.4:
            changed[dice.choice(KEYS)] = changed.pop(key)
        else:
            changed[key] = mutated(document[key], dice)
        return changed
    if isinstance(document, list) and document and dice.random() < 0.8:
        index = dice.randrange(len(document))
        if dice.random() < 0.2:
            return document + document[index : index + 1] * dice.choice((1, 2, 300))
        return [*document[:index], mutated(document[index], dice), *document[index + 1 :]]
    return dice.choice(VALUES)


def scrambled(content: bytes, dice: random.Random) -> bytes:
    """Bytes with some of them flipped, dropped, doubled or made up."""
    for _ in range(dice.choice((1, 1, 1, 2, 5))):
        at = dice.randrange(len(content) + 1)
        until = min(len(content), at + dice.choice((0, 1, 1, 2, 10)))
        new = dice.choice(
            (b"", b"\x00", b"\xff", b'"', b"{", b"}", b"\\", b"\r\n", b"\n\n", b",", b"9" * 20, content[at:until] * 2)
        )
        content = content[:at] + new + content[until:]
    return content


def cut(content: bytes, dice: random.Random, pieces: int) -> list[bytes]:
    places = sorted(dice.randrange(len(content) + 1) for _ in range(dice.randrange(pieces)))
    return [content[start:end] for start, end in zip([0, *places], [*places, len(content)], strict=True) if start < end]


def request(dice: random.Random, session: str) -> bytes:
    """One request as bytes: as it should be, or with its body, its head or its bytes changed."""
    path, document = dice.choice(REQUESTS)
    for _ in range(dice.choice((0, 0, 1, 1, 2, 4))):
        document = mutated(document, dice)
    body = json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    if dice.random() < 0.15:
        body = scrambled(body, dice)
    headers = [b"Host: gate", b"X-Session-ID: " + session.encode(), b"Content-Type: application/json"]
    method = b"POST"
    if dice.random() < 0.15:
        path, method = dice.choice(PATHS), dice.choice((b"GET", b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT"))
    if dice.random() < 0.2:
        headers.insert(dice.randrange(4), dice.choice(HEADERS))
    if dice.random() < 0.2:
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut(body, dice, 4)) + b"0\r\n\r\n"
        headers.append(b"Transfer-Encoding: chunked")
    else:
        headers.append(b"Content-Length: %d" % len(body))
    sent = b"\r\n".join([method + b" " + path.encode() + b" HTTP/1.1", *headers, b"", b""]) + body
    return scrambled(sent, dice) if dice.random() < 0.1 else sent


WHOLE: Final = tuple(map(orjson.loads, (shapes.CHAT, shapes.CHAT_TOOLS, shapes.embeddings(2, dimensions=8))))
STREAMED: Final = (shapes.STREAM, shapes.STREAM_UNASKED, shapes.STREAM_TOOLS, shapes.COMPLETION_STREAM)


def answer(dice: random.Random) -> Answer:
    """What the provider does: something it would do, or something changed, cut anywhere."""
    if dice.random() < 0.5:
        document = dice.choice(WHOLE)
        document = document | {"model": dice.choice((MODEL, MODEL, "gpt-4o-2024-08-06", "invented"))}
        for _ in range(dice.choice((0, 0, 0, 1, 2))):
            document = mutated(document, dice)
        content, content_type = json.dumps(document).encode(), CONTENT_TYPES[0]
    else:
        content, content_type = dice.choice(STREAMED), CONTENT_TYPES[1]
    if dice.random() < 0.2:
        content = scrambled(content, dice)
    if dice.random() < 0.2:
        content_type = dice.choice(CONTENT_TYPES)
    headers = [(b"content-type", content_type)] if content_type else []
    if dice.random() < 0.1:
        headers.append(
            dice.choice(
                [
                    (b"content-encoding", b"br"),
                    (b"connection", b"x-a, close"),
                    (b"x-a", b"\xff"),
                    (b"x-tokengate-cost-usd", b"0"),
                ]
            )
        )
    end = "complete" if dice.random() < 0.7 else dice.choice(("lost", "timeout", "hang", "refused", "silent"))
    chunks = cut(content, dice, 12)
    if end != "complete":
        chunks = chunks[: dice.randrange(len(chunks) + 1)]
    status = dice.choice(STATUSES)
    # The transport gives no body to these, whatever was sent.
    return Answer(status, headers, [] if status in (204, 304) else chunks, end)  # type: ignore[arg-type]


def least_nano(said: Answer, content: bytes, stream: bool) -> int:
    """The least that is charged for a whole answer of gpt-4o-mini which says what it used; 0 if it says nothing sure."""
    if said.status != 200 or said.end != "complete" or len(said.headers) != 1:
        return 0
    if stream and said.headers[0][1] != CONTENT_TYPES[0]:
        return 0
    try:
        document = json.loads(content)
    except ValueError:
        return 0
    usage = document.get("usage") if isinstance(document, dict) and document.get("model") == MODEL else None
    if not isinstance(usage, dict) or document.get("service_tier", "default") != "default":
        return 0
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if (
        type(prompt) is not int
        or type(completion) is not int
        or not 0 < min(prompt, completion) <= max(prompt, completion) < 2**31
    ):
        return 0
    details = [usage.get(f"{name}_details") for name in ("prompt_tokens", "completion_tokens")]
    if details != [shapes.USAGE["prompt_tokens_details"], shapes.USAGE["completion_tokens_details"]]:
        return 0
    return prompt * CACHED_NANO + completion * OUTPUT_NANO


@asynccontextmanager
async def listening(gate: InMemory) -> AsyncIterator[list[str]]:
    """Gather every fault with a traceback that anything logs."""
    faults: list[str] = []

    class Gather(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                faults.append(f"{record.getMessage()}: {record.exc_info[1]!r}")

    handler = Gather()
    logging.getLogger().addHandler(handler)
    try:
        with structlog.testing.capture_logs() as entries, mock.patch.object(tokens, "load_encoding", load_encoding):
            yield faults
        faults += [str(entry) for entry in entries if entry.get("exc_info")]
    finally:
        logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("cap_nano", [30_000, 400_000, 10**13], ids=["a call", "some calls", "all calls"])
async def test_no_request_and_no_answer_makes_the_gate_fail_or_lose_money(cap_nano: int) -> None:
    gate = InMemory(cap_nano)
    admitted = 0
    async with listening(gate) as faults:
        for number in range(CASES):
            dice = random.Random(f"{SEED} {cap_nano} {number}")
            session = f"s{number // 4}"
            before = await gate.state(session)
            said, logged = answer(dice), len(gate.lines)
            content = b"".join(said.chunks)
            gate.provider.answers.clear()
            gate.provider.forwarded.clear()
            gate.provider.answering = lambda _, said=said: said  # type: ignore[misc]
            sent = request(dice, session)
            leave = dice.choice((None, None, None, 0, 1, dice.randrange(2000)))
            got = await gate.call(cut(sent, dice, 5), leave_after_bytes=leave)
            await gate.settled()

            case = (number, sent[:3000], said, got[:3000])
            assert not faults, case
            statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", got)]
            assert all(status != 500 or said.status == 500 for status in statuses), case
            lines = gate.lines[logged:]
            assert not [line for line in lines if line.get("reason") == "internal_error"], case
            if gate.provider.forwarded:
                assert len(lines) >= len(gate.provider.forwarded), case
                admitted += lines[0]["held"] is not None
            for name in {session, *(line["session_id"] or session for line in lines)}:
                state = await gate.state(name)
                assert state.held_nano == 0, case
                assert state.spent_nano <= cap_nano + state.overrun_nano, case
            after = await gate.state(session)
            least = least_nano(said, content, lines[0]["stream"]) if lines and leave is None else 0
            if lines and lines[0]["status"] == 200 and lines[0]["model"] == MODEL and lines[0]["session_id"] == session:
                assert after.spent_nano - before.spent_nano >= least, case
    assert admitted > CASES / 40


# --- what is held is enough ---

TEXTS: Final = (
    "plain words of a text ",
    "예산은 확고하다 ",
    "我们的预算是硬性的",
    "\U0001f512\U0001f300",
    'a1b2!@#$%^&*()\t\\"',
    "<|endoftext|>",
    "\u0301\u202e",
)


def call(dice: random.Random) -> dict[str, Any]:
    """A chat that the gate takes, with anything that makes it dearer."""
    text = "".join(dice.choices(TEXTS, k=dice.choice((1, 5, 100, 1000))))
    asked: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
    if dice.random() < 0.5:
        asked["messages"].insert(0, {"role": "system", "name": "n", "content": dice.choice(TEXTS) * 3})
    for name, values in (
        ("max_tokens", (1, 50, 3000)), ("max_completion_tokens", (1, 50, 3000)), ("n", (1, 3, 128)), ("best_of", (1, 4)), ("stream", (True, False)),
        ("tools", ([TOOL], [TOOL] * 5)), ("prediction", ({"type": "content", "content": text[:500]},)),
    ):  # fmt: skip
        if dice.random() < 0.3:
            asked[name] = dice.choice(values)
    return asked


def dearest(body: bytes, count: Any) -> dict[str, int]:
    """The most that an obedient provider bills for a body: all the text it was sent, and all the output it is allowed."""
    asked = json.loads(body)
    caps = [asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked]
    predicted = count(asked["prediction"]["content"]) if "prediction" in asked else 0
    output = (max(caps, default=16_384) + predicted) * max(asked.get("n", 1), asked.get("best_of", 1))
    prompt = 3 + sum(4 + count(message["content"]) + ("name" in message) for message in asked["messages"])
    prompt += sum(7 + count(json.dumps(tool["function"])) for tool in asked.get("tools", ())) + 12 * ("tools" in asked)
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


@pytest.mark.parametrize("cap_nano", [2_000_000, 50_000_000, 10**13])
async def test_no_obedient_provider_bills_more_than_was_held(cap_nano: int) -> None:
    gate = InMemory(cap_nano)
    encoding = load_encoding("o200k_base")

    def count(text: str) -> int:
        return count_text(encoding, text)

    def bills(body: bytes) -> Answer:
        usage = dearest(body, count)
        if json.loads(body).get("stream"):
            events = (
                shapes.chunk('{"content":"x"}')
                + shapes.event(orjson.dumps({"model": MODEL, "choices": [], "usage": usage}))
                + shapes.DONE
            )
            return Answer(headers=[(b"content-type", b"text/event-stream")], chunks=[events])
        return Answer(
            chunks=[orjson.dumps({"model": MODEL, "choices": [{"message": {"content": "x"}}], "usage": usage})]
        )

    gate.provider.answering = bills
    async with listening(gate) as faults:
        for number in range(CALLS // 3):
            dice = random.Random(f"{SEED} calls {cap_nano} {number}")
            session = f"s{number // 5}"
            body = json.dumps(call(dice), ensure_ascii=dice.random() < 0.5).encode()
            head = (
                f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nx-session-id: {session}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            await gate.call([head.encode(), body])
            await gate.settled()
            line, state = gate.lines[-1], await gate.state(session)
            assert not faults
            assert len(gate.lines) == number + 1
            if line["decision"] == "allowed":
                assert 0 < line["actual_cost"] <= line["held"] <= line["estimated_cost"], (number, line)
            assert (state.held_nano, state.overrun_nano) == (0, 0), (number, line)
            assert state.spent_nano <= cap_nano
    assert len(gate.provider.forwarded) > CALLS / 20


async def test_concurrent_calls_of_one_budget_end_with_nothing_held() -> None:
    """Many callers of one session at once, mutated, some of which leave while they wait for one another."""
    gate = InMemory(600_000)
    dice = random.Random(SEED)

    async def one(number: int) -> None:
        mine = random.Random(f"{SEED} at once {number}")
        await gate.call(cut(request(mine, "shared"), mine, 3), leave_after_bytes=mine.choice((None, None, 0)))

    gate.provider.answering = lambda _: Answer(chunks=[shapes.CHAT]) if dice.random() < 0.7 else answer(dice)
    async with listening(gate) as faults:
        for start in range(0, 200, 20):
            gate.provider.answers.clear()
            await asyncio.gather(*(one(number) for number in range(start, start + 20)))
        await gate.settled()
    state = await gate.state("shared")
    assert not faults
    assert state.held_nano == 0
    assert 0 < state.spent_nano <= 600_000 + state.overrun_nano

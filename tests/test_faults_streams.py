"""Faults of streams that others shipped: a side that leaves, odd shapes, compression (19, 20 and 22 of the list).

21, a provider that rejects `stream_options`, is none of OpenAI's.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import redis

from tests.support.gate import INPUT_NANO, OUTPUT_NANO, Gate, gate, official, until
from tests.support.hashes import held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, MODEL, chat, client, events, fixed, parsed, scene
from tests.support.servers import Behaviour, Conversation, raw_server
from tokengate.exchange import UNARY_GATHERED_BYTES_MAX
from tokengate.simulate import SimulateOptions

HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]
STREAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[%b]%b}\n\n'
PIECE = EVENT % (b'{"index":0,"delta":{"content":" gate"},"finish_reason":null}', b"")
USAGE = EVENT % (b"", b',"usage":{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8}')
DONE = b"data: [DONE]\n\n"
USED_NANO = 7 * INPUT_NANO + 1 * OUTPUT_NANO


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def before(
    behaviour: Behaviour, store: Server, **settings: object
) -> AsyncIterator[tuple[Gate, httpx.AsyncClient]]:
    """A gate before a server that does exactly what a test says."""
    async with (
        raw_server(behaviour) as provider,
        gate(f"{provider.url}/v1", store.url, **settings) as running,
        client(running.url) as http,
    ):
        yield running, http


# --- 19: the client leaves ---


async def test_19_when_the_client_leaves_a_stream_the_provider_stops_and_what_came_is_charged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    body = chat(stream=True)
    async with scene(store.url, SimulateOptions(output_tokens=500)) as at:
        async with at.stream(body, simulate="hang_midway:11") as response:
            seen = b""
            async for part in response.aiter_raw():
                seen += part
                if seen.count(b"data:") == 11:
                    break
        [line] = await at.gate.log()
        await until(lambda: at.provider.disconnects == 1)
        generated = at.provider.total["output_tokens"]
    assert generated == 10
    assert (line["status"], line["ending"], line["assumed"]) == (200, "cut", True)
    assert spent_nano(redis_cli) == parsed(body).input_tokens_max * INPUT_NANO + generated * OUTPUT_NANO
    assert held_nano(redis_cli) == 0


async def test_19_hanging_up_at_the_terminal_event_is_no_cancel(store: Server, redis_cli: "redis.Redis") -> None:
    gone = asyncio.Event()

    async def never_ends(peer: Conversation) -> None:
        await peer.request()
        await peer.say(STREAMED + chunk(PIECE) + chunk(USAGE) + chunk(DONE))
        await peer.gone()
        gone.set()

    async with before(never_ends, store) as (running, http):
        async with http.stream("POST", CHAT, content=chat(stream=True)) as response:
            async for part in response.aiter_raw():
                if DONE in part:
                    break
        [line] = await running.log()
        await gone.wait()
    assert (line["ending"], line["assumed"], spent_nano(redis_cli)) == ("complete", False, USED_NANO)


# --- 20: the provider leaves ---


@pytest.mark.parametrize(
    ("fault", "code", "settings"),
    [
        ("reset_midway:6", "upstream_unreachable", {}),
        ("hang_midway:6", "upstream_timeout", {"upstream_read_timeout_s": 1}),
    ],
)
async def test_20_a_stream_that_breaks_off_ends_in_an_event_that_the_sdk_raises(
    store: Server, redis_cli: "redis.Redis", fault: str, code: str, settings: dict[str, Any]
) -> None:
    async with (
        scene(store.url, SimulateOptions(output_tokens=100), **settings) as at,
        official(at.gate.base_url, max_retries=2) as sdk,
    ):
        stream = await sdk.chat.completions.create(
            model=MODEL, messages=HELLO, stream=True, extra_headers={"x-simulate-fault": fault}
        )
        got = [await anext(stream) for _ in range(6)]
        with pytest.raises(openai.APIError) as caught:
            await anext(stream)
        [line] = await at.gate.log()
        assert at.provider.received == 1
        generated = at.provider.total["output_tokens"]
    assert generated == sum(bool(event.choices[0].delta.content) for event in got) == 5
    assert caught.value.code == code
    assert caught.value.type == "upstream_error"
    assert (line["status"], line["reason"], line["ending"], line["output_tokens"]) == (200, code, "cut", generated)
    assert spent_nano(redis_cli) == line["input_tokens"] * INPUT_NANO + generated * OUTPUT_NANO
    assert held_nano(redis_cli) == 0


async def test_20_the_last_event_stands_apart_from_half_an_event(store: Server) -> None:
    async def breaks(peer: Conversation) -> None:
        await peer.request()
        await peer.say(STREAMED + chunk(PIECE) + chunk(PIECE[:40]))
        peer.reset()

    async with before(breaks, store) as (running, http):
        answer = await http.post(CHAT, content=chat(stream=True))
        await running.idle()
    first, half, last = answer.content.split(b"\n\n")[:3]
    assert (first + b"\n\n", half) == (PIECE, PIECE[:40])
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_unreachable"


async def test_20_an_error_event_of_the_provider_passes_and_what_came_is_charged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    body = chat(stream=True)
    async with scene(store.url, SimulateOptions(output_tokens=100)) as at:
        answer = await at.post(body, simulate="error_midway:4")
        [line] = await at.gate.log()
    assert events(answer.content)[-1]["error"]["message"] == "The server had an error."
    assert line["ending"] == "cut"
    assert spent_nano(redis_cli) == parsed(body).input_tokens_max * INPUT_NANO + 3 * OUTPUT_NANO


async def test_20_a_large_answer_that_breaks_off_is_not_taken_for_a_whole_one(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    begun = asyncio.Event()

    async def breaks(peer: Conversation) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 20000000\r\n\r\n")
        await peer.say(b" " * (UNARY_GATHERED_BYTES_MAX + 1))
        await begun.wait()
        peer.reset()

    async with before(breaks, store) as (running, http):
        async with http.stream("POST", CHAT, content=chat(max_tokens=20)) as response:
            begun.set()
            with pytest.raises(httpx.RemoteProtocolError):
                await response.aread()
        [line] = await running.log()
    assert (line["status"], line["ending"], line["actual_cost"]) == (200, "unknown", line["held"])
    assert held_nano(redis_cli) == 0
    assert spent_nano(redis_cli) > 20 * OUTPUT_NANO


async def test_20_a_large_answer_passes_whole(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url) as at:
        answer = await at.ask(simulate="huge_answer:9", max_tokens=20)
        [line] = await at.gate.log()
        assert spent_nano(redis_cli) == at.provider.billed_nano()
    assert len(answer.content) > 9_000_000
    assert answer.json()["usage"]["completion_tokens"] == line["output_tokens"]


# --- streams in other shapes ---


async def test_a_stream_without_a_content_type_passes_as_it_comes(store: Server, redis_cli: "redis.Redis") -> None:
    arrived = asyncio.Event()

    async def waits(peer: Conversation) -> None:
        await peer.request()
        await peer.say(STREAMED.replace(b"content-type: text/event-stream\r\n", b"") + chunk(PIECE))
        # The rest comes only when the client has the first of it.
        await arrived.wait()
        await peer.say(chunk(PIECE) + chunk(USAGE) + chunk(DONE) + chunk(b""))

    async with before(waits, store) as (running, http):
        async with asyncio.timeout(10), http.stream("POST", CHAT, content=chat(stream=True)) as response:
            parts = []
            async for part in response.aiter_raw():
                parts.append(part)
                arrived.set()
        [line] = await running.log()
    assert parts[0] == PIECE
    assert b"".join(parts) == PIECE + PIECE + DONE
    assert (line["ending"], spent_nano(redis_cli)) == ("complete", USED_NANO)


async def test_a_stream_with_a_length_is_as_long_as_what_is_passed_on(store: Server, redis_cli: "redis.Redis") -> None:
    content = PIECE + USAGE + DONE

    async def measured(peer: Conversation) -> None:
        await peer.request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(content)
        await peer.say(head + content)

    async with before(measured, store) as (running, http):
        answer = await http.post(CHAT, content=chat(stream=True))
        await running.idle()
    assert answer.content == PIECE + DONE
    assert spent_nano(redis_cli) == USED_NANO


async def test_a_stream_answered_with_json_is_metered_as_json(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed(simulate="json_for_stream", stream=True)
    async with scene(store.url) as at:
        answer = await at.post(call.body, simulate=call.simulate)
        await at.gate.idle()
    assert answer.json()["object"] == "chat.completion"
    assert spent_nano(redis_cli) == call.cost_nano


# --- 22: compressed answers ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_22_a_compressed_answer_passes_and_is_not_metered_as_garbage(
    store: Server, redis_cli: "redis.Redis", stream: bool
) -> None:
    call = fixed(simulate="gzip", stream=stream)
    async with scene(store.url) as at:
        answer = await at.post(call.body, simulate=call.simulate)
        [line] = await at.gate.log()
        assert at.provider.headers()["accept-encoding"] == "identity"
    text = events(answer.content)[-1] if stream else answer.json()["object"]
    assert text == ("[DONE]" if stream else "chat.completion")
    # It cannot be read while it passes: it costs what was held for it.
    assert (line["actual_cost"], line["assumed"]) == (line["held"], True)
    assert spent_nano(redis_cli) == call.cost_nano

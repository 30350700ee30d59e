"""Answers of a hundred megabytes, and clients that do not read: the gate keeps little of them, the provider waits.

The gate is a process of its own, so that its memory can be told from the test's. What it may grow by is
`GROWTH_BYTES_MAX`: an answer is gathered up to `UNARY_GATHERED_BYTES_MAX` and its meter keeps as much, each is joined
once, and the allocator keeps what it once had.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import psutil
import pytest
import redis

from tests.support.answers import DONE, GOOD, GOOD_STREAM, STREAM_HEAD, TEXT, USAGE_EVENT, USED_NANO, chunk, event
from tests.support.gate import Process, gate_processes, until
from tests.support.hashes import held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, client
from tests.support.servers import Conversation, raw_server
from tokengate.exchange import UNARY_GATHERED_BYTES_MAX

ANSWER_BYTES: Final = 100 * 1024 * 1024
PIECE: Final = b" " * 65_536
GROWTH_BYTES_MAX: Final = 5 * UNARY_GATHERED_BYTES_MAX

UNREAD_BYTES_MAX: Final = 24 * 1024 * 1024
"""What a provider can say before it must wait for a client that reads nothing: the buffers of four sockets and ours."""

UNCHANGED: Final = 100
"""How often in a row a count must be the same to have come to its end; with too few a test is less strict, never red."""


class Large:
    """Says something small once, so that the gate has loaded what it needs, and then something large to everyone."""

    def __init__(self, head: bytes, piece: bytes, end: bytes, small: bytes) -> None:
        self.head = head
        self.piece = piece
        self.end = end
        self.small = small
        self.asked = 0
        self.said = 0
        self.gone = asyncio.Event()

    async def __call__(self, peer: Conversation) -> None:
        while True:
            await peer.request()
            self.asked += 1
            if self.asked == 1:
                await peer.say(self.small)
                continue
            try:
                await peer.say(self.head)
                self.said = 0
                while self.said < ANSWER_BYTES:
                    await peer.say(self.piece)
                    self.said += len(self.piece)
                await peer.say(self.end)
            except ConnectionError:
                self.gone.set()
                raise


CHUNKED: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
BEGINNING: Final = b'{"model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"'
ENDING: Final = b'"}}],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}}'
END_OF_STREAM: Final = chunk(USAGE_EVENT) + chunk(DONE) + chunk(b"")


def whole() -> Large:
    return Large(CHUNKED + chunk(BEGINNING), chunk(PIECE), chunk(ENDING) + chunk(b""), GOOD)


def streamed() -> Large:
    return Large(STREAM_HEAD, chunk(event(TEXT) * 400), END_OF_STREAM, GOOD_STREAM)


def one_event() -> Large:
    """A stream of which one event never seems to end."""
    return Large(STREAM_HEAD + chunk(b"data: "), chunk(PIECE), chunk(b"\n\n") + END_OF_STREAM, GOOD_STREAM)


SHAPES: Final = {"whole": whole, "streamed": streamed, "one event": one_event}


@asynccontextmanager
async def facing(large: Large, store: Server, body: bytes) -> AsyncIterator[Process]:
    async with (
        raw_server(large) as provider,
        gate_processes(1, f"{provider.url}/v1", store.url, default_budget="1000") as [gate],
        client(gate.url) as http,
    ):
        assert (await http.post(CHAT, content=body)).status_code == 200
        yield gate


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_large_answer_passes_through_little_memory(store: Server, redis_cli: "redis.Redis", shape: str) -> None:
    large, body = SHAPES[shape](), chat(stream=shape != "whole")
    async with facing(large, store, body) as gate, client(gate.url) as http:
        process = psutil.Process(gate.process.pid)
        before = most = process.memory_info().rss
        received = 0
        async with http.stream("POST", CHAT, content=body) as response:
            async for part in response.aiter_raw(1024 * 1024):
                received += len(part)
                most = max(most, process.memory_info().rss)
        await until(lambda: held_nano(redis_cli) == 0)
    assert received > ANSWER_BYTES * 0.95
    assert most - before < GROWTH_BYTES_MAX
    assert spent_nano(redis_cli) == 2 * USED_NANO


@pytest.mark.parametrize("shape", ["whole", "streamed"])
async def test_a_client_that_does_not_read_makes_the_provider_wait(
    store: Server, redis_cli: "redis.Redis", shape: str
) -> None:
    large, body = SHAPES[shape](), chat(stream=shape != "whole")
    async with facing(large, store, body) as gate:
        process = psutil.Process(gate.process.pid)
        before = process.memory_info().rss
        port = int(gate.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await come_to_rest(large)
        assert 0 < large.said < UNREAD_BYTES_MAX
        assert process.memory_info().rss - before < GROWTH_BYTES_MAX
        if shape == "whole":
            # It reads on, and has lost nothing.
            received = 0
            while part := await reader.read(1024 * 1024):
                received += len(part)
            assert received > ANSWER_BYTES
            writer.close()
        else:
            # It leaves without having read: the provider is stopped.
            writer.transport.abort()
            await large.gone.wait()
            assert large.said < ANSWER_BYTES
        await until(lambda: held_nano(redis_cli) == 0)
        spent = spent_nano(redis_cli)
    assert spent == 2 * USED_NANO if shape == "whole" else spent > 2 * USED_NANO


async def come_to_rest(large: Large) -> None:
    before, times = -1, 0

    def unchanged() -> bool:
        nonlocal before, times
        times = times + 1 if large.said == before > 0 else 0
        before = large.said
        return times >= UNCHANGED

    await until(unchanged)

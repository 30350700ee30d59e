"""Whether the gate is honest about itself: what it says it took is what a client outside finds that it adds."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import pytest

from tests.support.gate import gate_processes
from tests.support.redis_server import Server
from tests.support.scene import CHAT, client, fixed, headers
from tests.support.servers import Conversation, raw_server

CALLS: Final = 300
ANSWER: Final = (
    b'{"id":"a","object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"Hello."}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}'
)
CALL: Final = fixed()


async def provider(peer: Conversation) -> None:
    while True:
        await peer.request()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
        await peer.say(head + ANSWER)


@asynccontextmanager
async def away_by(store: Server, delay_s: float) -> AsyncIterator[str]:
    """The same store, at a distance; gives its URL."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, after_s: float) -> None:
        while data := await source.read(65_536):
            await asyncio.sleep(after_s)
            sink.write(data)
        sink.close()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(store.socket)
        await asyncio.gather(pump(reader, far_writer, 0), pump(far_reader, writer, delay_s))

    path = str(store.folder / "slow.sock")
    server = await asyncio.start_unix_server(accepted, path)
    async with server:
        yield f"unix://{path}"


async def took_s(http: httpx.AsyncClient) -> float:
    began = time.perf_counter()
    answer = await http.post(CHAT, content=CALL.body, headers=headers("s"))
    ended = time.perf_counter()
    assert answer.status_code == 200
    return ended - began


@pytest.mark.parametrize(
    ("store_s", "least", "most"),
    [
        # What is not seen from within: the kernel, the parsing of the request's head, the event loop's way to it.
        pytest.param(0, 0.6, 1.2, id="as-it-is"),
        # Here most of it is a time that is there on any machine, however busy.
        pytest.param(0.005, 0.85, 1.1, id="store-far-away"),
    ],
)
async def test_what_it_says_it_took_is_what_a_client_finds(
    store: Server, store_s: float, least: float, most: float
) -> None:
    async with (
        raw_server(provider) as upstream,
        away_by(store, store_s) as url,
        gate_processes(1, f"{upstream.url}/v1", url, default_budget="1000") as [running],
        client(upstream.url) as direct,
        client(running.url) as through,
    ):
        for http in (direct, through):
            await took_s(http)
        # In turns: whatever else the machine does meanwhile, it does to both.
        pairs = [(await took_s(direct), await took_s(through)) for _ in range(CALLS)]
        running.signal(15)
        await running.ended()
        told_s = [line["overhead_ms"] / 1000 for line in running.lines if "overhead_ms" in line]
    assert len(told_s) == CALLS + 1
    outside_s = statistics.median(through - direct for direct, through in pairs)
    assert least <= statistics.median(told_s[1:]) / outside_s <= most

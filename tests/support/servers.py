"""Servers on real sockets that do exactly what a test says, down to the byte and the reset."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

REQUEST_BYTES_MAX = 1 << 20


class Conversation:
    """One accepted connection, as the server sees it."""

    def __init__(self, server: "RawServer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read one whole request; gives its head."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = await self._reader.readexactly(length)
        self._server.requests.append((head, body))
        return head

    async def say(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            await self._reader.read(1)
        self._server.gone.set()

    async def splice(self, port: int) -> None:
        """Pass bytes on between the client and a port of this machine until either side ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)

        pumps = [asyncio.create_task(pump(*pair)) for pair in ((self._reader, writer), (reader, self._writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            writer.close()
            await writer.wait_closed()

    def reset(self) -> None:
        """Close with a TCP reset."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Behaviour = Callable[[Conversation], Awaitable[None]]


@dataclass
class RawServer:
    url: str
    port: int
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Every request read in full, as (head, body)."""
    connections: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first connection was accepted."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a conversation that waited for it saw its client close."""


@asynccontextmanager
async def raw_server(behaviour: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Run `behaviour` for every connection, which is closed when it returns."""
    tasks: set[asyncio.Task[None]] = set()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.connections += 1
        try:
            await behaviour(Conversation(running, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.met.set()
        task = asyncio.create_task(converse(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls, limit=REQUEST_BYTES_MAX)
    port = server.sockets[0].getsockname()[1]
    running = RawServer(f"{'https' if tls else 'http'}://127.0.0.1:{port}", port)
    try:
        yield running
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

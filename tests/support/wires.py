"""A wire to a store that can be slow, and that breaks where a test says: a TCP proxy before a unix socket."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

PIECE_BYTES_MAX = 65_536


@dataclass
class Wire:
    """`url` leads through it. What is set applies at once, to open connections too."""

    url: str = ""
    delay_s: float = 0.0
    """How long each piece of a reply is kept back."""
    cuts: random.Random | None = None
    """Cuts connections at random points of what is said in either direction; None: no more."""
    cut_bytes_mean: int = 4000
    """After how many bytes a connection is cut, on average."""
    reply_bytes_left: int | None = None
    """Cuts once, after so many bytes of replies more; None: not."""
    cut: int = 0
    """How often it was."""
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        except OSError:
            writer.close()
            return
        left = [self.cuts.expovariate(1 / self.cut_bytes_mean) if self.cuts else 0.0]
        pumps = [
            asyncio.create_task(self._pump(reader, inner_writer, left)),
            asyncio.create_task(self._pump(inner_reader, writer, left, reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in pumps:
                each.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            raw: socket.socket = writer.get_extra_info("socket")
            if left[0] <= 0 and self.cut % 2:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for each_writer in (writer, inner_writer):
                each_writer.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: list[float], *, reply: bool = False
    ) -> None:
        while data := await source.read(PIECE_BYTES_MAX):
            if reply and self.delay_s:
                await asyncio.sleep(self.delay_s)
            if reply and self.reply_bytes_left is not None:
                self.reply_bytes_left -= len(data)
                if self.reply_bytes_left <= 0:
                    sink.write(data[: len(data) + self.reply_bytes_left])
                    self.reply_bytes_left = None
                    await sink.drain()
                    self.cut += 1
                    return
            if self.cuts is not None and left[0] <= len(data):
                # What has passed until here is in the middle of something.
                sink.write(data[: int(max(0, left[0]))])
                await sink.drain()
                left[0] = 0
                self.cut += 1
                return
            left[0] -= len(data)
            sink.write(data)
            await sink.drain()


@asynccontextmanager
async def wire(socket_path: str) -> AsyncIterator[Wire]:
    running = Wire()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(running.carry(reader, writer, socket_path))
        running._tasks.add(task)
        task.add_done_callback(running._tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    running.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield running
    finally:
        server.close()
        for task in list(running._tasks):
            task.cancel()
        await asyncio.gather(*running._tasks, return_exceptions=True)

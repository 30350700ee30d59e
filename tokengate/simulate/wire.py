"""One request and its answer on the wire, for the simulated provider: what ASGI offers, and what it does not.

It notices at once when the client leaves, and can break a connection in ways that a well-behaved server never would.
It knows nothing of what is said.
"""

import asyncio
import contextlib
import socket
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger request is refused with 413."""
HANG_S_MAX: Final = 600.0
"""A fault that hangs ends after this long if the client does not leave before."""
_GZIP_WINDOW: Final = 31


class ClientGone(Exception):
    """The client left before the answer was complete."""


class Broken(ClientGone):
    """The connection is gone because it was broken from here."""


class BodyTooLarge(Exception):
    """The request is larger than `BODY_BYTES_MAX`."""


class Exchange:
    """Sends one answer. Every method that sends or waits raises `ClientGone` once the client has left."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._gzip: Any = None
        self.last_write: float | None = None
        """`time.monotonic()` of the last bytes sent; None before the first."""
        self.started = False
        self.complete = False

    async def body(self) -> bytes:
        """The whole request body; from here on the client is watched.

        Raises:
            BodyTooLarge: it is.
            ClientGone: the client left while sending it.
        """
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > BODY_BYTES_MAX:
                raise BodyTooLarge
            parts.append(part)
            more = message.get("more_body", False)
        self._watcher = asyncio.create_task(self._watch())
        return b"".join(parts)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()

    async def close(self) -> None:
        """Stop watching the client."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    async def pause(self, seconds: float) -> None:
        """Wait, but not for a client that leaves; even a wait of nothing lets the loop see that it left."""
        if seconds <= 0:
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        self._check()

    async def hang(self) -> None:
        """Say nothing more until the client leaves; after `HANG_S_MAX`, break the connection."""
        await self.pause(HANG_S_MAX)
        await self.reset()

    async def start(self, status: int, headers: dict[str, str], *, gzip: bool = False) -> None:
        """Send the status and the headers; with `gzip` everything after is compressed, and says so."""
        if gzip:
            self._gzip = zlib.compressobj(wbits=_GZIP_WINDOW)
            headers = headers | {"content-encoding": "gzip"}
        self._check()
        self.started = True
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def write(self, data: bytes) -> None:
        """Send some of the body."""
        self._check()
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.last_write = time.monotonic()

    async def end(self, data: bytes = b"") -> None:
        """Send the last of the body."""
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush()
        self.complete = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.last_write = time.monotonic()

    async def respond(self, status: int, headers: dict[str, str], data: bytes) -> None:
        """Send a whole answer."""
        await self.start(status, headers | {"content-length": str(len(data))})
        await self.end(data)

    async def reset(self) -> None:
        """Break the connection with a TCP reset.

        ASGI has no word for it, so this reaches for the transport behind uvicorn's `send`.

        Raises:
            RuntimeError: another server is in use.
            Broken: always, if not.
        """
        transport = getattr(getattr(self._send, "__self__", None), "transport", None)
        if transport is None:
            raise RuntimeError("a reset can be simulated only under uvicorn")
        linger_none = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
        transport.abort()
        await self._gone.wait()
        raise Broken

    def _check(self) -> None:
        if self._gone.is_set():
            raise ClientGone

"""HTTP/1.1 on one connection: writes a request, and makes an answer of the bytes that come back.

Parsing is llhttp's (by httptools, which also serves the gate's own side), so an answer's framing is judged by the rules
of Node. A connection carries one exchange at a time; which one is the transport's affair. Nothing here is retried.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import httptools

from tokengate.upstream import ConnectFailed, Headers, UpstreamError, UpstreamLost, UpstreamTimeout

HEAD_BYTES_MAX: Final = 128 * 1024
"""The largest head of an answer, and the most that may come of it without being body; more counts as not HTTP."""

READ_AHEAD_BYTES_MAX: Final = 256 * 1024
"""How much of a body is taken in before its reader has asked for it; then the provider is made to wait."""

KEEPALIVE_S: Final = 60
"""After how much silence TCP asks whether the other side is still there."""

_BODYLESS: Final = frozenset({204, 304})

_CODINGS: Final = frozenset({b"chunked", b"identity"})

Ended = Callable[["Connection", bool], None]
"""Told once, when an exchange is over: the connection, and whether it can carry another one."""


def request_head(method: str, target: bytes, host: bytes, headers: Headers, body_bytes: int) -> bytes:
    """The head of a request.

    Raises:
        ConnectFailed: a part holds a character that would end it early; nothing is sent.
    """
    lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method.encode(), target, host)]
    lines += [b"%b: %b\r\n" % header for header in headers]
    if body_bytes or method not in {"GET", "HEAD", "DELETE", "OPTIONS"}:
        lines.append(b"content-length: %d\r\n" % body_bytes)
    lines.append(b"\r\n")
    head = b"".join(lines)
    # Two line ends belong to the request line and host, each line ends once, and the target holds no space.
    ends = len(lines) + 1
    if head.count(b"\n") != ends or head.count(b"\r") != ends or b"\0" in head or b" " in target:
        raise ConnectFailed("the request cannot be sent: a line break, a zero or a space where none may be")
    return head


class Connection(asyncio.Protocol):
    """One connection, made. Between exchanges any byte from the other side, or its end, makes it unusable."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.idle_since_s = 0.0
        self.uses = 0
        self._exchange: Exchange | None = None

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing()

    def start(self, head: bytes, body: bytes, *, bodyless: bool, timeout_s: float, ended: Ended) -> "Exchange":
        """Write a request. `bodyless`: the answer has no body whatever its head says (it answers a HEAD)."""
        transport = self.transport
        if transport is None or self._exchange is not None:
            raise RuntimeError("a connection carries one exchange at a time")
        self.uses += 1
        exchange = self._exchange = Exchange(self, bodyless=bodyless, timeout_s=timeout_s, ended=ended)
        if body:
            transport.writelines((head, body))
        else:
            transport.write(head)
        return exchange

    def finish(self) -> None:
        """The exchange is over; the connection may carry another."""
        self._exchange = None

    def abort(self) -> None:
        """Close without delay: what is not yet written is dropped."""
        self._exchange = None
        if self.transport is not None:
            self.transport.abort()

    def fail(self, error: UpstreamError) -> None:
        """End what is in flight with an error, and close."""
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(error)
        self.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            # A model may think for minutes in silence; what stands between must not forget the connection.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_KEEPIDLE"):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)

    def data_received(self, data: bytes) -> None:
        if self._exchange is None:
            self.abort()
        else:
            self._exchange.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.connection_lost(exc)


class Exchange:
    """One request, written, and its answer as it comes: a `tokengate.upstream.Response`."""

    def __init__(self, connection: Connection, *, bodyless: bool, timeout_s: float, ended: Ended) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = connection
        self._on_end = ended
        self._parser = httptools.HttpResponseParser(self)
        self._unused_bytes = 0
        self._head_read = False
        self._bodyless = bodyless
        self._framed = False
        self._complete = False
        self._reusable = False
        self._error: UpstreamError | None = None
        self._parts: list[bytes] = []
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._paused = False
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since_s = 0.0

    @property
    def ended(self) -> bool:
        return self._complete and not self._chunks and self._error is None

    async def head(self) -> None:
        """Wait for status and headers."""
        while not self._head_read:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes | None:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._complete:
                return None
            await self._wait()
        chunk = self._chunks.popleft()
        self._buffered_bytes -= len(chunk)
        if self._paused and self._buffered_bytes <= READ_AHEAD_BYTES_MAX // 2:
            self._paused = False
            if self._connection is not None and self._connection.transport is not None:
                self._connection.transport.resume_reading()
        return chunk

    async def aclose(self) -> None:
        self.stop("the answer was closed before its end")

    def stop(self, why: str) -> None:
        """Close the connection, unless the answer has come to its end."""
        if not self.ended:
            self._chunks.clear()
            self.fail(UpstreamLost(why))

    def fail(self, error: UpstreamError) -> None:
        if self._error is None:
            self._error = error
        self._end(reusable=False)

    async def _wait(self) -> None:
        """Wait for bytes, the end, or an error, but not longer than the timeout."""
        waiter = self._waiter = self._loop.create_future()
        self._waiting_since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_time)
        try:
            await waiter
        except asyncio.CancelledError:
            self.stop("the call was cancelled")
            raise
        finally:
            self._waiter = None

    def _check_time(self) -> None:
        """One timer serves all waits of an exchange: it is set anew only when it fires."""
        self._timer = None
        if self._waiter is None:
            return
        left_s = self._waiting_since_s + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_time)
        else:
            what = "no more of the answer" if self._head_read else "no answer"
            self.fail(UpstreamTimeout(f"{what} within {self._timeout_s:g} s"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, *, reusable: bool) -> None:
        """Give the connection back, once."""
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if connection is not None:
            if reusable:
                connection.finish()
            else:
                connection.abort()
            self._on_end(connection, reusable)
        self._wake()

    def feed(self, data: bytes) -> None:
        """Take bytes from the connection."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.fail(UpstreamLost("the provider changed the protocol unasked"))
            return
        except httptools.HttpParserError as error:
            if not self._complete:
                # What came before the fault was generated, and will be charged.
                self._keep_parts()
                self.fail(UpstreamLost(f"the answer is not HTTP: {error.__context__ or error}"))
                return
            self._reusable = False
        if not self._head_read:
            self._take_unused(len(data), "head")
            return
        if self._parts:
            self._unused_bytes = 0
            self._keep_parts()
        elif not self._complete:
            self._take_unused(len(data), "framing")
        if self._complete:
            self._end(reusable=self._reusable)
        elif self._buffered_bytes > READ_AHEAD_BYTES_MAX and not self._paused:
            self._pause()
        self._wake()

    def _keep_parts(self) -> None:
        """What came in one piece leaves in one piece."""
        if self._parts:
            chunk = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            self._chunks.append(chunk)
            self._buffered_bytes += len(chunk)

    def _take_unused(self, size: int, what: str) -> None:
        """Count what came and was no body: a head, a chunk's line or a trailer without end is not kept."""
        self._unused_bytes += size
        if self._unused_bytes > HEAD_BYTES_MAX:
            self.fail(UpstreamLost(f"the {what} of the answer has more than {HEAD_BYTES_MAX} bytes"))

    def _pause(self) -> None:
        if self._connection is not None and self._connection.transport is not None:
            self._paused = True
            self._connection.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None and self._head_read and not self._framed:
            self._complete = True
            self._end(reusable=False)
        else:
            where = "within" if self._head_read else "before"
            self.fail(UpstreamLost(f"the connection was lost {where} the answer: {exc or 'closed by the provider'}"))

    def on_message_begin(self) -> None:
        """Called by the parser. A second answer to one request is nobody's: the connection is not to be trusted."""
        self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, also for trailers, which are dropped."""
        if self._head_read:
            return
        name = name.lower()
        if name == b"content-length":
            self._framed = True
        elif name == b"transfer-encoding":
            if value.lower() not in _CODINGS:
                raise ValueError("a transfer coding that was not asked for")
            self._framed = value.lower() == b"chunked"
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser, also for interim answers (1xx), which are dropped."""
        if self._head_read:
            return
        status = self._parser.get_status_code()
        if not 100 <= status < 600:
            raise ValueError(f"the status {status}")
        if status < 200:
            self.headers = []
            self._framed = False
            return
        self.status = status
        self._head_read = True
        if status in _BODYLESS:
            self._framed = True
        if self._bodyless:
            self._complete = True

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        if not self._complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self._head_read and not self._complete:
            self._complete = True
            self._reusable = self._parser.should_keep_alive() and self._all_written()

    def _all_written(self) -> bool:
        transport = self._connection.transport if self._connection is not None else None
        return transport is not None and transport.get_write_buffer_size() == 0

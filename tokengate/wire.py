"""The callers' side of the wire: uvicorn's HTTP/1.1 on one connection, with the bounds and the news that a gate needs.

Its callers are not to be trusted, and uvicorn bounds neither the head of a request nor its trailers, nor the time that
a caller takes to send a head or to read an answer. It also tells nobody that a caller has left. Parsing is llhttp's (by
httptools), which refuses what two servers could read in two ways: both a length and chunks, two lengths, line folds.

Nothing here knows what a request means.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tokengate.inbound import CONNECTION, HEAD_BYTES

HEAD_BYTES_MAX: Final = 1024 * 1024
"""A head, or trailers, beyond this are not even kept until they can be refused: the connection is closed."""

HEAD_READ_TIMEOUT_S: Final = 30
"""How long a caller may take to send the head of a request; it is noticed before twice that time is over."""

WRITE_STALL_S: Final = 600
"""How long a caller may leave an answer unread before it counts as gone."""

LINGER_S: Final = 10
"""How long the rest of a request is still taken, and thrown away, after it was answered (refused) before its end."""

_NO_HEAD: Final = object()


class Protocol(HttpToolsProtocol):
    """One connection. A `tokengate.inbound.Connection` for whoever serves its requests."""

    on_lost: Callable[[], None] | None = None
    _head_open = True
    """A head is awaited or has begun; before the first request too, as a caller that connects has something to say."""
    _head_bytes = 0
    _unused_bytes = 0
    """What has come since the last thing that was of use: the end of a head, a piece of a body, the end of one."""
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a caller that says nothing is not kept."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_READ_TIMEOUT_S, self._check_head, None)

    def data_received(self, data: bytes) -> None:
        """Take what has come; what has no end is not kept."""
        self._unset_keepalive_if_required()
        self._unused_bytes += len(data)
        if self._unused_bytes > HEAD_BYTES_MAX:
            self.send_400_response("The head or the trailers of the request are too large.")
            return
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever serves the request that is under way."""
        super().connection_lost(exc)
        for timer in (self._head_timer, self._stall_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        """The caller reads more slowly than the provider writes: the provider waits, but not for ever."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(WRITE_STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller has read."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # --- what the parser finds ---

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._head_bytes = 0
        self._head_open = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. Trailers are none: what stands between may have looked at the head alone."""
        self._count(len(name) + len(value))
        if self._head_open:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._unused_bytes = 0
        if self.parser.should_upgrade():
            return
        self.scope["extensions"] = {CONNECTION: self, HEAD_BYTES: self._head_bytes}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._head_open = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._unused_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has ended."""
        self._unused_bytes = 0
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        if self.flow.read_paused and not self.pipeline:
            # Paused for a large body that nobody will ask for any more of: the caller's leaving would not be noticed.
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """An answer was sent. If its request has not ended, the caller may read it before the connection closes."""
        super().on_response_complete()
        cycle = self.cycle
        if cycle.more_body and cycle.response_complete:
            self._linger_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            # httptools wraps it in an error of its own, which is answered with 400.
            raise ValueError("the head of the request is too large")

    def _without_upgrade(self, rest: bytes) -> bytes:
        """What is to be read instead of a request for another protocol: itself without that wish.

        A server may ignore an `Upgrade` (RFC 9110, 7.8), but llhttp takes what follows the head for the new protocol,
        the body included. Java's own client asks for h2c with every first request.
        """
        method, headers = self.parser.get_method(), []
        if method == b"CONNECT":
            self.send_400_response("This gate is no proxy for CONNECT: use its /v1 as the base URL.")
            return b""
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
                headers.append(b"connection: " + b",".join(kept))
            elif name != b"upgrade":
                headers.append(name + b": " + value)
        line = b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join([line, *headers, b"", rest])

    # --- what does not come ---

    def _check_head(self, before: object) -> None:
        """Close if the head that was awaited the last time is awaited still. One timer for all of a connection."""
        # Line ends between requests are no head, and end the time that uvicorn gives an idle connection.
        waits = self._head_open or (self.cycle.response_complete and self.timeout_keep_alive_task is None)
        awaited = self.scope if waits else _NO_HEAD
        if awaited is before:
            self.transport.abort()
            return
        self._head_timer = self.loop.call_later(HEAD_READ_TIMEOUT_S, self._check_head, awaited)

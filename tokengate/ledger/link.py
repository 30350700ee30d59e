"""A pipelined connection to the server that keeps a tenant's keys.

redis-py opens the connection (URL, TLS, authentication, Sentinel, Cluster), or `dial` does; from there on replies are
parsed by hiredis, straight on the transport. All commands of one turn of the event loop leave in one write,
and replies are matched to them in order. This is the hot path: an awaited command costs about 5 us of CPU under load,
where redis-py's own pipeline costs 30 to 45 (docs/adr/0003). It never retries: a command whose connection is lost has
an unknown outcome, and its caller decides.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import hiredis

Reply = Any
"""What hiredis makes of RESP: bytes, int, None, a list of these, or a `hiredis.ReplyError`."""

PENDING_MAX: Final = 10_000
"""How many commands may wait for their replies; one more is refused at once."""


class LinkLost(ConnectionError):
    """The connection is gone or never came: what became of the command is unknown."""


class Opened(Protocol):
    """A connection that somebody else has opened and authenticated: redis-py's, or one of `dial`."""

    _writer: asyncio.StreamWriter | None
    """Its transport is taken over."""


class Waiter(Protocol):
    """What is told the reply to a command: a future, or somebody who needs no turn of the event loop for it."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, reply: Reply, /) -> None: ...

    def set_exception(self, error: BaseException, /) -> None: ...


class Pipe(Protocol):
    """What the ledger needs of a connection."""

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        """Send a command (as RESP); the future gives its reply, a `ReplyError` as a value, or raises `LinkLost`."""
        ...

    def tell(self, command: bytes, waiter: "Waiter") -> None:
        """Send a command whose reply goes to `waiter` as soon as it is read; it must not raise."""
        ...

    def drop(self, why: str) -> None:
        """Give the connection up; everything in flight fails, and the next command opens another one."""
        ...

    async def aclose(self) -> None:
        """Close for good."""
        ...


class Link:
    """One connection, made when first needed and again after it was lost. It lives in the event loop it is built in."""

    def __init__(self, connect: Callable[[], Awaitable[Opened]], timeout_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect = connect
        self._timeout_s = timeout_ms / 1000
        self._outbox: list[bytes] = []
        self._waiting: deque[Waiter] = deque()
        self._replies: _Replies | None = None
        self._opening: asyncio.Task[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._answered = 0

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.tell(command, future)
        return future

    def tell(self, command: bytes, waiter: Waiter) -> None:
        if len(self._waiting) >= PENDING_MAX:
            waiter.set_exception(LinkLost(f"{PENDING_MAX} commands are waiting for the store already"))
            return
        if not self._outbox and self._replies is not None:
            self._loop.call_soon(self._flush)
        self._outbox.append(command)
        self._waiting.append(waiter)
        if self._replies is None and self._opening is None:
            self._opening = self._loop.create_task(self._open())
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(self._timeout_s, self._watch, self._answered)

    def drop(self, why: str) -> None:
        replies, self._replies = self._replies, None
        if replies is not None:
            replies.abort()
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._outbox.clear()
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(LinkLost(why))

    async def aclose(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        self.drop("the link was closed")

    def _flush(self) -> None:
        if self._replies is not None and self._outbox:
            self._replies.transport.writelines(self._outbox)
            self._outbox = []

    async def _open(self) -> None:
        try:
            connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - whatever redis-py raises, the store was not reached
            self._opening = None
            self.drop(f"the store cannot be reached: {error}")
            return
        self._opening = None
        self._replies = _Replies(self, connection)
        self._flush()

    def _watch(self, answered: int) -> None:
        """One timer for all commands: nothing answered for a whole timeout while something waits is a dead server."""
        self._watchdog = None
        if not self._waiting:
            return
        if self._answered == answered:
            self.drop(f"the store did not answer within {self._timeout_s:g} s")
            return
        self._watchdog = self._loop.call_later(self._timeout_s, self._watch, self._answered)

    def answer(self, reply: Reply) -> None:
        """Called by the protocol for every reply, in the order of the commands."""
        self._answered += 1
        if not self._waiting:
            self.drop("the store sent a reply that nobody asked for")
            return
        waiter = self._waiting.popleft()
        if not waiter.done():
            waiter.set_result(reply)

    def lost(self, replies: "_Replies", error: Exception | None) -> None:
        """Called by the protocol when its connection ends."""
        if self._replies is replies:
            self.drop(f"the connection to the store was lost: {error or 'closed by the server'}")


class _Replies(asyncio.Protocol):
    """Takes over the transport of a connection that is open and authenticated."""

    def __init__(self, link: Link, connection: Opened) -> None:
        self._link = link
        self._reader = hiredis.Reader()
        # The one private name of redis-py that is relied upon; tests/ledger/test_link.py fails if it goes away. The
        # connection lets go of its writer, whose finaliser would close the transport: it lives as long as this does.
        self._writer, connection._writer = connection._writer, None  # noqa: SLF001
        self.transport = cast("asyncio.Transport", self._writer.transport)  # type: ignore[union-attr]
        self.transport.set_protocol(self)
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._link.answer(reply)
        except hiredis.ProtocolError as error:
            self._link.drop(f"the store does not speak RESP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.lost(self, exc)

    def abort(self) -> None:
        self.transport.abort()

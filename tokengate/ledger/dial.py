"""The shortest way to one server without TLS: for commands, whose user waits at a prompt.

redis-py knows every way to a Redis, and takes as long to be imported as most commands take for everything else. What
most URLs name needs none of it: a socket, `AUTH` and `SELECT`. Any other URL is left to `store`, which this never
imports; the commands of both are the ledger's own, over the same `Link`.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import hiredis

from tokengate.ledger.link import Opened, Reply
from tokengate.ledger.resp import command

CONNECT_TIMEOUT_S: Final = 5
"""How long all of it may take: connecting, and each answer of a greeting."""

T = TypeVar("T")

_PORT: Final = 6379
_READ_BYTES: Final = 4096


class Refused(ConnectionError):
    """The server answers, and does not let us in."""


class Place(Protocol):
    """Where a ledger is kept: see `Store`, which knows more of such places."""

    async def connect(self, key: str) -> Opened:
        """A new connection, authenticated and in RESP2, to the server that owns a key."""
        ...

    async def aclose(self) -> None: ...


class Dialled:
    """An open connection, as `Link` takes it over."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer: asyncio.StreamWriter | None = writer


class Dial:
    """One server, by a plain URL: `redis://[[user]:password@]host[:port][/db]` or `unix://[[user]:password@]/path`."""

    def __init__(self, parts: SplitResult) -> None:
        self._parts = parts
        self._unix = parts.scheme == "unix"
        self._greetings: list[bytes] = []
        if parts.password:
            names = [unquote(parts.username)] if parts.username else []
            self._greetings.append(command("AUTH", *names, unquote(parts.password)))
        if not self._unix and parts.path.strip("/"):
            self._greetings.append(command("SELECT", parts.path.strip("/")))

    async def connect(self, key: str) -> Dialled:  # noqa: ARG002 - it owns all keys
        """See `Place`.

        Raises:
            OSError: there is nobody, or (`Refused`) who is there does not let us in.
        """
        reader, writer = await _in_time(self._open())
        try:
            writer.writelines(self._greetings)
            await _in_time(_welcome(reader, len(self._greetings)))
        except BaseException:
            writer.transport.abort()
            raise
        return Dialled(writer)

    async def aclose(self) -> None:
        """Its connections are whose they were given to."""

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._unix:
            return await asyncio.open_unix_connection(unquote(self._parts.path))
        host = unquote(self._parts.hostname or "localhost")
        return await asyncio.open_connection(host, self._parts.port or _PORT)


def dial(url: str) -> Dial | None:
    """The way to a server, if its URL is a plain one: no TLS, no options, and nothing that is wrong with it."""
    try:
        parts = urlsplit(url)
        usable = parts.port != 0 and not parts.query and not parts.fragment
    except ValueError:
        return None
    database = parts.path.strip("/")
    # A name without a password is a case that redis-py settles.
    usable = usable and (bool(parts.password) or not parts.username)
    if parts.scheme == "unix":
        return Dial(parts) if usable and parts.path and not parts.hostname else None
    plain = parts.scheme == "redis" and (not database or (database.isascii() and database.isdigit()))
    return Dial(parts) if usable and plain else None


async def _in_time(work: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(work, CONNECT_TIMEOUT_S)
    except TimeoutError:
        raise Refused(f"no answer within {CONNECT_TIMEOUT_S} s") from None


async def _welcome(reader: asyncio.StreamReader, greetings: int) -> None:
    replies = hiredis.Reader()
    for _ in range(greetings):
        reply: Reply = False
        try:
            while (reply := replies.gets()) is False:
                received = await reader.read(_READ_BYTES)
                if not received:
                    raise Refused("the connection was closed by the server")
                replies.feed(received)
        except hiredis.ProtocolError as error:
            raise Refused(f"it does not speak Redis: {error}") from None
        if isinstance(reply, hiredis.ReplyError):
            raise Refused(str(reply))

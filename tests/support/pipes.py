"""Ways to a ledger's server: a real link, and fakeredis behind the same seam."""

import asyncio
from typing import Any

import hiredis
import redis.asyncio
from fakeredis import FakeAsyncRedis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from tokengate.ledger.link import Link, Waiter


class FakePipe:
    """fakeredis (with Lua) where a link would be."""

    def __init__(self) -> None:
        self.client = FakeAsyncRedis(version=(7, 0))

    def call(self, command: bytes) -> "asyncio.Future[Any]":
        reader = hiredis.Reader()
        reader.feed(command)
        return asyncio.ensure_future(self._call(reader.gets()))

    async def _call(self, command: list[bytes]) -> Any:
        try:
            reply = await self.client.execute_command(command[0].decode(), *command[1:])  # type: ignore[no-untyped-call]
        except NoScriptError as error:
            return hiredis.ReplyError(f"NOSCRIPT {error}")
        except ResponseError as error:
            return hiredis.ReplyError(str(error))
        if isinstance(reply, dict):
            return [part for pair in reply.items() for part in pair]
        return reply

    def tell(self, command: bytes, waiter: Waiter) -> None:
        self.call(command).add_done_callback(lambda done: waiter.set_result(done.result()))

    def drop(self, why: str) -> None: ...

    async def aclose(self) -> None:
        await self.client.aclose()


def link_to(socket: str, timeout_ms: int = 2000) -> Link:
    pool = redis.asyncio.ConnectionPool.from_url(f"unix://{socket}", protocol=2)

    async def connect() -> AbstractConnection:
        connection: AbstractConnection = pool.make_connection()
        await connection.connect()
        return connection

    return Link(connect, timeout_ms)

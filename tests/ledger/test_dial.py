"""The shortest way to a server: the same ledger behind it, and what is not plain is left to redis-py."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.redis_server import Server, redis_server
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.ledger.dial import Refused, dial
from tokengate.ledger.link import Link, LinkLost
from tokengate.ledger.resp import command

SECRET = "p@ss: w/rd"
QUOTED = "p%40ss%3A%20w%2Frd"


@asynccontextmanager
async def linked(url: str) -> AsyncIterator[Link]:
    place = dial(url)
    assert place is not None
    link = Link(lambda: place.connect("any"), timeout_ms=2000)
    yield link
    await link.aclose()
    await place.aclose()


async def ask(link: Link, *words: str | int) -> Any:
    return await link.call(command(*words))


@pytest.mark.parametrize(
    "url",
    [
        "rediss://h", "redis+cluster://h:1", "redis+sentinel://h:1/mine", "redis://h/0?socket_timeout=1", "redis://h/one",
        "redis://h:0", "redis://h:x", "redis://user@h", "redis://[h", "unix://", "unix:///r.sock?db=1", "unix://h/r.sock",
        "http://h", "",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_others(url: str) -> None:
    assert dial(url) is None


@contextmanager
def guarded(*options: str) -> Iterator[Server]:
    """A server that asks for a password, and knows one user."""
    with redis_server(*options) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "ann", "on", f">{SECRET}", "~*", "+@all")
            client.config_set("requirepass", SECRET)
        yield server


class TestAServer:
    async def test_by_its_port_with_user_password_and_database(self) -> None:
        port = free_port()
        with guarded("--port", str(port)):
            async with linked(f"redis://ann:{QUOTED}@127.0.0.1:{port}/3") as link:
                assert await ask(link, "ACL", "WHOAMI") == b"ann"
                assert b"db=3" in await ask(link, "CLIENT", "LIST")
            async with linked(f"redis://:{QUOTED}@127.0.0.1:{port}") as link:
                assert await ask(link, "ACL", "WHOAMI") == b"default"

    async def test_by_its_socket_with_a_password(self) -> None:
        with guarded() as server:
            async with linked(f"unix://:{QUOTED}@{server.socket}") as link:
                assert await ask(link, "PING") == b"PONG"

    async def test_that_refuses_is_told_of_in_its_words(self) -> None:
        with guarded() as server:
            async with linked(f"unix://:wrong@{server.socket}") as link:
                with pytest.raises(LinkLost, match="WRONGPASS"):
                    await ask(link, "PING")
            async with linked(f"unix://{server.socket}") as link:
                assert "NOAUTH" in str(await ask(link, "PING"))

    async def test_without_such_a_database_is_told_of(self) -> None:
        port = free_port()
        with redis_server("--port", str(port)):
            async with linked(f"redis://127.0.0.1:{port}/99") as link:
                with pytest.raises(LinkLost, match="out of range"):
                    await ask(link, "PING")

    async def test_that_is_away_is_told_of(self, tmp_path: Path) -> None:
        for url in (f"redis://127.0.0.1:{free_port()}", f"unix://{tmp_path}/nobody.sock"):
            async with linked(url) as link:
                with pytest.raises(LinkLost, match="cannot be reached"):
                    await ask(link, "PING")


class TestWhatIsNoServer:
    async def test_speaks_something_else(self) -> None:
        async def web(conversation: Conversation) -> None:
            await conversation.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await conversation.gone()

        async with raw_server(web) as server:
            place = dial(f"redis://:a@127.0.0.1:{server.port}")
            assert place is not None
            with pytest.raises(Refused, match="does not speak Redis"):
                await place.connect("any")

    async def test_hangs_up(self) -> None:
        async def rude(_: Conversation) -> None:
            """It is closed when this returns."""

        async with raw_server(rude) as server:
            place = dial(f"redis://:a@127.0.0.1:{server.port}")
            assert place is not None
            with pytest.raises(OSError, match=r"closed by the server|reset"):
                await place.connect("any")

    async def test_says_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def silent(_: Conversation) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr("tokengate.ledger.dial.CONNECT_TIMEOUT_S", 0.05)
        async with raw_server(silent) as server:
            place = dial(f"redis://:a@127.0.0.1:{server.port}")
            assert place is not None
            with pytest.raises(Refused, match="no answer within"):
                await place.connect("any")

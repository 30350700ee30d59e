"""The pipelined connection: replies in order, one write for a turn of the loop, and nothing left waiting when it ends."""

import asyncio
from typing import Any, cast

import pytest
import redis.asyncio

from tests.support.gate import until
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.ledger import link as link_module
from tokengate.ledger.link import Link, LinkLost
from tokengate.ledger.resp import command, parts


class Spy:
    """A transport that notes how it is written to."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.writes: list[int] = []
        self._transport = transport

    def writelines(self, pieces: list[bytes]) -> None:
        self.writes.append(len(pieces))
        self._transport.writelines(pieces)

    def abort(self) -> None:
        self._transport.abort()


async def ask(link: Link, *words: str | int) -> Any:
    return await link.call(command(*words))


async def test_replies_find_their_commands_and_a_turn_of_the_loop_is_one_write(server: Server) -> None:
    link = link_to(server.socket)
    assert await ask(link, "PING") == b"PONG"
    assert link._replies is not None
    spy = Spy(link._replies.transport)
    link._replies.transport = cast("asyncio.Transport", spy)
    replies = await asyncio.gather(*(ask(link, "ECHO", number) for number in range(500)))
    assert replies == [b"%d" % number for number in range(500)]
    assert spy.writes == [500]
    await link.aclose()


async def test_commands_wait_for_the_first_connection_and_leave_together(server: Server) -> None:
    link = link_to(server.socket)
    assert await asyncio.gather(*(ask(link, "ECHO", number) for number in range(3))) == [b"0", b"1", b"2"]
    with server.client() as client:
        assert client.info("clients")["connected_clients"] == 2
    await link.aclose()


async def test_an_error_is_a_reply_and_not_a_failure(server: Server) -> None:
    link = link_to(server.socket)
    wrong, right = await asyncio.gather(ask(link, "NO-SUCH-COMMAND"), ask(link, "ECHO", "a"))
    assert str(wrong).startswith("ERR unknown command")
    assert right == b"a"
    await link.aclose()


async def test_a_lost_connection_fails_all_that_wait_and_the_next_command_connects_anew(server: Server) -> None:
    link = link_to(server.socket)
    await ask(link, "CLIENT", "SETNAME", "victim")
    waiting = [asyncio.ensure_future(link.call(command("BLPOP", "nothing", 0))) for _ in range(5)]
    with server.client() as client:
        await until(lambda: any(each["cmd"] == "blpop" for each in client.client_list()))
        [victim] = [each for each in client.client_list() if each["name"] == "victim"]
        client.client_kill_filter(_id=victim["id"])
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [LinkLost] * 5
    assert "closed by the server" in str(ended[0])
    assert await ask(link, "PING") == b"PONG"
    await link.aclose()


async def test_a_server_that_says_nothing_for_a_whole_timeout_is_given_up(server: Server) -> None:
    link = link_to(server.socket, timeout_ms=1000)
    with pytest.raises(LinkLost, match=r"did not answer within 1 s"):
        await ask(link, "BLPOP", "nothing", 0)
    assert await ask(link, "PING") == b"PONG"
    await link.aclose()


async def test_a_server_that_is_not_there_is_said_to_be(server: Server) -> None:
    link = link_to(f"{server.socket}.not-there")
    with pytest.raises(LinkLost, match="cannot be reached"):
        await ask(link, "PING")
    pool = redis.asyncio.ConnectionPool.from_url(f"redis://127.0.0.1:{free_port()}", protocol=2)

    async def connect() -> Any:
        connection: Any = pool.make_connection()
        await connection.connect()
        return connection

    by_port = Link(connect, 2000)
    with pytest.raises(LinkLost, match="cannot be reached"):
        await ask(by_port, "PING")


async def test_what_may_wait_is_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PENDING_MAX", 3)
    link = link_to(server.socket)
    asked = [link.call(command("ECHO", number)) for number in range(4)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert ended[:3] == [b"0", b"1", b"2"]
    assert isinstance(ended[3], LinkLost)
    assert await ask(link, "PING") == b"PONG"
    await link.aclose()


async def test_closing_fails_what_waits_and_leaves_no_connection(server: Server) -> None:
    link = link_to(server.socket)
    await ask(link, "CLIENT", "SETNAME", "closing")
    waiting = link.call(command("BLPOP", "nothing", 0))
    await link.aclose()
    with pytest.raises(LinkLost, match="the link was closed"):
        await waiting
    with server.client() as client:
        await until(lambda: not [each for each in client.client_list() if each["name"] == "closing"])


async def test_a_reply_that_nobody_waits_for_any_more_is_dropped_and_the_next_ones_are_right(server: Server) -> None:
    link = link_to(server.socket)
    await ask(link, "PING")
    given_up, kept = link.call(command("ECHO", "a")), link.call(command("ECHO", "b"))
    given_up.cancel()
    assert await kept == b"b"
    await link.aclose()


async def test_what_does_not_speak_resp_is_given_up() -> None:
    async def speak(peer: Conversation) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.gone()

    async with raw_server(speak) as listening:

        async def connect() -> Any:
            connection: Any = redis.asyncio.ConnectionPool(protocol=2).make_connection()
            connection._reader, connection._writer = await asyncio.open_connection("127.0.0.1", listening.port)
            return connection

        link = Link(connect, 2000)
        with pytest.raises(LinkLost, match="does not speak RESP"):
            await ask(link, "PING")
        await listening.gone.wait()
        await link.aclose()


async def test_the_private_name_of_redis_py_that_is_relied_upon_is_there(server: Server) -> None:
    pool = redis.asyncio.ConnectionPool.from_url(server.url, protocol=2)
    connection: Any = pool.make_connection()
    await connection.connect()
    assert isinstance(connection._writer, asyncio.StreamWriter)
    assert connection._writer.transport.get_protocol() is not None
    await connection.disconnect()


def test_commands_are_packed_as_resp() -> None:
    assert (
        command("SET", b"\x00\xff", "é", 12) == b"*4\r\n$3\r\nSET\r\n$2\r\n\x00\xff\r\n$2\r\n\xc3\xa9\r\n$2\r\n12\r\n"
    )
    packed = parts("a", 1)
    assert (packed.count, packed.packed) == (2, b"$1\r\na\r\n$1\r\n1\r\n")

"""The way to the provider, against real sockets: what comes through, and what each failure means for the money."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import respx

from tests.support import certificates
from tests.support.certificates import Certificates
from tests.support.servers import Behaviour, Conversation, free_port, raw_server
from tests.support.transports import HttpxTransport
from tokengate.upstream import ConnectFailed, Headers, Response, Transport, UpstreamError, UpstreamLost, UpstreamTimeout
from tokengate.upstream.http1 import HEAD_BYTES_MAX, READ_AHEAD_BYTES_MAX
from tokengate.upstream.route import route
from tokengate.upstream.transport import HttpTransport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


@asynccontextmanager
async def transport(
    *,
    connect_timeout_s: float = 5,
    read_timeout_s: float = 60,
    connections_max: int = 8,
    ca_file: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[HttpTransport]:
    opened = HttpTransport(
        connect_timeout_s=connect_timeout_s,
        read_timeout_s=read_timeout_s,
        connections_max=connections_max,
        ca_file=None if ca_file is None else str(ca_file),
        environ={} if environ is None else environ,
    )
    try:
        yield opened
    finally:
        await opened.aclose()


async def post(way: Transport, url: str, body: bytes = b"{}") -> Response:
    return await way.send("POST", url, [(b"content-type", b"application/json")], body)


async def drain(response: Response) -> list[bytes]:
    chunks = []
    while (chunk := await response.read()) is not None:
        chunks.append(chunk)
    return chunks


async def answer_once(peer: Conversation) -> None:
    await peer.request()
    await peer.say(OK)


async def stream_and_wait(peer: Conversation) -> None:
    await peer.request()
    await peer.say(STREAM)
    await peer.gone()


class TestWhatComesThrough:
    async def test_a_request_arrives_as_it_was_given(self) -> None:
        async with raw_server(answer_once) as server, transport() as way:
            headers = [(b"content-type", b"a/b"), (b"X-Two", b"1"), (b"x-two", b"2"), (b"x-odd", b"caf\xe9")]
            response = await way.send("POST", f"{server.url}/v1/a%2Fb?x=1&y=%20z", headers, b'{"n": 1}')
            assert (response.status, await drain(response)) == (200, [b"ok"])
        [(head, body)] = server.requests
        assert body == b'{"n": 1}'
        assert head.split(b"\r\n") == [
            b"POST /v1/a%2Fb?x=1&y=%20z HTTP/1.1",
            b"host: 127.0.0.1:%d" % server.port,
            b"content-type: a/b",
            b"X-Two: 1",
            b"x-two: 2",
            b"x-odd: caf\xe9",
            b"content-length: 8",
            b"",
            b"",
        ]

    async def test_a_request_without_a_body_announces_none(self) -> None:
        async with raw_server(answer_once) as server, transport() as way:
            await drain(await way.send("GET", server.url + "/v1/models", [], b""))
        [(head, _)] = server.requests
        assert b"content-length" not in head.lower()
        assert b"transfer-encoding" not in head.lower()

    async def test_headers_come_lower_case_and_repeated_ones_stay_apart(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\nX-Request-ID: 7\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\n")
            await peer.say(b"content-length: 0\r\n\r\n")

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert await response.read() is None
        assert response.headers == [
            (b"x-request-id", b"7"),
            (b"set-cookie", b"a=1"),
            (b"set-cookie", b"b=2"),
            (b"content-length", b"0"),
        ]

    async def test_a_header_that_is_not_ascii_comes_through(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\nx-odd: caf\xe9\r\nx-ok: 1\r\ncontent-length: 2\r\n\r\nok")

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert response.headers == [(b"x-odd", b"caf\xe9"), (b"x-ok", b"1"), (b"content-length", b"2")]
            assert await drain(response) == [b"ok"]

    async def test_chunks_come_one_by_one_before_the_answer_has_ended(self) -> None:
        go_on = asyncio.Event()

        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(STREAM)
            await go_on.wait()
            await peer.say(b"5\r\nworld\r\n0\r\n\r\n")

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert await response.read() == b"hello"
            go_on.set()
            assert await response.read() == b"world"
            assert await response.read() is None
            assert response.ended
            assert await response.read() is None

    async def test_an_answer_read_whole_is_known_to_have_ended(self) -> None:
        async with raw_server(answer_once) as server, transport() as way:
            response = await post(way, server.url)
            assert not response.ended
            assert (await response.read(), response.ended) == (b"ok", True)

    async def test_an_answer_without_a_length_ends_with_the_connection(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\n\r\nhello")

        async with raw_server(behave) as server, transport() as way:
            assert b"".join(await drain(await post(way, server.url))) == b"hello"

    async def test_interim_answers_and_trailers_are_dropped(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
            await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n")

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert (response.status, await drain(response)) == (200, [b"ok"])
            assert response.headers == [(b"transfer-encoding", b"chunked")]

    @pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
    async def test_an_answer_that_has_no_body_ends_at_once(self, status: bytes) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 " + status + b"\r\n\r\n")
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            assert await (await post(way, server.url)).read() is None

    async def test_the_answer_to_a_head_has_no_body_whatever_it_says(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n")
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            assert await (await way.send("HEAD", server.url, [], b"")).read() is None

    async def test_a_reader_that_lags_makes_the_provider_wait(self) -> None:
        block, blocks = b"x" * 65_536, 400
        said = 0

        async def behave(peer: Conversation) -> None:
            nonlocal said
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(block) * blocks))
            for _ in range(blocks):
                await peer.say(block)
                said += 1

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            last = -1
            while last != said:
                last = said
                await asyncio.sleep(0.05)
            # What is under way is what the kernel and the read-ahead hold, far less than the 26 MB of the answer.
            assert said < blocks
            assert sum(map(len, await drain(response))) == len(block) * blocks > READ_AHEAD_BYTES_MAX

    @pytest.mark.parametrize("coding", [b"gzip", b"br", b"zstd", b"deflate"])
    async def test_an_encoded_body_is_not_decoded(self, coding: bytes) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(
                b"HTTP/1.1 200 OK\r\ncontent-encoding: " + coding + b"\r\ncontent-length: 4\r\n\r\n\x1f\x8b\0\0"
            )

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert (b"content-encoding", coding) in response.headers
            assert await drain(response) == [b"\x1f\x8b\0\0"]

    async def test_a_redirect_is_passed_on_and_not_followed(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 307 Away\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert (response.status, await response.read()) == (307, None)
        assert len(server.requests) == 1

    async def test_a_connection_is_used_again(self) -> None:
        async def behave(peer: Conversation) -> None:
            for _ in range(3):
                await peer.request()
                await peer.say(OK)

        async with raw_server(behave) as server, transport() as way:
            for _ in range(3):
                await drain(await post(way, server.url))
        assert (server.connections, len(server.requests)) == (1, 3)

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
            OK + b"garbage",
        ],
    )
    async def test_a_connection_that_is_not_to_be_trusted_is_not_used_again(self, answer: bytes) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(answer)
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            for _ in range(2):
                assert await drain(await post(way, server.url)) == [b"ok"]
        assert server.connections == 2

    async def test_a_connection_that_speaks_unasked_is_not_used_again(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(OK)
            await asyncio.sleep(0.02)
            await peer.say(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            await drain(await post(way, server.url))
            await server.gone.wait()
            assert await drain(await post(way, server.url)) == [b"ok"]

    async def test_a_connection_closed_while_idle_is_replaced(self) -> None:
        async with raw_server(answer_once) as server, transport() as way:
            for _ in range(5):
                assert await drain(await post(way, server.url)) == [b"ok"]
                await asyncio.sleep(0.01)
        assert len(server.requests) == 5

    async def test_an_early_refusal_of_a_large_body_is_passed_on(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
            await peer.request()

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url, b"x" * 500_000)
            assert (response.status, await drain(response)) == (413, [b"no"])


async def close_at_once(_: Conversation) -> None: ...


async def reset_at_once(peer: Conversation) -> None:
    peer.reset()


async def close_after_request(peer: Conversation) -> None:
    await peer.request()


async def reset_after_request(peer: Conversation) -> None:
    await peer.request()
    peer.reset()


async def half_a_head(peer: Conversation) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nConte")


async def not_http(peer: Conversation) -> None:
    await peer.request()
    await peer.say(b"220 mail.example ESMTP\r\n\r\n")


async def endless_head(peer: Conversation) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\nx: " + b"a" * (2 * HEAD_BYTES_MAX) + b"\r\n\r\n")


async def switched(peer: Conversation) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")


async def truncated_chunks(peer: Conversation) -> None:
    await peer.request()
    await peer.say(STREAM)


async def truncated_length(peer: Conversation) -> None:
    await peer.request()
    await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello")


async def garbled_chunk(peer: Conversation) -> None:
    await peer.request()
    await peer.say(STREAM + b"ZZ\r\nhello\r\n")


class TestWhatAFailureMeans:
    """Only what certainly never left is `ConnectFailed`: it is what costs nothing."""

    async def test_refused(self) -> None:
        async with transport() as way:
            with pytest.raises(ConnectFailed, match="refused"):
                await post(way, f"http://127.0.0.1:{free_port()}")

    async def test_unknown_name(self) -> None:
        async with transport() as way:
            with pytest.raises(ConnectFailed):
                await post(way, "http://no-such-host.invalid")

    async def test_no_answer_to_the_handshake_of_tcp(self) -> None:
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen(0)
            url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
            async with transport(connect_timeout_s=0.2) as way:
                with pytest.raises(ConnectFailed):
                    await post(way, url)
            for filler in fillers:
                filler.close()

    async def test_tls_to_a_port_that_speaks_plain_http(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.say(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

        async with raw_server(behave) as server, transport() as way:
            with pytest.raises(ConnectFailed):
                await post(way, f"https://127.0.0.1:{server.port}")

    async def test_a_peer_that_never_answers_the_handshake_of_tls(self) -> None:
        async with raw_server(Conversation.gone) as server, transport(connect_timeout_s=0.2) as way:
            with pytest.raises(ConnectFailed):
                await post(way, f"https://127.0.0.1:{server.port}")

    async def test_no_free_connection(self) -> None:
        async with raw_server(stream_and_wait) as server, transport(connections_max=1, connect_timeout_s=0.1) as way:
            first = await post(way, server.url)
            with pytest.raises(ConnectFailed, match="no free connection"):
                await post(way, server.url)
            await first.aclose()
            second = await post(way, server.url)
            await second.aclose()
        assert len(server.requests) == 2

    @pytest.mark.parametrize(
        ("url", "headers"),
        [
            ("ftp://127.0.0.1/", []),
            ("http://[/", []),
            ("http://user@127.0.0.1/", []),
            ("http:///", []),
            ("http://127.0.0.1:99999/", []),
            ("http://127.0.0.1:9/a b", []),
            ("http://127.0.0.1:9/caf\xe9", []),
            ("http://127.0.0.1:9/ HTTP/1.1\r\nx: y", []),
            ("http://127.0.0.1:9/", [(b"x", b"a\r\nb: c")]),
            ("http://127.0.0.1:9/", [(b"x", b"a\nb: c")]),
            ("http://127.0.0.1:9/", [(b"x\r\ny", b"1")]),
            ("http://127.0.0.1:9/", [(b"x", b"a\0b")]),
        ],
    )
    async def test_what_cannot_be_sent(self, url: str, headers: Headers) -> None:
        async with transport() as way:
            with pytest.raises(ConnectFailed, match="cannot be sent"):
                await way.send("POST", url, headers, b"{}")

    @pytest.mark.parametrize(
        "behaviour",
        [close_after_request, reset_after_request, half_a_head, not_http, endless_head, switched],
    )
    async def test_lost_before_the_answer(self, behaviour: Behaviour) -> None:
        async with raw_server(behaviour) as server, transport() as way:
            with pytest.raises(UpstreamLost):
                await post(way, server.url)
        assert len(server.requests) == 1, "a request that was sent is never sent again"

    @pytest.mark.parametrize("behaviour", [close_at_once, reset_at_once])
    async def test_a_peer_that_hangs_up_at_once_may_have_read_the_request(self, behaviour: Behaviour) -> None:
        async with raw_server(behaviour) as server, transport() as way:
            with pytest.raises(UpstreamLost):
                await post(way, server.url)

    async def test_no_answer_in_time(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.gone()

        async with raw_server(behave) as server, transport(read_timeout_s=0.2) as way:
            with pytest.raises(UpstreamTimeout):
                await post(way, server.url)
            await server.gone.wait()
        assert len(server.requests) == 1

    @pytest.mark.parametrize("behaviour", [truncated_chunks, truncated_length, garbled_chunk])
    async def test_lost_within_the_answer(self, behaviour: Behaviour) -> None:
        async with raw_server(behaviour) as server, transport() as way:
            response = await post(way, server.url)
            with pytest.raises(UpstreamLost):
                await drain(response)
            await response.aclose()

    async def test_reset_within_the_answer(self) -> None:
        read = asyncio.Event()

        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(STREAM)
            await read.wait()
            peer.reset()

        async with raw_server(behave) as server, transport() as way:
            response = await post(way, server.url)
            assert await response.read() == b"hello"
            read.set()
            with pytest.raises(UpstreamLost):
                await response.read()

    async def test_the_answer_stalls(self) -> None:
        async with raw_server(stream_and_wait) as server, transport(read_timeout_s=0.2) as way:
            response = await post(way, server.url)
            assert await response.read() == b"hello"
            with pytest.raises(UpstreamTimeout):
                await response.read()
            await server.gone.wait()

    async def test_a_kept_connection_that_dies_under_a_request_is_not_tried_again(self) -> None:
        async def behave(peer: Conversation) -> None:
            await peer.request()
            await peer.say(OK)
            await peer.request()

        async with raw_server(behave) as server, transport() as way:
            await drain(await post(way, server.url))
            with pytest.raises(UpstreamLost):
                await post(way, server.url)
            assert len(server.requests) == 2
            await drain(await post(way, server.url))

    async def test_the_message_names_no_url(self) -> None:
        port = free_port()
        async with transport() as way:
            with pytest.raises(UpstreamError) as caught:
                await post(way, f"http://127.0.0.1:{port}/v1?key=secret")
        assert "secret" not in str(caught.value)

    async def test_after_closing_nothing_is_sent(self) -> None:
        async with raw_server(answer_once) as server, transport() as way:
            await way.aclose()
            with pytest.raises(ConnectFailed):
                await post(way, server.url)

    async def test_closing_ends_what_is_in_flight(self) -> None:
        arrived = asyncio.Event()

        async def behave(peer: Conversation) -> None:
            await peer.request()
            arrived.set()
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            sending = asyncio.create_task(post(way, server.url))
            await arrived.wait()
            await way.aclose()
            with pytest.raises(UpstreamLost):
                await sending


class TestStopping:
    """The provider sees the connection close; otherwise it generates, and bills, what nobody reads."""

    async def test_closing_between_reads(self) -> None:
        async with raw_server(stream_and_wait) as server, transport() as way:
            response = await post(way, server.url)
            await response.read()
            await response.aclose()
            await response.aclose()
            await server.gone.wait()
            with pytest.raises(UpstreamLost):
                await response.read()

    async def test_closing_before_the_first_read(self) -> None:
        async with raw_server(stream_and_wait) as server, transport() as way:
            await (await post(way, server.url)).aclose()
            await server.gone.wait()

    async def test_cancelling_a_send(self) -> None:
        arrived = asyncio.Event()

        async def behave(peer: Conversation) -> None:
            await peer.request()
            arrived.set()
            await peer.gone()

        async with raw_server(behave) as server, transport() as way:
            sending = asyncio.create_task(post(way, server.url))
            await arrived.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await server.gone.wait()

    async def test_cancelling_a_read(self) -> None:
        async with raw_server(stream_and_wait) as server, transport() as way:
            response = await post(way, server.url)
            await response.read()
            reading = asyncio.create_task(response.read())
            await asyncio.sleep(0.05)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await server.gone.wait()

    async def test_closing_while_another_task_reads(self) -> None:
        async with raw_server(stream_and_wait) as server, transport() as way:
            response = await post(way, server.url)
            await response.read()

            async def read() -> int:
                with pytest.raises(UpstreamLost):
                    await response.read()
                task = asyncio.current_task()
                assert task is not None
                await asyncio.sleep(0)
                return task.cancelling()

            reading = asyncio.create_task(read())
            await asyncio.sleep(0.05)
            await response.aclose()
            assert await reading == 0, "the reading task itself is not cancelled"
            await server.gone.wait()

    async def test_a_cancellation_that_meets_the_answer_is_not_lost(self) -> None:
        async def behave(peer: Conversation) -> None:
            while True:
                await peer.request()
                await peer.say(OK)

        async def forever(way: HttpTransport, url: str) -> None:
            while True:
                await drain(await post(way, url))

        async with raw_server(behave) as server, transport(connections_max=2) as way:
            for tick in range(100):
                calling = asyncio.create_task(forever(way, server.url))
                for _ in range(tick % 25):
                    await asyncio.sleep(0)
                calling.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await calling
            # Not one of the two slots has been lost on the way.
            for response in await asyncio.gather(post(way, server.url), post(way, server.url)):
                assert await drain(response) == [b"ok"]

    async def test_cancelling_while_connecting(self) -> None:
        async with raw_server(Conversation.gone) as server, transport(connections_max=1) as way:
            sending = asyncio.create_task(post(way, f"https://127.0.0.1:{server.port}"))
            await server.met.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            with pytest.raises(ConnectFailed, match="refused"):
                await post(way, f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def context(made: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    return context


class TestTls:
    async def test_an_unknown_authority_is_refused(self, context: ssl.SSLContext) -> None:
        async with raw_server(answer_once, context) as server, transport() as way:
            with pytest.raises(ConnectFailed, match="certificate verify failed"):
                await post(way, server.url)
        assert server.requests == []

    async def test_an_authority_that_was_added_is_trusted(self, made: Certificates, context: ssl.SSLContext) -> None:
        async with raw_server(answer_once, context) as server, transport(ca_file=made.authority) as way:
            assert await drain(await post(way, server.url)) == [b"ok"]

    async def test_ssl_cert_file_is_honoured(
        self, made: Certificates, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.authority))
        async with raw_server(answer_once, context) as server, transport() as way:
            assert await drain(await post(way, server.url)) == [b"ok"]

    async def test_closing_an_answer_closes_the_connection(self, made: Certificates, context: ssl.SSLContext) -> None:
        async with raw_server(stream_and_wait, context) as server, transport(ca_file=made.authority) as way:
            response = await post(way, server.url)
            assert await response.read() == b"hello"
            await response.aclose()
            await server.gone.wait()

    @pytest.mark.parametrize("junk", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    async def test_a_file_without_a_certificate_is_refused(self, junk: bytes, tmp_path: Path) -> None:
        file = tmp_path / "ca.pem"
        file.write_bytes(junk)
        with pytest.raises(ValueError, match=r"ca\.pem"):
            async with transport(ca_file=file):
                pass

    async def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"none\.pem"):
            async with transport(ca_file=tmp_path / "none.pem"):
                pass


class TestProxyOfTheEnvironment:
    async def test_a_plain_request_goes_to_the_proxy_with_its_whole_url(self) -> None:
        async with raw_server(answer_once) as proxy:
            environ = {"HTTP_PROXY": f"http://user:p%40ss@127.0.0.1:{proxy.port}"}
            async with transport(environ=environ) as way:
                assert await drain(await post(way, "http://provider.example/v1?x=1")) == [b"ok"]
        [(head, body)] = proxy.requests
        assert head.startswith(b"POST http://provider.example/v1?x=1 HTTP/1.1\r\nhost: provider.example\r\n")
        assert b"proxy-authorization: Basic dXNlcjpwQHNz\r\n" in head
        assert body == b"{}"

    async def test_tls_is_with_the_origin_and_the_proxy_only_passes_bytes_on(
        self, made: Certificates, context: ssl.SSLContext
    ) -> None:
        async with raw_server(answer_once, context) as origin:

            async def tunnel(peer: Conversation) -> None:
                await peer.request()
                await peer.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await peer.splice(origin.port)

            async with raw_server(tunnel) as proxy:
                environ = {"https_proxy": f"http://127.0.0.1:{proxy.port}"}
                async with transport(environ=environ, ca_file=made.authority) as way:
                    assert await drain(await post(way, "https://provider.example/v1")) == [b"ok"]
                    with pytest.raises(ConnectFailed, match="certificate verify failed"):
                        await post(way, "https://other.example/v1")
        assert proxy.requests[0][0].startswith(b"CONNECT provider.example:443 HTTP/1.1\r\n")
        assert origin.requests[0][0].startswith(b"POST /v1 HTTP/1.1\r\n")

    async def test_it_is_found_without_being_handed_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with raw_server(answer_once) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            way = HttpTransport(connect_timeout_s=5, read_timeout_s=60, connections_max=1)
            assert await drain(await post(way, "http://provider.example/")) == [b"ok"]
            await way.aclose()
        assert len(proxy.requests) == 1

    async def test_a_proxy_that_refuses(self) -> None:
        async def refuse(peer: Conversation) -> None:
            await peer.request()
            await peer.say(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")

        async with raw_server(refuse) as proxy, transport(environ={"ALL_PROXY": proxy.url}) as way:
            with pytest.raises(ConnectFailed, match="407"):
                await post(way, "https://provider.example/")

    async def test_a_proxy_that_hangs_up(self) -> None:
        async with raw_server(close_after_request) as proxy, transport(environ={"ALL_PROXY": proxy.url}) as way:
            with pytest.raises(ConnectFailed, match="hung up"):
                await post(way, "https://provider.example/")

    @pytest.mark.parametrize(
        ("origin", "environ", "through"),
        [
            ("http://a.example", {}, False),
            ("http://a.example", {"HTTP_PROXY": "p.example:3128"}, True),
            ("http://a.example", {"HTTPS_PROXY": "http://p.example:3128"}, False),
            ("https://a.example", {"HTTP_PROXY": "http://p.example:3128"}, False),
            ("https://a.example", {"all_proxy": "http://p.example:3128"}, True),
            ("http://localhost", {"ALL_PROXY": "http://p.example:3128"}, False),
            ("http://127.0.0.9:80", {"ALL_PROXY": "http://p.example:3128"}, False),
            ("http://[::1]:80", {"ALL_PROXY": "http://p.example:3128"}, False),
            ("http://a.example", {"ALL_PROXY": "http://p.example:3128", "NO_PROXY": "b.example, a.example"}, False),
            ("http://x.a.example", {"ALL_PROXY": "http://p.example:3128", "NO_PROXY": ".a.example"}, False),
            ("http://x.a.example", {"ALL_PROXY": "http://p.example:3128", "NO_PROXY": "*.a.example"}, False),
            ("http://xa.example", {"ALL_PROXY": "http://p.example:3128", "NO_PROXY": "a.example"}, True),
            ("http://a.example", {"ALL_PROXY": "http://p.example:3128", "no_proxy": "*"}, False),
            ("http://a.example", {"ALL_PROXY": "http://p.example:3128", "no_proxy": "a.example:81"}, True),
            ("http://a.example:81", {"ALL_PROXY": "http://p.example:3128", "no_proxy": "a.example:81"}, False),
            ("http://10.1.2.3", {"ALL_PROXY": "http://p.example:3128", "no_proxy": "10.0.0.0/8"}, False),
            ("http://11.1.2.3", {"ALL_PROXY": "http://p.example:3128", "no_proxy": "10.0.0.0/8"}, True),
        ],
    )
    def test_which_origins_go_through_it(self, origin: str, environ: dict[str, str], through: bool) -> None:
        assert (route(origin, environ).proxy is not None) == through

    @pytest.mark.parametrize("proxy", ["socks5://p.example:1080", "http://[", "https://p.example"])
    def test_a_proxy_that_is_not_spoken_is_named(self, proxy: str) -> None:
        with pytest.raises(ConnectFailed, match="proxy of the environment"):
            route("http://a.example", {"ALL_PROXY": proxy})


class TestTheAdapterForTests:
    """respx and MockTransport stand where reqwest stands, and fail by the same words."""

    async def test_a_respx_router_answers(self) -> None:
        router = respx.MockRouter(assert_all_called=True)
        router.post("https://api.example/v1/x").respond(201, json={"a": 1}, headers={"X-Id": "7"})
        way = HttpxTransport(httpx.MockTransport(router.async_handler))
        response = await post(way, "https://api.example/v1/x")
        assert response.status == 201
        assert (b"x-id", b"7") in list(response.headers)
        assert b"".join(await drain(response)) == b'{"a":1}'
        await way.aclose()

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            (httpx.ConnectError, ConnectFailed),
            (httpx.ConnectTimeout, ConnectFailed),
            (httpx.ReadTimeout, UpstreamTimeout),
            (httpx.ReadError, UpstreamLost),
            (httpx.RemoteProtocolError, UpstreamLost),
        ],
    )
    async def test_errors_are_translated(self, theirs: type[Exception], ours: type[UpstreamError]) -> None:
        def fail(request: httpx.Request) -> httpx.Response:
            raise theirs("no")

        with pytest.raises(ours):
            await post(HttpxTransport(httpx.MockTransport(fail)), "https://api.example/")

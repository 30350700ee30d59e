"""What a client may do wrong, or do to harm: at every point it is told in words, nothing is lost, and no hold stays.

Raw sockets, because no client library would send this. Elsewhere: clients that leave a stream, `test_faults_streams`;
slow readers, `test_large_answers`; ways around the gate, `test_faults` (9); names of sessions, `test_faults_failure`
(32); bodies that are no JSON, `providers/test_openai_bodies`, and what they may not say, `test_openai_requests`.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tests.support.gate import gate, until
from tests.support.hashes import booked, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, Scene, chat, fixed, raw, scene
from tokengate import inbound, wire
from tokengate.ledger import keys
from tokengate.simulate import SimulateOptions
from tokengate.wire import HEAD_BYTES_MAX

BODY = chat(max_tokens=10)


def request(
    body: bytes = BODY,
    *headers: str,
    method: str = "POST",
    target: str = CHAT,
    length: int | None = None,
    close: bool = True,
) -> bytes:
    """A request as it stands; `length`: in place of the body's own, none if negative."""
    given = len(body) if length is None else length
    lines = [f"{method} {target} HTTP/1.1", "host: gate", *headers]
    lines += ["connection: close"] * close + [f"content-length: {given}"] * (given >= 0)
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*parts: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n"


def statuses(answers: bytes) -> list[int]:
    """Of all answers on a connection."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def error(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    return found


@dataclass
class Dialled:
    """A connection of a client that is no library."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def hang_up(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def dialled(at: Scene) -> AsyncIterator[Dialled]:
    host, _, port = at.gate.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Dialled(reader, writer)
    finally:
        writer.close()


# --- clients that leave ---


@pytest.mark.parametrize(
    ("sent", "begun"), [(b"", 0), (b"POST", 0), (request()[:40], 0), (request(b"", length=9), 1), (request()[:-10], 1)]
)
async def test_who_leaves_before_its_request_has_ended_costs_nothing(
    store: Server, redis_cli: "redis.Redis", sent: bytes, begun: int
) -> None:
    async with scene(store.url) as at:
        async with dialled(at) as line:
            line.writer.write(sent)
            await line.writer.drain()
            if begun:
                await until(lambda: at.gate.app.proxy._in_flight == 1)
        await at.gate.idle()
        assert (await at.ask()).status_code == 200
        entries = await at.gate.log()
        assert at.provider.received == 1
    assert [entry["status"] for entry in entries] == [499] * begun + [200]
    assert held_nano(redis_cli) == 0


@pytest.mark.parametrize("size", [10, 100_000, 200_000])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_who_leaves_before_the_answer_stops_the_provider_and_pays_for_what_nobody_knows(
    store: Server, redis_cli: "redis.Redis", stream: bool, size: int
) -> None:
    body = chat("x " * (size // 2), max_tokens=10, stream=stream)
    async with scene(store.url) as at, dialled(at) as line:
        # In two pieces, of which the second is large: reading is paused when the body has ended.
        head, rest = body[:5], body[5:]
        line.writer.write(request(head, "x-simulate-fault: hang_before_headers", length=len(body)))
        await until(lambda: at.gate.app.proxy._in_flight == 1)
        line.writer.write(rest)
        await until(lambda: at.provider.received == 1)
        line.hang_up()
        await until(lambda: at.provider.disconnects == 1)
        [entry] = await at.gate.log()
    assert (entry["status"], entry["ending"], entry["assumed"]) == (499, "unknown", True)
    assert entry["actual_cost"] == entry["held"]
    assert spent_nano(redis_cli) > 10 * 600
    assert held_nano(redis_cli) == 0


async def test_who_leaves_before_its_request_could_be_sent_to_the_provider_costs_nothing(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    with socket.socket() as deaf:
        # Its queue of connections is full: the handshake of the next one is not answered.
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        async with gate(f"http://127.0.0.1:{deaf.getsockname()[1]}/v1", store.url) as running:
            host, port = running.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(request())
            await until(lambda: redis_cli.zcard(keys.leases("default")) == 1)
            writer.transport.abort()
            [entry] = await running.log()
        for filler in fillers:
            filler.close()
    assert (entry["status"], entry["ending"], entry["assumed"]) == (499, "rejected", False)
    assert entry["actual_cost"] == 0
    assert (spent_nano(redis_cli), held_nano(redis_cli)) == (0, 0)


async def test_who_leaves_while_it_waits_for_a_budget_costs_nothing_and_holds_up_nobody(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url, default_budget=call.budget(1)) as at:
        first = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        lines = at.gate.app.proxy.gate._lines
        async with dialled(at) as line:
            line.writer.write(request(call.body))
            await until(lambda: lines._waiters == 1)
            line.hang_up()
            await until(lambda: lines._waiters == 0)
        first.cancel()
        entries = await at.gate.log()
        assert at.provider.received == 1
    assert sorted((entry["status"], entry["actual_cost"]) for entry in entries if entry["held"] is None) == [
        (499, None)
    ]
    assert spent_nano(redis_cli) == call.cost_nano
    assert held_nano(redis_cli) == 0


async def test_who_leaves_an_endpoint_that_costs_nothing_stops_the_provider(store: Server) -> None:
    async with scene(store.url, SimulateOptions(ttft_ms=60_000)) as at, dialled(at) as line:
        held = asyncio.Event()

        async def hangs(*_: object) -> None:
            held.set()
            await asyncio.Event().wait()

        at.gate.app.proxy.destinations.of("openai").transport.send = hangs  # type: ignore[method-assign, assignment]
        line.writer.write(request(b"", method="GET", target="/v1/models"))
        await held.wait()
        line.hang_up()
        [entry] = await at.gate.log()
    assert (entry["status"], entry["endpoint"]) == (499, "models")


# --- clients that are slow ---


async def test_a_body_that_does_not_come_is_refused_and_its_connection_closed(
    store: Server, redis_cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbound, "BODY_READ_TIMEOUT_S", 0.05)
    monkeypatch.setattr(wire, "LINGER_S", 0.05)
    async with scene(store.url) as at:
        answer = await raw(at.gate.url, request(BODY[:-10], length=len(BODY), close=False))
        assert at.provider.requests == []
    assert statuses(answer) == [400]
    assert error(answer)["code"] == "body_invalid"
    assert booked(redis_cli) == []


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /v1/chat", request()[:40]], ids=len)
async def test_a_head_that_does_not_come_closes_its_connection(
    store: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(wire, "HEAD_READ_TIMEOUT_S", 0.02)
    async with scene(store.url) as at:
        # Silence of the client alone: `raw` waits for the gate to close.
        for served in (b"", request(close=False)):
            answer = await raw(at.gate.url, served + sent)
            assert statuses(answer) == [200] * bool(served)
            if not sent:
                break


async def test_an_answer_that_nobody_reads_is_given_up(
    store: Server, redis_cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "WRITE_STALL_S", 0.05)
    async with scene(store.url) as at, dialled(at) as line:
        line.writer.transport.pause_reading()  # type: ignore[attr-defined]
        line.writer.write(request(chat(max_tokens=10, stream=True), "x-simulate-fault: huge_answer:40"))
        await until(lambda: at.provider.disconnects == 1)
        [entry] = await at.gate.log()
    assert (entry["status"], entry["ending"], entry["error"]) == (200, "cut", "the caller left before the answer's end")
    assert spent_nano(redis_cli) > 0
    assert held_nano(redis_cli) == 0


# --- ways to write a request ---


async def test_pipelined_requests_are_answered_in_order_each_by_its_own_head(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    bodies = [chat(f"number {number}", max_tokens=number) for number in (1, 2, 3)]
    long = "x-long: " + "x" * 3000
    sent = request(bodies[0], "x-session-id: a", close=False)
    sent += request(bodies[1], "x-session-id: b", long, close=False)
    sent += request(b"{", "x-session-id: c", close=False) + request(bodies[2], "x-session-id: d")
    async with scene(store.url, header_bytes_max=2000) as at:
        answers = await raw(at.gate.url, sent)
        entries = await at.gate.log()
        assert [at.provider.body(number)["max_tokens"] for number in range(2)] == [1, 3]
    assert statuses(answers) == [200, 431, 400, 200]
    assert [entry["session_id"] for entry in entries] == ["a", None, "c", "d"]
    assert spent_nano(redis_cli, "a") > 0
    assert held_nano(redis_cli, "a") == held_nano(redis_cli, "d") == 0


WAYS = {
    "chunked": request(chunked(BODY[:7], BODY[7:]), "transfer-encoding: chunked", length=-1),
    "chunked, with extensions": request(
        b"%x;a=b;c\r\n%b\r\n0;d\r\n\r\n" % (len(BODY), BODY), "transfer-encoding: chunked", length=-1
    ),
    "expecting 100": request(BODY, "expect: 100-continue"),
    "expecting something else": request(BODY, "expect: the best"),
    "asking for h2c": request(BODY, "connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAM", close=False)
    + request(b"", method="GET", target="/v1/models"),
    "with a charset": request(BODY, "content-type: application/json; charset=UTF-8"),
    "by http/1.0": request(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "to an absolute target": request(BODY, target=f"http://evil.example:81{CHAT}"),
    "to an absolute target by https": request(BODY, target=f"https://user:key@evil.example{CHAT}"),
    "with another host": request(BODY, "host: evil.example", "x-forwarded-host: evil.example", "forwarded: host=evil.example"),
    "with a fragment": request(BODY, target=f"{CHAT}#fragment"),
    "with two keys": request(BODY, "authorization: Bearer one", "authorization: Bearer two"),
    "with the same id twice": request(BODY, "x-session-id: default", "x-session-id: default"),
    "with an id in a trailer": request(
        chunked(BODY, trailers=b"x-session-id: other\r\nauthorization: Bearer other\r\ncontent-type: x/y\r\n"),
        "transfer-encoding: chunked", length=-1,
    ),
    "with bytes in a header": request(BODY, "x-bytes: \xe9\xff"),
    "with line ends before it": b"\r\n\r\n" + request(BODY),
}  # fmt: skip


@pytest.mark.parametrize("sent", WAYS.values(), ids=WAYS)
async def test_a_request_may_be_written_in_other_ways(store: Server, redis_cli: "redis.Redis", sent: bytes) -> None:
    async with scene(store.url) as at:
        answer = await raw(at.gate.url, sent)
        await at.gate.idle()
        seen = at.provider.requests[0]
        names = [name for name, _ in seen["headers"]]
        assert [status for status in statuses(answer) if status != 100] == [200] * len(at.provider.requests)
        assert (seen["target"], json.loads(seen["body"])) == (CHAT, json.loads(BODY))
        given = dict(seen["headers"])
        assert given["host"] == at.provider.url.removeprefix("http://")
        assert (names.count("authorization"), given["authorization"]) == (1, "Bearer sk-the-providers-own")
        assert not {"expect", "transfer-encoding", "upgrade", "http2-settings", "x-session-id"} & given.keys()
        assert at.provider.billed_nano() == spent_nano(redis_cli)
    assert redis_cli.zrange("tokengate:{default}:sessions", 0, -1) == ["default"]


async def test_of_two_keys_one_is_passed_on_if_the_gate_has_none(store: Server) -> None:
    async with scene(store.url, openai_api_key="") as at:
        await raw(at.gate.url, request(BODY, "authorization: Bearer one", "authorization: Bearer two"))
        await at.gate.idle()
        given = at.provider.requests[0]["headers"]
    assert [value for name, value in given if name == "authorization"] == ["Bearer two"]


TWO_WAYS = {
    "a length and chunks": request(chunked(BODY), "transfer-encoding: chunked", length=5),
    "a length and chunks, in the other order": request(chunked(BODY), "content-length: 5", "transfer-encoding: chunked", length=-1),
    "two lengths": request(BODY, "content-length: 5"),
    "the same length twice": request(BODY, f"content-length: {len(BODY)}"),
    "a length with a sign": request(BODY, f"content-length: +{len(BODY)}", length=-1),
    "a length in hexadecimals": request(BODY, "content-length: 0x10", length=-1),
    "chunks by another name": request(chunked(BODY), "transfer-encoding: xchunked", length=-1),
    "chunks and something behind": request(chunked(BODY), "transfer-encoding: chunked, identity", length=-1),
    "chunks twice": request(chunked(BODY), "transfer-encoding: chunked", "transfer-encoding: chunked", length=-1),
    "a space before the colon": request(chunked(BODY), "transfer-encoding : chunked", length=-1),
    "a folded header": request(BODY, "x-a: b\r\n c: d"),
    "a line feed alone": request(BODY, "x-a: b\nx-session-id: c"),
    "a carriage return alone": request(BODY, "x-a: b\rx-session-id: c"),
    "a zero in a header": request(BODY, "x-a: b\0c"),
    "a zero in the session": request(BODY, "x-session-id: b\0c"),
    "a control character": request(BODY, "x-a: b\x01c"),
    "a chunk of a negative size": request(b"-5\r\nhello\r\n0\r\n\r\n", "transfer-encoding: chunked", length=-1),
    "a chunk longer than it says": request(b"3\r\nhello\r\n0\r\n\r\n", "transfer-encoding: chunked", length=-1),
    "a chunk size that overflows": request(b"f" * 17 + b"\r\n", "transfer-encoding: chunked", length=-1),
    "a space in the target": request(BODY, target="/v1/chat /completions"),
    "bytes in the target": request(BODY, target="/v1/models/\xe9"),
    "bytes in the query": request(BODY, target=f"{CHAT}?a=\xe9"),
    "a target to connect to": request(b"", method="CONNECT", target="127.0.0.1:22", length=-1),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),
    "no http": b"hello\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("sent", TWO_WAYS.values(), ids=TWO_WAYS)
async def test_what_could_be_read_in_two_ways_is_refused_and_closed(
    store: Server, redis_cli: "redis.Redis", sent: bytes
) -> None:
    async with scene(store.url) as at:
        answer = await raw(at.gate.url, sent)
        await at.gate.idle()
        assert at.provider.requests == []
        assert statuses(answer) == [400]
        assert b"connection: close" in answer
        assert (await at.ask()).status_code == 200
        await at.gate.idle()
    assert held_nano(redis_cli) == 0


ENDLESS = {
    "line": b"GET /",
    "header": b"GET /v1/models HTTP/1.1\r\nx: ",
    "line ends": b"",
    "trailer": request(chunked(BODY)[:-2] + b"x: ", "transfer-encoding: chunked", length=-1),
    "chunk's line": request(b"5;", "transfer-encoding: chunked", length=-1),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_has_no_end_is_not_kept(store: Server, redis_cli: "redis.Redis", name: str) -> None:
    piece, sent = (b"\r\n" if name == "line ends" else b"xx") * 32_768, 0
    async with scene(store.url) as at:
        async with dialled(at) as line:
            line.writer.write(ENDLESS[name])
            try:
                while sent < 64 * HEAD_BYTES_MAX:
                    line.writer.write(piece)
                    await line.writer.drain()
                    sent += len(piece)
            except ConnectionError:
                pass
        # And what the buffers of the system take.
        assert HEAD_BYTES_MAX / 2 <= sent < 32 * HEAD_BYTES_MAX
        await at.gate.idle()
        assert at.provider.received == 0
        assert (await at.ask()).status_code == 200
        await at.gate.idle()
    assert held_nano(redis_cli) == 0

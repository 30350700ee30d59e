"""What a provider may do wrong: what its client sees, what is charged, that no hold stays, and that the next call works.

Each fault is a row of a table. The provider is a server that says exactly these bytes to the first call, and a good
answer to every later one. Where the charge is

    nothing  the provider refused, or was never reached
    usage    it said what it used
    seen     it did not: the bound on the input, and the text that came, counted
    hold     nobody can say what it did: all that was held

`tests/test_upstream.py` has the faults of the transport alone, `providers/test_openai_answers.py` and
`test_openai_streams.py` those that a meter can read.
"""

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
import pytest
import redis

from tests.support import certificates
from tests.support.answers import (
    DONE,
    FINISH,
    GOOD,
    GOOD_STREAM,
    PIECES,
    STREAM_HEAD,
    UNSAID,
    USAGE,
    USAGE_EVENT,
    USED_NANO,
    chunk,
    document,
    event,
    http,
    stream,
)
from tests.support.faulty import Faulty, Then, facing
from tests.support.gate import INPUT_NANO, OUTPUT_NANO, gate
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, client, events, parsed
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.money import parse_usd

MAX_TOKENS = 20

Charge = Literal["nothing", "usage", "seen", "hold"]


@dataclass(frozen=True)
class Fault:
    says: bytes
    """The answer, byte for byte."""
    then: Then = "next"
    status: int = 200
    """What the client sees."""
    code: str | None = None
    """The code of the gate's own error, in the body or as the last event."""
    charge: Charge = "usage"
    ending: str = "complete"
    body: bytes | None = None
    """The body that the client gets, if it is not the gate's own."""
    cut: bool = False
    """The client sees the answer break off."""


def charged_nano(charge: Charge, body: bytes, seen_tokens: int) -> int:
    call = parsed(body)
    input_nano = call.input_tokens_max * INPUT_NANO
    if charge == "hold":
        return input_nano + (call.output_tokens_asked or 0) * OUTPUT_NANO
    return {"nothing": 0, "usage": USED_NANO, "seen": input_nano + seen_tokens * OUTPUT_NANO}[charge]


async def suffers(
    fault: Fault, body: bytes, good: bytes, store: Server, cli: "redis.Redis", seen_tokens: int = 3
) -> None:
    async with facing(Faulty(fault.says, good, fault.then), store) as (_, running, http):
        status, content, cut = await ask(http, body)
        [line] = await running.log()
        assert (status, cut) == (fault.status, fault.cut)
        assert (line["status"], line["ending"]) == (fault.status, fault.ending)
        assert line.get("reason") == fault.code
        if fault.code is not None:
            error = events(content)[-1] if body_streams(content) else json.loads(content)
            assert error["error"]["code"] == fault.code
        if fault.body is not None:
            assert content == fault.body
        expected_nano = charged_nano(fault.charge, body, seen_tokens)
        assert spent_nano(cli) == expected_nano
        assert line["assumed"] is (fault.charge in ("seen", "hold"))
        assert parse_usd(fields(cli).get("assumed", "0")) == (expected_nano if line["assumed"] else 0)
        assert held_nano(cli) == 0

        status, content, cut = await ask(http, body)
        await running.idle()
        assert (status, cut) == (200, False)
        assert b" gate" in content
        assert spent_nano(cli) == expected_nano + USED_NANO
        assert held_nano(cli) == 0


async def ask(http: httpx.AsyncClient, body: bytes) -> tuple[int, bytes, bool]:
    """Status, body, and whether it broke off."""
    content = b""
    async with http.stream("POST", CHAT, content=body) as response:
        try:
            async for part in response.aiter_raw():
                content += part
        except httpx.RemoteProtocolError:
            return response.status_code, content, True
    return response.status_code, content, False


def body_streams(content: bytes) -> bool:
    return content.startswith(b"data:")


# --- not reached: it costs nothing ---


async def unreached(base_url: str, store: Server, cli: "redis.Redis", words: str, **settings: object) -> None:
    async with gate(base_url, store.url, **settings) as running, client(running.url) as http:
        answer = await http.post(CHAT, content=chat(max_tokens=MAX_TOKENS))
        [line] = await running.log()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert (line["ending"], line["actual_cost"], line["assumed"]) == ("rejected", 0, False)
    assert words in line["error"]
    assert spent_nano(cli) == held_nano(cli) == 0


async def test_a_provider_that_refuses_connections_costs_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    await unreached(f"http://127.0.0.1:{free_port()}/v1", store, redis_cli, "refused")


async def test_a_provider_without_an_address_costs_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    await unreached("https://provider.invalid/v1", store, redis_cli, "cannot connect")


async def test_a_provider_that_speaks_no_tls_costs_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    async def plain(peer: Conversation) -> None:
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_server(plain) as provider:
        await unreached(f"https://127.0.0.1:{provider.port}/v1", store, redis_cli, "SSL")


async def test_a_provider_whose_certificate_is_not_trusted_is_not_sent_the_request(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path
) -> None:
    made = certificates.make(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)

    async def answers(peer: Conversation) -> None:
        await peer.request()
        await peer.say(GOOD)

    async with raw_server(answers, context) as provider:
        await unreached(f"{provider.url}/v1", store, redis_cli, "certificate")
        assert provider.requests == []
        async with (
            gate(f"{provider.url}/v1", store.url, upstream_ca_file=made.authority) as running,
            client(running.url) as http,
        ):
            assert (await http.post(CHAT, content=chat())).status_code == 200
            await running.idle()
    assert spent_nano(redis_cli) == USED_NANO


# --- whole answers ---

ERROR = b'{"error":{"message":"no","type":"t","code":"theirs"}}'
HUGE_TEXT = document(message="x" * 300_000)


def refused(status: str, head: str = "", body: bytes = ERROR) -> Fault:
    """The provider says no: it passes, and costs nothing."""
    return Fault(
        http(body, status=status, head=head), status=int(status[:3]), charge="nothing", ending="rejected", body=body
    )


def broken(says: bytes, then: Then = "next", code: str = "upstream_unreachable") -> Fault:
    """No whole answer came: the client is told, and what was held is charged."""
    status = 504 if code == "upstream_timeout" else 502
    return Fault(says, then, status=status, code=code, charge="hold", ending="unknown")


def passes(says: bytes, charge: Charge = "usage", body: bytes | None = None, ending: str = "complete") -> Fault:
    return Fault(says, charge=charge, body=body, ending=ending)


def unread(says: bytes, body: bytes | None = None) -> Fault:
    """An answer came that nobody can read the price of."""
    return passes(says, "hold", body)


HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
BODY = document()
LENGTH = f"content-length: {len(BODY)}\r\n"


def odd(head: str) -> bytes:
    """A good body under a head that is as given but for its status, its type and its end."""
    return f"{HEAD}{head}\r\n".encode("latin-1") + BODY


WHOLE = {
    "400": refused("400 Bad Request"),
    "401": refused("401 Unauthorized"),
    "404": refused("404 Not Found"),
    "429": refused("429 Too Many Requests", "retry-after: 7\r\n"),
    "500": refused("500 Internal Server Error"),
    "503 that is no json": refused("503 Service Unavailable", body=b"<html>sorry</html>"),
    "500 without a body": refused("500 Internal Server Error", body=b""),
    "an error with a usage": refused("400 Bad Request", body=document()),
    "redirect": refused("307 Temporary Redirect", "location: http://127.0.0.1:9/elsewhere\r\n", b""),
    "not modified": Fault(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n", status=304, charge="nothing", ending="rejected", body=b""),
    "error as an event stream": refused("500 Internal Server Error", "content-type: text/event-stream\r\n", b"data: {}\n\n"),
    "an error that breaks off": Fault(
        http(b"{", status="429 Too Many Requests", length=99),
        "close", status=502, code="upstream_unreachable", charge="nothing", ending="rejected",
    ),
    "an error that hangs": Fault(
        http(b"{", status="500 Oh", length=99),
        "hang", status=504, code="upstream_timeout", charge="nothing", ending="rejected",
    ),
    "no content": Fault(b"HTTP/1.1 204 No Content\r\n\r\n", status=204, charge="hold", body=b""),
    "closed before its head": broken(b"", "close"),
    "reset before its head": broken(b"", "reset"),
    "closed within its head": broken(b"HTTP/1.1 200 OK\r\ncontent-", "close"),
    "silent before its head": broken(b"", "hang", "upstream_timeout"),
    "silent within its head": broken(b"HTTP/1.1 200 OK\r\n", "hang", "upstream_timeout"),
    "silent within its body": broken(http(BODY[:50], length=len(BODY)), "hang", "upstream_timeout"),
    "closed within its body": broken(http(BODY[:50], length=len(BODY)), "close"),
    "reset within its body": broken(http(BODY[:50], length=len(BODY)), "reset"),
    "truncated json": unread(http(BODY[:-20]), BODY[:-20]),
    "invalid json": unread(http(b'{"choices": nonsense}')),
    "json of another kind": unread(http(b"[1, 2]")),
    "nothing at all": unread(http(b""), b""),
    "another document": unread(http(b'{"ok":true}')),
    "bytes that are no text": unread(http(b"\xff\xfe\x00" * 99)),
    "gzip, by its header": unread(http(BODY, head="content-encoding: gzip\r\n"), BODY),
    "no content type": passes(http(BODY, content_type=""), body=BODY),
    "wrong content type": passes(http(BODY, content_type="text/plain"), body=BODY),
    "a stream that was not asked for": passes(GOOD_STREAM),
    "usage missing": passes(http(document(UNSAID)), "seen", ending="cut"),
    "usage null": passes(http(document(None)), "seen", ending="cut"),
    "usage text": passes(http(document("a lot")), "seen", ending="cut"),
    "usage list": passes(http(document([1])), "seen", ending="cut"),
    "usage negative": passes(http(document(USAGE | {"completion_tokens": -5})), "seen", ending="cut"),
    "usage zero": passes(http(document(dict.fromkeys(USAGE, 0))), "seen", ending="cut"),
    "usage zero output": passes(http(document(USAGE | {"completion_tokens": 0})), "seen", ending="cut"),
    "usage beyond belief": passes(http(document(USAGE | {"completion_tokens": 2**31})), "seen", ending="cut"),
    "usage beyond 64 bits": passes(http(document(USAGE | {"completion_tokens": 2**70})), "seen", ending="cut"),
    "usage fraction": passes(http(document(USAGE | {"completion_tokens": 3.0})), "seen", ending="cut"),
    "usage flag": passes(http(document(USAGE | {"completion_tokens": True})), "seen", ending="cut"),
    "usage details negative": passes(
        http(document(USAGE | {"prompt_tokens_details": {"cached_tokens": -7}})), "seen", ending="cut"
    ),
    "interim answers": passes(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + GOOD, body=BODY),
    "http/1.0": Fault(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + BODY, "close", body=BODY),
    "trailers": passes(
        f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode() + chunk(BODY) + b"0\r\nx-tokengate-cost-usd: 0\r\n\r\n", body=BODY
    ),
    "garbage behind its end": passes(GOOD + b"HTTP/1.1 200 OK\r\n\r\n", body=BODY),
    "longer than its length": unread(http(BODY, length=50), BODY[:50]),
    "another protocol": broken(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "interim answers without end": broken(b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "status 999": broken(b"HTTP/1.1 999 No\r\ncontent-length: 0\r\n\r\n"),
    "status 600": broken(b"HTTP/1.1 600 No\r\ncontent-length: 0\r\n\r\n"),
    "status 099": broken(b"HTTP/1.1 099 No\r\ncontent-length: 0\r\n\r\n"),
    "not http": broken(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "both a length and chunks": broken(odd(LENGTH + "transfer-encoding: chunked\r\n")),
    "two lengths": broken(odd(LENGTH + LENGTH)),
    "a length that is none": broken(odd("content-length: many\r\n")),
    "a negative length": broken(odd("content-length: -5\r\n")),
    "a transfer coding that was not asked for": broken(odd("transfer-encoding: gzip, chunked\r\n")),
    "a folded header": broken(odd("x-a: b\r\n c: d\r\n" + LENGTH)),
    "a header with a line feed": broken(odd("x-a: b\nx-c: d\r\n" + LENGTH)),
    "a header with a carriage return": broken(odd("x-a: b\rx-c: d\r\n" + LENGTH)),
    "a header with a zero": broken(odd("x-a: b\0\r\n" + LENGTH)),
    "a header with a control character": broken(odd("x-a: b\x01\r\n" + LENGTH)),
    "a header without a name": broken(odd(": b\r\n" + LENGTH)),
    "a header with a bracket in its name": broken(odd("x(a: b\r\n" + LENGTH)),
    "a head without end": broken(odd("x-a: " + "a" * 1_000_000)),
    "trailers without end": broken(f"{HEAD}transfer-encoding: chunked\r\n\r\n".encode() + chunk(BODY) + b"0\r\nx: " + b"a" * 1_000_000),
    "a chunk's line without end": broken(f"{HEAD}transfer-encoding: chunked\r\n\r\n1;".encode() + b"a" * 1_000_000),
}  # fmt: skip


@pytest.mark.parametrize("fault", WHOLE.values(), ids=WHOLE)
async def test_a_faulty_answer(store: Server, redis_cli: "redis.Redis", fault: Fault) -> None:
    await suffers(fault, chat(max_tokens=MAX_TOKENS), GOOD, store, redis_cli)


# --- streams ---

NO_TYPE = STREAM_HEAD.replace(b"content-type: text/event-stream\r\n", b"")
CODED = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\ncontent-encoding: br\r\n\r\n")
TEXT_EVENTS = b"".join(PIECES)


def cumulative(completion_tokens: int) -> bytes:
    return event(" gate", usage=USAGE | {"completion_tokens": completion_tokens})


def cut_off(then: Then, code: str = "upstream_unreachable", says: bytes = stream(*PIECES, end=b"")) -> Fault:
    """The stream ends in an event that the SDKs raise; what came is charged."""
    return Fault(says, then, code=code, charge="seen", ending="cut")


def says(*parts: bytes, charge: Charge = "usage", body: bytes | None = None, ending: str = "complete") -> Fault:
    return passes(stream(*parts), charge, body, ending)


STREAMS = {
    "400": refused("400 Bad Request"),
    "429": refused("429 Too Many Requests", "retry-after: 7\r\n"),
    "500": refused("500 Internal Server Error"),
    "error as an event stream": refused("500 Internal Server Error", "content-type: text/event-stream\r\n", b"data: {}\n\n"),
    "an error in mid-stream": says(*PIECES, b"data: " + ERROR + b"\n\n", charge="seen", ending="cut"),
    "an error at once": Fault(stream(b"data: " + ERROR + b"\n\n"), charge="seen", ending="cut"),
    "an error at once, as json": refused("400 Bad Request", body=ERROR),
    "answered with json": passes(GOOD, body=BODY),
    "answered with json of another type": passes(http(BODY, content_type="text/plain"), body=BODY),
    "answered with truncated json": unread(http(BODY[:-20]), BODY[:-20]),
    "silent before its head": broken(b"", "hang", "upstream_timeout"),
    "reset before its head": broken(b"", "reset"),
    "silent behind its head": Fault(STREAM_HEAD, "hang", code="upstream_timeout", charge="seen", ending="cut"),
    "silent in mid-stream": cut_off("hang", "upstream_timeout"),
    "reset in mid-stream": cut_off("reset"),
    "closed in mid-stream": cut_off("close"),
    "closed without chunks": Fault(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + TEXT_EVENTS, "close",
        charge="seen", ending="cut", body=TEXT_EVENTS,
    ),
    "chunks that are none": cut_off("next", says=stream(*PIECES, end=b"nonsense\r\n")),
    "no [DONE]": says(*PIECES, FINISH, USAGE_EVENT),
    "no blank line at its end": says(*PIECES, FINISH, USAGE_EVENT, DONE.strip()),
    "garbage behind [DONE]": says(*PIECES, USAGE_EVENT, DONE, b"data: more\n\n\x00\xff", body=TEXT_EVENTS + DONE + b"data: more\n\n\x00\xff"),
    "text behind [DONE]": says(*PIECES, USAGE_EVENT, DONE, PIECES[0]),
    "usage missing": says(*PIECES, FINISH, DONE, charge="seen", ending="cut", body=TEXT_EVENTS + FINISH + DONE),
    "usage null": says(*PIECES, event(usage=None), DONE, charge="seen", ending="cut"),
    "usage text": says(*PIECES, event(usage="much"), DONE, charge="seen", ending="cut"),
    "usage negative": says(*PIECES, event(usage=USAGE | {"prompt_tokens": -1}), DONE, charge="seen", ending="cut"),
    "usage zero": says(*PIECES, event(usage=dict.fromkeys(USAGE, 0)), DONE, charge="seen", ending="cut"),
    "usage beyond belief": says(*PIECES, event(usage=USAGE | {"prompt_tokens": 2**63}), DONE, charge="seen", ending="cut"),
    "usage on the finish chunk": says(*PIECES, event(finish="stop", usage=USAGE), DONE),
    "usage on every chunk, cumulative": says(cumulative(1), cumulative(2), cumulative(3), DONE),
    "usage on every chunk, zero": says(*(event(" gate", usage=dict.fromkeys(USAGE, 0)) for _ in range(3)), DONE, charge="seen", ending="cut"),
    "usage twice": says(*PIECES, USAGE_EVENT, USAGE_EVENT, DONE, body=TEXT_EVENTS + DONE),
    "invalid json": says(b"data: {nonsense\n\n", USAGE_EVENT, DONE),
    "no content type": passes(stream(*PIECES, USAGE_EVENT, DONE, head=NO_TYPE), body=TEXT_EVENTS + DONE),
    "wrong content type": passes(
        stream(*PIECES, USAGE_EVENT, DONE, head=STREAM_HEAD.replace(b"text/event-stream", b"text/plain")), body=TEXT_EVENTS + DONE
    ),
    "a coding, by its header": passes(stream(*PIECES, USAGE_EVENT, DONE, head=CODED), "hold", TEXT_EVENTS + USAGE_EVENT + DONE),
    "only comments": passes(stream(b": ping\n\n", b": ping\n\n"), "seen", b": ping\n\n: ping\n\n", "cut"),
}  # fmt: skip
SEEN_TOKENS = {
    "an error in mid-stream": 3,
    "an error at once": 0,
    "silent behind its head": 0,
    "only comments": 0,
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_faulty_stream(store: Server, redis_cli: "redis.Redis", name: str) -> None:
    body = chat(max_tokens=MAX_TOKENS, stream=True)
    await suffers(STREAMS[name], body, GOOD_STREAM, store, redis_cli, SEEN_TOKENS.get(name, 3))

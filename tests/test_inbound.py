"""What a request brings: which headers go on, and a body within its bounds."""

import asyncio
from typing import Any

import pytest

from tokengate import inbound
from tokengate.domain import Reason, Refusal
from tokengate.inbound import ClientGone, Inbound, read_body

Header = tuple[bytes, bytes]


def scope(*headers: Header, path: str = "/v1/chat/completions") -> dict[str, Any]:
    return {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": list(headers)}


PASSES = [
    (b"content-type", b"application/json"),
    (b"user-agent", b"OpenAI/Python"),
    (b"openai-organization", b"org"),
    (b"x-stainless-retry-count", b"1"),
    (b"idempotency-key", b"k"),
    (b"x-twice", b"1"),
    (b"x-twice", b"2"),
]
STAYS = [
    (b"host", b"gate:8000"),
    (b"content-length", b"5"),
    (b"accept-encoding", b"gzip, br"),
    (b"expect", b"100-continue"),
    (b"connection", b"keep-alive"),
    (b"keep-alive", b"timeout=5"),
    (b"te", b"trailers"),
    (b"trailer", b"x"),
    (b"transfer-encoding", b"chunked"),
    (b"upgrade", b"h2c"),
    (b"proxy-authorization", b"Basic x"),
    (b"proxy-connection", b"keep-alive"),
    (b"x-session-id", b"mine"),
    (b"x-forwarded-for", b"10.0.0.1"),
    (b"x-forwarded-host", b"gate"),
    (b"x-forwarded-proto", b"http"),
    (b"x-real-ip", b"10.0.0.1"),
    (b"forwarded", b"for=10.0.0.1"),
    (b"via", b"1.1 ingress"),
    (b"traceparent", b"00-1-2-01"),
    (b"tracestate", b"a=b"),
    (b"baggage", b"a=b"),
    (b"cookie", b"a=b"),
    (b"authorization", b"Bearer dummy"),
    (b"x-api-key", b"dummy"),
    (b"x-goog-api-key", b"dummy"),
    (b"api-key", b"dummy"),
]
IDENTITY = (b"accept-encoding", b"identity")


def test_what_means_something_to_the_provider_goes_on_in_order() -> None:
    assert Inbound(scope(*PASSES)).forwarded == [*PASSES, IDENTITY]


@pytest.mark.parametrize("header", STAYS, ids=lambda header: header[0].decode())
def test_what_is_between_the_caller_and_the_gate_stays_there(header: Header) -> None:
    assert Inbound(scope(PASSES[0], header, PASSES[1])).forwarded == [*PASSES[:2], IDENTITY]


@pytest.mark.parametrize("named", [b"X-Private", b"close, x-private", b"keep-alive , X-PRIVATE", b"x-private,,"])
def test_headers_that_connection_names_stay_too(named: bytes) -> None:
    head = Inbound(scope((b"x-private", b"1"), (b"connection", named), (b"x-other", b"2")))
    assert head.forwarded == [(b"x-other", b"2"), IDENTITY]


@pytest.mark.parametrize(
    ("given", "expected"), [([b"a"], b"a"), ([b"a", b"a"], b"a"), ([b"a", b"b"], b""), ([b"", b"a"], b""), ([], None)]
)
def test_one_session_is_named_or_none(given: list[bytes], expected: bytes | None) -> None:
    assert Inbound(scope(*((b"x-session-id", each) for each in given))).session == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(b"12", 12), (b"-1", None), (b"1e3", None), (b"", None), (b"+1", None)]
)
def test_a_length_is_digits(given: bytes, expected: int | None) -> None:
    assert Inbound(scope((b"content-length", given))).content_length == expected


# --- bodies ---


async def read(pieces: list[dict[str, Any]], bytes_max: int = 10, length: bytes | None = None) -> bytes | Refusal:
    head = Inbound(scope(*([(b"content-length", length)] if length is not None else [])))
    messages = iter(pieces)

    async def receive() -> dict[str, Any]:
        return next(messages)

    task = asyncio.current_task()
    assert task is not None
    return await read_body(head, receive, bytes_max, task)


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(b"0123456789")],
        [piece(b"01234", more=True), piece(b"56789")],
        [piece(b"", more=True), piece(b"0123456789", more=True), piece(b"")],
    ],
)
async def test_a_body_is_read_whole_up_to_its_bound(pieces: list[dict[str, Any]]) -> None:
    assert await read(pieces) == b"0123456789"


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        ([], b"11"),
        ([piece(b"0123456789a")], None),
        ([piece(b"01234", more=True), piece(b"56789a", more=True)], None),
        ([piece(b"01234", more=True), piece(b"56789a")], b"5"),
    ],
)
async def test_a_body_beyond_its_bound_is_refused_as_soon_as_that_is_known(
    pieces: list[dict[str, Any]], length: bytes | None
) -> None:
    refused = await read(pieces, length=length)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.BODY_TOO_LARGE
    assert "10 bytes (BODY_BYTES_MAX)" in refused.message


@pytest.mark.parametrize("pieces", [[GONE], [piece(b"01", more=True), GONE]])
async def test_whoever_leaves_within_a_body_is_gone(pieces: list[dict[str, Any]]) -> None:
    with pytest.raises(ClientGone):
        await read(pieces)


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "BODY_READ_TIMEOUT_S", 0.01)
    task = asyncio.current_task()
    assert task is not None
    refused = await read_body(Inbound(scope()), never, 10, task)
    assert isinstance(refused, Refusal)
    assert refused.reason is Reason.BODY_INVALID
    assert task.cancelling() == 0


async def test_a_cancellation_of_somebody_else_is_no_refusal() -> None:
    async def reading() -> bytes | Refusal:
        task = asyncio.current_task()
        assert task is not None
        return await read_body(Inbound(scope()), never, 10, task)

    other = asyncio.create_task(reading())
    await asyncio.sleep(0)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other

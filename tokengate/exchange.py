"""One admitted call's way to the provider and back: its bytes pass, a meter reads them, and its ending is found out.

Whatever happens - an error, a timeout, a caller who leaves, a shutdown - an exchange ends in a way that can be charged.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from tokengate.domain import Ending, Reason, Refusal
from tokengate.gate import Charge, Gate, Ticket
from tokengate.inbound import HOP_BY_HOP, NAMES_NOTHING, Send, without_named
from tokengate.money import format_usd
from tokengate.providers import Dialect, Meter, Reading
from tokengate.upstream import (
    CancelledUnsent,
    ConnectFailed,
    Headers,
    Response,
    Transport,
    UpstreamError,
    UpstreamTimeout,
)

UNARY_GATHERED_BYTES_MAX: Final = 8 * 1024 * 1024
"""An answer up to this size is gathered before it goes on, so that its cost can stand in its headers."""

_OURS: Final = frozenset(
    {b"x-tokengate-request-id", b"x-tokengate-cost-usd", b"x-tokengate-remaining-usd", b"x-tokengate-held-usd"}
)
"""What a caller believes the gate of; another gate behind this one may have said it too."""

_NOT_PASSED: Final = HOP_BY_HOP | _OURS | {b"content-length"}
"""The meter may withhold an event, so the length that a provider gave is not that of what passes."""

BODYLESS: Final = frozenset({204, 304})
"""Answers of these statuses have no body, and 204 may not even say that it has none (RFC 9110, 8.6)."""

TOO_MANY_REQUESTS: Final = 429

_EVENT_STREAM: Final = "text/event-stream"
_NOT_WORDS: Final = ("audio/", "application/octet-stream")
_IDENTITY: Final = b"identity"


@dataclass(slots=True)
class Progress:
    """How far an exchange has come; what the log line and the settlement are made from, whatever cut it short."""

    status: int = 0
    started: bool = False
    """The head of the answer has gone to the caller: a failure can no longer be a status."""
    streaming: bool = False
    meter: Meter | None = None
    error: str | None = None
    reason: Reason | None = None
    refusal: Refusal | None = None
    ending: Ending = Ending.UNKNOWN
    charge: Charge | None = None
    kept: str = ""
    """What the provider calls the answer, if it keeps it."""
    first_byte_ns: int | None = None
    answered_ns: int | None = None
    """When the whole answer had come; set only for one that was gathered before it went on."""
    code_class: str | None = None
    """How the provider failed: see `Outcome`."""
    content_type: str = ""
    """Of the answer."""

    def reading(self) -> Reading | None:
        return self.meter.reading() if self.meter is not None else None


class UnreadMeter:
    """The meter of an answer that nobody here can read: it passes, and costs what was held for it."""

    __slots__ = ("_bytes_seen", "_finished")

    def __init__(self) -> None:
        self._bytes_seen = 0
        self._finished = False

    def feed(self, chunk: bytes) -> bytes:
        self._bytes_seen += len(chunk)
        return chunk

    def finish(self) -> bytes:
        self._finished = True
        return b""

    def reading(self) -> Reading:
        return Reading(None, self._finished, output_seen="", output_bytes_seen=self._bytes_seen, hidden_output=True)


class Exchange:
    """See the module. `run` once."""

    __slots__ = ("_dialect", "_gate", "_send", "_ticket", "_transport", "progress")

    def __init__(self, gate: Gate, transport: Transport, dialect: Dialect, ticket: Ticket, send: Send) -> None:
        self._gate = gate
        self._transport = transport
        self._dialect = dialect
        self._ticket = ticket
        self._send = send
        self.progress = Progress()

    @property
    def streaming(self) -> bool:
        """Whether a stream is being sent that has not told its end yet."""
        progress = self.progress
        reading = progress.reading()
        return progress.started and progress.streaming and reading is not None and not reading.complete

    async def run(self, url: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Forward, pass the answer on, and find out how it ended. `progress.refusal` is left for the caller to send."""
        progress = self.progress
        response: Response | None = None
        try:
            response = await self._transport.send("POST", url, headers, body)
            progress.first_byte_ns = time.perf_counter_ns()
            await self._pass(response)
        except UpstreamError as error:
            await self._failed(error)
        except asyncio.CancelledError as error:
            progress.error = progress.error or "the answer was not awaited to its end"
            unsent = isinstance(error, CancelledUnsent)
            progress.ending = Ending.REJECTED if unsent else self._ending_when_cut()
            raise
        finally:
            if response is not None:
                await response.aclose()

    async def _pass(self, response: Response) -> None:
        progress = self.progress
        progress.status = response.status
        if response.status >= 400:
            progress.code_class = code_class(response.status)
        given = dict(response.headers)
        content_type = given.get(b"content-type", b"").decode("latin-1").lower()
        progress.content_type = content_type
        head, progress.streaming = _answer_head(response, given, content_type, self._ticket)
        meter: Meter
        if response.status < 300 and given.get(b"content-encoding", _IDENTITY) != _IDENTITY:
            meter = UnreadMeter()
        else:
            meter = self._ticket.request.meter(response.status, content_type)
        progress.meter = meter
        if progress.streaming:
            await self._start(head)
            await self._pass_stream(response, meter)
        else:
            await self._pass_gathered(response, meter, head)
        progress.ending = Ending.REJECTED if response.status >= 300 else Ending.COMPLETE

    async def _pass_gathered(self, response: Response, meter: Meter, head: list[tuple[bytes, bytes]]) -> None:
        gathered: list[bytes] = []
        size = 0
        while not response.ended and (chunk := await response.read()) is not None:
            gathered.append(meter.feed(chunk))
            size += len(chunk)
            if size > UNARY_GATHERED_BYTES_MAX:
                await self._start(head)
                await self._send({"type": "http.response.body", "body": b"".join(gathered), "more_body": True})
                await self._pass_on(response, meter)
                return
        self.progress.answered_ns = time.perf_counter_ns()
        gathered.append(meter.finish())
        body = b"".join(gathered)
        ending = Ending.REJECTED if response.status >= 300 else Ending.COMPLETE
        charge = self._gate.assess(self._ticket, ending, reading := meter.reading())
        if charge is None:
            charge = await self._gate.assess_by_counting(self._ticket, reading)
        self.progress.charge, self.progress.kept = charge, reading.kept
        left = self._ticket.standing.remaining_nano + self._ticket.grant_nano - charge.cost_nano
        if response.status not in BODYLESS:
            head.append((b"content-length", b"%d" % len(body)))
        head += (
            (b"x-tokengate-cost-usd", format_usd(charge.cost_nano).encode()),
            (b"x-tokengate-remaining-usd", format_usd(max(0, left)).encode()),
        )
        await self._start(head)
        await self._send({"type": "http.response.body", "body": body})

    async def _pass_stream(self, response: Response, meter: Meter) -> None:
        """Providers send the head of a stream before they have generated anything: what counts is its first piece."""
        chunk = None if response.ended else await response.read()
        self.progress.first_byte_ns = time.perf_counter_ns()
        if chunk is not None and (out := meter.feed(chunk)):
            await self._send({"type": "http.response.body", "body": out, "more_body": True})
        await self._pass_on(response, meter)

    async def _pass_on(self, response: Response, meter: Meter) -> None:
        send = self._send
        while not response.ended and (chunk := await response.read()) is not None:
            out = meter.feed(chunk)
            if out:
                await send({"type": "http.response.body", "body": out, "more_body": True})
        await send({"type": "http.response.body", "body": meter.finish()})

    async def _start(self, head: list[tuple[bytes, bytes]]) -> None:
        self.progress.started = True
        await self._send({"type": "http.response.start", "status": self.progress.status, "headers": head})

    async def _failed(self, error: UpstreamError) -> None:
        progress = self.progress
        progress.error = str(error)
        progress.ending = Ending.REJECTED if isinstance(error, ConnectFailed) else self._ending_when_cut()
        progress.reason = Reason.UPSTREAM_TIMEOUT if isinstance(error, UpstreamTimeout) else Reason.UPSTREAM_UNREACHABLE
        progress.code_class = failure_class(progress.reason)
        refusal = Refusal(progress.reason, f"The provider could not be asked or did not finish its answer: {error}")
        if not progress.started:
            progress.refusal = refusal
        else:
            await self.break_off(refusal)

    async def break_off(self, refusal: Refusal) -> None:
        """End a stream in words that the SDKs raise on, not in a closed socket that they cannot read.

        Of sound there are no such words: it ends without its end, which is how HTTP says that an answer broke off.
        """
        progress = self.progress
        if progress.streaming and not progress.content_type.startswith(_NOT_WORDS):
            rest = progress.meter.finish() if progress.meter is not None else b""
            event = self._dialect.error_event(refusal, self._ticket.hold_id)
            await self._send({"type": "http.response.body", "body": rest + b"\n\n" * bool(rest) + event})

    def _ending_when_cut(self) -> Ending:
        if self.progress.status >= 300:
            # The provider has said that it refuses; how it words that is not worth money.
            return Ending.REJECTED
        reading = self.progress.reading()
        if reading is None or not self.progress.streaming:
            # A provider generates a unary answer before it sends it: what it did is not known.
            return Ending.COMPLETE if reading is not None and reading.complete else Ending.UNKNOWN
        # SDKs hang up at the terminal event without reading the rest: that is no cut.
        return Ending.COMPLETE if reading.complete else Ending.CUT


def code_class(status: int) -> str:
    """How a provider failed that answered with such a status (>= 400)."""
    if status == TOO_MANY_REQUESTS:
        return "429"
    return "4xx" if status < 500 else "5xx"


def failure_class(reason: Reason) -> str:
    """How a provider failed that gave no answer, or not the whole of it."""
    return "timeout" if reason is Reason.UPSTREAM_TIMEOUT else "unreachable"


def passed_headers(headers: Headers, given: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The provider's headers that go on: without those between it and the gate, its length, and what only we may say.

    Args:
        headers: as the provider sent them.
        given: the same by name, the last of each.
    """
    head = [pair for pair in headers if pair[0] not in _NOT_PASSED]
    connection = given.get(b"connection", b"")
    return head if connection in NAMES_NOTHING else without_named(head, connection)


def _answer_head(
    response: Response, given: dict[bytes, bytes], content_type: str, ticket: Ticket
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The provider's headers with ours, and whether it is a stream.

    A stream may come without a content type, or with a wrong one: JSON alone is what a caller of one does not wait for.
    """
    head = passed_headers(response.headers, given)
    head.append((b"x-tokengate-request-id", ticket.hold_id.encode()))
    status = response.status
    streaming = status not in BODYLESS and (
        content_type.startswith(_EVENT_STREAM)
        or (ticket.call.stream and status < 300 and not content_type.startswith("application/json"))
    )
    if streaming:
        head.append((b"x-tokengate-held-usd", format_usd(ticket.grant_nano).encode()))
        head.append((b"x-tokengate-remaining-usd", format_usd(ticket.standing.remaining_nano).encode()))
    return head, streaming

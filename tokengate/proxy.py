"""The data plane: a raw ASGI application that takes `/v1...` requests to the gate, and through it to the provider.

The way of a request can be read here from top to bottom: match the endpoint, read the body, identify the session,
parse the call, let the gate admit it, exchange it with the provider, settle, record. A refusal at any step is an
answer in the caller's dialect. While a call is admitted and exchanged, a watch on the caller's connection stops it
when the caller leaves.
"""

import asyncio
import itertools
import secrets
import time
from dataclasses import dataclass
from typing import Final

import structlog

from tokengate.cutting import Streams
from tokengate.destination import Destination, Destinations
from tokengate.domain import Ending, Outcome, Reason, Refusal, Session, Usage
from tokengate.exchange import BODYLESS, Exchange, Progress, code_class, failure_class, passed_headers
from tokengate.gate import Charge, Gate, Ticket
from tokengate.inbound import (
    CONNECTION,
    HEAD_BYTES,
    ASGIScope,
    ClientGone,
    Connection,
    Inbound,
    Receive,
    Send,
    read_body,
)
from tokengate.ledger import Kept, LedgerError
from tokengate.providers import STATUS, Dialect, Endpoint, Reading, RequestError, Route, Router
from tokengate.refusals import NOT_OWN, NOT_SAID, PATH_CHARS_SHOWN, malformed, no_route
from tokengate.session import Identity
from tokengate.telemetry import Telemetry
from tokengate.upstream import UpstreamError, UpstreamTimeout

CLIENT_CLOSED: Final = 499
"""The status that is logged when the caller left before it had an answer (nginx's convention)."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one request may take."""

    body_bytes_max: int
    header_bytes_max: int
    concurrency_max: int


class Proxy:
    """See the module. Collaborators come through the constructor; `aclose` is theirs, not ours."""

    def __init__(
        self,
        *,
        router: Router,
        dialect: Dialect,
        gate: Gate,
        identity: Identity,
        destinations: Destinations,
        telemetry: Telemetry,
        bounds: Bounds,
        streams: Streams | None = None,
        kept: Kept | None = None,
    ) -> None:
        """`streams`: None if a freeze ends no streams. `kept`: None if nothing that a provider keeps is given out."""
        self.router = router
        self.dialect = dialect
        self.gate = gate
        self.identity = identity
        self.destinations = destinations
        self.telemetry = telemetry
        self.bounds = bounds
        self.streams = streams
        self.kept = kept
        self._process = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._in_flight = 0

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        visit = Visit(self, scope, receive, send, f"tg-{self._process}-{next(self._numbers):x}")
        if self._in_flight >= self.bounds.concurrency_max:
            await visit.refuse(
                Refusal(
                    Reason.CONCURRENCY_EXCEEDED,
                    f"This gate serves {self.bounds.concurrency_max} requests at a time (CONCURRENCY_MAX).",
                    retry_after_s=1,
                )
            )
            return
        self._in_flight += 1
        self.telemetry.in_flight(self._in_flight)
        try:
            await visit.serve()
        finally:
            self._in_flight -= 1
            self.telemetry.in_flight(self._in_flight)


class Visit:
    """One request, from its head to its log line."""

    __slots__ = (
        "admitted_ns",
        "code_class",
        "connection",
        "cut_off",
        "destination",
        "dialect",
        "dispatched_ns",
        "endpoint",
        "exchange",
        "gone",
        "head_bytes",
        "head_sent",
        "inbound",
        "model",
        "path",
        "provider",
        "proxy",
        "receive",
        "received_ns",
        "request_id",
        "route",
        "send",
        "session",
        "started_ms",
        "started_ns",
        "stream",
        "task",
        "trace",
        "waited_us",
    )

    def __init__(self, proxy: Proxy, scope: ASGIScope, receive: Receive, send: Send, request_id: str) -> None:
        self.proxy = proxy
        self.receive = receive
        self.send = send
        self.request_id = request_id
        self.started_ms = time.time_ns() // 1_000_000
        self.started_ns = time.perf_counter_ns()
        self.received_ns = self.admitted_ns = self.dispatched_ns = 0
        self.waited_us = 0
        self.code_class: str | None = None
        tracing = proxy.telemetry.tracing
        self.trace = tracing.begin(scope["headers"]) if tracing is not None else None
        self.inbound = Inbound(scope)
        extensions = scope["extensions"]
        self.connection: Connection = extensions[CONNECTION]
        self.head_bytes: int = extensions[HEAD_BYTES]
        self.dialect = proxy.dialect
        self.path = ""
        """As it was written, without the prefix that chose its destination."""
        self.destination: Destination | None = None
        self.endpoint = self.provider = self.route = ""
        self.model = ""
        self.stream = False
        self.session: Session | None = None
        self.exchange: Exchange | None = None
        self.task: asyncio.Task[object] = _this_task()
        self.gone = False
        """The caller has closed its connection."""
        self.cut_off: Refusal | None = None
        """In which words its stream is to end, before its answer does."""
        self.head_sent = False
        """The head of an answer that nobody charges has been sent."""

    async def serve(self) -> None:
        proxy, inbound = self.proxy, self.inbound
        if self.head_bytes > proxy.bounds.header_bytes_max:
            return await self.refuse(
                Refusal(Reason.HEADERS_TOO_LARGE, "The headers are larger than this gate takes (HEADER_BYTES_MAX).")
            )
        # The path as it was written: what is decoded here and forwarded as written could be two things.
        path = inbound.raw_path.decode("latin-1")
        chosen = self.destination = proxy.destinations.by_prefix(path)
        self.path = path = path if chosen is None else chosen.path(path)
        route = proxy.router.match(inbound.method, path, inbound.given)
        if route is None or not _plain(inbound.path):
            self.dialect = proxy.router.dialect_of(path, inbound.given) or self.dialect
            return await self.refuse(no_route(inbound.method, inbound.path, proxy.router.methods(path)))
        self.dialect, self.endpoint, self.provider = route.dialect, route.name, route.dialect.name
        self.route = route.path
        refused = self._refused(route)
        try:
            if refused:
                self.dialect = proxy.router.dialect_of(path, inbound.given) or self.dialect
                await self.refuse(Refusal(Reason.ENDPOINT_NOT_METERED, refused))
            elif route.endpoint is None:
                await (self._pass_own() if route.own else self._pass_free())
            else:
                await self._serve_metered(route.endpoint, takes_forms=route.takes_forms)
        except ClientGone:
            self._record(CLIENT_CLOSED, error="the caller left before it had sent its request")
        except asyncio.CancelledError:
            if not await self._cancelled():
                raise
        except Exception:
            log.exception("a request failed within the gate", request_id=self.request_id)
            await self._give_up(Refusal(Reason.INTERNAL, "The gate failed; its log says why, by the request's id."))
        finally:
            self.connection.on_lost = None
        return None

    async def _cancelled(self) -> bool:
        """End a request that was cancelled, by whoever it was; gives whether it was our own doing."""
        if not self.gone and self.cut_off is None:
            await self._give_up(
                Refusal(Reason.SHUTTING_DOWN, "The gate is stopping and can wait no longer.", retry_after_s=1)
            )
            return False
        # Whoever waits for this task must not see it.
        self.task.uncancel()
        if self.gone:
            if self.exchange is None:
                self._record(CLIENT_CLOSED, error="the caller left before its answer's end")
        elif self.cut_off is not None:
            self.connection.on_lost = None
            await self._give_up(self.cut_off)
        return True

    def _refused(self, route: Route) -> str:
        """Why a route that there is leads nowhere; empty: it leads somewhere."""
        if route.refused or self.destination is not None or self.proxy.destinations.has(route.dialect.name):
            return route.refused
        return f"This gate has no upstream of the kind {route.dialect.name} (UPSTREAMS_FILE)."

    # --- metered endpoints ---

    async def _serve_metered(self, endpoint: Endpoint, *, takes_forms: bool) -> None:
        proxy = self.proxy
        bytes_max = proxy.bounds.body_bytes_max
        body = await read_body(self.inbound, self.receive, bytes_max, self.task, takes_forms=takes_forms)
        self.received_ns = time.perf_counter_ns()
        if isinstance(body, Refusal):
            return await self.refuse(body)
        session = proxy.identity.identify(self.inbound.session, self.inbound.query)
        if isinstance(session, Refusal):
            return await self.refuse(session)
        self.session = session
        try:
            request = endpoint.parse(body, self.inbound)
        except RequestError as error:
            return await self.refuse(malformed(error))
        self.model, self.stream = request.call.model, request.call.stream
        destination = self._where(self.model)
        if destination.quirks is not None:
            request = request.suited(destination.quirks)
        self.connection.on_lost = self._caller_left
        admitted = await proxy.gate.admit(request, session, self.request_id, destination.section)
        self.admitted_ns, self.waited_us = time.perf_counter_ns(), admitted.waited_us
        if isinstance(admitted, Refusal):
            return await self.refuse(admitted)
        await self._exchange(admitted, destination)
        return None

    def _where(self, model: str = "") -> Destination:
        """Where the request goes; kept for the log."""
        if self.destination is None:
            self.destination = self.proxy.destinations.of(self.dialect.name, model)
        self.provider = self.destination.name
        return self.destination

    async def _exchange(self, ticket: Ticket, destination: Destination) -> None:
        proxy, inbound = self.proxy, self.inbound
        self.exchange = exchange = Exchange(proxy.gate, destination.transport, self.dialect, ticket, self.send)
        progress = exchange.progress
        try:
            url, headers = destination.url(self.path, inbound.query), self._headers(destination)
            body = ticket.request.body(ticket.output_cap_tokens)
            self.dispatched_ns = time.perf_counter_ns()
            await self._run(exchange, ticket, url, headers, body)
            if progress.refusal is not None:
                await self._answer(progress.refusal)
        except asyncio.CancelledError:
            if self.gone:
                progress.error = "the caller left before the answer's end"
            elif self.cut_off is not None:
                progress.reason, progress.error = self.cut_off.reason, self.cut_off.message
            else:
                progress.reason, progress.error = Reason.SHUTTING_DOWN, "the gate was stopped before the answer's end"
            raise
        except Exception as error:
            progress.reason, progress.error = Reason.INTERNAL, f"a fault within the gate: {type(error).__name__}"
            raise
        finally:
            self._conclude(exchange, ticket)

    async def _run(
        self, exchange: Exchange, ticket: Ticket, url: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        streams = self.proxy.streams
        if streams is None or not ticket.call.stream:
            return await exchange.run(url, headers, body)
        streams.begin(ticket.limits, self)
        try:
            await exchange.run(url, headers, body)
        finally:
            streams.end(ticket.limits, self)
        return None

    def cut(self, refusal: Refusal) -> None:
        """See `Cuttable`. What has not begun is let be: what it costs would not be known."""
        exchange = self.exchange
        if exchange is not None and exchange.streaming and not self.gone and self.cut_off is None:
            self.cut_off = refusal
            self.task.cancel()

    def _conclude(self, exchange: Exchange, ticket: Ticket) -> None:
        """Settle and record, at once if the charge is known; if text must be counted first, then in the background."""
        progress, gate = exchange.progress, self.proxy.gate
        if progress.charge is not None:
            return self._settle(ticket, progress, progress.charge)
        reading = progress.reading()
        progress.kept = reading.kept if reading is not None else ""
        charge = gate.assess(ticket, progress.ending, reading)
        if charge is not None:
            self._settle(ticket, progress, charge)
        elif reading is not None:
            # In a task of its own: neither a caller who left nor a shutdown may cancel what must be settled.
            gate.background(self._conclude_by_counting(ticket, progress, reading))
        return None

    async def _conclude_by_counting(self, ticket: Ticket, progress: Progress, reading: Reading) -> None:
        self._settle(ticket, progress, await self.proxy.gate.assess_by_counting(ticket, reading))

    def _settle(self, ticket: Ticket, progress: Progress, charge: Charge) -> None:
        told = self.proxy.telemetry.settling(self.trace, charge.cost_nano) if self.trace is not None else None
        self.proxy.gate.settle(ticket, charge, told)
        if progress.kept and self.proxy.kept is not None:
            self.proxy.gate.background(self.proxy.kept.remember(ticket.session, progress.kept))
        self._record(
            progress.status if progress.started else STATUS[progress.reason] if progress.reason else CLIENT_CLOSED,
            ticket=ticket,
            progress=progress,
            error=progress.error,
            reason=progress.reason,
            rule=ticket.rule,
            actual_nano=charge.cost_nano,
            assumed=charge.assumed,
            ending=charge.ending,
            usage=charge.usage,
        )

    # --- free endpoints ---

    async def _pass_own(self) -> None:
        """What the provider keeps is there for all who have its key: it is passed to the session that made it."""
        session, kept = self.proxy.identity.identify(self.inbound.session, self.inbound.query), self.proxy.kept
        if isinstance(session, Refusal):
            return await self.refuse(session)
        self.session = session
        try:
            made = kept is not None and await kept.made(session, self.path.split("/")[3])
        except LedgerError as error:
            log.warning("the store does not say whose a response is", error=str(error))
            return await self.refuse(NOT_SAID)
        if not made:
            return await self.refuse(NOT_OWN)
        return await self._pass_free()

    async def _pass_free(self) -> None:
        inbound, destination, body = self.inbound, self._where(), b""
        if inbound.method == "POST":
            read = await read_body(inbound, self.receive, self.proxy.bounds.body_bytes_max, self.task)
            if isinstance(read, Refusal):
                return await self.refuse(read)
            body = read
            self.received_ns = time.perf_counter_ns()
        url, headers = destination.url(self.path, inbound.query), self._headers(destination)
        self.connection.on_lost = self._caller_left
        self.dispatched_ns = time.perf_counter_ns()
        try:
            response = await destination.transport.send(inbound.method, url, headers, body)
        except UpstreamError as error:
            reason = Reason.UPSTREAM_TIMEOUT if isinstance(error, UpstreamTimeout) else Reason.UPSTREAM_UNREACHABLE
            self.code_class = failure_class(reason)
            return await self.refuse(Refusal(reason, f"The provider could not be asked: {error}"), decision="allowed")
        try:
            if response.status >= 400:
                self.code_class = code_class(response.status)
            given = dict(response.headers)
            head = passed_headers(response.headers, given)
            if b"content-length" in given and response.status not in BODYLESS:
                head.append((b"content-length", given[b"content-length"]))
            head.append((b"x-tokengate-request-id", self.request_id.encode()))
            self.head_sent = True
            await self.send({"type": "http.response.start", "status": response.status, "headers": head})
            while (chunk := await response.read()) is not None:
                await self.send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self.send({"type": "http.response.body", "body": b""})
            self._record(response.status)
        except UpstreamError as error:
            # The head has gone out with its length: ending short of it is how HTTP says that an answer broke off.
            self._record(response.status, error=str(error))
        finally:
            await response.aclose()
        return None

    # --- endings ---

    async def refuse(self, refusal: Refusal, decision: str = "blocked") -> None:
        """Answer with a refusal, and record it."""
        await self._answer(refusal)
        self._record(
            STATUS[refusal.reason],
            reason=refusal.reason,
            error=refusal.message,
            decision=decision,
            rule=refusal.rule,
            estimated_nano=refusal.required_nano,
            # Who may come again in a moment will; whoever is refused for good would have spent it.
            saved_nano=refusal.expected_nano if refusal.retry_after_s is None else 0,
        )

    async def _give_up(self, refusal: Refusal) -> None:
        """End in words, whatever has been sent already; what was admitted has its record."""
        exchange = self.exchange
        if self.head_sent:
            self._record(STATUS[refusal.reason], reason=refusal.reason, error=refusal.message)
        elif exchange is None:
            await self.refuse(refusal)
        elif exchange.progress.started:
            await exchange.break_off(refusal)
        else:
            await self._answer(refusal)

    async def _answer(self, refusal: Refusal) -> None:
        body = self.dialect.error(refusal, self.request_id)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"x-tokengate-request-id", self.request_id.encode()),
            (b"x-tokengate-reason", refusal.reason.value.encode()),
        ]
        if refusal.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
        elif refusal.reason not in (Reason.UPSTREAM_UNREACHABLE, Reason.UPSTREAM_TIMEOUT):
            # The SDKs of OpenAI and Anthropic retry a 429 twice, unless they are told that it is pointless.
            headers.append((b"x-should-retry", b"false"))
        if refusal.reason is Reason.METHOD_NOT_ALLOWED:
            methods = self.proxy.router.methods(self.path)
            headers.append((b"allow", ", ".join(methods).encode()))
        if refusal.standing is not None:
            headers.append((b"x-tokengate-scope", refusal.standing.scope.kind.encode()))
        await self.send({"type": "http.response.start", "status": STATUS[refusal.reason], "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _caller_left(self) -> None:
        """The caller's connection has closed: stop the provider, and whatever else this request waits for."""
        self.gone = True
        self.task.cancel()

    def _record(
        self,
        status: int,
        *,
        decision: str = "allowed",
        ticket: Ticket | None = None,
        progress: Progress | None = None,
        error: str | None = None,
        reason: Reason | None = None,
        estimated_nano: int | None = None,
        saved_nano: int = 0,
        actual_nano: int | None = None,
        assumed: bool = False,
        ending: Ending | None = None,
        usage: Usage | None = None,
        rule: str | None = None,
    ) -> None:
        now_ns, started_ns = time.perf_counter_ns(), self.started_ns
        dispatched_ns, received_ns = self.dispatched_ns, self.received_ns or started_ns
        first_byte_ns = answered_ns = None
        if progress is not None:
            first_byte_ns, answered_ns = progress.first_byte_ns, progress.answered_ns
        # Without the caller's sending, the line, and the provider; the settlement is not waited for.
        overhead_ns = (dispatched_ns or now_ns) - received_ns + (now_ns - answered_ns if answered_ns else 0)
        self.proxy.telemetry.record(
            Outcome(
                request_id=self.request_id,
                endpoint=self.endpoint or self.inbound.path[:PATH_CHARS_SHOWN],
                session=self.session,
                model=self.model,
                stream=self.stream,
                status=status,
                decision=decision,
                reason=reason,
                error=error,
                ending=ending,
                estimated_nano=ticket.quote.want_nano if ticket else estimated_nano,
                held_nano=ticket.grant_nano if ticket else None,
                actual_nano=actual_nano,
                assumed=assumed,
                usage=usage or Usage(),
                started_ms=self.started_ms,
                duration_us=(now_ns - started_ns) // 1000,
                overhead_us=max(0, overhead_ns // 1000 - self.waited_us),
                first_byte_us=(first_byte_ns - started_ns) // 1000 if first_byte_ns else None,
                provider=self.provider,
                priced_model=ticket.price.model if ticket else self._priced_model(),
                saved_nano=saved_nano,
                waited_us=self.waited_us,
                code_class=progress.code_class if progress is not None else self.code_class,
                received_us=(received_ns - started_ns) // 1000,
                admitted_us=(self.admitted_ns - started_ns) // 1000 if self.admitted_ns else None,
                dispatched_us=(dispatched_ns - started_ns) // 1000 if dispatched_ns else None,
                answered_us=(answered_ns - started_ns) // 1000 if answered_ns else None,
                trace=self.trace,
                method=self.inbound.method,
                path=self.inbound.path[:PATH_CHARS_SHOWN],
                rule=rule,
                route=self.route,
            )
        )

    def _priced_model(self) -> str:
        """What the price table calls the model that was asked for, if it knows it."""
        if not self.model or self.destination is None:
            return ""
        return self.proxy.gate.prices.lookup(self.model, self.destination.section).name

    def _headers(self, destination: Destination) -> list[tuple[bytes, bytes]]:
        """The headers that go on; the caller's trace is among them only if providers are to be told."""
        headers, trace, tracing = destination.headers(self.inbound), self.trace, self.proxy.telemetry.tracing
        if trace is None or tracing is None:
            return headers
        return [*headers, *tracing.upstream_headers(trace)]


def _this_task() -> "asyncio.Task[object]":
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a request is served within a task")
    return task


def _plain(path: str) -> bool:
    """Whether a path means what it says: no dot segments, which would leave the endpoint that it was matched as."""
    return "/." not in path and "//" not in path and "\\" not in path

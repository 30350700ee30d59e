"""The composition root: from settings to a running gate. The only place that builds clients, besides the CLI.

Two ASGI applications, one dispatch: `/v1...` goes to the raw data plane, everything else to the small endpoints, so
that nothing of the control plane can ever stand in a call's way.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from tokengate import __version__
from tokengate.composition import open_ledger, policy_of, register, rules_of
from tokengate.cutting import Streams
from tokengate.destination import Destination, Destinations
from tokengate.domain import Reason
from tokengate.gate import Gate
from tokengate.inbound import ASGIScope, Receive, Send
from tokengate.ledger import Ledger, keys
from tokengate.ledger.allowance import Allowance
from tokengate.ledger.journal import SUFFIX, make_folder
from tokengate.ledger.kept import KeptResponses
from tokengate.ledger.outage import OutageLedger
from tokengate.ledger.redis import RedisLedger
from tokengate.pricing import PriceTable, PriceTableError
from tokengate.providers import Quirks, Router, anthropic, gemini, openai
from tokengate.proxy import Bounds, Proxy
from tokengate.resources import pricing_file
from tokengate.scrape import Scrape
from tokengate.session import Identity
from tokengate.settings import Settings
from tokengate.status import Status, not_found
from tokengate.store import Store, StoreError, inspect, open_store
from tokengate.telemetry import Metrics, Rollup, Telemetry, Tracing, traces, write_stdout
from tokengate.telemetry.counts import Counts
from tokengate.telemetry.exposition import Collector, Exposition, Facts
from tokengate.telemetry.metrics import new_counts
from tokengate.tokens import Tokenizer
from tokengate.upstream import Transport
from tokengate.upstream.transport import HttpTransport
from tokengate.upstreamfile import UpstreamEntry, UpstreamFileError, read_upstreams

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from tokengate.console import Console
    from tokengate.telemetry.spans import Spans
    from tokengate.telemetry.standing import Reading

ADMIN_PATHS: Final = ("/dashboard", "/api/dashboard")
"""What the paths of the console begin with, for where it is not imported."""

SETTLE_GRACE_S: Final = 5
"""How long a stop waits for charges to be posted, even where it waits less for answers."""

ROUTES: Final = (*openai.ROUTES, *anthropic.ROUTES, *gemini.ROUTES)
"""The endpoints of every provider."""

log = structlog.get_logger()


class App:
    """The dispatch."""

    def __init__(
        self,
        proxy: Proxy,
        status: Status,
        scrape: Scrape | None,
        *,
        scrape_apart: bool,
        console: "Console | None" = None,
        console_apart: bool = False,
    ) -> None:
        """Nothing is served yet.

        Args:
            proxy: the data plane.
            status: health, and a session's own budget.
            scrape: None where nothing is counted.
            scrape_apart: it is served on STATUS_PORT alone.
            console: None where there are no administrators.
            console_apart: it is served on ADMIN_PORT alone.
        """
        self.proxy = proxy
        self.status = status
        self.console = console
        self._admin_here = None if console is None or console_apart else console.admin
        self._scrape = scrape
        self._scrape_here = None if scrape_apart else scrape

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one request; websockets are refused by closing them before they open."""
        if scope["type"] == "http":
            path: str = scope["path"]
            # Calls first: what else there is must cost them nothing.
            if path.startswith("/v1"):
                await self.proxy(scope, receive, send)
            elif path in Status.PATHS:
                await self.status(scope, receive, send)
            elif path == Scrape.PATH and self._scrape_here is not None:
                await self._scrape_here(scope, receive, send)
            elif self._admin_here is not None and path.startswith(ADMIN_PATHS):
                await self._admin_here(scope, receive, send)
            else:
                await self.proxy(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": Reason.ENDPOINT_NOT_METERED.value})

    async def observe(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one request on STATUS_PORT: what monitors ask of the process. No calls, and nothing of a session."""
        if scope["type"] == "http" and scope["path"] in Status.PROCESS_PATHS:
            await self.status(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == Scrape.PATH and self._scrape is not None:
            await self._scrape(scope, receive, send)
        elif scope["type"] == "http":
            await not_found(send)

    def reload(self, pricing_file: Path | None) -> None:
        """Read the price table anew; one that cannot be used is reported, and the old one stays."""
        try:
            self.proxy.gate.prices = load_prices(pricing_file)
        except (OSError, PriceTableError) as error:
            log.error("the price table was not reloaded; the old one stays", error=str(error))
        else:
            log.info("the price table was reloaded")


def load_upstreams(path: Path | None) -> tuple[UpstreamEntry, ...]:
    """Read the file of further upstreams, if one is named.

    Raises:
        OSError: it cannot be read.
        UpstreamFileError: it cannot be used.
    """
    return read_upstreams(path.read_text("utf-8")) if path is not None else ()


def _key_of(entry: UpstreamEntry) -> str | None:
    """The key of a further upstream.

    Raises:
        UpstreamFileError: it is named and not there.
    """
    if entry.key_file:
        key = Path(entry.key_file).read_text("utf-8").strip()
    elif entry.key_env:
        key = os.environ.get(entry.key_env, "")
    else:
        return None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UpstreamFileError(f"upstream {entry.name!r}: {entry.key_file or entry.key_env} has no key")
    return key


def further_of(entry: UpstreamEntry, transport: Transport, key: str | None) -> Destination:
    """A further upstream as a destination."""
    azure = entry.kind == "azure"
    sent = key if azure or key is None else f"Bearer {key}"
    return Destination(
        entry.name,
        entry.base_url.rstrip("/"),
        transport,
        section=entry.section,
        replaces="" if azure else "/v1",
        key_header=b"api-key" if azure else b"authorization",
        key=sent.encode() if sent is not None else None,
        quirks=entry.quirks,
        # Azure's paths begin with /openai, and keep it.
        prefix=entry.prefix or ("/openai" if azure else ""),
        root="/openai" if azure else "",
        models=entry.models,
    )


def destinations_of(settings: Settings, transport: Transport, further: Sequence[Destination] = ()) -> Destinations:
    """Where calls go."""
    openai_key, anthropic_key, gemini_key = settings.openai_api_key, settings.anthropic_api_key, settings.gemini_api_key
    own = (
        Destination(
            openai.dialect.name,
            settings.openai_base_url,
            transport,
            section="openai",
            replaces="/v1",
            key=f"Bearer {openai_key.get_secret_value()}".encode() if openai_key else None,
            quirks=Quirks(service_tier_default="priority")
            if settings.openai_service_tier_default == "priority"
            else None,
        ),
        Destination(
            anthropic.dialect.name,
            settings.anthropic_base_url,
            transport,
            section="anthropic",
            key_header=b"x-api-key",
            key=anthropic_key.get_secret_value().encode() if anthropic_key else None,
        ),
        Destination(
            gemini.dialect.name,
            settings.gemini_base_url,
            transport,
            section="google",
            key_header=b"x-goog-api-key",
            key=gemini_key.get_secret_value().encode() if gemini_key else None,
            key_parameter="key",
        ),
    )
    compatible = Destination(
        "google-openai",
        f"{settings.gemini_base_url}/v1beta/openai",
        transport,
        section="google",
        prefix="/v1beta/openai",
        root="/v1",
        replaces="/v1",
        key=f"Bearer {gemini_key.get_secret_value()}".encode() if gemini_key else None,
    )
    return Destinations({each.name: each for each in own}, [*further, compatible])


def load_prices(path: Path | None) -> PriceTable:
    """Read the price table: the one named, else the one shipped.

    Raises:
        OSError: it cannot be read.
        PriceTableError: it cannot be used.
    """
    return PriceTable.parse((path or pricing_file()).read_bytes())


@asynccontextmanager
async def _open_outage(
    settings: Settings, store: Store, inner: RedisLedger, metrics: Metrics | None
) -> AsyncIterator[OutageLedger | None]:
    """What stands in for the store while it is away; None if nothing does and nothing was left to be posted."""
    folder, mode = settings.data_dir / "journal", settings.on_store_failure
    allowance = None
    if mode != "closed":
        allowance = Allowance(settings.store_allowance if mode == "allowance" else None)
        try:
            make_folder(folder)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be made ({error.strerror}), and ON_STORE_FAILURE={mode} needs it: set DATA_DIR"
            ) from None
    elif not any(folder.glob(f"*{SUFFIX}")):
        yield None
        return
    outage = OutageLedger(inner, folder, tenant=settings.tenant, store=store.where, mode=mode, allowance=allowance)
    if metrics is not None:
        outage.on_change = metrics.degraded
    outage.open()
    try:
        yield outage
    finally:
        await outage.aclose()


def _scrape(
    settings: Settings, role: str, metrics: Metrics, regions: Sequence[Counts], gate: Gate, console: "Console | None"
) -> Scrape:
    """What answers scrapes: for all workers, whichever is asked."""
    facts = Facts(
        version=__version__,
        role=role,
        tenant=settings.tenant,
        agent=settings.agent,
        # Asked each time: SIGHUP brings another table.
        priced_as_of_s=lambda: datetime.fromisoformat(gate.prices.as_of).replace(tzinfo=UTC).timestamp(),
    )
    collector = Collector(regions or (metrics.counts,), metrics.counts, metrics.exemplars, facts)
    return Scrape(Exposition(collector, _shared(console.reading) if console is not None else None))


def _shared(reading: "Reading") -> "Callable[[], Awaitable[Iterable[Metric]]]":
    """How budgets stand, which is told where administrators are served."""
    from tokengate.telemetry.standing import collect  # noqa: PLC0415 - a sidecar tells nothing of it

    async def shared() -> "Iterable[Metric]":
        standing = await reading()
        return () if standing is None else collect(standing)

    return shared


def _open_traces(metrics: Metrics | None, *, propagate: bool) -> tuple[Tracing | None, "Spans | None"]:
    """What OpenTelemetry's variables ask for, which are the environment's alone, as everywhere else."""
    if not traces.wanted(os.environ):
        return (Tracing(None, propagate=True) if propagate else None), None
    try:
        from tokengate.telemetry.spans import open_spans  # noqa: PLC0415 - 8 MB that only traces need
    except ImportError as error:
        log.error("traces are wanted, and OpenTelemetry is not there: install tokengate[otel]", missing=error.name)
        return (Tracing(None, propagate=True) if propagate else None), None
    counted = metrics.traced if metrics is not None else lambda _, __: None
    return Tracing(traces.sampler(os.environ), propagate=propagate), open_spans(counted)


@asynccontextmanager
async def _administered(
    settings: Settings, role: str, store: Store, owner: str, status: Status
) -> "AsyncIterator[Console | None]":
    """The console beside the data plane; None in a sidecar, and without a token (`serve` sees that there is one)."""
    if role == "sidecar" or settings.admin_token is None:
        yield None
        return
    from tokengate.console import Console, open_admin  # noqa: PLC0415 - a sidecar must not have FastAPI in memory

    async with open_admin(settings, store, owner) as (admin, reading):
        yield Console(admin, status, reading)


@asynccontextmanager
async def _cutting(settings: Settings, ledger: Ledger) -> AsyncIterator[Streams | None]:
    """What ends streams of frozen sessions; None if nothing is to."""
    if not settings.freeze_cuts_streams:
        yield None
        return
    streams = Streams(ledger)
    looking = asyncio.create_task(streams.run())
    try:
        yield streams
    finally:
        looking.cancel()


def _open_upstreams(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[HttpTransport, list[Destination]]:
    """The ways to the providers, which `stack` closes; one with timeouts of its own has connections of its own."""

    def way(connect_timeout_s: float | None, read_timeout_s: float | None) -> HttpTransport:
        made = HttpTransport(
            connect_timeout_s=connect_timeout_s or settings.upstream_connect_timeout_s,
            read_timeout_s=read_timeout_s or settings.upstream_read_timeout_s,
            connections_max=settings.upstream_connections_max,
            ca_file=str(settings.upstream_ca_file) if settings.upstream_ca_file else None,
        )
        stack.push_async_callback(made.aclose)
        return made

    common = way(None, None)
    further: list[Destination] = []
    for entry in load_upstreams(settings.upstreams_file):
        apart = entry.connect_timeout_s is not None or entry.read_timeout_s is not None
        own = way(entry.connect_timeout_s, entry.read_timeout_s) if apart else common
        further.append(further_of(entry, own, _key_of(entry)))
    return common, further


@asynccontextmanager
async def open_app(
    settings: Settings, role: str, owner: str, regions: Sequence[Counts] = (), worker: int = 0
) -> AsyncIterator[App]:
    """Everything that serves, opened; on leaving, what is in flight is settled and everything is closed.

    Args:
        settings: all of them.
        role: what `serve` was told to be.
        owner: names this process in its holds.
        regions: where the worker processes count, if there are several.
        worker: which of them this is.
    """
    prices = load_prices(settings.pricing_file)
    policy = policy_of(settings)
    identity = Identity(
        settings.tenant, settings.agent, settings.session_id, settings.default_session, settings.strict_mode
    )
    counts = (regions or (new_counts(),))[worker]
    metrics = Metrics(counts, settings.tenant) if settings.metrics else None
    async with contextlib.AsyncExitStack() as stack:
        store = await open_store(settings)
        stack.push_async_callback(store.aclose)
        for level, finding in await inspect(store, keys.leases(settings.tenant)):
            log.log(logging.getLevelNamesMapping()[level.upper()], finding)
        inner = await stack.enter_async_context(open_ledger(settings, store, owner, metrics))
        outage = await stack.enter_async_context(_open_outage(settings, store, inner, metrics))
        ledger: Ledger = outage or inner
        if settings.alert_webhook_url is not None:
            from tokengate.alerts.opening import telling  # noqa: PLC0415 - only a gate that tells needs it

            await stack.enter_async_context(telling(settings, inner, owner))
        transport, further = _open_upstreams(settings, stack)
        rollup = None
        if metrics is not None:
            rollup = Rollup(inner.tally, settings.tenant)
            stack.push_async_callback(rollup.aclose)
        level_min = logging.getLevelNamesMapping()[settings.log_level]
        tracing, spans = _open_traces(metrics, propagate=settings.trace_propagate_upstream)
        if spans is not None:
            stack.push_async_callback(asyncio.to_thread, spans.close)
        telemetry = Telemetry(write_stdout, level_min, metrics=metrics, rollup=rollup, tracing=tracing, spans=spans)
        stack.callback(telemetry.flush)
        gate = Gate(
            ledger,
            prices,
            policy,
            Tokenizer(),
            output_cap=settings.output_cap,
            busy_wait_ms=settings.busy_wait_ms,
            waiters_max=settings.waiters_max,
            lease_ms=settings.hold_lease_s * 1000,
            tenant=settings.tenant,
            rules=rules_of(settings),
        )
        proxy = Proxy(
            router=Router(ROUTES),
            dialect=openai.dialect,
            gate=gate,
            identity=identity,
            destinations=destinations_of(settings, transport, further),
            telemetry=telemetry,
            bounds=Bounds(settings.body_bytes_max, settings.header_bytes_max, settings.concurrency_max),
            streams=await stack.enter_async_context(_cutting(settings, ledger)),
            kept=KeptResponses(inner.ask),
        )
        status = Status(
            ledger=ledger,
            ping=inner.ping,
            policy=policy,
            identity=identity,
            dialect=openai.dialect,
            role=role,
            outage=outage.health if outage else lambda: {"on_store_failure": settings.on_store_failure, "away": False},
        )
        console = await stack.enter_async_context(_administered(settings, role, store, owner, status))
        keeping = asyncio.create_task(gate.run())
        registering = asyncio.create_task(register(settings, store, time.time_ns() // 1_000_000))
        try:
            scrape = None if metrics is None else _scrape(settings, role, metrics, regions, gate, console)
            yield App(
                proxy,
                status,
                scrape,
                scrape_apart=settings.status_port is not None,
                console=console,
                console_apart=settings.admin_port is not None,
            )
        finally:
            keeping.cancel()
            registering.cancel()
            left = await gate.drain(max(settings.shutdown_grace_s, SETTLE_GRACE_S))
            if left:
                log.error("stopped with charges not posted; their holds will be charged in full", charges=left)

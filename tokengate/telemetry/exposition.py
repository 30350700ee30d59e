"""What has been counted, as Prometheus wants it: a collector of prometheus-client over the cells of all workers.

It is asked when somebody scrapes, never by a request, and only then is prometheus-client loaded. It renders one family
after the other and lets the event loop turn between them, so that a scrape does not hold up the calls.

`FAMILIES` says what there is; docs/reference/metrics.md is held to it.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tokengate.telemetry.counts import Counts, Kind, Labels
from tokengate.telemetry.metrics import (
    ASSUMED_AT,
    CALLS,
    COST_AT,
    CPU_BEFORE_AT,
    DEGRADED_AT,
    DURATION_US,
    FAILURES,
    FIRST_TOKEN_AT,
    FIRST_TOKEN_US,
    INFLIGHT_AT,
    OUTCOMES,
    OVERHEAD_AT,
    OVERRUN_AT,
    PID_AT,
    PROCESS,
    REFUSALS,
    REFUSED_AT,
    RESTARTS_AT,
    RULED,
    SAVED_AT,
    SHORT_US,
    STORE,
    STORE_DOWN_AT,
    STORE_FAILED_AT,
    TIMES,
    TOKEN_TYPES,
    TOKENS_AT,
    TRACE_RESULTS,
    TRACES_AT,
    WAIT_AT,
    WAIT_US,
)
from tokengate.telemetry.metrics import Exemplar as Kept

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.samples import Exemplar as Shown

NANO: Final = 1_000_000_000
MICRO: Final = 1_000_000
_END: Final = b"# EOF\n"
_NOT_SUMMED: Final = frozenset({"process_start_time_seconds", "process_max_fds"})

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Family(Struct, frozen=True):
    """A metric: its name as it is queried, its type, its labels, and what it says."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def families(*rows: tuple[str, str, str, str]) -> dict[str, Family]:
    """Families by their short names; a row is name, type, labels and what it says."""
    return {name: Family(f"tokengate_{name}", kind, tuple(labels.split()), said) for name, kind, labels, said in rows}


FAMILIES: Final = families(
    ("requests_total", COUNTER, "tenant provider model outcome", "Requests that ended, by what became of them."),
    ("tokens_total", COUNTER, "tenant provider model type", "Tokens used, reported or counted; no two types overlap."),
    ("cost_usd_total", COUNTER, "tenant provider model", "What calls were charged, in USD."),
    ("assumed_usd_total", COUNTER, "tenant provider model", "Of the cost, what was assumed for want of a report."),
    ("overrun_usd_total", COUNTER, "tenant provider model", "Of the cost, what went beyond the hold of its call."),
    ("blocked_total", COUNTER, "tenant reason", "Requests that the gate refused, by reason."),
    ("saved_usd_total", COUNTER, "tenant reason", "What calls refused for good would have cost, by their estimates."),
    ("runaway_calls_total", COUNTER, "tenant rule mode", "Calls that a rule about runaways refused, or would have."),
    ("unpriced_requests_total", COUNTER, "tenant", "Requests refused for want of a price."),
    ("upstream_errors_total", COUNTER, "provider code_class", "Providers' answers that were errors or did not come."),
    ("request_duration_seconds", HISTOGRAM, "provider model", "From the head of a forwarded call to its answer's end."),
    ("time_to_first_token_seconds", HISTOGRAM, "provider model", "From a call to the first piece of its stream."),
    ("overhead_seconds", HISTOGRAM, "", "What the gate took: without provider, caller and waiting in line."),
    ("budget_wait_seconds", HISTOGRAM, "", "How long calls stood in line for a budget that others held."),
    ("store_operation_seconds", HISTOGRAM, "op", "How long the store took to answer."),
    ("store_errors_total", COUNTER, "op", "Operations that the store did not answer; judge: faults within its rules."),
    ("store_up", GAUGE, "", "1 if the store answered the last time it was asked."),
    ("degraded", GAUGE, "", "1 while calls are admitted without the store."),
    ("inflight", GAUGE, "", "Requests under way."),
    ("price_table_age_seconds", GAUGE, "", "Since the day that the price table is as of."),
    ("build_info", GAUGE, "version role", "1, with what runs."),
    ("identity_info", GAUGE, "tenant agent", "1, with whose calls come through this gate."),
    ("workers", GAUGE, "", "Worker processes that serve."),
    ("worker_restarts_total", COUNTER, "", "Worker processes that ended unasked and were replaced."),
    ("traced_requests_total", COUNTER, "result", "Sampled requests, by what became of their spans."),
)  # fmt: skip


class Facts(Struct, frozen=True):
    """What is known without counting."""

    version: str
    role: str
    tenant: str
    agent: str
    priced_as_of_s: Callable[[], float]
    """Seconds since the epoch at the day that the price table is as of."""


class Collector:
    """A collector for a prometheus-client registry."""

    def __init__(self, regions: Sequence[Counts], own: Counts, exemplars: dict[int, Kept], facts: Facts) -> None:
        """Read the regions of all workers; exemplars are those of `own`, one of them."""
        self._regions = regions
        self._own = own
        self._exemplars = exemplars
        self._facts = facts

    def collect(self) -> "Iterator[Metric]":
        """Make the families, one when the one before was taken."""
        yield from self._calls()
        yield from self._refusals()
        yield self._counter("upstream_errors_total", ((labels, row[0]) for labels, row in self._rows(FAILURES)))
        yield from self._times()
        yield from self._process()
        yield from self._store()
        yield from self._standing()

    def _rows(self, kind: Kind) -> list[tuple[Labels, list[int]]]:
        """The rows of a kind, summed over all workers."""
        sums: dict[Labels, list[int]] = {}
        for counts in self._regions:
            for labels, at in counts.rows(kind):
                row = list(counts.cells[at : at + kind.width])
                known = sums.get(labels)
                sums[labels] = row if known is None else [a + b for a, b in zip(known, row, strict=True)]
        return sorted(sums.items())

    # --- families ---

    def _calls(self) -> "Iterator[Metric]":
        rows = self._rows(CALLS)
        for name, values, start in (("requests_total", OUTCOMES, 0), ("tokens_total", TOKEN_TYPES, TOKENS_AT)):
            yield self._counter(
                name,
                (
                    ((*labels, value), row[start + at])
                    for labels, row in rows
                    for at, value in enumerate(values)
                    if row[start + at]
                ),
            )
        charged = [(labels, row) for labels, row in rows if row[COST_AT]]
        for name, at in (
            ("cost_usd_total", COST_AT),
            ("assumed_usd_total", ASSUMED_AT),
            ("overrun_usd_total", OVERRUN_AT),
        ):
            yield self._counter(name, ((labels, row[at] / NANO) for labels, row in charged))

    def _refusals(self) -> "Iterator[Metric]":
        rows = self._rows(REFUSALS)
        yield self._counter("blocked_total", ((labels, row[REFUSED_AT]) for labels, row in rows))
        yield self._counter(
            "saved_usd_total", ((labels, row[SAVED_AT] / NANO) for labels, row in rows if row[SAVED_AT])
        )
        yield self._counter("runaway_calls_total", ((labels, row[0]) for labels, row in self._rows(RULED)))
        unpriced = [(labels[:1], row[REFUSED_AT]) for labels, row in rows if labels[1] == "model_not_priced"]
        # There from the beginning: an alert on its increase would miss the first one otherwise.
        yield self._counter("unpriced_requests_total", unpriced or [((self._facts.tenant,), 0)])

    def _times(self) -> "Iterator[Metric]":
        rows = self._rows(TIMES)
        yield self._histogram("request_duration_seconds", DURATION_US, TIMES, rows, 0)
        yield self._histogram("time_to_first_token_seconds", FIRST_TOKEN_US, TIMES, rows, FIRST_TOKEN_AT)

    def _process(self) -> "Iterator[Metric]":
        rows = self._rows(PROCESS)
        ((_, sums),) = rows
        yield self._histogram("overhead_seconds", SHORT_US, PROCESS, rows, OVERHEAD_AT)
        yield self._histogram("budget_wait_seconds", WAIT_US, PROCESS, rows, WAIT_AT)
        yield self._gauge("store_up", [((), 0 if sums[STORE_DOWN_AT] else 1)])
        yield self._gauge("degraded", [((), 1 if sums[DEGRADED_AT] else 0)])
        yield self._gauge("inflight", [((), sums[INFLIGHT_AT])])
        yield self._gauge("workers", [((), len(self._pids()))])
        yield self._counter("worker_restarts_total", [((), sums[RESTARTS_AT])])
        yield from self._usage(sums[CPU_BEFORE_AT])
        traced = [((result,), sums[TRACES_AT + at]) for at, result in enumerate(TRACE_RESULTS)]
        yield self._counter("traced_requests_total", traced)

    def _pids(self) -> list[int]:
        """The processes of the workers there are."""
        rows = (counts.cells[counts.row(PROCESS, ()) + PID_AT] for counts in self._regions)
        return [pid for pid in rows if pid]

    def _usage(self, cpu_before_us: int) -> "Iterator[Metric]":
        """prometheus-client's metrics of a process (`process_...`), summed over the workers."""
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415

        sums: dict[str, Metric] = {}
        for pid in self._pids():
            apart = CollectorRegistry()
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=apart).collect():  # type: ignore[misc]
                known = sums.setdefault(metric.name, metric)
                if known is not metric:
                    both = (known.samples[0].value, metric.samples[0].value)
                    value = min(both) if metric.name in _NOT_SUMMED else sum(both)
                    known.samples = [known.samples[0]._replace(value=value)]
        for metric in sums.values():
            if metric.name == "process_cpu_seconds":
                sample = metric.samples[0]
                metric.samples = [sample._replace(value=sample.value + cpu_before_us / MICRO)]
            yield metric

    def _store(self) -> "Iterator[Metric]":
        rows = self._rows(STORE)
        yield self._histogram("store_operation_seconds", SHORT_US, STORE, rows, 0)
        yield self._counter("store_errors_total", ((labels, row[STORE_FAILED_AT]) for labels, row in rows))

    def _standing(self) -> "Iterator[Metric]":
        facts = self._facts
        yield self._gauge("price_table_age_seconds", [((), max(0.0, time.time() - facts.priced_as_of_s()))])
        yield self._gauge("build_info", [((facts.version, facts.role), 1)])
        yield self._gauge("identity_info", [((facts.tenant, facts.agent), 1)])

    # --- shapes ---

    def _counter(self, name: str, samples: Iterable[tuple[Labels, float]]) -> "Metric":
        from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415

        family = FAMILIES[name]
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
        for labels, value in samples:
            metric.add_metric(labels, value)
        return metric

    def _gauge(self, name: str, samples: Iterable[tuple[Labels, float]]) -> "Metric":
        return gauge(FAMILIES[name], samples)

    def _histogram(
        self, name: str, bounds_us: Sequence[int], kind: Kind, rows: list[tuple[Labels, list[int]]], start: int
    ) -> "Metric":
        from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415

        family = FAMILIES[name]
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, row in rows:
            counts = row[start : start + len(bounds_us) + 1]
            if not any(counts) and labels:
                continue
            own, below = self._own.index(kind).get(labels), 0
            buckets: list[tuple[str, float] | tuple[str, float, Shown]] = []
            bounds = (*(str(us / MICRO) for us in bounds_us), "+Inf")
            for at, (bound, count) in enumerate(zip(bounds, counts, strict=True)):
                below += count
                exemplar = self._exemplars.get(own + start + at) if own is not None else None
                buckets.append((bound, below) if exemplar is None else (bound, below, _exemplar(exemplar)))
            metric.add_metric(labels, buckets, row[start + len(bounds_us) + 1] / MICRO)
        return metric


def _exemplar(kept: Kept) -> "Shown":
    from prometheus_client.samples import Exemplar  # noqa: PLC0415

    return Exemplar({"trace_id": kept.trace_id}, kept.value_us / MICRO, kept.at_ms / 1000)


def gauge(family: Family, samples: Iterable[tuple[Labels, float]]) -> "Metric":
    """A gauge as prometheus-client has it."""
    from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, value)
    return metric


async def written(metrics: "Iterable[Metric]", accept: str) -> tuple[str, bytes]:
    """The content type and the text of metrics for an `Accept` header: OpenMetrics if it is asked for, with exemplars.

    What does not ask for OpenMetrics has no exemplars: the older format has no place for them.
    """
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is none: the plain format is for whoever cannot say what they want.
        encode, content_type = choose_encoder("")
    parts: list[bytes] = []
    for metric in metrics:
        parts.append(encode(_One(metric)).removesuffix(_END))
        await asyncio.sleep(0)
    if content_type.startswith("application/openmetrics-text"):
        parts.append(_END)
    return content_type, b"".join(parts)


class Exposition:
    """Renders the families of a collector as text, and of others that have to be asked for; one scrape at a time."""

    def __init__(self, collector: Collector, others: "Callable[[], Awaitable[Iterable[Metric]]] | None" = None) -> None:
        self._collector = collector
        self._others = others
        self._turn = asyncio.Lock()

    async def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text for an `Accept` header."""
        others = await self._others() if self._others is not None else ()
        async with self._turn:
            return await written(itertools.chain(self._collector.collect(), others), accept)


class _One:
    """A registry of one family."""

    def __init__(self, family: "Metric") -> None:
        self._family = family

    def collect(self) -> "list[Metric]":
        """Give it."""
        return [self._family]

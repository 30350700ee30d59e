"""What telling of requests costs: throughput with log, metrics and traces against none of them, and a scrape."""

import asyncio
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from msgspec.structs import replace

from bench.figures import Figure, at_least, at_most, told
from bench.idle import rss_mb_of
from bench.processes import OTHER_CORE, Hop, all_of, base_url, free_port, gate, nginx, redis_server, static_upstream
from bench.throughput import CONNECTIONS, in_turns, median_of
from tokengate.domain import Ending, Outcome, Session, Usage
from tokengate.telemetry.exposition import Collector, Exposition, Facts
from tokengate.telemetry.metrics import Metrics, new_counts

SILENT: Final = {"LOG_LEVEL": "ERROR", "METRICS": "false"}
TRACED: Final = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
SCRAPES: Final = 20
MODELS: Final = 8


def _scrape() -> tuple[int, float]:
    """How many series a scrape has, and the processor time that one takes, in milliseconds."""
    metrics = Metrics(new_counts(), "default")
    answered = Outcome(
        "r", "chat_completions", Session("s"), "m", stream=True, status=200, decision="allowed", ending=Ending.COMPLETE,
        held_nano=2, actual_nano=1, usage=Usage(5, 5, 1, 1, reasoning_tokens=1), duration_us=100_000,
        first_byte_us=50_000, overhead_us=300, provider="openai",
    )  # fmt: skip
    for number in range(MODELS):
        metrics.record(replace(answered, priced_model=f"model-{number}"))
    for operation in ("reserve", "settle", "renew", "sweep", "tally"):
        metrics.answered(operation, 200)
    facts = Facts("0", "sidecar", "default", "", lambda: 0.0)
    exposition = Exposition(Collector([metrics.counts], metrics.counts, metrics.exemplars, facts))
    taken: list[float] = []
    text = b""
    for _ in range(SCRAPES):
        began = time.process_time()
        _, text = asyncio.run(exposition.render("application/openmetrics-text;version=1.0.0"))
        taken.append(1000 * (time.process_time() - began))
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    return series, statistics.median(taken)


def run() -> list[Figure]:
    """Three gates in turns; the receiver of the spans is on the other core."""
    with (
        redis_server() as redis_url,
        static_upstream() as upstream,
        nginx("location / { return 200; }", port := free_port(), OTHER_CORE),
    ):
        memory_mb: list[list[float]] = []

        @contextmanager
        def start() -> Iterator[list[Hop]]:
            with all_of(
                gate(base_url(upstream), redis_url, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}", **TRACED),
                gate(base_url(upstream), redis_url),
                gate(base_url(upstream), redis_url, **SILENT),
            ) as hops:
                yield hops
                memory_mb.append([rss_mb_of(hop.pid) for hop in hops])

        rounds = in_turns(start, CONNECTIONS)
    series, scrape_ms = _scrape()
    return [
        at_least(
            f"throughput, log, metrics and 10% traces / none of them, {CONNECTIONS} connections",
            median_of(rounds, lambda found: found[0].per_second / found[2].per_second), "", 0.85,
        ),
        told("  without traces", median_of(rounds, lambda found: found[1].per_second / found[2].per_second), ""),
        told("  all", median_of(rounds, lambda found: found[0].per_second), "requests/s"),
        told("  none", median_of(rounds, lambda found: found[2].per_second), "requests/s"),
        told("processor time a request, all", median_of(rounds, lambda found: found[0].cpu_us), "us"),
        told("  log and metrics", median_of(rounds, lambda found: found[1].cpu_us), "us"),
        told("  none", median_of(rounds, lambda found: found[2].cpu_us), "us"),
        told("memory after that, all", memory_mb[-1][0], "MB"),
        told("  log and metrics", memory_mb[-1][1], "MB"),
        at_most(f"processor time of a scrape of {series} series", scrape_ms, "ms", 20),
    ]  # fmt: skip

"""Throughput with the gate against the same server and transport with no gate, and what its latency adds."""

import statistics
from typing import Final

from bench.figures import Figure, at_least, told
from bench.load import WARM_S, median_latency_us, throughput
from bench.processes import all_of, gate, nginx_hop, plain_hop, redis_server, static_upstream

CONNECTIONS: Final = 32
ROUNDS: Final = 5
SECONDS: Final = 3
REQUESTS: Final = 1000


def run() -> list[Figure]:
    """The gate, the plain hop and nginx in turns."""
    with (
        redis_server() as redis_url,
        static_upstream() as upstream,
        all_of(gate(upstream, redis_url), plain_hop(upstream), nginx_hop(upstream)) as (gated, plain, proxied),
    ):
        for port in (gated, plain, proxied):
            throughput(port, CONNECTIONS, WARM_S)
        pairs = [
            (throughput(gated, CONNECTIONS, SECONDS), throughput(plain, CONNECTIONS, SECONDS)) for _ in range(ROUNDS)
        ]
        nginx = throughput(proxied, CONNECTIONS, SECONDS)
        direct_port = int(upstream.removesuffix("/v1").rpartition(":")[2])
        latencies = {port: [] for port in (gated, plain, direct_port)}  # type: dict[int, list[float]]
        for _ in range(ROUNDS):
            for port, measured in latencies.items():
                measured.append(median_latency_us(port, REQUESTS))
    alone = statistics.median(latencies[direct_port])
    return [
        at_least(
            f"throughput, gate / no gate, {CONNECTIONS} connections",
            statistics.median(mine / theirs for mine, theirs in pairs), "", 0.6,
        ),
        told("  gate", statistics.median(mine for mine, _ in pairs), "requests/s"),
        told("  no gate", statistics.median(theirs for _, theirs in pairs), "requests/s"),
        told("  nginx as a hop", nginx, "requests/s"),
        told("added at one connection, gate", statistics.median(latencies[gated]) - alone, "us"),
        told("added at one connection, no gate", statistics.median(latencies[plain]) - alone, "us"),
    ]  # fmt: skip

"""Throughput with the gate against the same server and transport with no gate, and what its latency adds."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from bench.figures import Figure, at_least, told
from bench.load import WARM_S, Rate, median_latency_us, throughput
from bench.processes import Hop, all_of, base_url, gate, nginx_hop, plain_hop, redis_server, static_upstream

CONNECTIONS: Final = 32
DEALS: Final = 4
ROUNDS: Final = 3
SECONDS: Final = 2
LATENCY_ROUNDS: Final = 5
REQUESTS: Final = 1000


def in_turns(start: Callable[[], AbstractContextManager[Sequence[Hop]]], connections: int) -> list[list[Rate]]:
    """Rounds of every hop, of processes that are started `DEALS` times.

    Of processes that are all the same one is a twentieth faster than another, as chance lays out its memory.
    """
    rounds: list[list[Rate]] = []
    for _ in range(DEALS):
        with start() as hops:
            for hop in hops:
                throughput(hop, connections, WARM_S)
            rounds += _rounds(hops, connections)
    return rounds


def _rounds(hops: Sequence[Hop], connections: int) -> list[list[Rate]]:
    """In turns that begin with another hop each time: a machine's moods change by the second."""
    rounds: list[list[Rate]] = []
    for number in range(ROUNDS):
        order = list(range(len(hops)))
        shift = number % len(hops)
        found = {place: throughput(hops[place], connections, SECONDS) for place in order[shift:] + order[:shift]}
        rounds.append([found[place] for place in order])
    return rounds


def median_of(rounds: list[list[Rate]], number: Callable[[list[Rate]], float]) -> float:
    """The median over rounds of a number of each."""
    return statistics.median(number(found) for found in rounds)


def added_us(hops: Sequence[Hop], upstream: int) -> list[list[float]]:
    """Rounds of what every hop adds to the median latency at one connection, in microseconds."""
    rounds: list[list[float]] = []
    for _ in range(LATENCY_ROUNDS):
        alone = median_latency_us(upstream, REQUESTS)
        rounds.append([median_latency_us(hop.port, REQUESTS) - alone for hop in hops])
    return rounds


def run() -> list[Figure]:
    """The gate and the plain hop in turns."""
    with redis_server() as redis_url, static_upstream() as upstream:

        def start() -> AbstractContextManager[list[Hop]]:
            return all_of(gate(base_url(upstream), redis_url), plain_hop(base_url(upstream)))

        rounds = in_turns(start, CONNECTIONS)
        with start() as hops:
            added = added_us(hops, upstream)
    with static_upstream() as upstream, nginx_hop(base_url(upstream)) as proxy:
        nginx = throughput(proxy, CONNECTIONS, SECONDS)
    return [
        at_least(
            f"throughput, gate / no gate, {CONNECTIONS} connections",
            median_of(rounds, lambda found: found[0].per_second / found[1].per_second), "", 0.6,
        ),
        told("  gate", median_of(rounds, lambda found: found[0].per_second), "requests/s"),
        told("  no gate", median_of(rounds, lambda found: found[1].per_second), "requests/s"),
        told("  nginx as a hop", nginx.per_second, "requests/s"),
        told("processor time a request, gate", median_of(rounds, lambda found: found[0].cpu_us), "us"),
        told("  no gate", median_of(rounds, lambda found: found[1].cpu_us), "us"),
        told("added at one connection, gate", statistics.median(found[0] for found in added), "us"),
        told("  no gate", statistics.median(found[1] for found in added), "us"),
    ]  # fmt: skip

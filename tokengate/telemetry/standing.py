"""How budgets stand, for Prometheus: gauges of what all gates of a tenant share.

Only what has a console tells them, read from the store when somebody scrapes. Gates beside agents do not: a figure told
by a hundred of them would be a hundred times itself under `sum`. Where several consoles tell it, `max by (tenant, kind,
name)` is right, and is what the rules and dashboards ask for.

Labels are bounded: the tenant, and the `AGENTS_MAX` agents that have used the most of their budgets. Sessions are
counted and never named. Reading takes `READ_S_MAX` seconds at the most, whatever the store does.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tokengate.telemetry.exposition import GAUGE, families, gauge, written

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

AGENTS_MAX: Final = 100
READ_S_MAX: Final = 2.0

PERCENTS: Final = (50, 80, 95, 100)
"""The shares of a budget for which it is told how many sessions have spent as much."""

NANO: Final = 1_000_000_000

FAMILIES: Final = families(
    ("budget_usd", GAUGE, "tenant kind name", "The budget of the tenant, or of an agent, for its period."),
    ("budget_spent_usd", GAUGE, "tenant kind name", "Of that budget, what is spent."),
    ("budget_held_usd", GAUGE, "tenant kind name", "Of that budget, what calls under way hold."),
    ("held_usd", GAUGE, "tenant", "What all calls under way hold; absent if they are too many to look at."),
    ("holds", GAUGE, "tenant", "Calls under way that hold money, of all gates."),
    ("sessions", GAUGE, "tenant", "Sessions that there are."),
    ("sessions_near_budget", GAUGE, "tenant percent", "Sessions that have spent at least so much of their budgets."),
    ("frozen", GAUGE, "tenant kind", "Sessions, agents and tenants that are frozen."),
    ("store_memory_bytes", GAUGE, "", "Memory that the store uses."),
    ("store_memory_max_bytes", GAUGE, "", "Memory that the store may use; absent without a limit."),
)  # fmt: skip

_ALONE: Final = families(
    ("store_up", GAUGE, "", "1 if the store answered the last time it was asked."),
    ("build_info", GAUGE, "version role", "1, with what runs."),
)


class Budget(Struct, frozen=True):
    """A budget that callers share."""

    kind: str
    """`tenant` or `agent`."""
    name: str
    cap_nano: int
    spent_nano: int
    held_nano: int


class Standing(Struct, frozen=True):
    """How a tenant stands, over all its gates."""

    tenant: str
    budgets: tuple[Budget, ...]
    """No two of the same kind and name."""
    held_nano: int | None
    holds: int
    sessions: int
    near: tuple[int, ...]
    """For each of `PERCENTS`."""
    frozen: tuple[tuple[str, int], ...]
    """By kind."""
    memory_bytes: int | None
    memory_bytes_max: int | None


Read = Callable[[], Awaitable[Standing | None]]
"""Gives how the tenant stands; None if that cannot be found out."""


class Reading:
    """Reads for scrapes: whoever asks while it is being read waits for the same answer."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._under_way: asyncio.Task[Standing | None] | None = None

    async def __call__(self) -> Standing | None:
        """How the tenant stands; None if the store did not say in time."""
        if self._under_way is None:
            self._under_way = asyncio.get_running_loop().create_task(self._bounded())
            self._under_way.add_done_callback(self._ended)
        # A scrape that is given up must not take the answer from the others.
        return await asyncio.shield(self._under_way)

    async def _bounded(self) -> Standing | None:
        try:
            async with asyncio.timeout(READ_S_MAX):
                return await self._read()
        except TimeoutError:
            return None

    def _ended(self, _: "asyncio.Task[Standing | None]") -> None:
        self._under_way = None


def collect(standing: Standing) -> "Iterator[Metric]":
    """The families of `FAMILIES`."""
    tenant = (standing.tenant,)
    for name, field in (
        ("budget_usd", "cap_nano"),
        ("budget_spent_usd", "spent_nano"),
        ("budget_held_usd", "held_nano"),
    ):
        rows = [((*tenant, each.kind, each.name), getattr(each, field) / NANO) for each in standing.budgets]
        yield gauge(FAMILIES[name], rows)
    yield gauge(FAMILIES["held_usd"], [] if standing.held_nano is None else [(tenant, standing.held_nano / NANO)])
    yield gauge(FAMILIES["holds"], [(tenant, standing.holds)])
    yield gauge(FAMILIES["sessions"], [(tenant, standing.sessions)])
    near = [((*tenant, str(percent)), count) for percent, count in zip(PERCENTS, standing.near, strict=True)]
    yield gauge(FAMILIES["sessions_near_budget"], near)
    yield gauge(FAMILIES["frozen"], [((*tenant, kind), count) for kind, count in standing.frozen])
    for name, value in (
        ("store_memory_bytes", standing.memory_bytes),
        ("store_memory_max_bytes", standing.memory_bytes_max),
    ):
        yield gauge(FAMILIES[name], [] if value is None else [((), value)])


class StandingExposition:
    """What a console tells that has no calls: how budgets stand, whether there is a store, and the process itself."""

    def __init__(self, reading: Reading, version: str) -> None:
        self._reading = reading
        self._version = version

    async def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text for an `Accept` header."""
        from prometheus_client import CollectorRegistry, ProcessCollector  # noqa: PLC0415 - only scrapes need it

        standing = await self._reading()
        own = (
            gauge(_ALONE["store_up"], [((), 0 if standing is None else 1)]),
            gauge(_ALONE["build_info"], [((self._version, "console"), 1)]),
        )
        process = ProcessCollector(registry=CollectorRegistry()).collect()
        return await written(itertools.chain(own, process, collect(standing) if standing is not None else ()), accept)

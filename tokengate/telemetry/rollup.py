"""What the page shows of all gates together, for where there is no Prometheus: sums by hour, kept in the store.

Each gate adds up what it has recorded and posts the sums every `POST_EVERY_S` seconds, off every request's way, to one
hash for each tenant and hour (docs/reference/store.md). There are at most `FIELDS_MAX` fields in it, whatever callers
do. These are statistics: a gate that is killed takes the sums of the last seconds with it, and a batch whose posting
breaks off in the very moment may be counted twice. What was spent is the ledger's to know.

`Rollup` adds up and posts; `read` makes a `Stats` of the fields of any number of hours.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

import structlog
from msgspec import Struct

from tokengate.domain import Ending, Outcome, Reason
from tokengate.telemetry.metrics import OUTCOMES, SHORT_US

POST_EVERY_S: Final = 5.0

TENANTS_HELD_MAX: Final = 256
"""Tenants whose sums one gate keeps between two posts; what is recorded for others meanwhile is left out."""

REQUESTS: Final = "requests:"
"""Field `requests:OUTCOME`: how many requests ended so."""
BLOCKED: Final = "blocked:"
"""Field `blocked:REASON`."""
SAVED: Final = "saved_nano"
OVERHEAD_SUM: Final = "overhead_us"
OVERHEAD: Final = "overhead_le_us:"
"""Field `overhead_le_us:BOUND`: requests in which the gate itself took no longer than this, and longer than the next
lower bound; `inf` is the last."""

_BOUNDS: Final = (*(str(bound) for bound in SHORT_US), "inf")
FIELDS_MAX: Final = len(OUTCOMES) + len(Reason) + 2 + len(_BOUNDS)

_CLIENT_CLOSED: Final = 499

Post = Callable[[str, Mapping[str, int]], Awaitable[None]]
"""Adds sums to a tenant's hash of this hour; raises if they may not have been added."""

log = structlog.get_logger()


class Rollup:
    """One gate's sums. `record` and, at the end, `flush`."""

    def __init__(self, post: Post, tenant: str) -> None:
        """`tenant`: whose a request is of which nobody has found out whose it is."""
        self._post = post
        self._tenant = tenant
        self._sums: dict[str, dict[str, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._posting: asyncio.Task[None] | None = None

    def record(self, outcome: Outcome) -> None:
        """Take one finished request."""
        session = outcome.session
        tenant = self._tenant if session is None else session.tenant
        sums = self._sums.get(tenant)
        if sums is None:
            if len(self._sums) >= TENANTS_HELD_MAX:
                return
            sums = self._sums[tenant] = {}
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(POST_EVERY_S, self._begin)
        became = _became(outcome)
        sums[became] = sums.get(became, 0) + 1
        if outcome.decision == "blocked" and outcome.reason is not None:
            why = BLOCKED + outcome.reason
            sums[why] = sums.get(why, 0) + 1
            if outcome.saved_nano:
                sums[SAVED] = sums.get(SAVED, 0) + outcome.saved_nano
        elif outcome.ending is None:
            return
        took_us = outcome.overhead_us
        bucket = _OVERHEAD_FIELDS[bisect_left(SHORT_US, took_us)]
        sums[bucket] = sums.get(bucket, 0) + 1
        sums[OVERHEAD_SUM] = sums.get(OVERHEAD_SUM, 0) + took_us

    def _begin(self) -> None:
        self._timer = None
        if self._posting is None:
            self._posting = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            await self.flush()
        finally:
            self._posting = None

    async def flush(self) -> None:
        """Post what has gathered; what the store did not take is kept, and comes again with the next."""
        gathered, self._sums = self._sums, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for tenant, sums in gathered.items():
            try:
                await self._post(tenant, sums)
            except Exception as error:  # noqa: BLE001 - statistics stop nothing, whatever is wrong with the store
                log.debug("statistics were not posted", tenant=tenant, error=str(error))
                kept = self._sums.setdefault(tenant, {})
                for name, amount in sums.items():
                    kept[name] = kept.get(name, 0) + amount
        if self._sums and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POST_EVERY_S, self._begin)

    async def aclose(self) -> None:
        """Post the rest, and stop."""
        if self._posting is not None:
            await self._posting
        await self.flush()
        if self._timer is not None:
            self._timer.cancel()


class Stats(Struct, frozen=True):
    """What the gates of a tenant have recorded."""

    requests: dict[str, int]
    """By outcome: docs/reference/metrics.md says what each is."""
    blocked: dict[str, int]
    """By reason."""
    saved_nano: int
    """What was not spent, by the estimates of the calls that were refused for good."""
    overhead_us: int
    """What the gates took for all requests that they decided, in microseconds."""
    overhead_counts: tuple[int, ...]
    """How many of those requests took no longer than each of the bounds of `metrics.SHORT_US`, and how many longer."""

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    def overhead_quantile_us(self, quantile: float) -> int | None:
        """The bound below which this part of the requests is (0 < quantile <= 1); None if there are none.

        Above the highest bound it is that bound.
        """
        total = sum(self.overhead_counts)
        seen = 0
        for bound, count in zip((*SHORT_US, SHORT_US[-1]), self.overhead_counts, strict=True):
            seen += count
            if total and seen >= quantile * total:
                return bound
        return None


def read(hours: Iterable[Mapping[str, int]]) -> Stats:
    """The sum of hours, each given by the fields of its hash; fields that are not known are passed over."""
    requests: dict[str, int] = {}
    blocked: dict[str, int] = {}
    saved = overhead = 0
    counts = dict.fromkeys(_OVERHEAD_FIELDS, 0)
    for fields in hours:
        for name, amount in fields.items():
            if name.startswith(REQUESTS):
                _add(requests, name.removeprefix(REQUESTS), amount)
            elif name.startswith(BLOCKED):
                _add(blocked, name.removeprefix(BLOCKED), amount)
            elif name in counts:
                counts[name] += amount
            elif name == SAVED:
                saved += amount
            elif name == OVERHEAD_SUM:
                overhead += amount
    return Stats(requests, blocked, saved, overhead, tuple(counts.values()))


def _add(sums: dict[str, int], name: str, amount: int) -> None:
    sums[name] = sums.get(name, 0) + amount


def _became(outcome: Outcome) -> str:
    if outcome.ending is not None:
        return _ENDED[outcome.ending]
    if outcome.decision == "blocked":
        return _WAS_BLOCKED
    return _LEFT if outcome.status == _CLIENT_CLOSED else _PASSED


_ENDED: Final = {ending: REQUESTS + ending for ending in Ending}
_OVERHEAD_FIELDS: Final = tuple(OVERHEAD + bound for bound in _BOUNDS)
_WAS_BLOCKED, _PASSED, _LEFT = (REQUESTS + name for name in ("blocked", "passed", "left"))

"""Sums for people, from the roll-ups: what was spent on what over time, and the whole at a glance.

Days and months are those of UTC, in which the roll-ups are kept. Figures are exact sums of what was charged, but for
those that say that they look ahead or go by an hour that is not over.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from tokengate.control import Invalid
from tokengate.control.words import (
    POINTS_MAX,
    Account,
    By,
    Nano,
    Per,
    Point,
    Spend,
    SpendQuery,
    Stats,
    StoreState,
)
from tokengate.ledger.books import Hour, Reports, Used

HOURS_CACHED: Final = 1000
"""How many hours that are over are remembered: they do not change, and a page asks for them every ten seconds."""

RANGE_DAYS_MAX: Final = 400
"""How long the roll-ups are kept."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_CORRECTED_HOURS: Final = 2
"""A charge is rolled up in the hour that its gate takes it to be: the clocks of two may differ, but not by so much."""

Bucket = Callable[[int], int]
"""From an instant to the beginning of what it is summed up in, in ms."""


class Hours:
    """The roll-ups of hours, remembered where they cannot change."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._past: dict[int, Hour | None] = {}

    async def between(self, first: int, last: int, now_ms: int) -> list[Hour]:
        """The hours that have a roll-up, both ends included."""
        missing = next((hour for hour in range(first, last + 1) if hour not in self._past), None)
        read: dict[int, Hour] = {}
        if missing is not None:
            read = {hour.hour: hour for hour in await self._reports.hours(missing, last)}
            settled = min(last, now_ms // _HOUR_MS - _CORRECTED_HOURS)
            for hour in range(missing, settled + 1):
                self._past[hour] = read.get(hour)
        found = [read[hour] if hour in read else self._past.get(hour) for hour in range(first, last + 1)]
        for hour in sorted(self._past)[: max(0, len(self._past) - HOURS_CACHED)]:
            del self._past[hour]
        return [hour for hour in found if hour is not None]


class _Parts:
    """What was spent, by when and on what."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.used: dict[tuple[int, str], Used] = {}

    def add(self, at_ms: int, name: str, used: Used) -> None:
        self.used.setdefault((self._bucket(at_ms), name), Used()).add(used)

    def add_the_rest(self, hours: Iterable[Hour]) -> None:
        """What no session or agent is named for: the cheapest ones of a day, and calls without an agent."""
        for (start_ms, _), used in list(self.used.items()):
            self.add(start_ms, "", Used(cost_nano=-used.cost_nano))
        for hour in hours:
            self.add(hour.hour * _HOUR_MS, "", Used(cost_nano=_whole(hour).cost_nano))
        for key in [key for key, used in self.used.items() if not key[1] and used.cost_nano <= 0]:
            del self.used[key]


async def spend(query: SpendQuery, reports: Reports, hours: Hours, now_ms: int) -> Spend:
    """What was spent.

    Raises:
        Invalid: a time that ends before it begins, or more than can be told.
    """
    by_day = query.by in (By.SESSION, By.AGENT)
    if by_day and query.per is Per.HOUR:
        raise Invalid("by session and by agent, spending is kept for days, not for hours")
    if query.to_ms <= query.from_ms:
        raise Invalid("the time ends before it begins")
    step_ms = _DAY_MS if by_day else _HOUR_MS
    first, end = query.from_ms // step_ms, -(-min(query.to_ms, now_ms + 1) // step_ms)
    if (end - first) * step_ms > (RANGE_DAYS_MAX + 1) * _DAY_MS:
        raise Invalid(f"at most {RANGE_DAYS_MAX} days can be asked for: longer, nothing is kept")
    parts = _Parts(_bucket(query.per, first * step_ms))
    if by_day:
        await _by_day(query, parts, reports, hours, (first, end, now_ms))
    elif query.by is By.TENANT:
        await _by_tenant(query, parts, reports, (first, end))
    else:
        _by_model(query, parts, await hours.between(first, end - 1, now_ms))
    points = _points(parts.used, query.series_max, counted=not by_day)
    return Spend(
        by=query.by,
        per=query.per,
        from_ms=first * step_ms,
        to_ms=max(first, end) * step_ms,
        total_nano=Nano(sum(point.spent_nano for point in points)),
        points=points,
    )


async def _by_day(query: SpendQuery, parts: _Parts, reports: Reports, hours: Hours, when: tuple[int, int, int]) -> None:
    first, end, now_ms = when
    for day, names in await reports.days(query.by, first, end - 1, query.name):
        for name, nano in names:
            parts.add(day * _DAY_MS, name, Used(cost_nano=nano))
    if not query.name:
        parts.add_the_rest(await hours.between(first * 24, end * 24 - 1, now_ms))


async def _by_tenant(query: SpendQuery, parts: _Parts, reports: Reports, when: tuple[int, int]) -> None:
    for tenant in await reports.tenants():
        if query.name in ("", tenant):
            for hour in await reports.of(tenant).hours(when[0], when[1] - 1):
                parts.add(hour.hour * _HOUR_MS, tenant, _whole(hour))


def _by_model(query: SpendQuery, parts: _Parts, hours: Iterable[Hour]) -> None:
    for hour in hours:
        for model, used in hour.models.items():
            if query.name in ("", model):
                parts.add(hour.hour * _HOUR_MS, model, used)


def _points(parts: dict[tuple[int, str], Used], series_max: int, *, counted: bool) -> list[Point]:
    totals: dict[str, int] = {}
    for (_, name), used in parts.items():
        totals[name] = totals.get(name, 0) + used.cost_nano
    totals.pop("", None)
    told_apart = set(sorted(totals, key=lambda name: (-totals[name], name))[:series_max])
    summed: dict[tuple[int, str], Used] = {}
    for (start_ms, name), used in parts.items():
        summed.setdefault((start_ms, name if name in told_apart else ""), Used()).add(used)
    if len(summed) > POINTS_MAX:
        raise Invalid(f"that is more than {POINTS_MAX} figures: ask for a shorter time, or for days or months")
    ordered = sorted(summed.items(), key=lambda each: (each[0][0], not each[0][1], -each[1].cost_nano, each[0][1]))
    return [
        Point(
            start_ms=start_ms,
            name=name,
            spent_nano=Nano(used.cost_nano),
            requests=used.requests if counted else None,
            input_tokens=used.input_tokens if counted else None,
            output_tokens=used.output_tokens if counted else None,
        )
        for (start_ms, name), used in ordered
    ]


async def stats(
    *,
    reports: Reports,
    hours: Hours,
    now_ms: int,
    tenant: str,
    tenant_account: Account | None,
    sessions: int,
    sessions_frozen: int,
    agents_frozen: int,
) -> Stats:
    """The whole tenant at a glance."""
    hour_now, today = now_ms // _HOUR_MS, now_ms // _DAY_MS * 24
    month, next_month = _month(now_ms)
    first = min(month // _HOUR_MS, today - 24)
    known = await hours.between(first, hour_now, now_ms)

    def spent(since: int, before: int = hour_now + 1) -> int:
        return sum(_whole(hour).cost_nano for hour in known if since <= hour.hour < before)

    # The part of the hour before that lies within the last sixty minutes, and likewise of the same hour yesterday.
    rest_ms = _HOUR_MS - now_ms % _HOUR_MS
    last_hour = spent(hour_now) + spent(hour_now - 1, hour_now) * rest_ms // _HOUR_MS
    last_day = spent(hour_now - 23) + spent(hour_now - 24, hour_now - 23) * rest_ms // _HOUR_MS
    so_far = [hour for hour in known if hour.hour >= today]
    used = Used()
    for hour in so_far:
        used.add(_whole(hour))
    # What writes logs comes with it, which only this needs.
    from tokengate.telemetry import rollup  # noqa: PLC0415

    counted = rollup.read(await reports.counted(today, hour_now))
    in_flight, held = await reports.under_way()
    server = await reports.server()
    return Stats(
        tenant=tenant,
        now_ms=now_ms,
        sessions=sessions,
        sessions_frozen=sessions_frozen,
        agents_frozen=agents_frozen,
        tenant_account=tenant_account,
        in_flight=in_flight,
        held_nano=None if held is None else Nano(held),
        spent_today_nano=Nano(used.cost_nano),
        spent_yesterday_nano=Nano(spent(today - 24, today)),
        spent_hour_nano=Nano(last_hour),
        spent_month_nano=Nano(spent(month // _HOUR_MS)),
        projected_today_nano=Nano(used.cost_nano + last_hour * ((today + 24) * _HOUR_MS - now_ms) // _HOUR_MS),
        projected_month_nano=Nano(spent(month // _HOUR_MS) + last_day * (next_month - now_ms) // _DAY_MS),
        requests_today=used.requests,
        input_tokens_today=used.input_tokens,
        output_tokens_today=used.output_tokens,
        blocked_today=counted.blocked,
        saved_today_nano=Nano(counted.saved_nano),
        overhead_p50_us=counted.overhead_quantile_us(0.5),
        overhead_p99_us=counted.overhead_quantile_us(0.99),
        store=StoreState(
            version=server.version,
            memory_bytes=server.memory_bytes,
            memory_bytes_max=server.memory_bytes_max,
            evicts=server.evicts,
        ),
    )


def _whole(hour: Hour) -> Used:
    """All models together."""
    whole = Used()
    for used in hour.models.values():
        whole.add(used)
    return whole


def _bucket(per: Per, first_ms: int) -> Bucket:
    if per is Per.HOUR:
        return lambda at_ms: at_ms // _HOUR_MS * _HOUR_MS
    if per is Per.DAY:
        return lambda at_ms: at_ms // _DAY_MS * _DAY_MS
    if per is Per.MONTH:
        return lambda at_ms: _month(at_ms)[0]
    return lambda _: first_ms


def _month(at_ms: int) -> tuple[int, int]:
    """The beginnings of the month of an instant and of the next one, in ms."""
    start = datetime.fromtimestamp(at_ms / 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    after = (start + timedelta(days=32)).replace(day=1)
    return int(start.timestamp()) * 1000, int(after.timestamp()) * 1000

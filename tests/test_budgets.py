"""Which limits apply to a call, and when their periods begin: also where clocks are put forward and back."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.budgets import (
    TYPICAL_OUTPUT_COLD_TOKENS,
    Policy,
    TypicalOutput,
    ample_nano,
    limits,
    session_limit,
    window_start,
    windows,
)
from tokengate.domain import Limit, Period, Quote, Scope, Session

HOUR_MS = 3_600_000
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",  # goes forward at midnight
    "America/Havana",  # goes back over midnight
    "Asia/Kolkata",  # half an hour
    "Asia/Kathmandu",  # three quarters
    "Africa/Cairo",
    "Pacific/Chatham",
    "Pacific/Apia",
]
PERIODS = [Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH]
LENGTHS_H = {Period.HOUR: (1, 1), Period.DAY: (22, 26), Period.WEEK: (166, 170), Period.MONTH: (670, 746)}
instants = st.integers(
    int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000), int(datetime(2037, 1, 1, tzinfo=UTC).timestamp() * 1000)
)


def limit(period: Period, timezone: str) -> Limit:
    return Limit(Scope("default", "session", "a"), 1, period, timezone)


def window(period: Period, timezone: str, at: str) -> tuple[str, str]:
    """The period that holds an instant, all in UTC."""
    at_ms = int(datetime.fromisoformat(f"{at}+00:00").timestamp() * 1000)
    found = window_start(windows(limit(period, timezone), at_ms), at_ms)
    assert found is not None
    start, end = (datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="minutes")[:16] for ms in found)
    return start, end


CASES = [
    (Period.HOUR, "UTC", "2026-05-04T10:59", "2026-05-04T10:00", "2026-05-04T11:00"),
    (Period.HOUR, "Asia/Kolkata", "2026-05-04T10:29", "2026-05-04T09:30", "2026-05-04T10:30"),
    (Period.HOUR, "Asia/Kathmandu", "2026-05-04T10:14", "2026-05-04T09:15", "2026-05-04T10:15"),
    (Period.DAY, "UTC", "2026-05-04T00:00", "2026-05-04T00:00", "2026-05-05T00:00"),
    (Period.DAY, "Europe/Berlin", "2026-05-04T21:59", "2026-05-03T22:00", "2026-05-04T22:00"),
    (Period.DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),  # 23 hours
    (Period.DAY, "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
    (Period.DAY, "America/Santiago", "2026-09-06T05:00", "2026-09-06T04:00", "2026-09-07T03:00"),  # no midnight
    (Period.DAY, "America/Havana", "2026-11-01T05:30", "2026-11-01T04:00", "2026-11-02T05:00"),  # two midnights
    (Period.WEEK, "UTC", "2026-05-03T23:59", "2026-04-27T00:00", "2026-05-04T00:00"),  # Monday to Sunday
    (Period.WEEK, "Europe/Berlin", "2026-03-29T12:00", "2026-03-22T23:00", "2026-03-29T22:00"),
    (Period.MONTH, "UTC", "2026-02-28T23:59", "2026-02-01T00:00", "2026-03-01T00:00"),
    (Period.MONTH, "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    (Period.MONTH, "UTC", "2026-01-31T12:00", "2026-01-01T00:00", "2026-02-01T00:00"),
    (Period.MONTH, "UTC", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
    (Period.MONTH, "Europe/Berlin", "2026-10-31T23:30", "2026-10-31T23:00", "2026-11-30T23:00"),
    (Period.MONTH, "Europe/Berlin", "2026-10-31T22:30", "2026-09-30T22:00", "2026-10-31T23:00"),
]


@pytest.mark.parametrize(("period", "timezone", "at", "start", "end"), CASES)
def test_a_period_begins_where_a_calendar_says(period: Period, timezone: str, at: str, start: str, end: str) -> None:
    assert window(period, timezone, at) == (start, end)


@given(instants, st.sampled_from(PERIODS), st.sampled_from(ZONES))
def test_periods_follow_each_other_without_gap_and_start_at_a_beginning(
    at_ms: int, period: Period, timezone: str
) -> None:
    boundaries = windows(limit(period, timezone), at_ms)
    found = window_start(boundaries, at_ms)
    assert found is not None
    start, end = found
    shortest, longest = LENGTHS_H[period]
    for earlier, later in pairwise(boundaries):
        assert shortest * HOUR_MS <= later - earlier <= longest * HOUR_MS
    # Whoever asks at either end finds the same boundaries, so that a budget starts anew once.
    assert window_start(windows(limit(period, timezone), start), start) == found
    assert window_start(windows(limit(period, timezone), end - 1), end - 1) == found
    after = window_start(windows(limit(period, timezone), end), end)
    assert after is not None
    assert after[0] == end
    local = datetime.fromtimestamp(start / 1000, ZoneInfo(timezone))
    assert (local.minute, local.second) == (0, 0)
    if period is not Period.HOUR:
        day_before = (local.astimezone(UTC) - timedelta(seconds=1)).astimezone(ZoneInfo(timezone)).date()
        assert day_before < local.date()
    if period is Period.WEEK:
        assert local.weekday() == 0
    if period is Period.MONTH:
        assert local.day == 1


@given(instants, st.sampled_from(PERIODS), st.sampled_from(ZONES), st.integers(1 - HOUR_MS, HOUR_MS - 1))
def test_a_store_whose_clock_differs_by_less_than_the_shortest_period_finds_its_own(
    at_ms: int, period: Period, timezone: str, skew_ms: int
) -> None:
    assert window_start(windows(limit(period, timezone), at_ms), at_ms + skew_ms) is not None


def test_without_a_period_there_are_no_boundaries() -> None:
    assert windows(limit(Period.NONE, "UTC"), 0) == ()
    assert window_start((), 0) is None


ALICE = Session("alice", "acme", "crawler")


@pytest.mark.parametrize(
    ("policy", "session", "expected"),
    [
        (Policy(5), ALICE, [("session", "alice", 5)]),
        (Policy(5, agent_cap_nano=7), ALICE, [("session", "alice", 5), ("agent", "crawler", 7)]),
        (Policy(5, agent_cap_nano=7), Session("alice", "acme"), [("session", "alice", 5)]),
        (Policy(5, tenant_cap_nano=9), ALICE, [("session", "alice", 5), ("tenant", "acme", 9)]),
        (
            Policy(5, agent_cap_nano=0, tenant_cap_nano=0),
            ALICE,
            [("session", "alice", 5), ("agent", "crawler", 0), ("tenant", "acme", 0)],
        ),
    ],
)
def test_the_limits_of_a_call(policy: Policy, session: Session, expected: list[tuple[str, str, int]]) -> None:
    path = limits(policy, session)
    assert [(each.scope.kind, each.scope.name, each.cap_default_nano) for each in path] == expected
    assert {each.scope.tenant for each in path} == {"acme"}
    assert path[0] == session_limit(policy, session)


def test_each_kind_of_budget_has_its_own_period() -> None:
    policy = Policy(1, Period.HOUR, 1, Period.WEEK, 1, Period.MONTH, timezone="Asia/Tokyo")
    assert [each.period for each in limits(policy, ALICE)] == [Period.HOUR, Period.WEEK, Period.MONTH]
    assert {each.timezone for each in limits(policy, ALICE)} == {"Asia/Tokyo"}


def test_a_typical_answer_is_learnt_from_the_latest_answers_of_its_model() -> None:
    typical = TypicalOutput()
    for tokens in range(1000, 1300):
        typical.observe("m", tokens)
    assert 1270 <= typical.of("m") <= 1300
    for _ in range(300):
        typical.observe("m", 10)
    assert typical.of("m") == 10
    assert typical.of("other") == TYPICAL_OUTPUT_COLD_TOKENS


def test_the_first_answers_of_many_are_the_shortest_and_lower_nothing() -> None:
    typical = TypicalOutput()
    for _ in range(240):
        typical.observe("m", 10)
    assert typical.of("m") == TYPICAL_OUTPUT_COLD_TOKENS
    for _ in range(16):
        typical.observe("m", 10)
    assert typical.of("m") == 10


def test_long_first_answers_raise_what_is_typical_at_once() -> None:
    typical = TypicalOutput()
    for _ in range(32):
        typical.observe("m", 3000)
    assert typical.of("m") == 3000


@pytest.mark.parametrize(
    ("floor", "need", "want", "waited_ms", "expected"),
    [
        (10, 110, 10_000, 0, 510),  # the floor, and ample room
        (10, 110, 10_000, 300, 343),
        (10, 110, 10_000, 720, 110),  # room for a typical answer
        (10, 110, 10_000, 900, 10),
        (10, 110, 10_000, 5000, 10),
        (10, 110, 300, 0, 300),  # never more than the call can cost
        (10, 110, 300, 450, 260),
        (300, 300, 300, 0, 300),  # a call whose output may not be capped
        (300, 300, 300, 900, 300),
    ],
)
def test_what_a_call_asks_for(floor: int, need: int, want: int, waited_ms: int, expected: int) -> None:
    assert ample_nano(Quote(floor, need, want, 0, 1, 1, cappable=True), waited_ms, 1000) == expected


def test_invented_models_do_not_grow_the_memory_of_typical_answers() -> None:
    typical = TypicalOutput()
    for number in range(2000):
        typical.observe(f"model-{number}", 1)
    assert len(typical._models) <= 256

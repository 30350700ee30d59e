"""The events that people are told of: written once by the scripts, read in order by one gate at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.hashes import happened
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tokengate.budgets import Policy, limits
from tokengate.domain import Ending, Period, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement, keys
from tokengate.ledger.events import BATCH_MAX, LEASE_MS, QUIET_MS, EventFeed, Taken
from tokengate.ledger.redis import RedisLedger

USD: Final = 1_000_000_000
NOW_MS: Final = 1_790_000_000_000
DAY_MS: Final = 86_400_000
ALICE: Final = Session("alice", agent="crawler")
PLAIN: Final = Policy(10 * USD)
SESSION: Final = "tokengate:{default}:session:alice"
THRESHOLDS: Final = (50, 80, 95, 100)


@pytest.fixture
def cli(server: Server) -> Any:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def ledger(server: Server, cli: "redis.Redis") -> AsyncIterator[RedisLedger]:
    opened = ledger_of(server)
    yield opened
    await opened.aclose()


def ledger_of(server: Server, thresholds: tuple[int, ...] = THRESHOLDS) -> RedisLedger:
    opened = RedisLedger(
        link_to(server.socket), owner="one", lease_ms=60_000, sessions_max=100, retry_ms=500, thresholds=thresholds
    )
    opened.now_ms = NOW_MS
    return opened


async def hold(ledger: RedisLedger, hold_id: str, nano: int, policy: Policy = PLAIN) -> Kind:
    path = limits(policy, ALICE)
    return (await ledger.reserve(Ask(hold_id, ALICE, path, nano, nano, nano, True, "gpt-4o"))).kind


async def spend(ledger: RedisLedger, hold_id: str, nano: int, policy: Policy = PLAIN) -> None:
    assert await hold(ledger, hold_id, nano, policy) is Kind.HELD
    await post(ledger, hold_id, nano, policy)


async def post(ledger: RedisLedger, hold_id: str, nano: int, policy: Policy = PLAIN) -> None:
    path = limits(policy, ALICE)
    await ledger.settle(Settlement(hold_id, ALICE, path, nano, False, Ending.COMPLETE, "gpt-4o", Usage()))


def told(cli: "redis.Redis", *kinds: str) -> list[tuple[str, str, str]]:
    """What was told of budgets: the scope's kind, the percentage (or `relief`), and what was spent."""
    return [
        (fields["scope"].split(":")[2], fields.get("percent", fields["kind"]), fields["spent"])
        for fields in happened(cli)
        if fields["kind"] in (kinds or ("threshold", "relief"))
    ]


class TestThresholds:
    async def test_each_is_told_once(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        for number in range(10):
            await spend(ledger, f"h{number}", USD)
        assert told(cli) == [
            ("session", "50", "5.000000000"),
            ("session", "80", "8.000000000"),
            ("session", "100", "10.000000000"),
        ]

    async def test_with_what_a_person_needs_to_know(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        policy = Policy(10 * USD, session_period=Period.DAY)
        await spend(ledger, "one", 8 * USD, policy)
        (fields,) = happened(cli)
        resets = cli.hget(SESSION, "resets_at_ms")
        assert resets is not None
        assert fields == {
            "at_ms": str(NOW_MS),
            "kind": "threshold",
            "scope": SESSION,
            "percent": "80",
            "budget": "10.000000000",
            "spent": "8.000000000",
            "resets": resets,
        }

    async def test_the_highest_that_was_passed(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await spend(ledger, "one", 9_600_000_000)
        assert told(cli) == [("session", "95", "9.600000000")]

    async def test_a_nano_dollar_decides(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await spend(ledger, "one", 5 * USD - 1)
        assert told(cli) == []
        await spend(ledger, "two", 1)
        assert told(cli) == [("session", "50", "5.000000000")]

    async def test_every_budget_of_the_path_has_its_own(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        policy = Policy(10 * USD, agent_cap_nano=6 * USD, tenant_cap_nano=20 * USD)
        await spend(ledger, "one", 5 * USD, policy)
        assert told(cli) == [("session", "50", "5.000000000"), ("agent", "80", "5.000000000")]

    async def test_a_correction_downwards_does_not_tell_again(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await hold(ledger, "one", 6 * USD)
        ledger.now_ms += 61_000
        assert await ledger.sweep("default") == 1
        assert told(cli) == [("session", "50", "6.000000000")]
        await post(ledger, "one", USD)
        await spend(ledger, "two", 5 * USD)
        assert told(cli) == [("session", "50", "6.000000000")]

    async def test_a_new_epoch_is_told_of_anew(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await spend(ledger, "one", 5 * USD)
        (limit,) = limits(PLAIN, ALICE)
        await ledger.reset(limit.scope)
        await spend(ledger, "two", 5 * USD)
        assert [percent for _, percent, _ in told(cli)] == ["50", "relief", "50"]

    async def test_so_is_a_new_period(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        policy = Policy(10 * USD, session_period=Period.DAY, tenant_cap_nano=100 * USD)
        await spend(ledger, "one", 5 * USD, policy)
        ledger.now_ms += DAY_MS
        await hold(ledger, "two", 5 * USD, policy)
        assert [percent for _, percent, _ in told(cli)] == ["50", "relief"]
        await post(ledger, "two", 5 * USD, policy)
        assert [percent for _, percent, _ in told(cli)] == ["50", "relief", "50"]

    async def test_so_is_a_changed_budget(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        (limit,) = limits(PLAIN, ALICE)
        await spend(ledger, "one", 9 * USD)
        await ledger.set_budget(limit.scope, 11 * USD)
        assert [percent for _, percent, _ in told(cli)] == ["80", "80"]
        await ledger.set_budget(limit.scope, 100 * USD)
        assert [percent for _, percent, _ in told(cli)] == ["80", "80", "relief"]

    async def test_also_one_that_a_person_has_changed_by_hand(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await spend(ledger, "one", 4 * USD)
        cli.hset(SESSION, "budget", "4.50")
        await spend(ledger, "two", 1)
        assert told(cli) == [("session", "80", "4.000000001")]

    async def test_a_refusal_counts_as_the_end_once_half_is_spent(
        self, ledger: RedisLedger, cli: "redis.Redis"
    ) -> None:
        assert await hold(ledger, "dear", 11 * USD) is Kind.EXCEEDED
        assert told(cli) == []
        await spend(ledger, "one", 7 * USD)
        for number in range(3):
            assert await hold(ledger, f"more-{number}", 4 * USD) is Kind.EXCEEDED
        await spend(ledger, "two", 3 * USD)
        assert told(cli) == [("session", "50", "7.000000000"), ("session", "100", "7.000000000")]

    async def test_none_are_told_where_none_are_set(self, server: Server, cli: "redis.Redis") -> None:
        ledger = ledger_of(server, ())
        await spend(ledger, "one", 10 * USD)
        assert await hold(ledger, "two", 1) is Kind.EXCEEDED
        assert told(cli) == []
        await ledger.aclose()

    async def test_rubbish_left_by_a_person_stops_no_money(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        await spend(ledger, "one", 5 * USD)
        cli.hset(SESSION, "alerted", "rubbish")
        await spend(ledger, "two", 3 * USD)
        assert cli.hget(SESSION, "spent") == "8.000000000"
        await hold(ledger, "three", USD)
        cli.hset(SESSION, "budget", "plenty")
        await post(ledger, "three", USD)
        assert cli.hget(SESSION, "spent") == "9.000000000"

    async def test_callers_at_once_are_told_once(self, server: Server, cli: "redis.Redis") -> None:
        ledgers = [ledger_of(server) for _ in range(4)]
        for number in range(40):
            await hold(ledgers[0], f"h{number}", USD // 4)
        await asyncio.gather(*(post(ledgers[number % 4], f"h{number}", USD // 4) for number in range(40)))
        assert [percent for _, percent, _ in told(cli)] == ["50", "80", "95", "100"]
        for each in ledgers:
            await each.aclose()


Step = tuple[str, int]
steps = st.one_of(
    st.tuples(st.just("spend"), st.integers(1, 40)),
    st.tuples(st.just("budget"), st.integers(1, 200)),
    st.tuples(st.just("reset"), st.just(0)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=25), st.sets(st.integers(1, 100), max_size=4))
def test_whatever_is_done_the_events_are_those_of_the_rule(
    server: Server, script: list[Step], percentages: set[int]
) -> None:
    """The rule again, in plain words: by epoch and budget, what was told of only rises."""
    thresholds = tuple(sorted(percentages))
    cap, spent, highest, expected = 100, 0, 0, []

    def rise() -> None:
        nonlocal highest
        passed = max((each for each in thresholds if spent * 100 >= cap * each), default=0)
        if passed > highest:
            highest = passed
            expected.append(str(passed))

    def anew() -> None:
        nonlocal highest
        before, highest = highest, 0
        rise()
        if before and not highest:
            expected.append("relief")

    async def play() -> None:
        nonlocal cap, spent
        ledger = ledger_of(server, thresholds)
        (limit,) = limits(PLAIN, ALICE)
        await ledger.set_budget(limit.scope, cap)
        for number, (what, amount) in enumerate(script):
            if what == "spend":
                # Without a hold, as after a failover: a budget may be overdrawn.
                await post(ledger, f"h{number}", amount)
                spent += amount
                rise()
            elif what == "reset":
                await ledger.reset(limit.scope)
                spent = 0
                anew()
            else:
                await ledger.set_budget(limit.scope, amount)
                changed, cap = amount != cap, amount
                anew() if changed else rise()
        await ledger.aclose()

    with server.client() as cli:
        cli.flushall()
        asyncio.run(play())
        assert [percent for _, percent, _ in told(cli)] == expected


# --- reading ---


def feed_of(ledger: RedisLedger, owner: str, reader: str = "alerts") -> EventFeed:
    feed = EventFeed(ledger.run, tenant="default", reader=reader, owner=owner)
    feed.now_ms = NOW_MS
    return feed


def happen(cli: "redis.Redis", *words: str) -> list[str]:
    """Events of a kind that nobody else writes; gives their ids."""
    return [
        str(cli.xadd("tokengate:{default}:events", {"at_ms": NOW_MS, "kind": "news", "word": word})) for word in words
    ]


def words(taken: Taken) -> list[str]:
    return [event.fields["word"] for event in taken.events]


class TestReading:
    async def test_what_was_before_is_no_news(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        happen(cli, "old")
        feed = feed_of(ledger, "one")
        assert words(await feed.take("")) == []
        happen(cli, "new")
        taken = await feed.take("")
        assert words(taken) == ["new"]
        (event,) = taken.events
        assert (event.kind, event.at_ms) == ("news", NOW_MS)

    async def test_what_is_not_noted_is_given_again(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        feed = feed_of(ledger, "one")
        await feed.take("")
        first, _ = happen(cli, "a", "b")
        assert words(await feed.take("")) == ["a", "b"]
        assert words(await feed.take(first)) == ["b"]
        assert words(await feed.take("")) == ["b"]

    async def test_one_at_a_time(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        one, two = feed_of(ledger, "one"), feed_of(ledger, "two")
        assert (await one.take("")).mine
        happen(cli, "a")
        assert await two.take("") == Taken(False, False, [])
        assert words(await one.take("")) == ["a"]

    async def test_when_the_reader_dies_the_next_one_reads_on(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        one, two = feed_of(ledger, "one"), feed_of(ledger, "two")
        await one.take("")
        first, second = happen(cli, "a", "b")
        await one.take(first)
        two.now_ms = NOW_MS + LEASE_MS - 1
        assert not (await two.take("")).mine
        two.now_ms = NOW_MS + LEASE_MS
        assert words(await two.take("")) == ["b"]
        # The first one was only slow: it may not note anything any more.
        one.now_ms = two.now_ms
        assert not (await one.take(second)).mine
        assert words(await two.take("")) == ["b"]

    async def test_who_lets_go_is_followed_at_once(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        one, two = feed_of(ledger, "one"), feed_of(ledger, "two")
        await one.take("")
        first, _ = happen(cli, "a", "b")
        await one.release(first)
        assert words(await two.take("")) == ["b"]

    async def test_other_readers_read_for_themselves(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        one, other = feed_of(ledger, "one"), feed_of(ledger, "two", "elsewhere")
        await one.take("")
        await other.take("")
        happen(cli, "a")
        assert words(await one.take("")) == words(await other.take("")) == ["a"]

    async def test_many_are_read_in_parts(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        feed = feed_of(ledger, "one")
        await feed.take("")
        ids = happen(cli, *map(str, range(BATCH_MAX + 1)))
        assert len((await feed.take("")).events) == BATCH_MAX
        assert words(await feed.take(ids[BATCH_MAX - 1])) == [str(BATCH_MAX)]

    async def test_what_was_trimmed_is_passed_over(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        feed = feed_of(ledger, "one")
        await feed.take("")
        first, _ = happen(cli, "a", "b")
        cli.xdel("tokengate:{default}:events", first)
        assert words(await feed.take("")) == ["b"]

    async def test_that_the_store_is_back_is_told_by_one(self, ledger: RedisLedger, cli: "redis.Redis") -> None:
        one, two = feed_of(ledger, "one"), feed_of(ledger, "two")
        assert (await two.take("", back=True)).may_tell_back
        assert not (await one.take("", back=True)).may_tell_back
        # The answer may have been lost on its way.
        assert (await two.take("", back=True)).may_tell_back
        one.now_ms += QUIET_MS
        assert (await one.take("", back=True)).may_tell_back

    def test_where_it_is_kept(self) -> None:
        assert keys.reader("default", "alerts-1") == "tokengate:{default}:reader:alerts-1"

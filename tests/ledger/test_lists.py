"""What lists and reports are made of: kept by the scripts, atomically, and seldom moved by a call."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import redis

from tests.support.hashes import fields, happened, key, spent_nano
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tokengate.budgets import Policy, limits, windows
from tokengate.domain import Ending, Period, Scope, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement, keys
from tokengate.ledger.redis import RedisLedger
from tokengate.ledger.reports import RedisReports

USD: Final = 1_000_000_000
CENT: Final = USD // 100
ALICE: Final = Session("alice", agent="crawler")
BOB: Final = Session("bob", agent="crawler")
POLICY: Final = Policy(10 * USD, agent_cap_nano=1000 * USD, tenant_cap_nano=1000 * USD)
START_MS: Final = 1_790_000_000_000


@pytest.fixture
def cli(server: Server) -> Any:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def ledger(server: Server, cli: "redis.Redis") -> AsyncIterator[RedisLedger]:
    opened = RedisLedger(link_to(server.socket), owner="host:1:abc", lease_ms=60_000, sessions_max=100, retry_ms=500)
    opened.now_ms = START_MS
    yield opened
    await opened.aclose()


class Calls:
    """Calls, one after the other."""

    def __init__(self, ledger: RedisLedger, policy: Policy = POLICY) -> None:
        self.ledger = ledger
        self.policy = policy
        self.made = 0

    async def hold(self, nano: int, session: Session = ALICE) -> str:
        self.made += 1
        hold_id, path = f"{session.id}-{self.made}", limits(self.policy, session)
        verdict = await self.ledger.reserve(Ask(hold_id, session, path, nano, nano, nano, True, "gpt-4o"))
        assert verdict.kind is Kind.HELD
        return hold_id

    async def settle(self, hold_id: str, nano: int, session: Session = ALICE, model: str = "gpt-4o") -> None:
        path = limits(self.policy, session)
        await self.ledger.settle(Settlement(hold_id, session, path, nano, False, Ending.COMPLETE, model, Usage()))

    async def spend(self, nano: int, session: Session = ALICE, model: str = "gpt-4o") -> None:
        await self.settle(await self.hold(nano, session), nano, session, model)


@pytest.fixture
def calls(ledger: RedisLedger) -> Calls:
    return Calls(ledger)


def index(cli: "redis.Redis", order: str, kind: str = "session", start_ms: int = 0) -> dict[str, float]:
    return dict(cli.zrange(keys.index("default", kind, order, start_ms), 0, -1, withscores=True))  # type: ignore[arg-type]


async def test_a_scope_is_listed_by_name_and_activity_from_its_first_call_on(calls: Calls, cli: "redis.Redis") -> None:
    await calls.hold(CENT)
    for kind, name in (("session", "alice"), ("agent", "crawler")):
        assert index(cli, "names", kind) == {name: 0}
        assert index(cli, "", kind) == {name: START_MS}
    assert not cli.keys("*:tenants*")


async def test_spending_is_listed_by_cents_and_by_whole_percents(calls: Calls, cli: "redis.Redis") -> None:
    # What it has spent then, in cents; what the list says of it; of its budget, in percent.
    steps = [(0, 0, 0), (1, 1, 0), (10, 10, 1), (19, 19, 1), (123, 123, 12), (999, 999, 99)]
    spent = 0
    for total, cents, percent in steps:
        await calls.spend(total * CENT - spent + 1)
        spent = total * CENT + 1
        assert (index(cli, "spent"), index(cli, "share")) == ({"alice": cents}, {"alice": percent})
    assert index(cli, "spent", "agent") == {"crawler": 999}
    assert spent_nano(cli, "alice") == spent


async def test_the_lists_follow_within_5_percent_or_a_cent_and_every_percent_of_the_budget(
    calls: Calls, cli: "redis.Redis"
) -> None:
    await calls.ledger.set_budget(Scope("default", "session", "alice"), 20 * USD)
    moves = 0
    before = None
    for _ in range(400):
        await calls.spend(4 * CENT + 123)
        cents, percent = spent_nano(cli, "alice") // CENT, spent_nano(cli, "alice") * 100 // (20 * USD)
        assert index(cli, "share") == {"alice": percent}
        [listed] = index(cli, "spent").values()
        assert listed <= cents <= max(listed + 1, listed * 1.05)
        moves, before = moves + (listed != before), listed
    assert moves < 200


async def test_a_call_that_changes_no_place_moves_nothing(calls: Calls, cli: "redis.Redis") -> None:
    await calls.spend(CENT)
    cli.config_resetstat()
    for _ in range(20):
        await calls.spend(CENT // 100)
    asked: Any = cli.info("commandstats")
    assert asked["cmdstat_zadd"]["calls"] == 20, "the leases"


async def test_a_share_of_nothing_is_none_and_of_no_budget_is_all(calls: Calls, cli: "redis.Redis") -> None:
    await calls.spend(CENT)
    await calls.ledger.set_budget(Scope("default", "session", "alice"), 0)
    assert index(cli, "share") == {"alice": 100}
    await calls.ledger.reset(Scope("default", "session", "alice"))
    assert (index(cli, "share"), index(cli, "spent")) == ({"alice": 0}, {"alice": 0})
    await calls.ledger.set_budget(Scope("default", "session", "alice"), USD)
    await calls.spend(USD)
    await calls.ledger.set_budget(Scope("default", "session", "alice"), CENT)
    assert index(cli, "share") == {"alice": 1000}, "and is never shown beyond ten times the budget"


async def test_what_a_person_sets_by_hand_is_listed_with_the_next_call(calls: Calls, cli: "redis.Redis") -> None:
    await calls.spend(CENT)
    cli.hset(key("alice"), mapping={"budget": "2", "spent": "1"})
    await calls.spend(1)
    assert (index(cli, "share"), index(cli, "spent")) == ({"alice": 50}, {"alice": 100})
    cli.hset(key("alice"), "budget", "4")
    await calls.spend(6 * CENT)
    assert index(cli, "share") == {"alice": 26}, "of the budget that it has when it is moved"


async def test_another_default_moves_a_session_that_follows_it(calls: Calls, cli: "redis.Redis") -> None:
    await calls.spend(USD)
    calls.policy = Policy(2 * USD)
    await calls.spend(1)
    assert index(cli, "share") == {"alice": 50}


async def test_each_period_has_lists_of_its_own_that_end_by_themselves(ledger: RedisLedger, cli: "redis.Redis") -> None:
    policy = Policy(10 * USD, session_period=Period.DAY)
    calls = Calls(ledger, policy)
    limit = limits(policy, ALICE)[0]
    await calls.spend(USD)
    today = next(start for start in reversed(windows(limit, START_MS)) if start <= START_MS)
    assert index(cli, "spent", start_ms=today) == {"alice": 100}
    ledger.now_ms = today + 86_400_000
    await calls.spend(USD)
    assert index(cli, "spent", start_ms=ledger.now_ms) == index(cli, "spent", start_ms=today) == {"alice": 100}
    assert index(cli, "share", start_ms=ledger.now_ms) == {"alice": 10}
    for order in ("spent", "share"):
        assert 0 < cli.ttl(keys.index("default", "session", order, today)) <= 2 * 86_400
    without = Calls(ledger)
    without.made = 100
    await without.spend(USD)
    assert index(cli, "spent") == {"alice": 200}, "a session that has no periods any more is listed with those without"


async def test_a_frozen_scope_is_listed_by_when_that_ends(calls: Calls, cli: "redis.Redis") -> None:
    """Even if it was frozen by hand: as soon as a call has been refused."""
    for name, until in (("alice", None), ("bob", START_MS + 5)):
        cli.hset(key(name), mapping={"frozen": "1", **({"frozen_until_ms": until} if until else {})})
    for session in (ALICE, BOB):
        path = limits(POLICY, session)
        verdict = await calls.ledger.reserve(Ask(f"of-{session.id}", session, path, 3, 4, 5, True, "gpt-4o"))
        assert verdict.kind is Kind.FROZEN
    assert index(cli, "frozen") == {"alice": float("inf"), "bob": START_MS + 5}


class TestRollUps:
    async def test_a_day_keeps_those_that_cost_most(self, calls: Calls, cli: "redis.Redis") -> None:
        """Whoever has had to make room comes back with all that they have spent on that day."""
        day = keys.usage_by_session("default", START_MS // 86_400_000)
        cli.zadd(day, {f"s{number}": CENT + number for number in range(9_999)})
        await calls.spend(CENT // 2)
        assert (cli.zcard(day), cli.zscore(day, "alice")) == (10_000, CENT // 2)
        await calls.spend(2 * CENT, BOB)
        assert (cli.zcard(day), cli.zscore(day, "alice"), cli.zscore(day, "bob")) == (10_000, None, 2 * CENT)
        await calls.spend(CENT // 4)
        assert (cli.zcard(day), cli.zscore(day, "alice")) == (10_000, None)
        await calls.spend(CENT)
        assert cli.zcard(day) == 10_000
        assert (cli.zscore(day, "alice"), cli.zscore(day, "s0")) == (CENT * 7 // 4, None)

    async def test_a_day_follows_in_steps_and_the_session_itself_is_exact(
        self, calls: Calls, cli: "redis.Redis"
    ) -> None:
        day = START_MS // 86_400_000
        for _ in range(30):
            await calls.spend(CENT // 10)
        [listed] = dict(cli.zrange(keys.usage_by_session("default", day), 0, -1, withscores=True)).values()  # type: ignore[arg-type]
        assert 2 * CENT <= listed <= 3 * CENT
        reports = RedisReports(lambda _: calls.ledger.ask, "default")
        assert await reports.days("session", day, day) == [(day, [("alice", 3 * CENT)])]
        assert await reports.days("session", day, day, "alice") == [(day, [("alice", 3 * CENT)])]

    async def test_the_day_before_is_exact_when_the_next_one_has_begun(self, calls: Calls, cli: "redis.Redis") -> None:
        day = START_MS // 86_400_000
        for _ in range(30):
            await calls.spend(CENT // 10)
        calls.ledger.now_ms += 86_400_000
        await calls.spend(CENT // 10)
        reports = RedisReports(lambda _: calls.ledger.ask, "default")
        both = [(day, [("alice", 3 * CENT)]), (day + 1, [("alice", CENT // 10)])]
        assert await reports.days("session", day, day + 1) == both
        calls.ledger.now_ms -= 3_600_000 * 20
        await calls.spend(CENT)
        assert (await reports.days("session", day + 1, day + 1))[0][1] == [("alice", CENT * 11 // 10)], (
            "a clock went back"
        )
        await calls.ledger.reset(Scope("default", "session", "alice"))
        await calls.ledger.delete(Scope("default", "session", "alice"))
        assert (await reports.days("session", day + 1, day + 1))[0][1] == [("alice", CENT * 11 // 10)]

    async def test_a_day_tells_only_so_many_agents_apart(self, calls: Calls, cli: "redis.Redis") -> None:
        day = keys.usage_by_agent("default", START_MS // 86_400_000)
        cli.hset(day, mapping={f"agent-{number}": 1 for number in range(999)})
        await calls.spend(5)
        await calls.spend(7, Session("carol", agent="writer"))
        assert (cli.hlen(day), cli.hget(day, "crawler"), cli.hget(day, "writer")) == (1000, "5", None)

    async def test_a_session_tells_only_so_many_models_apart(self, calls: Calls, cli: "redis.Redis") -> None:
        for number in range(70):
            await calls.spend(1, model=f"model-{number}")
        await calls.spend(1, model="model-0")
        await calls.spend(1, model="model-69")
        found = {name: int(value) for name, value in fields(cli, "alice").items() if name.endswith(":total_nano")}
        assert len(fields(cli, "alice")) == 65
        assert (found["model-0:total_nano"], "model-69:total_nano" in found) == (2, False)
        assert sum(found.values()) == 72

    async def test_what_is_swept_and_corrected_is_rolled_up_too(self, calls: Calls, cli: "redis.Redis") -> None:
        await calls.spend(1)
        hold_id = await calls.hold(100)
        calls.ledger.now_ms += 60_001
        assert await calls.ledger.sweep("default") == 1
        reports, day = RedisReports(lambda _: calls.ledger.ask, "default"), START_MS // 86_400_000
        for nano in (101, 31):
            assert await reports.days("session", day, day) == [(day, [("alice", nano)])]
            assert await reports.days("agent", day, day) == [(day, [("crawler", nano)])]
            await calls.settle(hold_id, 30)
        assert fields(cli, "alice")["gpt-4o:total_nano"] == "31"


class TestDeletion:
    async def test_nothing_is_left_but_an_epoch_and_the_event(self, calls: Calls, cli: "redis.Redis") -> None:
        await calls.spend(2 * USD)
        cli.hset(key("alice"), "frozen", "1")
        assert await calls.ledger.delete(Scope("default", "session", "alice"), by="ann")
        left = [name for name in cli.keys("*") if "alice" in str(cli.dump(name)) or "alice" in name]
        assert sorted(re_day(str(name)) for name in left) == [
            "tokengate:{default}:deleted:session:alice",
            "tokengate:{default}:events",
            "tokengate:{default}:hold:alice-1",
            "tokengate:{default}:usage:sessions:DAY",
        ]
        assert 0 < cli.ttl("tokengate:{default}:deleted:session:alice") <= 86_400
        event = happened(cli)[-1]
        assert (event["kind"], event["scope"], event["by"], event["before"]) == (
            *("delete", "tokengate:{default}:session:alice", "ann", "2.000000000"),
        )
        assert spent_nano(cli, "crawler", "agent") == 2 * USD
        assert not await calls.ledger.delete(Scope("default", "session", "alice"), by="ann")
        assert len(happened(cli)) == 1

    async def test_a_call_under_way_settles_where_it_still_can(self, calls: Calls, cli: "redis.Redis") -> None:
        first, second = await calls.hold(USD), await calls.hold(USD)
        await calls.ledger.delete(Scope("default", "session", "alice"))
        await calls.settle(first, USD)
        assert not cli.exists(key("alice"))
        await calls.spend(3 * USD)
        await calls.settle(second, USD)
        assert spent_nano(cli, "alice") == 3 * USD
        assert spent_nano(cli, "crawler", "agent") == 5 * USD
        assert fields(cli, "crawler", "agent")["held"] == "0.000000000"

    async def test_a_late_correction_is_no_credit_for_what_came_after(self, calls: Calls, cli: "redis.Redis") -> None:
        hold_id = await calls.hold(5 * USD)
        calls.ledger.now_ms += 60_001
        await calls.ledger.sweep("default")
        await calls.ledger.delete(Scope("default", "session", "alice"))
        await calls.spend(3 * USD)
        await calls.settle(hold_id, CENT)
        assert spent_nano(cli, "alice") == 3 * USD

    @pytest.mark.parametrize("first", ["budget", "refused", "call"])
    async def test_it_is_another_epoch_however_it_comes_back(
        self, calls: Calls, cli: "redis.Redis", first: str
    ) -> None:
        scope = Scope("default", "session", "alice")
        hold_id = await calls.hold(USD)
        await calls.ledger.delete(scope)
        if first == "budget":
            await calls.ledger.set_budget(scope, 20 * USD)
        elif first == "refused":
            ask = Ask("much", ALICE, limits(POLICY, ALICE), 11 * USD, 12 * USD, 13 * USD, True, "gpt-4o")
            assert (await calls.ledger.reserve(ask)).kind is Kind.EXCEEDED
        await calls.spend(CENT)
        assert fields(cli, "alice")["epoch"] == "1"
        await calls.settle(hold_id, USD)
        assert spent_nano(cli, "alice") == CENT


def re_day(name: str) -> str:
    head, _, tail = name.rpartition(":")
    return f"{head}:DAY" if tail.isdigit() else name

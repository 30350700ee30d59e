"""What an administrator can do and see: one suite, over the store and over the admin API of a console."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from tests.control.desk import CENT, USD, Desk, desk
from tests.support.redis_server import Server
from tokengate.control import Denied, Invalid, Unavailable, Unknown
from tokengate.control.words import (
    By,
    EventQuery,
    Kind,
    Nano,
    Per,
    Query,
    Sort,
    SpendQuery,
)
from tokengate.domain import Period
from tokengate.ledger import keys

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

Open = Callable[..., AbstractAsyncContextManager[Desk]]


@pytest.fixture(params=["local", "remote"])
def opened(request: pytest.FixtureRequest, store: Server) -> Open:
    return lambda **settings: desk(store, request.param, **settings)


@pytest.fixture
async def at(opened: Open) -> AsyncIterator[Desk]:
    async with opened(AGENT_BUDGET="100", TENANT_BUDGET="1000") as there:
        yield there


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def names(at: Desk, **query: object) -> list[str]:
    return [row.name for row in (await at.control.sessions(Query(**query))).rows]  # type: ignore[arg-type]


class TestAnAccount:
    async def test_nobody_has_named_stands_at_its_start_and_is_not_made(self, at: Desk) -> None:
        account = await at.control.account(Kind.SESSION, "new")
        assert (account.known, account.budget_nano, account.budget_is_default) == (False, 10 * USD, True)
        assert at.redis.keys("*:session:*") == []

    async def test_shows_what_its_calls_did(self, at: Desk) -> None:
        await at.spend("one", 2 * USD, agent="crawler")
        await at.hold("one", 3 * USD, agent="crawler")
        account = await at.control.account(Kind.SESSION, "one")
        assert account.name == "one"
        assert (account.spent_nano, account.held_nano, account.remaining_nano) == (2 * USD, 3 * USD, 5 * USD)
        assert (account.used_percent, account.total_nano, account.requests) == (20, 2 * USD, 1)
        assert (account.agent, account.period, account.frozen) == ("crawler", Period.NONE, False)
        assert account.created_ms is not None
        assert account.last_active_ms is not None
        agent = await at.control.account(Kind.AGENT, "crawler")
        tenant = await at.control.account(Kind.TENANT, "")
        assert (agent.spent_nano, tenant.spent_nano, tenant.name) == (2 * USD, 2 * USD, "default")

    async def test_is_shown_with_its_fault_if_a_person_has_made_one(self, at: Desk) -> None:
        await at.spend("one", USD)
        at.redis.hset("tokengate:{default}:session:one", mapping={"budget": "lots", "requests": "x", "epoch": "y"})
        account = await at.control.account(Kind.SESSION, "one")
        assert account.fault == "budget is 'lots', which is no amount"
        assert (account.budget_nano, account.spent_nano, account.requests) == (0, USD, 0)
        assert await names(at) == ["one"]
        assert (await at.control.detail(Kind.SESSION, "one")).account.fault

    async def test_of_a_kind_without_budgets_is_told_of(self, opened: Open) -> None:
        async with opened() as at:
            with pytest.raises(Invalid, match="AGENT_BUDGET"):
                await at.control.account(Kind.AGENT, "crawler")
            with pytest.raises(Invalid, match="TENANT_BUDGET"):
                await at.control.set_budget(Kind.TENANT, "", USD, by="ann")
            for kind in (Kind.AGENT, Kind.TENANT):
                assert await names(at, kind=kind) == []

    async def test_of_another_tenant_is_not_to_be_had(self, at: Desk) -> None:
        with pytest.raises(Invalid, match="not other"):
            await at.control.account(Kind.TENANT, "other")

    async def test_with_a_period_stands_in_the_period_of_now(self, opened: Open) -> None:
        async with opened(DEFAULT_BUDGET_PERIOD="day") as at:
            await at.spend("one", USD)
            account = await at.control.account(Kind.SESSION, "one")
            assert (account.period, account.spent_nano, account.epoch) == (Period.DAY, USD, 0)
            assert account.resets_at_ms is not None
            assert 0 < account.resets_at_ms - now_ms() <= DAY_MS
            at.redis.hincrby("tokengate:{default}:session:one", "period_start_ms", -DAY_MS)
            account = await at.control.account(Kind.SESSION, "one")
            assert (account.spent_nano, account.total_nano, account.epoch) == (0, USD, 1)


class TestABudget:
    async def test_is_set_and_set_back(self, at: Desk) -> None:
        account = await at.control.set_budget(Kind.SESSION, "one", 25 * USD, by="ann")
        assert (account.budget_nano, account.budget_is_default, account.known) == (25 * USD, False, True)
        account = await at.control.set_budget(Kind.SESSION, "one", None, by="ann")
        assert (account.budget_nano, account.budget_is_default) == (10 * USD, True)
        assert (await at.control.set_budget(Kind.AGENT, "crawler", USD, by="ann")).budget_nano == USD
        assert (await at.control.set_budget(Kind.TENANT, "", 7, by="ann")).budget_nano == 7
        told = [(each.kind, each.scope_kind, each.scope_name, each.fields) for each in await events(at)]
        assert told[:2] == [
            ("budget", "session", "one", {"before": "", "after": "25.000000000"}),
            ("budget", "session", "one", {"before": "25.000000000", "after": ""}),
        ]

    @pytest.mark.parametrize("nano", [-1, 2**53])
    async def test_is_bounded(self, at: Desk, nano: int) -> None:
        with pytest.raises(Invalid):
            await at.control.set_budget(Kind.SESSION, "one", nano, by="ann")
        assert at.redis.keys("*") == []

    @pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 129, "{x}", "a/b", "..", "ä", "a\x1b[31m"])
    async def test_is_only_for_what_a_call_could_name(self, at: Desk, name: str) -> None:
        with pytest.raises(Invalid):
            await at.control.set_budget(Kind.SESSION, name, USD, by="ann")
        assert at.redis.keys("*") == []


class TestAFreeze:
    async def test_refuses_calls_until_it_is_lifted(self, at: Desk) -> None:
        await at.spend("one", USD)
        account = await at.control.freeze(Kind.SESSION, "one", reason="it loops", for_ms=None, by="ann")
        assert (account.frozen, account.frozen_reason, account.frozen_until_ms) == (True, "it loops", None)
        assert "ann" in account.frozen_by
        assert account.frozen_at_ms is not None
        assert await at.refused("one")
        assert await names(at, frozen=True) == ["one"]
        account = await at.control.unfreeze(Kind.SESSION, "one", by="ann")
        assert (account.frozen, account.frozen_reason) == (False, "")
        assert not await at.refused("one")
        assert await names(at, frozen=True) == []

    async def test_may_end_by_itself(self, at: Desk) -> None:
        await at.spend("one", USD)
        account = await at.control.freeze(Kind.SESSION, "one", reason="for a while", for_ms=HOUR_MS, by="ann")
        assert account.frozen_until_ms is not None
        assert 0 < account.frozen_until_ms - now_ms() <= HOUR_MS
        await at.control.freeze(Kind.SESSION, "one", reason="for a moment", for_ms=1, by="ann")
        while (await at.control.account(Kind.SESSION, "one")).frozen:
            pass
        assert await names(at, frozen=True) == []
        assert (await at.control.stats()).sessions_frozen == 0

    async def test_of_what_there_is_not_is_a_slip_if_something_is_called_much_like_it(self, at: Desk) -> None:
        await at.spend("my-session", USD)
        with pytest.raises(Unknown, match=r"no session my-sesion; did you mean my-session\?") as told:
            await at.control.freeze(Kind.SESSION, "my-sesion", reason="why", for_ms=None, by="ann")
        assert told.value.similar == ["my-session"]
        assert await names(at) == ["my-session"]
        assert (
            await at.control.freeze(Kind.SESSION, "my-sesion", reason="why", for_ms=None, by="ann", new=True)
        ).frozen
        assert (await at.control.freeze(Kind.SESSION, "unlike", reason="why", for_ms=None, by="ann")).frozen
        assert await at.refused("unlike")

    @pytest.mark.parametrize(
        ("reason", "for_ms"), [("", None), (" ", None), ("x" * 501, None), ("x", 0), ("x", 10**14)]
    )
    async def test_has_a_reason_and_an_end_that_can_be(self, at: Desk, reason: str, for_ms: int | None) -> None:
        with pytest.raises(Invalid):
            await at.control.freeze(Kind.SESSION, "one", reason=reason, for_ms=for_ms, by="ann")

    async def test_of_an_agent_or_the_tenant_stops_all_of_it(self, at: Desk) -> None:
        await at.spend("one", USD, agent="crawler")
        assert (await at.control.freeze(Kind.AGENT, "crawler", reason="why", for_ms=None, by="ann")).frozen
        assert await names(at, kind=Kind.AGENT, frozen=True) == ["crawler"]
        assert (await at.control.stats()).agents_frozen == 1
        assert (await at.control.freeze(Kind.TENANT, "", reason="why", for_ms=None, by="ann")).frozen
        assert await at.refused("two")


class TestUnknown:
    @pytest.mark.parametrize("act", ["unfreeze", "reset", "delete", "detail"])
    async def test_nothing_is_done_to_what_there_is_not(self, at: Desk, act: str) -> None:
        await at.spend("my-session", USD)
        by = {} if act == "detail" else {"by": "ann"}
        with pytest.raises(Unknown) as told:
            await getattr(at.control, act)(Kind.SESSION, "My-session", **by)
        assert (told.value.kind, told.value.name, told.value.similar) == (Kind.SESSION, "My-session", ["my-session"])
        with pytest.raises(Unknown) as told:
            await getattr(at.control, act)(Kind.SESSION, "quite-another", **by)
        assert told.value.similar == []
        assert await events(at) == []


class TestResetAndDelete:
    async def test_a_reset_starts_anew(self, at: Desk) -> None:
        await at.spend("one", 4 * USD)
        account = await at.control.reset(Kind.SESSION, "one", by="ann")
        assert (account.spent_nano, account.remaining_nano, account.total_nano) == (0, 10 * USD, 4 * USD)
        [event] = await events(at)
        assert (event.kind, event.fields) == ("reset", {"before": "4.000000000"})

    async def test_a_deletion_forgets(self, at: Desk) -> None:
        await at.spend("one", 4 * USD)
        await at.control.delete(Kind.SESSION, "one", by="ann")
        assert await names(at) == []
        assert (await at.control.stats()).sessions == 0
        with pytest.raises(Unknown):
            await at.control.detail(Kind.SESSION, "one")
        [event] = await events(at)
        assert (event.kind, event.scope_name, event.fields) == ("delete", "one", {"before": "4.000000000"})


class TestADetail:
    async def test_has_everything(self, at: Desk) -> None:
        await at.spend("one", 2 * USD, agent="crawler", model="gpt-4o")
        await at.spend("one", USD, agent="crawler", model="gpt-5")
        await at.spend("two", USD, agent="crawler")
        hold_id = await at.hold("one", 3 * CENT, agent="crawler", model="gpt-5")
        await at.hold("two", CENT)
        await at.control.freeze(Kind.SESSION, "one", reason="it loops", for_ms=None, by="ann")
        await at.control.set_budget(Kind.SESSION, "two", USD, by="ann")
        detail = await at.control.detail(Kind.SESSION, "one")
        assert detail.account.spent_nano == 3 * USD
        assert [(each.kind.value, each.name) for each in detail.path] == [
            ("session", "one"),
            ("agent", "crawler"),
            ("tenant", "default"),
        ]
        assert [each.spent_nano for each in detail.path] == [3 * USD, 4 * USD, 4 * USD]
        assert [(each.model, each.spent_nano) for each in detail.models] == [("gpt-4o", 2 * USD), ("gpt-5", USD)]
        [hold] = detail.holds
        assert (hold.id, hold.model, hold.held_nano, hold.owner) == (hold_id, "gpt-5", 3 * CENT, "gate-1:1:abc")
        assert 0 <= detail.now_ms - hold.since_ms < hold.expires_ms - hold.since_ms == 60_000
        assert detail.holds_complete
        assert [each.kind for each in detail.evidence] == ["freeze"]
        assert {each.scope_name for each in detail.events} == {"one"}

    async def test_of_an_agent_has_its_path(self, at: Desk) -> None:
        await at.spend("one", USD, agent="crawler")
        detail = await at.control.detail(Kind.AGENT, "crawler")
        assert [(each.kind.value, each.name) for each in detail.path] == [("agent", "crawler"), ("tenant", "default")]
        assert (await at.control.detail(Kind.TENANT, "")).account.name == "default"

    async def test_of_the_first_call_of_a_session_knows_its_agent(self, at: Desk) -> None:
        await at.hold("one", USD, agent="crawler")
        assert [each.kind.value for each in (await at.control.detail(Kind.SESSION, "one")).path] == [
            "session",
            "agent",
            "tenant",
        ]


class TestAList:
    async def test_has_every_order(self, at: Desk) -> None:
        for name, nano in (("b", 3), ("a", 1), ("d", 2)):
            await at.spend(name, nano * USD)
        await at.hold("c", USD)
        for index, name in enumerate("bacd"):
            at.redis.zadd("tokengate:{default}:sessions", {name: 1000 + index})
        await at.control.set_budget(Kind.SESSION, "a", USD, by="ann")
        assert await names(at) == ["d", "c", "a", "b"]
        assert await names(at, descending=False) == ["b", "a", "c", "d"]
        assert await names(at, sort=Sort.NAME, descending=False) == ["a", "b", "c", "d"]
        assert await names(at, sort=Sort.NAME) == ["d", "c", "b", "a"]
        assert await names(at, sort=Sort.SPENT) == ["b", "d", "a", "c"]
        assert await names(at, sort=Sort.SPENT, descending=False) == ["a", "d", "b", "c"]
        assert await names(at, sort=Sort.SHARE) == ["a", "b", "d", "c"]

    async def test_is_exact_to_the_nano_dollar_within_a_page(self, at: Desk) -> None:
        for index, nano in enumerate([5, 3, 8, 1, 9]):
            await at.spend(f"s{index}", 5 * USD + nano)
        assert await names(at, sort=Sort.SPENT) == ["s4", "s2", "s0", "s1", "s3"]

    async def test_has_pages(self, at: Desk) -> None:
        for number in range(7):
            await at.spend(f"s{number}", CENT)
        offset: int | None = 0
        pages = []
        while offset is not None:
            page = await at.control.sessions(Query(sort=Sort.NAME, descending=False, limit=3, offset=offset))
            assert (page.total, page.of) == (7, 7)
            pages.append([row.name for row in page.rows])
            offset = page.next_offset
        assert pages == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]
        assert await names(at, offset=70) == []

    async def test_is_searched(self, at: Desk) -> None:
        for name in ("job-1", "Job-2", "other", "the-job", "job"):
            await at.spend(name, CENT)
        assert set(await names(at, text="JOB")) == {"job-1", "Job-2", "the-job", "job"}
        assert await names(at, text="job*", sort=Sort.NAME, descending=False) == ["job", "job-1"]
        assert await names(at, text="nothing") == []
        assert len(await names(at, text="*")) == 5
        page = await at.control.sessions(Query(text="job*"))
        assert (page.total, page.of) == (2, 5)

    async def test_has_conditions_that_add_up(self, at: Desk) -> None:
        for number, percent in enumerate((10, 79, 80, 100)):
            await at.spend(f"s{number}", percent * 10 * CENT)
        for name in ("s0", "s2"):
            await at.control.freeze(Kind.SESSION, name, reason="why", for_ms=None, by="ann")
        assert set(await names(at, over_percent=80)) == {"s2", "s3"}
        assert set(await names(at, over_percent=0)) == {"s0", "s1", "s2", "s3"}
        assert set(await names(at, frozen=True)) == {"s0", "s2"}
        assert await names(at, frozen=True, over_percent=80) == ["s2"]
        assert await names(at, frozen=True, text="0") == ["s0"]
        assert (await at.control.sessions(Query(frozen=True, over_percent=80))).total == 1

    async def test_of_a_day_knows_only_that_day(self, opened: Open) -> None:
        async with opened(DEFAULT_BUDGET_PERIOD="day") as at:
            await at.spend("today", 9 * USD)
            await at.hold("idle", USD)
            yesterday = int(str(at.redis.hget("tokengate:{default}:session:today", "period_start_ms"))) - DAY_MS
            at.redis.zadd(keys.index("default", "session", "share", yesterday), {"idle": 100})
            assert await names(at, over_percent=80) == ["today"]
            assert await names(at, sort=Sort.SPENT) == ["today", "idle"]

    async def test_of_agents_and_of_the_tenant(self, at: Desk) -> None:
        await at.spend("one", USD, agent="crawler")
        await at.spend("one", USD, agent="writer")
        assert set(await names(at, kind=Kind.AGENT)) == {"crawler", "writer"}
        assert await names(at, kind=Kind.AGENT, text="wri*") == ["writer"]
        assert await names(at, kind=Kind.TENANT) == ["default"]

    async def test_shows_names_that_a_person_has_made_up(self, at: Desk) -> None:
        hostile = '<img src=x onerror=alert(1)>\x1b[31m"\u202e/..'
        at.redis.hset(f"tokengate:{{default}}:session:{hostile}", "budget", "5")
        at.redis.zadd("tokengate:{default}:sessions", {hostile: 1})
        at.redis.zadd("tokengate:{default}:sessions", {b"\xff\xfe": 0})
        at.redis.hset(b"tokengate:{default}:session:\xff\xfe", "budget", "6")
        page = await at.control.sessions(Query())
        assert [row.name for row in page.rows] == [hostile, "\ufffd\ufffd"]
        assert [row.budget_nano for row in page.rows] == [5 * USD, 6 * USD]
        assert (await at.control.detail(Kind.SESSION, hostile)).account.name == hostile
        await at.control.delete(Kind.SESSION, hostile, by="ann")
        assert await names(at) == ["\ufffd\ufffd"]


async def events(at: Desk, **query: object) -> list:  # type: ignore[type-arg]
    return (await at.control.events(EventQuery(**query))).events  # type: ignore[arg-type]


class TestEvents:
    async def test_say_who_and_what(self, at: Desk) -> None:
        before = now_ms()
        await at.spend("one", 2 * USD)
        await at.control.freeze(Kind.SESSION, "one", reason="it loops", for_ms=None, by="ann@laptop")
        await at.control.unfreeze(Kind.SESSION, "one", by="bob@phone")
        first, second = await events(at)
        assert (first.kind, second.kind) == ("freeze", "unfreeze")
        assert "ann@laptop" in first.by
        assert "bob@phone" in second.by
        assert (first.fields["reason"], first.scope_kind, first.scope_name) == ("it loops", "session", "one")
        assert before - 1000 <= first.at_ms <= second.at_ms <= now_ms() + 1000

    async def test_are_followed(self, at: Desk) -> None:
        for number in range(5):
            await at.control.set_budget(Kind.SESSION, f"s{number}", USD, by="ann")
        page = await at.control.events(EventQuery(limit=2))
        assert [each.scope_name for each in page.events] == ["s3", "s4"]
        again = await at.control.events(EventQuery(after=page.last_id))
        assert (again.events, again.last_id) == ([], page.last_id)
        await at.control.set_budget(Kind.SESSION, "s5", USD, by="ann")
        [event] = (await at.control.events(EventQuery(after=page.last_id))).events
        assert event.scope_name == "s5"
        assert [each.scope_name for each in await events(at, after="0-0", limit=3)] == ["s0", "s1", "s2"]

    async def test_of_one_are_found_among_those_of_others(self, at: Desk) -> None:
        await at.control.set_budget(Kind.SESSION, "one", USD, by="ann")
        for number in range(700):
            at.redis.xadd("tokengate:{default}:events", {"at_ms": number, "kind": "late", "hold": "h"})
        for cap in (2, 3):
            await at.control.set_budget(Kind.SESSION, "one", cap * USD, by="ann")
        of_one = {"kind": Kind.SESSION, "name": "one"}
        assert [each.fields["after"][0] for each in await events(at, **of_one)] == ["1", "2", "3"]
        assert [each.fields["after"][0] for each in await events(at, **of_one, limit=2)] == ["2", "3"]
        assert [each.fields["after"][0] for each in await events(at, **of_one, after="0-0", limit=2)] == ["1", "2"]
        assert await events(at, kind=Kind.SESSION, name="two") == []

    async def test_are_none_at_first(self, at: Desk) -> None:
        page = await at.control.events(EventQuery())
        assert (page.events, page.last_id) == ([], "")
        page = await at.control.events(EventQuery(kind=Kind.SESSION, name="one"))
        assert (page.events, page.last_id) == ([], "")


class TestSpending:
    async def spent(
        self, at: Desk, by: By, per: Per = Per.ALL, days: int = 1, **query: object
    ) -> list[tuple[str, int]]:
        now = now_ms()
        asked = SpendQuery(by=by, per=per, from_ms=now - days * DAY_MS, to_ms=now + 1000, **query)  # type: ignore[arg-type]
        spend = await at.control.spend(asked)
        assert spend.total_nano == sum(point.spent_nano for point in spend.points)
        return [(point.name, point.spent_nano) for point in spend.points]

    async def test_is_told_apart_by_what_it_was_for(self, at: Desk) -> None:
        await at.spend("one", 3 * USD, agent="crawler", model="gpt-4o")
        await at.spend("one", USD, agent="writer", model="gpt-5")
        await at.spend("two", 2 * USD, model="gpt-5")
        assert await self.spent(at, By.MODEL) == [("gpt-4o", 3 * USD), ("gpt-5", 3 * USD)]
        assert await self.spent(at, By.SESSION) == [("one", 4 * USD), ("two", 2 * USD)]
        # Calls without an agent are nobody's, and no cent of them is lost.
        assert await self.spent(at, By.AGENT) == [("crawler", 3 * USD), ("writer", USD), ("", 2 * USD)]
        assert await self.spent(at, By.TENANT) == [("default", 6 * USD)]
        assert await self.spent(at, By.SESSION, name="two") == [("two", 2 * USD)]
        assert await self.spent(at, By.MODEL, name="gpt-5") == [("gpt-5", 3 * USD)]

    async def test_counts_calls_and_tokens_where_they_are_kept(self, at: Desk) -> None:
        for _ in range(3):
            await at.spend("one", USD, agent="crawler")
        now = now_ms()
        asked = SpendQuery(by=By.MODEL, per=Per.HOUR, from_ms=now - HOUR_MS, to_ms=now + 1000)
        points = (await at.control.spend(asked)).points
        assert (sum(each.requests or 0 for each in points), sum(each.input_tokens or 0 for each in points)) == (3, 300)
        asked = SpendQuery(by=By.AGENT, per=Per.DAY, from_ms=now - HOUR_MS, to_ms=now + 1000)
        assert {each.requests for each in (await at.control.spend(asked)).points} == {None}

    async def test_is_summed_up_over_time(self, at: Desk) -> None:
        hour = now_ms() // HOUR_MS
        for back, nano in ((0, 5), (1, 7), (24, 11), (24 * 40, 13)):
            at.redis.hset(keys.usage("default", hour - back), "gpt-4o:cost_nano", nano)
        assert await self.spent(at, By.MODEL, days=60) == [("gpt-4o", 36)]
        assert sum(nano for _, nano in await self.spent(at, By.MODEL, Per.MONTH, 60)) == 36
        assert len(await self.spent(at, By.MODEL, Per.HOUR, 60)) == 4
        assert len(await self.spent(at, By.MODEL, Per.DAY, 60)) in (3, 4)
        assert await self.spent(at, By.MODEL, days=30) == [("gpt-4o", 23)]

    async def test_tells_those_apart_that_cost_most(self, at: Desk) -> None:
        for number in range(5):
            await at.spend(f"s{number}", (number + 1) * CENT)
        assert await self.spent(at, By.SESSION, series_max=2) == [("s4", 5 * CENT), ("s3", 4 * CENT), ("", 6 * CENT)]

    async def test_of_a_session_is_exact_though_its_list_follows_in_steps(self, at: Desk) -> None:
        for _ in range(7):
            await at.spend("one", CENT // 10)
        assert await self.spent(at, By.SESSION) == [("one", CENT * 7 // 10)]

    @pytest.mark.parametrize(
        ("by", "per", "hours", "why"),
        [
            (By.SESSION, Per.HOUR, (-1, 0), "kept for days"),
            (By.MODEL, Per.DAY, (0, 0), "ends before it begins"),
            (By.MODEL, Per.DAY, (-24 * 500, 0), "400 days"),
        ],
    )
    async def test_is_not_told_where_it_is_not_known(
        self, at: Desk, by: By, per: Per, hours: tuple[int, int], why: str
    ) -> None:
        start, end = (now_ms() + hour * HOUR_MS for hour in hours)
        with pytest.raises(Invalid, match=why):
            await at.control.spend(SpendQuery(by=by, per=per, from_ms=start, to_ms=end))

    async def test_is_bounded(self, at: Desk) -> None:
        hour = now_ms() // HOUR_MS
        pipe = at.redis.pipeline(transaction=False)
        for back in range(300):
            pipe.hset(keys.usage("default", hour - back), mapping={f"m{n}:cost_nano": 1 for n in range(50)})
        pipe.execute()
        now = now_ms()
        asked = SpendQuery(by=By.MODEL, per=Per.HOUR, from_ms=now - 20 * DAY_MS, to_ms=now, series_max=50)
        with pytest.raises(Invalid, match="10000 figures"):
            await at.control.spend(asked)


class TestStats:
    async def test_are_the_whole_at_a_glance(self, at: Desk) -> None:
        await at.spend("one", 3 * USD)
        await at.spend("two", USD)
        await at.hold("two", 50 * CENT)
        await at.control.freeze(Kind.SESSION, "one", reason="why", for_ms=None, by="ann")
        hour = now_ms() // HOUR_MS
        await at.ledger.tally(
            "default",
            {"blocked:budget_exceeded": 3, "saved_nano": 7, "overhead_le_us:500": 99, "overhead_le_us:1000": 1},
        )
        stats = await at.control.stats()
        assert (stats.tenant, stats.sessions, stats.sessions_frozen, stats.agents_frozen) == ("default", 2, 1, 0)
        assert (stats.in_flight, stats.held_nano) == (1, 50 * CENT)
        assert (stats.blocked_today, stats.saved_today_nano) == ({"budget_exceeded": 3}, 7)
        assert (stats.overhead_p50_us, stats.overhead_p99_us) == (500, 500)
        assert stats.tenant_account is not None
        assert stats.tenant_account.spent_nano == 4 * USD
        if hour == stats.now_ms // HOUR_MS:
            assert (stats.spent_today_nano, stats.requests_today, stats.input_tokens_today) == (4 * USD, 2, 200)
            assert stats.spent_hour_nano == stats.spent_month_nano == 4 * USD
            assert 4 * USD <= stats.projected_today_nano <= 100 * USD
        assert stats.store.version.startswith(("Redis ", "Valkey "))
        assert stats.store.memory_bytes is not None
        assert (stats.store.memory_bytes_max, stats.store.evicts) == (None, False)

    async def test_look_ahead_by_what_was(self, at: Desk) -> None:
        now = now_ms()
        hour = now // HOUR_MS
        for back in range(60):
            at.redis.hset(keys.usage("default", hour - back), "gpt-4o:cost_nano", 3_600_000)
        first = await at.control.stats()
        at.redis.hset(keys.usage("default", hour), "gpt-4o:cost_nano", (now - hour * HOUR_MS))
        # A nano-dollar a millisecond, hour by hour, this one as far as it has come.
        second = await at.control.stats()
        assert abs(second.spent_hour_nano - HOUR_MS) < HOUR_MS // 100
        assert abs(second.projected_today_nano - DAY_MS) < DAY_MS // 50
        assert second.spent_yesterday_nano == first.spent_yesterday_nano == DAY_MS

    async def test_of_a_new_store_are_nothing(self, opened: Open) -> None:
        async with opened() as at:
            stats = await at.control.stats()
            assert (stats.sessions, stats.spent_today_nano, stats.projected_month_nano) == (0, 0, Nano(0))
            assert (stats.tenant_account, stats.overhead_p50_us, stats.blocked_today) == (None, None, {})


class TestTheStore:
    async def test_that_is_away_is_told_of(self, store: Server) -> None:
        async with desk(store, "local", STORE_TIMEOUT_MS="100") as at:
            at.redis.execute_command("CLIENT", "PAUSE", "700", "ALL")
            with pytest.raises(Unavailable):
                await at.control.stats()

    async def test_without_the_right_to_ask_how_it_is_still_tells_the_rest(self, store: Server) -> None:
        with store.client() as client:
            client.execute_command("ACL", "SETUSER", "plain", "reset", "on", ">secret", "~*", "+@all", "-info")
            try:
                url = f"unix://plain:secret@{store.socket}"
                async with desk(Server(store.process, store.socket, store.folder), "local", REDIS_URL=url) as at:
                    stats = await at.control.stats()
                    assert (stats.store.version, stats.store.memory_bytes) == ("", None)
            finally:
                client.execute_command("ACL", "DELUSER", "plain")

    async def test_has_tenants_beside_ours_in_reports(self, store: Server) -> None:
        for tenant, cents in (("a", 1), ("b", 2)):
            async with desk(store, "local", TENANT=tenant) as at:
                at.redis.zadd(keys.TENANTS, {tenant: cents})
                at.redis.hset(keys.usage(tenant, now_ms() // HOUR_MS), "gpt-4o:cost_nano", cents * CENT)
        async with desk(store, "local", TENANT="a") as at:
            asked = SpendQuery(by=By.TENANT, per=Per.ALL, from_ms=now_ms() - DAY_MS, to_ms=now_ms() + 1)
            points = (await at.control.spend(asked)).points
            assert [(each.name, each.spent_nano) for each in points] == [("b", 2 * CENT), ("a", CENT)]


async def test_a_token_for_reading_changes_nothing(store: Server) -> None:
    async with desk(store, "remote", token="the-readers-token-of-the-tests") as at:
        await at.spend("one", USD)
        assert await names(at) == ["one"]
        for act in (
            at.control.reset(Kind.SESSION, "one", by="eve"),
            at.control.set_budget(Kind.SESSION, "one", 5, by="eve"),
            at.control.delete(Kind.SESSION, "one", by="eve"),
        ):
            with pytest.raises(Denied):
                await act
        assert (await at.control.account(Kind.SESSION, "one")).spent_nano == USD
    async with desk(store, "remote", token="a-wrong-token") as at:
        with pytest.raises(Denied):
            await at.control.stats()

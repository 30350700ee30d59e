"""What an administrator sees of one account and does to it: one suite, over the store and over the admin API."""

import pytest

from tests.control.desk import CENT, DAY_MS, HOUR_MS, USD, Desk, Open, desk, events, names, now_ms
from tests.support.redis_server import Server
from tokengate.control import Denied, Invalid, Unknown
from tokengate.control.words import Kind
from tokengate.domain import Period


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

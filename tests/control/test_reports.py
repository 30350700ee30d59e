"""What happened, what was spent and how all of it stands: one suite, over the store and over the admin API."""

import pytest

from tests.control.desk import CENT, DAY_MS, HOUR_MS, USD, Desk, Open, desk, events, now_ms
from tests.support.redis_server import Server
from tokengate.control import Invalid, Unavailable
from tokengate.control.words import By, EventQuery, Kind, Nano, Per, SpendQuery
from tokengate.ledger import keys


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

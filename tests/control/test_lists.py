"""Lists of accounts, in every order and under every condition: one suite, over the store and over the admin API."""

from typing import Any

import pytest

from tests.control.desk import CENT, DAY_MS, USD, Desk, Open, names, now_ms
from tokengate.control import Unknown
from tokengate.control.words import By, EventQuery, Kind, Per, Query, Sort, SpendQuery
from tokengate.ledger import keys


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


async def test_nothing_is_searched_for_by_walking_through_the_store(at: Desk) -> None:
    """However many sessions there are, and whatever is asked: no KEYS, no SCAN, no whole index is fetched."""
    for number in range(30):
        await at.spend(f"s{number}", CENT * number, agent="crawler")
    await at.control.freeze(Kind.SESSION, "s3", reason="it loops", for_ms=None, by="ann")
    at.redis.config_resetstat()
    for sort in Sort:
        for given in ({}, {"text": "s1"}, {"text": "s1*"}, {"frozen": True}, {"over_percent": 1}, {"offset": 10}):
            await at.control.sessions(Query(sort=sort, limit=5, **given))
    await at.control.detail(Kind.SESSION, "s3")
    with pytest.raises(Unknown):
        await at.control.detail(Kind.SESSION, "s-three")
    await at.control.stats()
    await at.control.events(EventQuery(kind=Kind.SESSION, name="s3"))
    await at.control.spend(SpendQuery(by=By.SESSION, per=Per.DAY, from_ms=now_ms() - DAY_MS, to_ms=now_ms()))
    asked: Any = at.redis.info("commandstats")
    used = {name.removeprefix("cmdstat_").partition("|")[0] for name in asked}
    assert used & {"zrange", "zrevrange", "zrangebyscore", "zrangebylex"}, used
    assert not used & {"keys", "scan", "sscan", "hscan", "zscan", "sort", "sort_ro", "randomkey", "smembers"}, used

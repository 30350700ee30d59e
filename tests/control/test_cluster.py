"""An administrator's side on a real Redis Cluster: a tenant's keys are on one node, other tenants' on others."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import redis
import redis.cluster

from tests.control.desk import CENT, DAY_MS, HOUR_MS, USD, desk, events, names, now_ms
from tests.support import redis_groups
from tests.support.terminal import command
from tokengate.control import Unknown
from tokengate.control.words import By, Kind, Per, Query, Sort, SpendQuery
from tokengate.ledger import keys

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Clustered:
    """A Cluster, and the node that has the tenant's keys."""

    group: redis_groups.Group

    @property
    def url(self) -> str:
        return self.group.url

    def client(self) -> "redis.Redis":
        return self.group.master.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clustered() -> AsyncIterator[Clustered]:
    async with redis_groups.cluster(keys.leases("default")) as group:
        yield Clustered(group)


@pytest.fixture(autouse=True)
def _empty(clustered: Clustered) -> None:
    with clustered.client() as client:
        client.flushall()


@pytest.mark.parametrize("way", ["local", "remote"])
async def test_everything_is_done_and_seen_as_on_one_server(clustered: Clustered, way: str) -> None:
    async with desk(clustered, way, AGENT_BUDGET="100", TENANT_BUDGET="1000") as at:
        await at.spend("one", 2 * USD, agent="crawler")
        await at.spend("two", USD, model="claude-sonnet-4-5")
        await at.hold("two", USD)
        assert (await at.control.set_budget(Kind.SESSION, "one", 4 * USD, by="ann")).used_percent == 50
        assert (await at.control.freeze(Kind.SESSION, "one", reason="it loops", for_ms=None, by="ann")).frozen
        assert await at.refused("one")
        for sort in Sort:
            assert set(await names(at, sort=sort)) == {"one", "two"}
        assert (await names(at, frozen=True), await names(at, over_percent=50), await names(at, text="tw*")) == (
            ["one"], ["one"], ["two"],
        )  # fmt: skip
        assert await names(at, kind=Kind.AGENT) == ["crawler"]
        detail = await at.control.detail(Kind.SESSION, "one")
        assert [each.kind for each in detail.path] == [Kind.SESSION, Kind.AGENT, Kind.TENANT]
        assert [each.model for each in (await at.control.detail(Kind.SESSION, "two")).holds] == ["gpt-4o"]
        with pytest.raises(Unknown, match="did you mean two"):
            await at.control.unfreeze(Kind.SESSION, "twoo", by="ann")
        assert not (await at.control.unfreeze(Kind.SESSION, "one", by="ann")).frozen
        assert (await at.control.reset(Kind.SESSION, "one", by="ann")).spent_nano == 0
        await at.control.delete(Kind.SESSION, "one", by="ann")
        assert await names(at) == ["two"]
        kinds = [each.kind for each in await events(at)]
        assert [each for each in kinds if each not in ("threshold", "relief")] == [
            "budget",
            "freeze",
            "unfreeze",
            "reset",
            "delete",
        ]
        now = now_ms()
        for by, name in ((By.MODEL, "gpt-4o"), (By.SESSION, "one"), (By.AGENT, "crawler")):
            asked = SpendQuery(by=by, per=Per.ALL, from_ms=now - DAY_MS, to_ms=now + 1000)
            assert name in {point.name for point in (await at.control.spend(asked)).points}
        stats = await at.control.stats()
        assert (stats.sessions, stats.in_flight, stats.spent_today_nano) == (1, 1, 3 * USD)


async def test_tenants_on_other_nodes_are_in_the_reports(clustered: Clustered) -> None:
    tenants = [f"tenant-{number}" for number in range(6)]
    with redis.cluster.RedisCluster(host="127.0.0.1", port=clustered.group.master.port) as everywhere:
        slots = {everywhere.keyslot(keys.leases(tenant)) // 5462 for tenant in tenants}
        assert slots == {0, 1, 2}, "they are to be on all three"
        for cents, tenant in enumerate(tenants, 1):
            everywhere.zadd(keys.TENANTS, {tenant: cents})
            everywhere.hset(keys.usage(tenant, now_ms() // HOUR_MS), "gpt-4o:cost_nano", cents * CENT)
    async with desk(clustered, "local") as at:
        asked = SpendQuery(by=By.TENANT, per=Per.ALL, from_ms=now_ms() - DAY_MS, to_ms=now_ms() + 1)
        points = (await at.control.spend(asked)).points
        assert [(each.name, each.spent_nano) for each in points] == [
            (tenant, cents * CENT) for cents, tenant in reversed(list(enumerate(tenants, 1)))
        ]


async def test_a_command_finds_its_node(clustered: Clustered, tmp_path: Path) -> None:
    done = await asyncio.to_thread(command, tmp_path, "set-budget", "mine", "7", REDIS_URL=clustered.url)
    assert (done.returncode, "$7.00" in done.stdout) == (0, True), done.stderr
    done = await asyncio.to_thread(command, tmp_path, "list-sessions", "--limit", "5", REDIS_URL=clustered.url)
    assert "mine" in done.stdout


async def test_pages_are_the_same_from_any_node(clustered: Clustered) -> None:
    async with desk(clustered, "local") as at:
        for number in range(25):
            await at.control.set_budget(Kind.SESSION, f"s{number:02}", USD, by="ann")
        first = await at.control.sessions(Query(limit=10, sort=Sort.NAME, descending=False))
        assert first.next_offset == 10
        rest = await at.control.sessions(Query(limit=20, offset=10, sort=Sort.NAME, descending=False))
        assert [row.name for row in (*first.rows, *rest.rows)] == [f"s{number:02}" for number in range(25)]

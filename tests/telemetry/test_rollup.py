"""The sums by hour: complete over all gates, bounded, off every request's way, and not lost with the store for a while."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import pytest
import redis
from msgspec.structs import replace

from tests.support.away import Away
from tests.support.gate import gate_processes, simulated, until
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, client, fixed, headers, scene
from tokengate.domain import Ending, Outcome, Reason, Session
from tokengate.telemetry import rollup
from tokengate.telemetry.metrics import SHORT_US
from tokengate.telemetry.rollup import FIELDS_MAX, TENANTS_HELD_MAX, Rollup, read

ENDED: Final = Outcome(
    "r", "chat_completions", Session("s", "acme"), "m", stream=False, status=200, decision="allowed",
    ending=Ending.COMPLETE, overhead_us=300,
)  # fmt: skip
REFUSED: Final = replace(
    ENDED, decision="blocked", ending=None, reason=Reason.BUDGET_EXCEEDED, saved_nano=5, overhead_us=90
)


class Store:
    def __init__(self) -> None:
        self.posted: list[tuple[str, dict[str, int]]] = []
        self.away = False

    async def post(self, tenant: str, sums: Mapping[str, int]) -> None:
        if self.away:
            raise ConnectionError("away")
        self.posted.append((tenant, dict(sums)))


async def test_what_was_recorded_is_posted_once() -> None:
    store = Store()
    sums = Rollup(store.post, "acme")
    for outcome in (ENDED, ENDED, REFUSED, replace(REFUSED, session=None)):
        sums.record(outcome)
    await sums.aclose()
    await sums.flush()
    ((tenant, fields),) = store.posted
    assert tenant == "acme"
    assert fields == {
        "requests:complete": 2, "requests:blocked": 2, "blocked:budget_exceeded": 2, "saved_nano": 10,
        "overhead_le_us:500": 2, "overhead_le_us:100": 2, "overhead_us": 780,
    }  # fmt: skip


async def test_it_is_posted_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "POST_EVERY_S", 0.01)
    store = Store()
    sums = Rollup(store.post, "acme")
    for _ in range(2):
        sums.record(ENDED)
        before = len(store.posted)
        await until(lambda before=before: len(store.posted) > before)  # type: ignore[misc]
    assert [fields["requests:complete"] for _, fields in store.posted] == [1, 1]


async def test_what_the_store_does_not_take_comes_again_with_the_next() -> None:
    store = Store()
    sums = Rollup(store.post, "acme")
    store.away = True
    sums.record(ENDED)
    await sums.flush()
    sums.record(ENDED)
    await sums.flush()
    store.away = False
    await sums.aclose()
    assert [fields["requests:complete"] for _, fields in store.posted] == [2]


async def test_what_is_free_or_left_has_no_overhead() -> None:
    store = Store()
    sums = Rollup(store.post, "acme")
    sums.record(replace(ENDED, ending=None))
    sums.record(replace(ENDED, ending=None, status=499))
    await sums.aclose()
    assert store.posted == [("acme", {"requests:passed": 1, "requests:left": 1})]


async def test_tenants_and_fields_have_a_bound() -> None:
    store = Store()
    sums = Rollup(store.post, "acme")
    for number in range(TENANTS_HELD_MAX * 2):
        sums.record(replace(ENDED, session=Session("s", f"tenant-{number}")))
    for ending in Ending:
        for overhead in (*SHORT_US, 10**9):
            sums.record(replace(ENDED, session=Session("s", "tenant-0"), ending=ending, overhead_us=overhead))
    for reason in Reason:
        sums.record(replace(REFUSED, session=Session("s", "tenant-0"), reason=reason))
    await sums.aclose()
    assert len(store.posted) == TENANTS_HELD_MAX
    assert max(len(fields) for _, fields in store.posted) <= FIELDS_MAX


def test_hours_are_read_together() -> None:
    hours = [
        {"requests:complete": 2, "requests:blocked": 1, "blocked:budget_exceeded": 1, "saved_nano": 7},
        {"requests:complete": 3, "overhead_us": 900, "overhead_le_us:100": 90, "overhead_le_us:500": 9},
        {"overhead_le_us:inf": 1, "what a later version counts": 5, "overhead_le_us:7": 1},
        {},
    ]
    found = read(hours)
    assert found.requests == {"complete": 5, "blocked": 1}
    assert found.total == 6
    assert found.blocked == {"budget_exceeded": 1}
    assert (found.saved_nano, found.overhead_us) == (7, 900)
    assert found.overhead_quantile_us(0.5) == found.overhead_quantile_us(0.9) == 100
    assert found.overhead_quantile_us(0.95) == 500
    assert found.overhead_quantile_us(1) == SHORT_US[-1]
    assert read([]).overhead_quantile_us(0.5) is None


async def test_all_gates_of_a_tenant_are_added_up(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    async with (
        simulated() as provider,
        gate_processes(2, provider.base_url, store.url, default_budget=call.budget(3)) as gates,
    ):
        for gate in gates:
            async with client(gate.url) as http:
                for _ in range(2):
                    await http.post(CHAT, content=call.body, headers=headers("s", call.simulate))
                await http.get("/v1/models")
        for gate in gates:
            gate.signal(15)
            await gate.ended()
    found = read(_hours(redis_cli))
    assert found.requests == {"complete": 3, "blocked": 1, "passed": 2}
    assert found.blocked == {"budget_exceeded": 1}
    assert found.saved_nano > 0
    assert sum(found.overhead_counts) == 4
    (key,) = redis_cli.scan_iter("*:stats:*")
    assert 399 * 86_400 < redis_cli.ttl(key) <= 400 * 86_400


async def test_an_outage_is_counted_when_it_is_over(away: Away) -> None:
    async with scene(away.url, store_timeout_ms=100) as at:
        away.leave()
        assert (await at.post(chat())).status_code == 503
        sums = at.gate.app.proxy.telemetry._rollup
        assert sums is not None
        await sums.flush()
        away.come_back()
        await sums.flush()
    with away.server.client() as cli:
        assert read(_hours(cli)).blocked == {"store_unavailable": 1}


def _hours(client: Any) -> list[dict[str, int]]:
    """All the hours there are: a test may run across the end of one."""
    return [
        {name: int(amount) for name, amount in client.hgetall(key).items()} for key in client.scan_iter("*:stats:*")
    ]


async def test_posting_holds_up_nothing(store: Server) -> None:
    async with scene(store.url) as at:
        sums = at.gate.app.proxy.telemetry._rollup
        assert sums is not None
        taken = asyncio.Event()
        asked = asyncio.Event()

        async def slow(tenant: str, fields: Mapping[str, int]) -> None:
            asked.set()
            await taken.wait()

        sums._post = slow
        await at.ask()
        posting = asyncio.create_task(sums.flush())
        await asked.wait()
        assert (await at.ask()).status_code == 200
        taken.set()
        await posting

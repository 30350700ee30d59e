"""What an administrator waits for: a page of the list among a million sessions, beside one among ten.

Both are asked in turns, by the same code, for ten rows. A session is what the scripts make of a call; the million are
its copies, with names, times and amounts of their own, in the indexes where the scripts would put them.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis

from bench.figures import Figure, at_most, exactly, told
from bench.processes import redis_server
from tokengate.budgets import limits
from tokengate.composition import open_control, open_ledger, policy_of
from tokengate.control.local import LocalControl
from tokengate.control.words import Kind, Query, Sort
from tokengate.domain import Ending, Session, Usage
from tokengate.ledger import Ask, Settlement
from tokengate.settings import Settings, load
from tokengate.store import open_store

MANY: Final = 1_000_000
FEW: Final = 10
BATCH: Final = 10_000
ROUNDS: Final = 60
RATIO_MAX: Final = 3.0
USD: Final = 1_000_000_000

COPY: Final = """
local fields, tenant = redis.call('HGETALL', KEYS[1]), string.match(KEYS[1], '^(.-}:)')
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local name = string.format('customer-%d.agent-run-%07d', number % 97, number)
  local cents, percent = (number * 7919) % 1000, (number * 104729) % 96
  redis.call('HSET', tenant .. 'session:' .. name, unpack(fields))
  redis.call('ZADD', tenant .. 'sessions', 1700000000000 + number, name)
  redis.call('ZADD', tenant .. 'sessions:names', 0, name)
  redis.call('ZADD', tenant .. 'sessions:spent', cents, name)
  redis.call('ZADD', tenant .. 'sessions:share', percent, name)
end
"""

PAGES: Final[dict[str, Query]] = {
    "by last activity": Query(limit=FEW),
    "by name": Query(limit=FEW, sort=Sort.NAME, descending=False),
    "by what was spent": Query(limit=FEW, sort=Sort.SPENT),
    "by the share of the budget": Query(limit=FEW, sort=Sort.SHARE),
    "in the middle": Query(limit=FEW, sort=Sort.SPENT, offset=MANY // 2),
    "of those whose names begin so": Query(limit=FEW, text="customer-42.agent-run-0000*"),
    "of those that are frozen": Query(limit=FEW, frozen=True),
    "of those that have spent nearly all": Query(limit=FEW, over_percent=99),
}


async def _one(settings: Settings, control: LocalControl) -> None:
    """A session as the scripts make it, with a call behind it and one under way."""
    session = Session("original", agent="crawler")
    path = limits(policy_of(settings), session)
    store = await open_store(settings)
    async with open_ledger(settings, store, "bench") as ledger:
        for hold_id in ("made", "under-way"):
            await ledger.reserve(Ask(hold_id, session, path, USD, USD, USD, True, "gpt-4o-mini"))
        usage = Usage(input_tokens=1000, output_tokens=100)
        await ledger.settle(Settlement("made", session, path, USD, False, Ending.COMPLETE, "gpt-4o-mini", usage))
    await store.aclose()
    await control.account(Kind.SESSION, "original")


async def _fill(client: Any, control: LocalControl, count: int) -> None:
    copy = client.register_script(COPY)
    for start in range(0, count - 1, BATCH):
        copy(keys=["tokengate:{default}:session:original"], args=[start, min(start + BATCH, count - 1) - 1])
    for number in range(3):
        name = f"customer-{number}.agent-run-{number:07d}"
        await control.freeze(Kind.SESSION, name, reason="the same call again and again", for_ms=None, by="bench")
        client.zadd("tokengate:{default}:sessions:share", {name: 99})


@asynccontextmanager
async def _desk(url: str) -> AsyncIterator[tuple[Settings, LocalControl]]:
    settings = load({"REDIS_URL": url}, None).settings
    store = await open_store(settings)
    try:
        async with open_control(settings, store, "bench") as control:
            yield settings, control
    finally:
        await store.aclose()


async def _time_us(control: LocalControl, query: Query) -> float:
    began = time.perf_counter_ns()
    await control.sessions(query)
    return (time.perf_counter_ns() - began) / 1000


async def _measure(few_url: str, many_url: str) -> list[Figure]:
    figures: list[Figure] = []
    connect: Any = redis.Redis.from_url
    with contextlib.closing(connect(few_url)) as few_client, contextlib.closing(connect(many_url)) as many_client:
        async with _desk(few_url) as (settings, few), _desk(many_url) as (_, many):
            await _one(settings, few)
            await _fill(few_client, few, FEW)
            before = many_client.info("memory")["used_memory"]
            await _one(load({"REDIS_URL": many_url}, None).settings, many)
            await _fill(many_client, many, MANY)
            used = many_client.info("memory")["used_memory"] - before
            many_client.config_resetstat()
            for name, query in PAGES.items():
                # The first time a server makes something ready; that is not what a page takes.
                await _time_us(many, query)
                pairs = [(await _time_us(many, query), await _time_us(few, query)) for _ in range(ROUNDS)]
                ratio = statistics.median(each[0] for each in pairs) / statistics.median(each[1] for each in pairs)
                figures.append(at_most(f"a page {name}: among {MANY:,} / among {FEW}", ratio, "", RATIO_MAX))
            nowhere = Query(limit=FEW, text="nowhere")
            found = await many.sessions(nowhere)
            took_us = statistics.median([await _time_us(many, nowhere) for _ in range(5)])
            what = f"a search within names that finds nothing, {found.looked_at:,} looked at"
            figures.append(told(what, took_us / 1000, "ms"))
            details = [await _detail_us(each) for each in (many, few) for _ in range(ROUNDS)]
            ratio = statistics.median(details[:ROUNDS]) / statistics.median(details[ROUNDS:])
            figures.append(at_most("everything about one session, likewise", ratio, "", RATIO_MAX))
            asked: Any = many_client.info("commandstats")
            walks = sum(
                asked[name]["calls"] for name in asked if name in ("cmdstat_keys", "cmdstat_scan", "cmdstat_sort")
            )
            figures.append(exactly("KEYS, SCAN or SORT on the way", walks, "calls", 0))
            figures.append(told("memory for 1,000 sessions", used / MANY * 1000 / 2**20, "MiB"))
    return figures


async def _detail_us(control: LocalControl) -> float:
    began = time.perf_counter_ns()
    await control.detail(Kind.SESSION, "customer-1.agent-run-0000001")
    return (time.perf_counter_ns() - began) / 1000


def run() -> list[Figure]:
    """Two servers, one with few and one with many."""
    with redis_server() as few, redis_server() as many:
        return asyncio.run(_measure(few, many))

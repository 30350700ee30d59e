"""Lists, whatever is asked of them: all that meets the conditions, once, in order, in bounded steps."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tokengate.ledger import keys, lists
from tokengate.ledger.books import Find, Found, Order
from tokengate.ledger.lists import RedisLists
from tokengate.ledger.redis import RedisLedger

NOW_MS: Final = 1_790_000_000_000
TENANT: Final = "default"

Row = tuple[int, int | None, int, float | None]
"""Last active, cents spent (None: in no list of spending), percent, frozen until (None: it is not)."""

rows = st.tuples(
    st.integers(0, 50),
    st.one_of(st.none(), st.integers(0, 20)),
    st.integers(0, 120),
    st.one_of(st.none(), st.sampled_from([NOW_MS - 1, NOW_MS + 1, math.inf])),
)
sessions = st.dictionaries(st.text("ab1", min_size=1, max_size=4), rows, max_size=40)
queries = st.fixed_dictionaries(
    {
        "order": st.sampled_from(list(Order)),
        "descending": st.booleans(),
        "text": st.sampled_from(["", "a", "B", "ab*", "b*", "*", "zz"]),
        "frozen": st.booleans(),
        "over_percent": st.sampled_from([0, 1, 80, 121]),
        "limit": st.integers(1, 7),
    }
)


@pytest.fixture
def cli(server: Server) -> Any:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def found(server: Server, cli: "redis.Redis") -> AsyncIterator[RedisLists]:
    ledger = RedisLedger(link_to(server.socket), owner="o", lease_ms=5000, sessions_max=10, retry_ms=500)
    yield RedisLists(ledger.ask, TENANT)
    await ledger.aclose()


def index(order: str = "") -> str:
    return keys.index(TENANT, "session", order)


def fill(cli: "redis.Redis", given: dict[str, Row]) -> None:
    cli.flushall()
    pipe = cli.pipeline(transaction=False)
    for name, (active, spent, percent, frozen) in given.items():
        pipe.zadd(index(), {name: active})
        pipe.zadd(index("names"), {name: 0})
        if spent is not None:
            pipe.zadd(index("spent"), {name: spent})
            pipe.zadd(index("share"), {name: percent})
        if frozen is not None:
            pipe.zadd(index("frozen"), {name: frozen})
    pipe.execute()


def meets(name: str, row: Row, query: dict[str, Any]) -> bool:
    _, spent, percent, frozen = row
    text = query["text"]
    named = name.startswith(text[:-1]) if text.endswith("*") else text.lower() in name.lower()
    is_frozen = frozen is not None and frozen > NOW_MS
    over = query["over_percent"] == 0 or (spent is not None and percent >= query["over_percent"])
    return named and over and (is_frozen or not query["frozen"])


def rank(name: str, row: Row, order: Order) -> Any:
    """Where it stands; None: with those that come last."""
    active, spent, percent, _ = row
    if order is Order.NAMES:
        return name
    if order is Order.ACTIVITY:
        return active
    return None if spent is None else spent if order is Order.SPENT else percent


async def pages(lists_: RedisLists, query: dict[str, Any]) -> list[Found]:
    got, offset = [], 0
    while True:
        page = await lists_.find(Find(kind="session", offset=offset, now_ms=NOW_MS, **query))
        got.append(page)
        if page.next_offset is None:
            return got
        assert page.next_offset > offset, "it never goes on where it was"
        offset = page.next_offset


def check(given: dict[str, Row], query: dict[str, Any], got: list[Found]) -> None:
    names = [name.decode() for page in got for name in page.names]
    assert sorted(names) == sorted(name for name, row in given.items() if meets(name, row, query))
    ranks = [rank(name, given[name], query["order"]) for name in names]
    known = [each for each in ranks if each is not None]
    assert ranks == known + [None] * (len(ranks) - len(known)), "those without a place come last"
    assert known == sorted(known, reverse=query["descending"])
    for page in got:
        assert page.of == len(given)
        assert page.total in (None, len(names))
        assert len(page.names) <= query["limit"]


@pytest.mark.parametrize("small", [True, False], ids=["few are sorted", "none are sorted"])
async def test_all_that_meets_the_conditions_comes_once_and_in_order(
    found: RedisLists, cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if not small:
        # Everything is too much to be sorted, and a walk takes several steps a page, and several pages.
        monkeypatch.setattr(lists, "SORTED_MAX", 0)
        monkeypatch.setattr(lists, "LOOKED_AT_MAX", 10)
        monkeypatch.setattr(lists, "_CHUNK", 4)
    loop = asyncio.get_running_loop()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(given_=sessions, query=queries)
    def explore(given_: dict[str, Row], query: dict[str, Any]) -> None:
        fill(cli, given_)
        got = asyncio.run_coroutine_threadsafe(pages(found, query), loop).result(30)
        check(given_, query, got)
        if not small:
            assert all(page.looked_at <= 10 + 4 for page in got if query["text"] or query["frozen"])

    await asyncio.to_thread(explore)


async def test_any_page_of_a_plain_list_can_be_asked_for(found: RedisLists, cli: "redis.Redis") -> None:
    fill(cli, {f"s{number:02}": (number, number, number, None) for number in range(20)})
    for order, first in ((Order.NAMES, "s12"), (Order.ACTIVITY, "s12"), (Order.SPENT, "s12")):
        page = await found.find(Find("session", order, descending=False, offset=12, limit=3, now_ms=NOW_MS))
        assert (page.names[0].decode(), page.total, page.next_offset) == (first, 20, 15)
        page = await found.find(Find("session", order, descending=True, offset=18, limit=5, now_ms=NOW_MS))
        assert ([name.decode() for name in page.names], page.next_offset) == (["s01", "s00"], None)
        page = await found.find(Find("session", order, descending=True, offset=99, limit=5, now_ms=NOW_MS))
        assert (page.names, page.next_offset) == ([], None)


async def test_a_plain_page_looks_at_no_more_than_it_shows(found: RedisLists, cli: "redis.Redis") -> None:
    fill(cli, {f"s{number:04}": (number, number, number % 101, None) for number in range(2000)})
    cli.config_resetstat()
    for order in Order:
        page = await found.find(Find("session", order, descending=True, offset=500, limit=50, now_ms=NOW_MS))
        assert (len(page.names), page.looked_at, page.total) == (50, 50, 2000)
    asked: Any = cli.info("commandstats")
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_zscan", "cmdstat_hscan", "cmdstat_sort"} & set(asked)
    assert sum(each["calls"] for name, each in asked.items() if name.startswith("cmdstat_z")) <= 3 * len(Order)


class TestAlike:
    @pytest.mark.parametrize(
        ("given_", "expected"),
        [
            ("my-sesion", ["my-session"]),
            ("MY-SESSION", ["my-session"]),
            ("y-session", ["my-session"]),
            ("nightly-imprt-2026", ["nightly-import-2026"]),
            ("zzz", []),
            ("my-session", []),
            ("\x1b[31m", []),
            ("ü" * 128, []),
        ],
    )
    async def test_it_is_what_was_probably_meant(
        self, found: RedisLists, cli: "redis.Redis", given_: str, expected: list[str]
    ) -> None:
        fill(cli, dict.fromkeys(["my-session", "nightly-import-2026", "q", "other-thing"], (1, None, 0, None)))
        assert await found.alike("session", given_) == expected

    async def test_it_is_found_among_very_many(self, found: RedisLists, cli: "redis.Redis") -> None:
        many: dict[str, Row] = {f"job-{number}": (number, None, 0, None) for number in range(3000)}
        fill(cli, many | {"nightly-import": (0, None, 0, None)})
        assert await found.alike("session", "nightly-imprt") == ["nightly-import"]

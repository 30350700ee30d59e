"""What the ledger keeps in Redis, for people: what they read there, what they may write there, and what it may do."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from tests.support.hashes import fields, happened, key, spent_nano
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tokengate.budgets import Policy, limits
from tokengate.domain import Ending, Period, Scope, Session, Usage
from tokengate.ledger import Ask, Kind, LedgerError, Settlement, StoreUnavailable, Verdict
from tokengate.ledger.link import Link
from tokengate.ledger.redis import RedisLedger

USD: Final = 1_000_000_000
ALICE: Final = Session("alice", agent="crawler")
POLICY: Final = Policy(10 * USD, agent_cap_nano=20 * USD, tenant_cap_nano=30 * USD, tenant_period=Period.DAY)
REFERENCE: Final = Path(__file__).parent.parent.parent / "docs" / "reference" / "store.md"


@pytest.fixture
def cli(server: Server) -> Any:
    """A person with redis-cli, on a server that holds nothing yet."""
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
async def ledger(server: Server, cli: "redis.Redis") -> AsyncIterator[RedisLedger]:
    opened = RedisLedger(link_to(server.socket), owner="host:1:abc", lease_ms=60_000, sessions_max=100, retry_ms=500)
    yield opened
    await opened.aclose()


def ask(hold_id: str, nano: int = USD, policy: Policy = POLICY) -> Ask:
    return Ask(hold_id, ALICE, limits(policy, ALICE), nano, nano, nano, True, "gpt-4o")


def settlement(hold_id: str, nano: int, policy: Policy = POLICY) -> Settlement:
    usage = Usage(input_tokens=3, output_tokens=4)
    return Settlement(hold_id, ALICE, limits(policy, ALICE), nano, False, Ending.COMPLETE, "gpt-4o", usage)


async def refused(ledger: RedisLedger, hold_id: str = "again") -> Verdict:
    verdict = await ledger.reserve(ask(hold_id))
    assert verdict.grant_nano == 0
    return verdict


# --- what is read ---


def documented(heading: str) -> set[str]:
    """The names in the first column of the table under a heading of the reference."""
    section = REFERENCE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


async def test_a_scope_and_a_hold_are_what_the_reference_says(ledger: RedisLedger, cli: "redis.Redis") -> None:
    await ledger.reserve(ask("one", 2 * USD))
    await ledger.reserve(ask("two"))
    await ledger.settle(settlement("one", 3 * USD))
    await ledger.reserve(ask("three", 2**53 - 1))
    session, hold = fields(cli, "alice"), cli.hgetall("tokengate:{default}:hold:two")
    amounts = {name: session[name] for name in ("budget", "budget_default", "spent", "held", "overrun")}
    assert amounts == {
        "budget": "10.000000000",
        "budget_default": "10.000000000",
        "spent": "3.000000000",
        "held": "1.000000000",
        "overrun": "1.000000000",
    }
    assert (session["requests"], session["blocked"], session["total_nano"]) == ("1", "1", "3000000000")
    tenant = fields(cli, "default", "tenant")
    assert int(tenant["resets_at_ms"]) - int(tenant["period_start_ms"]) == 86_400_000
    known = documented("A session, an agent, a tenant")
    assert session.pop("gpt-4o:total_nano") == "3000000000"
    assert set(session) | set(tenant) | set(fields(cli, "crawler", "agent")) <= known
    assert (hold["state"], hold["grant"], hold["owner"]) == ("held", "1.000000000", "host:1:abc")
    ended = cli.hgetall("tokengate:{default}:hold:one")
    assert (ended["state"], ended["charged"]) == ("settled", "3.000000000")
    assert set(hold) | set(ended) <= documented("A hold")
    assert [each["kind"] for each in happened(cli)] == ["overrun"]


async def test_an_hour_is_rolled_up_by_model_and_a_day_by_session_and_agent(
    ledger: RedisLedger, cli: "redis.Redis"
) -> None:
    for hold_id in ("one", "two"):
        await ledger.reserve(ask(hold_id))
        await ledger.settle(settlement(hold_id, 5))
    by_agent, hour, by_session = sorted(cli.keys("*:usage:*"), key=lambda name: re.sub(r"\d", "m", str(name)))
    assert cli.hgetall(hour) == {
        "gpt-4o:cost_nano": "10",
        "gpt-4o:input_tokens": "6",
        "gpt-4o:output_tokens": "8",
        "gpt-4o:requests": "2",
    }
    assert cli.zrange(by_session, 0, -1) == ["alice"]
    assert cli.hgetall(by_agent) == {"crawler": "10"}
    assert [-(-cli.ttl(name) // 86_400) for name in (hour, by_session, by_agent)] == [400, 35, 400]
    assert (fields(cli, "alice")["agent"], fields(cli, "alice")["gpt-4o:total_nano"]) == ("crawler", "10")


async def test_an_amount_is_exact_to_the_nano_dollar_up_to_the_largest(ledger: RedisLedger, cli: "redis.Redis") -> None:
    most = 2**53 - 1
    policy = Policy(most)
    for hold_id, nano in (("one", most - 3), ("two", 2)):
        assert (await ledger.reserve(ask(hold_id, nano, policy))).kind is Kind.HELD
        await ledger.settle(settlement(hold_id, nano, policy))
    assert fields(cli, "alice")["spent"] == "9007199.254740990"
    assert (await ledger.reserve(ask("three", 2, policy))).kind is Kind.EXCEEDED
    assert (await ledger.reserve(ask("four", 1, policy))).kind is Kind.HELD


# --- what is written by hand ---


@pytest.mark.parametrize(("text", "nano"), [("3", 3 * USD), ("3.5", 3_500_000_000), ("0", 0), ("0.000000001", 1)])
async def test_a_budget_that_a_person_sets_is_obeyed(
    ledger: RedisLedger, cli: "redis.Redis", text: str, nano: int
) -> None:
    cli.hset(key("alice"), "budget", text)
    verdict = await ledger.reserve(ask("one", nano + 1))
    assert (verdict.kind, verdict.standing.cap_nano) == (Kind.EXCEEDED, nano)
    assert (await ledger.reserve(ask("two", nano))).kind is Kind.HELD
    assert fields(cli, "alice")["budget"] == text


RUBBISH = [
    "lots",
    "",
    "-1",
    "+1",
    "1e3",
    "NaN",
    "inf",
    "0x10",
    "1,000",
    "1.0000000001",
    "12345678",
    "9007199.254740992",
    " 1",
    "$5",
]


@pytest.mark.parametrize("text", RUBBISH)
@pytest.mark.parametrize("field", ["budget", "spent", "held"])
async def test_an_amount_that_is_none_refuses_and_stays_to_be_seen(
    ledger: RedisLedger, cli: "redis.Redis", field: str, text: str
) -> None:
    cli.hset(key("alice"), mapping={"budget": "5", field: text})
    verdict = await refused(ledger)
    assert (verdict.kind, verdict.invalid) == (Kind.INVALID, text)
    assert verdict.standing.scope == Scope("default", "session", "alice")
    assert fields(cli, "alice")[field] == text
    cli.hset(key("alice"), mapping={"budget": "5", "spent": "0", "held": "0"})
    assert (await ledger.reserve(ask("one"))).kind is Kind.HELD


async def test_rubbish_in_the_budget_of_an_agent_refuses_in_its_name(ledger: RedisLedger, cli: "redis.Redis") -> None:
    cli.hset(key("crawler", "agent"), "budget", "lots")
    verdict = await refused(ledger)
    assert (verdict.kind, str(verdict.standing.scope)) == (Kind.INVALID, "agent crawler")


@pytest.mark.parametrize("name", ["requests", "blocked", "total_nano", "epoch", "assumed", "overrun", "created_ms"])
async def test_rubbish_in_a_statistic_stops_no_money(ledger: RedisLedger, cli: "redis.Redis", name: str) -> None:
    cli.hset(key("alice"), name, "rubbish")
    assert (await ledger.reserve(ask("one", 2 * USD))).kind is Kind.HELD
    assert (await ledger.settle(settlement("one", 3 * USD))).charged_nano == 3 * USD
    assert (await ledger.reserve(ask("two"))).kind is Kind.HELD
    ledger.now_ms = 2_000_000_000_000
    assert await ledger.sweep("default") == 1
    assert spent_nano(cli, "alice") == 4 * USD
    assert (await ledger.reserve(ask("three", 9 * USD))).kind is Kind.EXCEEDED


async def test_a_freeze_by_hand_refuses_with_its_reason_until_it_is_lifted(
    ledger: RedisLedger, cli: "redis.Redis"
) -> None:
    cli.hset(key("alice"), mapping={"frozen": "1", "frozen_reason": "under review"})
    verdict = await refused(ledger)
    assert (verdict.kind, verdict.frozen_reason, verdict.frozen_until_ms) == (Kind.FROZEN, "under review", None)
    cli.hset(key("alice"), "frozen_until_ms", 1_000)
    assert (await ledger.reserve(ask("one"))).kind is Kind.HELD
    cli.hset(key("crawler", "agent"), "frozen", "1")
    verdict = await refused(ledger)
    assert (verdict.kind, str(verdict.standing.scope), verdict.frozen_reason) == (Kind.FROZEN, "agent crawler", "")
    cli.hset(key("crawler", "agent"), "frozen", "0")
    assert (await ledger.reserve(ask("two"))).kind is Kind.HELD


async def test_a_freeze_says_who_when_and_why_and_ends_by_itself_or_is_lifted(
    ledger: RedisLedger, cli: "redis.Redis"
) -> None:
    scope, [limit, *_] = Scope("default", "session", "alice"), limits(POLICY, ALICE)
    ledger.now_ms = 1_900_000_000_000
    assert await ledger.freeze(scope, reason="under review", for_ms=60_000, by="cli:bob") is False
    verdict = await refused(ledger)
    assert (verdict.kind, verdict.frozen_reason, verdict.frozen_until_ms) == (
        Kind.FROZEN,
        "under review",
        ledger.now_ms + 60_000,
    )
    state = await ledger.state(limit)
    assert (state.frozen, state.frozen_at_ms, state.frozen_by) == (True, ledger.now_ms, "cli:bob")
    assert set(fields(cli, "alice")) <= documented("A session, an agent, a tenant")
    ledger.now_ms += 60_000
    assert (await ledger.state(limit)).frozen is False
    assert (await ledger.reserve(ask("one"))).kind is Kind.HELD
    assert await ledger.unfreeze(scope, by="cli:bob") is False
    assert await ledger.freeze(scope, reason="for good", for_ms=None, by="cli:bob") is False
    assert await ledger.freeze(scope, reason="x" * 2000, for_ms=None, by="cli:eve") is True
    assert len((await refused(ledger)).frozen_reason or "") == 1000
    assert await ledger.unfreeze(scope, by="page:bob") is True
    assert (await ledger.reserve(ask("two"))).kind is Kind.HELD
    assert not [name for name in fields(cli, "alice") if name.startswith("frozen")]
    told = [(each["kind"], each["by"], each["before"], each["after"]) for each in happened(cli)]
    assert told == [
        ("freeze", "cli:bob", "open", f"frozen until {ledger.now_ms}"),
        ("freeze", "cli:bob", "open", "frozen"),
        ("freeze", "cli:eve", "frozen", "frozen"),
        ("unfreeze", "page:bob", "frozen", "open"),
    ]
    assert happened(cli)[0]["reason"] == "under review"


async def test_a_session_may_be_frozen_before_it_is_first_seen(ledger: RedisLedger, cli: "redis.Redis") -> None:
    await ledger.freeze(Scope("default", "session", "alice"), reason="not now", for_ms=None, by="cli")
    assert cli.zrange("tokengate:{default}:sessions", 0, -1) == ["alice"]
    assert (await refused(ledger)).kind is Kind.FROZEN


async def test_a_default_is_followed_and_what_somebody_set_is_kept(ledger: RedisLedger, cli: "redis.Redis") -> None:
    scope = Scope("default", "session", "alice")

    async def cap(default: int) -> int:
        verdict = await ledger.reserve(ask(f"hold-{default}", 1, Policy(default * USD)))
        return verdict.standing.cap_nano // USD

    assert [await cap(10), await cap(5), await cap(20)] == [10, 5, 20]
    cli.hset(key("alice"), "budget", "7")
    assert [await cap(11), await cap(6)] == [7, 7]
    await ledger.set_budget(scope, 8 * USD)
    assert [await cap(12), await cap(3)] == [8, 8]
    await ledger.set_budget(scope, None)
    assert [await cap(13), await cap(4)] == [13, 4]
    # Set to what the default happens to be, it is somebody's will all the same.
    await ledger.set_budget(scope, 4 * USD)
    assert await cap(14) == 4


async def test_a_budget_may_be_set_before_a_session_is_first_seen(ledger: RedisLedger, cli: "redis.Redis") -> None:
    await ledger.set_budget(Scope("default", "session", "alice"), USD)
    assert cli.zrange("tokengate:{default}:sessions", 0, -1) == ["alice"]
    assert (await ledger.reserve(ask("one", USD + 1))).kind is Kind.EXCEEDED
    assert [(each["kind"], each["before"], each["after"]) for each in happened(cli)] == [("budget", "", "1.000000000")]


# --- what goes wrong ---


async def test_letting_go_of_what_was_never_held_is_no_event(ledger: RedisLedger, cli: "redis.Redis") -> None:
    await ledger.settle(settlement("never", 0))
    assert happened(cli) == []
    await ledger.settle(settlement("lost", 5))
    assert [each["kind"] for each in happened(cli)] == ["lost"]
    assert spent_nano(cli, "alice") == 5


async def test_a_reservation_that_comes_after_it_was_let_go_holds_nothing(
    ledger: RedisLedger, cli: "redis.Redis"
) -> None:
    await ledger.settle(settlement("one", 0))
    await ledger.reserve(ask("one"))
    assert fields(cli, "alice").get("held", "0.000000000") == "0.000000000"
    assert cli.zcard("tokengate:{default}:leases") == 0


async def test_a_key_of_another_type_is_an_error_and_not_a_budget(ledger: RedisLedger, cli: "redis.Redis") -> None:
    cli.set(key("alice"), "10")
    with pytest.raises(LedgerError, match="WRONGTYPE"):
        await ledger.reserve(ask("one"))
    assert cli.get(key("alice")) == "10"


async def test_a_full_server_refuses_and_holds_nothing(ledger: RedisLedger, cli: "redis.Redis") -> None:
    assert (await ledger.reserve(ask("one"))).kind is Kind.HELD
    cli.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="OOM"):
            await ledger.reserve(ask("two"))
    finally:
        cli.config_set("maxmemory", "0")
    assert fields(cli, "alice")["held"] == "1.000000000"


async def test_what_the_reference_says_a_gate_needs_is_enough(server: Server, cli: "redis.Redis") -> None:
    text = " ".join(REFERENCE.read_text().partition("## What a gate may be allowed\n")[2].partition("\n## ")[0].split())
    commands = [f"+{name.lower()}" for name in re.findall(r"`([A-Z]{3,})`", text.partition("On a Cluster")[0])]
    assert {"+evalsha", "+hset", "+xadd"} <= set(commands)
    cli.execute_command("ACL", "SETUSER", "gate", "reset", "on", ">secret", "~tokengate:*", *commands)
    pool = redis.asyncio.ConnectionPool.from_url(f"unix://gate:secret@{server.socket}", protocol=2)

    async def connect() -> Any:
        connection: Any = pool.make_connection()
        await connection.connect()
        return connection

    ledger = RedisLedger(Link(connect, 2000), owner="o", lease_ms=5000, sessions_max=10, retry_ms=500)
    ledger.now_ms = 1_900_000_000_000
    scope = Scope("default", "session", "alice")
    try:
        for hold_id in ("one", "two"):
            assert (await ledger.reserve(ask(hold_id))).kind is Kind.HELD
        await ledger.settle(settlement("one", 2 * USD))
        assert await ledger.renew("default", ["one", "two"]) == ["one"]
        ledger.now_ms += 10_000
        assert await ledger.sweep("default") == 1
        await ledger.settle(settlement("two", 1))
        await ledger.settle(settlement("lost", 1))
        await ledger.set_budget(scope, USD)
        assert (await ledger.reserve(ask("three"))).kind is Kind.EXCEEDED
        await ledger.set_budget(scope, None)
        await ledger.reset(scope)
        await ledger.freeze(scope, reason="a loop", for_ms=1000, by="gate")
        assert await ledger.unfreeze(scope, by="gate")
        assert (await ledger.state(limits(POLICY, ALICE)[0])).spent_nano == 0
        await ledger.ping()
    finally:
        await ledger.aclose()
        cli.execute_command("ACL", "DELUSER", "gate")


async def test_without_scripts_at_all_there_is_no_ledger(server: Server, cli: "redis.Redis") -> None:
    cli.execute_command("ACL", "SETUSER", "weak", "reset", "on", ">secret", "~*", "+@all", "-eval", "-evalsha")
    pool = redis.asyncio.ConnectionPool.from_url(f"unix://weak:secret@{server.socket}", protocol=2)

    async def connect() -> Any:
        connection: Any = pool.make_connection()
        await connection.connect()
        return connection

    ledger = RedisLedger(Link(connect, 2000), owner="o", lease_ms=5000, sessions_max=10, retry_ms=100)
    try:
        with pytest.raises(LedgerError, match="NOPERM"):
            await ledger.reserve(ask("one"))
    finally:
        await ledger.aclose()
        cli.execute_command("ACL", "DELUSER", "weak")


async def test_a_hundred_tasks_that_want_everything_stop_at_the_cap(ledger: RedisLedger, cli: "redis.Redis") -> None:
    async def one(number: int) -> bool:
        verdict = await ledger.reserve(ask(f"hold-{number}"))
        if verdict.kind is Kind.HELD:
            await ledger.settle(settlement(f"hold-{number}", USD))
        return verdict.kind is Kind.HELD

    assert sum(await asyncio.gather(*(one(number) for number in range(100)))) == 10
    assert spent_nano(cli, "alice") == 10 * USD

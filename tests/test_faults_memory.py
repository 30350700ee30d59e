"""Faults of memory that others shipped: budgets forgotten, holds leaked, blocks that never end (10 to 17 of the list)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.gate import INPUT_NANO, OUTPUT_NANO, gate_processes, simulated, until
from tests.support.hashes import booked, fields, happened, held_nano, key, spent_nano
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tests.support.scene import CHAT, MODEL, Scene, client, fixed, headers, scene
from tokengate.domain import Scope
from tokengate.ledger.redis import RedisLedger
from tokengate.money import format_usd, parse_usd

# --- 10: sessions that agents invent ---


@pytest.mark.parametrize("kind", ["agent", "tenant"])
async def test_10_new_session_ids_are_no_new_budgets_within_a_workload(
    store: Server, redis_cli: "redis.Redis", kind: str
) -> None:
    call = fixed()
    settings: dict[str, Any] = {f"{kind}_budget": call.budget(3), "agent": "crawler"}
    async with scene(store.url, **settings) as at:
        answers = [await at.post(call.body, f"invented-{number}", call.simulate) for number in range(8)]
        await at.gate.idle()
        assert at.provider.received == 3
    name = {"agent": "crawler", "tenant": "default"}[kind]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 5
    assert parse_usd(fields(redis_cli, name, kind)["spent"]) == 3 * call.cost_nano
    error = answers[-1].json()["error"]
    assert error["message"].startswith(f"Budget of the {kind} {name} exceeded.")
    assert error["budget_info"]["scope"] == f"{kind} {name}"
    assert answers[-1].headers["x-tokengate-scope"] == kind


async def test_10_a_pinned_session_cannot_be_left(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    async with scene(store.url, session_id="pod-7", default_budget=call.budget(2)) as at:
        answers = [await at.post(call.body, f"other-{number}", call.simulate) for number in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert redis_cli.zrange("tokengate:{default}:sessions", 0, -1) == ["pod-7"]


# --- 11: counters that are forgotten ---


async def test_11_what_was_spent_never_expires(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, agent="crawler", agent_budget="5", tenant_budget="5", tenant_budget_period="day") as at:
        await at.ask("mine")
        await at.ask("mine", stream=True)
        await at.gate.idle()
    scopes = {key("mine"), "tokengate:{default}:agent:crawler", "tokengate:{default}:tenant:default"}
    lasting = {key for key in redis_cli.keys("*") if redis_cli.ttl(key) == -1}
    assert scopes | {"tokengate:{default}:sessions"} <= lasting
    assert all(":hold:" in key or ":usage:" in key for key in set(booked(redis_cli)) - lasting)


async def test_11_a_restart_of_the_embedded_store_still_knows(tmp_path: Path) -> None:
    call = fixed()
    settings: dict[str, Any] = {"default_budget": call.budget(2), "data_dir": tmp_path}
    for expected in ([200, 200, 429], [429]):
        async with scene(None, **settings) as at:
            answers = [await at.post(call.body, simulate=call.simulate) for _ in expected]
            assert [answer.status_code for answer in answers] == expected
            budget = (await at.http.get("/tokengate/budget")).json()
            assert budget["spent"] == budget["budget"] == 2 * call.cost_nano / 1e9


# --- 12, 13, 14: prices and usage ---


async def test_12_a_model_without_a_price_is_refused_and_not_free(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url) as at:
        refused = await at.ask(model="gpt-4o-mini-but-better")
        assert at.provider.received == 0
    assert refused.status_code == 400
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["error"]["type"] == "model_not_priced"
    assert "PRICING_FILE" in refused.json()["error"]["message"]
    assert booked(redis_cli) == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_12_the_model_that_answered_is_charged(store: Server, redis_cli: "redis.Redis", stream: bool) -> None:
    call = fixed(simulate="other_model:gpt-4o-2024-08-06", stream=stream)
    async with scene(store.url) as at:
        await at.post(call.body, simulate=call.simulate)
        [line] = await at.gate.log()
    # gpt-4o: $2.50 and $10 a million.
    assert spent_nano(redis_cli) == line["input_tokens"] * 2500 + 50 * 10_000
    assert line["model"] == MODEL


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_13_what_goes_beyond_a_hold_is_recorded_as_debt_and_blocks(
    store: Server, redis_cli: "redis.Redis", stream: bool
) -> None:
    call = fixed(simulate="huge_usage:1000000", stream=stream)
    async with scene(store.url, default_budget="0.10") as at:
        assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
        [line] = await at.gate.log()
        assert (await at.ask(max_tokens=1)).status_code == 429
    kept = fields(redis_cli)
    true_nano = line["input_tokens"] * INPUT_NANO + 1_000_000 * OUTPUT_NANO
    assert spent_nano(redis_cli) == true_nano > parse_usd("0.10")
    assert parse_usd(kept["overrun"]) == true_nano - call.cost_nano
    [entry] = [each for each in happened(redis_cli) if each["kind"] != "threshold"]
    assert (entry["kind"], entry["usd"]) == ("overrun", kept["overrun"])


@pytest.mark.parametrize("fault", ["cumulative_usage", "usage_on_finish"])
async def test_14_usage_on_every_chunk_is_not_added_up(store: Server, redis_cli: "redis.Redis", fault: str) -> None:
    call = fixed(output_tokens=40, simulate=fault, stream=True)
    async with scene(store.url) as at:
        await at.post(call.body, simulate=call.simulate)
        await at.gate.idle()
    assert spent_nano(redis_cli) == call.cost_nano


# --- 15: holds that leak ---


async def test_15_a_client_that_leaves_before_the_headers_leaves_no_hold(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url) as at:
        asking = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        assert held_nano(redis_cli) == call.cost_nano
        asking.cancel()
        [line] = await at.gate.log()
        await until(lambda: at.provider.disconnects == 1)
    assert held_nano(redis_cli) == 0
    # Whether the provider generates it is not known: it is charged in full, and flagged.
    assert spent_nano(redis_cli) == call.cost_nano
    assert (line["status"], line["ending"], line["assumed"]) == (499, "unknown", True)


async def test_15_a_client_that_leaves_while_it_waits_pays_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url, default_budget=call.budget(1)) as at:
        first = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        waiting = [at.begin(call.body, simulate=call.simulate) for _ in range(3)]
        await until(lambda: at.gate.app.proxy.gate._lines._waiters == 3)
        for each in waiting:
            each.cancel()
        await until(lambda: at.gate.app.proxy.gate._lines._waiters == 0)
        await until(lambda: at.gate.app.proxy._in_flight == 1)
        assert held_nano(redis_cli) == call.cost_nano
        first.cancel()
        await at.gate.idle()
        assert at.provider.received == 1
    assert held_nano(redis_cli) == 0
    assert spent_nano(redis_cli) == call.cost_nano


async def test_15_calls_that_wait_are_let_in_when_a_hold_is_settled(store: Server, redis_cli: "redis.Redis") -> None:
    call, slow = fixed(output_tokens=10), fixed(output_tokens=10, simulate="hang_before_headers")
    async with scene(store.url, default_budget=format_usd(2 * call.cost_nano)) as at:
        leaving = at.begin(slow.body, simulate=slow.simulate)
        staying = at.begin(slow.body, simulate=slow.simulate)
        await until(lambda: at.provider.received == 2)
        waiting = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.gate.app.proxy.gate._lines._waiters == 1)
        redis_cli.hset(key("default"), "budget", call.budget(3))
        leaving.cancel()
        assert (await waiting).status_code == 200
        staying.cancel()
        await at.gate.idle()
    assert held_nano(redis_cli) == 0


async def test_15_a_gate_that_is_killed_leaves_holds_that_expire_in_full_and_flagged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call = fixed(simulate="hang_before_headers")
    ledger = RedisLedger(link_to(store.socket), owner="another", lease_ms=5000, sessions_max=10, retry_ms=2000)
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, hold_lease_s=5) as [gate],
        client(gate.url) as http,
    ):
        asking = asyncio.create_task(http.post(CHAT, content=call.body, headers=headers("mine", call.simulate)))
        await until(lambda: provider.received == 1)
        gate.process.kill()
        await asyncio.wait([asking])
        assert asking.exception() is not None
        assert await ledger.sweep("default") == 0
        leases: Any = redis_cli.zrange("tokengate:{default}:leases", 0, -1, withscores=True)
        [(_, expires_ms)] = leases
        ledger.now_ms = int(expires_ms)
        assert await ledger.sweep("default") == 1
    await ledger.aclose()
    assert held_nano(redis_cli, "mine") == 0
    assert spent_nano(redis_cli, "mine") == parse_usd(fields(redis_cli, "mine")["assumed"]) == call.cost_nano
    assert redis_cli.zcard("tokengate:{default}:leases") == 0
    assert [entry["kind"] for entry in happened(redis_cli)] == ["expired"]


# --- 16, 17: blocks that never end ---


def ledger_of(at: Scene) -> RedisLedger:
    ledger = at.gate.app.proxy.gate._ledger
    assert isinstance(ledger, RedisLedger)
    return ledger


async def test_16_refused_retries_do_not_prolong_a_freeze(store: Server, redis_cli: "redis.Redis") -> None:
    until_ms = 1_900_000_000_000
    async with scene(store.url) as at:
        ledger_of(at).now_ms = until_ms - 10_000
        frozen: Any = {"frozen": "1", "frozen_reason": "a loop", "frozen_until_ms": until_ms}
        redis_cli.hset(key("default"), mapping=frozen)
        for _ in range(5):
            ledger_of(at).now_ms += 1000
            refused = await at.ask()
            assert refused.status_code == 403
            assert refused.json()["error"]["until"] == "2030-03-17T17:46:40Z"
        ledger_of(at).now_ms = until_ms
        assert (await at.ask()).status_code == 200


async def test_16_refused_retries_do_not_prolong_a_period(store: Server, redis_cli: "redis.Redis") -> None:
    call, noon_ms = fixed(), 1_900_000_000_000 // 86_400_000 * 86_400_000 + 43_200_000
    async with scene(store.url, default_budget=call.budget(1), default_budget_period="day") as at:
        ledger_of(at).now_ms = noon_ms
        assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
        for _ in range(5):
            await at.gate.idle()
            ledger_of(at).now_ms += 8_000_000
            refused = await at.post(call.body, simulate=call.simulate)
            assert refused.status_code == 429
            assert refused.json()["error"]["budget_info"]["resets_at"] == "2030-03-18T00:00:00Z"
        ledger_of(at).now_ms = noon_ms + 43_200_000
        assert (await at.post(call.body, simulate=call.simulate)).status_code == 200


async def test_17_a_reset_clears_what_was_spent_and_old_holds_do_not_come_back(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call, slow = fixed(), fixed(simulate="hang_before_headers")
    async with scene(store.url, default_budget=call.budget(2)) as at:
        assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
        await at.gate.idle()
        asking = at.begin(slow.body, simulate=slow.simulate)
        await until(lambda: at.provider.received == 2)
        await ledger_of(at).reset(Scope("default", "session", "default"))
        assert (spent_nano(redis_cli), held_nano(redis_cli)) == (0, 0)
        asking.cancel()
        await at.gate.idle()
        assert (spent_nano(redis_cli), held_nano(redis_cli)) == (0, 0)
        answers = [await at.post(call.body, simulate=call.simulate) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]

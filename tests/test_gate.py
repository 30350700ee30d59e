"""Admission and settlement as a caller meets them: what a person set is obeyed, waits end, leases are kept."""

import asyncio
from typing import Any

import openai
import pytest
import redis

from tests.support.gate import INPUT_NANO, OUTPUT_NANO, official, until
from tests.support.hashes import fields, happened, held_nano, key, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import MODEL, Scene, chat, fixed, parsed, scene
from tokengate.budgets import TYPICAL_OUTPUT_COLD_TOKENS
from tokengate.gate import COUNT_EXACTLY_ABOVE_BYTES
from tokengate.ledger.redis import RedisLedger
from tokengate.money import format_usd
from tokengate.pricing import OUTPUT_MIN_TOKENS
from tokengate.simulate import SimulateOptions
from tokengate.tokens import Tokenizer
from tokengate.waiting import Lines

HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]


def ledger_of(at: Scene) -> RedisLedger:
    ledger = at.gate.app.proxy.gate._ledger
    assert isinstance(ledger, RedisLedger)
    return ledger


# --- what a person sets in the store ---


async def test_a_budget_set_by_hand_is_obeyed_at_once(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    async with scene(store.url) as at:
        assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
        await at.gate.idle()
        redis_cli.hset(key("default"), "budget", call.budget(2))
        answers = [await at.post(call.body, simulate=call.simulate) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[1].json()["error"]["budget_info"]["budget"] == 2 * call.cost_nano / 1e9


async def test_a_budget_that_is_no_amount_is_refused_in_words_that_name_it(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    redis_cli.hset(key("default"), "budget", "ten dollars")
    async with scene(store.url) as at, official(at.gate.base_url, max_retries=2) as sdk:
        with pytest.raises(openai.RateLimitError, match="not an amount of USD in the store: 'ten dollars'") as caught:
            await sdk.chat.completions.create(model=MODEL, messages=HELLO)
        [line] = await at.gate.log()
        assert at.provider.received == 0
    assert caught.value.code == "budget_invalid"
    assert line["reason"] == "budget_invalid"


async def test_a_session_frozen_by_hand_is_refused_once_with_its_reason(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    redis_cli.hset(key("default"), mapping={"frozen": "1", "frozen_reason": "Suspicious activity"})
    async with scene(store.url) as at, official(at.gate.base_url, max_retries=2) as sdk:
        with pytest.raises(openai.PermissionDeniedError, match="Suspicious activity") as caught:
            await sdk.chat.completions.create(model=MODEL, messages=HELLO)
        [line] = await at.gate.log()
        assert at.provider.received == 0
    assert (caught.value.code, caught.value.type) == ("session_frozen", "session_frozen")
    assert (line["status"], line["reason"]) == (403, "session_frozen")


async def test_a_new_default_is_followed_but_not_where_somebody_has_set_a_budget(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    for default in ("2", "3"):
        async with scene(store.url, default_budget=default) as at:
            for name in ("theirs", "ours"):
                assert (await at.ask(name)).status_code == 200
            await at.gate.idle()
            if default == "2":
                redis_cli.hset(key("theirs"), "budget", "2.5")
            budgets = [
                (await at.http.get("/tokengate/budget", headers={"x-session-id": name})).json()["budget"]
                for name in ("theirs", "ours")
            ]
    assert budgets == [2.5, 3.0]


async def test_an_agent_may_ask_how_it_stands(store: Server) -> None:
    call = fixed()
    async with scene(store.url, default_budget="1", agent="crawler", agent_budget="5") as at:
        await at.post(call.body, "mine", call.simulate)
        await at.gate.idle()
        answer = await at.http.get("/tokengate/budget", params={"session_id": "mine"})
        bad = await at.http.get("/tokengate/budget", params={"session_id": "{}"})
    spent = call.cost_nano / 1e9
    session, agent = answer.json()["limits"]
    assert answer.json() == {"session_id": "mine", **session, "limits": [session, agent]}
    assert session == {
        "scope": "session", "name": "mine", "budget": 1.0, "spent": spent, "held": 0.0,
        "remaining": (1_000_000_000 - call.cost_nano) / 1e9, "resets_at": None, "frozen": False,
    }  # fmt: skip
    assert (agent["scope"], agent["name"], agent["budget"], agent["spent"]) == ("agent", "crawler", 5.0, spent)
    assert bad.status_code == 400


# --- waiting ---


async def test_a_call_that_may_not_wait_is_told_to_come_again(store: Server) -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url, default_budget=call.budget(1), busy_wait_ms=0) as at:
        first = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        busy = await at.post(call.body, simulate=call.simulate)
        first.cancel()
    assert busy.status_code == 429
    assert (busy.json()["error"]["type"], busy.json()["error"]["code"]) == ("rate_limit_exceeded", "budget_busy")
    assert busy.headers["retry-after"] == "1"
    assert "x-should-retry" not in busy.headers
    assert busy.json()["error"]["budget_info"]["held"] == call.cost_nano / 1e9


async def test_a_call_stands_in_line_once(store: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    call, waits = fixed(simulate="hang_before_headers"), []
    wait = Lines.wait

    async def counted(self: Lines[Any], *given: Any) -> Any:
        waits.append(given)
        return await wait(self, *given)

    monkeypatch.setattr(Lines, "wait", counted)
    async with scene(store.url, default_budget=call.budget(1), busy_wait_ms=200) as at:
        first = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        behind = at.begin(call.body, simulate=call.simulate)
        await until(lambda: len(waits) == 1)
        last = at.begin(call.body, simulate=call.simulate)
        answers = await asyncio.gather(behind, last)
        first.cancel()
    assert [answer.json()["error"]["code"] for answer in answers] == ["budget_busy"] * 2
    assert len(waits) == 2


async def test_who_finds_the_lines_full_is_told_at_once(store: Server) -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url, default_budget=call.budget(1), waiters_max=1) as at:
        first = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        waiting = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.gate.app.proxy.gate._lines.full)
        assert (await at.post(call.body, simulate=call.simulate)).json()["error"]["code"] == "budget_busy"
        for each in (first, waiting):
            each.cancel()


# --- counting ---


async def test_text_is_counted_exactly_only_where_its_bytes_do_not_fit(
    store: Server, redis_cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    count = Tokenizer.count

    async def spied(self: Tokenizer, *given: Any) -> int:
        counted.append(given)
        return await count(self, *given)

    monkeypatch.setattr(Tokenizer, "count", spied)
    body = chat("word " * 1000, max_tokens=10)
    assert parsed(body).text_bytes > COUNT_EXACTLY_ABOVE_BYTES
    async with scene(store.url) as at:
        assert (await at.post(body)).status_code == 200
        assert counted == []
        await at.gate.idle()
        # A thousand words are a thousand tokens, and five thousand bytes.
        left_nano = 1100 * INPUT_NANO + 10 * OUTPUT_NANO
        redis_cli.hset(key("default"), "budget", format_usd(spent_nano(redis_cli) + left_nano))
        assert (await at.post(body)).status_code == 200
        assert len(counted) == 1


async def test_what_is_learnt_of_answers_is_what_a_call_needs(store: Server, redis_cli: "redis.Redis") -> None:
    redis_cli.hset(key("poor"), "budget", "0")
    needed = []
    async with scene(store.url, SimulateOptions(output_tokens=700)) as at:
        for _ in range(2):
            needed.append((await at.ask("poor")).json()["error"]["budget_info"]["required"])
            await asyncio.gather(*(at.ask("rich") for _ in range(40)))
            await at.gate.idle()
    input_nano = parsed(chat()).input_tokens_max * INPUT_NANO
    assert needed == [(input_nano + tokens * OUTPUT_NANO) / 1e9 for tokens in (512, 700)]


async def test_a_call_that_has_stood_in_line_is_content_with_less_room(store: Server, redis_cli: "redis.Redis") -> None:
    holder = fixed(simulate="hang_before_headers")
    async with scene(store.url, busy_wait_ms=500) as at:
        # What is left pays for a typical answer, which is not ample room.
        left_nano = parsed(chat()).input_tokens_max * INPUT_NANO + TYPICAL_OUTPUT_COLD_TOKENS * OUTPUT_NANO
        redis_cli.hset(key("default"), "budget", format_usd(holder.cost_nano + left_nano))
        asking = at.begin(holder.body, simulate=holder.simulate)
        await until(lambda: at.provider.received == 1)
        assert (await at.ask()).status_code == 200
        assert OUTPUT_MIN_TOKENS <= at.provider.body()["max_completion_tokens"] <= TYPICAL_OUTPUT_COLD_TOKENS
        asking.cancel()
        await at.gate.idle()


# --- leases ---


async def test_a_lease_is_renewed_while_its_call_is_under_way(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url, hold_lease_s=60) as at:
        ledger = ledger_of(at)
        ledger.now_ms = 1_900_000_000_000
        asking = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        for _ in range(5):
            ledger.now_ms += 40_000
            await at.gate.app.proxy.gate._renew()
            assert await ledger.sweep("default") == 0
        assert held_nano(redis_cli) == call.cost_nano
        asking.cancel()
        await at.gate.idle()
        assert redis_cli.zcard("tokengate:{default}:leases") == 0


async def test_a_call_whose_lease_ran_out_is_corrected_when_it_ends(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed(output_tokens=10, simulate="ttft_ms:100", max_completion_tokens=500)
    async with scene(store.url, hold_lease_s=60) as at:
        ledger = ledger_of(at)
        ledger.now_ms = 1_900_000_000_000
        asking = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 1)
        held = held_nano(redis_cli)
        ledger.now_ms += 61_000
        assert await ledger.sweep("default") == 1
        assert (spent_nano(redis_cli), held_nano(redis_cli)) == (held, 0)
        assert (await asking).status_code == 200
        await at.gate.idle()
        assert spent_nano(redis_cli) == at.provider.billed_nano() < held
    assert fields(redis_cli)["assumed"] == "0.000000000"
    assert [entry["kind"] for entry in happened(redis_cli)] == ["expired", "late"]

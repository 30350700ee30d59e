"""Too many requests are refused with the time to wait, by every gate of a store alike; what rules do is logged and counted."""

import json
from typing import Any

import httpx
import openai
import pytest

from tests.support.gate import CALM, gate, official, simulated
from tests.support.redis_server import Server
from tests.support.samples import Samples
from tests.support.scene import scene

HELLO: Any = [{"role": "user", "content": "Hello."}]


async def test_a_rate_is_kept_and_the_refusal_says_when_to_come_again(store: Server) -> None:
    async with scene(store.url, rate_limit="2/hour") as at:
        answers = [await at.ask("alice") for _ in range(3)]
        other = await at.ask("bob")
        lines = await at.gate.log()
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert other.status_code == 200
    refused = answers[2]
    # Half an hour, less what has passed, rounded up to seconds.
    assert 1790 <= int(refused.headers["retry-after"]) <= 1800
    assert "x-should-retry" not in refused.headers
    assert refused.headers["x-tokengate-scope"] == "session"
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["rule"]) == ("rate_limit_exceeded", "rate_limit_exceeded", "rate")
    assert "budget_info" not in error
    [line] = [line for line in lines if line["decision"] == "blocked"]
    assert (line["status"], line["reason"], line["rule"]) == (429, "rate_limited", "rate")


async def test_gates_of_one_store_keep_a_tenants_rate_together(store: Server) -> None:
    limit = {"tenant_rate_limit": "3/hour"}
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, **limit) as one,
        gate(provider.base_url, store.url, **limit) as two,
        httpx.AsyncClient() as http,
    ):
        body = {"model": "gpt-4o-mini", "messages": HELLO, "max_tokens": 5}
        answers = [
            await http.post(f"{each.base_url}/chat/completions", json=body, headers={"x-session-id": name})
            for each, name in ((one, "a"), (two, "a"), (one, "b"), (two, "b"))
        ]
        assert provider.received == 3
        told = (await http.get(f"{one.url}/tokengate/budget", headers={"x-session-id": "a"})).json()
    assert [limit["scope"] for limit in told["limits"]] == ["session"], "a rate alone is no budget"
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["x-tokengate-scope"] == "tenant"


async def test_the_official_sdk_waits_and_is_served(store: Server) -> None:
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, rate_limit="60/min burst 1") as running,
        official(running.base_url, max_retries=2) as sdk,
    ):
        for _ in range(2):
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
        lines = await running.log()
    assert [line["decision"] for line in lines] == ["allowed", "blocked", "allowed"]


async def test_what_a_rule_in_shadow_would_refuse_is_logged_and_counted_and_passes(store: Server) -> None:
    shadow: dict[str, Any] = dict.fromkeys(CALM, "shadow")
    shadow |= {"loop_repeats": 3, "rate_limit": "4/hour", "rate_limit_mode": "shadow"}
    async with scene(store.url, **shadow) as at:
        answers = [await at.ask("alice", content="again") for _ in range(6)]
        lines = await at.gate.log()
        scraped = Samples((await at.http.get("/metrics")).text)
    assert {answer.status_code for answer in answers} == {200}
    assert [line.get("rule") for line in lines][:3] == [None, None, "loop"]
    assert all(line.get("rule") in {"loop", "rate"} for line in lines[3:])
    counted = scraped.of("runaway_calls_total")
    assert sum(sample.value for sample in counted) == 4
    assert {sample.labels["mode"] for sample in counted} == {"shadow"}


async def test_a_freeze_is_told_in_full_and_not_tried_again(store: Server) -> None:
    enforced = dict.fromkeys(CALM, "enforce")
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, **enforced) as running,
        official(running.base_url, max_retries=2) as sdk,
    ):
        for _ in range(7):
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
        lines = await running.log()
        assert provider.received == 7
    assert [line["decision"] for line in lines] == ["allowed"] * 7 + ["blocked"]
    first, last = lines[0]["request_id"], lines[-1]["request_id"]
    evidence = f"sent the same request to gpt-4o-mini 8 times in a row; first request {first}, last {last}; spent $"
    assert evidence in json.dumps(caught.value.body)
    assert (lines[-1]["rule"], lines[-1]["reason"], lines[-1]["status"]) == ("loop", "session_frozen", 403)

"""Anthropic's official SDK through the gate: the base URL changes and nothing else does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
import redis

from tests.support.anthropic import MODEL, USAGE, Answers, answering
from tests.support.gate import Gate, gate
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tokengate.money import format_usd

HELLO: list[Any] = [{"role": "user", "content": "Tell me about gates."}]
# claude-sonnet-5, nano-USD a token: 2,000 in, 2,500 and 4,000 written to a cache, 200 read from it, 10,000 out.
COST_NANO = 25 * 2_000 + 40 * 2_500 + 60 * 4_000 + 1000 * 200 + 15 * 10_000


@asynccontextmanager
async def scene(store: Server, told: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Any]:
    async with (
        answering(**told or {}) as (url, answers),
        gate("http://127.0.0.1:9/v1", store.url, anthropic_base_url=url, anthropic_api_key="sk-own", **settings) as run,
        anthropic.AsyncAnthropic(base_url=run.url, api_key="dummy", max_retries=0) as sdk,
        anthropic.AsyncAnthropic(base_url=url, api_key="dummy", max_retries=0) as direct,
    ):
        yield _Scene(answers, run, sdk, direct)


class _Scene:
    def __init__(
        self, answers: Answers, run: Gate, sdk: anthropic.AsyncAnthropic, direct: anthropic.AsyncAnthropic
    ) -> None:
        self.answers, self.gate, self.sdk, self.direct = answers, run, sdk, direct


async def test_a_message_is_what_it_is_directly_and_charged_by_all_classes_of_tokens(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at:
        direct = await at.direct.messages.create(model=MODEL, max_tokens=100, messages=HELLO)
        raw = await at.sdk.messages.with_raw_response.create(model=MODEL, max_tokens=100, messages=HELLO)
        assert await raw.parse() == direct
        assert raw.headers["x-tokengate-cost-usd"] == format_usd(COST_NANO)
        (path, headers, body), sent = at.answers.asked[1], at.answers.asked[0][2]
        assert (path, body) == ("/v1/messages", sent)
        assert headers["x-api-key"] == "sk-own"
        assert "dummy" not in headers.values()
        [entry] = await at.gate.log()
    assert spent_nano(redis_cli) == COST_NANO
    assert (entry["endpoint"], entry["input_tokens"], entry["cached_tokens"]) == ("messages", 1125, 1000)


async def test_a_stream_is_what_it_is_directly_event_by_event(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as at:
        events: list[list[Any]] = []
        for client in (at.direct, at.sdk):
            async with client.messages.stream(model=MODEL, max_tokens=100, messages=HELLO) as stream:
                events.append([event async for event in stream])
        assert events[0] == events[1]
        await at.gate.idle()
    assert spent_nano(redis_cli) == COST_NANO


async def test_what_is_spent_is_refused_in_the_words_of_the_api(store: Server) -> None:
    async with scene(store, default_budget="0.000001") as at:
        with pytest.raises(anthropic.RateLimitError) as refused:
            await at.sdk.messages.create(model=MODEL, max_tokens=100, messages=HELLO)
        body: Any = refused.value.body
        assert (body["type"], body["error"]["type"], body["error"]["code"]) == (
            "error", "rate_limit_error", "budget_exceeded",
        )  # fmt: skip
        assert body["error"]["message"].startswith("Budget exceeded. Remaining: $")
        assert body["error"]["budget_info"]["budget"] == 0.000001
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert at.answers.asked == []


async def test_who_leaves_a_stream_pays_for_what_it_saw(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store, {"ends": False, "text": "ten words of one token each or a little more"}) as at:
        stream = await at.sdk.messages.create(model=MODEL, max_tokens=5000, messages=HELLO, stream=True)
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.text == "more":
                break
        await stream.close()
        [entry] = await at.gate.log()
    assert (entry["ending"], entry["assumed"]) == ("cut", True)
    assert 0 < spent_nano(redis_cli) < 5000 * 10_000 / 2
    assert held_nano(redis_cli) == 0


async def test_near_the_end_of_a_budget_a_cap_that_says_little_is_lowered(store: Server) -> None:
    async with scene(store, default_budget="0.03") as at:
        await at.sdk.messages.create(model=MODEL, max_tokens=64_000, messages=HELLO, timeout=60)
        sent = at.answers.asked[-1][2]["max_tokens"]
        assert 16 <= sent < 0.03 * 1e9 / 10_000
        with pytest.raises(anthropic.RateLimitError):
            await at.sdk.messages.create(model=MODEL, max_tokens=4_090, messages=HELLO)


async def test_tokens_are_counted_and_models_listed_for_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as at:
        counted = await at.sdk.messages.count_tokens(model=MODEL, messages=HELLO)
        assert counted.input_tokens == 14
        assert at.answers.asked[-1][2]["messages"] == HELLO
        assert [model.id async for model in at.sdk.models.list()] == [MODEL]
        assert [path for path, _, _ in at.answers.asked] == ["/v1/messages/count_tokens", "/v1/models"]
    assert fields(redis_cli) == {}


async def test_batches_are_refused_with_the_reason(store: Server) -> None:
    async with scene(store) as at:
        with pytest.raises(anthropic.NotFoundError, match="Send its requests one by one"):
            await at.sdk.messages.batches.create(
                requests=[{"custom_id": "1", "params": {"model": MODEL, "max_tokens": 9, "messages": HELLO}}]
            )
        assert at.answers.asked == []


def test_the_usage_of_the_reference_is_all_classes() -> None:
    assert COST_NANO == 740_000
    assert sum(USAGE["cache_creation"].values()) == USAGE["cache_creation_input_tokens"]

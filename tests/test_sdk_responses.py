"""OpenAI's Responses API through the gate, by the official SDK."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import redis

from tests.support.gate import Gate, gate
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.responses import MODEL, Answers, answering

# gpt-5-mini, nano-USD a token: 250 in, 25 read from a cache, 2,000 out, reasoning included.
COST_NANO = 200 * 250 + 100 * 25 + 40 * 2_000
SEARCH: Any = {"type": "web_search"}


@dataclass
class Scene:
    answers: Answers
    gate: Gate
    sdk: openai.AsyncOpenAI
    direct: openai.AsyncOpenAI


@asynccontextmanager
async def scene(store: Server, told: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Scene]:
    async with (
        answering(**told or {}) as (url, answers),
        gate(f"{url}/v1", store.url, **settings) as run,
        openai.AsyncOpenAI(base_url=run.base_url, api_key="dummy", max_retries=0) as sdk,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="dummy", max_retries=0) as direct,
    ):
        yield Scene(answers, run, sdk, direct)


async def test_a_response_is_what_it_is_directly_and_its_reasoning_is_charged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at:
        direct = await at.direct.responses.create(model=MODEL, input="Tell me about gates.")
        assert await at.sdk.responses.create(model=MODEL, input="Tell me about gates.") == direct
        assert at.answers.asked[0] == at.answers.asked[1]
        [entry] = await at.gate.log()
    assert spent_nano(redis_cli) == COST_NANO
    assert (entry["endpoint"], entry["reasoning_tokens"], entry["cached_tokens"]) == ("responses", 30, 100)


async def test_a_stream_is_what_it_is_directly_event_by_event(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as at:
        events: list[list[Any]] = []
        for sdk in (at.direct, at.sdk):
            stream = await sdk.responses.create(model=MODEL, input="Tell me about gates.", stream=True)
            events.append([event async for event in stream])
        assert events[0] == events[1]
        assert events[1][-1].type == "response.completed"
        await at.gate.idle()
    assert spent_nano(redis_cli) == COST_NANO


async def test_searches_are_charged_each_and_bounded_by_the_calls_that_are_allowed(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store, {"searches": 2}) as at:
        with pytest.raises(openai.BadRequestError, match="Set max_tool_calls"):
            await at.sdk.responses.create(model=MODEL, input="hi", tools=[SEARCH])
        await at.sdk.responses.create(model=MODEL, input="hi", tools=[SEARCH], max_tool_calls=2)
        await at.gate.idle()
    assert spent_nano(redis_cli) == COST_NANO + 2 * 10_000_000


async def test_who_leaves_a_stream_of_a_model_that_does_not_reason_pays_for_what_it_saw(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store, {"ends": False, "model": "gpt-4o-mini"}) as at:
        stream = await at.sdk.responses.create(model="gpt-4o-mini", input="hi", stream=True, max_output_tokens=5000)
        async for event in stream:
            if event.type == "response.output_text.delta" and event.delta == "walls.":
                break
        await stream.close()
        [entry] = await at.gate.log()
    assert (entry["ending"], entry["assumed"]) == ("cut", True)
    assert 0 < spent_nano(redis_cli) < 100 * 600
    assert held_nano(redis_cli) == 0


async def test_near_the_end_of_a_budget_the_cap_of_the_endpoint_is_written(store: Server) -> None:
    async with scene(store, default_budget="0.02") as at:
        await at.sdk.responses.create(model=MODEL, input="hi")
        assert 16 <= at.answers.asked[-1][1]["max_output_tokens"] < 0.02 * 1e9 / 2_000
    async with scene(store, default_budget="0.000001") as at:
        with pytest.raises(openai.RateLimitError, match="Budget exceeded"):
            await at.sdk.responses.create(model=MODEL, input="hi")
        assert at.answers.asked == []


async def test_an_earlier_response_is_held_for_as_a_whole_window(store: Server) -> None:
    async with scene(store, default_budget="0.05") as at:
        await at.sdk.responses.create(model=MODEL, input="hi")
        with pytest.raises(openai.RateLimitError):
            await at.sdk.responses.create(model=MODEL, input="hi", previous_response_id="resp_1")
    async with scene(store, default_budget="0.5") as at:
        await at.sdk.responses.create(model=MODEL, input="hi", previous_response_id="resp_1")
        assert at.answers.asked[-1][1]["previous_response_id"] == "resp_1"


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"background": True}, "background"), ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "code_interp"),
        ({"tools": [{"type": "image_generation"}]}, "images that it makes are billed"),
        ({"tools": [{"type": "mcp", "server_label": "x", "server_url": "https://x.example"}]}, "other servers answer"),
        ({"tools": [{"type": "telepathy"}]}, "which has no price here"), ({"input": [{"type": "mcp_call"}]}, "mcp_call"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input_video"),
        ({"max_output_tokens": -1}, "max_output_tokens"), ({"input": 5}, "input"), ({"tools": [5]}, "tools"),
    ],
)  # fmt: skip
async def test_what_has_no_price_or_no_sense_is_refused(store: Server, members: dict[str, Any], match: str) -> None:
    async with scene(store) as at:
        with pytest.raises(openai.BadRequestError, match=match):
            await at.sdk.responses.create(**({"model": MODEL, "input": "hi"} | members))
        assert at.answers.asked == []


async def test_what_others_may_have_made_is_refused_and_moderation_is_free(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at:
        for call in (at.sdk.responses.retrieve, at.sdk.responses.delete, at.sdk.responses.cancel):
            with pytest.raises(openai.NotFoundError, match="none of those"):
                await call("resp_1")
        with pytest.raises(openai.NotFoundError, match="a day or more"):
            await at.sdk.batches.list()
        assert (await at.sdk.moderations.create(input="hi")).id == "modr-1"
        assert [path for path, _ in at.answers.asked] == ["/v1/moderations"]
    assert fields(redis_cli) == {}

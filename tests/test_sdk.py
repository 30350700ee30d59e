"""The official OpenAI SDK through the gate: the base URL changes and nothing else does.

Every case is run against two simulated providers of one seed, one of them behind a gate, and what the SDK makes of the
answers is compared, event by event, with the members that were never sent left out.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.support.gate import KEY, Gate, Provider, gate, official, simulated
from tests.support.hashes import booked, fields
from tests.support.redis_server import Server
from tokengate.simulate import SimulateOptions, answers

HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]
MODEL = "gpt-4o-mini"
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@dataclass
class Pair:
    """The same SDK on the same provider, directly and through a gate."""

    direct: openai.AsyncOpenAI
    gated: openai.AsyncOpenAI
    gate: Gate
    plain: Provider
    provider: Provider
    """The one behind the gate."""


@pytest.fixture(autouse=True)
def _one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers of these tests are created in the same second."""
    monkeypatch.setattr(answers, "time", SimpleNamespace(time=lambda: 1_790_000_000.0))


@asynccontextmanager
async def paired(store: Server, options: SimulateOptions | None = None, **settings: object) -> AsyncIterator[Pair]:
    options = options or SimulateOptions(seed=11)
    async with (
        simulated(options) as plain,
        simulated(options) as provider,
        gate(provider.base_url, store.url, **settings) as running,
        official(plain.base_url) as direct,
        official(running.base_url) as gated,
    ):
        yield Pair(direct, gated, running, plain, provider)


def dump(value: BaseModel) -> dict[str, Any]:
    """All that came, and nothing that did not; with what a model does not know."""
    return value.model_dump(exclude_unset=True, warnings=False)


async def collected(stream: AsyncIterator[BaseModel]) -> list[dict[str, Any]]:
    return [dump(event) async for event in stream]


# --- answers ---

CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "capped": {"max_completion_tokens": 20},
    "capped, as it was called before": {"max_tokens": 20},
    "several answers": {"n": 3, "max_tokens": 12},
    "tools": {"tools": [WEATHER]},
    "a named tool": {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
    "a schema": {"response_format": {"type": "json_object"}},
    "members that the SDK does not know": {"extra_body": {"some_new_member": {"of": ["the", "API"]}}},
    "no usage": {"metadata": {"simulate": "no_usage"}},
    "another model answers": {"metadata": {"simulate": "other_model:gpt-4o-2024-08-06"}},
}


@pytest.mark.parametrize("asked", CHATS.values(), ids=CHATS)
async def test_a_chat_is_what_it_is_without_the_gate(store: Server, asked: dict[str, Any]) -> None:
    async with paired(store) as both:
        expected, actual = [
            await sdk.chat.completions.create(model=MODEL, messages=HELLO, **asked) for sdk in (both.direct, both.gated)
        ]
    assert dump(actual) == dump(expected)


@pytest.mark.parametrize("usage", [None, True, False])
@pytest.mark.parametrize("asked", CHATS.values(), ids=CHATS)
async def test_a_streamed_chat_is_what_it_is_without_the_gate_event_by_event(
    store: Server, asked: dict[str, Any], usage: bool | None
) -> None:
    options: dict[str, Any] = {} if usage is None else {"stream_options": {"include_usage": usage}}
    async with paired(store) as both:
        expected, actual = [
            await collected(
                await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **asked, **options)
            )
            for sdk in (both.direct, both.gated)
        ]
        assert both.provider.body()["stream_options"]["include_usage"] is True
    assert len(actual) > 2
    assert actual == expected


async def test_the_stream_helper_accumulates_the_same_answer(store: Server) -> None:
    finals = []
    async with paired(store) as both:
        for sdk in (both.direct, both.gated):
            async with sdk.chat.completions.stream(model=MODEL, messages=HELLO, tools=[WEATHER]) as stream:
                events = [event.type async for event in stream]
                finals.append((events, dump(await stream.get_final_completion())))
    assert finals[1] == finals[0]


TEXTS: dict[str, dict[str, Any]] = {
    "one prompt": {"prompt": "Once upon a time"},
    "prompts, answers": {"prompt": ["one", "two"], "n": 2},
    "the best": {"prompt": "one", "best_of": 3},
    "tokens": {"prompt": [9906, 1917], "max_tokens": 5},
}


@pytest.mark.parametrize("asked", TEXTS.values(), ids=TEXTS)
async def test_a_legacy_completion_is_what_it_is_without_the_gate(store: Server, asked: dict[str, Any]) -> None:
    model = "gpt-3.5-turbo-instruct"
    async with paired(store) as both:
        expected, actual = [await sdk.completions.create(model=model, **asked) for sdk in (both.direct, both.gated)]
    assert dump(actual) == dump(expected)


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}], ids=["plain", "usage"])
async def test_a_streamed_legacy_completion_is_what_it_is_without_the_gate(
    store: Server, options: dict[str, Any]
) -> None:
    async with paired(store) as both:
        expected, actual = [
            await collected(
                await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="one", stream=True, **options)
            )
            for sdk in (both.direct, both.gated)
        ]
    assert len(actual) > 2
    assert actual == expected


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}], ids=str)
@pytest.mark.parametrize("text", ["one", ["one", "two"], [1, 2, 3], [[1, 2], [3]]], ids=str)
async def test_embeddings_are_what_they_are_without_the_gate(store: Server, text: Any, encoding: Any) -> None:
    async with paired(store) as both:
        expected, actual = [
            await sdk.embeddings.create(model="text-embedding-3-small", input=text, **encoding)
            for sdk in (both.direct, both.gated)
        ]
        [line] = await both.gate.log()
    assert dump(actual) == dump(expected)
    assert (line["endpoint"], line["ending"], line["assumed"]) == ("embeddings", "complete", False)


async def test_models_are_listed_and_found_without_charge_and_without_a_session(store: Server) -> None:
    async with paired(store, strict_mode=True) as both:
        listed = [[dump(model) async for model in sdk.models.list()] for sdk in (both.direct, both.gated)]
        found = [dump(await sdk.models.retrieve("gpt-4o")) for sdk in (both.direct, both.gated)]
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await both.gated.models.retrieve("no-such-model")
        with store.client() as client:
            assert booked(client) == []
    assert listed[0] == listed[1]
    assert found[0] == found[1]


async def test_what_passes_is_the_same_to_the_byte_but_for_what_asks_for_usage(store: Server) -> None:
    async with paired(store) as both:
        for sdk in (both.direct, both.gated):
            await sdk.chat.completions.create(model=MODEL, messages=HELLO, temperature=0.5)
            await collected(
                await sdk.chat.completions.create(model=MODEL, messages=HELLO, temperature=0.5, stream=True)
            )
        expected, actual = ([seen["body"] for seen in side.requests] for side in (both.plain, both.provider))
    assert actual[0] == expected[0]
    assert json.loads(actual[1]) == json.loads(expected[1]) | {"stream_options": {"include_usage": True}}


async def test_the_providers_key_takes_the_place_of_the_clients(store: Server) -> None:
    async with paired(store) as both:
        await both.gated.with_options(
            default_headers={"X-Forwarded-For": "10.0.0.1", "Traceparent": "00-1", "Cookie": "a=b", "X-Mine": "kept"}
        ).chat.completions.create(model=MODEL, messages=HELLO, extra_headers={"X-Session-ID": "mine"})
        headers = both.provider.headers()
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["x-mine"] == "kept"
    assert headers["x-stainless-lang"] == "python"
    assert headers["accept-encoding"] == "identity"
    assert not {"x-session-id", "x-forwarded-for", "traceparent", "cookie"} & headers.keys()


async def test_without_a_key_of_its_own_the_gate_passes_the_clients_on(store: Server) -> None:
    async with paired(store, SimulateOptions(api_key="sk-mine"), openai_api_key="") as both:
        with pytest.raises(openai.AuthenticationError):
            await both.gated.chat.completions.create(model=MODEL, messages=HELLO)
        await both.gated.with_options(api_key="sk-mine").chat.completions.create(model=MODEL, messages=HELLO)
        lines = await both.gate.log()
    assert [line["status"] for line in lines] == [401, 200]
    assert lines[0]["actual_cost"] == 0


async def test_the_blocking_client_gets_the_same(store: Server) -> None:
    async with paired(store) as both:

        def run(base_url: str) -> list[Any]:
            with openai.OpenAI(base_url=base_url, api_key="dummy-key", max_retries=0, timeout=20) as sdk:
                whole = sdk.chat.completions.create(model=MODEL, messages=HELLO)
                with sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=True) as stream:
                    streamed = [dump(event) for event in stream]
                vectors = sdk.embeddings.create(model="text-embedding-3-small", input="one")
                return [dump(whole), streamed, dump(vectors)]

        expected = await asyncio.to_thread(run, str(both.direct.base_url))
        actual = await asyncio.to_thread(run, str(both.gated.base_url))
    assert actual == expected


# --- sessions ---


@pytest.mark.parametrize("way", ["per call", "for all", "query", "environment", "none"])
async def test_the_ways_to_name_a_session(store: Server, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    name = f"named-{way.replace(' ', '-')}"
    options: dict[str, Any] = {}
    call: dict[str, Any] = {}
    match way:
        case "per call":
            call = {"extra_headers": {"X-Session-ID": name}}
        case "for all":
            options = {"default_headers": {"X-Session-ID": name}}
        case "query":
            options = {"default_query": {"session_id": name, "api-version": "2"}}
        case "environment":
            monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Session-ID: {name}")
        case _:
            name = "default"
    async with (
        paired(store) as both,
        official(both.gate.base_url, **options) as sdk,
    ):
        await sdk.chat.completions.create(model=MODEL, messages=HELLO, **call)
        [line] = await both.gate.log()
        target = both.provider.requests[-1]["target"]
    with store.client() as client:
        assert fields(client, name)["requests"] == "1"
        assert client.zrange("tokengate:{default}:sessions", 0, -1) == [name]
    assert line["session_id"] == name
    assert target == "/v1/chat/completions" + ("?api-version=2" if way == "query" else "")


# --- refusals and errors ---


async def test_over_budget_raises_what_the_sdk_calls_a_rate_limit_and_is_sent_once(store: Server) -> None:
    async with paired(store, default_budget="0.000001") as both:
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                await both.gated.with_options(max_retries=2).chat.completions.create(
                    model=MODEL, messages=HELLO, stream=stream
                )
        lines = await both.gate.log()
        assert both.provider.received == 0
    assert len(lines) == 2
    error: Any = caught.value.body
    assert caught.value.code == "insufficient_quota"
    assert caught.value.type == "insufficient_quota"
    assert error["message"].startswith("Budget exceeded. Remaining: $0.000001, Required: $")
    assert error["budget_info"] | {"required": 0} == {
        "budget": 0.000001,
        "spent": 0.0,
        "remaining": 0.000001,
        "scope": "session default",
        "held": 0.0,
        "required": 0,
        "resets_at": None,
    }
    assert "retry-after" not in caught.value.response.headers
    assert lines[0]["decision"] == "blocked"
    assert lines[0]["reason"] == "budget_exceeded"
    assert lines[0]["estimated_cost"] > 0
    assert lines[1]["error"] == error["message"]


async def test_a_model_without_a_price_raises_a_bad_request_once(store: Server) -> None:
    async with paired(store) as both:
        with pytest.raises(openai.BadRequestError, match="no price here") as caught:
            await both.gated.with_options(max_retries=2).chat.completions.create(model="gpt-unheard-of", messages=HELLO)
        [line] = await both.gate.log()
        assert both.provider.received == 0
    assert caught.value.code == "model_not_priced"
    assert caught.value.param == "model"
    assert line["reason"] == "model_not_priced"


async def test_what_is_not_metered_raises_not_found_once_and_is_not_forwarded(store: Server) -> None:
    async with paired(store) as both:
        for call in (
            both.gated.with_options(max_retries=2).files.list(),
            both.gated.with_options(max_retries=2).batches.list(),
            both.gated.with_options(max_retries=2).vector_stores.list(),
        ):
            with pytest.raises(openai.NotFoundError) as caught:
                await call
            assert caught.value.code == "endpoint_not_metered"
        lines = await both.gate.log()
        assert both.provider.requests == []
    assert [line["status"] for line in lines] == [404] * 3


@pytest.mark.parametrize(
    ("fault", "error", "sent"),
    [
        ("rate_limited:1", openai.RateLimitError, 2),
        ("server_error:500", openai.InternalServerError, 2),
        ("error_as_events", openai.InternalServerError, 2),
        ("bad_request", openai.BadRequestError, 1),
    ],
)
async def test_an_error_of_the_provider_passes_is_retried_as_ever_and_costs_nothing(
    store: Server, fault: str, error: type[openai.APIStatusError], sent: int
) -> None:
    caught = []
    async with paired(store) as both:
        for sdk in (both.direct, both.gated):
            with pytest.raises(error) as raised:
                await sdk.with_options(max_retries=1).chat.completions.create(
                    model=MODEL, messages=HELLO, metadata={"simulate": fault}
                )
            caught.append(raised.value)
        lines = await both.gate.log()
        assert both.provider.received == sent
    assert caught[1].body == caught[0].body
    assert str(caught[1]) == str(caught[0])
    assert caught[1].response.headers.get("retry-after") == caught[0].response.headers.get("retry-after")
    assert [line["actual_cost"] for line in lines] == [0] * sent
    assert [line["decision"] for line in lines] == ["allowed"] * sent
    with store.client() as client:
        assert fields(client)["spent"] == fields(client)["held"] == "0.000000000"


async def test_answers_carry_what_they_cost_and_what_is_left(store: Server) -> None:
    async with paired(store, SimulateOptions(input_tokens=10, output_tokens=50), default_budget="1") as both:
        whole = await both.gated.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        streamed = await both.gated.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO, stream=True)
        await collected(streamed.parse())
        lines = await both.gate.log()
    assert whole.headers["x-tokengate-cost-usd"] == "0.0000315"
    assert whole.headers["x-tokengate-remaining-usd"] == "0.9999685"
    assert whole.headers["x-tokengate-request-id"] == lines[0]["request_id"]
    assert float(streamed.headers["x-tokengate-held-usd"]) == lines[1]["held"]
    assert streamed.headers["x-tokengate-request-id"] == lines[1]["request_id"]

"""Google's official SDK through the gate: the base URL changes and nothing else does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis
from google import genai
from google.genai import errors, types

from tests.support.gate import Gate, gate
from tests.support.gemini import MODEL, Answers, answering
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tokengate.money import format_usd

# gemini-2.5-flash, nano-USD a token: 300 in, 30 read from a cache, 2,500 out, thoughts included.
COST_NANO = 200 * 300 + 1000 * 30 + 50 * 2_500


@dataclass
class Scene:
    answers: Answers
    gate: Gate
    sdk: genai.client.AsyncClient
    direct: genai.client.AsyncClient


@asynccontextmanager
async def scene(store: Server, told: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Scene]:
    async with (
        answering(**told or {}) as (url, answers),
        gate("http://127.0.0.1:9/v1", store.url, gemini_base_url=url, gemini_api_key="own", **settings) as run,
        client(run.url) as sdk,
        client(url) as direct,
    ):
        yield Scene(answers, run, sdk, direct)


@asynccontextmanager
async def client(url: str) -> AsyncIterator[genai.client.AsyncClient]:
    made = genai.Client(api_key="dummy", http_options=types.HttpOptions(base_url=url)).aio
    try:
        yield made
    finally:
        await made.aclose()


def told(answer: types.GenerateContentResponse) -> dict[str, Any]:
    return answer.model_dump(exclude={"sdk_http_response"})


async def test_an_answer_is_what_it_is_directly_and_its_thoughts_are_charged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at:
        direct = await at.direct.models.generate_content(model=MODEL, contents="Tell me about gates.")
        gated = await at.sdk.models.generate_content(model=MODEL, contents="Tell me about gates.")
        assert told(gated) == told(direct)
        headers = gated.sdk_http_response.headers if gated.sdk_http_response else None
        assert headers is not None
        assert headers["x-tokengate-cost-usd"] == format_usd(COST_NANO)
        path, _, sent, body = at.answers.asked[1]
        assert (path, body) == (at.answers.asked[0][0], at.answers.asked[0][3])
        assert sent["x-goog-api-key"] == "own"
        [entry] = await at.gate.log()
    assert spent_nano(redis_cli) == COST_NANO
    assert (entry["endpoint"], entry["model"], entry["reasoning_tokens"]) == ("generate_content", MODEL, 30)


async def test_a_stream_is_what_it_is_directly_and_its_last_figures_count(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at:
        chunks: list[list[dict[str, Any]]] = []
        for sdk in (at.direct, at.sdk):
            stream = await sdk.models.generate_content_stream(model=MODEL, contents="Tell me about gates.")
            chunks.append([told(chunk) async for chunk in stream])
        assert chunks[0] == chunks[1]
        assert len(chunks[1]) == 4
        await at.gate.idle()
    assert spent_nano(redis_cli) == COST_NANO


async def test_a_stream_that_is_a_list_is_metered_too(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as at, httpx.AsyncClient(base_url=at.gate.url) as http:
        for version, key in (("v1beta", "?key=dummy"), ("v1", "")):
            path = f"/{version}/models/{MODEL}:streamGenerateContent{key}"
            answer = await http.post(path, json={"contents": [{"parts": [{"text": "hi"}]}]})
            assert [len(answer.json()), answer.json()[-1]["candidates"][0]["finishReason"]] == [4, "STOP"]
        assert [query for _, query, _, _ in at.answers.asked] == ["", ""]
        await at.gate.idle()
    assert spent_nano(redis_cli) == 2 * COST_NANO


async def test_who_leaves_a_stream_pays_for_what_was_told_by_then(store: Server, redis_cli: "redis.Redis") -> None:
    body = {"contents": [{"parts": [{"text": "hi"}]}]}
    async with scene(store, {"ends": False}) as at, httpx.AsyncClient(base_url=at.gate.url) as http:
        path = f"/v1beta/models/{MODEL}:streamGenerateContent?alt=sse"
        async with http.stream("POST", path, json=body) as stream:
            async for line in stream.aiter_lines():
                if "stand " in line:
                    break
        [entry] = await at.gate.log()
    assert entry["ending"] == "cut"
    assert spent_nano(redis_cli) == 200 * 300 + 1000 * 30 + (5 + 30) * 2_500
    assert held_nano(redis_cli) == 0


async def test_what_is_spent_is_refused_in_the_words_of_the_api(store: Server) -> None:
    async with scene(store, default_budget="0.000001") as at:
        with pytest.raises(errors.ClientError) as refused:
            await at.sdk.models.generate_content(model=MODEL, contents="hi")
        assert (refused.value.code, refused.value.status) == (429, "RESOURCE_EXHAUSTED")
        assert str(refused.value.message).startswith("Budget exceeded. Remaining: $")
        assert at.answers.asked == []


async def test_near_the_end_of_a_budget_a_cap_is_written_in_the_spelling_of_the_body(store: Server) -> None:
    async with scene(store, default_budget="0.02") as at, httpx.AsyncClient(base_url=at.gate.url) as http:
        for settings, name in (({"temperature": 1}, "maxOutputTokens"), (None, "maxOutputTokens")):
            body: dict[str, Any] = {"contents": [{"parts": [{"text": "hi"}]}]}
            if settings:
                body["generation_config"] = settings
            answer = await http.post(f"/v1beta/models/{MODEL}:generateContent", json=body)
            assert answer.status_code == 200
            sent = at.answers.asked[-1][3]["generation_config" if settings else "generationConfig"]
            assert 16 <= sent[name] < 0.02 * 1e9 / 2_500


async def test_embeddings_are_charged_and_tokens_counted_for_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as at:
        counted = await at.sdk.models.count_tokens(model=MODEL, contents="hi")
        assert counted.total_tokens == 14
        assert [model.name async for model in await at.sdk.models.list()] == [f"models/{MODEL}"]
        assert fields(redis_cli) == {}
        found = await at.sdk.models.embed_content(model="gemini-embedding-001", contents="hi")
        assert found.embeddings is not None
        assert found.embeddings[0].values == [0.5, 0.25]
        await at.gate.idle()
    assert spent_nano(redis_cli) == 7 * 150


async def test_the_path_for_openais_sdk_goes_to_gemini_with_its_key_and_its_prices(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store) as at, httpx.AsyncClient(base_url=at.gate.url) as http:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
        answer = await http.post("/v1beta/openai/chat/completions", json=body)
        assert answer.status_code == 404
        path, _, headers, _ = at.answers.asked[-1]
        assert (path, headers["authorization"]) == ("/v1beta/openai/chat/completions", "Bearer own")
        [entry] = await at.gate.log()
    assert (entry["endpoint"], entry["model"], entry["actual_cost"]) == ("chat_completions", MODEL, 0)

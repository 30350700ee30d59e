"""The simulated provider, on a real socket, with the official client: it answers like OpenAI and its books are true."""

import asyncio
import base64
import gzip
import importlib
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import openai
import pytest
import tiktoken
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionToolParam
from pydantic import BaseModel

from tests.support.gate import simulated
from tokengate.simulate import CapRule, Fault, FaultKind, SimulateOptions, create_app
from tokengate.simulate.books import MODELS_MAX, OTHERS, USERS_MAX, Books
from tokengate.simulate.options import FAULT_ARGUMENTS, OptionError, parse_directives
from tokengate.simulate.text import count_runs, example, prose, split

ENCODINGS = Path(__file__).parent.parent / "data" / "encodings"
HELLO: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city"],
        },
    },
}


@asynccontextmanager
async def served(options: SimulateOptions | None = None) -> AsyncIterator[str]:
    """A simulated provider under a real uvicorn; gives its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    app: Any = create_app(options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@asynccontextmanager
async def client(options: SimulateOptions | None = None) -> AsyncIterator[tuple[openai.AsyncOpenAI, httpx.AsyncClient]]:
    """The official client of a simulated provider that never retries, and a plain one for its books and wire."""
    async with (
        served(options) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=20) as sdk,
        httpx.AsyncClient(base_url=url, timeout=20) as plain,
    ):
        yield sdk, plain


async def books(plain: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await plain.get("/simulate/books")).json()
    return found


async def books_when(plain: httpx.AsyncClient, *, cut: int) -> dict[str, Any]:
    """The books once `cut` answers were cut: a server learns of a closed connection a moment after it was closed."""
    while True:
        found = await books(plain)
        if found["total"]["cut"] >= cut:
            return found
        await asyncio.sleep(0.005)


def events(raw: bytes) -> list[Any]:
    """The JSON events of a stream, with `[DONE]` as text."""
    texts = [part.removeprefix("data: ") for part in raw.decode().split("\n\n") if part]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": HELLO} | more


async def raw(plain: httpx.AsyncClient, fault: str = "", **more: Any) -> httpx.Response:
    return await plain.post("/v1/chat/completions", json=chat(**more), headers={"x-simulate-fault": fault})


# Answers


async def test_a_chat_answer_reports_what_the_books_hold() -> None:
    async with client(SimulateOptions(output_tokens=40)) as (sdk, plain):
        answer = await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, user="ann")
        found = await books(plain)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 40
    assert answer.usage.prompt_tokens_details is not None
    row = {"received": 1, "answered": 1, "refused": 0, "cut": 0}
    row |= {"input_tokens": answer.usage.prompt_tokens, "output_tokens": 40}
    assert found["total"] == found["models"]["gpt-4o-mini"] == found["users"]["ann"] == row


async def test_a_stream_has_null_usage_on_every_chunk_and_a_last_one_without_choices_if_asked() -> None:
    async with client(SimulateOptions(output_tokens=5)) as (_, plain):
        asked = events((await raw(plain, stream=True, stream_options={"include_usage": True})).content)
        unasked = events((await raw(plain, stream=True)).content)
    *chunks, last, done = asked
    assert done == "[DONE]"
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 5
    assert unasked[-1] == "[DONE]"
    assert all("usage" not in chunk and chunk["choices"] for chunk in unasked[:-1])
    assert unasked[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert unasked[-2]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}


async def test_the_sdk_reads_a_stream_of_several_answers() -> None:
    async with client(SimulateOptions(output_tokens=6)) as (sdk, plain):
        texts = {0: "", 1: "", 2: ""}
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, n=3, stream=True)
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        found = await books(plain)
    assert all(len(text.split()) == 6 for text in texts.values())
    assert found["total"]["output_tokens"] == 18


async def test_a_tool_is_called_and_its_result_is_answered_in_text() -> None:
    async with client(SimulateOptions(output_tokens=3)) as (sdk, _):
        called = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER])
        (call,) = called.choices[0].message.tool_calls or []
        assert call.type == "function"
        history = [*HELLO, called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sun"}]
        answered = await sdk.chat.completions.create(model="gpt-4o", messages=history, tools=[WEATHER])
    assert called.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments) == {"city": "as it came", "days": 7, "unit": "C"}
    assert answered.choices[0].message.tool_calls is None
    assert len((answered.choices[0].message.content or "").split()) == 3


async def test_a_streamed_tool_call_comes_in_pieces() -> None:
    async with client() as (sdk, _):
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=HELLO, tools=[WEATHER], stream=True)
        deltas = [choice.delta async for chunk in stream for choice in chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or []]
    functions = [call.function for call in calls if call.function is not None]
    assert functions[0].name == "get_weather"
    assert len(functions) > 3
    assert json.loads("".join(function.arguments or "" for function in functions))["days"] == 7


async def test_a_looping_provider_never_stops_calling() -> None:
    history = [*HELLO, {"role": "tool", "tool_call_id": "c", "content": "sun"}]
    async with client(SimulateOptions(loop_tools=True)) as (sdk, _):
        answer = await sdk.chat.completions.create(model="gpt-4o", messages=history, tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_a_structured_answer_fits_its_schema() -> None:
    class City(BaseModel):
        name: str
        people: int
        near: list[str]

    async with client() as (sdk, _):
        answer = await sdk.chat.completions.parse(model="gpt-4o", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="as it came", people=7, near=["as it came"])


@pytest.mark.parametrize(
    ("rule", "caps", "length"),
    [
        (CapRule.COMPLETION, {"max_tokens": 9}, 9),
        (CapRule.COMPLETION, {"max_completion_tokens": 4}, 4),
        (CapRule.COMPLETION, {"max_completion_tokens": 4, "max_tokens": 9}, 4),
        (CapRule.LARGER, {"max_completion_tokens": 4, "max_tokens": 9}, 9),
        (CapRule.REFUSE, {"max_completion_tokens": 4, "max_tokens": 9}, None),
    ],
)
async def test_output_caps_are_obeyed(rule: CapRule, caps: dict[str, Any], length: int | None) -> None:
    async with client(SimulateOptions(output_tokens=50, cap_rule=rule)) as (_, plain):
        answer = await raw(plain, **caps)
    if length is None:
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_parameter_combination"
    else:
        assert answer.json()["usage"]["completion_tokens"] == length
        assert answer.json()["choices"][0]["finish_reason"] == "length"


async def test_what_is_billed_can_be_fixed_and_overridden_by_a_request() -> None:
    async with client(SimulateOptions(input_tokens=100, cached_tokens=60, output_tokens=5)) as (sdk, plain):
        fixed = (await raw(plain)).json()["usage"]
        overridden = (await raw(plain, "input_tokens:30,output_tokens:6")).json()["usage"]
        embedded = await sdk.embeddings.create(model="text-embedding-3-small", input="one")
    assert (fixed["prompt_tokens"], fixed["prompt_tokens_details"]["cached_tokens"]) == (100, 60)
    assert (overridden["prompt_tokens"], overridden["prompt_tokens_details"]["cached_tokens"]) == (30, 30)
    assert (fixed["total_tokens"], overridden["completion_tokens"], embedded.usage.prompt_tokens) == (105, 6, 100)


async def test_reasoning_is_billed_within_the_cap_and_not_shown() -> None:
    async with client(SimulateOptions(output_tokens=50, reasoning_tokens=30)) as (_, plain):
        usage = (await raw(plain, max_completion_tokens=40)).json()["usage"]
    assert usage["completion_tokens"] == 40
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 30


async def test_completions_answer_every_prompt_and_bill_what_best_of_threw_away() -> None:
    async with client(SimulateOptions(output_tokens=50)) as (sdk, plain):
        answer = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt=["a", "b"], n=2, best_of=3)
        found = await books(plain)
        streamed = await sdk.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", max_tokens=4, stream=True)
        text = "".join([chunk.choices[0].text async for chunk in streamed])
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert all(len(choice.text.split()) <= 16 for choice in answer.choices)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2 * 3 * 16 == found["total"]["output_tokens"]
    assert len(text.split()) == 4


async def test_embeddings_are_the_same_in_floats_and_base64() -> None:
    async with client() as (sdk, _):
        coded = await sdk.embeddings.create(model="text-embedding-3-small", input=["one two", "three"])
        floats = await sdk.embeddings.create(
            model="text-embedding-3-small", input=["one two", "three"], encoding_format="float"
        )
        small = await sdk.embeddings.create(model="text-embedding-3-small", input=[1, 2, 3], dimensions=8)
    assert len(coded.data) == 2
    assert len(coded.data[0].embedding) == 1536
    assert coded.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
    assert sum(number * number for number in coded.data[1].embedding) == pytest.approx(1, abs=1e-4)
    assert coded.usage.prompt_tokens == 3
    assert len(small.data[0].embedding) == 8
    assert small.usage.prompt_tokens == 3


async def test_models_are_listed_and_looked_up() -> None:
    async with client(SimulateOptions(models=("a", "b"))) as (sdk, _):
        assert [model.id async for model in sdk.models.list()] == ["a", "b"]
        assert (await sdk.models.retrieve("b")).id == "b"
        with pytest.raises(openai.NotFoundError):
            await sdk.models.retrieve("c")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", b"not json", None),
        ("/v1/chat/completions", b"[1]", None),
        ("/v1/chat/completions", b'{"messages": []}', None),
        ("/v1/chat/completions", json.dumps(chat(messages=[])).encode(), "messages"),
        ("/v1/chat/completions", json.dumps(chat(max_tokens=-5)).encode(), "max_tokens"),
        ("/v1/chat/completions", json.dumps(chat(max_tokens=1.5)).encode(), "max_tokens"),
        ("/v1/chat/completions", json.dumps(chat(n=True)).encode(), "n"),
        ("/v1/chat/completions", json.dumps(chat(n=129)).encode(), "n"),
        ("/v1/chat/completions", json.dumps(chat(stream_options={})).encode(), "stream_options"),
        ("/v1/completions", b'{"model": "m", "prompt": "a", "best_of": 2, "stream": true}', "best_of"),
        ("/v1/embeddings", b'{"model": "m", "input": []}', "input"),
        ("/v1/embeddings", b'{"model": "m", "input": "a", "encoding_format": "hex"}', "encoding_format"),
    ],
)
async def test_a_bad_request_is_refused_and_not_billed(path: str, body: bytes, param: str | None) -> None:
    async with client() as (_, plain):
        answer = await plain.post(path, content=body)
        found = await books(plain)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.json()["error"]["param"] == param
    assert found["total"]["refused"] == 1
    assert found["total"]["input_tokens"] == 0


async def test_only_the_right_key_is_let_in() -> None:
    async with client(SimulateOptions(api_key="secret")) as (sdk, _):
        with pytest.raises(openai.AuthenticationError):
            await sdk.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert (await sdk.with_options(api_key="secret").chat.completions.create(model="m", messages=HELLO)).choices


async def test_the_same_seed_gives_the_same_answers() -> None:
    async def lengths(seed: int) -> list[int]:
        async with client(SimulateOptions(seed=seed)) as (_, plain):
            return [(await raw(plain)).json()["usage"]["completion_tokens"] for _ in range(5)]

    first = await lengths(1)
    assert await lengths(1) == first
    assert await lengths(2) != first
    assert len(set(first)) > 1


# Faults

USAGE_FAULTS: list[tuple[str, Any]] = [
    ("null_usage", None),
    ("zero_usage", {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}),
    ("negative_usage", {"prompt_tokens": -1000, "completion_tokens": -1000, "total_tokens": -1000}),
    ("text_usage", {"prompt_tokens": "many", "completion_tokens": 1.5, "total_tokens": True}),
]


@pytest.mark.parametrize(("fault", "usage"), USAGE_FAULTS)
async def test_usage_is_misreported_and_the_books_stay_true(fault: str, usage: Any) -> None:
    async with client(SimulateOptions(output_tokens=7)) as (_, plain):
        whole = (await raw(plain, fault)).json()
        streamed = events((await raw(plain, fault, stream=True, stream_options={"include_usage": True})).content)
        found = await books(plain)
    assert whole["usage"] == streamed[-2]["usage"] == usage
    assert found["total"]["output_tokens"] == 14
    assert found["total"]["input_tokens"] > 0


async def test_usage_is_left_out() -> None:
    async with client() as (_, plain):
        whole = (await raw(plain, "no_usage")).json()
        streamed = events((await raw(plain, "no_usage", stream=True, stream_options={"include_usage": True})).content)
        embedded = await plain.post(
            "/v1/embeddings", json={"model": "m", "input": "a"}, headers={"x-simulate-fault": "no_usage"}
        )
    assert all("usage" not in value for value in [whole, embedded.json(), *streamed[:-1]])


async def test_what_is_reported_beyond_what_was_generated_is_billed() -> None:
    async with client() as (_, plain):
        whole = (await raw(plain, "huge_usage:5000")).json()
        found = await books(plain)
    assert whole["usage"]["completion_tokens"] == 5000 == found["total"]["output_tokens"]


async def test_usage_grows_with_every_chunk() -> None:
    async with client(SimulateOptions(output_tokens=4)) as (_, plain):
        *chunks, _ = events((await raw(plain, "cumulative_usage", stream=True)).content)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 4, 4]


async def test_usage_comes_where_it_should_not() -> None:
    async with client(SimulateOptions(output_tokens=2)) as (_, plain):
        *finish, _ = events((await raw(plain, "usage_on_finish", stream=True)).content)
        *zeros, _ = events((await raw(plain, "zero_usage_on_chunks", stream=True)).content)
    assert ["usage" in chunk for chunk in finish] == [False, False, False, True]
    assert finish[-1]["choices"]
    assert {chunk["usage"]["total_tokens"] for chunk in zeros} == {0}


async def test_errors_by_request() -> None:
    async with client() as (sdk, plain):
        limited = await raw(plain, "rate_limited:7")
        failed = await raw(plain, "server_error:503")
        bad = await raw(plain, "bad_request")
        as_events = await raw(plain, "error_as_events", stream=True)
        found = await books(plain)
        with pytest.raises(openai.RateLimitError):
            await sdk.chat.completions.create(
                model="gpt-4o", messages=HELLO, extra_headers={"x-simulate-fault": "rate_limited"}
            )
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert (failed.status_code, bad.status_code, as_events.status_code) == (503, 400, 500)
    assert as_events.headers["content-type"].startswith("text/event-stream")
    assert events(as_events.content)[0]["error"]["type"] == "server_error"
    assert found["total"] == {
        "received": 4, "answered": 0, "refused": 4, "cut": 0, "input_tokens": 0, "output_tokens": 0,
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_is_reset_midway(stream: bool) -> None:
    async with client(SimulateOptions(output_tokens=50)) as (_, plain):
        with pytest.raises(httpx.ReadError):
            await raw(plain, "reset_midway:11", stream=stream)
        found = await books(plain)
    assert found["total"]["cut"] == 1
    assert found["total"]["output_tokens"] == (10 if stream else 50)
    assert found["disconnects"]["count"] == 0


async def test_a_connection_is_reset_before_the_headers() -> None:
    async with client() as (_, plain):
        with pytest.raises(httpx.ReadError):
            await raw(plain, "reset_before_headers")


@pytest.mark.parametrize(("fault", "stream"), [("hang_before_headers", False), ("hang_midway", True)])
async def test_a_hanging_answer_ends_when_the_client_leaves(fault: str, stream: bool) -> None:
    async with client() as (_, plain):
        with pytest.raises(httpx.ReadTimeout):
            await plain.post(
                "/v1/chat/completions", json=chat(stream=stream), headers={"x-simulate-fault": fault}, timeout=0.3
            )
        found = await books_when(plain, cut=1)
    assert found["disconnects"]["count"] == 1
    assert found["concurrent"] == 0


async def test_an_error_comes_in_the_midst_of_a_stream() -> None:
    async with client() as (sdk, _):
        stream = await sdk.chat.completions.create(
            model="gpt-4o", messages=HELLO, stream=True, extra_headers={"x-simulate-fault": "error_midway"}
        )
        with pytest.raises(openai.APIError, match="The server had an error"):
            [chunk async for chunk in stream]


async def test_answers_in_a_shape_that_was_not_asked_for() -> None:
    async with client(SimulateOptions(output_tokens=4)) as (_, plain):
        zipped = await raw(plain, "gzip")
        zipped_stream = await raw(plain, "gzip", stream=True)
        typed = await raw(plain, "content_type:text/html")
        untyped = await raw(plain, "no_content_type", stream=True)
        unstreamed = await raw(plain, "json_for_stream", stream=True)
        renamed = await raw(plain, "other_model:gpt-9")
    assert zipped.headers["content-encoding"] == zipped_stream.headers["content-encoding"] == "gzip"
    assert zipped.json()["usage"]["completion_tokens"] == 4
    assert events(zipped_stream.content)[-1] == "[DONE]"
    assert typed.headers["content-type"] == "text/html"
    assert "content-type" not in untyped.headers
    assert unstreamed.headers["content-type"] == "application/json"
    assert unstreamed.json()["usage"]["completion_tokens"] == 4
    assert renamed.json()["model"] == "gpt-9"


async def test_answers_that_end_wrongly() -> None:
    async with client(SimulateOptions(output_tokens=4)) as (_, plain):
        truncated = await raw(plain, "truncated_json")
        truncated_stream = await raw(plain, "truncated_json", stream=True)
        endless = await raw(plain, "no_done", stream=True)
        garbage = await raw(plain, "garbage_after_done", stream=True)
        found = await books(plain)
    with pytest.raises(json.JSONDecodeError):
        truncated.json()
    assert not truncated_stream.content.endswith(b"\n\n")
    assert b"[DONE]" not in endless.content
    assert not garbage.content.endswith(b"[DONE]\n\n")
    assert found["total"]["answered"] == 2
    assert found["total"]["cut"] == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_huge_answer_is_huge_and_billed(stream: bool) -> None:
    async with client() as (_, plain):
        answer = await raw(plain, "huge_answer:2", stream=stream, max_tokens=5)
        found = await books(plain)
    assert len(answer.content) > 2_000_000
    assert found["total"]["output_tokens"] > 300_000


async def test_slow_headers_are_still_an_answer() -> None:
    async with client() as (_, plain):
        assert (await raw(plain, "slow_headers:20")).status_code == 200


async def test_a_fault_can_be_asked_for_by_metadata_and_by_model_and_for_a_share_of_requests() -> None:
    half = SimulateOptions(fault=Fault.parse("server_error"), fault_rate=0.5)
    async with client() as (_, plain):
        by_metadata = await raw(plain, metadata={"simulate": "no_usage,output_tokens:3"})
        by_model = await raw(plain, model="ft:gpt-4o-mini:simulate:null_usage")
        unknown = await raw(plain, "no_such_fault")
    async with client(half) as (_, plain):
        statuses = {(await raw(plain)).status_code for _ in range(20)}
    assert "usage" not in by_metadata.json()
    assert len(by_metadata.json()["choices"][0]["message"]["content"].split()) == 3
    assert by_model.json()["usage"] is None
    assert unknown.status_code == 400
    assert statuses == {200, 500}


# Books


async def test_a_client_that_leaves_pays_for_what_was_generated() -> None:
    async with client(SimulateOptions(output_tokens=4000, tokens_per_second=200)) as (_, plain):
        async with plain.stream("POST", "/v1/chat/completions", json=chat(stream=True)) as answer:
            seen = 0
            async for line in answer.aiter_lines():
                seen += line.startswith("data: ")
                if seen == 11:
                    break
        found = await books_when(plain, cut=1)
    assert found["disconnects"]["count"] == 1
    assert len(found["disconnects"]["since_last_write_ms"]) == 1
    assert 10 <= found["total"]["output_tokens"] < 4000
    assert found["total"]["input_tokens"] > 0


async def test_an_unary_answer_is_billed_in_full_though_its_reader_left() -> None:
    async with client(SimulateOptions(output_tokens=60, ttft_ms=60_000)) as (_, plain):
        with pytest.raises(httpx.ReadTimeout):
            await plain.post("/v1/chat/completions", json=chat(), timeout=0.3)
        found = await books_when(plain, cut=1)
    assert found["total"]["output_tokens"] == 60


async def test_requests_are_kept_as_they_came_until_a_reset() -> None:
    async with client() as (_, plain):
        await plain.post("/v1/chat/completions?a=b", json=chat(), headers={"x-mine": "1"})
        (seen,) = (await plain.get("/simulate/requests")).json()
        await plain.post("/simulate/reset")
        assert (await plain.get("/simulate/requests")).json() == []
        assert (await books(plain))["total"]["received"] == 0
    assert (seen["method"], seen["target"]) == ("POST", "/v1/chat/completions?a=b")
    assert ["x-mine", "1"] in seen["headers"]
    assert json.loads(seen["body"]) == chat()


async def test_the_most_requests_at_once_are_counted() -> None:
    async with client(SimulateOptions(ttft_ms=100)) as (_, plain):
        await asyncio.gather(*(raw(plain) for _ in range(5)))
        found = await books(plain)
    assert found["concurrent_max"] == 5
    assert found["concurrent"] == 0


def test_invented_names_share_a_row() -> None:
    kept = Books()
    for number in range(max(USERS_MAX, MODELS_MAX) + 10):
        kept.close(kept.open(f"model {number}", f"user {number}"), "answered")
    found = kept.as_json()
    assert len(found["users"]) == USERS_MAX + 1
    assert len(found["models"]) == MODELS_MAX + 1
    assert found["users"][OTHERS]["received"] == 10


# Words and options


@pytest.fixture(scope="module")
def vocabularies() -> Iterator[list[tiktoken.Encoding]]:
    """The real encodings, from the vocabularies in the repository."""

    def load(url: str, **_: Any) -> dict[bytes, int]:
        lines = gzip.decompress((ENCODINGS / f"{url.rsplit('/', 1)[1]}.gz").read_bytes()).splitlines()
        return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}

    public: Any = importlib.import_module("tiktoken_ext.openai_public")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(public, "load_tiktoken_bpe", load)
        yield [tiktoken.Encoding(**public.cl100k_base()), tiktoken.Encoding(**public.o200k_base())]


def test_prose_has_exactly_its_tokens(vocabularies: list[tiktoken.Encoding]) -> None:
    for encoding in vocabularies:
        for seed in range(60):
            pieces = prose(200, Random(seed))
            assert len(pieces) == 200
            assert all(len(encoding.encode(piece)) == 1 for piece in pieces)
            assert len(encoding.encode("".join(pieces))) == 200


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=60),
        st.text("abc XYZ019_'\"{}:,.\n\t/-", max_size=60),
        st.lists(st.sampled_from(["it's", "नमस्ते", "你好", "__init__", '{"a": 1}', " don't", "ﬁ", "e\u0301"])).map(
            "".join
        ),
    )
)
def test_a_count_never_exceeds_the_true_one(vocabularies: list[tiktoken.Encoding], text: str) -> None:
    for encoding in vocabularies:
        true = len(encoding.encode(text, disallowed_special=()))
        assert count_runs(text) <= true
        assert "".join(split(text)) == text
        assert len(split(text)) <= max(1, true)


def test_an_example_ends_for_any_schema() -> None:
    looped: dict[str, Any] = {"type": "array"}
    looped["items"] = looped
    assert example(looped) is not None
    assert example({"anyOf": [{"const": 3}]}) == 3
    assert example({"type": ["boolean", "null"]}) is True
    assert example("nonsense") is None


@pytest.mark.parametrize("kind", list(FaultKind))
def test_every_fault_can_be_named(kind: FaultKind) -> None:
    fault = Fault.parse(kind)
    assert fault.kind is kind
    assert bool(fault.argument) == (kind in FAULT_ARGUMENTS)


@pytest.mark.parametrize(
    "text", ["nonsense", "gzip:1", "server_error:404", "huge_answer:9999", "rate_limited:-1", "rate_limited:x"]
)
def test_a_fault_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(OptionError):
        Fault.parse(text)


@pytest.mark.parametrize("text", ["gzip,no_usage", "output_tokens:x", "output_tokens", ",".join(["ttft_ms:1"] * 9)])
def test_directives_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(OptionError):
        parse_directives(text, SimulateOptions())


def test_directives_override_options() -> None:
    directives = parse_directives(" output_tokens:5 , gzip ", SimulateOptions(output_tokens=9, ttft_ms=3))
    assert directives.options == SimulateOptions(output_tokens=5, ttft_ms=3)
    assert directives.fault == Fault(FaultKind.GZIP)


@pytest.mark.parametrize(
    "values", [{"fault_rate": 1.5}, {"ttft_ms": -1}, {"tokens_per_second": float("nan")}, {"output_tokens_max": 0}]
)
def test_options_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        SimulateOptions(**values)


# --- images and sound ---


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/images/generations", b'{"model":"gpt-image-2"}', "prompt"),
        ("/v1/images/generations", b'{"prompt":"a"}', None),
        ("/v1/images/generations", b"[]", None),
        ("/v1/audio/speech", b'{"model":"tts-1"}', "input"),
        ("/v1/audio/speech", b'{"model":"tts-1","input":"a","response_format":"ogg"}', "response_format"),
        ("/v1/audio/transcriptions", b'{"model":"whisper-1"}', "file"),
    ],
)
async def test_bad_requests_for_images_and_sound_are_refused(path: str, body: bytes, param: str | None) -> None:
    async with simulated() as provider, httpx.AsyncClient(base_url=provider.url) as client:
        answer = await client.post(path, content=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert provider.total["refused"] == 1


async def test_speech_is_as_long_as_its_text() -> None:
    async with simulated() as provider, httpx.AsyncClient(base_url=provider.url) as client:
        asked = {"model": "gpt-4o-mini-tts", "input": "a" * 150, "response_format": "wav"}
        answer = await client.post("/v1/audio/speech", json=asked)
        assert len(answer.content) == 44 + 10 * 48_000
        assert provider.total["output_tokens"] == 200


async def test_an_image_has_the_tokens_of_openais_guide() -> None:
    async with simulated() as provider, httpx.AsyncClient(base_url=provider.url) as client:
        asked = {"model": "gpt-image-1-mini", "prompt": "a cat", "quality": "medium", "size": "1024x1024", "n": 2}
        answer = await client.post("/v1/images/generations", json=asked)
        assert answer.json()["usage"]["output_tokens"] == 2 * 1056
        assert provider.total["output_tokens"] == 2 * 1056

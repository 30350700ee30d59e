"""Scripts of the official SDKs against a mock of the providers that others wrote, directly and through a gate.

LLMock (https://pypi.org/project/llmock) serves OpenAI, Anthropic, Gemini and several servers that speak OpenAI's API over
real sockets. What an SDK makes of each answer, whole or event by event, must be the same in both ways, but for the names
and times that the mock invents for each; and the gate's log must say of the tokens what the SDK says.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anthropic
import pytest
from google import genai
from google.genai import types
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from llmock.testing import BASE_PATHS, LLMockServer
from pydantic import BaseModel, SecretStr

from tests.support.gate import Gate, gate, official
from tests.support.redis_server import Server

HELLO: Final[list[Any]] = [{"role": "user", "content": "Tell me about gates."}]
FIND: Final = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
INVENTED: Final = frozenset(
    {"id", "created", "created_at", "item_id", "call_id", "system_fingerprint", "x_groq", "response_id", "sdk_http_response"}
)  # fmt: skip
"""Members whose values the mock, or an SDK, makes anew for each answer."""
COMPATIBLE: Final = {
    "groq": ("groq", "llama-3.3-70b-versatile"),
    "mistral": ("mistral", "mistral-large-latest"),
    "together": ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
    "xai": ("x-ai", "grok-4-0709"),
}
"""Servers that speak OpenAI's API: the section of the price file, and a model in it."""


class Known(BaseModel):
    """What is known of something."""

    subject: str = ""


@pytest.fixture(scope="module")
def mock() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@asynccontextmanager
async def gated(mock: LLMockServer, store: Server, **settings: Any) -> AsyncIterator[Gate]:
    urls = {f"{name}_base_url": mock.base_url(name) for name in ("anthropic", "gemini")}
    async with gate(mock.base_url("openai"), store.url, **urls, **settings) as running:
        yield running


def told(value: Any) -> Any:
    """What an SDK makes of an answer, without what was invented for it."""
    if isinstance(value, BaseModel):
        return told(value.model_dump(warnings=False))
    if isinstance(value, dict):
        return {name: told(each) if name not in INVENTED else type(each).__name__ for name, each in value.items()}
    return [told(each) for each in value] if isinstance(value, list | tuple) else value


async def events(stream: Any) -> list[Any]:
    return [event async for event in await stream]


# --- OpenAI ---


async def chat(sdk: Any) -> Any:
    return await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, seed=7, logprobs=True, store=True)


async def chat_plain(sdk: Any) -> Any:
    return await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


async def chat_streamed(sdk: Any) -> Any:
    options = {"include_usage": True}
    return await events(
        sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True, stream_options=options)
    )


async def chat_streamed_without_usage(sdk: Any) -> Any:
    return await events(sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True))


async def chat_with_tools(sdk: Any) -> Any:
    tools = [{"type": "function", "function": {"name": "find", "parameters": FIND}}]
    return await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, tools=tools, tool_choice="required")


async def chat_with_tools_streamed(sdk: Any) -> Any:
    tools = [{"type": "function", "function": {"name": "find", "parameters": FIND}}]
    asked = sdk.chat.completions.create(
        model="gpt-4o-mini", messages=HELLO, tools=tools, tool_choice="required", stream=True
    )
    return await events(asked)


async def chat_by_the_helper(sdk: Any) -> Any:
    async with sdk.chat.completions.stream(model="gpt-4o-mini", messages=HELLO) as stream:
        return [told(event.type) async for event in stream] + [await stream.get_final_completion()]


async def embeddings(sdk: Any) -> Any:
    return await sdk.embeddings.create(model="text-embedding-3-small", input=["gates", "walls"])


async def embeddings_of_floats(sdk: Any) -> Any:
    given = {"model": "text-embedding-3-small", "input": "gates", "encoding_format": "float", "dimensions": 256}
    return await sdk.embeddings.create(**given)


async def models(sdk: Any) -> Any:
    return (await sdk.models.list()).data


async def response(sdk: Any) -> Any:
    return await sdk.responses.create(model="gpt-5-mini", input="Tell me about gates.", instructions="Be brief.")


async def response_streamed(sdk: Any) -> Any:
    return await events(sdk.responses.create(model="gpt-5-mini", input="Tell me about gates.", stream=True))


async def response_with_tools(sdk: Any) -> Any:
    tools = [{"type": "function", "name": "find", "parameters": FIND, "strict": False}]
    return await sdk.responses.create(
        model="gpt-5-mini", input="Tell me about gates.", tools=tools, tool_choice="required"
    )


OPENAI: Final[tuple[Callable[[Any], Awaitable[Any]], ...]] = (
    chat, chat_streamed, chat_streamed_without_usage, chat_with_tools, chat_with_tools_streamed, chat_by_the_helper,
    embeddings, embeddings_of_floats, models, response, response_streamed, response_with_tools,
)  # fmt: skip


@pytest.mark.parametrize("script", OPENAI, ids=lambda script: script.__name__)
async def test_openais_sdk_gets_the_same(mock: LLMockServer, store: Server, script: Any) -> None:
    async with gated(mock, store) as running:
        async with official(mock.base_url("openai")) as direct, official(running.base_url) as through:
            expected, found = told(await script(direct)), told(await script(through))
        assert found == expected
        [line] = await running.log()
    assert line["status"] == 200
    if script is not models:
        assert (line["ending"], line["assumed"]) == ("complete", False)
        assert_counted(line, found)


def assert_counted(line: dict[str, Any], found: Any) -> None:
    """The log says of the tokens what the answer says, if it says anything."""
    last = found[-1] if type(found) is list else found
    last = last.get("response") or last
    usage = last.get("usage") or last.get("usage_metadata")
    if usage:
        names = ("prompt_tokens", "input_tokens", "prompt_token_count")
        assert line["input_tokens"] == next(usage[name] for name in names if name in usage)
    assert line["actual_cost"] > 0


# --- Anthropic ---


async def message(sdk: Any) -> Any:
    return await sdk.messages.create(model="claude-sonnet-5", max_tokens=100, messages=HELLO, system="Be brief.")


async def message_streamed(sdk: Any) -> Any:
    return await events(sdk.messages.create(model="claude-sonnet-5", max_tokens=100, messages=HELLO, stream=True))


async def message_with_tools(sdk: Any) -> Any:
    tools = [{"name": "find", "description": "Finds.", "input_schema": FIND}]
    given = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": HELLO, "tools": tools}
    return await sdk.messages.create(**given, tool_choice={"type": "any"})


async def message_by_the_helper(sdk: Any) -> Any:
    async with sdk.messages.stream(model="claude-sonnet-5", max_tokens=100, messages=HELLO) as stream:
        return [event.type async for event in stream] + [await stream.get_final_message()]


ANTHROPIC: Final = (message, message_streamed, message_with_tools, message_by_the_helper)


@pytest.mark.parametrize("script", ANTHROPIC, ids=lambda script: script.__name__)
async def test_anthropics_sdk_gets_the_same(mock: LLMockServer, store: Server, script: Any) -> None:
    async with gated(mock, store) as running:
        results = []
        for url in (mock.base_url("anthropic"), running.url):
            async with anthropic.AsyncAnthropic(base_url=url, api_key="dummy", max_retries=0) as sdk:
                results.append(told(await script(sdk)))
        assert results[1] == results[0]
        [line] = await running.log()
    assert (line["endpoint"], line["ending"], line["assumed"]) == ("messages", "complete", False)
    assert line["actual_cost"] > 0


@tool
def find(q: str) -> str:
    """Finds what is known."""
    return "Gates stand in walls."


async def langchain_whole(model: ChatAnthropic) -> Any:
    return await model.ainvoke("Tell me about gates.")


async def langchain_streamed(model: ChatAnthropic) -> Any:
    return [chunk async for chunk in model.astream("Tell me about gates.")]


async def langchain_with_tools(model: ChatAnthropic) -> Any:
    asked = await model.bind_tools([find], tool_choice="any").ainvoke("Tell me about gates.")
    assert isinstance(asked, AIMessage)
    return asked


@pytest.mark.parametrize("script", [langchain_whole, langchain_streamed, langchain_with_tools])
async def test_langchains_claude_gets_the_same(store: Server, script: Any) -> None:
    # A mock of its own: LangChain keeps a client for each base URL, beyond the loop that made it.
    with LLMockServer() as mock:
        await compare_langchain(mock, store, script)


async def compare_langchain(mock: LLMockServer, store: Server, script: Any) -> None:
    async with gated(mock, store) as running:
        results = []
        for url in (mock.base_url("anthropic"), running.url):
            given: dict[str, Any] = {"model_name": "claude-sonnet-5", "max_tokens_to_sample": 100, "max_retries": 0}
            model = ChatAnthropic(base_url=url, api_key=SecretStr("dummy"), timeout=30, stop=None, **given)
            results.append(told(await script(model)))
            await model._async_client.close()
        assert results[1] == results[0]
        [line] = await running.log()
    assert (line["endpoint"], line["ending"], line["assumed"]) == ("messages", "complete", False)


# --- Gemini ---


async def content(sdk: Any) -> Any:
    return await sdk.models.generate_content(model="gemini-2.5-flash", contents="Tell me about gates.")


async def content_streamed(sdk: Any) -> Any:
    return await events(sdk.models.generate_content_stream(model="gemini-2.5-flash", contents="Tell me about gates."))


async def content_with_tools(sdk: Any) -> Any:
    function = types.FunctionDeclaration(name="find", parameters_json_schema=FIND)
    config = types.GenerateContentConfig(tools=[types.Tool(function_declarations=[function])], max_output_tokens=500)
    return await sdk.models.generate_content(model="gemini-2.5-flash", contents="Tell me about gates.", config=config)


@pytest.mark.parametrize("script", [content, content_streamed, content_with_tools])
async def test_googles_sdk_gets_the_same(mock: LLMockServer, store: Server, script: Any) -> None:
    async with gated(mock, store) as running:
        results = []
        for url in (mock.base_url("gemini"), running.url):
            # The mock has this version of the API alone.
            options = types.HttpOptions(base_url=url, api_version="v1beta")
            sdk = genai.Client(api_key="dummy", http_options=options).aio
            results.append(told(await script(sdk)))
            await sdk.aclose()
        assert results[1] == results[0]
        [line] = await running.log()
    assert (line["status"], line["ending"], line["assumed"]) == (200, "complete", False)
    assert line["actual_cost"] > 0


# --- servers that speak OpenAI's API: configuration only ---


@pytest.mark.parametrize("name", COMPATIBLE)
@pytest.mark.parametrize("script", [chat_plain, chat_streamed, chat_streamed_without_usage, chat_with_tools])
async def test_a_server_that_speaks_openais_api_needs_configuration_only(
    mock: LLMockServer, store: Server, tmp_path: Path, name: str, script: Any
) -> None:
    section, model = COMPATIBLE[name]
    file = tmp_path / "upstreams.toml"
    file.write_text(
        f'[[upstream]]\nname = "{name}"\nbase_url = "{mock.base_url(name)}"\nprefix = "/{name}"\nprices = "{section}"\n'
    )

    class Renamed:
        """The SDK, asked for a model of this server."""

        def __init__(self, sdk: Any) -> None:
            self._create = sdk.chat.completions.create
            self.chat = self.completions = self

        def create(self, **given: Any) -> Any:
            return self._create(**(given | {"model": model}))

    assert name in BASE_PATHS
    async with gated(mock, store, upstreams_file=file) as running:
        async with official(mock.base_url(name)) as direct, official(f"{running.url}/{name}/v1") as through:
            expected, found = told(await script(Renamed(direct))), told(await script(Renamed(through)))
        assert found == expected
        [line] = await running.log()
    assert (line["model"], line["status"], line["ending"]) == (model, 200, "complete")
    assert line["actual_cost"] > 0

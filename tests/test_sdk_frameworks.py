"""The frameworks that agents are made with, through the gate: LangChain's `ChatOpenAI` and OpenAI's Agents SDK.

Each runs as its documentation shows it, once against a provider and once against a gate before an equal provider, and
what it makes of the answers is compared: messages, calls of tools, figures of usage, chunk by chunk where it streams.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import openai
import pytest
from agents import (
    Agent,
    Model,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    RunResultStreaming,
    function_tool,
)
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.support.gate import Gate, gate, official, simulated
from tests.support.redis_server import Server
from tests.support.responses import MODEL as RESPONSES_MODEL
from tests.support.responses import answering
from tokengate.simulate import SimulateOptions, answers

CHAT_MODEL: Final = "gpt-4o-mini"
TASK: Final = "Find out what is known of gates."
FOUND: Final = "Gates stand in walls."
QUIET: Final = RunConfig(tracing_disabled=True)


@tool
def search(query: str) -> str:
    """Search the documents."""
    return FOUND


def find(query: str) -> str:
    """Search the documents."""
    return FOUND


class Known(BaseModel):
    """What is known of something."""

    subject: str
    certain: bool


@dataclass
class Pair:
    """The base URLs of one provider, directly and through a gate."""

    direct: str
    gated: str
    gate: Gate
    asked: list[Any]
    """What the provider behind the gate was asked."""

    @property
    def both(self) -> tuple[str, str]:
        return self.direct, self.gated


@pytest.fixture(autouse=True)
def _one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """All answers of these tests are created in the same second."""
    monkeypatch.setattr(answers, "time", SimpleNamespace(time=lambda: 1_790_000_000.0))


@asynccontextmanager
async def chats(store: Server) -> AsyncIterator[Pair]:
    """Chat completions, of two simulated providers of one seed."""
    options = SimulateOptions(seed=11)
    async with (
        simulated(options) as plain,
        simulated(options) as provider,
        gate(provider.base_url, store.url) as running,
    ):
        yield Pair(plain.base_url, running.base_url, running, provider.requests)


@asynccontextmanager
async def responses(store: Server) -> AsyncIterator[Pair]:
    """The Responses API."""
    async with answering() as (url, told), gate(f"{url}/v1", store.url) as running:
        yield Pair(f"{url}/v1", running.base_url, running, told.asked)


# --- LangChain ---


@asynccontextmanager
async def langchain(base_url: str, **options: Any) -> AsyncIterator[ChatOpenAI]:
    async with openai.DefaultAsyncHttpxClient(verify=False) as http:
        given: dict[str, Any] = {"model": CHAT_MODEL, "max_retries": 0} | options
        yield ChatOpenAI(base_url=base_url, api_key=SecretStr("dummy-key"), http_async_client=http, **given)


def told(message: BaseMessage) -> dict[str, Any]:
    """All that is in a message, but the name that LangChain invents for it."""
    return message.model_dump(exclude={"id"})


async def with_a_tool(model: ChatOpenAI) -> list[dict[str, Any]]:
    """The model calls a tool, hears what it found, and answers."""
    bound = model.bind_tools([search])
    messages: list[BaseMessage] = [HumanMessage(TASK)]
    asked = await bound.ainvoke(messages)
    [call] = asked.tool_calls
    heard = ToolMessage(FOUND, tool_call_id=call["id"])
    return [told(message) for message in (asked, await bound.ainvoke([*messages, asked, heard]))]


async def streamed_with_a_tool(model: ChatOpenAI) -> list[dict[str, Any]]:
    bound = model.bind_tools([search])
    chunks = [chunk async for chunk in bound.astream(TASK)]
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessage)
    [call] = whole.tool_calls
    messages = [HumanMessage(TASK), whole, ToolMessage(FOUND, tool_call_id=call["id"])]
    return [told(chunk) for chunk in [*chunks, *[chunk async for chunk in bound.astream(messages)]]]


@pytest.mark.parametrize("run", [with_a_tool, streamed_with_a_tool])
@pytest.mark.parametrize("usage", [None, True, False])
async def test_langchain_chats_and_calls_tools_as_without_the_gate(store: Server, run: Any, usage: bool | None) -> None:
    results = []
    async with chats(store) as at:
        for base_url in at.both:
            async with langchain(base_url, stream_usage=usage) as model:
                results.append(await run(model))
        lines = await at.gate.log()
    assert results[1] == results[0]
    assert results[1][-1]["content"] or run is streamed_with_a_tool
    assert [(line["ending"], line["assumed"]) for line in lines] == [("complete", False)] * 2


@pytest.mark.parametrize("run", [with_a_tool, streamed_with_a_tool])
async def test_langchain_responds_and_calls_tools_as_without_the_gate(store: Server, run: Any) -> None:
    results = []
    async with responses(store) as at:
        for base_url in at.both:
            async with langchain(base_url, model=RESPONSES_MODEL, use_responses_api=True) as model:
                results.append(await run(model))
        lines = await at.gate.log()
        assert at.asked[2:] == at.asked[:2]
    assert results[1] == results[0]
    assert [(line["endpoint"], line["ending"], line["assumed"]) for line in lines] == [
        ("responses", "complete", False)
    ] * 2


async def test_langchain_fills_a_schema_as_without_the_gate(store: Server) -> None:
    results = []
    async with chats(store) as at:
        for base_url in at.both:
            async with langchain(base_url) as model:
                results.append(await model.with_structured_output(Known).ainvoke(TASK))
    assert isinstance(results[1], Known)
    assert results[1] == results[0]


# --- OpenAI's Agents SDK ---


def agent_of(model: Model) -> Agent[None]:
    return Agent(name="Researcher", instructions="Use the tools.", tools=[function_tool(find)], model=model)


def outcome(result: RunResult | RunResultStreaming) -> dict[str, Any]:
    """What a run came to: its last words, all that was said on the way, and what it used."""
    return {
        "output": result.final_output,
        "history": result.to_input_list(),
        "usage": [response.usage for response in result.raw_responses],
        "calls": [type(item).__name__ for item in result.new_items],
    }


async def run_whole(agent: Agent[None]) -> list[Any]:
    return [outcome(await Runner.run(agent, TASK, run_config=QUIET))]


async def run_streamed(agent: Agent[None]) -> list[Any]:
    result = Runner.run_streamed(agent, TASK, run_config=QUIET)
    streamed = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    # The SDK makes a response of the chunks of a chat itself, and stamps it with its own time.
    events = [event.model_dump(exclude={"response": {"created_at"}}, warnings=False) for event in streamed]
    assert len(events) > 4
    return [*events, outcome(result)]


MODELS: Final[dict[str, Any]] = {
    "chat_completions": (chats, OpenAIChatCompletionsModel, CHAT_MODEL),
    "responses": (responses, OpenAIResponsesModel, RESPONSES_MODEL),
}


@pytest.mark.parametrize("run", [run_whole, run_streamed])
@pytest.mark.parametrize("endpoint", MODELS)
async def test_an_agent_of_openais_sdk_runs_as_without_the_gate(store: Server, endpoint: str, run: Any) -> None:
    scene, model, name = MODELS[endpoint]
    results = []
    async with scene(store) as at:
        for base_url in at.both:
            async with official(base_url) as client:
                results.append(await run(agent_of(model(name, client))))
        lines = await at.gate.log()
    assert results[1] == results[0]
    assert results[1][-1]["calls"] == ["ToolCallItem", "ToolCallOutputItem", "MessageOutputItem"]
    assert results[1][-1]["output"]
    assert [(line["endpoint"], line["ending"], line["assumed"]) for line in lines] == [
        (endpoint, "complete", False)
    ] * 2

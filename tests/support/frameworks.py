"""Agents made with the frameworks that people make them with, as their documentation shows it, and nothing about a gate.

Each takes a base URL, as its author would have set it, and runs until it ends by itself or its framework raises.
"""

from typing import Any, Final

import openai
from agents import Agent, OpenAIChatCompletionsModel, RunConfig, Runner, function_tool
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import SecretStr

from tests.support.gate import official

MODEL: Final = "gpt-4o-mini"
TASK: Final = "Find the report of the third quarter."
TURNS_MAX: Final = 20
"""More turns than an agent gets before it is frozen."""

_NOTHING: Final = "No results found."
_QUIET: Final = RunConfig(tracing_disabled=True)


@tool
def search(query: str) -> str:
    """Search the documents."""
    return _NOTHING


async def langgraph(base_url: str, session: str, *tasks: str, streaming: bool = False) -> None:
    """An agent and its tools in a graph: the model is asked, tools are called, the model is asked again."""
    async with openai.DefaultAsyncHttpxClient(verify=False) as http:
        model = ChatOpenAI(
            model=MODEL,
            base_url=base_url,
            api_key=SecretStr("dummy-key"),
            default_headers={"X-Session-ID": session},
            streaming=streaming,
            http_async_client=http,
        ).bind_tools([search])

        async def agent(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await model.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("agent", agent)
        graph.add_node("tools", ToolNode([search]))
        graph.add_edge(START, "agent")
        graph.add_conditional_edges("agent", tools_condition)
        graph.add_edge("tools", "agent")
        compiled = graph.compile()
        for task in tasks or (TASK,):
            given: Any = {"messages": [("user", task)]}
            await compiled.ainvoke(given, {"recursion_limit": 2 * TURNS_MAX})


def _find(query: str) -> str:
    """Search the documents."""
    return _NOTHING


async def openai_agents(base_url: str, session: str, *tasks: str) -> None:
    """One agent of the OpenAI Agents SDK with one tool."""
    async with official(base_url, default_headers={"X-Session-ID": session}) as client:
        model = OpenAIChatCompletionsModel(MODEL, client)
        agent = Agent(name="Researcher", instructions="Use the tools.", tools=[function_tool(_find)], model=model)
        for task in tasks or (TASK,):
            await Runner.run(agent, task, max_turns=TURNS_MAX, run_config=_QUIET)


async def openai_agents_in_circles(base_url: str, session: str) -> None:
    """Two agents of the OpenAI Agents SDK, each of which finds that the other one is responsible."""
    async with official(base_url, default_headers={"X-Session-ID": session}) as client:
        model = OpenAIChatCompletionsModel(MODEL, client)
        triage: Agent[None] = Agent(name="Triage", instructions="Hand over to who is responsible.", model=model)
        billing: Agent[None] = Agent(
            name="Billing", instructions="You do invoices alone.", model=model, handoffs=[triage]
        )
        triage.handoffs.append(billing)
        await Runner.run(triage, TASK, max_turns=TURNS_MAX, run_config=_QUIET)

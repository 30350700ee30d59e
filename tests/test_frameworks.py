"""Agents of LangGraph and of the OpenAI Agents SDK that run away are frozen, and what their framework raises says why."""

from collections.abc import Awaitable, Callable
from functools import partial

import openai
import pytest

from tests.support import frameworks
from tests.support.gate import CALM, Gate, Provider, gate, simulated
from tests.support.redis_server import Server
from tokengate.simulate import SimulateOptions

Run = Callable[[str, str], Awaitable[None]]

ENFORCED = dict.fromkeys(CALM, "enforce")
FOREVER = SimulateOptions(loop_tools=True, output_tokens=40)


async def frozen(run: Run, running: Gate, provider: Provider, calls_max: int) -> str:
    """What the framework raises, once the agent is frozen after no more than so many calls."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await run(running.base_url, "runaway")
    assert caught.value.code == "session_frozen"
    # The call that begins the 8th repetition is refused, and the SDK does not send it again.
    assert provider.received <= calls_max
    lines = await running.log()
    assert [line["decision"] for line in lines] == ["allowed"] * provider.received + ["blocked"]
    return str(caught.value)


@pytest.mark.parametrize("run", [frameworks.langgraph, partial(frameworks.langgraph, streaming=True)])
async def test_langgraph(store: Server, run: Run) -> None:
    async with simulated(FOREVER) as provider, gate(provider.base_url, store.url, **ENFORCED) as running:
        said = await frozen(run, running, provider, calls_max=7)
    assert "called the tool search('as it came') 7 times in a row with the same result" in said


async def test_openai_agents(store: Server) -> None:
    async with simulated(FOREVER) as provider, gate(provider.base_url, store.url, **ENFORCED) as running:
        said = await frozen(frameworks.openai_agents, running, provider, calls_max=7)
    assert "called the tool _find('as it came') 7 times in a row with the same result" in said


async def test_openai_agents_that_hand_over_to_each_other(store: Server) -> None:
    async with simulated(FOREVER) as provider, gate(provider.base_url, store.url, **ENFORCED) as running:
        said = await frozen(frameworks.openai_agents_in_circles, running, provider, calls_max=14)
    assert "called the tools transfer_to_billing(), transfer_to_triage() 7 times in turn" in said


@pytest.mark.parametrize("run", [frameworks.langgraph, frameworks.openai_agents])
async def test_agents_that_do_their_work_are_let_be(store: Server, run: Callable[..., Awaitable[None]]) -> None:
    tasks = [f"Which customers of region {number} were late?" for number in range(12)]
    async with (
        simulated(SimulateOptions(output_tokens=40)) as provider,
        gate(provider.base_url, store.url, **ENFORCED) as running,
    ):
        await run(running.base_url, "healthy", *tasks)
        assert provider.received == 2 * len(tasks)
        assert {line["decision"] for line in await running.log()} == {"allowed"}

"""Record what agents of real frameworks send, through a real gate to a simulated provider that calls tools for ever, or not.

The files in `recorded` were made so; what they hold differs a little from run to run, in times and in ids.
"""

import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import openai
from agents.exceptions import AgentsException
from langgraph.errors import GraphRecursionError

from tests.support import frameworks
from tests.support.gate import gate, serving, simulated
from tests.support.recording import Recorder
from tests.support.redis_server import redis_server
from tests.transcripts.collection import LABELS, RECORDED, REPETITIONS_MAX, write
from tokengate.simulate import SimulateOptions

Run = Callable[[str, str], Awaitable[None]]

_TASKS: Final = tuple(f"Which customers of region {number} were late with payments?" for number in range(1, 16))

RUNAWAYS: Final[dict[str, tuple[Run, str, int]]] = {
    "langgraph_loop": (
        frameworks.langgraph,
        "A LangGraph agent is told by its model to call the same tool, for ever.",
        1,
    ),
    "langgraph_loop_streamed": (
        partial(frameworks.langgraph, streaming=True),
        "The same LangGraph agent, streaming.",
        1,
    ),
    "openai_agents_loop": (
        frameworks.openai_agents,
        "An agent of the OpenAI Agents SDK is told by its model to call the same tool, for ever.",
        1,
    ),
    "openai_agents_in_circles": (
        frameworks.openai_agents_in_circles,
        "Two agents of the OpenAI Agents SDK hand over to each other, for ever.",
        2,
    ),
}
"""How it runs, what it does, and how many calls one repetition has."""

HEALTHY: Final[dict[str, tuple[Run, str]]] = {
    "langgraph_questions": (
        lambda base_url, session: frameworks.langgraph(base_url, session, *_TASKS),
        "A LangGraph agent answers fifteen questions with one search each.",
    ),
    "openai_agents_questions": (
        lambda base_url, session: frameworks.openai_agents(base_url, session, *_TASKS),
        "An agent of the OpenAI Agents SDK answers fifteen questions with one search each.",
    ),
}


async def recorded(store: str, name: str, run: Run, options: SimulateOptions) -> list[dict[str, Any]]:
    """The calls of one run, with what they used by the gate's own log."""
    async with (
        simulated(options) as provider,
        gate(provider.base_url, store) as running,
    ):
        recorder = Recorder(running.app, lambda: time.time_ns() // 1_000_000)
        async with serving(recorder) as url:
            # A runaway ends when its framework has had enough, or the gate has.
            with contextlib.suppress(AgentsException, GraphRecursionError, openai.APIStatusError):
                await run(f"{url}/v1", name.replace("_", "-"))
        for line in await running.log():
            counts = {"prompt_tokens": line["input_tokens"], "completion_tokens": line["output_tokens"]}
            recorder.lines[line["request_id"]]["usage"] = counts
    return list(recorder.lines.values())


async def main() -> str:
    """Record every run anew."""
    labels: dict[str, dict[str, Any]] = {}
    runs: dict[str, tuple[Run, bool]] = {}
    for name, (run, about, calls) in RUNAWAYS.items():
        runs[name] = run, True
        repetition = "one call of the model" if calls == 1 else f"{calls} calls of the model"
        frozen_by = calls * (REPETITIONS_MAX - 1) + 1
        labels[name] = {"verdict": "runaway", "about": about, "repetition": repetition, "frozen_by_call": frozen_by}
    for name, (run, about) in HEALTHY.items():
        runs[name] = run, False
        labels[name] = {"verdict": "healthy", "about": about}
    with redis_server() as store:
        for name, (run, loops) in runs.items():
            options = SimulateOptions(loop_tools=loops, ttft_ms=400, tokens_per_second=300)
            lines = await recorded(store.url, name, run, options)
            write(RECORDED / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    write(RECORDED / LABELS, (json.dumps(labels, indent=1) + "\n").encode())
    return f"{len(labels)} transcripts in {RECORDED}"

"""Whether the cap is hard: parallel calls on a budget that pays for ten, through one process and through four.

The truth is not the gate's word but the books of the simulated provider: how many calls reached it, and what it would
bill for them.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import redis

from bench.client import Answer, call, control
from bench.figures import Figure, exactly
from bench.processes import BenchError, all_of, base_url, free_port, gate, redis_server, running
from tokengate.money import format_usd, parse_usd
from tokengate.providers import Router, openai

MODEL: Final = "gpt-4o-mini"
INPUT_NANO: Final = 150
OUTPUT_NANO: Final = 600
"""Nano-USD a token of gpt-4o-mini (https://platform.openai.com/docs/pricing): $0.15 and $0.60 a million."""

CALLS: Final = 30
PAID_FOR: Final = 10
OUTPUT_TOKENS: Final = 50
PROCESSES: Final = 4


@contextmanager
def provider(**options: Any) -> Iterator[int]:
    """A simulated provider; gives its port."""
    port = free_port()
    program = (
        f"from tokengate.simulate import SimulateOptions, run; run(SimulateOptions(**{options!r}), '127.0.0.1', {port})"
    )
    with running("the simulated provider", [sys.executable, "-c", program], port=port):
        yield port


def _body(*, stream: bool, **more: Any) -> bytes:
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Say something about gates."}]} | more
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


def _input_tokens(body: bytes) -> int:
    """How many input tokens the gate holds for: what the provider is told to bill, so that ten calls are ten calls."""
    route = Router(openai.ROUTES).match("POST", "/v1/chat/completions")
    if route is None or route.endpoint is None:
        raise BenchError("the gate does not know chat completions")
    return route.endpoint.parse(body).call.input_tokens_max


def _spent_nano(redis_url: str, session: str) -> int:
    with redis.Redis.from_url(redis_url, decode_responses=True) as store:
        spent: Any = store.hget(f"tokengate:{{default}}:session:{session}", "spent")
    return parse_usd(str(spent or "0"))


async def _wave(ports: list[int], session: str, body: bytes, simulate: str) -> list[Answer]:
    return list(
        await asyncio.gather(*(call(ports[number % len(ports)], session, body, simulate) for number in range(CALLS)))
    )


async def _race(ports: list[int], books_port: int, session: str, body: bytes, simulate: str) -> tuple[int, int]:
    """How many calls of a first and of a second wave reached the provider."""
    reached: list[int] = []
    for _ in range(2):
        await control(books_port, "POST", "/simulate/reset")
        answers = await _wave(ports, session, body, simulate)
        odd = [answer for answer in answers if answer.status not in {200, 429}]
        if odd:
            raise BenchError(f"neither answered nor refused: {odd[0].status} {odd[0].body[:300]!r}")
        reached.append((await control(books_port, "GET", "/simulate/books"))["total"]["received"])
    return reached[0], reached[1]


def exact() -> list[Figure]:
    """30 calls at once on a budget for exactly 10, whole and streamed, through one gate and through four."""
    figures: list[Figure] = []
    for stream in (False, True):
        body = _body(stream=stream, max_tokens=OUTPUT_TOKENS)
        input_tokens = _input_tokens(body)
        budget_nano = PAID_FOR * (input_tokens * INPUT_NANO + OUTPUT_TOKENS * OUTPUT_NANO)
        simulate = f"input_tokens:{input_tokens},output_tokens:{OUTPUT_TOKENS}"
        with contextlib.ExitStack() as stack:
            books = stack.enter_context(provider(ttft_ms=30, tokens_per_second=1000))
            redis_url = stack.enter_context(redis_server())
            upstream, budget = base_url(books), format_usd(budget_nano)
            gates = all_of(*(gate(upstream, redis_url, DEFAULT_BUDGET=budget) for _ in range(PROCESSES)))
            ports = [hop.port for hop in stack.enter_context(gates)]
            for used in (ports[:1], ports):
                session = f"race-{len(used)}"
                first, second = asyncio.run(_race(used, books, session, body, simulate))
                what = f"{'streamed' if stream else 'whole'}, {len(used)} process{'es' if len(used) > 1 else ''}"
                spent = _spent_nano(redis_url, session)
                figures += [
                    exactly(f"of {CALLS} calls on a budget for {PAID_FOR}, {what}", first, "forwarded", PAID_FOR),
                    exactly("  a second wave adds", second, "forwarded", 0),
                    exactly("  spent", spent, "nano-USD", budget_nano),
                ]
    return figures


def run() -> list[Figure]:
    return exact()

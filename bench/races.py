"""Whether the cap is hard: parallel calls on a budget that pays for ten, and callers that spend until refused.

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
from bench.figures import Figure, at_least, exactly, told
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

CALLERS: Final = 16
BUDGET: Final = "0.05"
RUNS: Final = 3
BUSY_PAUSE_S: Final = 0.05
CALLS_EACH_MAX: Final = 2000


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


async def _spend(port: int, session: str, body: bytes) -> int:
    """Call until the budget refuses for good; gives how often it said that it was busy."""
    busy = 0
    for _ in range(CALLS_EACH_MAX):
        answer = await call(port, session, body)
        if answer.status == 429 and answer.error.get("code") == "insufficient_quota":
            return busy
        if answer.status == 429:
            busy += 1
            await asyncio.sleep(BUSY_PAUSE_S)
        elif answer.status != 200:
            raise BenchError(f"neither answered nor refused: {answer.status} {answer.body[:300]!r}")
    raise BenchError(f"not refused after {CALLS_EACH_MAX} calls")


async def _callers(port: int, session: str, body: bytes) -> int:
    return sum(await asyncio.gather(*(_spend(port, session, body) for _ in range(CALLERS))))


def overspend() -> list[Figure]:
    """16 callers of one budget, log-normal answers, no output cap, until all are refused; several times."""
    budget_nano = parse_usd(BUDGET)
    billed: list[int] = []
    busy = calls = 0
    with contextlib.ExitStack() as stack:
        books = stack.enter_context(provider(ttft_ms=5, tokens_per_second=5000))
        redis_url = stack.enter_context(redis_server())
        port = stack.enter_context(gate(base_url(books), redis_url, DEFAULT_BUDGET=BUDGET)).port
        for number in range(RUNS):
            asyncio.run(control(books, "POST", "/simulate/reset"))
            busy += asyncio.run(_callers(port, f"callers-{number}", _body(stream=number % 2 == 1)))
            total = asyncio.run(control(books, "GET", "/simulate/books"))["total"]
            billed.append(total["input_tokens"] * INPUT_NANO + total["output_tokens"] * OUTPUT_NANO)
            calls += total["received"]
    overspent = max(0, max(billed) - budget_nano)
    return [
        exactly(f"{CALLERS} callers until refused: overspent, worst of {RUNS}", overspent, "nano-USD", 0),
        at_least("  used, least", 100 * min(billed) / budget_nano, "%", 99.5),
        told("  calls forwarded", calls, "calls"),
        told("  told to wait and try again", busy, "calls"),
    ]


def run() -> list[Figure]:
    return exact() + overspend()

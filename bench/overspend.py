"""Whether one budget holds against many callers: 1 to 128 of them, at one gate and at three, until all are refused.

The truth is the simulated provider's books, priced by the gate's own table. A caller does what an SDK would: it asks
again after an answer, waits when it is told to, and stops when it is refused for good. By default a few settings are
measured; `OVERSPEND=full` measures all of them, in less than six minutes.
"""

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from bench.client import Answer, call, control
from bench.figures import Figure, at_least, at_most, exactly, told
from bench.processes import BenchError, all_of, base_url, gate, redis_server
from bench.races import MODEL, provider
from tokengate.domain import Usage
from tokengate.money import format_usd
from tokengate.prices import Price
from tokengate.pricing import PriceTable, cost
from tokengate.resources import pricing_file

BUDGET_NANO: Final = 50_000_000
"""Pays for some 400 answers of gpt-4o-mini."""
FITTING_BUDGET_NANO: Final = 4 * BUDGET_NANO
"""Where a client's own cap is not lowered, up to one call is left of a budget: it is 0.3 % of the smaller one."""
MAX_TOKENS: Final = 256
CALLERS: Final = (1, 16, 64, 128)
GATES: Final = (1, 3)
RETRY_S: Final = 1.0
"""What a busy refusal tells a client to wait."""
CALLS_EACH_MAX: Final = 4000
SETTING_S_MAX: Final = 120.0
CUTS_MAX: Final = 2
USED_PERCENT_MIN: Final = 99.9

_FINISH: Final = re.compile(rb'"finish_reason": ?"(\w+)"')
_TOKENS: Final = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True, slots=True)
class Setting:
    """One budget, and who spends it."""

    callers: int
    gates: int
    stream: bool
    max_tokens: bool
    output_cap: str = "when_unset"

    def __str__(self) -> str:
        words = [f"{self.callers} caller{'s' * (self.callers > 1)}", f"{self.gates} gate{'s' * (self.gates > 1)}"]
        words.append("streamed" if self.stream else "whole")
        words.append(f"max_tokens {MAX_TOKENS}" if self.max_tokens else "no max_tokens")
        return ", ".join(words + [f"OUTPUT_CAP={self.output_cap}"] * (self.output_cap != "when_unset"))

    @property
    def capped(self) -> bool:
        """Whether the gate may write a smaller cap, and so spend a budget to its end."""
        return not self.max_tokens or self.output_cap == "always"

    @property
    def budget_nano(self) -> int:
        return BUDGET_NANO if self.capped else FITTING_BUDGET_NANO

    @property
    def body(self) -> bytes:
        asked: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me about gates."}]}
        if self.max_tokens:
            asked["max_tokens"] = MAX_TOKENS
        if self.stream:
            asked |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(asked).encode()

    @property
    def pace(self) -> str:
        """What the provider is told: answers overlap, where there is more than one caller to overlap."""
        if self.callers == 1:
            return "ttft_ms:0,tokens_per_second:0"
        return "ttft_ms:50,tokens_per_second:500" if self.stream else "ttft_ms:50,tokens_per_second:0"


@dataclass(slots=True)
class Seen:
    """What the callers of one budget saw."""

    answers: int = 0
    cut: int = 0
    """Ended by an output cap that the caller had not set."""
    busy: int = 0
    waited_s_max: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    setting: Setting
    billed_nano: int
    seen: Seen
    took_s: float

    @property
    def overspent_nano(self) -> int:
        return max(0, self.billed_nano - self.setting.budget_nano)

    @property
    def used_percent(self) -> float:
        return 100 * self.billed_nano / self.setting.budget_nano

    @property
    def row(self) -> str:
        seen = self.seen
        return (
            f"| {self.setting} | {self.overspent_nano} | {self.overspent_nano / self.setting.budget_nano:.2%} "
            f"| {self.used_percent:.3f}% | {seen.answers} | {seen.cut} | {seen.busy} | {seen.waited_s_max:.1f} s |"
        )


def _note(seen: Seen, answer: Answer, setting: Setting) -> None:
    seen.answers += 1
    finishes, tokens = _FINISH.findall(answer.body), _TOKENS.findall(answer.body)
    if not finishes or not tokens:
        raise BenchError(f"an answer without an end or without usage: {answer.body[-300:]!r}")
    seen.cut += finishes[-1] == b"length" and not (setting.max_tokens and int(tokens[-1]) >= MAX_TOKENS)


async def _spend(port: int, session: str, setting: Setting, seen: Seen) -> None:
    """Call until the budget refuses for good."""
    body = setting.body
    for _ in range(CALLS_EACH_MAX):
        began = time.monotonic()
        answer = await call(port, session, body, setting.pace)
        if answer.status == 200:
            _note(seen, answer, setting)
        elif answer.status == 429 and answer.error.get("code") == "insufficient_quota":
            seen.waited_s_max = max(seen.waited_s_max, time.monotonic() - began)
            return
        elif answer.status == 429:
            seen.busy += 1
            await asyncio.sleep(RETRY_S)
        else:
            raise BenchError(f"neither answered nor refused: {answer.status} {answer.body[:300]!r}")
    raise BenchError(f"not refused after {CALLS_EACH_MAX} calls")


async def _measure(ports: list[int], books: int, setting: Setting, session: str, price: Price) -> Result:
    await control(books, "POST", "/simulate/reset")
    seen, began = Seen(), time.monotonic()
    async with asyncio.timeout(SETTING_S_MAX):
        used = ports[: setting.gates]
        await asyncio.gather(
            *(_spend(used[number % len(used)], session, setting, seen) for number in range(setting.callers))
        )
    total = (await control(books, "GET", "/simulate/books"))["total"]
    # A token of the model costs whole nano-dollars, so that the sum of the costs is the cost of the sum.
    billed = cost(price, Usage(input_tokens=total["input_tokens"], output_tokens=total["output_tokens"]))
    return Result(setting, billed, seen, time.monotonic() - began)


def settings(*, full: bool) -> Iterator[Setting]:
    """What is measured: all combinations, or those where most went wrong while this was built."""
    if not full:
        yield Setting(16, 1, stream=False, max_tokens=False)
        yield Setting(128, 1, stream=False, max_tokens=False)
        yield Setting(128, 3, stream=False, max_tokens=False)
        yield Setting(64, 3, stream=True, max_tokens=False)
        yield Setting(128, 3, stream=False, max_tokens=True)
        return
    for stream, max_tokens, gates, callers in product((False, True), (False, True), GATES, CALLERS):
        yield Setting(callers, gates, stream, max_tokens)
    for gates, callers in product(GATES, CALLERS):
        yield Setting(callers, gates, stream=False, max_tokens=True, output_cap="always")


def measure(chosen: list[Setting]) -> list[Result]:
    """Every setting on a budget of its own; one Redis and one set of gates for all that share gate settings."""
    price = PriceTable.parse(pricing_file().read_bytes()).lookup(MODEL).price
    if price is None:
        raise BenchError(f"{MODEL} has no price")
    results: list[Result] = []
    for output_cap, budget_nano in dict.fromkeys((setting.output_cap, setting.budget_nano) for setting in chosen):
        shared = [each for each in chosen if (each.output_cap, each.budget_nano) == (output_cap, budget_nano)]
        with contextlib.ExitStack() as stack:
            books = stack.enter_context(provider())
            redis_url = stack.enter_context(redis_server())
            own = {"DEFAULT_BUDGET": format_usd(budget_nano), "OUTPUT_CAP": output_cap}
            gates = all_of(*(gate(base_url(books), redis_url, **own) for _ in range(max(GATES))))
            ports = [hop.port for hop in stack.enter_context(gates)]
            for number, setting in enumerate(shared):
                results.append(asyncio.run(_measure(ports, books, setting, f"budget-{number}", price)))
                print(f"{results[-1].row} took {results[-1].took_s:.1f} s", file=sys.stderr, flush=True)
    return results


def as_table(results: list[Result]) -> str:
    """Every setting in a row, for the documentation."""
    head = "| setting | overspent, nano-USD | % | used | answers | cut short | busy | longest wait for a refusal |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---:|---:|", *(result.row for result in results)])


def run() -> list[Figure]:
    full = os.environ.get("OVERSPEND") == "full"
    results = measure(list(settings(full=full)))
    if full:
        print(as_table(results))
    many = [result for result in results if result.setting.callers >= 16]
    spent_up = [result.used_percent for result in many if result.setting.capped]
    # A client's own cap is not lowered: its last call has to fit as a whole, and up to one such call is left.
    fitting = [result.used_percent for result in many if not result.setting.capped]
    figures = [
        exactly(f"overspent, worst of {len(results)} budgets", max(r.overspent_nano for r in results), "nano-USD", 0),
        at_least("  used at 16 callers and more, least", min(spent_up), "%", USED_PERCENT_MIN),
        at_most("  answers cut short of a budget, most", max(r.seen.cut for r in results), "answers", CUTS_MAX),
        exactly("  busy refusals that clients saw", sum(r.seen.busy for r in results), "refusals", 0),
        told("  answers", sum(r.seen.answers for r in results), "answers"),
    ]
    if fitting:
        what = f"  used where each call has max_tokens {MAX_TOKENS} (a larger budget), least"
        figures.append(at_least(what, min(fitting), "%", USED_PERCENT_MIN))
    return figures

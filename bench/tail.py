"""A simulation of the tail of a budget: who is granted how much of it, without a gate, a store or a socket.

`python -m bench.tail` plays the rule of grants with many seeds in seconds, where the real thing takes minutes for one:
callers who call until they are refused for good, at gates with a line each, of a provider with log-normal answers. It
is where the numbers in docs/adr/0009 come from; `bench.overspend` measures the real thing. Amounts are output tokens of
one model, an input token being a quarter of one. Times are simulated seconds.
"""

import argparse
import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

from tokengate.budgets import SHARE, TypicalOutput, ample_nano
from tokengate.domain import Quote
from tokengate.pricing import OUTPUT_MIN_TOKENS
from tokengate.waiting import PAUSE_FIRST_S, PAUSE_MAX_S

ANSWER_MEDIAN: Final = 150
ANSWER_SIGMA: Final = 0.8
ANSWER_MAX: Final = 4096
MODEL_MAX: Final = 16_384
INPUT_BOUND: Final = 21
"""What is held for the input; what is charged for it is `INPUT_CHARGED`."""
INPUT_CHARGED: Final = 2
WAIT_S_MAX: Final = 30.0
FIRST_TOKEN_S: Final = 0.05
RETRY_S: Final = 1.0


@dataclass(slots=True)
class Waiter:
    """A call in a gate's line."""

    since_s: float
    pause_s: float = PAUSE_FIRST_S
    polls: int = 0


@dataclass(slots=True)
class Gate:
    """What one gate knows."""

    line: deque[Waiter] = field(default_factory=deque)
    typical: TypicalOutput = field(default_factory=TypicalOutput)


@dataclass(slots=True)
class Outcome:
    """What became of one budget."""

    cut: int = 0
    busy: int = 0
    waited_s_max: float = 0.0
    used_percent: float = 0.0
    over: int = 0


class Play:
    """One budget, from its first call until all callers are refused."""

    def __init__(self, random: Random, callers: int, gates: int, answers: int, tokens_per_second: float) -> None:
        self.outcome = Outcome()
        self._random = random
        self._tokens_per_second = tokens_per_second
        self._cap = round(answers * ANSWER_MEDIAN * math.exp(ANSWER_SIGMA**2 / 2))
        self._spent = self._held = 0
        self._gates = [Gate() for _ in range(gates)]
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._number = 0
        for number in range(callers):
            self._at(random.uniform(0, 0.01), partial(self._call, self._gates[number % gates]))

    def run(self) -> Outcome:
        while self._events:
            now_s, _, act = heapq.heappop(self._events)
            act(now_s)
        self.outcome.used_percent = 100 * self._spent / self._cap
        self.outcome.over = max(0, self._spent - self._cap)
        return self.outcome

    def _at(self, when_s: float, act: Callable[[float], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, act))

    def _grant(self, gate: Gate, waited_s: float) -> int | None:
        """The rule: a grant, 0 if the budget is exceeded, None if it is busy."""
        floor, want = INPUT_BOUND + OUTPUT_MIN_TOKENS, INPUT_BOUND + MODEL_MAX
        bounds = Quote(floor, INPUT_BOUND + gate.typical.of(""), want, INPUT_BOUND, 1, MODEL_MAX, cappable=True)
        need = ample_nano(bounds, int(waited_s * 1000), int(WAIT_S_MAX * 1000))
        headroom = self._cap - self._spent - self._held
        if self._cap - self._spent < floor:
            return 0
        if headroom >= need:
            return max(need, min(want, headroom // SHARE))
        return None if self._held else min(want, headroom)

    def _call(self, gate: Gate, now_s: float) -> None:
        waiter = Waiter(now_s)
        grant = None if gate.line else self._grant(gate, 0)
        if grant is not None:
            self._begin(gate, waiter, grant, now_s)
            return
        gate.line.append(waiter)
        self._at(now_s + WAIT_S_MAX, partial(self._give_up, gate, waiter))
        if gate.line[0] is waiter:
            self._poll_later(gate, waiter, now_s)

    def _begin(self, gate: Gate, waiter: Waiter, grant: int, now_s: float) -> None:
        self.outcome.waited_s_max = max(self.outcome.waited_s_max, now_s - waiter.since_s)
        if not grant:
            return
        self._held += grant
        drawn = math.ceil(self._random.lognormvariate(math.log(ANSWER_MEDIAN), ANSWER_SIGMA))
        room = grant - INPUT_BOUND
        tokens = min(drawn, ANSWER_MAX, room)
        cut = tokens < min(drawn, ANSWER_MAX)
        self.outcome.cut += cut
        generating_s = tokens / self._tokens_per_second if self._tokens_per_second else 0.0
        self._at(now_s + FIRST_TOKEN_S + generating_s, partial(self._end, gate, grant, tokens, cut))

    def _end(self, gate: Gate, grant: int, tokens: int, cut: bool, now_s: float) -> None:
        self._held -= grant
        self._spent += tokens + INPUT_CHARGED
        gate.typical.observe("", 2 * tokens if cut else tokens)
        self._serve(gate, now_s)
        self._at(now_s + self._random.uniform(0, 0.002), partial(self._call, gate))

    def _serve(self, gate: Gate, now_s: float) -> None:
        """Let the head of a line try, and whoever comes after it."""
        while gate.line:
            waiter = gate.line[0]
            grant = self._grant(gate, now_s - waiter.since_s)
            if grant is None:
                self._poll_later(gate, waiter, now_s)
                return
            gate.line.popleft()
            self._begin(gate, waiter, grant, now_s)

    def _poll_later(self, gate: Gate, waiter: Waiter, now_s: float) -> None:
        waiter.polls += 1
        self._at(now_s + waiter.pause_s, partial(self._poll, gate, waiter, waiter.polls))
        waiter.pause_s = min(2 * waiter.pause_s, PAUSE_MAX_S)

    def _poll(self, gate: Gate, waiter: Waiter, number: int, now_s: float) -> None:
        if gate.line and gate.line[0] is waiter and waiter.polls == number:
            self._serve(gate, now_s)

    def _give_up(self, gate: Gate, waiter: Waiter, now_s: float) -> None:
        if any(each is waiter for each in gate.line):
            self.outcome.busy += 1
            self.outcome.waited_s_max = WAIT_S_MAX
            gate.line = deque(each for each in gate.line if each is not waiter)
            self._serve(gate, now_s)
            self._at(now_s + RETRY_S, partial(self._call, gate))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tail", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="budgets of each setting")
    parser.add_argument("--answers", type=int, default=400, help="how many a budget pays for")
    arguments = parser.parse_args()
    print("| tokens/s | gates | callers | cut, mean | most | used, least | busy, most | longest wait | over |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for tokens_per_second in (0, 200, 350, 500):
        for gates in (1, 3):
            for callers in (16, 64, 128):
                played = [
                    Play(Random(seed), callers, gates, arguments.answers, tokens_per_second).run()
                    for seed in range(arguments.seeds)
                ]
                cut, pace = [outcome.cut for outcome in played], tokens_per_second or "at once"
                print(
                    f"| {pace} | {gates} | {callers} | {sum(cut) / len(cut):.2f} | {max(cut)} "
                    f"| {min(outcome.used_percent for outcome in played):.3f}% "
                    f"| {max(outcome.busy for outcome in played)} "
                    f"| {max(outcome.waited_s_max for outcome in played):.1f} s "
                    f"| {max(outcome.over for outcome in played)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

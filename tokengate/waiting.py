"""Where calls wait for a budget that others hold: one line per scope, first come first served, bounded.

Whoever is at the head tries again when something of its scope settles here, and now and then by itself for what settles
in other gates. It knows nothing of budgets: it is told whom to wait behind and what to try.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from tokengate.domain import Limit, Scope

T = TypeVar("T")

PAUSE_FIRST_S: Final = 0.01
PAUSE_MAX_S: Final = 0.25
"""The head of a line asks the store at least this often: what settles in another gate is not announced here."""


class Lines(Generic[T]):
    """The lines of one gate."""

    def __init__(self, waiters_max: int) -> None:
        self._waiters_max = waiters_max
        self._lines: dict[Scope, deque[asyncio.Event]] = {}
        self._waiters = 0

    def ahead(self, limits: tuple[Limit, ...]) -> Scope | None:
        """The first scope of a path that has a line: whoever comes now stands behind it."""
        if not self._lines:
            return None
        return next((limit.scope for limit in limits if limit.scope in self._lines), None)

    @property
    def full(self) -> bool:
        return self._waiters >= self._waiters_max

    def settled(self, limits: tuple[Limit, ...]) -> None:
        """Something on this path was settled: the heads of its lines may try."""
        if not self._lines:
            return
        for limit in limits:
            line = self._lines.get(limit.scope)
            if line:
                line[0].set()

    async def wait(
        self, scope: Scope, wait_s: float, attempt: Callable[[], Awaitable[T]], again: Callable[[T], bool]
    ) -> T:
        """Stand in a scope's line, and try whenever it is worth it, until `again` says no or `wait_s` is over.

        The last attempt's answer is given, and there is at least one. The caller has asked whether the lines are
        `full`.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        woken = asyncio.Event()
        line = self._lines.setdefault(scope, deque())
        line.append(woken)
        self._waiters += 1
        try:
            pause_s = PAUSE_FIRST_S
            while True:
                at_head = line[0] is woken
                left_s = until - loop.time()
                await _wait(woken, min(pause_s, left_s) if at_head else left_s)
                if line[0] is not woken and loop.time() < until:
                    continue
                answer = await attempt()
                if not again(answer) or loop.time() >= until:
                    return answer
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
        finally:
            self._waiters -= 1
            line.remove(woken)
            if line:
                line[0].set()
            elif self._lines.get(scope) is line:
                del self._lines[scope]


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    except TimeoutError:
        return
    event.clear()

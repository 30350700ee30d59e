"""The lines in which calls wait for a budget: in order, bounded, and gone when nobody stands in them."""

import asyncio
from collections.abc import Callable

import pytest

from tests.support.gate import until
from tokengate.domain import Limit, Scope
from tokengate.waiting import Lines

SESSION, TENANT = Scope("default", "session", "a"), Scope("default", "tenant", "default")
PATH = (Limit(SESSION, 1), Limit(TENANT, 1))
LONG_S = 600.0


def is_busy(answer: str) -> bool:
    return answer == "busy"


class Counter:
    """What is waited for: each attempt is noted, and takes one of what there is."""

    def __init__(self, free: int = 0) -> None:
        self.free = free
        self.attempts: list[str] = []

    def attempt(self, who: str) -> Callable[[], "asyncio.Future[str]"]:
        def once() -> "asyncio.Future[str]":
            self.attempts.append(who)
            answer = asyncio.get_running_loop().create_future()
            answer.set_result("held" if self.free else "busy")
            self.free = max(0, self.free - 1)
            return answer

        return once


def stand(lines: Lines[str], counter: Counter, who: str, wait_s: float = LONG_S) -> "asyncio.Task[str]":
    return asyncio.create_task(lines.wait(SESSION, wait_s, counter.attempt(who), is_busy))


async def test_first_come_first_served() -> None:
    lines, counter = Lines[str](10), Counter()
    waiting = [stand(lines, counter, who) for who in "abc"]
    await until(lambda: len(counter.attempts) > 1)
    assert set(counter.attempts) == {"a"}
    served: list[str] = []
    for who, task in zip("abc", waiting, strict=True):
        task.add_done_callback(lambda _, who=who: served.append(who))  # type: ignore[misc]
    counter.free = 3
    lines.settled(PATH)
    assert await asyncio.gather(*waiting) == ["held"] * 3
    assert served == ["a", "b", "c"]


async def test_whoever_comes_now_stands_behind_those_who_wait() -> None:
    lines, counter = Lines[str](10), Counter()
    assert lines.ahead(PATH) is None
    waiting = stand(lines, counter, "a")
    await until(lambda: bool(counter.attempts))
    assert lines.ahead(PATH) == SESSION
    assert lines.ahead((Limit(TENANT, 1),)) is None
    counter.free = 1
    lines.settled(PATH)
    await waiting
    assert lines.ahead(PATH) is None


async def test_the_head_asks_by_itself_for_what_settles_elsewhere() -> None:
    lines, counter = Lines[str](10), Counter()
    waiting = stand(lines, counter, "a")
    await until(lambda: len(counter.attempts) == 3)
    counter.free = 1
    assert await waiting == "held"


async def test_lines_are_bounded() -> None:
    lines, counter = Lines[str](2), Counter()
    waiting = [stand(lines, counter, who) for who in "ab"]
    await until(lambda: bool(counter.attempts))
    assert lines.full
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not lines.full


async def test_whoever_has_waited_long_enough_is_told_the_last_answer_after_at_least_one_attempt() -> None:
    lines, counter = Lines[str](10), Counter()
    assert await stand(lines, counter, "a", wait_s=0) == "busy"
    assert counter.attempts == ["a"]
    first = stand(lines, counter, "b")
    await until(lambda: "b" in counter.attempts)
    assert await stand(lines, counter, "c", wait_s=0.01) == "busy"
    assert counter.attempts.count("c") == 1
    first.cancel()


@pytest.mark.parametrize("leaves", [0, 1])
async def test_whoever_leaves_makes_room_and_nothing_is_left_of_an_empty_line(leaves: int) -> None:
    lines, counter = Lines[str](10), Counter()
    waiting = [stand(lines, counter, who) for who in "ab"]
    await until(lambda: bool(counter.attempts))
    gone, stays = waiting[leaves], waiting[1 - leaves]
    gone.cancel()
    await asyncio.wait([gone])
    counter.free = 1
    lines.settled(PATH)
    assert await stays == "held"
    assert (lines._lines, lines._waiters) == ({}, 0)


async def test_an_attempt_that_fails_lets_the_next_one_try() -> None:
    lines, counter = Lines[str](10), Counter()

    async def fails() -> str:
        raise ConnectionError("the store is away")

    failing = asyncio.create_task(lines.wait(SESSION, LONG_S, fails, is_busy))
    waiting = stand(lines, counter, "b")
    counter.free = 1
    assert await waiting == "held"
    with pytest.raises(ConnectionError):
        await failing
    assert (lines._lines, lines._waiters) == ({}, 0)

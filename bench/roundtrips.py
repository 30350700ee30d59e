"""What stands in a request's way: the commands Redis gets before the provider gets the request, and none after it.

The upstream answers a moment after it was asked, so what Redis has been asked by then was asked before forwarding. Then
Redis is stopped for longer than the answer takes: an answer that comes all the same did not wait for its settlement.
"""

import asyncio
import contextlib
import json
import statistics
import time
from typing import Any, Final, Self

import redis

from bench.client import call, control
from bench.figures import Figure, at_most, exactly
from bench.processes import BenchError, base_url, gate, redis_server
from bench.streams import emitter

REQUESTS: Final = 12
SEEN_S_MAX: Final = 5.0
PAUSE_MS: Final = 600
"""How long Redis stands still; the upstream answers after a sixth of that."""


class Watch:
    """What Redis is asked by others, by MONITOR; commands inside scripts are not round trips and not counted."""

    def __init__(self, url: str) -> None:
        connect: Any = redis.Redis.from_url
        self._store = connect(url, decode_responses=True)
        self._monitor = self._store.monitor()
        self._marks = 0

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.__exit__(None, None, None)
        self._store.close()

    def commands(self) -> list[str]:
        """The commands since the last time."""
        self._marks += 1
        mark = f"bench-mark-{self._marks}"
        self._store.echo(mark)
        found: list[str] = []
        for seen in self._monitor.listen():
            if mark in seen["command"]:
                return found
            if seen["client_type"] != "lua":
                found.append(seen["command"])
        raise BenchError("MONITOR ended")

    def pause(self) -> None:
        """Let Redis stand still for `PAUSE_MS`."""
        self._store.client_pause(PAUSE_MS)


async def _until_seen(emitter_port: int, user: str) -> None:
    deadline = time.monotonic() + SEEN_S_MAX
    while time.monotonic() < deadline:
        if user in (await control(emitter_port, "GET", "/lost"))["seen"]:
            return
        await asyncio.sleep(0.002)
    raise BenchError("the request did not reach the upstream")


async def _one(port: int, emitter_port: int, watch: Watch, user: str, *, pause: bool) -> tuple[list[str], float]:
    """The commands before one request was forwarded, and the milliseconds its answer took after that."""
    body = {"model": "gpt-4o-mini", "user": user, "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
    watch.commands()
    asked = asyncio.create_task(call(port, "roundtrips", json.dumps(body).encode()))
    await _until_seen(emitter_port, user)
    before = watch.commands()
    if pause:
        watch.pause()
    seen = time.monotonic()
    answer = await asked
    if answer.status != 200:
        raise BenchError(f"refused: {answer.body[:300]!r}")
    return before, (time.monotonic() - seen) * 1000


def run() -> list[Figure]:
    """Requests one after the other, the second half of them answered while Redis stands still."""
    counts: list[int] = []
    waited = 0
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(emitter())
        redis_url = stack.enter_context(redis_server())
        port = stack.enter_context(gate(base_url(source), redis_url)).port
        watch = stack.enter_context(Watch(redis_url))
        asyncio.run(_one(port, source, watch, "first", pause=False))
        for number in range(REQUESTS):
            pause = number >= REQUESTS // 2
            before, took_ms = asyncio.run(_one(port, source, watch, f"request-{number}", pause=pause))
            counts.append(len(before))
            if pause:
                waited += took_ms > PAUSE_MS * 0.8
                time.sleep(PAUSE_MS / 1000)
    return [
        at_most("Redis commands before a request is forwarded, median", statistics.median(counts), "", 1),
        exactly(f"answers of {REQUESTS // 2} that waited for Redis to settle", waited, "answers", 0),
    ]

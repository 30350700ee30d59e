"""What a Redis has to have: processor time for a call, and memory for sessions and for calls that have ended.

A Redis runs scripts on one thread. So the calls that one server (a shard) can take in a second are what a second of
that thread has room for, whatever gates and network can do; what is measured is its own account of that thread's time,
with the append-only file as production has it.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import redis

from bench.figures import Figure, told
from bench.processes import BenchError, tool
from tokengate.budgets import Policy, limits
from tokengate.composition import open_ledger
from tokengate.domain import Ending, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import load
from tokengate.store import open_store

CALLS: Final = 20_000
SESSIONS: Final = 10_000
BATCH: Final = 1_000
PARALLEL: Final = 64
WAITS_MAX: Final = 500
USD: Final = 1_000_000_000
COST_NANO: Final = 1_000_000
USAGE: Final = Usage(input_tokens=100, output_tokens=200)


@contextmanager
def _server() -> Iterator["redis.Redis"]:
    with tempfile.TemporaryDirectory(prefix="bench-redis-", dir="/tmp") as folder:
        path = str(Path(folder) / "r.sock")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]
        with subprocess.Popen([tool("redis-server"), *options], stdout=subprocess.DEVNULL) as process:
            try:
                yield _answering(path)
            finally:
                process.terminate()


def _answering(path: str) -> "redis.Redis":
    client = redis.Redis(unix_socket_path=path, decode_responses=True, protocol=2)
    for _ in range(WAITS_MAX):
        try:
            client.ping()
        except redis.ConnectionError:
            asyncio.run(asyncio.sleep(0.01))
        else:
            return client
    raise BenchError("redis-server did not come up")


@asynccontextmanager
async def _ledger(path: str) -> AsyncIterator[RedisLedger]:
    settings = load({"REDIS_URL": f"unix://{path}"}, None).settings
    store = await open_store(settings)
    async with open_ledger(settings, store, owner="bench") as ledger:
        yield ledger
    await store.aclose()


class _Calls:
    """Calls of so many sessions in turn, each held and settled."""

    def __init__(self, ledger: RedisLedger, policy: Policy, sessions: int) -> None:
        self._ledger = ledger
        self._names = [Session(f"session-{number:08}", agent="worker") for number in range(sessions)]
        self._paths = [limits(policy, session) for session in self._names]

    async def hold(self, number: int) -> None:
        which = number % len(self._names)
        verdict = await self._ledger.reserve(
            Ask(
                f"bench-{number}", self._names[which], self._paths[which], COST_NANO, COST_NANO, 2 * COST_NANO, True,
                "gpt-4o-mini",
            )
        )  # fmt: skip
        if verdict.kind is not Kind.HELD:
            raise BenchError(f"a call was not held for: {verdict.kind}")

    async def settle(self, number: int) -> None:
        which = number % len(self._names)
        await self._ledger.settle(
            Settlement(
                f"bench-{number}", self._names[which], self._paths[which], COST_NANO, False, Ending.COMPLETE,
                "gpt-4o-mini", USAGE,
            )
        )  # fmt: skip


async def _each(act: Callable[[int], Awaitable[None]], numbers: range) -> None:
    """Do it for all, so many at a time as gates would."""

    async def worker(start: int) -> None:
        for number in numbers[start::PARALLEL]:
            await act(number)

    await asyncio.gather(*(worker(start) for start in range(PARALLEL)))


def _thread_s(client: "redis.Redis") -> float:
    """Processor time of the thread that runs scripts."""
    found = client.info("cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


def _path(client: "redis.Redis") -> str:
    path: str = client.connection_pool.connection_kwargs["path"]
    return path


async def _apart(client: "redis.Redis", policy: Policy) -> tuple[float, float]:
    """Seconds of Redis for all holds and for all settlements, by turns of `BATCH` of each."""
    hold_s = settle_s = 0.0
    async with _ledger(_path(client)) as ledger:
        calls = _Calls(ledger, policy, 1000)
        for first in range(0, CALLS + BATCH, BATCH):
            numbers = range(first, first + BATCH)
            began = _thread_s(client)
            await _each(calls.hold, numbers)
            held = _thread_s(client)
            await _each(calls.settle, numbers)
            if first:  # What the first ones do for the first time, the others need not.
                hold_s += held - began
                settle_s += _thread_s(client) - held
    return hold_s, settle_s


def _processor(policy: Policy, name: str) -> list[Figure]:
    with _server() as client:
        hold_us, settle_us = (each / CALLS * 1e6 for each in asyncio.run(_apart(client, policy)))
    return [
        told(f"a call's time in Redis, {name}", hold_us + settle_us, "us"),
        told("  of which the hold", hold_us, "us"),
        told("  of which the settlement", settle_us, "us"),
        told("  calls that a second of one server has room for", 1e6 / (hold_us + settle_us), "calls/s"),
    ]


async def _fill(path: str, policy: Policy) -> None:
    async with _ledger(path) as ledger:
        calls = _Calls(ledger, policy, SESSIONS)
        await _each(calls.hold, range(SESSIONS))
        await _each(calls.settle, range(SESSIONS))


def _memory() -> list[Figure]:
    """What is left of calls: a session for good, the record of a call for a quarter of an hour."""
    policy = Policy(1_000 * USD, agent_cap_nano=1_000_000 * USD)
    with _server() as client:
        empty = int(client.info("memory")["used_memory"])
        asyncio.run(_fill(_path(client), policy))
        full = int(client.info("memory")["used_memory"])
        for key in client.scan_iter("tokengate:*:hold:*", count=1000):
            client.delete(key)
        sessions = int(client.info("memory")["used_memory"])
    return [
        told("memory of 1,000 sessions", (sessions - empty) / SESSIONS * 1000 / 1e6, "MB"),
        told("memory of 1,000 calls of the last 15 minutes", (full - sessions) / SESSIONS * 1000 / 1e6, "MB"),
    ]


def run() -> list[Figure]:
    """Measure on servers of our own; nothing here has a target."""
    return [
        *_processor(Policy(1_000_000 * USD), "session alone"),
        *_processor(
            Policy(1_000_000 * USD, agent_cap_nano=1_000_000 * USD, tenant_cap_nano=1_000_000 * USD), "three budgets"
        ),
        *_memory(),
    ]

"""What a Redis has to have: processor time for a call, and memory for sessions and for calls that have ended.

A Redis runs scripts on one thread. So the calls that one server (a shard) can take in a second are what a second of
that thread has room for, whatever gates and network can do; what is measured is its own account of that thread's time,
with the append-only file as production has it.
"""

import asyncio
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import redis

from bench.figures import Figure, told
from bench.processes import BenchError, tool
from tokengate.budgets import Policy, limits
from tokengate.composition import open_ledger
from tokengate.domain import Ending, Limit, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import load
from tokengate.store import open_store

CALLS: Final = 20_000
SESSIONS: Final = 10_000
PARALLEL: Final = 64
WAITS_MAX: Final = 500
USD: Final = 1_000_000_000
COST_NANO: Final = 1_000_000


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


async def _call(ledger: RedisLedger, number: int, session: Session, path: tuple[Limit, ...]) -> None:
    hold = f"bench-{number}"
    verdict = await ledger.reserve(Ask(hold, session, path, COST_NANO, COST_NANO, 2 * COST_NANO, True, "gpt-4o-mini"))
    if verdict.kind is not Kind.HELD:
        raise BenchError(f"a call was not held for: {verdict.kind}")
    usage = Usage(input_tokens=100, output_tokens=200)
    await ledger.settle(Settlement(hold, session, path, COST_NANO, False, Ending.COMPLETE, "gpt-4o-mini", usage))


async def _calls(path: str, policy: Policy, first: int, count: int, sessions: int) -> None:
    """So many calls, of so many sessions in turn."""
    async with _ledger(path) as ledger:
        names = [Session(f"session-{number:08}", agent="worker") for number in range(sessions)]
        paths = [limits(policy, session) for session in names]

        async def worker(start: int) -> None:
            for number in range(start, count, PARALLEL):
                which = number % sessions
                await _call(ledger, first + number, names[which], paths[which])

        await asyncio.gather(*(worker(start) for start in range(PARALLEL)))


def _thread_s(client: "redis.Redis") -> float:
    """Processor time of the thread that runs scripts."""
    found = client.info("cpu")
    return float(found["used_cpu_user_main_thread"]) + float(found["used_cpu_sys_main_thread"])


def _path(client: "redis.Redis") -> str:
    path: str = client.connection_pool.connection_kwargs["path"]
    return path


def _processor(policy: Policy, name: str) -> list[Figure]:
    with _server() as client:
        asyncio.run(_calls(_path(client), policy, 0, CALLS // 10, 1000))
        before = _thread_s(client)
        asyncio.run(_calls(_path(client), policy, CALLS, CALLS, 1000))
        each_us = (_thread_s(client) - before) / CALLS * 1e6
    return [
        told(f"a call's time in Redis, {name}", each_us, "us"),
        told("  calls that a second of one server has room for", 1e6 / each_us, "calls/s"),
    ]


def _memory() -> list[Figure]:
    """What is left of calls: a session for good, the record of a call for a quarter of an hour."""
    policy = Policy(1_000 * USD, agent_cap_nano=1_000_000 * USD)
    with _server() as client:
        empty = int(client.info("memory")["used_memory"])
        asyncio.run(_calls(_path(client), policy, 0, SESSIONS, SESSIONS))
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

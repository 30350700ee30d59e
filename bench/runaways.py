"""What looking for runaways costs in Redis: the time of the reserve script, with the rules and without, and memory.

The calls are ordinary ones: every session sends other messages each time, the context grows as conversations do, one
call after the other. The server itself times the scripts (`INFO commandstats`), the two settings in turns, and of all
turns the lowest counts: whatever else the machine does can only add.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import redis
from redis.asyncio.connection import UnixDomainSocketConnection

from bench.figures import Figure, at_most, told
from bench.processes import redis_server
from tokengate.anomaly import NO_RULES, Mark, Rules
from tokengate.budgets import Policy, limits
from tokengate.domain import Ending, Session, Usage
from tokengate.ledger import Ask, Settlement, keys
from tokengate.ledger.link import Link
from tokengate.ledger.redis import RedisLedger

SESSIONS: Final = 200
CALLS: Final = 25
TURNS: Final = 8
USD: Final = 1_000_000_000
POLICY: Final = Policy(1_000 * USD)
GROWTH_MAX: Final = 0.30
"""By which part the script may take longer for an ordinary call."""

BYTES_MAX: Final = 4096
"""What the history of a session may take."""


def _mark(session: int, call: int) -> Mark:
    def digest(text: str) -> str:
        return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=6).digest()).decode()

    return Mark(digest(f"{session} {call}"), digest(f"{session}"), 2000 + 700 * call)


def _asks(call: int) -> list[Ask]:
    made = []
    for number in range(SESSIONS):
        session = Session(f"agent-run-{number:04d}")
        name = f"tg-0123456789ab-{number:x}-{call:x}"
        path = limits(POLICY, session)
        made.append(Ask(name, session, path, 1000, 2000, 3_000_000, False, "gpt-4o-mini", _mark(number, call)))
    return made


def _settlement(ask: Ask) -> Settlement:
    usage = Usage(input_tokens=700, output_tokens=120)
    return Settlement(ask.hold_id, ask.session, ask.limits, 180_000, False, Ending.COMPLETE, ask.model, usage)


class Server:
    """A Redis, and how long its scripts take."""

    def __init__(self, url: str) -> None:
        connect: Any = redis.Redis.from_url
        self.store = connect(url, decode_responses=True)
        self._url = url

    def ledger(self, rules: Rules) -> RedisLedger:
        async def connect() -> UnixDomainSocketConnection:
            connection = UnixDomainSocketConnection(path=self._url.removeprefix("unix://"))
            await connection.connect()
            return connection

        return RedisLedger(
            Link(connect, 5000), owner="bench:1:abc", lease_ms=60_000, sessions_max=10**6, retry_ms=5000, rules=rules
        )

    async def timed(self, work: Sequence[Callable[[], Coroutine[Any, Any, Any]]]) -> float:
        """The mean of a script's time (us) in the server, over some that run together."""
        self.store.config_resetstat()
        await asyncio.gather(*(each() for each in work))
        return float(self.store.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


async def _turn(server: Server, rules: Rules) -> tuple[float, float, float]:
    """How long a reservation and a settlement take, and the bytes of a history."""
    server.store.flushall()
    ledger = server.ledger(rules)
    reserved: list[float] = []
    settled: list[float] = []
    for call in range(CALLS):
        asks = _asks(call)
        reserved.append(await server.timed([lambda ask=ask: ledger.reserve(ask) for ask in asks]))  # type: ignore[misc]
        settled.append(
            await server.timed([lambda ask=ask: ledger.settle(_settlement(ask)) for ask in asks])  # type: ignore[misc]
        )
    await ledger.aclose()
    size = server.store.memory_usage(keys.recent("default", "agent-run-0001"), samples=0) or 0
    # The first calls load the scripts and make the sessions.
    return min(reserved[2:]), min(settled[2:]), size


def run() -> list[Figure]:
    """Both settings, in turns."""
    off: list[tuple[float, float, float]] = []
    on: list[tuple[float, float, float]] = []
    with redis_server() as url:
        server = Server(url)
        for _ in range(TURNS):
            off.append(asyncio.run(_turn(server, NO_RULES)))
            on.append(asyncio.run(_turn(server, Rules())))
        server.store.close()
    plain, watched = min(each[0] for each in off), min(each[0] for each in on)
    size = max(each[2] for each in on)
    return [
        told("reserve in Redis, no rules", plain, "us"),
        told("reserve in Redis, rules on", watched, "us"),
        at_most("growth by the rules", watched / plain - 1, "", GROWTH_MAX),
        told("settle in Redis", min(each[1] for each in off + on), "us"),
        at_most("history of a session", size, "bytes", BYTES_MAX),
    ]

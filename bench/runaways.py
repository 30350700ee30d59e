"""What looking for runaways costs in Redis: the time of the reserve script, with the rules and without, and memory.

The calls are ordinary ones: every session sends other messages each time, the context grows as conversations do, one
call after the other. The server itself times the scripts (`INFO commandstats`), the two settings in turns, and of all
turns the lowest counts: whatever else the machine does can only add.
"""

import asyncio
import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import redis
from redis.asyncio.connection import UnixDomainSocketConnection

from bench.figures import Figure, at_most, told
from bench.processes import redis_server
from tokengate.anomaly import NO_RULES, ROOT_LETTERS, Mark, Rules
from tokengate.budgets import Policy, limits
from tokengate.domain import Ending, Session, Usage
from tokengate.ledger import Ask, Settlement, keys
from tokengate.ledger.link import Link
from tokengate.ledger.redis import RedisLedger

SESSIONS: Final = 200
CALLS: Final = 25
TURNS: Final = 20
USD: Final = 1_000_000_000
ALONE: Final = Policy(1_000 * USD)
NESTED: Final = Policy(1_000 * USD, agent_cap_nano=1_000_000 * USD, tenant_cap_nano=1_000_000 * USD)
GROWTH_MAX: Final = 0.30
"""By which part the script may take longer for an ordinary call."""

BYTES_MAX: Final = 4096
"""What the history of a session may take."""


def _mark(session: int, call: int) -> Mark:
    def digest(text: str) -> str:
        return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=6).digest()).decode()

    return Mark(digest(f"{session} {call}"), digest(f"{session}")[:ROOT_LETTERS], 2000 + 700 * call)


def _asks(call: int, policy: Policy = ALONE) -> list[Ask]:
    made = []
    for number in range(SESSIONS):
        session = Session(f"agent-run-{number:04d}", agent="crawler")
        name = f"tg-0123456789ab-{number:x}-{call:x}"
        path = limits(policy, session)
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


class Turn(NamedTuple):
    """How long a reservation and a settlement take (us), and how much a history (bytes)."""

    reserve: float
    settle: float
    size: int


async def _turn(server: Server, policy: Policy, rules: Rules) -> Turn:
    server.store.flushall()
    ledger = server.ledger(rules)
    reserved: list[float] = []
    settled: list[float] = []
    for call in range(CALLS):
        asks = _asks(call, policy)
        reserved.append(await server.timed([partial(ledger.reserve, ask) for ask in asks]))
        settled.append(await server.timed([partial(ledger.settle, _settlement(ask)) for ask in asks]))
    await ledger.aclose()
    size = server.store.memory_usage(keys.recent("default", "agent-run-0001"), samples=0) or 0
    # The first calls load the scripts and make the sessions.
    return Turn(min(reserved[2:]), min(settled[2:]), size)


def run() -> list[Figure]:
    """Both settings, in turns, for both paths."""
    turns: dict[tuple[Policy, Rules], list[Turn]] = defaultdict(list)
    with redis_server() as url:
        server = Server(url)
        for _ in range(TURNS):
            for policy in (ALONE, NESTED):
                for rules in (NO_RULES, Rules()):
                    turns[policy, rules].append(asyncio.run(_turn(server, policy, rules)))
        server.store.close()

    figures: list[Figure] = []
    for policy, name in ((ALONE, "a session alone"), (NESTED, "within agent and tenant")):
        plain, watched = (min(turn.reserve for turn in turns[policy, rules]) for rules in (NO_RULES, Rules()))
        settle = min(turn.settle for rules in (NO_RULES, Rules()) for turn in turns[policy, rules])
        figures += [
            told(f"reserve, {name}, no rules", plain, "us"),
            told(f"reserve, {name}, rules on", watched, "us"),
            told(f"settle, {name}", settle, "us"),
        ]
        figures.append(at_most(f"growth of reserve, {name}", watched / plain - 1, "", GROWTH_MAX))
    size = max(turn.size for turn in turns[ALONE, Rules()])
    return [*figures, at_most("history of a session", size, "bytes", BYTES_MAX)]

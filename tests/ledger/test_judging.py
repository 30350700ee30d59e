"""The rules in the script against the rules in Python: whatever a session does, both say the same, word for word."""

import heapq
import random
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import structlog.testing
from msgspec import structs

from tests.support.inmemory import prices
from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tests.transcripts.collection import Transcript, read, transcripts
from tokengate.anomaly import ROOT_LETTERS, Mark, Rule, Rules
from tokengate.anomaly.marks import Marker
from tokengate.budgets import Policy, limits, session_limit
from tokengate.cli.replay import offline
from tokengate.domain import Ending, Mode, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement, Verdict, keys
from tokengate.ledger.memory import MemoryLedger
from tokengate.ledger.redis import RedisLedger
from tokengate.pricing import cost
from tokengate.settings import Settings
from tokengate.transcript import STATUS_FAILED

START_MS = 1_790_000_000_000
USD = 1_000_000_000
POLICY = Policy(9_000_000 * USD)
QUICK = Rules(
    loop_repeats=4,
    tool_loop_repeats=5,
    growth_calls=4,
    velocity_max_nano=40 * USD,
    velocity_factor=5,
    velocity_floor_nano=USD,
    freeze_ms=30_000,
    freeze_ms_max=100_000,
)
SHADOWED = structs.replace(QUICK, loops=Mode.SHADOW, growth=Mode.SHADOW, velocity=Mode.SHADOW, velocity_max_nano=None)
PARTLY = structs.replace(QUICK, loops=Mode.OFF, velocity=Mode.OFF)
NAMES = ("loops", "tool_loops", "growth", "velocity")
ALONE = tuple(structs.replace(QUICK, **{name: Mode.OFF for name in NAMES if name != alone}) for alone in NAMES)
"""Each rule without the others."""
PLAIN = (Rules(), QUICK, SHADOWED, PARTLY, *ALONE)


class Pair:
    """Two ledgers that are told the same."""

    def __init__(self, server: Server, rules: Rules) -> None:
        self.model = MemoryLedger(lease_ms=3_600_000, sessions_max=1000, now_ms=START_MS, rules=rules)
        self.real = RedisLedger(
            link_to(server.socket), owner="o", lease_ms=3_600_000, sessions_max=1000, retry_ms=2000, rules=rules
        )
        self.at(START_MS)

    def at(self, now_ms: int) -> None:
        self.model.now_ms = self.real.now_ms = now_ms

    async def reserve(self, ask: Ask) -> Verdict:
        expected, actual = await self.model.reserve(ask), await self.real.reserve(ask)
        assert actual == expected
        return expected

    async def settle(self, ask: Ask, cost_nano: int, ending: Ending) -> None:
        given = Settlement(ask.hold_id, ask.session, ask.limits, cost_nano, False, ending, ask.model, Usage())
        assert await self.real.settle(given) == await self.model.settle(given)

    async def unfreeze(self, session: Session) -> None:
        scope = session_limit(POLICY, session).scope
        assert await self.real.unfreeze(scope, by="ann") == await self.model.unfreeze(scope, by="ann")

    async def stand_alike(self, session: Session) -> None:
        limit = session_limit(POLICY, session)
        assert await self.real.state(limit) == await self.model.state(limit)


@pytest.fixture
async def pairs(server: Server) -> AsyncIterator[list[Pair]]:
    with server.client() as client:
        client.flushall()
    made: list[Pair] = []
    yield made
    for pair in made:
        await pair.real.aclose()


class Life:
    """A session that lives by chance: what it calls, how long it waits, what fails, who looks after it."""

    def __init__(self, pair: Pair, seed: int) -> None:
        self.pair, self.chance, self.seed = pair, random.Random(seed), seed
        self.session = Session(f"session-{seed}")
        self.now, self.calls, self.under_way = START_MS, 0, list[Ask]()
        self.size, self.tail, self.repeats = 1000, "tAAAAAAA", 2
        self.habit = self.chance.choice(["same", "turns", "tail", "grows", "many", "doubling", "dear", "mixed"])
        self.marks = [self.mark("x") for _ in range(self.chance.randint(1, 9))]

    def mark(self, root: str) -> Mark:
        call = "".join(self.chance.choices("abcdefgh-_", k=8))
        return Mark(call, root * ROOT_LETTERS, self.chance.randint(10, 99_999))

    def next_mark(self) -> Mark | None:
        match (
            self.habit
            if self.habit != "mixed"
            else self.chance.choice(["same", "turns", "tail", "grows", "new", "none"])
        ):
            case "same":
                return self.chance.choice(self.marks[:2]) if self.chance.random() < 0.9 else self.mark("y")
            case "turns":
                return self.marks[self.calls % len(self.marks)] if self.chance.random() < 0.95 else self.mark("y")
            case "tail":
                self.repeats = max(3, self.repeats + self.chance.choice([0, 1, 1, 1, -9]))
                tail = self.chance.choice(["T", "m", "x", "c"]) + "BBBBBBB" if self.chance.random() < 0.2 else self.tail
                made = self.mark("z")
                return structs.replace(
                    made, tail=tail, repeats=self.repeats, what='called \u201esearch\u201c with {"a": 1}\n'
                )
            case "grows":
                self.size = int(self.size * self.chance.choice([1.5, 1.6, 2, 2, 2, 1])) if self.size < 10**8 else 1000
                return structs.replace(self.mark("g"), bytes=self.size)
            case "none":
                return None
        return self.mark("n")

    async def step(self) -> Verdict:
        chance, slow = self.chance, self.habit == "dear"
        if self.habit == "doubling":
            self.now += chance.randint(1000, 1500) if self.calls in {1, 7, 31, 127} else 1
        else:
            self.now += int(chance.choice([0, 100, 1000, 1000, 3000, 30_000 if slow else 9000]) * chance.random())
        if chance.random() < (0.002 if self.habit == "doubling" else 0.02):
            self.now += chance.choice([-2000, 61_000, 400_000, 3_500_000, 90_000_000])
        self.pair.at(self.now)
        width = {"many": 40, "doubling": 300}.get(self.habit, 1)
        while self.under_way and (len(self.under_way) >= width or chance.random() < (0.05 if width > 1 else 0.4)):
            ask = self.under_way.pop(chance.randrange(len(self.under_way)))
            failed = chance.random() < 0.15
            dear = 10 * USD if slow and self.calls % 75 > 55 else USD // 50
            await self.pair.settle(
                ask, 0 if failed else chance.randint(1, dear), Ending.REJECTED if failed else Ending.COMPLETE
            )
            self.now += chance.choice([0, 10, 500])
            self.pair.at(self.now)
        self.calls += 1
        ask = Ask(
            f"tg-{self.seed}-{self.calls:x}",
            self.session,
            limits(POLICY, self.session),
            1,
            1,
            USD,
            True,
            "gpt-4o",
            self.next_mark(),
        )
        verdict = await self.pair.reserve(ask)
        if verdict.kind is Kind.HELD:
            self.under_way.append(ask)
        elif chance.random() < 0.3:
            await self.pair.unfreeze(self.session)
        else:
            self.now += 20_000
        return verdict


@pytest.mark.parametrize("rules", PLAIN, ids=["defaults", "quick", "shadow", "partly", *NAMES])
async def test_lives_by_chance_are_judged_alike(server: Server, pairs: list[Pair], rules: Rules) -> None:
    seen = set()
    for seed in range(70):
        pairs.append(Pair(server, rules))
        life = Life(pairs[-1], seed)
        for _ in range(150):
            verdict = await life.step()
            seen.add((verdict.kind, verdict.rule))
        await life.pair.stand_alike(life.session)
        await pairs.pop().real.aclose()
    # The lives are such that there is something to judge.
    assert (Kind.HELD, None) in seen
    assert any(rule for _, rule in seen), seen


@pytest.mark.parametrize("transcript", transcripts(), ids=lambda each: each.name)
async def test_transcripts_are_judged_alike(server: Server, pairs: list[Pair], transcript: Transcript) -> None:
    pair = Pair(server, Rules())
    pairs.append(pair)
    refused_at = await play(pair, read(transcript.path))
    by = transcript.label.get("frozen_by_call")
    assert refused_at is None if by is None else refused_at is not None and refused_at <= by


async def play(pair: Pair, text: bytes) -> int | None:
    """Take a transcript through two ledgers; gives the first call that is refused, from 1."""
    reader, _ = offline(Settings(), prices(None))
    marker, ends = Marker(), list[tuple[int, int, Ask, int, Ending]]()
    for number, line in enumerate(text.splitlines(), 1):
        entry = reader.read(line)
        assert entry is not None
        body: dict[str, Any] = orjson.loads(line)["body"]
        while ends and ends[0][0] <= entry.at_ms:
            ended_ms, _, ask, cost_nano, ending = heapq.heappop(ends)
            pair.at(ended_ms)
            await pair.settle(ask, cost_nano, ending)
        pair.at(entry.at_ms)
        member = next(name for name in ("messages", "input", "prompt") if name in body)
        mark = marker.mark(body, member, len(orjson.dumps(body)))
        session = structs.replace(entry.session, id=f"{id(pair)}-{entry.session.id}")
        model = entry.request.call.model
        ask = Ask(f"call-{id(pair)}-{number}", session, limits(POLICY, session), 1, 1, USD, True, model, mark)
        if (await pair.reserve(ask)).kind is not Kind.HELD:
            return number
        price = prices(None).lookup(model, entry.section).price
        cost_nano = cost(price, entry.usage) if price is not None and entry.usage is not None else 0
        ending = Ending.REJECTED if entry.status >= STATUS_FAILED else Ending.COMPLETE
        heapq.heappush(ends, (entry.ended_ms, number, ask, cost_nano, ending))
    return None


class Counting:
    """A watch that counts what the rules failed over."""

    def __init__(self) -> None:
        self.failed = 0

    def answered(self, operation: str, took_us: int) -> None: ...

    def unanswered(self, operation: str) -> None: ...

    def unjudged(self) -> None:
        self.failed += 1


async def test_a_fault_within_the_rules_stops_no_call_and_is_told_and_counted(server: Server) -> None:
    watch, session = Counting(), Session("alice")
    ledger = RedisLedger(
        link_to(server.socket), owner="o", lease_ms=60_000, sessions_max=10, retry_ms=2000, watch=watch, rules=Rules()
    )
    made = [
        Ask(f"call-{number}", session, limits(POLICY, session), 1, 2, 3, True, "m", Mark("abcdefgh", "abcd", 10))
        for number in range(4)
    ]
    with server.client() as client, structlog.testing.capture_logs() as logged:
        client.flushall()
        for number, ask in enumerate(made):
            if number in (1, 2):
                client.hset(keys.recent("default", "alice"), "history", "nothing that the rules have written")
            assert (await ledger.reserve(ask)).kind is Kind.HELD
    await ledger.aclose()
    assert watch.failed == 2
    assert [(each["log_level"], each["session_id"], each["request_id"]) for each in logged] == [
        ("error", "alice", "call-1")
    ]


async def test_every_refusal_of_a_session_that_a_rule_froze_names_the_rule(pairs: list[Pair], server: Server) -> None:
    pair = Pair(server, QUICK)
    pairs.append(pair)
    session = Session("alice")
    verdicts = []
    for number in range(6):
        pair.at(START_MS + 1000 * number)
        ask = Ask(f"call-{number}", session, limits(POLICY, session), 1, 2, 3, True, "m", Mark("abcdefgh", "abcd", 10))
        verdicts.append(await pair.reserve(ask))
        if verdicts[-1].kind is Kind.HELD:
            await pair.settle(ask, 1, Ending.COMPLETE)
    assert [each.rule for each in verdicts if each.kind is Kind.FROZEN] == [Rule.LOOP] * 3
    with server.client() as client:
        client.hset(keys.scope(session_limit(POLICY, session).scope), "frozen_rule", "whatever")
    asked = Ask("last", session, limits(POLICY, session), 1, 2, 3, True, "m")
    assert (await pair.real.reserve(asked)).rule is None

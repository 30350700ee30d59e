"""The scripts against the reference model: whatever is done to both, in any order, they answer and stand alike."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from msgspec import structs

from tests.support.pipes import FakePipe, link_to
from tests.support.redis_server import Server
from tokengate.budgets import Policy, limits, session_limit
from tokengate.domain import Ending, Limit, Mode, Period, Rate, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement
from tokengate.ledger.link import Pipe
from tokengate.ledger.memory import MemoryLedger
from tokengate.ledger.redis import RedisLedger
from tokengate.ledger.resp import command

T = TypeVar("T")

START_MS = 1_790_000_000_000
SESSIONS = [Session(id="one", agent="crawler"), Session(id="two", agent="crawler"), Session(id="three")]
POLICIES = [
    Policy(session_cap_nano=1000),
    Policy(session_cap_nano=1000, agent_cap_nano=1500, tenant_cap_nano=2500),
    Policy(session_cap_nano=1000, session_period=Period.HOUR, tenant_cap_nano=2000, tenant_period=Period.DAY),
    Policy(session_cap_nano=2**53 - 1, agent_cap_nano=9_007_199_000_000_000, timezone="Asia/Kolkata"),
]
RATES = [
    None,
    None,
    Rate(2, 10_000, 2),
    Rate(3, 60_000, 1),
    Rate(1, 7_000, 1, Mode.SHADOW),
    Rate(1, 60_000, 1, Mode.OFF),
]
ids = st.integers(0, 15).map("hold-{}".format)
amounts = st.one_of(st.integers(0, 600), st.integers(0, 2**53 - 1))


def caller(hold: str) -> Session:
    return SESSIONS[int(hold.removeprefix("hold-")) % len(SESSIONS)]


class Machine(RuleBasedStateMachine):
    """Every rule does the same to both ledgers and compares what they say."""

    connect: ClassVar[Callable[[], Pipe]]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = START_MS
        self.model = MemoryLedger(lease_ms=60_000, sessions_max=2, now_ms=self.clock)
        self.granted: dict[str, int] = {}
        self.settled: set[str] = set()
        self.debt = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(policy=st.sampled_from(POLICIES), rates=st.lists(st.sampled_from(RATES), min_size=3, max_size=3))
    def start(self, policy: Policy, rates: list[Rate | None]) -> None:
        async def build() -> RedisLedger:
            pipe = type(self).connect()
            await pipe.call(command("FLUSHALL"))
            return RedisLedger(pipe, owner="test", lease_ms=60_000, sessions_max=2, retry_ms=2000)

        self.policy, self.rates = policy, rates
        self.real = self.run(build())
        self.tick(0)

    def path(self, session: Session) -> tuple[Limit, ...]:
        found = zip(limits(self.policy, session), self.rates, strict=False)
        return tuple(structs.replace(limit, rate=rate) for limit, rate in found)

    def tick(self, ms: int) -> None:
        self.clock += ms
        self.model.now_ms = self.real.now_ms = self.clock

    def both(self, act: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        expected, actual = self.run(act(self.model)), self.run(act(self.real))
        assert actual == expected
        return expected

    @rule(ms=st.one_of(st.integers(1, 90_000), st.integers(-5000, 0), st.sampled_from([3_600_000, 90_000_000])))
    def time_passes(self, ms: int) -> None:
        self.tick(ms)

    @rule(
        hold=ids,
        parts=st.tuples(amounts, amounts, amounts).map(sorted),
        exact=st.booleans(),
    )
    def reserve(self, hold: str, parts: list[int], exact: bool) -> None:
        floor, need, want = parts
        session = caller(hold)
        path = self.path(session)
        ask = Ask(hold, session, path, floor, need, want, exact, "gpt-4o")
        verdict = self.both(lambda ledger: ledger.reserve(ask))
        if verdict.kind is Kind.HELD and hold not in self.granted:
            assert verdict.grant_nano <= want
            assert verdict.grant_nano >= floor
            assert verdict.standing.spent_nano + verdict.standing.held_nano <= verdict.standing.cap_nano
            self.granted[hold] = verdict.grant_nano

    @rule(hold=ids, cost=amounts, assumed=st.booleans())
    def settle(self, hold: str, cost: int, assumed: bool) -> None:
        session = caller(hold)
        if hold not in self.granted:
            self.debt = True  # the store lost the hold: charged without one
        elif hold not in self.settled and cost > self.granted[hold]:
            self.debt = True  # more than the hold: recorded, never dropped
        self.settled.add(hold)
        self.granted.setdefault(hold, 0)
        settlement = Settlement(
            hold, session, self.path(session), min(cost, 10**15), assumed, Ending.COMPLETE, "gpt-4o", Usage()
        )
        self.both(lambda ledger: ledger.settle(settlement))

    @rule(holds=st.lists(ids, max_size=4, unique=True))
    def renew(self, holds: list[str]) -> None:
        self.both(lambda ledger: ledger.renew("default", holds))

    @rule()
    def sweep(self) -> None:
        self.both(lambda ledger: ledger.sweep("default"))

    @rule(session=st.sampled_from(SESSIONS))
    def reset(self, session: Session) -> None:
        self.both(lambda ledger: ledger.reset(session_limit(self.policy, session).scope))

    @rule(limit=st.sampled_from(SESSIONS).flatmap(lambda session: st.tuples(st.just(session), st.integers(0, 2))))
    def delete(self, limit: tuple[Session, int]) -> None:
        session, index = limit
        path = self.path(session)
        self.both(lambda ledger: ledger.delete(path[min(index, len(path) - 1)].scope))

    @rule(session=st.sampled_from(SESSIONS), cap=st.one_of(st.none(), amounts))
    def set_budget(self, session: Session, cap: int | None) -> None:
        self.debt = True  # a cap below what is spent already is somebody's will
        self.both(lambda ledger: ledger.set_budget(session_limit(self.policy, session).scope, cap))

    @rule(session=st.sampled_from(SESSIONS), for_ms=st.one_of(st.none(), st.integers(1, 60_000)))
    def freeze(self, session: Session, for_ms: int | None) -> None:
        scope = session_limit(self.policy, session).scope
        self.both(lambda ledger: ledger.freeze(scope, reason="a loop", for_ms=for_ms, by="somebody"))

    @rule(session=st.sampled_from(SESSIONS))
    def unfreeze(self, session: Session) -> None:
        scope = session_limit(self.policy, session).scope
        self.both(lambda ledger: ledger.unfreeze(scope, by="somebody"))

    @invariant()
    def stand_alike(self) -> None:
        if not hasattr(self, "real"):
            return
        for limit in {limit for session in SESSIONS for limit in self.path(session)}:
            self.check(limit)

    def check(self, limit: Limit) -> None:
        state = self.both(lambda ledger: ledger.state(limit))
        if not self.debt:
            assert state.spent_nano + state.held_nano <= state.cap_nano

    def teardown(self) -> None:
        if hasattr(self, "real"):
            self.run(self.real.aclose())
        self.loop.close()


def explore(connect: Callable[[], Pipe], examples: int) -> None:
    machine = type("Machine", (Machine,), {"connect": staticmethod(connect)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.mark.timeout(240)
def test_fakeredis_answers_like_the_model() -> None:
    explore(FakePipe, examples=40)


@pytest.mark.timeout(240)
def test_a_real_server_answers_like_the_model(server: Server) -> None:
    explore(lambda: link_to(server.socket), examples=150)

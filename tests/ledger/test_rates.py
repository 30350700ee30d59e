"""How many calls a scope may make in a time, as the script counts them."""

from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from tests.support.pipes import link_to
from tests.support.redis_server import Server
from tokengate.anomaly import Rule
from tokengate.budgets import Policy, session_limit
from tokengate.domain import Mode, Rate, Session
from tokengate.ledger import Ask, Kind, Verdict
from tokengate.ledger.redis import RedisLedger

ALICE = Session("alice")
LIMIT = session_limit(Policy(10_000), ALICE)


@pytest.fixture
async def ledger(server: Server) -> AsyncIterator[RedisLedger]:
    with server.client() as client:
        client.flushall()
    opened = RedisLedger(link_to(server.socket), owner="o", lease_ms=60_000, sessions_max=100, retry_ms=500)
    yield opened
    await opened.aclose()


def ask(hold_id: str, rate: Rate) -> Ask:
    return Ask(hold_id, ALICE, (structs.replace(LIMIT, rate=rate),), 1, 1, 1, True, "gpt-4o")


async def test_more_requests_than_the_rate_allows_are_refused_until_they_may_come(ledger: RedisLedger) -> None:
    rate = Rate(requests=6, per_ms=60_000, burst=2)

    async def reserve(hold: str) -> Verdict:
        return await ledger.reserve(ask(hold, rate))

    ledger.now_ms = 1_790_000_000_000
    assert [(await reserve(hold)).kind for hold in ("one", "two")] == [Kind.HELD, Kind.HELD]
    refused = await reserve("three")
    assert (refused.kind, refused.rule, refused.retry_after_ms) == (Kind.LIMITED, Rule.RATE, 10_000)
    ledger.now_ms += 9_999
    # Asking in vain prolongs nothing.
    assert ((await reserve("three")).kind, (await reserve("three")).retry_after_ms) == (Kind.LIMITED, 1)
    ledger.now_ms += 1
    assert (await reserve("three")).kind is Kind.HELD
    assert (await reserve("three")).kind is Kind.HELD, "a repetition of an admitted call is no further one"


async def test_a_rate_in_shadow_mode_says_what_it_would_refuse(ledger: RedisLedger) -> None:
    rate = Rate(1, 60_000, 1, Mode.SHADOW)
    verdicts = [await ledger.reserve(ask(hold, rate)) for hold in ("one", "two")]
    assert [(verdict.kind, verdict.rule) for verdict in verdicts] == [(Kind.HELD, None), (Kind.HELD, Rule.RATE)]

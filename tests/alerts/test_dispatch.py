"""Which gate tells what and when: dispatchers that share a store, and a receiver that is not always there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
import redis
from structlog.testing import capture_logs

from tests.support.gate import until
from tests.support.pipes import link_to
from tests.support.receiver import Receiver, answer, receiver
from tests.support.redis_server import Server
from tokengate.alerts import TOPICS, dispatch, store_alert, webhook
from tokengate.alerts.dispatch import AGE_S_MAX, Dispatcher
from tokengate.alerts.webhook import Webhook
from tokengate.ledger import StoreUnavailable
from tokengate.ledger.events import Ends, EventFeed, Taken
from tokengate.ledger.redis import RedisLedger
from tokengate.upstream.transport import HttpTransport

EVENTS: Final = "tokengate:{default}:events"
READER: Final = "tokengate:{default}:reader:alerts"
PACE: Final = 0.005
"""A second takes five milliseconds."""


def happen(cli: "redis.Redis", percent: int, session: str = "alice", kind: str = "session") -> str:
    fields: dict[Any, Any] = {
        "at_ms": now_ms(cli),
        "kind": "threshold",
        "scope": f"tokengate:{{default}}:{kind}:{session}",
    }
    fields |= {"percent": percent, "budget": "10.00", "spent": "9.00", "resets": ""}
    return str(cli.xadd(EVENTS, fields))


def now_ms(cli: Any) -> int:
    seconds, micros = cli.time()
    return int(seconds) * 1000 + int(micros) // 1000


@dataclass
class Running:
    """A dispatcher, as a gate has one."""

    dispatcher: Dispatcher
    task: "asyncio.Task[None]"
    ledger: RedisLedger

    async def crash(self) -> None:
        """End without letting go of anything."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def running(
    server: Server, hook: Receiver, owner: str = "one", lease_ms: int = 30_000, **options: Any
) -> AsyncIterator[Running]:
    ledger = RedisLedger(link_to(server.socket), owner=owner, lease_ms=60_000, sessions_max=9, retry_ms=100)
    feed = EventFeed(ledger.run, tenant="default", reader="alerts", owner=owner, lease_ms=lease_ms)
    given: dict[str, Any] = {"topics": frozenset(TOPICS), "scopes": frozenset({"session", "agent", "tenant"})} | options
    async with way(hook) as out:
        dispatcher = Dispatcher(feed, out, tenant="default", gate=owner, mode="closed", pace=PACE, **given)
        found = Running(dispatcher, asyncio.create_task(dispatcher.run()), ledger)
        try:
            await until(lambda: dispatcher._reading or owner != "one")
            yield found
        finally:
            await found.crash()
            await ledger.aclose()


@asynccontextmanager
async def way(hook: Receiver) -> AsyncIterator[Webhook]:
    transport = HttpTransport(connect_timeout_s=5, read_timeout_s=5, connections_max=1, environ={})
    try:
        yield Webhook(webhook.receiver(hook.url, "json", secret="", routing_key="", hosts_allowed=()), transport)
    finally:
        await transport.aclose()


class TestTelling:
    async def test_in_order_and_once(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook), running(store, hook, "two"), running(store, hook, "three"):
            ids = [happen(redis_cli, percent) for percent in (50, 80, 95, 100)]
            await hook.count(4)
            await until(lambda: redis_cli.hget(READER, "told") == ids[-1])
            assert [body["id"] for body in hook.bodies] == ids
            assert [body["budget"]["percent"] for body in hook.bodies] == [50, 80, 95, 100]

    async def test_what_concerns_nobody_is_passed_over(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook, scopes=frozenset({"tenant"})):
            for number in range(250):
                redis_cli.xadd(EVENTS, {"at_ms": 1, "kind": "expired", "hold": number})
            happen(redis_cli, 80)
            last = happen(redis_cli, 95, "default", "tenant")
            await hook.count(1)
            assert [body["id"] for body in hook.bodies] == [last]

    async def test_topics(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook, topics=frozenset({"freeze"})):
            happen(redis_cli, 80)
            frozen: dict[Any, Any] = {
                "at_ms": now_ms(redis_cli),
                "kind": "freeze",
                "scope": "tokengate:{default}:session:bob",
            }
            redis_cli.xadd(EVENTS, frozen | {"reason": "a loop", "by": "anomaly", "before": "open", "after": "frozen"})
            await hook.count(1)
            assert hook.summaries == ["The session bob is frozen: a loop."]

    async def test_a_failure_is_told_again_before_what_follows(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver(answer(500), answer(429, "retry-after: 3"), answer(503)) as hook, running(store, hook):
            first, second = happen(redis_cli, 50), happen(redis_cli, 80)
            await hook.count(5)
            assert [body["id"] for body in hook.bodies] == [first, first, first, first, second]

    async def test_what_is_refused_is_given_up(self, store: Server, redis_cli: "redis.Redis") -> None:
        with capture_logs() as logs:
            async with receiver(answer(400)) as hook, running(store, hook):
                first, second = happen(redis_cli, 50), happen(redis_cli, 80)
                await hook.count(2)
                assert [body["id"] for body in hook.bodies] == [first, second]
        (given_up,) = [line for line in logs if line["event"] == "an alert was given up"]
        assert (given_up["id"], given_up["why"]) == (first, "the receiver answered 400")
        assert hook.url not in str(logs)

    async def test_what_is_too_old_is_no_news(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook):
            old: dict[Any, Any] = {"at_ms": now_ms(redis_cli) - int(AGE_S_MAX * 1000) - 1000, "kind": "threshold"}
            old |= {"scope": "tokengate:{default}:session:a", "percent": 80, "budget": "1", "spent": "1"}
            redis_cli.xadd(EVENTS, old)
            last = happen(redis_cli, 80)
            await hook.count(1)
            assert [body["id"] for body in hook.bodies] == [last]

    async def test_pauses_grow_to_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []

        class Feed:
            async def take(self, told: str, *, back: bool = False, ends: Ends = ()) -> Taken:
                return Taken(True, False, [])

            async def release(self, told: str) -> None: ...

        async with receiver(*[answer(500)] * 12) as hook, way(hook) as out:
            dispatcher = Dispatcher(
                Feed(), out, tenant="default", gate="one", mode="closed", topics=frozenset(), scopes=frozenset(), pace=0
            )
            with capture_logs() as logs:
                lost = store_alert("default", "one", int(dispatcher._now_s() * 1000), "closed", lost=True)
                assert await dispatcher._deliver(lost, dispatcher._still_reading)
            pauses = [line["again_in_s"] for line in logs if "again_in_s" in line]
        assert len(pauses) == 12
        for number, pause_s in enumerate(pauses):
            longest = min(2.0**number, dispatch.RETRY_MAX_S)
            assert longest / 2 - 0.1 <= pause_s <= longest


def freeze(cli: "redis.Redis", session: str, for_ms: int | None) -> str:
    after = "frozen" if for_ms is None else f"frozen until {now_ms(cli) + for_ms}"
    fields: dict[Any, Any] = {
        "at_ms": now_ms(cli),
        "kind": "freeze",
        "scope": f"tokengate:{{default}}:session:{session}",
    }
    return str(cli.xadd(EVENTS, fields | {"by": "anomaly", "before": "open", "after": after, "reason": "a loop"}))


class TestFreezesThatEnd:
    ENDS: Final = f"{READER}:ends"

    async def test_the_end_is_told_once(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook), running(store, hook, "two"):
            freeze(redis_cli, "alice", 300)
            freeze(redis_cli, "bob", None)
            await hook.count(3)
            await until(lambda: not redis_cli.exists(self.ENDS))
            assert hook.summaries == [
                "The session alice is frozen: a loop.",
                "The session bob is frozen: a loop.",
                "The session alice is no longer frozen: its time is over.",
            ]
            first, _, last = hook.bodies
            assert (last["type"], last["state"], last["dedup_key"]) == ("thaw", "resolved", first["dedup_key"])

    async def test_one_that_was_lifted_before_does_not_end_again(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook):
            freeze(redis_cli, "alice", 500)
            await hook.count(1)
            lifted: dict[Any, Any] = {"at_ms": now_ms(redis_cli), "kind": "unfreeze"}
            redis_cli.xadd(EVENTS, lifted | {"scope": "tokengate:{default}:session:alice", "by": "admin"})
            await hook.count(2)
            await until(lambda: not redis_cli.exists(self.ENDS))
            assert hook.summaries[1] == "The session alice is no longer frozen."

    async def test_one_that_was_prolonged_ends_later(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook):
            freeze(redis_cli, "alice", 60_000)
            freeze(redis_cli, "alice", 300)
            await hook.count(3)
            assert [body["type"] for body in hook.bodies] == ["freeze", "freeze", "thaw"]

    async def test_ends_that_concern_nobody_any_more_are_forgotten(
        self, store: Server, redis_cli: "redis.Redis"
    ) -> None:
        redis_cli.zadd(self.ENDS, {"tokengate:{default}:session:alice": 1, "rubbish": 2})
        async with receiver() as hook, running(store, hook, topics=frozenset({"budget"})):
            await until(lambda: not redis_cli.exists(self.ENDS))
            last = happen(redis_cli, 80)
            await hook.count(1)
            assert [body["id"] for body in hook.bodies] == [last]

    async def test_it_outlives_the_gate_that_told_of_the_freeze(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook:
            async with running(store, hook, lease_ms=200) as one:
                freeze(redis_cli, "alice", 600)
                await hook.count(1)
                await until(lambda: bool(redis_cli.exists(self.ENDS)))
                await one.crash()
            async with running(store, hook, "two", lease_ms=200):
                await hook.count(2)
            assert hook.summaries[1] == "The session alice is no longer frozen: its time is over."


class TestDying:
    async def test_the_next_gate_goes_on(self, store: Server, redis_cli: "redis.Redis") -> None:
        """A gate dies while the receiver refuses: another one tells it when the lease has run out."""
        async with receiver(*[answer(503)] * 3) as hook, running(store, hook, lease_ms=200) as one:
            first, second = happen(redis_cli, 50), happen(redis_cli, 80)
            await hook.count(1)
            await one.crash()
            hook.answers.clear()
            before = len(hook.received)
            async with running(store, hook, "two", lease_ms=200):
                await hook.count(before + 2)
                assert [body["id"] for body in hook.bodies[before:]] == [first, second]
                assert redis_cli.hget(READER, "by") == "two"

    async def test_who_leaves_properly_is_followed_at_once(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver() as hook, running(store, hook) as one, running(store, hook, "two"):
            first = happen(redis_cli, 50)
            # Received is not yet noted: who leaves between the two is followed by somebody who tells it again.
            await until(lambda: redis_cli.hget(READER, "told") == first)
            await one.crash()
            await one.dispatcher.aclose()
            happen(redis_cli, 80)
            await hook.count(2)
            assert [body["budget"]["percent"] for body in hook.bodies] == [50, 80]

    async def test_who_has_lost_the_lease_does_not_tell_on(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with receiver(*[answer(503)] * 50) as hook, running(store, hook):
            happen(redis_cli, 50)
            await hook.count(1)
            redis_cli.hset(READER, mapping={"by": "somebody else", "until_ms": now_ms(redis_cli) + 60_000})
            told = redis_cli.hget(READER, "told")
            await until(lambda: len(hook.answers) < 50)
            await asyncio.sleep(0.2)
            left = len(hook.answers)
            await asyncio.sleep(0.2)
            assert len(hook.answers) == left
            assert redis_cli.hget(READER, "told") == told


@dataclass
class Flaky:
    """A feed whose store comes and goes."""

    mine: bool = True
    away: bool = False
    may_tell_back: bool = True
    asked_back: list[bool] = field(default_factory=list)

    async def take(self, told: str, *, back: bool = False, ends: Ends = ()) -> Taken:
        if self.away:
            raise StoreUnavailable("gone")
        self.asked_back.append(back)
        return Taken(self.mine, self.may_tell_back and back, [])

    async def release(self, told: str) -> None:
        if self.away:
            raise StoreUnavailable("gone")


@asynccontextmanager
async def watching(feed: Flaky, hook: Receiver, **options: Any) -> AsyncIterator[Dispatcher]:
    given: dict[str, Any] = {"topics": frozenset(TOPICS), "scopes": frozenset(), "pace": PACE} | options
    async with way(hook) as out:
        dispatcher = Dispatcher(feed, out, tenant="default", gate="pod-1", mode="open", **given)
        task = asyncio.create_task(dispatcher.run())
        try:
            await until(lambda: bool(feed.asked_back))
            yield dispatcher
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await dispatcher.aclose()


class TestStore:
    async def test_lost_and_back(self) -> None:
        feed = Flaky()
        async with receiver() as hook, watching(feed, hook):
            feed.away = True
            await hook.count(1)
            feed.away = False
            await hook.count(2)
            lost, back = hook.bodies
            assert (lost["type"], lost["state"], back["type"], back["state"]) == (
                "store.lost",
                "firing",
                "store.back",
                "resolved",
            )
            assert lost["dedup_key"] == back["dedup_key"]
            assert lost["summary"].startswith("The gate pod-1 cannot reach the budget store, and admits all calls")

    async def test_it_is_told_once_however_long_it_lasts(self) -> None:
        feed = Flaky()
        async with receiver() as hook, watching(feed, hook):
            feed.away = True
            await hook.count(1)
            await asyncio.sleep(0.3)
            assert len(hook.received) == 1

    async def test_a_moment_is_no_alert(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dispatch, "AWAY_S", 1e9)
        feed = Flaky()
        async with receiver() as hook, watching(feed, hook) as dispatcher:
            feed.away = True
            await until(lambda: dispatcher._away_since_s is not None)
            feed.away = False
            await until(lambda: dispatcher._away_since_s is None)
            assert not hook.received

    async def test_the_others_wait_longer_than_the_one_that_was_reading(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dispatch, "OTHERS_AWAY_S", 1e9)
        feed = Flaky(mine=False)
        async with receiver() as hook, watching(feed, hook):
            feed.away = True
            await asyncio.sleep(0.3)
            assert not hook.received
            monkeypatch.setattr(dispatch, "OTHERS_AWAY_S", 0.0)

    async def test_that_it_is_back_is_for_one_gate_to_say(self) -> None:
        feed = Flaky(may_tell_back=False)
        async with receiver() as hook, watching(feed, hook) as dispatcher:
            feed.away = True
            await hook.count(1)
            feed.away = False
            await until(lambda: dispatcher._away_since_s is None)
            await asyncio.sleep(0.1)
            assert len(hook.received) == 1
            assert True in feed.asked_back

    async def test_what_nobody_could_be_told_in_time_is_not_told_when_it_is_over(self) -> None:
        feed = Flaky()
        async with receiver(*[answer(503)] * 1000) as hook, watching(feed, hook) as dispatcher:
            feed.away = True
            await hook.count(2)
            feed.away = False
            await until(lambda: dispatcher._away_since_s is None)
            hook.answers.clear()
            told = len(hook.received)
            await asyncio.sleep(0.2)
            assert len(hook.received) == told

    async def test_only_if_it_is_asked_for(self) -> None:
        feed = Flaky()
        async with receiver() as hook, watching(feed, hook, topics=frozenset({"budget"})) as dispatcher:
            feed.away = True
            await until(lambda: dispatcher._away_told)
            assert not hook.received

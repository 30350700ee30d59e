"""Which gate tells what, and when: a task beside the server, which no request ever waits for.

The events of the store are read by one gate at a time, in their order, and each is delivered before the next one is
read: so nothing is ahead of what it answers, and what cannot be delivered yet waits in the store, which bounds it, and
not in our memory. That the store itself is away is told by the gate that was reading, and by others only if it lasts.
An alert that nobody could be told within `AGE_S_MAX` is given up, and logged.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from tokengate.alerts import Alert, alert_of, store_alert, topic
from tokengate.alerts.webhook import Attempt, Result, Webhook
from tokengate.ledger import LedgerError
from tokengate.ledger.events import ENDED, LEASE_MS, Event, Feed

READER_POLL_S: Final = 1.0
"""How often the gate that reads asks for more."""

OTHERS_POLL_S: Final = 5.0
"""How often the others ask whether it is their turn."""

RETRY_FIRST_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
AGE_S_MAX: Final = 3600.0
"""What is older is no news: it is not delivered any more."""

AWAY_S: Final = 5.0
"""How long the store must be away before the gate that was reading tells of it: a failover is no alert."""

OTHERS_AWAY_S: Final = 60.0
"""The same for the other gates, and up to as long again: the one that was reading may have ended with the store."""

_RENEW_S: Final = LEASE_MS / 1000 / 3

log = structlog.get_logger()


class Dispatcher:
    """See the module. One per process; `run` it beside the server, then `aclose`."""

    def __init__(
        self,
        feed: Feed,
        webhook: Webhook,
        *,
        tenant: str,
        gate: str,
        mode: str,
        topics: frozenset[str],
        scopes: frozenset[str],
        now_s: Callable[[], float] = time.time,
        pace: float = 1.0,
    ) -> None:
        """Nothing is told yet.

        Args:
            feed: the events of the store.
            webhook: who is told.
            tenant: whose events.
            gate: who we are, for people.
            mode: ON_STORE_FAILURE, for people.
            topics: which of `alerts.TOPICS` are told.
            scopes: whose budgets: `session`, `agent`, `tenant`.
            now_s: the clock.
            pace: what every pause is multiplied by; tests are in a hurry.
        """
        self._feed = feed
        self._webhook = webhook
        self._tenant = tenant
        self._gate = gate
        self._mode = mode
        self._topics = topics
        self._scopes = scopes
        self._now_s = now_s
        self._pace = pace
        self._told = ""
        """The last event that was dealt with."""
        self._ends: list[tuple[str, int | None]] = []
        """Freezes that were told of, and when they end by themselves; to be noted with it."""
        self._reading = False
        self._away_since_s: float | None = None
        self._away_after_s = 0.0
        self._away_told = False

    async def run(self) -> None:
        """Tell what there is to tell, until cancelled."""
        while True:
            try:
                await self._turn()
            except LedgerError as error:
                await self._away(error)
                await self._pause(READER_POLL_S)

    async def aclose(self) -> None:
        """Let another gate read on at once."""
        if self._reading and self._away_since_s is None:
            try:
                await self._feed.release(self._told)
            except LedgerError:
                return

    async def _turn(self) -> None:
        """Read, and deliver the first event that concerns anybody."""
        taken = await self._feed.take(self._told, back=self._away_told, ends=self._ends)
        self._ends.clear()
        self._reading = taken.mine
        if self._away_since_s is not None:
            await self._back(may_tell=taken.may_tell_back)
            return
        for event in taken.events:
            alert = alert_of(event, self._tenant)
            if alert is not None and self._concerns(alert):
                if await self._deliver(alert, self._still_reading):
                    self._done(event, alert)
                # Noted at once, by reading on: else whoever takes over would tell it again.
                return
            self._done(event, None)
        if not taken.events:
            await self._pause(READER_POLL_S if taken.mine else OTHERS_POLL_S)

    def _done(self, event: Event, told: Alert | None) -> None:
        """An event was dealt with; None: it concerns nobody."""
        if event.kind == ENDED:
            self._ends.append((event.fields["scope"], None))
            return
        self._told = event.id
        if told is not None and topic(told) == "freeze":
            self._ends.append((event.fields["scope"], told.until_ms if told.state == "firing" else None))

    def _concerns(self, alert: Alert) -> bool:
        if topic(alert) not in self._topics:
            return False
        return alert.budget is None or alert.subject is None or alert.subject.kind in self._scopes

    async def _still_reading(self) -> bool:
        return (await self._feed.take(self._told)).mine

    # --- the store itself ---

    async def _away(self, error: LedgerError) -> None:
        now_s = self._now_s()
        if self._away_since_s is None:
            self._away_since_s = now_s
            self._away_after_s = AWAY_S if self._reading else OTHERS_AWAY_S * random.uniform(1, 2)  # noqa: S311
            log.warning("alerts wait for the store", error=str(error))
        elif not self._away_told and now_s - self._away_since_s >= self._away_after_s * self._pace:
            lost = store_alert(self._tenant, self._gate, int(now_s * 1000), self._mode, lost=True)
            self._away_told = not self._concerns(lost) or await self._deliver(lost, self._still_away)

    async def _still_away(self) -> bool:
        try:
            await self._feed.take(self._told)
        except LedgerError:
            return True
        return False

    async def _back(self, *, may_tell: bool) -> None:
        told, self._away_since_s, self._away_told = self._away_told, None, False
        back = store_alert(self._tenant, self._gate, int(self._now_s() * 1000), self._mode, lost=False)
        if told and may_tell and self._concerns(back):
            await self._deliver(back, _always)

    # --- delivery ---

    async def _deliver(self, alert: Alert, still_ours: Callable[[], Awaitable[bool]]) -> bool:
        """Deliver an alert, again and again while it is news and ours to tell; False: it is not dealt with."""
        about = {"alert": alert.type, "state": alert.state, "id": alert.id}
        pause_s = RETRY_FIRST_S
        attempt: Attempt | None = None
        while True:
            if self._now_s() - alert.at_ms / 1000 > AGE_S_MAX:
                log.error("an alert was given up", **about, why=attempt.words if attempt else "it is too old")
                return True
            attempt = await self._webhook.attempt(alert)
            if attempt.result is Result.DELIVERED:
                log.info("an alert was delivered", **about)
                return True
            if attempt.result is Result.REFUSED:
                log.error("an alert was given up", **about, why=attempt.words)
                return True
            wait_s = max(pause_s * random.uniform(0.5, 1), attempt.wait_s or 0.0)  # noqa: S311 - jitter
            pause_s = min(pause_s * 2, RETRY_MAX_S)
            log.warning("an alert was not delivered yet", **about, why=attempt.words, again_in_s=round(wait_s, 1))
            while wait_s > 0:
                await self._pause(min(wait_s, _RENEW_S))
                wait_s -= _RENEW_S
                if not await still_ours():
                    return False

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._pace)


async def _always() -> bool:
    return True

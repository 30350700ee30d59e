"""A ledger for while the store is away: calls go on within an allowance, and the store is told of each, once.

A decorator over a ledger. While the store answers, it passes everything on. When it turns out to be away, calls are
admitted from the gate's own allowance, each with a line in the journal before it is forwarded and one when it ends, and
a task tells the store of them when it is back. They are told under ids of their own (`AWAY`): what became of the
reservation that found the store away is not known.
It admits nothing that the journal cannot hold: a call that could be forgotten is refused (docs/adr/0008).
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec.structs import replace

from tokengate.domain import Ending, Limit, Scope, Usage
from tokengate.ledger import (
    EXPIRED_TTL_MS,
    RECORD_TTL_MS,
    Ask,
    Kind,
    LedgerError,
    Replayable,
    Replayed,
    ScopeState,
    Settled,
    Settlement,
    StoreUnavailable,
    Then,
    Verdict,
)
from tokengate.ledger.allowance import Allowance
from tokengate.ledger.journal import Charged, Held, Journal, JournalError, Orphan, orphans
from tokengate.money import format_usd, usd_number

AWAY: Final = ".away"
"""What the id of a hold ends in that the store has never granted."""

PROBE_FIRST_S: Final = 0.1
PROBE_MAX_S: Final = 2.0
"""How often the store is asked, at the least, whether it is back."""

CERTAIN_MARGIN_MS: Final = 60_000
"""By how much clocks may disagree about how long the store remembers a hold."""

log = structlog.get_logger()


class OutageLedger:
    """See the module. Begin with `open`, end with `aclose`; the inner ledger is its owner's."""

    def __init__(
        self,
        inner: Replayable,
        folder: Path,
        *,
        tenant: str,
        store: str,
        mode: str,
        allowance: Allowance | None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Wrap a ledger.

        Args:
            inner: the ledger that may be away.
            folder: where journals are kept.
            tenant: whose they are.
            store: which store they are for, in the words of `Store.where`.
            mode: what ON_STORE_FAILURE says, for logs.
            allowance: what may be spent meanwhile; None: nothing, and only journals that were left are posted.
            now_ms: the clock.
        """
        self._inner = inner
        self._folder = folder
        self._tenant = tenant
        self._store = store
        self._mode = mode
        self._allowance = allowance
        self._now_ms = now_ms
        self.on_change: Callable[[bool], None] | None = None
        """Called with whether the store counts as away, whenever that changes; must not raise."""
        self._journal = Journal(folder, tenant, store)
        self._orphans: list[Orphan] = []
        self._local: dict[str, tuple[int, Ask]] = {}
        """Grants of the allowance, by the ids of their holds."""
        self._pending: deque[tuple[int, Charged]] = deque()
        self._away = False
        self._posted = 0
        self._work = asyncio.Event()
        self._mending: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Take over the journals of processes that have ended; what they spent counts until the store knows it."""
        self._orphans = orphans(self._folder, self._tenant, self._store)
        for orphan in self._orphans:
            waiting = [charged.settlement for _, charged in orphan.charges()]
            if self._allowance is not None:
                self._allowance.spend(0, sum(each.cost_nano for each in waiting if _is_away(each)))
            log.warning("a journal was left and will be posted", journal=str(orphan.path), charges=len(waiting))
        if self._orphans:
            self._mend_soon()

    async def aclose(self) -> None:
        """Stop; what the store has not been told stays on disk for whoever comes next."""
        if self._mending is not None:
            self._mending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._mending
        await self._journal.aclose()
        for orphan in self._orphans:
            orphan.release()
        if self._pending:
            log.warning("stopped with charges in the journal; the next start posts them", charges=len(self._pending))

    def health(self) -> dict[str, Any]:
        """What a person should know: the mode, and how the allowance stands (USD)."""
        fields: dict[str, Any] = {"on_store_failure": self._mode, "away": self._away}
        allowance = self._allowance
        if allowance is not None and allowance.cap_nano is not None:
            fields["allowance"] = {
                "budget": usd_number(allowance.cap_nano),
                "spent": usd_number(allowance.spent_nano),
                "held": usd_number(allowance.held_nano),
            }
        return fields

    # --- the ledger ---

    async def reserve(self, ask: Ask) -> Verdict:
        if ask.hold_id in self._local or self._away:
            return await self._admit(ask)
        try:
            return await self._inner.reserve(ask)
        except StoreUnavailable as error:
            if self._allowance is None:
                raise
            self._is_away(error)
            # What became of it in the store is not known: it is admitted now, or given up under this id.
            verdict = await self._admit(replace(ask, exact=True))
            if verdict.kind is not Kind.HELD:
                raise
            self._append(Charged(_settlement(ask, ask.hold_id, 0, Ending.REJECTED), self._certain_until(sent=False)))
            return verdict

    async def _admit(self, ask: Ask) -> Verdict:
        """Hold from the allowance; the journal knows of it when this returns."""
        allowance = self._allowance
        if allowance is None:
            raise StoreUnavailable("the store is away")
        if ask.hold_id in self._local:
            return Verdict(Kind.HELD, self._local[ask.hold_id][0], self._now_ms(), allowance.standing(ask))
        # Each call that is held needs a line to be charged on.
        if not self._journal.has_room(len(self._local) + 3):
            raise StoreUnavailable("the store is away, and the journal is full")
        kind, grant_nano = allowance.grant(ask)
        if kind is Kind.HELD:
            allowance.hold(grant_nano)
            self._local[ask.hold_id] = grant_nano, ask
            held = Held(_settlement(ask, ask.hold_id + AWAY, grant_nano, Ending.UNKNOWN))
            try:
                # Not cancelled with the caller: whoever gives up the call then finds a hold to settle.
                await asyncio.shield(self._journal.append(held))
            except JournalError as error:
                del self._local[ask.hold_id]
                allowance.spend(grant_nano, 0)
                raise StoreUnavailable(f"the store is away, and {error}") from None
        return Verdict(kind, grant_nano, self._now_ms(), allowance.standing(ask))

    async def settle(self, settlement: Settlement) -> Settled:
        if settlement.hold_id not in self._local and not self._away:
            try:
                return await self._inner.settle(settlement)
            except StoreUnavailable as error:
                if self._allowance is None:
                    raise
                self._is_away(error)
        try:
            # Whoever waits has mostly been told by `settle_soon` that nobody knows: the store may have heard of it.
            await asyncio.shield(self._note(settlement, sent=True))
        except JournalError as error:
            raise StoreUnavailable(f"the store is away, and {error}") from None
        return Settled(settlement.cost_nano, repeated=False)

    def settle_soon(self, settlement: Settlement, then: Then) -> None:
        if settlement.hold_id in self._local or self._away:
            noted = self._note(settlement, sent=False)
            noted.add_done_callback(lambda done: then(settlement, done.exception() is None))
        else:
            self._inner.settle_soon(settlement, then)

    async def renew(self, tenant: str, hold_ids: Sequence[str]) -> list[str]:
        if self._away:
            return []
        return await self._inner.renew(tenant, [hold_id for hold_id in hold_ids if hold_id not in self._local])

    async def sweep(self, tenant: str) -> int:
        return 0 if self._away else await self._inner.sweep(tenant)

    async def state(self, limit: Limit) -> ScopeState:
        return await self._inner.state(limit)

    async def set_budget(self, scope: Scope, cap_nano: int | None, *, by: str = "") -> None:
        await self._inner.set_budget(scope, cap_nano, by=by)

    async def reset(self, scope: Scope, *, by: str = "") -> None:
        await self._inner.reset(scope, by=by)

    async def delete(self, scope: Scope, *, by: str = "") -> bool:
        return await self._inner.delete(scope, by=by)

    async def freeze(self, scope: Scope, *, reason: str, for_ms: int | None, by: str) -> bool:
        return await self._inner.freeze(scope, reason=reason, for_ms=for_ms, by=by)

    async def unfreeze(self, scope: Scope, *, by: str) -> bool:
        return await self._inner.unfreeze(scope, by=by)

    # --- the journal ---

    def _note(self, settlement: Settlement, *, sent: bool) -> "asyncio.Future[int]":
        """Write a charge down. `sent`: the store may have been told already."""
        hold_id = settlement.hold_id
        granted = self._local.get(hold_id)
        if granted is None and not self._journal.has_room(len(self._local) + 1):
            full: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            full.set_exception(JournalError("the journal is full"))
            return full
        if granted is None:
            return self._append(Charged(settlement, self._certain_until(sent=sent)))
        allowance = self._allowance
        noted = self._append(Charged(replace(settlement, hold_id=hold_id + AWAY)))

        def safe(done: "asyncio.Future[int]") -> None:
            # Until it is safe it stays held, and may be said again.
            if done.exception() is None and self._local.pop(hold_id, None) is not None and allowance is not None:
                allowance.spend(granted[0], settlement.cost_nano)

        noted.add_done_callback(safe)
        return noted

    def _certain_until(self, *, sent: bool) -> int:
        remembered_ms = RECORD_TTL_MS if sent else EXPIRED_TTL_MS
        return self._now_ms() + remembered_ms - CERTAIN_MARGIN_MS

    def _append(self, charged: Charged) -> "asyncio.Future[int]":
        noted = self._journal.append(charged)

        def safe(done: "asyncio.Future[int]") -> None:
            if done.exception() is None:
                self._pending.append((done.result(), charged))
                self._mend_soon()

        noted.add_done_callback(safe)
        return noted

    # --- away and back ---

    def _is_away(self, error: LedgerError) -> None:
        if self._away:
            return
        self._away = True
        if self.on_change is not None:
            self.on_change(True)
        log.error("the store is away", mode=self._mode, error=str(error))
        self._mend_soon()

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            if self.on_change is not None:
                self.on_change(False)
            log.warning("the store is back", mode=self._mode, charges_posted=self._posted)
        self._posted = 0

    def _mend_soon(self) -> None:
        self._work.set()
        if self._mending is None:
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    async def _mend(self) -> None:
        """Tell the store what it does not know, until it knows everything."""
        pause_s = PROBE_FIRST_S
        while True:
            self._work.clear()
            try:
                await self._post_all()
            except StoreUnavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PROBE_MAX_S)
                continue
            except (LedgerError, OSError) as error:
                # It answers, and will not take this line: the others wait behind it, safe on disk.
                log.critical("a charge in the journal is not taken by the store", error=str(error))
                self._is_back()
                await asyncio.sleep(PROBE_MAX_S)
                continue
            pause_s = PROBE_FIRST_S
            self._is_back()
            if not self._pending and not self._local and self._journal.idle:
                await self._finish()
                if not self._work.is_set():
                    self._mending = None
                    return
            await self._work.wait()

    async def _post_all(self) -> None:
        """Post every charge that there is now. The first step writes, so that a store that cannot is still away."""
        while self._orphans:
            await self._post_orphan(self._orphans[0])
        await self._inner.resume(self._tenant, self._journal.id)
        last = self._journal.lines
        while self._pending and self._pending[0][0] <= last:
            number, charged = self._pending[0]
            await self._post(self._journal.id, number, charged)
            self._pending.popleft()
            self._free([charged])

    async def _post_orphan(self, orphan: Orphan) -> None:
        charges = orphan.charges()
        posted = await self._inner.resume(self._tenant, orphan.head.id)
        for number, charged in charges:
            if number > posted:
                await self._post(orphan.head.id, number, charged)
        orphan.remove()
        self._orphans.remove(orphan)
        self._free([charged for _, charged in charges])
        log.warning("a journal that was left is posted", journal=str(orphan.path), charges=len(charges))
        await self._forget(orphan.head.id)

    def _free(self, charges: Sequence[Charged]) -> None:
        """The store knows what the allowance has paid for."""
        if self._allowance is not None:
            self._allowance.posted(sum(each.settlement.cost_nano for each in charges if _is_away(each.settlement)))

    async def _post(self, journal: str, number: int, charged: Charged) -> None:
        settlement, until_ms = charged.settlement, charged.certain_until_ms
        known = until_ms is not None and self._now_ms() > until_ms
        became = await self._inner.replay(settlement, journal, number, known=known)
        self._posted += became is Replayed.POSTED
        if became is Replayed.LEFT_OUT and settlement.cost_nano:
            log.error(
                "a charge is not posted, because the store may have charged and forgotten its hold",
                request_id=settlement.hold_id,
                session_id=settlement.session.id,
                cost_usd=format_usd(settlement.cost_nano),
            )

    async def _finish(self) -> None:
        """The store knows all: the journal can go, and after it the store's note of how far it was posted."""
        journal = self._journal.id
        self._journal.remove()
        await self._forget(journal)

    async def _forget(self, journal: str) -> None:
        with contextlib.suppress(LedgerError):
            # Else a field of a few bytes stays; that journal will never be read again.
            await self._inner.forget(self._tenant, journal)


def _settlement(ask: Ask, hold_id: str, cost_nano: int, ending: Ending) -> Settlement:
    assumed = ending is Ending.UNKNOWN
    return Settlement(hold_id, ask.session, ask.limits, cost_nano, assumed, ending, ask.model, Usage())


def _is_away(settlement: Settlement) -> bool:
    """Whether it was the allowance that paid."""
    return settlement.hold_id.endswith(AWAY)

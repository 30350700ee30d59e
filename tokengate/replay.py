"""What a gate would have made of calls that were made without it, or with other settings: the gate itself, run offline.

The calls go, in the order of their times, through the production gate over the reference ledger, whose clock is that of
the calls. What was really used is settled when a call really ended. Nothing is forwarded, and nothing is read or
written here: entries come in, a report goes out.
"""

import heapq
from collections import deque
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from tokengate.budgets import TYPICAL_OUTPUT_COLD_TOKENS
from tokengate.domain import Call, Ending, Reason, Refusal, Session, Usage
from tokengate.gate import Charge, Gate, Ticket
from tokengate.ledger import RECORD_TTL_MS
from tokengate.ledger.memory import MemoryLedger
from tokengate.prices import Price, PricingError
from tokengate.pricing import cost, quote
from tokengate.providers import Reading, Request
from tokengate.tokens import CountError, Tokenizer
from tokengate.transcript import STATUS_FAILED, Entry

SESSIONS_MAX: Final = 100_000
"""How many sessions are kept in memory; calls of any more are left out, and counted."""

FINDINGS_MAX: Final = 10_000
"""How many findings are kept; any more are only counted."""

HELD_ENTRIES_MAX: Final = 2048
HELD_BYTES_MAX: Final = 64 * 1024 * 1024
"""How much is held to put entries in the order of their times. A log is written in the order of the calls' ends."""

TOGETHER_MS: Final = 50
"""Calls of one session of which nobody wrote down how long they took were made together if each came within this time
of the one before, and else one after the other."""


class Finding(Struct):
    """One reason for which calls of one session would have been refused."""

    session: Session
    reason: Reason
    message: str
    """What the first of them would have been told."""
    first_ms: int
    first_call: int
    """Which call of the session it was, from 1."""
    last_ms: int
    rule: str | None = None
    """The rule that they broke, if it was one."""
    calls: int = 0
    saved_nano: int = 0


class Report(Struct):
    """What came out. Costs are what the calls really cost, by what they used."""

    findings: list[Finding]
    shadowed: dict[str, int] = {}
    """Calls that a rule in shadow would have refused, by rule."""
    calls: int = 0
    sessions: int = 0
    blocked: int = 0
    blocked_before: int = 0
    """Calls that a gate had refused already; they are tried again, and would have cost nobody knows what."""
    assumed: int = 0
    """Calls of which nobody wrote down what they used: they are priced as a typical answer."""
    left_out: int = 0
    """Calls of more sessions than are kept in memory."""
    late: int = 0
    """Calls so far from their place in time that they were taken as of when they were met."""
    findings_dropped: int = 0
    cost_nano: int = 0
    saved_nano: int = 0
    first_ms: int = 0
    last_ms: int = 0


class Order:
    """Puts entries in the order of their times, as far as what it may hold allows."""

    def __init__(self, entries_max: int = HELD_ENTRIES_MAX, bytes_max: int = HELD_BYTES_MAX) -> None:
        self._entries_max, self._bytes_max = entries_max, bytes_max
        self._held: list[tuple[int, int, int, Entry]] = []
        self._bytes = 0
        self._number = 0

    def push(self, entry: Entry, size: int) -> list[Entry]:
        """Take an entry, whose line had `size` bytes; give those that have waited long enough."""
        self._number += 1
        self._bytes += size
        heapq.heappush(self._held, (entry.at_ms, self._number, size, entry))
        due = []
        while len(self._held) > self._entries_max or self._bytes > self._bytes_max:
            due.append(self._pop())
        return due

    def rest(self) -> list[Entry]:
        """Give all that are left."""
        return [self._pop() for _ in range(len(self._held))]

    def _pop(self) -> Entry:
        _, _, size, entry = heapq.heappop(self._held)
        self._bytes -= size
        return entry


class _InFlight(Struct, eq=False):
    """A call that was admitted and has not ended."""

    entry: Entry
    ticket: Ticket
    charge: Charge
    settled: bool = False


class Replay:
    """Runs entries through a gate. Make one for each gate; `gate` and `ledger` are this one's alone."""

    def __init__(
        self,
        gate: Gate,
        ledger: MemoryLedger,
        tokenizer: Tokenizer,
        busy_wait_ms: int,
    ) -> None:
        self._gate = gate
        self._ledger = ledger
        self._tokenizer = tokenizer
        self._busy_wait_ms = busy_wait_ms
        self._in_flight: list[tuple[int, int, _InFlight]] = []
        self._untimed: dict[Session, list[_InFlight]] = {}
        """Calls in flight of which nobody knows when they ended."""
        self._records: deque[tuple[int, str]] = deque()
        """The holds that were settled, and when."""
        self._calls: dict[Session, int] = {}
        self._findings: dict[tuple[Session, Reason, str], Finding] = {}
        self.report = Report([])

    async def feed(self, entry: Entry) -> Refusal | None:
        """Take the next call; give the refusal that it would have met."""
        report = self.report
        number = self._calls.get(entry.session, 0) + 1
        if number == 1 and len(self._calls) >= SESSIONS_MAX:
            report.left_out += 1
            return None
        self._calls[entry.session] = number
        if report.calls and entry.at_ms < self._ledger.now_ms:
            report.late += 1
        self._end_untimed(entry)
        while self._in_flight and self._in_flight[0][0] <= entry.at_ms:
            self._settle_first()
        self._ledger.now_ms = max(self._ledger.now_ms, entry.at_ms)
        report.calls += 1
        if report.calls == 1:
            report.first_ms = entry.at_ms
        report.last_ms = max(report.last_ms, entry.at_ms)
        cost_nano = await self._cost(entry)
        report.cost_nano += cost_nano
        admitted = await self._admit(entry, f"call-{report.calls}")
        if isinstance(admitted, Refusal):
            self._blocked(entry, admitted, number, cost_nano)
            return admitted
        if admitted.rule is not None:
            report.shadowed[admitted.rule.value] = report.shadowed.get(admitted.rule.value, 0) + 1
        under_way = _InFlight(entry, admitted, self._charge(entry, admitted, cost_nano))
        heapq.heappush(self._in_flight, (max(self._ledger.now_ms, entry.ended_ms), report.calls, under_way))
        if not entry.timed:
            self._untimed.setdefault(entry.session, []).append(under_way)
        return None

    def finish(self) -> Report:
        """Settle what is still under way, and give the report."""
        while self._in_flight:
            self._settle_first()
        self.report.findings = sorted(self._findings.values(), key=lambda finding: -finding.saved_nano)
        self.report.sessions = len(self._calls)
        return self.report

    async def _admit(self, entry: Entry, hold_id: str) -> Ticket | Refusal:
        """Ask the gate. A call that meets a busy budget waits for others to end, as long as it would have waited."""
        until_ms = self._ledger.now_ms + self._busy_wait_ms
        while True:
            admitted = await self._gate.admit(entry.request, entry.session, hold_id, entry.section)
            busy = isinstance(admitted, Refusal) and admitted.reason is Reason.BUDGET_BUSY
            if not busy or not self._in_flight or self._in_flight[0][0] > until_ms:
                return admitted
            self._settle_first()

    def _end_untimed(self, entry: Entry) -> None:
        """The session's calls that may have ended by now have ended, if a call comes that was not made with them."""
        untimed = self._untimed.get(entry.session)
        if untimed is not None and entry.at_ms - untimed[-1].entry.at_ms >= TOGETHER_MS:
            for each in list(untimed):
                self._settle(each, entry.at_ms)

    def _settle_first(self) -> None:
        ends_ms, _, under_way = heapq.heappop(self._in_flight)
        if not under_way.settled:
            self._settle(under_way, ends_ms)

    def _settle(self, under_way: _InFlight, ended_ms: int) -> None:
        now_ms = self._ledger.now_ms = max(self._ledger.now_ms, ended_ms)
        under_way.settled = True
        if not under_way.entry.timed:
            untimed = self._untimed[under_way.entry.session]
            untimed.remove(under_way)
            if not untimed:
                del self._untimed[under_way.entry.session]
        self._gate.settle(under_way.ticket, under_way.charge)
        self._records.append((now_ms, under_way.ticket.hold_id))
        while now_ms - self._records[0][0] >= RECORD_TTL_MS:
            self._ledger.forget(self._records.popleft()[1])

    def _charge(self, entry: Entry, ticket: Ticket, cost_nano: int) -> Charge:
        if entry.status >= STATUS_FAILED and not cost_nano:
            return Charge(Ending.REJECTED, 0, False, Usage())
        if entry.usage is not None and entry.cost_nano is None:
            # The gate's own way, by which it learns how long an answer of the model is.
            charge = self._gate.assess(ticket, Ending.COMPLETE, Reading(entry.usage, True, "", 0))
            if charge is not None:
                return charge
        return Charge(Ending.COMPLETE, cost_nano, False, entry.usage or Usage())

    def _blocked(self, entry: Entry, refusal: Refusal, number: int, cost_nano: int) -> None:
        report, key = self.report, (entry.session, refusal.reason, refusal.frozen_reason or "")
        report.blocked += 1
        report.saved_nano += cost_nano
        finding = self._findings.get(key)
        if finding is None:
            finding = Finding(
                entry.session, refusal.reason, refusal.message, entry.at_ms, number, entry.at_ms, refusal.rule
            )
            if len(self._findings) < FINDINGS_MAX:
                self._findings[key] = finding
            else:
                report.findings_dropped += 1
        finding.calls += 1
        finding.saved_nano += cost_nano
        finding.last_ms = max(finding.last_ms, entry.at_ms)

    async def _cost(self, entry: Entry) -> int:
        """What a call really cost, in nano-USD."""
        if entry.cost_nano is not None:
            return entry.cost_nano
        if entry.blocked:
            self.report.blocked_before += 1
            return 0
        usage, call = entry.usage, entry.request.call
        section, lookup = entry.section, self._gate.prices.lookup
        price = lookup(usage.model, section).price if usage is not None and usage.model else None
        price = price or lookup(call.model, section).price
        if price is None or entry.status >= STATUS_FAILED:
            return 0
        try:
            if usage is not None:
                return cost(price, usage, call.service_tier)
            self.report.assumed += 1
            return quote(price, await self._counted(price, entry.request), TYPICAL_OUTPUT_COLD_TOKENS).need_nano
        except PricingError:
            # The gate refuses it, and says so.
            return 0

    async def _counted(self, price: Price, request: Request) -> Call:
        """The call with its input counted exactly, where that can be done."""
        if price.encoding is None:
            return request.call
        try:
            tokens = await self._tokenizer.count(price.encoding, request.count_input)
        except CountError:
            return request.call
        return replace(request.call, input_tokens_max=tokens)

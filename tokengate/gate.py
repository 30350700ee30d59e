"""The gate: whether a call may pass, on what terms, and what it is charged in the end. No HTTP, no Redis.

`admit` quotes a call and holds its price; `assess` turns what is known of the answer into a charge; `settle` posts
it, in a task of its own that no disconnect can cancel. Between the two the gate keeps the hold's lease alive. Every
admitted call must be settled, once, however it ends.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from tokengate.anomaly import NO_RULES, Mark, Rule, Rules
from tokengate.anomaly.marks import Marker
from tokengate.budgets import Policy, TypicalOutput, ample_nano, limits
from tokengate.domain import Call, Ending, Limit, Quote, Reason, Refusal, Session, Standing, Usage
from tokengate.ledger import Ask, Kind, Ledger, LedgerError, Settlement, Verdict
from tokengate.money import format_usd
from tokengate.prices import Price, PricingError
from tokengate.pricing import OutputCap, PriceTable, cost, expected_nano, output_cap_for, quote
from tokengate.providers import Reading, Request
from tokengate.refusals import STORE_UNAVAILABLE, refused, unpriced
from tokengate.tokens import CountError, Tokenizer
from tokengate.waiting import Lines

COUNT_EXACTLY_ABOVE_BYTES: Final = 1024
"""Text up to this size is never counted exactly: its byte bound is as good as a vocabulary of 85 MB in memory."""

SETTLE_RETRY_S: Final = 300
"""How long a settlement is repeated while the store is away; after that the hold's lease runs out, charged in full."""

_SETTLE_PAUSE_MAX_S: Final = 5.0
_DRAIN_POLL_S: Final = 0.005
_NOTHING: Final = Usage()
_RENEWALS_A_LEASE: Final = 3

log = structlog.get_logger()


class Ticket(Struct, frozen=True):
    """An admitted call: what is held for it, and what must be known to settle it."""

    hold_id: str
    session: Session
    limits: tuple[Limit, ...]
    section: str
    """Of the price table."""
    request: Request
    call: Call
    price: Price
    quote: Quote
    grant_nano: int
    output_cap_tokens: int | None
    """The cap to write into the request, per answer; None: forward it as it is."""
    standing: Standing
    """The tightest limit, with this hold in it."""
    waited_us: int
    """How long it stood in line, in microseconds."""
    rule: Rule | None = None
    """The one that would have refused it, were it enforced."""


class Charge(Struct, frozen=True):
    """What a call is charged, and on what ground."""

    ending: Ending
    cost_nano: int
    assumed: bool
    usage: Usage


class Gate:
    """The spine. One per process; start it with `run` beside the server and end it with `drain`."""

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceTable,
        policy: Policy,
        tokenizer: Tokenizer,
        *,
        output_cap: OutputCap,
        busy_wait_ms: int,
        waiters_max: int,
        lease_ms: int,
        tenant: str,
        rules: Rules = NO_RULES,
    ) -> None:
        self.prices = prices
        self._marker = Marker() if rules.marking else None
        self._ledger = ledger
        self._policy = policy
        self._tokenizer = tokenizer
        self._output_cap = output_cap
        self._busy_wait_ms = busy_wait_ms
        self._lines: Lines[Verdict] = Lines(waiters_max)
        self._lease_s = lease_ms / 1000
        self._tenant = tenant
        self._typical = TypicalOutput()
        self._held: set[str] = set()
        self._under_way = 0
        """Settlements sent, of which nothing has been heard yet."""
        self._background: set[asyncio.Task[None]] = set()

    # --- admission ---

    async def admit(self, request: Request, session: Session, hold_id: str, section: str) -> Ticket | Refusal:
        """Hold the price of a call against every limit on its path, or say why not.

        Args:
            request: what is asked.
            session: who asks.
            hold_id: the name of the hold, which no other call has.
            section: the section of the price table that has the model.
        """
        call = request.call
        lookup = self.prices.lookup(call.model, section)
        if lookup.price is None:
            return unpriced(call.model)
        price, path = lookup.price, limits(self._policy, session)
        countable = price.encoding is not None and call.text_bytes > COUNT_EXACTLY_ABOVE_BYTES
        try:
            bounds = self._quote(price, call)
            mark = self._mark(request)
            ask = _ask(hold_id, session, path, bounds, price.model, mark, exact=not countable)
            verdict = await self._reserve(ask, bounds)
            if verdict.kind is Kind.TIGHT and price.encoding is not None:
                call = await self._counted(price.encoding, request)
                bounds = self._quote(price, call)
                ask = _ask(hold_id, session, path, bounds, price.model, mark, exact=True)
                verdict = await self._reserve(ask, bounds)
        except PricingError as error:
            return Refusal(Reason.MODEL_NOT_PRICED, f"{error}", param="model")
        except LedgerError as error:
            self._release(hold_id, session, path, price.model)
            log.error("the store is unavailable; failing closed", error=str(error))
            return STORE_UNAVAILABLE
        except asyncio.CancelledError:
            self._release(hold_id, session, path, price.model)
            raise
        if verdict.kind is not Kind.HELD:
            expected = expected_nano(bounds, self._typical.mean(price.model))
            return replace(refused(verdict, bounds), expected_nano=expected, waited_us=verdict.waited_us)
        self._held.add(hold_id)
        cap = output_cap_for(bounds, verdict.grant_nano) if bounds.cappable else None
        return Ticket(
            hold_id,
            session,
            path,
            section,
            request,
            call,
            price,
            bounds,
            verdict.grant_nano,
            cap,
            verdict.standing,
            verdict.waited_us,
            verdict.rule,
        )

    def _mark(self, request: Request) -> Mark | None:
        """By what the call is told whether it repeats another one; None where no rule asks for it."""
        if self._marker is None or (asked := request.asked()) is None:
            return None
        return self._marker.mark(asked.document, asked.conversation, asked.bytes)

    def _quote(self, price: Price, call: Call) -> Quote:
        return quote(price, call, self._typical.of(price.model), output_cap=self._output_cap)

    async def _counted(self, encoding: str, request: Request) -> Call:
        """The call with its input counted exactly; by its bytes, where too much is being counted already."""
        try:
            return replace(request.call, input_tokens_max=await self._tokenizer.count(encoding, request.count_input))
        except CountError as error:
            log.warning("priced by its bytes", model=request.call.model, error=str(error))
            return request.call

    async def _reserve(self, ask: Ask, bounds: Quote) -> Verdict:
        """Hold what is asked for; while others hold it, stand in line, once, and come to ask for less."""
        ahead = self._lines.ahead(ask.limits)
        if ahead is None or not ask.exact or self._lines.full:
            verdict = await self._ledger.reserve(ask)
            if verdict.kind is not Kind.BUSY or self._lines.full or self._busy_wait_ms == 0:
                return verdict
            ahead = verdict.standing.scope
        loop = asyncio.get_running_loop()
        since = loop.time()

        def attempt() -> Awaitable[Verdict]:
            waited_ms = int((loop.time() - since) * 1000)
            return self._ledger.reserve(replace(ask, need_nano=ample_nano(bounds, waited_ms, self._busy_wait_ms)))

        verdict = await self._lines.wait(ahead, self._busy_wait_ms / 1000, attempt, _is_busy)
        return replace(verdict, waited_us=int((loop.time() - since) * 1_000_000))

    # --- settlement ---

    def assess(self, ticket: Ticket, ending: Ending, reading: Reading | None) -> Charge | None:
        """What a call is charged; None if text must be counted first: `assess_by_counting`."""
        if ending is Ending.REJECTED:
            return Charge(ending, 0, False, _NOTHING)
        if ending is Ending.UNKNOWN or reading is None:
            return _whole_hold(ticket, Ending.UNKNOWN)
        usage = reading.usage
        if usage is not None:
            self._observe(ticket, usage, reading)
            return Charge(ending, self._cost(ticket, usage), reading.assumed, usage)
        if reading.hidden_output:
            return _whole_hold(ticket, ending)
        return None

    async def assess_by_counting(self, ticket: Ticket, reading: Reading) -> Charge:
        """What a call is charged that was only seen: its input and the text of its answer, not counted too low."""
        seen = await self._count_seen(ticket, reading)
        return Charge(Ending.CUT, self._cost(ticket, seen), True, seen)

    def settle(self, ticket: Ticket, charge: Charge, told: Callable[[bool], None] | None = None) -> None:
        """Post a charge: soon, together with others, and again until it is known to be posted.

        `told` hears once whether it is known to be posted, or will be repeated.
        """
        self._held.discard(ticket.hold_id)
        settlement = Settlement(
            ticket.hold_id,
            ticket.session,
            ticket.limits,
            charge.cost_nano,
            charge.assumed,
            charge.ending,
            ticket.price.model,
            charge.usage,
        )
        self._under_way += 1
        if told is None:
            self._ledger.settle_soon(settlement, self._settled)
            return

        def settled(settlement: Settlement, known: bool) -> None:
            self._settled(settlement, known)
            told(known)

        self._ledger.settle_soon(settlement, settled)

    def _settled(self, settlement: Settlement, known: bool) -> None:
        self._under_way -= 1
        if known:
            self._lines.settled(settlement.limits)
        else:
            self.background(self._post(settlement))

    def _cost(self, ticket: Ticket, usage: Usage) -> int:
        if usage.cost_nano is not None:
            return usage.cost_nano
        price = ticket.price
        if usage.model and usage.model != ticket.call.model:
            price = self.prices.lookup(usage.model, ticket.section).price or price
        try:
            return cost(price, usage, ticket.call.service_tier)
        except PricingError as error:
            # It answered with something that was not asked for and has no price; the hold is the best that is known.
            log.warning("usage without a price", request_id=ticket.hold_id, model=usage.model, error=str(error))
            return ticket.grant_nano

    def _observe(self, ticket: Ticket, usage: Usage, reading: Reading) -> None:
        if ticket.call.produces_output and reading.complete:
            tokens = math.ceil(usage.output_tokens / ticket.call.answers)
            if ticket.output_cap_tokens is not None and tokens >= ticket.output_cap_tokens:
                tokens *= 2  # Our cap has cut it. How long it would have been nobody knows, but not as short as this.
            self._typical.observe(ticket.price.model, tokens)

    async def _count_seen(self, ticket: Ticket, reading: Reading) -> Usage:
        """Input and the output that was seen, counted so that it is not too little."""
        encoding, call = ticket.price.encoding, ticket.call
        output_tokens = reading.output_bytes_seen
        if encoding is not None:
            if call.text_bytes > COUNT_EXACTLY_ABOVE_BYTES:
                call = await self._counted(encoding, ticket.request)
            if reading.output_seen:
                output_tokens -= len(reading.output_seen.encode())
                output_tokens += await self._count_text(encoding, reading.output_seen)
        return Usage(input_tokens=call.input_tokens_max, output_tokens=output_tokens)

    async def _count_text(self, encoding: str, text: str) -> int:
        try:
            return await self._tokenizer.count(encoding, lambda count: count(text))
        except CountError:
            return len(text.encode())

    async def _post(self, settlement: Settlement) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_RETRY_S
        pause_s = 0.1
        while True:
            try:
                await self._ledger.settle(settlement)
            except LedgerError as error:
                if loop.time() + pause_s > until:
                    log.critical(
                        "a charge could not be posted; its hold will be charged in full when its lease ends",
                        request_id=settlement.hold_id,
                        cost_usd=format_usd(settlement.cost_nano),
                        error=str(error),
                    )
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _SETTLE_PAUSE_MAX_S)
            else:
                self._lines.settled(settlement.limits)
                return

    def _release(self, hold_id: str, session: Session, path: tuple[Limit, ...], model: str) -> None:
        """Undo a reservation whose answer nobody heard: it may have been held, and nothing was forwarded."""
        nothing = Settlement(
            hold_id, session, path, 0, assumed=False, ending=Ending.REJECTED, model=model, usage=Usage()
        )
        self.background(self._post(nothing))

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what must be done whatever becomes of the request: `drain` waits for it, no disconnect cancels it."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- life ---

    async def run(self) -> None:
        """Keep the leases of what is in flight, and charge what others left behind, until cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS_A_LEASE)
            try:
                await self._renew()
                await self._ledger.sweep(self._tenant)
            except LedgerError as error:
                log.warning("leases could not be renewed", error=str(error), in_flight=len(self._held))

    async def _renew(self) -> None:
        for hold_id in await self._ledger.renew(self._tenant, list(self._held)):
            # Charged in full already, after a pause of the store longer than a lease; its settlement corrects that.
            if hold_id in self._held:
                self._held.discard(hold_id)
                log.warning("a hold expired under a call in flight", request_id=hold_id)

    async def drain(self, grace_s: float) -> int:
        """Wait until everything is settled; gives how many settlements are still not posted after the grace."""
        loop = asyncio.get_running_loop()
        until = loop.time() + grace_s
        await asyncio.sleep(0)  # requests that were cancelled just now have yet to say how they ended
        while (self._under_way or self._background) and loop.time() < until:
            await asyncio.sleep(_DRAIN_POLL_S)
        return self._under_way + len(self._background)


def _ask(
    hold_id: str,
    session: Session,
    path: tuple[Limit, ...],
    bounds: Quote,
    model: str,
    mark: Mark | None,
    *,
    exact: bool,
) -> Ask:
    return Ask(hold_id, session, path, bounds.floor_nano, ample_nano(bounds), bounds.want_nano, exact, model, mark)


def _whole_hold(ticket: Ticket, ending: Ending) -> Charge:
    """What a call is charged of which nobody can say what it used."""
    billed_by = ticket.price.billed_by
    pieces = tuple(piece for piece in ticket.call.pieces if piece[0] == billed_by) if billed_by else ()
    return Charge(ending, ticket.grant_nano, True, Usage(calls=pieces) if pieces else _NOTHING)


def _is_busy(verdict: Verdict) -> bool:
    return verdict.kind is Kind.BUSY

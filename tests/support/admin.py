"""An administrator's side without a store: `Control` in a dictionary, with what a page has to show, and a console on it.

It keeps what the protocol promises as far as a page or a client can tell; how the real one keeps it is tested where
that one is.
"""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec.structs import replace

from tests.support.gate import serving
from tokengate.api import Access, create_console
from tokengate.control import Invalid, Unavailable, Unknown
from tokengate.control.words import (
    Account,
    Detail,
    Event,
    EventPage,
    EventQuery,
    Hold,
    Kind,
    ModelSpend,
    Nano,
    Page,
    Per,
    Point,
    Query,
    Sort,
    Spend,
    SpendQuery,
    Stats,
    StoreState,
)
from tokengate.domain import Period
from tokengate.money import AMOUNT_NANO_MAX

ADMIN: Final = "the-admins-token-of-the-tests"
READER: Final = "the-readers-token-of-the-tests"
USD: Final = 1_000_000_000
DEFAULT_NANO: Final = Nano(10 * USD)
HOUR_MS: Final = 3_600_000


def account(name: str, spent: float = 0, held: float = 0, budget: float = 10, **more: Any) -> Account:
    """An account, with amounts in USD."""
    spent_nano, held_nano, budget_nano = (round(amount * USD) for amount in (spent, held, budget))
    given: dict[str, Any] = {
        "kind": Kind.SESSION, "name": name, "known": True, "budget_nano": Nano(budget_nano),
        "budget_is_default": budget_nano == DEFAULT_NANO, "spent_nano": Nano(spent_nano), "held_nano": Nano(held_nano),
        "remaining_nano": Nano(max(0, budget_nano - spent_nano - held_nano)),
        "used_percent": 100 * spent_nano // budget_nano if budget_nano else 0, "period": Period.NONE, "resets_at_ms": None,
        "frozen": False, "frozen_reason": "", "frozen_until_ms": None, "total_nano": Nano(spent_nano),
        "assumed_nano": Nano(0), "overrun_nano": Nano(0), "epoch": 1, "requests": 0, "blocked": 0, "agent": "",
        "created_ms": None, "last_active_ms": None, "fault": "",
    }  # fmt: skip
    return Account(**(given | more))


_ORDER: Final = {
    Sort.ACTIVITY: lambda each: (each.last_active_ms or 0, each.name),
    Sort.SPENT: lambda each: (each.spent_nano, each.name),
    Sort.SHARE: lambda each: (each.used_percent, each.name),
    Sort.NAME: lambda each: each.name,
}


@dataclass
class MemoryControl:
    """`Control` over what is put into it."""

    rows: dict[tuple[Kind, str], Account] = field(default_factory=dict)
    happened: list[Event] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    """What `stats` says otherwise than that nothing was."""
    holds: list[Hold] = field(default_factory=list)
    models: list[ModelSpend] = field(default_factory=list)
    away: bool = False
    """The store does not answer."""
    clock_ms: int | None = None
    asked: list[str] = field(default_factory=list)

    def put(self, *accounts: Account) -> None:
        for each in accounts:
            self.rows[each.kind, each.name] = each

    def happen(
        self,
        kind: str,
        name: str,
        by: str = "",
        at_ms: int | None = None,
        fields: dict[str, str] | None = None,
        **more: str,
    ) -> None:
        at = self.now_ms if at_ms is None else at_ms
        self.happened.append(Event(
            id=f"{at}-{len(self.happened)}", at_ms=at, kind=kind, scope_kind="session", scope_name=name, by=by, fields=(fields or {}) | more
        ))  # fmt: skip

    @property
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 if self.clock_ms is None else self.clock_ms

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise Unavailable("the store did not answer within 2000 ms")

    def _known(self, kind: Kind, name: str) -> Account:
        if (kind, name) not in self.rows:
            similar = [each for (of, each) in self.rows if of is kind and each[:3] == name[:3]][:3]
            raise Unknown(kind, name, similar)
        return self.rows[kind, name]

    # --- seen ---

    async def sessions(self, query: Query) -> Page:
        self._ask("sessions")
        every = [each for each in self.rows.values() if each.kind is query.kind]
        found = sorted(
            filter(lambda each: _meets(each, query), every), key=_ORDER[query.sort], reverse=query.descending
        )
        rows = found[query.offset : query.offset + query.limit]
        end = query.offset + len(rows)
        return Page(
            rows=rows,
            total=None if query.text else len(found),
            of=len(every),
            next_offset=end if end < len(found) else None,
            looked_at=len(rows),
            now_ms=self.now_ms,
        )

    async def detail(self, kind: Kind, name: str) -> Detail:
        self._ask("detail")
        known = self._known(kind, name)
        about = [each for each in self.happened if each.scope_name == name]
        path = [known, *(each for each in self.rows.values() if each.kind is Kind.AGENT and each.name == known.agent)]
        return Detail(
            account=known,
            path=path,
            models=self.models,
            holds=self.holds if known.held_nano else [],
            holds_complete=True,
            evidence=[each for each in about if each.kind == "freeze"],
            events=about,
            now_ms=self.now_ms,
        )

    async def account(self, kind: Kind, name: str) -> Account:
        self._ask("account")
        return self.rows.get((kind, name)) or account(name, kind=kind, known=False)

    async def events(self, query: EventQuery) -> EventPage:
        self._ask("events")
        found = [each for each in self.happened if not query.name or each.scope_name == query.name]
        found = (
            [each for each in found if _place(each.id) > _place(query.after)] if query.after else found[-query.limit :]
        )
        found = found[: query.limit]
        return EventPage(events=found, last_id=found[-1].id if found else query.after)

    async def spend(self, query: SpendQuery) -> Spend:
        self._ask("spend")
        inside = [each for each in self.points if query.from_ms <= each.start_ms < query.to_ms]
        total = Nano(sum(each.spent_nano for each in inside))
        return Spend(
            by=query.by, per=query.per, from_ms=query.from_ms, to_ms=query.to_ms, total_nano=total, points=inside
        )

    async def stats(self) -> Stats:
        self._ask("stats")
        sessions = [each for each in self.rows.values() if each.kind is Kind.SESSION]
        said: dict[str, Any] = {
            "tenant": "default", "now_ms": self.now_ms, "sessions": len(sessions),
            "sessions_frozen": sum(each.frozen for each in sessions),
            "agents_frozen": sum(each.frozen for each in self.rows.values() if each.kind is Kind.AGENT),
            "tenant_account": None, "in_flight": 0, "held_nano": Nano(sum(each.held_nano for each in sessions)),
            "requests_today": 0, "input_tokens_today": 0, "output_tokens_today": 0, "blocked_today": {},
            "store": StoreState(version="Redis 7.0.15", memory_bytes=3_400_000, memory_bytes_max=None, evicts=False),
        }  # fmt: skip
        amounts = (
            "spent_today",
            "spent_yesterday",
            "spent_hour",
            "spent_month",
            "projected_today",
            "projected_month",
            "saved_today",
        )
        said |= {f"{name}_nano": Nano(0) for name in amounts}
        return Stats(**(said | self.figures))

    # --- done ---

    async def set_budget(self, kind: Kind, name: str, budget_nano: int | None, *, by: str) -> Account:
        self._ask("set_budget")
        if budget_nano is not None and not 0 <= budget_nano <= AMOUNT_NANO_MAX:
            raise Invalid("no budget can be so large")
        before = self.rows.get((kind, name)) or account(name, kind=kind)
        budget = Nano(DEFAULT_NANO if budget_nano is None else budget_nano)
        remaining = Nano(max(0, budget - before.spent_nano - before.held_nano))
        used = 100 * before.spent_nano // budget if budget else 0
        after = replace(
            before, budget_nano=budget, budget_is_default=budget_nano is None, remaining_nano=remaining, used_percent=used
        )  # fmt: skip
        self.happen("budget", name, by, before=str(before.budget_nano), after=str(budget))
        self.put(after)
        return after

    async def freeze(
        self, kind: Kind, name: str, *, reason: str, for_ms: int | None, by: str, new: bool = False
    ) -> Account:
        self._ask("freeze")
        before = account(name, kind=kind) if new and (kind, name) not in self.rows else self._known(kind, name)
        until = None if for_ms is None else self.now_ms + for_ms
        after = replace(before, frozen=True, frozen_reason=reason, frozen_until_ms=until)
        self.happen("freeze", name, by, reason=reason)
        self.put(after)
        return after

    async def unfreeze(self, kind: Kind, name: str, *, by: str) -> Account:
        self._ask("unfreeze")
        after = replace(self._known(kind, name), frozen=False, frozen_reason="", frozen_until_ms=None)
        self.happen("unfreeze", name, by)
        self.put(after)
        return after

    async def reset(self, kind: Kind, name: str, *, by: str) -> Account:
        self._ask("reset")
        before = self._known(kind, name)
        zero = Nano(0)
        after = replace(
            before,
            spent_nano=zero,
            held_nano=zero,
            remaining_nano=before.budget_nano,
            used_percent=0,
            epoch=before.epoch + 1,
        )
        self.happen("reset", name, by, before=str(before.spent_nano))
        self.put(after)
        return after

    async def delete(self, kind: Kind, name: str, *, by: str) -> None:
        self._ask("delete")
        self._known(kind, name)
        del self.rows[kind, name]
        self.happen("delete", name, by)


def _place(event_id: str) -> tuple[int, ...]:
    return tuple(map(int, event_id.split("-")))


def _meets(each: Account, query: Query) -> bool:
    text = query.text
    named = each.name.startswith(text[:-1]) if text.endswith("*") else text.lower() in each.name.lower()
    over = query.over_percent is None or each.used_percent >= query.over_percent
    return named and over and (each.frozen or not query.frozen)


def spend_points(now_ms: int, models: Iterable[tuple[str, float]], hours: int = 24, per: Per = Per.HOUR) -> list[Point]:
    """A day like others: so many USD an hour for each model, more in the middle of it."""
    step = HOUR_MS if per is Per.HOUR else 24 * HOUR_MS
    start = now_ms // step * step
    return [
        Point(
            start_ms=start - step * back,
            name=name,
            spent_nano=Nano(round(usd * USD * (1 + 5 * ((hours - back) % 12) / 12 + (back * 7 % 5) / 4))),
            requests=30 + 5 * ((hours - back) % 12),
            input_tokens=20_000,
            output_tokens=6_000,
        )
        for back in range(hours)
        for name, usd in models
    ]


@dataclass
class Desk:
    """A console on a port of 127.0.0.1, and what it is of."""

    url: str
    control: MemoryControl
    access: Access

    def cookie(self, name: str = "admin") -> str:
        """A session of the page, as a `Cookie` header has it."""
        token = {"admin": ADMIN, "reader": READER}[name]
        principal = self.access.by_token(token)
        if principal is None:
            raise LookupError(name)
        return f"{self.access.cookie}={self.access.open_session(principal, int(time.time()))}"


@asynccontextmanager
async def desk(control: MemoryControl | None = None, hosts: frozenset[str] | None = None) -> AsyncIterator[Desk]:
    control = control or MemoryControl()
    access = Access(ADMIN, READER)
    async with serving(create_console(control, access, tenant="default", hosts=hosts)) as url:
        yield Desk(url, control, access)

"""`Control` over a ledger and its books: of this the admin API is made, and commands that reach the store themselves.

No Redis here: only the protocols. One `LocalControl` serves one tenant, for as long as its owner keeps the store open.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from tokengate.budgets import Policy
from tokengate.control import ControlError, Invalid, Unavailable, Unknown, spending
from tokengate.control.accounts import Accounts
from tokengate.control.words import (
    BY_CHARACTERS_MAX,
    FREEZE_MS_MAX,
    REASON_CHARACTERS_MAX,
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
    Query,
    Sort,
    Spend,
    SpendQuery,
    Stats,
)
from tokengate.domain import Scope
from tokengate.ledger import Ledger, LedgerError
from tokengate.ledger.books import Find, Happening, Lists, Order, Reports, Under
from tokengate.money import AMOUNT_NANO_MAX, format_usd

if TYPE_CHECKING:
    from tokengate.telemetry.standing import Standing

DETAIL_EVENTS_MAX: Final = 50
"""How many events a detail has at the most."""

RULES: Final = frozenset({"freeze", "anomaly", "shadow"})
"""The kinds of events that say why something was frozen, or would have been."""

_ORDERS: Final = {
    Sort.ACTIVITY: Order.ACTIVITY,
    Sort.SPENT: Order.SPENT,
    Sort.SHARE: Order.SHARE,
    Sort.NAME: Order.NAMES,
}

P = ParamSpec("P")
T = TypeVar("T")


def _told(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """What goes wrong with the store is told in the words of `Control`."""

    @functools.wraps(method)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except LedgerError as error:
            raise Unavailable(f"the store cannot do that: {error}") from None

    return told


class LocalControl:
    """See `Control`."""

    def __init__(self, ledger: Ledger, lists: Lists, reports: Reports, policy: Policy, tenant: str) -> None:
        self._ledger = ledger
        self._lists = lists
        self._reports = reports
        self._policy = policy
        self._tenant = tenant
        self._accounts = Accounts(policy, tenant)
        self._hours = spending.Hours(reports)

    # --- to see ---

    @_told
    async def sessions(self, query: Query) -> Page:
        now_ms = await self._lists.now_ms()
        if query.kind is Kind.TENANT or (query.kind is Kind.AGENT and self._policy.agent_cap_nano is None):
            return await self._few(query, now_ms)
        found = await self._lists.find(
            Find(
                kind=query.kind,
                order=_ORDERS[query.sort],
                descending=query.descending,
                offset=query.offset,
                limit=query.limit,
                now_ms=now_ms,
                text=query.text,
                frozen=query.frozen,
                over_percent=query.over_percent or 0,
                period_start_ms=self._accounts.period_start_ms(query.kind, now_ms),
            )
        )
        names = [name.decode(errors="replace") for name in found.names]
        readings = await self._lists.read([self._accounts.listed(query.kind, name) for name in names], found.names)
        rows = [self._accounts.account(reading) for reading in readings]
        if query.sort in (Sort.SPENT, Sort.SHARE):
            # The index is coarse; on the page itself the order is exact, with those that have spent nothing last.
            rows.sort(key=_exactly[query.sort], reverse=query.descending)
            rows.sort(key=lambda row: row.spent_nano == 0)
        return Page(
            rows=rows,
            total=found.total,
            of=found.of,
            next_offset=found.next_offset,
            looked_at=found.looked_at,
            now_ms=now_ms,
        )

    async def _few(self, query: Query, now_ms: int) -> Page:
        """The tenant, of which there is one, if it has a budget; agents, where none has one."""
        rows: list[Account] = []
        if query.kind is Kind.TENANT and self._policy.tenant_cap_nano is not None:
            rows = [await self._stands(Kind.TENANT, self._tenant)]
        return Page(rows=rows, total=len(rows), of=len(rows), next_offset=None, looked_at=len(rows), now_ms=now_ms)

    @_told
    async def detail(self, kind: Kind, name: str) -> Detail:
        own = self._accounts.limit(kind, name)
        now_ms = await self._lists.now_ms()
        [reading] = await self._lists.read([own])
        if not reading.state.known:
            raise await self._unknown(own.scope)
        path = self._accounts.path(own, reading.agent)
        readings = await self._lists.read(path)
        under: list[Under] = []
        complete = True
        if kind is Kind.SESSION:
            under, complete = await self._reports.holds(own.scope.name)
        happenings, _ = await self._reports.events("", DETAIL_EVENTS_MAX, own.scope)
        events = [_event(each) for each in happenings]
        return Detail(
            account=self._accounts.account(readings[0]),
            path=[self._accounts.account(each) for each in readings],
            models=[ModelSpend(model=model, spent_nano=Nano(nano)) for model, nano in reading.models_nano],
            holds=[
                Hold(
                    id=each.hold_id,
                    model=each.model,
                    held_nano=Nano(each.grant_nano),
                    since_ms=each.at_ms,
                    expires_ms=each.expires_ms,
                    owner=each.owner,
                )
                for each in under
            ],
            holds_complete=complete,
            evidence=[each for each in events if each.kind in RULES],
            events=events,
            now_ms=now_ms,
        )

    @_told
    async def account(self, kind: Kind, name: str) -> Account:
        return await self._stands(kind, name)

    @_told
    async def events(self, query: EventQuery) -> EventPage:
        scope = self._accounts.limit(query.kind, query.name).scope if query.kind is not None else None
        happenings, last = await self._reports.events(query.after, query.limit, scope)
        return EventPage(events=[_event(each) for each in happenings], last_id=last)

    @_told
    async def spend(self, query: SpendQuery) -> Spend:
        return await spending.spend(query, self._reports, self._hours, await self._lists.now_ms())

    @_told
    async def stats(self) -> Stats:
        now_ms = await self._lists.now_ms()
        page = await self._lists.find(Find("session", Order.ACTIVITY, True, 0, 1, now_ms))
        tenant = None
        if self._policy.tenant_cap_nano is not None:
            tenant = await self._stands(Kind.TENANT, self._tenant)
        return await spending.stats(
            reports=self._reports,
            hours=self._hours,
            now_ms=now_ms,
            tenant=self._tenant,
            tenant_account=tenant,
            sessions=page.of,
            sessions_frozen=await self._lists.count_frozen(Kind.SESSION, now_ms),
            agents_frozen=await self._lists.count_frozen(Kind.AGENT, now_ms),
        )

    async def standing(self) -> "Standing | None":
        """What is told to Prometheus; None if the store does not say. Sessions are counted, never named."""
        # A command does not need it, and somebody waits for it at a prompt.
        from tokengate.telemetry.standing import AGENTS_MAX, PERCENTS, Budget, Standing  # noqa: PLC0415

        try:
            now_ms = await self._lists.now_ms()
            agents = await self.sessions(Query(kind=Kind.AGENT, sort=Sort.SHARE, limit=AGENTS_MAX))
            tenants = await self._few(Query(kind=Kind.TENANT), now_ms)
            sessions = await self._lists.find(Find("session", Order.ACTIVITY, True, 0, 1, now_ms))
            period_start_ms = self._accounts.period_start_ms(Kind.SESSION, now_ms)
            near = await self._lists.count_over(Kind.SESSION, PERCENTS, period_start_ms)
            frozen = [(kind, await self._lists.count_frozen(kind, now_ms)) for kind in (Kind.SESSION, Kind.AGENT)]
            holds, held_nano = await self._reports.under_way()
            server = await self._reports.server()
        except (LedgerError, ControlError):
            return None
        accounts = [*tenants.rows, *agents.rows]
        return Standing(
            tenant=self._tenant,
            # Names that are no text may look alike.
            budgets=tuple(
                {
                    (each.kind, each.name): Budget(
                        each.kind, each.name, each.budget_nano, each.spent_nano, each.held_nano
                    )
                    for each in accounts
                }.values()
            ),
            held_nano=held_nano,
            holds=holds,
            sessions=sessions.of,
            near=tuple(near),
            frozen=(*frozen, *((Kind.TENANT, int(each.frozen)) for each in tenants.rows)),
            memory_bytes=server.memory_bytes,
            memory_bytes_max=server.memory_bytes_max,
        )

    # --- to change ---

    @_told
    async def set_budget(self, kind: Kind, name: str, budget_nano: int | None, *, by: str) -> Account:
        scope = self._accounts.nameable(kind, name)
        if budget_nano is not None and not 0 <= budget_nano <= AMOUNT_NANO_MAX:
            raise Invalid(f"a budget is at least 0 and at most {format_usd(AMOUNT_NANO_MAX)} USD")
        await self._ledger.set_budget(scope, budget_nano, by=by[:BY_CHARACTERS_MAX])
        return await self._stands(kind, name)

    @_told
    async def freeze(
        self, kind: Kind, name: str, *, reason: str, for_ms: int | None, by: str, new: bool = False
    ) -> Account:
        scope = self._accounts.nameable(kind, name)
        if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
            raise Invalid(f"the reason of a freeze has 1 to {REASON_CHARACTERS_MAX} characters: callers are told it")
        if for_ms is not None and not 1 <= for_ms <= FREEZE_MS_MAX:
            raise Invalid("a freeze lasts at least 1 ms and at most 366 days; without a time, until it is lifted")
        if not new and not (await self._stands(kind, name)).known:
            unknown = await self._unknown(scope)
            if unknown.similar:
                raise unknown
        await self._ledger.freeze(scope, reason=reason, for_ms=for_ms, by=by[:BY_CHARACTERS_MAX])
        return await self._stands(kind, name)

    @_told
    async def unfreeze(self, kind: Kind, name: str, *, by: str) -> Account:
        scope = await self._known(kind, name)
        await self._ledger.unfreeze(scope, by=by[:BY_CHARACTERS_MAX])
        return await self._stands(kind, name)

    @_told
    async def reset(self, kind: Kind, name: str, *, by: str) -> Account:
        scope = await self._known(kind, name)
        await self._ledger.reset(scope, by=by[:BY_CHARACTERS_MAX])
        return await self._stands(kind, name)

    @_told
    async def delete(self, kind: Kind, name: str, *, by: str) -> None:
        scope = await self._known(kind, name)
        await self._ledger.delete(scope, by=by[:BY_CHARACTERS_MAX])

    # --- names ---

    async def _known(self, kind: Kind, name: str) -> Scope:
        limit = self._accounts.limit(kind, name)
        [reading] = await self._lists.read([limit])
        if not reading.state.known:
            raise await self._unknown(limit.scope)
        return limit.scope

    async def _unknown(self, scope: Scope) -> Unknown:
        kind = Kind(scope.kind)
        alike = [] if kind is Kind.TENANT else await self._lists.alike(kind, scope.name)
        return Unknown(kind, scope.name, alike)

    async def _stands(self, kind: Kind, name: str) -> Account:
        [reading] = await self._lists.read([self._accounts.limit(kind, name)])
        return self._accounts.account(reading)


_exactly: Final[dict[Sort, Callable[[Account], Any]]] = {
    Sort.SPENT: lambda row: row.spent_nano,
    Sort.SHARE: lambda row: (
        (row.spent_nano * 10**6 // row.budget_nano) if row.budget_nano else row.used_percent * 10**4
    ),
}


def _event(happening: Happening) -> Event:
    fields = dict(happening.fields)
    at = fields.pop("at_ms", "")
    scope = happening.scope
    for name in ("scope", "session") if scope is not None else ():
        fields.pop(name, None)
    return Event(
        id=happening.id,
        at_ms=int(at) if at.isdigit() else int(happening.id.partition("-")[0]),
        kind=fields.pop("kind", ""),
        scope_kind=scope.kind if scope is not None else "",
        scope_name=scope.name if scope is not None else "",
        by=fields.pop("by", ""),
        fields=fields,
    )

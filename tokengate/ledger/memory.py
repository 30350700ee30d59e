"""The reference model: the ledger's rules in plain Python, for the tests to hold the scripts to.

It has no concurrency, no leases but a dictionary, and a clock that its owner sets. Where this and the scripts differ,
one of them is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from tokengate.anomaly import (
    HISTORY_TTL_MS,
    NO_RULES,
    UNDER_WAY_MS_MAX,
    Fate,
    History,
    Observed,
    Past,
    Rule,
    Rules,
)
from tokengate.anomaly.rules import judge
from tokengate.anomaly.spending import freeze_ms, is_repetition, take
from tokengate.budgets import SHARE, window_start, windows
from tokengate.domain import Ending, Limit, Mode, Scope, Standing
from tokengate.ledger import (
    BY_CHARS_MAX,
    BY_RULE,
    REASON_CHARS_MAX,
    SWEEP_BATCH_MAX,
    Ask,
    Kind,
    ScopeState,
    Settled,
    Settlement,
    Then,
    Verdict,
)

_ACTIVITY_MS: Final = 1000


@dataclass(slots=True)
class _Account:
    """One scope."""

    cap_own_nano: int | None = None
    spent: int = 0
    held: int = 0
    previous_spent: int = 0
    previous_held: int = 0
    epoch: int = 0
    period_start_ms: int | None = None
    assumed: int = 0
    overrun: int = 0
    total: int = 0
    requests: int = 0
    blocked: int = 0
    created_ms: int | None = None
    last_active_ms: int | None = None
    frozen: bool = False
    frozen_reason: str | None = None
    frozen_until_ms: int | None = None
    frozen_at_ms: int | None = None
    frozen_by: str | None = None
    frozen_rule: str | None = None
    freezes: int = 0
    rate_full_at_us: int = 0

    def frozen_at(self, now_ms: int) -> bool:
        return self.frozen and (self.frozen_until_ms is None or now_ms < self.frozen_until_ms)

    def post(self, epoch: int, spend: int, free: int, assumed: int, overrun: int) -> None:
        if epoch == self.epoch:
            self.spent = max(0, self.spent + spend)
            self.held = max(0, self.held - free)
        elif epoch == self.epoch - 1:
            self.previous_spent = max(0, self.previous_spent + spend)
            self.previous_held = max(0, self.previous_held - free)
        self.assumed = max(0, self.assumed + assumed)
        self.overrun += overrun
        self.total += spend


@dataclass(slots=True)
class _Hold:
    """One hold, and what became of it."""

    grant: int
    path: list[tuple[Scope, int]]
    expires_ms: int
    at_ms: int = 0
    state: str = "held"
    charged: int = 0
    ended_ms: int = 0
    failed: bool = False


@dataclass(slots=True)
class MemoryLedger:
    """See `Ledger`."""

    lease_ms: int
    sessions_max: int
    now_ms: int
    rules: Rules = NO_RULES
    _accounts: dict[Scope, _Account] = field(default_factory=dict)
    _histories: dict[Scope, tuple[int, History]] = field(default_factory=dict)
    """What sessions did lately, and when that was written."""
    _holds: dict[str, _Hold] = field(default_factory=dict)
    _graves: dict[Scope, int] = field(default_factory=dict)
    """The next epoch of what was deleted."""

    async def reserve(self, ask: Ask) -> Verdict:
        rolled = [self._rolled(limit) for limit in ask.limits]
        standings = [self._standing(limit, account) for limit, account in zip(ask.limits, rolled, strict=True)]
        tightest = min(range(len(standings)), key=lambda i: _headroom(standings[i]))
        earlier = self._holds.get(ask.hold_id)
        if earlier is not None:
            return Verdict(Kind.HELD, earlier.grant, self.now_ms, standings[tightest])
        session = rolled[0]
        full = len(self._accounts) >= self.sessions_max  # if not, there is no need to look which are sessions
        if session.last_active_ms is None and full and self._sessions() >= self.sessions_max:
            return Verdict(Kind.FULL, 0, self.now_ms, standings[0])
        for standing, account in zip(standings, rolled, strict=True):
            if account.frozen_at(self.now_ms):
                self._block(ask, session)
                return Verdict(
                    Kind.FROZEN,
                    0,
                    self.now_ms,
                    standing,
                    account.frozen_reason or "",
                    account.frozen_until_ms,
                    rule=Rule(account.frozen_rule) if account.frozen_rule else None,
                )
        kind, grant, deciding = _decide(ask, standings, tightest)
        if kind is Kind.HELD:
            rule, refused = self._judge(ask, rolled, standings)
            if refused is not None:
                return refused
            self._hold(ask, rolled, grant)
            limit = ask.limits[deciding]
            return Verdict(kind, grant, self.now_ms, self._standing(limit, rolled[deciding]), rule=rule)
        if kind is Kind.EXCEEDED:
            self._block(ask, session)
        return Verdict(kind, 0, self.now_ms, standings[deciding])

    async def settle(self, settlement: Settlement) -> Settled:
        return self._settle(settlement)

    def _settle(self, settlement: Settlement) -> Settled:
        hold = self._holds.get(settlement.hold_id)
        cost = settlement.cost_nano
        assumed = cost if settlement.assumed else 0
        if hold is not None and hold.state == "settled":
            return Settled(hold.charged, repeated=True)
        if hold is None and cost == 0:
            self._holds[settlement.hold_id] = _Hold(0, [], 0, state="settled")
            return Settled(0, repeated=False)
        if hold is None:
            for limit in settlement.limits:
                account = self._accounts.setdefault(limit.scope, self._new(limit.scope))
                account.post(account.epoch, cost, 0, assumed, 0)
            hold = self._holds[settlement.hold_id] = _Hold(0, [], 0)
        elif hold.state == "held":
            for account, epoch in self._still(hold):
                account.post(epoch, cost, hold.grant, assumed, max(0, cost - hold.grant))
        else:
            for account, epoch in self._still(hold):
                change = cost - hold.charged
                account.post(epoch, change, 0, assumed - hold.charged, max(0, change))
        hold.state, hold.charged = "settled", cost
        hold.ended_ms, hold.failed = self.now_ms, settlement.ending is Ending.REJECTED
        session = self._accounts.get(settlement.limits[0].scope)
        if session is not None:
            session.requests += 1
        return Settled(cost, repeated=False)

    def settle_soon(self, settlement: Settlement, then: Then) -> None:
        self._settle(settlement)
        then(settlement, True)

    def forget(self, hold_id: str) -> None:
        """Drop the record of a settled hold, as the store does after `RECORD_TTL_MS`."""
        if self._holds[hold_id].state == "settled":
            del self._holds[hold_id]

    async def renew(self, tenant: str, hold_ids: Sequence[str]) -> list[str]:  # noqa: ARG002
        gone = []
        for hold_id in hold_ids:
            hold = self._holds.get(hold_id)
            if hold is None or hold.state != "held":
                gone.append(hold_id)
            else:
                hold.expires_ms = max(hold.expires_ms, self.now_ms + self.lease_ms)
        return gone

    async def sweep(self, tenant: str) -> int:
        due = [
            hold
            for hold in self._holds.values()
            if hold.state == "held" and hold.expires_ms <= self.now_ms and hold.path[0][0].tenant == tenant
        ]
        due = sorted(due, key=lambda hold: hold.expires_ms)[:SWEEP_BATCH_MAX]
        for hold in due:
            for account, epoch in self._still(hold):
                account.post(epoch, hold.grant, hold.grant, hold.grant, 0)
            hold.state, hold.charged = "expired", hold.grant
        return len(due)

    async def state(self, limit: Limit) -> ScopeState:
        known = limit.scope in self._accounts
        account = self._accounts.get(limit.scope) or _Account()
        spent, held, epoch, resets_at = account.spent, account.held, account.epoch, None
        window = window_start(windows(limit, self.now_ms), self.now_ms)
        if window is not None:
            resets_at = window[1]
            if account.period_start_ms is not None and window[0] > account.period_start_ms:
                spent, held, epoch = 0, 0, epoch + 1
        own = account.cap_own_nano
        return ScopeState(
            scope=limit.scope,
            known=known,
            cap_nano=limit.cap_default_nano if own is None else own,
            cap_is_default=own is None,
            spent_nano=spent,
            held_nano=held,
            epoch=epoch,
            resets_at_ms=resets_at,
            assumed_nano=account.assumed,
            overrun_nano=account.overrun,
            total_nano=account.total,
            requests=account.requests,
            blocked=account.blocked,
            created_ms=account.created_ms,
            last_active_ms=account.last_active_ms,
            frozen=account.frozen_at(self.now_ms),
            frozen_reason=account.frozen_reason,
            frozen_until_ms=account.frozen_until_ms,
            frozen_at_ms=account.frozen_at_ms,
            frozen_by=account.frozen_by,
            frozen_rule=account.frozen_rule,
        )

    async def set_budget(self, scope: Scope, cap_nano: int | None, *, by: str = "") -> None:  # noqa: ARG002
        account = self._accounts.setdefault(scope, self._new(scope))
        account.cap_own_nano = cap_nano
        if account.created_ms is None:
            account.created_ms = account.last_active_ms = self.now_ms

    async def reset(self, scope: Scope, *, by: str = "") -> None:  # noqa: ARG002
        account = self._accounts.setdefault(scope, self._new(scope))
        account.previous_spent, account.previous_held = account.spent, account.held
        account.spent, account.held, account.epoch = 0, 0, account.epoch + 1

    async def freeze(self, scope: Scope, *, reason: str, for_ms: int | None, by: str) -> bool:
        account = self._accounts.setdefault(scope, self._new(scope))
        before = account.frozen_at(self.now_ms)
        account.frozen, account.frozen_reason = True, reason[:REASON_CHARS_MAX]
        account.frozen_until_ms = None if for_ms is None else self.now_ms + for_ms
        account.frozen_at_ms, account.frozen_by = self.now_ms, by[:BY_CHARS_MAX]
        account.frozen_rule, account.freezes = None, 0
        self._histories.pop(scope, None)
        if account.created_ms is None:
            account.created_ms = account.last_active_ms = self.now_ms
        return before

    async def unfreeze(self, scope: Scope, *, by: str) -> bool:  # noqa: ARG002
        account = self._accounts.get(scope)
        if account is None:
            return False
        before = account.frozen_at(self.now_ms)
        account.frozen, account.frozen_reason, account.frozen_until_ms = False, None, None
        account.frozen_at_ms, account.frozen_by, account.frozen_rule, account.freezes = None, None, None, 0
        self._histories.pop(scope, None)
        return before

    async def delete(self, scope: Scope, *, by: str = "") -> bool:  # noqa: ARG002
        account = self._accounts.pop(scope, None)
        if account is not None:
            self._histories.pop(scope, None)
            self._graves[scope] = account.epoch + 1
        return account is not None

    def _new(self, scope: Scope) -> _Account:
        return _Account(epoch=self._graves.get(scope, 0))

    def _still(self, hold: _Hold) -> list[tuple[_Account, int]]:
        """The accounts of a hold's path that were not deleted meanwhile."""
        return [(self._accounts[scope], epoch) for scope, epoch in hold.path if scope in self._accounts]

    def _rolled(self, limit: Limit) -> _Account:
        """A copy of the account in the period of now; only an answer that changes it is kept."""
        account = replace(self._accounts.get(limit.scope) or self._new(limit.scope))
        window = window_start(windows(limit, self.now_ms), self.now_ms)
        if window is not None and window[0] > (account.period_start_ms or 0):
            if account.period_start_ms is not None:
                account.previous_spent, account.previous_held = account.spent, account.held
                account.spent, account.held, account.epoch = 0, 0, account.epoch + 1
            account.period_start_ms = window[0]
        return account

    def _standing(self, limit: Limit, account: _Account) -> Standing:
        window = window_start(windows(limit, self.now_ms), self.now_ms)
        cap = limit.cap_default_nano if account.cap_own_nano is None else account.cap_own_nano
        return Standing(limit.scope, cap, account.spent, account.held, window[1] if window else None)

    def _hold(self, ask: Ask, accounts: list[_Account], grant: int) -> None:
        for limit, account in zip(ask.limits, accounts, strict=True):
            account.held += grant
            if account.last_active_ms is None:
                account.created_ms = self.now_ms
            if account.last_active_ms is None or self.now_ms - account.last_active_ms >= _ACTIVITY_MS:
                account.last_active_ms = self.now_ms
            self._accounts[limit.scope] = account
        path = [(limit.scope, account.epoch) for limit, account in zip(ask.limits, accounts, strict=True)]
        self._holds[ask.hold_id] = _Hold(grant, path, self.now_ms + self.lease_ms, self.now_ms)

    def _judge(
        self, ask: Ask, accounts: list[_Account], standings: list[Standing]
    ) -> tuple[Rule | None, Verdict | None]:
        """Whether rates and rules admit what the budgets would: the rule that a shadow has hit, and the refusal."""
        rule, taken = None, []
        for limit, account, standing in zip(ask.limits, accounts, standings, strict=True):
            if limit.rate is not None and limit.rate.mode is not Mode.OFF:
                full_at_us, wait_ms = take(limit.rate, account.rate_full_at_us, self.now_ms)
                if wait_ms and limit.rate.mode is Mode.ENFORCE:
                    self._block(ask, accounts[0])
                    return None, Verdict(Kind.LIMITED, 0, self.now_ms, standing, rule=Rule.RATE, retry_after_ms=wait_ms)
                if wait_ms:
                    rule = Rule.RATE
                else:
                    taken.append((account, full_at_us))
        if self.rules.on:
            shadow, frozen = self._watch(ask, accounts[0], standings[0])
            if frozen is not None:
                return None, frozen
            rule = shadow or rule
        for account, full_at_us in taken:
            account.rate_full_at_us = full_at_us
        return rule, None

    def _watch(self, ask: Ask, session: _Account, standing: Standing) -> tuple[Rule | None, Verdict | None]:
        scope = ask.limits[0].scope
        at_ms, history = self._histories.get(scope, (self.now_ms, History()))
        if self.now_ms - at_ms > HISTORY_TTL_MS:
            history = History()
        call = Observed(ask.hold_id, self.now_ms, ask.model, ask.mark, max(0, session.total), session.requests)
        judgement = judge(history, call, self.rules, self._past)
        if judgement.freeze is None:
            self._histories[scope] = self.now_ms, judgement.history
            return judgement.shadow, None
        found = judgement.freeze
        self._histories.pop(scope, None)
        session.freezes = session.freezes + 1 if is_repetition(session.frozen_until_ms, self.now_ms) else 1
        session.frozen, session.frozen_reason, session.frozen_by = True, found.reason, BY_RULE
        session.frozen_at_ms, session.frozen_rule = self.now_ms, found.rule
        session.frozen_until_ms = self.now_ms + freeze_ms(self.rules, session.freezes - 1)
        self._block(ask, session)
        until_ms = session.frozen_until_ms
        return None, Verdict(Kind.FROZEN, 0, self.now_ms, standing, found.reason, until_ms, rule=found.rule)

    def _past(self, hold_id: str) -> Past:
        hold = self._holds.get(hold_id)
        if hold is None:
            return Past(Fate.ANSWERED)
        if hold.state == "held":
            if self.now_ms - hold.at_ms > UNDER_WAY_MS_MAX:
                return Past(Fate.ANSWERED, hold.at_ms)
            return Past(Fate.UNDER_WAY, hold.at_ms, self.now_ms)
        return Past(Fate.FAILED if hold.failed else Fate.ANSWERED, hold.at_ms, hold.ended_ms, hold.charged)

    def _block(self, ask: Ask, session: _Account) -> None:
        self._accounts[ask.limits[0].scope] = session
        session.blocked += 1
        if session.last_active_ms is None:
            session.created_ms = self.now_ms
        session.last_active_ms = self.now_ms

    def _sessions(self) -> int:
        return sum(
            1 for scope, account in self._accounts.items() if scope.kind == "session" and account.created_ms is not None
        )


def _headroom(standing: Standing) -> int:
    return standing.cap_nano - standing.spent_nano - standing.held_nano


def _decide(ask: Ask, standings: list[Standing], tightest: int) -> tuple[Kind, int, int]:
    """The rule of grants: the verdict, the grant, and which limit decided it."""
    headroom = _headroom(standings[tightest])
    fair = headroom // SHARE
    if not ask.exact:
        return (Kind.HELD, ask.want_nano, tightest) if ask.want_nano <= fair else (Kind.TIGHT, 0, tightest)
    for index, standing in enumerate(standings):
        if standing.cap_nano - standing.spent_nano < ask.floor_nano:
            return Kind.EXCEEDED, 0, index
    if headroom >= ask.need_nano:
        return Kind.HELD, max(ask.need_nano, min(ask.want_nano, fair)), tightest
    for index, standing in enumerate(standings):
        if _headroom(standing) < ask.need_nano and standing.held_nano > 0:
            return Kind.BUSY, 0, index
    return Kind.HELD, min(ask.want_nano, headroom), tightest

"""Accounts: from the name that an administrator gives to the limit of a ledger, and from its reading to what is shown.

Rules of the policy alone; nothing here asks a store.
"""

import re

from tokengate.budgets import Policy, limits, session_limit, window_start, windows
from tokengate.control import Invalid
from tokengate.control.words import Account, Kind, Nano
from tokengate.domain import NAME_CHARACTERS_MAX, NAME_PATTERN, Limit, Period, Scope, Session
from tokengate.ledger.state import Reading


class Accounts:
    """The accounts that a tenant can have by a policy."""

    def __init__(self, policy: Policy, tenant: str) -> None:
        self._policy = policy
        self._tenant = tenant

    def limit(self, kind: Kind, name: str) -> Limit:
        """The limit that an account stands for.

        Raises:
            Invalid: the name is none, or accounts of this kind have no budgets here.
        """
        policy = self._policy
        if kind is Kind.TENANT:
            if name not in ("", self._tenant):
                raise Invalid(f"this is the store's tenant {self._tenant}, not {name}")
            if policy.tenant_cap_nano is None:
                raise Invalid("the tenant has no budget here: set TENANT_BUDGET, for the gates too")
            scope = Scope(self._tenant, kind.value, self._tenant)
            return Limit(scope, policy.tenant_cap_nano, policy.tenant_period, policy.timezone)
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise Invalid(f"a name has 1 to {NAME_CHARACTERS_MAX} characters")
        return self.listed(kind, name)

    def listed(self, kind: Kind, name: str) -> Limit:
        """The same for a session or an agent that the store has, whatever it is called.

        Raises:
            Invalid: agents have no budgets here.
        """
        policy = self._policy
        if kind is Kind.SESSION:
            return session_limit(policy, Session(name, self._tenant))
        if policy.agent_cap_nano is None:
            raise Invalid("agents have no budgets here: set AGENT_BUDGET, for the gates too")
        return Limit(Scope(self._tenant, kind.value, name), policy.agent_cap_nano, policy.agent_period, policy.timezone)

    def period_start_ms(self, kind: Kind, now_ms: int) -> int:
        """When the period of now began; 0 without periods."""
        window = window_start(windows(self.limit(kind, "x"), now_ms), now_ms)
        return window[0] if window is not None else 0

    def nameable(self, kind: Kind, name: str) -> Scope:
        """The same for what may be made: a name that a call could have.

        Raises:
            Invalid: no call could have the name, or accounts of this kind have no budgets here.
        """
        scope = self.limit(kind, name).scope
        if re.fullmatch(NAME_PATTERN, scope.name, re.ASCII) is None:
            raise Invalid(
                f"{name!r} is no {kind} id: 1 to {NAME_CHARACTERS_MAX} letters, digits or . _ : @ + = ~ - ,"
                " beginning with a letter or a digit"
            )
        return scope

    def path(self, own: Limit, agent: str) -> list[Limit]:
        """The limits that calls of an account meet, its own first."""
        if own.scope.kind == Kind.SESSION:
            return list(limits(self._policy, Session(own.scope.name, self._tenant, agent)))
        above = limits(self._policy, Session("x", self._tenant))[1:]
        return [own, *(limit for limit in above if limit.scope != own.scope)]

    def account(self, reading: Reading) -> Account:
        """How an account stands, by what the store says of it."""
        state = reading.state
        kind = Kind(state.scope.kind)
        return Account(
            kind=kind,
            name=state.scope.name,
            known=state.known,
            budget_nano=Nano(state.cap_nano),
            budget_is_default=state.cap_is_default,
            spent_nano=Nano(state.spent_nano),
            held_nano=Nano(state.held_nano),
            remaining_nano=Nano(state.remaining_nano),
            used_percent=_percent(state.spent_nano, state.cap_nano),
            period=self._period(kind),
            resets_at_ms=state.resets_at_ms,
            frozen=state.frozen,
            frozen_reason=(state.frozen_reason or "") if state.frozen else "",
            frozen_until_ms=state.frozen_until_ms if state.frozen else None,
            frozen_at_ms=state.frozen_at_ms if state.frozen else None,
            frozen_by=(state.frozen_by or "") if state.frozen else "",
            total_nano=Nano(state.total_nano),
            assumed_nano=Nano(state.assumed_nano),
            overrun_nano=Nano(state.overrun_nano),
            epoch=state.epoch,
            requests=state.requests,
            blocked=state.blocked,
            agent=reading.agent,
            created_ms=state.created_ms,
            last_active_ms=state.last_active_ms,
            fault=reading.fault,
        )

    def _period(self, kind: Kind) -> Period:
        policy = self._policy
        return {
            Kind.SESSION: policy.session_period,
            Kind.AGENT: policy.agent_period,
            Kind.TENANT: policy.tenant_period,
        }[kind]


def _percent(part: int, whole: int) -> int:
    if whole == 0:
        return 100 if part else 0
    return part * 100 // whole

"""What a gate may spend while the store is away: one sum for all of its calls, kept in its own memory.

The rule is that of `reserve.lua` for a budget: what is held and what is spent never exceed the cap, a call gets its
worst case while that is small change, and a fair share near the end. `spent` is what the store has not been told yet.
"""

from typing import Final

from tokengate.budgets import SHARE
from tokengate.domain import Scope, Standing
from tokengate.ledger import Ask, Kind

SCOPE_KIND: Final = "allowance"
_SCOPE_NAME: Final = "(STORE_ALLOWANCE) while the store is away"


class Allowance:
    """`held_nano + spent_nano <= cap_nano`, but for what providers bill beyond a hold; no cap admits everything."""

    def __init__(self, cap_nano: int | None) -> None:
        self.cap_nano = cap_nano
        self.held_nano = 0
        self.spent_nano = 0

    def grant(self, ask: Ask) -> tuple[Kind, int]:
        """What a call may hold, by the rule; HELD is not noted before `hold`."""
        if self.cap_nano is None:
            return Kind.HELD, ask.want_nano
        headroom = self.cap_nano - self.spent_nano - self.held_nano
        fair = headroom // SHARE
        if not ask.exact:
            return (Kind.HELD, ask.want_nano) if ask.want_nano <= fair else (Kind.TIGHT, 0)
        if self.cap_nano - self.spent_nano < ask.floor_nano:
            return Kind.EXCEEDED, 0
        if headroom >= ask.need_nano:
            return Kind.HELD, max(ask.need_nano, min(ask.want_nano, fair))
        if self.held_nano > 0:
            return Kind.BUSY, 0
        return Kind.HELD, min(ask.want_nano, headroom)

    def hold(self, grant_nano: int) -> None:
        """Set a grant aside."""
        self.held_nano += grant_nano

    def spend(self, grant_nano: int, cost_nano: int) -> None:
        """A call has ended: its hold is free, its cost is not known to the store yet."""
        self.held_nano -= grant_nano
        self.spent_nano += cost_nano

    def posted(self, cost_nano: int) -> None:
        """The store has been told of a cost."""
        self.spent_nano -= cost_nano

    def standing(self, ask: Ask) -> Standing:
        """How the allowance stands; without a cap, the call's first limit as it would stand with nothing spent."""
        limit = ask.limits[0]
        if self.cap_nano is None:
            return Standing(limit.scope, limit.cap_default_nano, 0, ask.want_nano)
        scope = Scope(limit.scope.tenant, SCOPE_KIND, _SCOPE_NAME)
        return Standing(scope, self.cap_nano, self.spent_nano, self.held_nano)

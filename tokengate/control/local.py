"""`Control` over a ledger: what the commands use where they reach the store themselves, and what the admin API is of.

No Redis here: only the protocols.
"""

from dataclasses import dataclass

from tokengate.budgets import Policy, session_limit
from tokengate.domain import Session
from tokengate.ledger import Ledger, ScopeState


@dataclass(frozen=True, slots=True)
class LocalControl:
    """The administrator's view of one tenant."""

    ledger: Ledger
    policy: Policy
    tenant: str

    async def budget(self, session_id: str) -> ScopeState:
        """How a session stands; one that nobody has named yet stands at its start."""
        return await self.ledger.state(session_limit(self.policy, Session(session_id, self.tenant)))

    async def set_budget(self, session_id: str, cap_nano: int) -> ScopeState:
        """Give a session a cap of its own, and say how it stands now."""
        limit = session_limit(self.policy, Session(session_id, self.tenant))
        await self.ledger.set_budget(limit.scope, cap_nano)
        return await self.ledger.state(limit)

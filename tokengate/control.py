"""What an administrator can do, whatever they hold in their hands: a terminal, a page, an API. No HTTP, no Redis.

Amounts are nano-USD; a session is named within the tenant that the settings name.
"""

from dataclasses import dataclass

from tokengate.budgets import Policy, session_limit
from tokengate.domain import Session
from tokengate.ledger import Ledger, ScopeState


@dataclass(frozen=True, slots=True)
class Control:
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

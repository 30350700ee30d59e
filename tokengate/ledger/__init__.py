"""The ledger: what is spent and what is held, per scope, with every change atomic and counted once.

`Ledger` is the protocol; `redis` keeps it in a shared server by the scripts beside it, `memory` is the reference
model that the tests hold them to. A call is a two-phase transfer: `reserve` holds an amount against every limit on
its path or against none, `settle` turns the hold into what was really spent, exactly once, however often it is said.
"""

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Final, Protocol

from msgspec import Struct

from tokengate.anomaly import Mark, Rule
from tokengate.domain import Ending, Limit, Scope, Session, Standing, Usage

RECORD_TTL_MS: Final = 15 * 60 * 1000
"""How long a settled hold is remembered, so that a settlement said twice counts once. Far above any retry of ours."""

EXPIRED_TTL_MS: Final = 24 * 60 * 60 * 1000
"""How long an expired hold is remembered, so that a late settlement can still correct what was assumed."""

SWEEP_BATCH_MAX: Final = 200
"""How many expired holds one sweep closes at the most."""

RENEW_BATCH_MAX: Final = 1000
"""How many leases one renewal command extends at the most."""


REASON_CHARS_MAX: Final = 1000
"""How much of the reason of a freeze is kept."""

BY_CHARS_MAX: Final = 200
"""How much of the name of whoever freezes is kept."""

BY_RULE: Final = "anomaly"
"""Who freezes where a rule does."""


class LedgerError(Exception):
    """The ledger could not answer. `StoreUnavailable` is the only kind that callers tell apart."""


class StoreUnavailable(LedgerError):
    """The store did not answer in time, or refused; nothing is known about the effect of the command."""


class Kind(StrEnum):
    """What the ledger says to a reservation."""

    HELD = "held"
    TIGHT = "tight"
    """The bound that was asked for is not small change here: count exactly and ask again."""
    BUSY = "busy"
    """It does not fit while others hold; it may once they have settled."""
    EXCEEDED = "exceeded"
    LIMITED = "limited"
    """The rate of a scope is used up."""
    FROZEN = "frozen"
    INVALID = "invalid"
    """A budget in the store is not an amount."""
    FULL = "full"
    """The tenant has as many sessions as it may have."""


class Ask(Struct, frozen=True, gc=False):
    """A reservation: `floor_nano <= need_nano <= want_nano`, of which as much is held as is fair."""

    hold_id: str
    session: Session
    limits: tuple[Limit, ...]
    floor_nano: int
    need_nano: int
    want_nano: int
    exact: bool
    """False: the amounts are cheap bounds; hold `want_nano` if that is no more than a fair share, else say TIGHT."""
    model: str
    mark: Mark | None = None
    """By what the call is told whether it repeats another one; None where no rule asks for it."""


class Verdict(Struct, frozen=True, gc=False):
    """The answer to a reservation."""

    kind: Kind
    grant_nano: int
    now_ms: int
    standing: Standing
    """The limit that decided it (for HELD, the tightest), as it stands after the answer."""
    frozen_reason: str | None = None
    frozen_until_ms: int | None = None
    invalid: str | None = None
    """The text that is not an amount."""
    rule: Rule | None = None
    """LIMITED: `rate`. FROZEN: the one that has frozen the session, if one has. HELD: the one that would have
    refused it, were it enforced."""
    retry_after_ms: int = 0
    """LIMITED: when one more may come."""
    waited_us: int = 0
    """How long the call stood in line for it, in microseconds; known to the gate, not to the store."""


class Settlement(Struct, frozen=True, gc=False):
    """What a held call really cost."""

    hold_id: str
    session: Session
    limits: tuple[Limit, ...]
    """The path again: should the store have lost the hold (a failover), the cost is charged all the same."""
    cost_nano: int
    assumed: bool
    ending: Ending
    model: str
    usage: Usage


class Settled(Struct, frozen=True, gc=False):
    """The answer to a settlement; the same for every repetition."""

    charged_nano: int
    repeated: bool


class Replayed(IntEnum):
    """What became of a line of a journal."""

    POSTED = 0
    REPEATED = 1
    LEFT_OUT = 2
    """The store knows no such hold any more, and may have charged it."""


class ScopeState(Struct, frozen=True, gc=False):
    """Everything that is known of one scope, for people."""

    scope: Scope
    known: bool
    """False: no call and no person has ever named it; the figures are what it would start with."""
    cap_nano: int
    cap_is_default: bool
    spent_nano: int
    held_nano: int
    epoch: int
    resets_at_ms: int | None
    assumed_nano: int
    overrun_nano: int
    total_nano: int
    """Spent over all epochs."""
    requests: int
    blocked: int
    created_ms: int | None
    last_active_ms: int | None
    frozen: bool
    frozen_reason: str | None
    """Why, even if the freeze is over; None if nobody ever froze it, or somebody has lifted the freeze."""
    frozen_until_ms: int | None
    """When the freeze ends by itself; None: when somebody lifts it."""
    frozen_at_ms: int | None
    frozen_by: str | None
    frozen_rule: str | None
    """The rule that froze it; None if it was a person."""

    @property
    def remaining_nano(self) -> int:
        return max(0, self.cap_nano - self.spent_nano - self.held_nano)


Then = Callable[[Settlement, bool], None]
"""What is told of a settlement that nobody waits for."""


class Watch(Protocol):
    """What is told how the store does. It must not raise."""

    def answered(self, operation: str, took_us: int) -> None:
        """The store has answered, be it with an error, after so many microseconds."""
        ...

    def unanswered(self, operation: str) -> None:
        """The store could not be asked, has not answered in time, or has said that it cannot serve."""
        ...

    def unjudged(self) -> None:
        """The rules for runaways failed over a call; its budgets alone have admitted it."""
        ...


class Ledger(Protocol):
    """Every operation is atomic. All raise `StoreUnavailable` if the store does not answer."""

    async def reserve(self, ask: Ask) -> Verdict:
        """Hold an amount against every limit of the path, or against none. A repeat gives the first grant again."""
        ...

    async def settle(self, settlement: Settlement) -> Settled:
        """Free the hold and record the cost: once, whatever is repeated; corrects a hold that has expired meanwhile."""
        ...

    def settle_soon(self, settlement: Settlement, then: Then) -> None:
        """Send a settlement and wait for nothing; `then` hears whether it is known to be posted. Never raises."""
        ...

    async def renew(self, tenant: str, hold_ids: Sequence[str]) -> list[str]:
        """Extend the leases of holds; gives the ids that are no longer held (expired, settled or lost)."""
        ...

    async def sweep(self, tenant: str) -> int:
        """Charge holds whose lease ran out, in full and flagged; gives how many, at most `SWEEP_BATCH_MAX`."""
        ...

    async def state(self, limit: Limit) -> ScopeState: ...

    async def set_budget(self, scope: Scope, cap_nano: int | None, *, by: str = "") -> None:
        """Give a scope a cap of its own, or (None) let it follow the default again. `by`: who, for the event."""
        ...

    async def reset(self, scope: Scope, *, by: str = "") -> None:
        """Start a new epoch: nothing spent, nothing held; what is still held settles in the old one."""
        ...

    async def freeze(self, scope: Scope, *, reason: str, for_ms: int | None, by: str) -> bool:
        """Refuse every call of a scope for a time, or (None) until somebody lifts it; takes the place of a freeze.

        A scope is looked at only if it is on the path of a call: an agent or a tenant without a limit is not.

        Args:
            scope: what is frozen; one that no call has named yet is made.
            reason: what a refused caller is told; cut at `REASON_CHARS_MAX`.
            for_ms: how long; at least 1.
            by: who does it, for the record of events; cut at `BY_CHARS_MAX`.

        Returns:
            Whether it was frozen already.
        """
        ...

    async def unfreeze(self, scope: Scope, *, by: str) -> bool:
        """Lift a freeze; gives whether there was one that was not over."""
        ...

    async def delete(self, scope: Scope, *, by: str = "") -> bool:
        """Forget a scope; should it be named again, it starts anew, and what was held before cannot be posted to it.

        Gives whether there was one.
        """
        ...


class Kept(Protocol):
    """Whose an answer is that the provider keeps."""

    async def remember(self, session: Session, name: str) -> None:
        """Note that a session made what the provider calls so. Never raises: what is not noted cannot be asked for."""
        ...

    async def made(self, session: Session, name: str) -> bool:
        """Whether a session made what the provider calls so.

        Raises:
            LedgerError: the store does not say.
        """
        ...


class Tallies(Protocol):
    """Statistics that gates post: sums by tenant and hour, of names that they choose. The money is `Ledger`'s."""

    async def tally(self, tenant: str, sums: Mapping[str, int]) -> None:
        """Add to the sums of this hour; a repetition adds again.

        Raises:
            LedgerError: they may not have been added.
        """
        ...

    async def tallies(self, tenant: str, hours: Sequence[int]) -> list[dict[str, int]]:
        """The sums of hours (their numbers since the epoch), in that order; empty where there are none.

        Raises:
            LedgerError: they cannot be read.
        """
        ...


class Replayable(Ledger, Protocol):
    """A ledger that can be told later what was spent while it was away: lines of journals, each exactly once."""

    async def resume(self, tenant: str, journal: str) -> int:
        """Say that a journal is to be posted; gives the number of its last line that has been, 0 for none."""
        ...

    async def replay(self, settlement: Settlement, journal: str, line: int, *, known: bool) -> Replayed:
        """Post a line; lines come in ascending order. `known`: only if the store still knows the hold."""
        ...

    async def forget(self, tenant: str, journal: str) -> None:
        """A journal is posted in full and is no more."""
        ...

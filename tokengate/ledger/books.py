"""What may be read of a tenant, for people: lists, reports, events, calls under way. The protocols; no Redis here.

Nothing here stands in a call's way, and nothing is made up: the scripts of the ledger keep all of it, each part in the
same step as what it is about. `lists` and `reports` read it from a Redis.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from tokengate.domain import Limit, Scope
from tokengate.ledger.state import Reading

LOOKED_AT_MAX: Final = 10_000
"""How many names one page of a list looks at, at the most, where no index knows the answer."""

SORTED_MAX: Final = 1000
"""Up to how many names a list is sorted here, if no index has it in the order that is asked for."""

EVENTS_LOOKED_AT_MAX: Final = 5000
"""How many events are looked at for those of one scope, at the most."""

HOLDS_LOOKED_AT_MAX: Final = 5000
"""How many calls under way are looked at for those of one session, or for what they hold, at the most."""

TOP_MAX: Final = 200
"""How many names of a day are told apart in a report, at the most."""

TENANTS_MAX: Final = 100
"""How many tenants a report tells apart, at the most."""


class Order(StrEnum):
    """What a list is in the order of; the names of the indexes."""

    ACTIVITY = ""
    NAMES = "names"
    SPENT = "spent"
    SHARE = "share"


class Find(Struct, frozen=True):
    """Which scopes of a kind, in which order, from where on."""

    kind: str
    order: Order
    descending: bool
    offset: int
    limit: int
    now_ms: int
    text: str = ""
    """Only names that contain it, in whatever case; with `*` at its end: that begin with it, as it is written."""
    frozen: bool = False
    over_percent: int = 0
    """Only those that have spent at least so much of their budget; 0: all."""
    period_start_ms: int = 0
    """Of the period of now, for what is spent; 0 without periods."""


class Found(Struct, frozen=True):
    """A page of names; as bytes, since a person may have put anything into the store."""

    names: list[bytes]
    total: int | None
    """How many there are that meet the conditions; None if it takes looking at all."""
    of: int
    next_offset: int | None
    looked_at: int


class Under(Struct, frozen=True):
    """A call under way."""

    hold_id: str
    model: str
    grant_nano: int
    at_ms: int
    expires_ms: int
    owner: str


class Used(Struct):
    """What calls have used."""

    cost_nano: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    def add(self, other: "Used") -> None:
        self.cost_nano += other.cost_nano
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.requests += other.requests


class Hour(Struct, frozen=True):
    """The roll-up of one hour."""

    hour: int
    """Counted since the epoch."""
    models: dict[str, Used]


class Happening(Struct, frozen=True):
    """An event."""

    id: str
    fields: dict[str, str]
    scope: Scope | None
    """What it is about, if it says so."""


class Server(Struct, frozen=True):
    """The server that keeps the books."""

    version: str
    memory_bytes: int | None
    memory_bytes_max: int | None
    evicts: bool


class Lists(Protocol):
    """Scopes of one tenant. All raise `LedgerError` if the store does not answer, or will not."""

    async def now_ms(self) -> int:
        """The store's clock."""
        ...

    async def read(self, limits: Sequence[Limit], names: Sequence[bytes] = ()) -> list[Reading]:
        """How scopes stand. `names`: what they are called in the store, where that may be no text."""
        ...

    async def find(self, find: Find) -> Found:
        """A page of names."""
        ...

    async def count_frozen(self, kind: str, now_ms: int) -> int: ...

    async def count_over(self, kind: str, percents: Sequence[int], period_start_ms: int) -> list[int]:
        """How many have spent at least so much of their budget (in whole percent), for each of `percents`.

        `period_start_ms`: of the period of now; 0 without periods.
        """
        ...

    async def alike(self, kind: str, name: str) -> list[str]:
        """Names that there are and that look like one that there is not; the likeliest first, a few at the most."""
        ...


class Reports(Protocol):
    """What happened in one tenant. All raise `LedgerError` if the store does not answer, or will not."""

    async def tenants(self) -> list[str]:
        """The tenants that gates of this store have served: this one, then those that a gate was started for last."""
        ...

    def of(self, tenant: str) -> "Reports":
        """The reports of another tenant."""
        ...

    async def hours(self, first: int, last: int) -> list[Hour]:
        """The roll-ups of hours, both ends included; hours without any are left out."""
        ...

    async def counted(self, first: int, last: int) -> list[dict[str, int]]:
        """What gates have counted in hours, both ends included: `telemetry.rollup.read` makes sense of it."""
        ...

    async def days(self, kind: str, first: int, last: int, name: str = "") -> list[tuple[int, list[tuple[str, int]]]]:
        """What was spent on days, by session or agent: (day, [(name, nano-USD)]), the dearest first."""
        ...

    async def events(self, after: str, limit: int, scope: Scope | None) -> tuple[list[Happening], str]:
        """Events, ascending, and the id of the last one looked at."""
        ...

    async def holds(self, session_id: str) -> tuple[list[Under], bool]:
        """The calls under way of a session, and whether that is all of them."""
        ...

    async def under_way(self) -> tuple[int, int | None]:
        """How many calls are under way, and what they hold; None if they are too many to look at."""
        ...

    async def server(self) -> Server: ...

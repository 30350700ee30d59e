"""What an administrator sees, as values that are the same in a terminal, in a page and on the wire. No I/O.

In JSON an amount is a string of USD, exact to the nano-dollar (`"spent_usd": "7.50"`): a JSON number would be a float
in most readers. In Python it is whole nano-dollars, as everywhere (`spent_nano`). Instants are milliseconds since the
epoch. `encoding` writes and reads them.
"""

import re
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, Struct

from tokengate.domain import Period
from tokengate.money import NANO_PER_USD

PAGE_MAX: Final = 500
"""How many rows one page of a list has at the most."""

PAGE_DEFAULT: Final = 50

LOOKED_AT_MAX: Final = 10_000
"""How many sessions one page looks at, at the most, where no index knows the answer (a search within names)."""

TEXT_CHARACTERS_MAX: Final = 128
REASON_CHARACTERS_MAX: Final = 500
BY_CHARACTERS_MAX: Final = 128

EVENTS_MAX: Final = 1000
"""How many events one answer has at the most."""

SERIES_MAX: Final = 50
"""How many names one answer about spending tells apart at the most; the others are one, without a name."""

POINTS_MAX: Final = 10_000
"""How many figures one answer about spending has at the most."""

FREEZE_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""The longest freeze that ends by itself."""

_AMOUNT = re.compile(r"(-?)(\d{1,16})(?:\.(\d{1,9}))?", re.ASCII)


class Nano(int):
    """An amount of nano-USD; on the wire a string of USD. It may be below zero: a correction."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "Nano":
        """Read what `encoding` writes.

        Raises:
            ValueError: not a plain decimal.
        """
        match = _AMOUNT.fullmatch(text)
        if match is None:
            raise ValueError("not an amount in USD")
        sign, whole, fraction = match.group(1), match.group(2), match.group(3) or ""
        nano = int(whole) * NANO_PER_USD + int(fraction.ljust(9, "0"))
        return cls(-nano if sign else nano)


def _on_the_wire(field: str) -> str:
    return f"{field.removesuffix('_nano')}_usd" if field.endswith("_nano") else field


class Word(Struct, frozen=True, rename=_on_the_wire):
    """What goes over the wire."""


class Kind(StrEnum):
    """What a budget belongs to."""

    SESSION = "session"
    AGENT = "agent"
    TENANT = "tenant"


class Sort(StrEnum):
    """What a list is in the order of."""

    ACTIVITY = "activity"
    """When it was last active."""
    SPENT = "spent"
    """What it has spent in its period: exact within a page, to 5% or a cent across pages. Nothing spent comes last."""
    SHARE = "share"
    """How much of its budget it has spent, in whole percent; those that have spent nothing come last."""
    NAME = "name"


Offset = Annotated[int, Meta(ge=0, le=2**53)]
Percent = Annotated[int, Meta(ge=0, le=1000)]
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]


class Query(Word, frozen=True, kw_only=True):
    """Which accounts to list. Conditions add up."""

    kind: Kind = Kind.SESSION
    text: Text = ""
    """Only names that contain this, in whatever case; with `*` at its end: that begin with it, as it is written."""
    frozen: bool = False
    """Only those that are frozen now."""
    over_percent: Percent | None = None
    """Only those that have spent at least so much of their budget, in whole percent."""
    sort: Sort = Sort.ACTIVITY
    descending: bool = True
    offset: Offset = 0
    """Where to begin: 0, or the `next_offset` of the page before; in a plain list, any multiple of `limit`."""
    limit: Annotated[int, Meta(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT


class Account(Word, frozen=True, kw_only=True):
    """A session, an agent or a tenant, and how it stands."""

    kind: Kind
    name: str
    """Whatever bytes a person has put into the store: to be escaped wherever it is shown."""
    known: bool
    """False: no call and no person has ever named it; the figures are what it would start with."""
    budget_nano: Nano
    budget_is_default: bool
    spent_nano: Nano
    """Since the last reset, in the period of now."""
    held_nano: Nano
    remaining_nano: Nano
    used_percent: int
    """How much of the budget is spent, in whole percent, rounded down; above 100 if it was lowered afterwards."""
    period: Period
    resets_at_ms: int | None
    frozen: bool
    frozen_reason: str
    frozen_until_ms: int | None
    """None while frozen: until somebody lifts it."""
    frozen_at_ms: int | None = None
    frozen_by: str = ""
    total_nano: Nano
    """Spent ever, over all resets and periods."""
    assumed_nano: Nano
    """The part of `total_nano` that nobody reported."""
    overrun_nano: Nano
    """The part of `total_nano` that went beyond what was held."""
    epoch: int
    requests: int
    blocked: int
    agent: str
    """Of a session: the agent of its latest calls, as far as is known."""
    created_ms: int | None
    last_active_ms: int | None
    fault: str
    """What is wrong with what the store holds (an amount that is none); empty if nothing. Its calls are refused."""


class Page(Word, frozen=True, kw_only=True):
    """Some accounts, in order."""

    rows: list[Account]
    total: int | None
    """How many there are that meet the conditions; None if nobody has counted them."""
    of: int
    """How many there are in all."""
    next_offset: int | None
    """Where the next page begins; None after the last."""
    looked_at: int
    """How many were looked at for this page."""
    now_ms: int
    """The clock by which the figures hold."""


class Hold(Word, frozen=True, kw_only=True):
    """A call under way."""

    id: str
    model: str
    held_nano: Nano
    since_ms: int
    expires_ms: int
    """When it is charged in full, unless its gate renews it."""
    owner: str
    """The gate: host:pid:random."""


class Event(Word, frozen=True, kw_only=True):
    """Something that happened, from the capped stream of the store."""

    id: str
    """Ascending; `EventQuery.after` takes it."""
    at_ms: int
    kind: str
    scope_kind: str
    """`session`, `agent`, `tenant`; empty if the event is about none."""
    scope_name: str
    by: str
    """Who did it; empty if nobody did, but a rule or the clock."""
    fields: dict[str, str]
    """Everything else, by the names of docs/reference/store.md."""


class EventQuery(Word, frozen=True, kw_only=True):
    """Which events: the latest, or with `after` the first ones that came after it; always in ascending order."""

    after: Annotated[str, Meta(pattern=r"^(\d{1,20}-\d{1,20})?$")] = ""
    limit: Annotated[int, Meta(ge=1, le=EVENTS_MAX)] = 100
    kind: Kind | None = None
    """Only of this session, agent or tenant (with `name`)."""
    name: Text = ""


class EventPage(Word, frozen=True, kw_only=True):
    """Some events."""

    events: list[Event]
    last_id: str
    """What `after` should be next; the id of the last event looked at."""


class ModelSpend(Word, frozen=True, kw_only=True):
    """What a session has spent on a model, ever."""

    model: str
    spent_nano: Nano


class Detail(Word, frozen=True, kw_only=True):
    """Everything about one account."""

    account: Account
    path: list[Account]
    """The budgets that its calls must meet, the session's own first."""
    models: list[ModelSpend]
    holds: list[Hold]
    """Calls under way, the oldest first; only of sessions."""
    holds_complete: bool
    """False: there are too many calls under way to look at all of them."""
    evidence: list[Event]
    """Why it is or was frozen: the latest events of rules about it."""
    events: list[Event]
    """The latest events about it."""
    now_ms: int


class By(StrEnum):
    """What spending is told apart by."""

    MODEL = "model"
    SESSION = "session"
    AGENT = "agent"
    TENANT = "tenant"


class Per(StrEnum):
    """How spending is summed up over time. Days and months are those of UTC."""

    HOUR = "hour"
    """Only for models and tenants."""
    DAY = "day"
    MONTH = "month"
    ALL = "all"


class SpendQuery(Word, frozen=True, kw_only=True):
    """What was spent, from the roll-ups of the store."""

    by: By = By.MODEL
    per: Per = Per.DAY
    from_ms: Annotated[int, Meta(ge=0, le=2**53)]
    """Rounded down to the hour, or to the day for sessions and agents."""
    to_ms: Annotated[int, Meta(ge=0, le=2**53)]
    """Exclusive; rounded up alike."""
    name: Text = ""
    """Only this session, agent or model."""
    series_max: Annotated[int, Meta(ge=1, le=SERIES_MAX)] = 20


class Point(Word, frozen=True, kw_only=True):
    """What was spent in a time on something."""

    start_ms: int
    name: str
    """A model, a session, an agent, a tenant; empty for all others together."""
    spent_nano: Nano
    requests: int | None
    """None where it is not kept (sessions, agents)."""
    input_tokens: int | None
    output_tokens: int | None


class Spend(Word, frozen=True, kw_only=True):
    """A series, by time and within it by name, those that cost most first."""

    by: By
    per: Per
    from_ms: int
    to_ms: int
    total_nano: Nano
    points: list[Point]


class StoreState(Word, frozen=True, kw_only=True):
    """How the store itself is."""

    version: str
    """As it calls itself, `Redis 7.0.15`; empty if it does not say."""
    memory_bytes: int | None
    memory_bytes_max: int | None
    """None: no limit is set, or it does not say."""
    evicts: bool
    """It may forget budgets when memory is short: `maxmemory-policy` is not `noeviction`."""


class Stats(Word, frozen=True, kw_only=True):
    """The whole tenant at a glance. Today is the day of UTC."""

    tenant: str
    now_ms: int
    sessions: int
    sessions_frozen: int
    agents_frozen: int
    tenant_account: Account | None
    """The tenant's own budget, if it has one."""
    in_flight: int
    held_nano: Nano | None
    """Held by the calls under way; None if there are too many to look at all of them."""
    spent_today_nano: Nano
    spent_yesterday_nano: Nano
    spent_hour_nano: Nano
    """In the last sixty minutes: the hours before are taken to have been even."""
    spent_month_nano: Nano
    projected_today_nano: Nano
    """If the rest of the day is like the last hour."""
    projected_month_nano: Nano
    """If the rest of the month is like the last 24 hours."""
    requests_today: int
    input_tokens_today: int
    output_tokens_today: int
    blocked_today: dict[str, int]
    """Requests that gates refused, by the reasons of docs/reference/http.md; empty while METRICS is off."""
    saved_today_nano: Nano
    """What those would probably have cost that were refused for good."""
    overhead_p50_us: int | None = None
    """What gates added to a request today, at the median, in microseconds: the bound of a bucket; None if none came."""
    overhead_p99_us: int | None = None
    store: StoreState


# --- what is sent to change something ---


class BudgetChange(Word, frozen=True, kw_only=True):
    """A budget; None: the default again."""

    budget_usd: Annotated[str, Meta(max_length=32)] | None
    """As people write it: 25, 25.00 or $25."""
    by: Annotated[str, Meta(max_length=BY_CHARACTERS_MAX)] = ""


class FreezeChange(Word, frozen=True, kw_only=True):
    """A freeze, until it is lifted or for a time."""

    reason: Annotated[str, Meta(max_length=REASON_CHARACTERS_MAX)]
    for_ms: Annotated[int, Meta(ge=1, le=FREEZE_MS_MAX)] | None = None
    new: bool = False
    """Freeze it even if nobody has ever named it, and another name looks much like it."""
    by: Annotated[str, Meta(max_length=BY_CHARACTERS_MAX)] = ""


class Change(Word, frozen=True, kw_only=True):
    """A change that needs no figures: unfreeze, reset, delete."""

    by: Annotated[str, Meta(max_length=BY_CHARACTERS_MAX)] = ""


class Fault(Word, frozen=True, kw_only=True):
    """Why something was not done."""

    type: str
    """`not_found`, `invalid`, `unavailable`, `unauthorized`, `forbidden`."""
    message: str
    similar: list[str] = []
    """With `not_found`: names that there are and that look alike."""


class FaultAnswer(Word, frozen=True, kw_only=True):
    """The body of every answer that is not a success."""

    error: Fault

"""What a person is told without asking: a budget is nearly spent, a session was frozen, the store is away.

`Alert` is what is told, in words and figures; `alert_of` makes one of an event of the store, or nothing. `bodies`
writes it as receivers want it, `webhook` delivers it, and `dispatch` decides which gate delivers what, and when. None
of it stands in a request's way: events are written by the ledger's scripts and read from the store by a task of its
own. An alert never carries a prompt or a key.
"""

import hashlib
from typing import Final, Literal

from msgspec import Struct

from tokengate.ledger.events import ENDED, Event
from tokengate.ledger.keys import PREFIX
from tokengate.money import NANO_PER_USD, AmountError, format_usd, parse_usd

Severity = Literal["info", "warning", "error", "critical"]
State = Literal["firing", "resolved"]

TOPICS: Final = ("budget", "freeze", "store")
"""What alerts are about; ALERT_ON chooses."""

DEDUP_CHARACTERS_MAX: Final = 255
"""PagerDuty's bound (https://developer.pagerduty.com/docs/send-alert-event)."""

TEXT_CHARACTERS_MAX: Final = 500
"""How much of a freeze's reason is told."""

EXHAUSTED_PERCENT: Final = 100
_ERROR_FROM: Final = 95
_WARNING_FROM: Final = 80


class Subject(Struct, frozen=True):
    """What an alert is about: a session, an agent or a tenant."""

    kind: str
    name: str


class Budget(Struct, frozen=True):
    """How a budget stood when an alert was raised; in nano-USD."""

    cap_nano: int
    spent_nano: int
    percent: int | None
    """The threshold that was reached; None: none any more."""
    resets_at_ms: int | None


class Alert(Struct, frozen=True):
    """One thing to tell."""

    id: str
    """The same whenever it is told again, so that a receiver can tell a repetition."""
    type: str
    """`budget.threshold`, `budget.relief`, `freeze`, `thaw`, `store.lost`, `store.back` or `test`."""
    state: State
    severity: Severity
    dedup_key: str
    """What belongs together: a `resolved` ends what was `firing` under the same key."""
    at_ms: int
    tenant: str
    summary: str
    """A sentence for people."""
    subject: Subject | None = None
    budget: Budget | None = None
    reason: str | None = None
    until_ms: int | None = None
    """When a freeze ends by itself."""
    by: str | None = None
    """Who froze it, or lifted that."""
    rule: str | None = None
    """The rule about runaways that froze it, if one did."""
    gate: str | None = None
    """Which gate says so, where it is one gate's own observation."""


def alert_of(event: Event, tenant: str) -> Alert | None:
    """What an event of the store has to say to people; None: nothing."""
    if event.kind in ("threshold", "relief"):
        return _budget(event, tenant)
    if event.kind in ("freeze", "unfreeze", ENDED):
        return _freeze(event, tenant)
    return None


def topic(alert: Alert) -> str:
    """Which of `TOPICS` an alert belongs to."""
    return "freeze" if alert.type in ("freeze", "thaw") else alert.type.partition(".")[0]


def store_alert(tenant: str, gate: str, at_ms: int, mode: str, *, lost: bool) -> Alert:
    """The store was lost, or is back. Of all gates alike, so that whoever receives it from several has one thing."""
    meanwhile = {
        "closed": "refuses calls",
        "open": "admits all calls",
        "allowance": "admits calls within its allowance",
    }
    summary = (
        f"The gate {gate} cannot reach the budget store, and {meanwhile[mode]} (ON_STORE_FAILURE={mode})."
        if lost
        else f"The gate {gate} reaches the budget store again."
    )
    return Alert(
        f"store-{gate}-{at_ms}-{'lost' if lost else 'back'}",
        "store.lost" if lost else "store.back",
        "firing" if lost else "resolved",
        "critical" if lost else "info",
        _dedup(tenant, "store"),
        at_ms,
        tenant,
        summary,
        gate=gate,
    )


def example(tenant: str, at_ms: int) -> Alert:
    """What the command `test-alert` sends."""
    return Alert(
        f"test-{at_ms}",
        "test",
        "firing",
        "info",
        _dedup(tenant, "test", str(at_ms)),
        at_ms,
        tenant,
        "This is a test alert of TokenGate. Nothing has happened.",
    )


def _budget(event: Event, tenant: str) -> Alert | None:
    subject = _subject(event.fields.get("scope", ""), tenant)
    try:
        cap_nano, spent_nano = parse_usd(event.fields["budget"]), parse_usd(event.fields["spent"])
    except (AmountError, KeyError):
        return None
    if subject is None:
        return None
    figures = f"${_about(spent_nano, cap_nano)} of ${_about(cap_nano, cap_nano)}"
    percent = _number(event.fields.get("percent"))
    budget = Budget(cap_nano, spent_nano, percent, _number(event.fields.get("resets")))
    whose = f"the {subject.kind} {subject.name}"
    if percent is None:
        summary = f"The budget of {whose} has room again: {figures} spent."
        severity: Severity = "info"
    elif percent >= EXHAUSTED_PERCENT:
        summary = f"The budget of {whose} is used up: {figures} spent. Calls are refused."
        severity = "critical"
    else:
        summary = f"{percent}% of the budget of {whose} is spent: {figures}."
        severity = "error" if percent >= _ERROR_FROM else "warning" if percent >= _WARNING_FROM else "info"
    return Alert(
        event.id,
        "budget.threshold" if percent is not None else "budget.relief",
        "firing" if percent is not None else "resolved",
        severity,
        _dedup(tenant, subject.kind, subject.name, "budget"),
        event.at_ms,
        tenant,
        summary,
        subject,
        budget,
    )


def _freeze(event: Event, tenant: str) -> Alert | None:
    subject = _subject(event.fields.get("scope", ""), tenant)
    if subject is None:
        return None
    frozen = event.kind == "freeze"
    reason = event.fields.get("reason", "")[:TEXT_CHARACTERS_MAX] or None
    whose = f"The {subject.kind} {subject.name}"
    over = ": its time is over" if event.kind == ENDED else ""
    summary = (
        f"{whose} is frozen: {reason or 'no reason was given'}." if frozen else f"{whose} is no longer frozen{over}."
    )
    return Alert(
        event.id,
        "freeze" if frozen else "thaw",
        "firing" if frozen else "resolved",
        "error" if frozen else "info",
        _dedup(tenant, subject.kind, subject.name, "freeze"),
        event.at_ms,
        tenant,
        summary,
        subject,
        reason=reason,
        until_ms=_number(event.fields.get("after", "").removeprefix("frozen until ")),
        by=event.fields.get("by", "")[:TEXT_CHARACTERS_MAX] or None,
        rule=event.fields.get("rule", "")[:TEXT_CHARACTERS_MAX] or None,
    )


def _subject(key: str, tenant: str) -> Subject | None:
    """What a scope's key names."""
    kind, colon, name = key.removeprefix(f"{PREFIX}:{{{tenant}}}:").partition(":")
    return Subject(kind, name) if colon and kind in ("session", "agent", "tenant") else None


def _about(nano: int, cap_nano: int) -> str:
    """An amount for people: in cents, or to the millionth of a dollar where the budget is less than one."""
    unit = 10_000_000 if cap_nano >= NANO_PER_USD else 1_000
    return format_usd(nano // unit * unit)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _dedup(*words: str) -> str:
    key = "/".join(("tokengate", *words))
    if len(key) <= DEDUP_CHARACTERS_MAX:
        return key
    return f"tokengate/{hashlib.sha256(key.encode()).hexdigest()}"

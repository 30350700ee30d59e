"""A scope as it is read from its hash: every figure, and what is wrong with it. Pure.

People may write into the hashes, so anything can be in them. What is no amount refuses calls (reserve.lua) and is
named here; a statistic that is none reads as 0.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from tokengate.budgets import window_start, windows
from tokengate.domain import Limit
from tokengate.ledger import ScopeState
from tokengate.money import AmountError, format_usd, parse_usd

MODEL_TOTAL: Final = ":total_nano"
"""What the fields of a session end in that say what it has spent on a model."""

_INTEGER = re.compile(r"-?\d{1,18}", re.ASCII)


class Reading(Struct, frozen=True, gc=False):
    """A scope, and what only people want to know of it."""

    state: ScopeState
    agent: str
    """Of a session: the agent of its latest calls; empty if it is not known."""
    models_nano: tuple[tuple[str, int], ...]
    """Of a session: what it has spent on each model, ever, the dearest first."""
    fault: str
    """What in the hash is no amount; empty if all are."""


def fields_of(reply: Sequence[bytes]) -> dict[str, str]:
    """The reply to HGETALL, for people: bytes that are no text are replaced."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in pairs}


def read(limit: Limit, fields: Mapping[str, str], now_ms: int) -> Reading:
    """What a hash says of a scope that this limit is for; an empty one: what it would start with."""
    faults: list[str] = []

    def amount(name: str, otherwise: str = "0") -> int:
        text = fields.get(name, otherwise)
        # The scripts take nothing but plain decimals: no sign of dollars, no spaces.
        if text.strip() == text and not text.startswith("$"):
            try:
                return parse_usd(text)
            except AmountError:
                pass
        faults.append(f"{name} is {text[:40]!r}, which is no amount")
        return 0

    def count(name: str) -> int:
        return _integer(fields.get(name)) or 0

    default = format_usd(limit.cap_default_nano, 9)
    budget = fields.get("budget")
    follows = budget is None or budget == fields.get("budget_default")
    spent, held, epoch, resets_at = amount("spent"), amount("held"), count("epoch"), None
    window = window_start(windows(limit, now_ms), now_ms)
    if window is not None:
        resets_at = window[1]
        started = _integer(fields.get("period_start_ms"))
        if started is not None and window[0] > started:
            # The period has ended, and no call has come since to roll it in the store.
            spent, held, epoch = 0, 0, epoch + 1
    until = _integer(fields.get("frozen_until_ms"))
    state = ScopeState(
        scope=limit.scope,
        known=bool(fields),
        cap_nano=limit.cap_default_nano if follows else amount("budget", default),
        cap_is_default=follows,
        spent_nano=spent,
        held_nano=held,
        epoch=epoch,
        resets_at_ms=resets_at,
        assumed_nano=amount("assumed"),
        overrun_nano=amount("overrun"),
        total_nano=count("total_nano"),
        requests=count("requests"),
        blocked=count("blocked"),
        created_ms=_integer(fields.get("created_ms")),
        last_active_ms=_integer(fields.get("last_active_ms")),
        frozen=fields.get("frozen") == "1" and (until is None or now_ms < until),
        frozen_reason=fields.get("frozen_reason"),
        frozen_until_ms=until,
        frozen_at_ms=_integer(fields.get("frozen_at_ms")),
        frozen_by=fields.get("frozen_by"),
        frozen_rule=fields.get("frozen_rule"),
    )
    return Reading(state, fields.get("agent", ""), _models(fields), "; ".join(faults))


def _models(fields: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    found = [
        (name.removesuffix(MODEL_TOTAL), _integer(value) or 0)
        for name, value in fields.items()
        if name.endswith(MODEL_TOTAL)
    ]
    return tuple(sorted(found, key=lambda each: (-each[1], each[0])))


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and _INTEGER.fullmatch(text) else None

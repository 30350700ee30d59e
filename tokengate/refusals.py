"""What a caller is told who is refused: each as a value, which its dialect then writes in its own shape.

What needs no more than a sentence is said where it happens.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from tokengate.domain import Quote, Reason, Refusal, Scope, Standing
from tokengate.ledger import Kind, Verdict
from tokengate.money import format_usd
from tokengate.providers import RequestError, UnpricedFeature

PATH_CHARS_SHOWN: Final = 200
"""How much of a path that a caller made up is logged and told."""

PARAM_CHARS_SHOWN: Final = 200
MESSAGE_CHARS_SHOWN: Final = 500
"""How much of what is wrong with a body is told and logged: it may quote the body's own names."""

STORE_UNAVAILABLE: Final = Refusal(
    Reason.STORE_UNAVAILABLE,
    "The budget store cannot be reached, so no call can be admitted. Nothing was forwarded or charged.",
    retry_after_s=2,
)
NOT_OWN: Final = Refusal(
    Reason.ENDPOINT_NOT_METERED,
    "Responses are kept by the provider for all who have its key, and this is none of those that this session made "
    "through this gate lately.",
)
NOT_SAID: Final = Refusal(
    Reason.STORE_UNAVAILABLE,
    "The store cannot be reached, so nobody can say whose this is. Nothing was forwarded.",
    retry_after_s=2,
)


# --- requests ---


def no_route(method: str, path: str, methods: Sequence[str]) -> Refusal:
    """A request of a path that is not metered, or takes only other `methods`."""
    # As it was written, like `match`: another way to write an endpoint is not that endpoint.
    if methods:
        return Refusal(Reason.METHOD_NOT_ALLOWED, f"{path} takes {' or '.join(methods)}, not {method}.")
    return Refusal(
        Reason.ENDPOINT_NOT_METERED,
        f"{method} {path[:PATH_CHARS_SHOWN]} is not metered by this gate, so it is not forwarded.",
    )


def malformed(error: RequestError) -> Refusal:
    """A body that is not what its endpoint takes, or asks for what has no price."""
    reason = Reason.MODEL_NOT_PRICED if isinstance(error, UnpricedFeature) else Reason.BODY_INVALID
    param = error.param[:PARAM_CHARS_SHOWN] if error.param else None
    return Refusal(reason, error.message[:MESSAGE_CHARS_SHOWN], param=param)


# --- calls ---


def unpriced(model: str) -> Refusal:
    """A call whose model has no price."""
    return Refusal(
        Reason.MODEL_NOT_PRICED,
        f"The model {model!r} has no price here, so its cost cannot be bounded. Add it (or a `default`) to the price "
        "table, data/pricing_tables.json or PRICING_FILE, and reload with SIGHUP.",
        param="model",
    )


def refused(verdict: Verdict, bounds: Quote) -> Refusal:
    """A call that the ledger did not hold."""
    standing, scope = verdict.standing, verdict.standing.scope
    whose = "" if scope.kind == "session" else f" of the {scope}"
    if verdict.kind is Kind.FROZEN:
        return frozen(scope, verdict.frozen_reason, verdict.frozen_until_ms, standing, verdict.rule)
    if verdict.kind is Kind.INVALID:
        return Refusal(
            Reason.BUDGET_INVALID,
            f"The budget of the {scope} is not an amount of USD in the store: {verdict.invalid!r}. Set it anew.",
            standing=standing,
        )
    if verdict.kind is Kind.FULL:
        return Refusal(
            Reason.SESSIONS_FULL,
            f"The tenant {scope.tenant} has as many sessions as it may have (SESSIONS_MAX); use one that exists.",
        )
    if verdict.kind is Kind.LIMITED:
        return Refusal(
            Reason.RATE_LIMITED,
            f"The {scope} makes more requests than it may. One more may come in {verdict.retry_after_ms / 1000:.3f} s.",
            retry_after_s=-(-verdict.retry_after_ms // 1000),
            standing=standing,
            rule=verdict.rule,
        )
    remaining, required = format_usd(standing.remaining_nano), format_usd(bounds.need_nano)
    if verdict.kind is Kind.BUSY:
        return Refusal(
            Reason.BUDGET_BUSY,
            f"The budget{whose} is held by calls in flight. Remaining: ${remaining}, Required: ${required}",
            retry_after_s=1,
            standing=standing,
            required_nano=bounds.need_nano,
        )
    return Refusal(
        Reason.BUDGET_EXCEEDED,
        f"Budget{whose} exceeded. Remaining: ${remaining}, Required: ${required}",
        standing=standing,
        required_nano=bounds.need_nano,
    )


def frozen(
    scope: Scope, reason: str | None, until_ms: int | None, standing: Standing | None = None, rule: str | None = None
) -> Refusal:
    """A call of a scope that is frozen; `until_ms`: None until somebody lifts the freeze."""
    until = f" until {_iso(until_ms)}" if until_ms is not None else ""
    return Refusal(
        Reason.SESSION_FROZEN,
        f"The {scope} is frozen{until}: {reason or 'no reason was given'}",
        standing=standing,
        frozen_reason=reason,
        frozen_until_ms=until_ms,
        rule=rule,
    )


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

"""What genai-prices has: its objects walked, and what can be expressed as prices here taken from them.

What cannot be is left out with the reason, never guessed. The prices of hours of the day become the dearest of the day.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Final

from tokengate.pricefile import USD_DECIMALS_MAX
from tokengate.prices import REQUEST_FEE
from tokengate.pricesync.words import Block, LeftOut

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider

CALLS_PER_COUNT_PRICE: Final = 1_000
"""genai-prices quotes calls by the thousand."""
MULTIPLIER_DECIMALS_MAX: Final = 3
"""A service tier is written as a multiplier only if the multiplier is as short as a person would write it."""

TOKEN_KEYS: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "cache_write_5m_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_long",
    "input_audio_mtok": "audio_input",
    "cache_audio_read_mtok": "cached_audio_input",
    "output_audio_mtok": "audio_output",
    "input_image_mtok": "image_input",
    "output_image_mtok": "image_output",
}
PIECE_KEYS: Final = {"input_audio_hours": ("per_second", 3_600), "input_mchars": ("per_character", 1_000_000)}
"""What a model without a price per token is billed by, and how many pieces genai-prices quotes at a time."""
MEDIA_SECTIONS: Final = frozenset({"openai"})
"""The providers whose images, seconds and characters are metered; another one's least charge for a call of seconds,
for example, is in no table."""
FEE_KEYS: Final = {
    "web_searches_kcount": "web_search",
    "storage_searches_kcount": "file_search",
    "requests_kcount": REQUEST_FEE,
}
IGNORED_KEYS: Final = frozenset({"audio_hours", "input_audio_hours", "cache_image_read_mtok"})
"""What can be left away without charging too little: a call with audio is refused where audio has no price per token,
and cached images then cost what images cost."""
TIER_KEYS: Final = {"service_tier": None, "processing": "batch", "speed": "fast"}
"""The conditions of genai-prices that are service tiers here; the value, if one is needed."""

_HALF_DATE: Final = re.compile(r"-20\d\d-?$", re.ASCII)
"""The end of a rule that matches by the year of a snapshot, which is not a name."""

Steps = tuple[tuple[int, Decimal], ...]
"""A price by the size of the input: (above so many tokens, USD per million), ascending, the first from 0."""


def rows(provider: "Provider", as_of: date, left_out: list[LeftOut]) -> Iterator[tuple[str, Block]]:
    """The models of a provider that can be priced by the token."""
    for model in provider.models:
        name = model.id.rstrip("-")
        standard = _standard(model, as_of)
        why = _inexpressible(standard, metered=provider.id in MEDIA_SECTIONS)
        if why:
            left_out.append(LeftOut(provider.id, name, why))
            continue
        row: Block = {**_offer(model, as_of), "aliases": sorted({*_names(model.match)} - {name})}
        if model.context_window:
            row["context_tokens"] = model.context_window
        before, changes = _offer(model, as_of), []
        for day in sorted({start for start in _start_dates(model) if start > as_of}):
            after = _offer(model, day)
            if after != before:
                changes.append({"from": day.isoformat(), **after})
            before = after
        if changes:
            row["changes"] = changes
        yield name, row


def _standard(model: "ModelInfo", day: date) -> dict[str, Steps]:
    """The prices in force on a day. Those of some hours only are all in force on it: the dearest is taken."""
    from genai_prices.types import ModelPrice, StartDateConstraint  # noqa: PLC0415

    if isinstance(model.prices, ModelPrice):
        return _steps(model.prices)
    in_force: dict[str, Steps] = {}
    for conditional in reversed(model.prices):
        constraint = conditional.constraint
        if isinstance(constraint, StartDateConstraint) and constraint.start_date > day:
            continue
        for key, steps in _steps(conditional.prices).items():
            in_force[key] = _dearest(in_force[key], steps) if key in in_force else steps
        if constraint is None or isinstance(constraint, StartDateConstraint):
            return in_force
    return _steps(model.prices[0].prices)


def _tiers(model: "ModelInfo", day: date) -> dict[str, dict[str, Steps]]:
    """The prices in force on a day that a service tier has instead of the standard ones. First match wins."""
    from genai_prices.types import TimeOfDateConstraint  # noqa: PLC0415

    tiers: dict[str, dict[str, Steps]] = {}
    for variant in model.price_variants or ():
        ((key, value),) = variant.when.items()
        constraint = variant.constraint
        if isinstance(constraint, TimeOfDateConstraint) or (constraint is not None and constraint.start_date > day):
            continue
        if key in TIER_KEYS:
            tier = tiers.setdefault(TIER_KEYS[key] or value, {})
            for price_key, steps in _steps(variant.prices).items():
                tier.setdefault(price_key, steps)
    return {name: tier for name, tier in tiers.items() if tier}


def _start_dates(model: "ModelInfo") -> Iterator[date]:
    from genai_prices.types import ModelPrice, StartDateConstraint  # noqa: PLC0415

    conditionals = [] if isinstance(model.prices, ModelPrice) else model.prices
    for conditional in (*conditionals, *(model.price_variants or ())):
        if isinstance(conditional.constraint, StartDateConstraint):
            yield conditional.constraint.start_date


def _steps(prices: "ModelPrice") -> dict[str, Steps]:
    """The prices that are set, by genai-prices' own key."""
    return {
        key: ((0, value),)
        if isinstance(value, Decimal)
        else ((0, value.base), *((t.start, t.price) for t in value.tiers))
        for key, value in vars(prices).items()
        if value is not None
    }


def _at(steps: Steps, above_tokens: int) -> Decimal:
    return next(price for above, price in reversed(steps) if above <= above_tokens)


def _dearest(one: Steps, other: Steps) -> Steps:
    edges = sorted({above for above, _ in (*one, *other)})
    return tuple((edge, max(_at(one, edge), _at(other, edge))) for edge in edges)


def _inexpressible(standard: Mapping[str, Steps], *, metered: bool) -> str:
    """Why a model cannot be priced here; empty if it can. `metered`: also by images, seconds and characters."""
    if "input_mtok" not in standard:
        if metered and PIECE_KEYS.keys() & standard:
            return ""
        return "no price per input token"
    known = TOKEN_KEYS.keys() | FEE_KEYS.keys() | IGNORED_KEYS
    if not metered:
        known -= {"output_image_mtok"}
    if "output_reasoning_mtok" in standard and standard["output_reasoning_mtok"] <= standard.get("output_mtok", ()):
        known |= {"output_reasoning_mtok"}
    return ", ".join(f"has a price for {key}" for key in standard if key not in known)


def _usd(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-USD_DECIMALS_MAX), ROUND_CEILING)


def _offer(model: "ModelInfo", day: date) -> Block:
    """The prices, fees and service tiers of a model on a day."""
    standard = _standard(model, day)
    if "input_mtok" not in standard:
        return _by_the_piece(standard)
    offer = _prices(standard)
    tiers = {name: _prices(standard | tier) for name, tier in sorted(_tiers(model, day).items())}
    if tiers:
        offer["service_tiers"] = {name: _as_multiple(tier, offer) or tier for name, tier in tiers.items()}
    fees = {
        FEE_KEYS[key]: _usd(steps[0][1] / CALLS_PER_COUNT_PRICE) for key, steps in standard.items() if key in FEE_KEYS
    }
    if fees:
        offer["fees"] = dict(sorted(fees.items()))
    return offer


def _by_the_piece(standard: Mapping[str, Steps]) -> Block:
    key = next(key for key in PIECE_KEYS if key in standard)
    name, pieces = PIECE_KEYS[key]
    return {name: _usd(standard[key][0][1] / pieces)}


def _prices(priced: Mapping[str, Steps]) -> Block:
    """A complete block of token prices, with its long-context tiers."""
    tokens = {TOKEN_KEYS[key]: steps for key, steps in priced.items() if key in TOKEN_KEYS}
    block: Block = {name: _usd(_at(steps, 0)) for name, steps in tokens.items()}
    edges = sorted({above for steps in tokens.values() for above, _ in steps if above})
    if edges:
        block["long_context"] = [
            {"above": edge, **{name: _usd(_at(steps, edge)) for name, steps in tokens.items()}} for edge in edges
        ]
    return block


def _as_multiple(tier: Block, standard: Block) -> Block | None:
    """A tier as a multiplier of the standard prices, if it is exactly that."""
    if not standard["input"]:
        return None
    ratio = (tier["input"] / standard["input"]).normalize()
    exponent = ratio.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -MULTIPLIER_DECIMALS_MAX:
        return None
    multiplied = {key: value * ratio for key, value in standard.items() if isinstance(value, Decimal)}
    if "long_context" in standard:
        multiplied["long_context"] = [
            {key: value if key == "above" else value * ratio for key, value in step.items()}
            for step in standard["long_context"]
        ]
    return {"multiplier": ratio} if multiplied == tier else None


def _names(clause: "MatchLogic") -> Iterator[str]:
    """The names in a matching rule of genai-prices. A pattern gives none: the resolver knows what a snapshot is."""
    for attribute in ("or_", "and_"):
        for part in getattr(clause, attribute, ()):
            yield from _names(part)
    for attribute in ("equals", "starts_with", "ends_with", "contains"):
        text = getattr(clause, attribute, None)
        if text and not _HALF_DATE.search(text):
            yield text.rstrip("-@.")

"""`tokengate pricing sync`: how the price file is made from genai-prices and an overlay of curated facts.

genai-prices (https://github.com/pydantic/genai-prices, MIT) is the well-kept source of prices, but at run time it
costs 40 MB and a cache without bound, so it is read here, once, at build time, and its objects are walked. What it
does not hold (output maxima, encodings, prices it lacks) comes from the overlay, where every fact has its source and
date. The same genai-prices, overlay and day give the same bytes. What cannot be expressed as a price per token is
left out and listed, never guessed. The prices of hours of the day (off-peak discounts) become the dearest of the day.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from tokengate.pricefile import FORMAT_VERSION, USD_DECIMALS_MAX, load_json
from tokengate.prices import PRICE_FIELDS, REQUEST_FEE

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider

PACKAGE: Final = "genai-prices"
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

_ORDER: Final = (
    "version", "as_of", "genai_prices", "sections",
    "prefixes", "fallback", "output_tokens_max_default", "default", "models",
    "from", "above", "multiplier", *PRICE_FIELDS, "per_second",
    "per_character", "fees", "context_tokens", "output_tokens_max", "encoding",
    "aliases", "source", "date", "note", "long_context", "service_tiers", "changes",
)  # fmt: skip
_RANK: Final = {name: rank for rank, name in enumerate(_ORDER)}
_BLOCKS: Final = ("long_context", "service_tiers", "changes")
"""The fields of a model that stand on lines of their own."""

Steps = tuple[tuple[int, Decimal], ...]
"""A price by the size of the input: (above so many tokens, USD per million), ascending, the first from 0."""
Block = dict[str, Any]
"""A JSON object of the price file, in the making."""


class SyncError(ValueError):
    """The overlay and genai-prices do not fit together; the message names the fact."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model of genai-prices that is not in the price file."""

    section: str
    model: str
    why: str


@dataclass(frozen=True, slots=True)
class Synced:
    """A price file, and what did not make it there."""

    text: str
    genai_prices: str
    models: int
    left_out: tuple[LeftOut, ...] = field(repr=False)


def sync(overlay: bytes, as_of: date) -> Synced:
    """Build the price file.

    Args:
        overlay: the curated facts (`data/pricing_overlay.json`).
        as_of: the day whose prices are in force; announced changes after it are written down as such.

    Raises:
        ImportError: genai-prices is not installed (the extra `prices`).
        PriceTableError: the overlay is not JSON.
        SyncError: a fact of the overlay names a model that does not exist and that it does not price.
    """
    from genai_prices.data import providers  # noqa: PLC0415  (40 MB that only this command needs)

    curated: Any = load_json(overlay)
    by_id = {provider.id: provider for provider in providers}
    left_out: list[LeftOut] = []
    sections: Block = {}
    for name, head in curated["sections"].items():
        rows = dict(_rows(by_id[name], as_of, left_out))
        sections[name] = {"source": (by_id[name].pricing_urls or [PACKAGE])[0], **head, "models": rows}
    for entry in curated["drop"]:
        _drop(sections[entry["section"]]["models"], entry, left_out)
    for fact in curated["facts"]:
        _apply(sections[fact["section"]]["models"], fact)
    genai_prices = version(PACKAGE)
    for section in sections.values():
        section["models"] = dict(sorted(section["models"].items()))
        _settle_aliases(section["models"])
    file = {
        "version": FORMAT_VERSION,
        "as_of": as_of.isoformat(),
        "genai_prices": genai_prices,
        "sections": dict(sorted(sections.items())),
    }
    models = sum(len(section["models"]) for section in sections.values())
    return Synced(render(file), genai_prices, models, tuple(left_out))


# -- genai-prices -----------------------------------------------------------------------------------------------------


def _rows(provider: "Provider", as_of: date, left_out: list[LeftOut]) -> Iterator[tuple[str, Block]]:
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


# -- the overlay ------------------------------------------------------------------------------------------------------


def _drop(models: Block, entry: Block, left_out: list[LeftOut]) -> None:
    for name in entry.get("models", ()):
        if models.pop(name, None) is None:
            raise SyncError(f"drop: there is no {entry['section']} model {name}")
        left_out.append(LeftOut(entry["section"], name, entry["why"]))
    for model, alias in entry.get("aliases", ()):
        if alias not in models[model]["aliases"]:
            raise SyncError(f"drop: {entry['section']} model {model} has no alias {alias}")
        models[model]["aliases"].remove(alias)


def _apply(models: Block, fact: Block) -> None:
    """Set the fields of a fact; one that sets prices becomes the source of its rows, and may be their origin."""
    priced = "input" in fact["set"] or any(key in fact["set"] for key in TOKEN_KEYS.values())
    for name in fact["models"]:
        if name not in models and "input" not in fact["set"]:
            raise SyncError(f"facts: there is no {fact['section']} model {name}, and the fact does not price it")
        row = models.setdefault(name, {"aliases": []})
        row["aliases"] = sorted({*row["aliases"], *fact["set"].get("aliases", ())})
        if "service_tiers" in fact["set"]:
            row["service_tiers"] = row.get("service_tiers", {}) | fact["set"]["service_tiers"]
        row.update({key: value for key, value in fact["set"].items() if key not in ("aliases", "service_tiers")})
        if priced:
            row.update(source=fact["source"], date=fact["date"])


def _settle_aliases(models: Block) -> None:
    """An alias names one model: a row of that name wins, then the first row that claims it."""
    taken = {name.lower() for name in models}
    for row in models.values():
        free = [alias for alias in row.pop("aliases") if alias.lower() not in taken]
        taken |= {alias.lower() for alias in free}
        if free:
            row["aliases"] = sorted(set(free))


# -- the layout -------------------------------------------------------------------------------------------------------


def render(file: Mapping[str, Any]) -> str:
    """A price file as text that people can review: a model is a line, or a block with a line for each of its tiers.

    Args:
        file: the JSON object, with numbers as `int` or `Decimal`.
    """
    head = [f"  {json.dumps(key)}: {_inline(value)}," for key, value in _ordered(file) if key != "sections"]
    body = ",\n".join(_section(name, section) for name, section in file["sections"].items())
    return "\n".join(["{", *head, '  "sections": {', body, "  }", "}", ""])


def _section(name: str, section: Mapping[str, Any]) -> str:
    head = [f"      {json.dumps(key)}: {_inline(value)}," for key, value in _ordered(section) if key != "models"]
    rows = ",\n".join(_row(model, row) for model, row in section["models"].items())
    return "\n".join([f"    {json.dumps(name)}: {{", *head, '      "models": {', rows, "      }", "    }"])


def _row(name: str, row: Mapping[str, Any]) -> str:
    blocks = [(key, value) for key, value in _ordered(row) if key in _BLOCKS]
    fields = {key: value for key, value in row.items() if key not in _BLOCKS}
    if not blocks:
        return f"        {json.dumps(name)}: {_inline(fields)}"
    lines = [f"          {_inline(fields)[1:-1]}", *(_block(key, value) for key, value in blocks)]
    return f"        {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n        }"


def _block(key: str, value: Block | list[Block]) -> str:
    if isinstance(value, Mapping):
        lines = ",\n".join(f"            {json.dumps(name)}: {_inline(item)}" for name, item in _ordered(value))
        return f"          {json.dumps(key)}: {{\n{lines}\n          }}"
    lines = ",\n".join(f"            {_inline(item)}" for item in value)
    return f"          {json.dumps(key)}: [\n{lines}\n          ]"


def _ordered(block: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Known fields in their fixed order, then names in theirs."""
    return sorted(block.items(), key=lambda item: (_RANK.get(item[0], len(_RANK)), item[0]))


def _inline(value: object) -> str:
    match value:
        case Decimal():
            return format(value.normalize(), "f")
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(key)}: {_inline(item)}" for key, item in _ordered(value)) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inline(item) for item in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)

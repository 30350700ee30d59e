"""How the document becomes prices, or a list of everything that is wrong in it.

All faults of a file are collected before any is reported, each with its JSON path.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from typing import Final

from tokengate.money import price_nano
from tokengate.pricefile.document import JsonObject, described, joined, load_json
from tokengate.prices import (
    PIECES,
    PRICE_FIELDS,
    Bracket,
    Brackets,
    Fault,
    Price,
    PriceFile,
    PriceTableError,
    Rates,
    Row,
    Section,
)

FORMAT_VERSION: Final = 1
PRICE_USD_MAX: Final = 100_000
"""The largest believable price, in USD per million tokens; the dearest published ones are around a thousand."""
FEE_USD_MAX: Final = 1_000
"""The largest believable fee, in USD per call."""
USD_DECIMALS_MAX: Final = 9
"""Prices are kept as whole nano-USD."""
MULTIPLIER_MAX: Final = 100
TOKENS_MAX: Final = 1_000_000_000
"""The largest believable context window, output cap or threshold, in tokens."""
NAME_CHARS_MAX: Final = 256
"""The longest name of a model; a longer one that a caller sends is unpriced."""
TEXT_CHARS_MAX: Final = 2_000
MODELS_MAX: Final = 20_000
FAULTS_MAX: Final = 1_000
"""Faults reported for one file; a file with more is not one that a person corrects fault by fault."""
OUTPUT_TOKENS_MAX_DEFAULT: Final = 128_000
"""The output bound, in tokens, where neither the model nor its section says anything."""
ENCODINGS: Final = ("cl100k_base", "o200k_base")
"""The token encodings that can be counted exactly; any other model is counted by its bytes."""

_DEARER_FIELDS: Final = tuple(name for name in PRICE_FIELDS if not name.startswith("cached"))
_PIECE_FIELDS: Final = {f"per_{piece}": piece for piece in PIECES}
_OFFER_FIELDS: Final = frozenset({*PRICE_FIELDS, *_PIECE_FIELDS, "fees", "long_context", "service_tiers"})
_TOKEN_FIELDS: Final = frozenset({*PRICE_FIELDS, "long_context", "service_tiers"})
_ROW_FIELDS: Final = _OFFER_FIELDS | {
    "aliases", "changes", "context_tokens", "date", "encoding", "note", "output_tokens_max", "source",
}  # fmt: skip
_SECTION_FIELDS: Final = frozenset(
    {"date", "default", "fallback", "models", "note", "output_tokens_max_default", "prefixes", "source"}
)
_FILE_FIELDS: Final = frozenset({"as_of", "genai_prices", "note", "sections", "version"})

_NO_TOKENS: Final[Brackets] = (Bracket(0, Rates(0)),)
"""Of a model that is billed by something else: a call that is billed by tokens is never let through to it."""


def read_price_file(text: bytes) -> PriceFile:
    """Read and check a price file.

    Raises:
        PriceTableError: with every fault of the file.
    """
    reader = _Reader()
    price_file = reader.file(load_json(text))
    if reader.faults or price_file is None:
        raise PriceTableError(reader.faults)
    return price_file


class _Reader:
    """One reading of one file: collects faults, and shares equal rates so that the loaded table stays small."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._rates: dict[Rates, Rates] = {}
        self._brackets: dict[Brackets, Brackets] = {}

    def fault(self, path: str, message: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(path, message))

    # -- values -------------------------------------------------------------------------------------------------

    def mapping(self, value: object, path: str, allowed: frozenset[str] | None = None) -> JsonObject:
        """The value as an object; an empty one, with a fault, if it is something else."""
        if not isinstance(value, JsonObject):
            self.fault(path, f"must be an object, is {described(value)}")
            return JsonObject([])
        for key in value.doubled:
            self.fault(joined(path, key), "is there twice")
        if allowed is not None:
            for key in sorted(value.keys() - allowed):
                self.fault(joined(path, key), f"unknown field; known are {', '.join(sorted(allowed))}")
        return value

    def amount(self, value: object, path: str, usd_max: int) -> int:
        """A number of USD as nano-USD; 0, with a fault, if it is not one."""
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.fault(path, f"must be a number of USD, is {described(value)}")
        elif value < 0:
            self.fault(path, f"must not be negative, is {value}")
        elif value > usd_max:
            self.fault(path, f"must be at most {usd_max} USD, is {value}")
        elif value * 10**USD_DECIMALS_MAX % 1:
            self.fault(path, f"must have at most {USD_DECIMALS_MAX} decimals, is {value}")
        else:
            return price_nano(Decimal(value))
        return 0

    def tokens(self, value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= TOKENS_MAX:
            self.fault(path, f"must be a whole number of tokens from 1 to {TOKENS_MAX}, is {described(value)}")
            return 1
        return value

    def text(self, value: object, path: str, chars_max: int = TEXT_CHARS_MAX) -> str:
        if not isinstance(value, str) or not 0 < len(value) <= chars_max:
            self.fault(path, f"must be a text of 1 to {chars_max} characters, is {described(value)}")
            return ""
        return value

    def day(self, value: object, path: str) -> str:
        try:
            return date.fromisoformat(self.text(value, path)).isoformat()
        except ValueError:
            self.fault(path, f"must be a day like 2026-01-31, is {described(value)}")
            return ""

    def texts(self, value: object, path: str) -> tuple[str, ...]:
        if not isinstance(value, list):
            self.fault(path, f"must be a list of texts, is {described(value)}")
            return ()
        return tuple(self.text(item, f"{path}[{at}]", NAME_CHARS_MAX) for at, item in enumerate(value))

    # -- prices -------------------------------------------------------------------------------------------------

    def rates(self, block: JsonObject, path: str, like: Rates | None = None) -> Rates:
        """The prices of one block.

        A class that is priced in `like`, the base prices, may not be missing here: without its cache write or audio
        price, the larger call would be the cheaper one.
        """
        found = {
            name: self.amount(block[name], f"{path}.{name}", PRICE_USD_MAX) for name in PRICE_FIELDS if name in block
        }
        if "input" not in found:
            self.fault(f"{path}.input", "is missing")
        for name in _DEARER_FIELDS:
            if name != "input" and name not in found and like is not None and getattr(like, name) is not None:
                self.fault(f"{path}.{name}", "is missing: the base prices have it")
        rates = Rates(**{"input": 0, **found})
        return self._rates.setdefault(rates, rates)

    def brackets(self, block: JsonObject, path: str, like: Rates | None = None) -> Brackets:
        """The base prices of a block and its long-context tiers."""
        base = self.rates(block, path, like)
        brackets = [Bracket(0, base)]
        tiers = block.get("long_context", [])
        if not isinstance(tiers, list):
            self.fault(f"{path}.long_context", f"must be a list, is {described(tiers)}")
            tiers = []
        for at, item in enumerate(tiers):
            tier_path = f"{path}.long_context[{at}]"
            tier = self.mapping(item, tier_path, frozenset({*PRICE_FIELDS, "above"}))
            above = self.tokens(tier.get("above"), f"{tier_path}.above")
            if above <= brackets[-1].above_tokens:
                self.fault(f"{tier_path}.above", f"must be above {brackets[-1].above_tokens}, the tier before it")
            brackets.append(Bracket(above, self.rates(tier, tier_path, base)))
        shared = tuple(brackets)
        return self._brackets.setdefault(shared, shared)

    def service_tiers(self, value: object, path: str, standard: Brackets) -> tuple[tuple[str, Brackets], ...]:
        tiers = []
        for name, item in self.mapping(value, path).items():
            tier_path = joined(path, name)
            if isinstance(item, JsonObject) and "multiplier" in item:
                block = self.mapping(item, tier_path, frozenset({"multiplier"}))
                tiers.append((name, self.multiplied(standard, block["multiplier"], f"{tier_path}.multiplier")))
            else:
                block = self.mapping(item, tier_path, frozenset({*PRICE_FIELDS, "long_context"}))
                tiers.append((name, self.brackets(block, tier_path, standard[0].rates)))
        return tuple(sorted(tiers))

    def multiplied(self, brackets: Brackets, multiplier: object, path: str) -> Brackets:
        if (
            isinstance(multiplier, bool)
            or not isinstance(multiplier, int | Decimal)
            or not 0 < multiplier <= MULTIPLIER_MAX
        ):
            self.fault(path, f"must be a number above 0 and at most {MULTIPLIER_MAX}, is {described(multiplier)}")
            return brackets

        factor = Decimal(multiplier)

        def scaled(rates: Rates) -> Rates:
            priced = {name: nano for name in PRICE_FIELDS if (nano := getattr(rates, name)) is not None}
            return Rates(
                **{name: int((nano * factor).to_integral_value(ROUND_CEILING)) for name, nano in priced.items()}
            )

        return tuple(Bracket(bracket.above_tokens, scaled(bracket.rates)) for bracket in brackets)

    def fees(self, value: object, path: str) -> tuple[tuple[str, int], ...]:
        block = self.mapping(value, path)
        return tuple(sorted((name, self.amount(usd, joined(path, name), FEE_USD_MAX)) for name, usd in block.items()))

    def piece(self, block: JsonObject, path: str) -> tuple[str, tuple[tuple[str, int], ...]]:
        """What a model is billed by instead of tokens, and its price as a fee; nothing if it is billed by tokens."""
        given = [name for name in _PIECE_FIELDS if name in block]
        if not given:
            return "", ()
        for name in (*given[1:], *sorted(block.keys() & _TOKEN_FIELDS)):
            self.fault(f"{path}.{name}", f"cannot be beside {given[0]}: the model is billed by that alone")
        piece = _PIECE_FIELDS[given[0]]
        return piece, ((piece, self.amount(block[given[0]], f"{path}.{given[0]}", FEE_USD_MAX)),)

    # -- models -------------------------------------------------------------------------------------------------

    def row(self, value: object, path: str, name: str, section: "_SectionHead") -> tuple[Row, tuple[str, ...]]:
        """One model and its aliases."""
        block = self.mapping(value, path, _ROW_FIELDS)
        encoding = block.get("encoding")
        if encoding is not None and encoding not in ENCODINGS:
            self.fault(f"{path}.encoding", f"must be null or one of {', '.join(ENCODINGS)}, is {described(encoding)}")
        context = self.tokens(block["context_tokens"], f"{path}.context_tokens") if "context_tokens" in block else None
        output_max = (
            self.tokens(block["output_tokens_max"], f"{path}.output_tokens_max")
            if "output_tokens_max" in block
            else context or section.output_tokens_max_default
        )
        source = self.text(block["source"], f"{path}.source") if "source" in block else section.source
        day = self.day(block["date"], f"{path}.date") if "date" in block else section.date

        def offer(prices: JsonObject, offer_path: str) -> Price:
            billed_by, piece_fees = self.piece(prices, offer_path)
            brackets = _NO_TOKENS if billed_by else self.brackets(prices, offer_path)
            return Price(
                model=name,
                section=section.name,
                brackets=brackets,
                service_tiers=self.service_tiers(
                    prices.get("service_tiers", JsonObject([])), f"{offer_path}.service_tiers", brackets
                ),
                fees=tuple(sorted(self.fees(prices.get("fees", JsonObject([])), f"{offer_path}.fees") + piece_fees)),
                output_tokens_max=output_max,
                context_tokens=context,
                encoding=encoding if isinstance(encoding, str) else None,
                source=source,
                source_date=day,
                billed_by=billed_by,
            )

        changes = self.changes(block.get("changes", []), f"{path}.changes", offer)
        aliases = self.texts(block["aliases"], f"{path}.aliases") if "aliases" in block else ()
        return Row(name, offer(block, path), changes), aliases

    def changes(
        self, value: object, path: str, offer: Callable[[JsonObject, str], Price]
    ) -> tuple[tuple[date, Price], ...]:
        if not isinstance(value, list):
            self.fault(path, f"must be a list, is {described(value)}")
            return ()
        changes: list[tuple[date, Price]] = []
        for at, item in enumerate(value):
            item_path = f"{path}[{at}]"
            block = self.mapping(item, item_path, _OFFER_FIELDS | {"from"})
            day = date.fromisoformat(self.day(block.get("from"), f"{item_path}.from") or "0001-01-01")
            if changes and day <= changes[-1][0]:
                self.fault(f"{item_path}.from", f"must be after {changes[-1][0]}, the change before it")
            changes.append((day, offer(block, item_path)))
        return tuple(changes)

    def section(self, value: object, path: str, name: str, as_of: str) -> Section:
        block = self.mapping(value, path, _SECTION_FIELDS)
        default_max = block.get("output_tokens_max_default", OUTPUT_TOKENS_MAX_DEFAULT)
        head = _SectionHead(
            name=name,
            source=self.text(block["source"], f"{path}.source") if "source" in block else "",
            date=self.day(block["date"], f"{path}.date") if "date" in block else as_of,
            output_tokens_max_default=self.tokens(default_max, f"{path}.output_tokens_max_default"),
        )
        default = None
        if "default" in block:
            default, aliases = self.row(block["default"], f"{path}.default", "default", head)
            if aliases or default.changes:
                self.fault(f"{path}.default", "can have neither aliases nor changes")
        return Section(
            name=name,
            rows=self.rows(block.get("models", JsonObject([])), f"{path}.models", head),
            prefixes=tuple(prefix.lower() for prefix in self.texts(block.get("prefixes", []), f"{path}.prefixes")),
            fallback=self.text(block["fallback"], f"{path}.fallback") if "fallback" in block else None,
            default=default,
        )

    def rows(self, value: object, path: str, head: "_SectionHead") -> dict[str, Row]:
        """The models of a section, by lower-case name, then their aliases."""
        models = self.mapping(value, path)
        if len(models) > MODELS_MAX:
            self.fault(path, f"has {len(models)} models, at most {MODELS_MAX} are read")
            return {}
        rows: dict[str, Row] = {}
        aliases: list[tuple[str, str, Row]] = []
        for name, item in models.items():
            row_path = joined(path, name)
            row, names = self.row(item, row_path, self.text(name, row_path, NAME_CHARS_MAX), head)
            if name.lower() in rows:
                self.fault(row_path, f"is the same model as {rows[name.lower()].name}: case does not tell models apart")
            rows[name.lower()] = row
            aliases += [(f"{row_path}.aliases[{at}]", alias.lower(), row) for at, alias in enumerate(names)]
        for alias_path, alias, row in aliases:
            if alias in rows:
                self.fault(alias_path, f"already names {rows[alias].name}")
            rows[alias] = row
        return rows

    def file(self, value: object) -> PriceFile | None:
        block = self.mapping(value, "$", _FILE_FIELDS)
        if block.get("version") != FORMAT_VERSION or isinstance(block.get("version"), bool):
            self.fault("$.version", f"must be {FORMAT_VERSION}, is {described(block.get('version'))}")
            return None
        as_of = self.day(block["as_of"], "$.as_of") if "as_of" in block else ""
        sections = {
            name: self.section(item, joined("$.sections", name), name, as_of)
            for name, item in self.mapping(block.get("sections"), "$.sections").items()
        }
        for section in sections.values():
            if section.fallback is not None and section.fallback not in sections:
                self.fault(joined("$.sections", section.name) + ".fallback", f"there is no section {section.fallback}")
        version = block.get("genai_prices")
        return PriceFile(sections, as_of, None if version is None else self.text(version, "$.genai_prices"))


@dataclass(frozen=True, slots=True)
class _SectionHead:
    """What the rows of a section inherit."""

    name: str
    source: str
    date: str
    output_tokens_max_default: int

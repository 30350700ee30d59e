"""The words of pricing: what a model costs, and the errors that say something has no price. No rules, no I/O.

Prices are `int` nano-USD per million tokens and fees `int` nano-USD per call, in frozen values that many rows of a
table share. A class of token without a price of its own is None, never 0: 0 means free.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Final

REQUEST_FEE: Final = "request"
"""The name of the fee that every call of a model pays once."""
SECOND: Final = "second"
CHARACTER: Final = "character"
PIECES: Final = (SECOND, CHARACTER)
"""What a model may be billed by instead of tokens: seconds of sound, characters of text. Each is the name of a fee."""
FAULTS_SHOWN: Final = 5
"""How many faults the message of a `PriceTableError` names; `faults` has them all."""


class PricingError(ValueError):
    """Something has no price; the message is fit to be shown to the author of the request or of the price file.

    PricingError
    ├── PriceTableError   a price file cannot be used
    ├── UnpricedTier      the service tier that was asked for
    ├── UnpricedAudio     audio, in or out
    ├── UnpricedImages    images, out
    ├── UnpricedPiece     what the model is billed by is not what the call has
    ├── UnpricedFee       a separately billed call, such as a web search
    ├── UnpricedOutput    the answer of a model that is priced by its input alone
    └── UnpricedWindow    as much input as the model takes, which is not known
    """


class UnpricedTier(PricingError):
    """The service tier that was asked for has no price here."""


class UnpricedAudio(PricingError):
    """The call may contain audio, and the model has no price for it."""


class UnpricedImages(PricingError):
    """The call generates images, and the model has no price for them."""


class UnpricedPiece(PricingError):
    """The model is billed by the second or the character, and the call is one that counts neither."""


class UnpricedFee(PricingError):
    """A separately billed call has no price here."""


class UnpricedOutput(PricingError):
    """The call generates tokens, and the model has no price for them (an embedding model)."""


class UnpricedWindow(PricingError):
    """The call may be billed whole context windows, and the table does not say how large they are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a price file."""

    path: str
    """Where, as a JSON path (`$.sections.openai.models["gpt-4o"].input`); `$` if the text is not JSON at all."""
    message: str
    line: int | None = None
    """The line, from 1, where the text stops being JSON; None for faults within valid JSON."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line is not None else f"{self.path}: {self.message}"


class PriceTableError(PricingError):
    """A price file cannot be used; `faults` has everything that is wrong with it, up to a bound."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        shown = "; ".join(str(fault) for fault in self.faults[:FAULTS_SHOWN])
        hidden = len(self.faults) - FAULTS_SHOWN
        super().__init__(f"{shown}; and {hidden} more" if hidden > 0 else shown)


@dataclass(frozen=True, slots=True)
class Rates:
    """What tokens cost, by class, in nano-USD per million tokens. None: this class has no price of its own."""

    input: int
    output: int | None = None
    cached_input: int | None = None
    cache_write: int | None = None
    cache_write_long: int | None = None
    audio_input: int | None = None
    cached_audio_input: int | None = None
    audio_output: int | None = None
    image_input: int | None = None
    image_output: int | None = None
    text_input_dearest: int = field(init=False, repr=False, compare=False)
    """The most that an input token of text can cost: sent anew, read from a cache or written to one."""

    def __post_init__(self) -> None:
        text = (self.input, self.cached_input, self.cache_write, self.cache_write_long)
        object.__setattr__(self, "text_input_dearest", max(rate for rate in text if rate is not None))


@dataclass(frozen=True, slots=True)
class Bracket:
    """The rates of a whole call whose input is larger than `above_tokens` (the first bracket of a price: 0 tokens)."""

    above_tokens: int
    rates: Rates


Brackets = tuple[Bracket, ...]
"""Ascending by threshold; the first one has threshold 0 and is what a call of any size pays at the least."""


@dataclass(frozen=True, slots=True)
class Price:
    """Everything that a call of one model can cost."""

    model: str
    section: str
    brackets: Brackets
    """The standard service tier."""
    service_tiers: tuple[tuple[str, Brackets], ...]
    fees: tuple[tuple[str, int], ...]
    """Nano-USD per separately billed call, by name; `REQUEST_FEE` is paid once by every call."""
    output_tokens_max: int
    """The most tokens of one answer: the documented maximum, else the context window, else the section's default."""
    context_tokens: int | None
    encoding: str | None
    """The tiktoken encoding that counts its text exactly; None: count bytes."""
    source: str
    source_date: str
    billed_by: str = ""
    """What it is billed by instead of tokens, one of `PIECES`, which is then the name of a fee; empty: tokens."""
    request_fee_nano: int = field(init=False, repr=False, compare=False)
    """What every call pays once, whatever it does: the fee named `REQUEST_FEE`, or 0."""
    charges_calls: bool = field(init=False, repr=False, compare=False)
    """Whether a call may cost something although it used no tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "request_fee_nano", self.fee(REQUEST_FEE) or 0)
        object.__setattr__(self, "charges_calls", bool(self.request_fee_nano or self.billed_by))

    def tier(self, name: str) -> Brackets | None:
        """The prices of a named service tier, or None if it has none of its own."""
        for tier, brackets in self.service_tiers:
            if tier == name:
                return brackets
        return None

    def fee(self, name: str) -> int | None:
        """Nano-USD per call of a named fee, or None if the model has no such fee."""
        return next((nano for fee, nano in self.fees if fee == name), None)


@dataclass(frozen=True, slots=True)
class Row:
    """A model in the file: its price, and the prices that are announced for later days, ascending."""

    name: str
    price: Price
    changes: tuple[tuple[date, Price], ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """The models of one provider."""

    name: str
    rows: Mapping[str, Row]
    """By lower-case name, aliases included."""
    prefixes: tuple[str, ...]
    """What clients put before a model's name and providers ignore (`openai/`, `models/`); lower-case."""
    fallback: str | None
    """The section whose models this provider serves too, at the same prices."""
    default: Row | None
    """What a model without a row is priced as, if people added that."""


@dataclass(frozen=True, slots=True)
class PriceFile:
    """A whole file, checked."""

    sections: Mapping[str, Section]
    as_of: str
    genai_prices: str | None
    """The version of genai-prices that the file was built from; None for a file written by hand."""


PRICE_FIELDS: Final = tuple(field.name for field in fields(Rates) if field.init)
"""The classes of token that have prices, as they are called in the price file."""

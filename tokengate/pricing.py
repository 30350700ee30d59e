"""What a call can cost and what it did cost: the rules over a price table. Pure: no I/O, no floats, no pydantic.

Three rules of thumb hold everywhere. A model, feature or tier without a price is refused, never 0. Where a provider's
figures can be read in two ways, the dearer reading is charged. And what `quote` says a call can cost at the most is
never less than what `cost` makes of any usage that the call allows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Final, Literal

from msgspec import Struct

from tokengate.domain import Call, Quote, Usage
from tokengate.money import TOKENS_PER_PRICE, cost_nano
from tokengate.pricefile import NAME_CHARS_MAX, read_price_file
from tokengate.prices import (
    REQUEST_FEE,
    Bracket,
    Brackets,
    Fault,
    Price,
    PriceFile,
    PriceTableError,
    PricingError,
    Rates,
    Row,
    Section,
    UnpricedAudio,
    UnpricedFee,
    UnpricedImages,
    UnpricedOutput,
    UnpricedPiece,
    UnpricedTier,
    UnpricedWindow,
)

__all__ = (
    "REQUEST_FEE",
    "Bracket",
    "Fault",
    "Lookup",
    "LookupStatus",
    "OutputCap",
    "Price",
    "PriceTable",
    "PriceTableError",
    "PricingError",
    "Rates",
    "UnpricedAudio",
    "UnpricedFee",
    "UnpricedImages",
    "UnpricedOutput",
    "UnpricedPiece",
    "UnpricedTier",
    "UnpricedWindow",
    "cost",
    "expected_nano",
    "output_cap_for",
    "quote",
)

RESOLVED_NAMES_MAX: Final = 1024
"""Names remembered with what they resolved to. Callers invent names, so what is remembered about them is bounded."""
OUTPUT_MIN_TOKENS: Final = 16
"""The least answer worth having, in tokens; below it a call is refused rather than capped. It is the least that OpenAI
takes as `max_output_tokens` of a response (https://platform.openai.com/docs/api-reference/responses/create)."""
STANDARD_TIERS: Final = frozenset({"", "auto", "default", "standard", "standard_only", "on_demand"})
"""What providers call their standard service tier, in requests and in answers (OpenAI: auto, default; Anthropic: auto,
standard, standard_only; Groq: auto, on_demand)."""
TIERS_NOT_FOR_CALLS: Final = frozenset({"batch"})
"""Tiers that only another API gives, so that naming one in a call buys nothing and must not lower its quote."""

OutputCap = Literal["when_unset", "always", "never"]
"""When an output cap may be written into a request: where the client set none, always, or never."""


class LookupStatus(StrEnum):
    """How the price of a model was found."""

    EXACT = "exact"
    """The table has the name."""
    RESOLVED = "resolved"
    """An alias, a dated snapshot, or the name behind a provider's prefix or a fine-tuned model."""
    DEFAULT = "default"
    """No row: the section's `default` entry, which people add, stands in."""
    UNPRICED = "unpriced"


class Lookup(Struct, frozen=True, gc=False):
    """The answer to a lookup; `name` and `price` are empty and None exactly when the model is unpriced."""

    status: LookupStatus
    name: str = ""
    """The name of the row, or `default`."""
    price: Price | None = None


_UNPRICED: Final = Lookup(LookupStatus.UNPRICED)
_EXACT: Final = LookupStatus.EXACT

_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_SNAPSHOT: Final = re.compile(
    r"(?P<model>.+?)(?:"
    rf"-20\d\d-?{_MONTH}-?{_DAY}"  # gpt-4o-2024-08-06, claude-sonnet-4-5-20250929
    rf"|@20\d\d{_MONTH}{_DAY}"  # claude-sonnet-4-5@20250929, as Vertex AI writes it
    rf"|-{_MONTH}{_DAY}(?:-preview)?"  # gpt-4-0613, gpt-4-1106-preview
    r"|-preview-\d\d-(?:\d\d|20\d\d)"  # gemini-2.5-pro-preview-05-06, gemini-2.5-flash-preview-09-2025
    r"|(?<=gemini-...-pro)-00\d|(?<=-flash)-00\d|(?<=-flash-lite)-00\d"  # gemini-2.0-flash-001
    r"|-latest"
    r")",
    re.ASCII,
)
_FINE_TUNED: Final = re.compile(
    r"ft:(?P<model>[^:]+)(?::.*)?"  # ft:gpt-4o-mini-2024-07-18:org:name:id
    r"|(?P<azure_model>.+)\.ft-[0-9a-f]+(?:-.*)?",  # gpt-4o-mini-2024-07-18.ft-0123abcd-name
    re.ASCII,
)


class PriceTable:
    """The prices of all models, immutable; a reload makes a new table."""

    def __init__(self, file: PriceFile) -> None:
        self.as_of = file.as_of
        self.genai_prices = file.genai_prices
        self.sections = file.sections
        self._resolve = lru_cache(maxsize=RESOLVED_NAMES_MAX)(self._resolve_anew)

    @classmethod
    def parse(cls, text: bytes) -> "PriceTable":
        """Read a price file (its format: `data/README.md`).

        Raises:
            PriceTableError: with every fault of the file, each with its JSON path, or the line where it is not JSON.
        """
        return cls(read_price_file(text))

    def lookup(self, model: str, section: str = "openai", on: date | None = None) -> Lookup:
        """The price of a model as a client names it, at a provider.

        Args:
            model: the name in the request or in the answer.
            section: the provider, as the table calls it.
            on: the day that chooses among announced prices; by default today (UTC).
        """
        known = self.sections.get(section)
        if known is None:
            return _UNPRICED
        row = known.rows.get(model)
        if row is not None and row.name == model:
            return Lookup(_EXACT, model, row.price if not row.changes else _in_force(row, on))
        if not 0 < len(model) <= NAME_CHARS_MAX:
            return _UNPRICED
        status, row = self._resolve(section, model)
        return Lookup(status, row.name, _in_force(row, on)) if row is not None else _UNPRICED

    def _resolve_anew(self, section: str, model: str) -> tuple[LookupStatus, Row | None]:
        known = self.sections[section]
        for place in (known, self.sections[known.fallback] if known.fallback is not None else None):
            row = _find(place, model.lower()) if place is not None else None
            if row is not None:
                is_own = place is known and row.name == model
                return (LookupStatus.EXACT if is_own else LookupStatus.RESOLVED), row
        return (LookupStatus.UNPRICED if known.default is None else LookupStatus.DEFAULT), known.default


def _in_force(row: Row, on: date | None) -> Price:
    """The price of a row on a day. The clock is read only for the few rows whose price is announced to change."""
    if not row.changes:
        return row.price
    day = on if on is not None else datetime.now(UTC).date()
    return next((price for start, price in reversed(row.changes) if start <= day), row.price)


def _find(section: Section, name: str) -> Row | None:
    """The row of a lower-case name: as it is, or without a prefix, or as a snapshot or fine-tuning of a priced model.

    A fine-tuned model costs more than the model it was made from, so only a row of its own (`ft:...`) prices it.
    """
    row = section.rows.get(name)
    if row is not None:
        return row
    prefix = next((prefix for prefix in section.prefixes if name.startswith(prefix)), None)
    if prefix is not None:
        return _find(section, name.removeprefix(prefix))
    tuned = _FINE_TUNED.fullmatch(name)
    if tuned is not None:
        base = f"ft:{tuned['model'] or tuned['azure_model']}"
        return section.rows.get(base) or section.rows.get(_without_snapshot(base))
    return section.rows.get(_without_snapshot(name))


def _without_snapshot(name: str) -> str:
    """The name without its date or `-latest`; a name that ends in anything else stays what it is."""
    snapshot = _SNAPSHOT.fullmatch(name)
    return snapshot["model"] if snapshot is not None else name


# -- what a call did cost ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """Input tokens of one modality, not yet priced, and what one costs in each way it could have been used."""

    tokens: int
    plain: int
    read: int
    write: int
    write_long: int


def cost(price: Price, usage: Usage, service_tier_asked: str = "") -> int:
    """What a call cost, in nano-USD, rounded up once.

    Counts that contradict each other are read the dearer way: parts that exceed their whole are taken to be beside
    it, and cached tokens are taken to be those on which the discount is the smallest. A class of token without a
    price of its own costs what its plain class costs.

    Args:
        price: of the model that answered.
        usage: as the provider reported it. A service tier that it names is charged if it is priced, else the
            standard price.
        service_tier_asked: the tier in the request. It matters only if the provider did not say which one it used:
            then the dearer of this one and the standard price is charged.

    Raises:
        UnpricedFee: `usage.calls` names a fee that the model does not have.
        UnpricedPiece: the model is billed by what `usage.calls` does not count.
    """
    brackets = price.brackets
    if usage.service_tier:
        brackets = price.tier(usage.service_tier) or brackets
    priced = _tokens_priced(brackets, usage)
    if service_tier_asked and not usage.service_tier:
        priced = max(priced, _tokens_priced(price.tier(service_tier_asked) or brackets, usage))
    if price.charges_calls or usage.calls:
        priced += _fees_nano(price, usage.calls) * TOKENS_PER_PRICE
    return cost_nano(priced)


def _fees_nano(price: Price, calls: tuple[tuple[str, int], ...]) -> int:
    total = price.request_fee_nano
    if price.billed_by and price.billed_by not in dict(calls):
        raise UnpricedPiece(f"the model {price.model} is billed by the {price.billed_by}, and none are counted here")
    for name, count in calls:
        fee = price.fee(name)
        if fee is None:
            raise UnpricedFee(f"the model {price.model} has no price for {name} calls")
        total += fee * max(0, count)
    return total


def _whole(whole: int, parts: int) -> int:
    """A count that contains its parts: if they exceed it, they were reported beside it."""
    return whole if parts <= whole else whole + parts


def _tokens_priced(brackets: Brackets, usage: Usage) -> int:
    """Tokens times nano-USD per million tokens, summed: not yet divided, so that it is rounded only once."""
    if (
        usage.input_tokens >= 0
        and 0 <= usage.reasoning_tokens <= usage.output_tokens
        and not usage.cache_read_tokens
        and not usage.cache_write_tokens
        and not usage.cache_write_long_tokens
        and not usage.input_audio_tokens
        and not usage.input_image_tokens
        and not usage.output_audio_tokens
        and not usage.output_image_tokens
    ):
        # Text alone, uncached, in counts that make sense, as nearly every call: by class it comes to the same.
        rates = _rates_for(brackets, usage.input_tokens)
        output = rates.output if rates.output is not None else rates.input
        return usage.input_tokens * rates.input + usage.output_tokens * output
    return _tokens_priced_by_class(brackets, usage)


def _tokens_priced_by_class(brackets: Brackets, usage: Usage) -> int:
    """The same for any usage."""
    audio, images = max(0, usage.input_audio_tokens), max(0, usage.input_image_tokens)
    reads, long_writes = max(0, usage.cache_read_tokens), max(0, usage.cache_write_long_tokens)
    writes = _whole(max(0, usage.cache_write_tokens), long_writes)
    whole = _whole(_whole(max(0, usage.input_tokens), audio + images), reads + writes)

    rates = _rates_for(brackets, whole)
    parts = _input_parts(rates, text=whole - audio - images, audio=audio, images=images)
    total = _drain(parts, long_writes, attrgetter("write_long"))
    total += _drain(parts, writes - long_writes, attrgetter("write"))
    total += _drain(parts, reads, attrgetter("read"))
    total += sum(part.tokens * part.plain for part in parts)
    return total + _output_priced(rates, usage)


def _rates_for(brackets: Brackets, input_tokens: int) -> Rates:
    if len(brackets) > 1:
        for bracket in reversed(brackets):
            if bracket.above_tokens < input_tokens:
                return bracket.rates
    return brackets[0].rates


def _input_parts(rates: Rates, text: int, audio: int, images: int) -> list[_Part]:
    """The input by modality; one without a price of its own is billed as text."""
    plain = rates.input
    write = plain if rates.cache_write is None else rates.cache_write
    write_long = write if rates.cache_write_long is None else rates.cache_write_long

    def part(tokens: int, own: int, read: int | None) -> _Part:
        return _Part(tokens, own, own if read is None else read, max(own, write), max(own, write_long))

    parts = []
    if rates.audio_input is not None:
        parts.append(part(audio, rates.audio_input, rates.cached_audio_input))
    else:
        text += audio
    if rates.image_input is not None:
        parts.append(part(images, rates.image_input, None))
    else:
        text += images
    parts.append(_Part(text, plain, plain if rates.cached_input is None else rates.cached_input, write, write_long))
    return parts


def _drain(parts: list[_Part], tokens: int, rate: Callable[[_Part], int]) -> int:
    """Price `tokens` at a rate by modality, taking them from where they save the least against the plain price."""
    total = 0
    for part in sorted(parts, key=lambda part: part.plain - rate(part)):
        taken = min(part.tokens, tokens)
        part.tokens -= taken
        tokens -= taken
        total += taken * rate(part)
    return total


def _output_priced(rates: Rates, usage: Usage) -> int:
    audio, images = max(0, usage.output_audio_tokens), max(0, usage.output_image_tokens)
    whole = _whole(_whole(max(0, usage.output_tokens), audio + images), max(0, usage.reasoning_tokens))
    text_rate = rates.output if rates.output is not None else rates.input
    audio_rate = rates.audio_output if rates.audio_output is not None else text_rate
    image_rate = rates.image_output if rates.image_output is not None else text_rate
    return (whole - audio - images) * text_rate + audio * audio_rate + images * image_rate


# -- what a call can cost ---------------------------------------------------------------------------------------------


def quote(
    price: Price,
    call: Call,
    typical_output_tokens: int,
    output_min_tokens: int = OUTPUT_MIN_TOKENS,
    output_cap: OutputCap = "when_unset",
) -> Quote:
    """Bounds on what a call can cost.

    Each input token is priced as the dearest class that it could turn out to be, in the dearest tier that the call
    could reach; the most output is what the call allows, else the model's maximum, times the number of answers.

    Args:
        price: of the model that is asked.
        call: the request. A service tier that it asks for is priced as asked.
        typical_output_tokens: of one answer of this model (a rolling 95th percentile).
        output_min_tokens: of one answer, the least that is worth having.
        output_cap: when a smaller output cap may be written into the request. Where it may not, all three bounds are
            the most the call can cost.

    Raises:
        UnpricedTier: the service tier asked for has no price, or is none that a call can ask for.
        UnpricedAudio: the call may contain or produce audio, which has no price.
        UnpricedImages: it produces images, which have no price.
        UnpricedPiece: the model is billed by the second or the character, and the call has no such thing.
        UnpricedFee: it allows a separately billed call that has no price.
        UnpricedOutput: it produces output, which has no price.
        UnpricedWindow: it may be billed whole context windows of a model whose window is not known.
    """
    if not call.produces_output:
        return _quote_without_cap(price, call)
    if len(price.brackets) == 1 and call.service_tier in STANDARD_TIERS and not call.tiers_unasked:
        rates = price.brackets[0].rates  # nearly every model and call: there is nothing to choose from
        input_price = _dearest_input(price, rates, call)
        output_price = _dearest_output(price, rates, call)
    else:
        reachable = _reachable(price, call)
        input_price = max([_dearest_input(price, rates, call) for rates in reachable])
        output_price = max([_dearest_output(price, rates, call) for rates in reachable])
    input_priced = input_price * (call.input_tokens_max + (_windows(price, call) if call.context_windows else 0))
    if price.request_fee_nano or call.fees:
        input_priced += _fees_nano(price, call.fees) * TOKENS_PER_PRICE

    asked = call.output_tokens_asked
    beside = call.output_tokens_beside
    most = (asked or price.output_tokens_max) + beside
    cappable = output_cap == "always" or (output_cap == "when_unset" and (asked is None or call.output_cap_formal))
    per_token = output_price if call.answers == 1 else output_price * call.answers
    input_nano, want_nano = cost_nano(input_priced), cost_nano(input_priced + per_token * most)
    floor_nano = need_nano = want_nano
    if cappable:
        # An output cap is bought with what a grant leaves above the rounded price of the input, so the lower bounds
        # round input and output apart: a grant of `floor_nano` always buys `output_min_tokens`.
        least_nano = typical_nano = input_nano + cost_nano(per_token * (output_min_tokens + beside))
        if typical_output_tokens > output_min_tokens:
            typical_nano = input_nano + cost_nano(per_token * (typical_output_tokens + beside))
        if least_nano < want_nano:
            floor_nano = least_nano
        if typical_nano < want_nano:
            need_nano = typical_nano
    return Quote(floor_nano, need_nano, want_nano, input_nano, per_token, most, cappable)


def _quote_without_cap(price: Price, call: Call) -> Quote:
    """The most that a call can cost whose output no cap can bound; less buys nothing of it."""
    if price.billed_by:
        pieces = tuple(piece for piece in call.pieces if piece[0] == price.billed_by)
        most_nano = _fees_nano(price, pieces + call.fees)
    else:
        reachable = _reachable(price, call)
        tokens = call.input_tokens_max + (_windows(price, call) if call.context_windows else 0)
        priced = max(_dearest_input(price, rates, call) for rates in reachable) * tokens
        if call.output_tokens_fixed:
            priced += max(_dearest_uncapped(price, rates, call) for rates in reachable) * call.output_tokens_fixed
        if price.request_fee_nano or call.fees:
            priced += _fees_nano(price, call.fees) * TOKENS_PER_PRICE
        most_nano = cost_nano(priced)
    return Quote(most_nano, most_nano, most_nano, most_nano, 0, 0, cappable=False)


def _dearest_uncapped(price: Price, rates: Rates, call: Call) -> int:
    dearest = _dearest_output(price, rates, call)
    if not call.output_images:
        return dearest
    if rates.image_output is None:
        raise UnpricedImages(f"the model {price.model} has no price for images that it makes")
    return max(dearest, rates.image_output)


def _windows(price: Price, call: Call) -> int:
    if price.context_tokens is None:
        raise UnpricedWindow(f"the model {price.model} has no context_tokens, which bound what it is shown")
    return price.context_tokens * call.context_windows


def expected_nano(quote: Quote, output_tokens: int) -> int:
    """What a call will probably cost, in nano-USD, if each of its answers has so many tokens; at most `want_nano`."""
    tokens = min(output_tokens, quote.output_tokens_max)
    return min(quote.want_nano, quote.input_nano + cost_nano(quote.output_token_price * tokens))


def output_cap_for(quote: Quote, grant_nano: int) -> int | None:
    """The largest output cap, in tokens an answer, that a grant of nano-USD pays for, even after rounding up.

    None if the grant pays for everything the call can cost, so that no cap is needed; 0 if it pays for no output.
    """
    if grant_nano >= quote.want_nano:
        return None
    left = grant_nano - quote.input_nano
    if left < 0:
        return 0
    if quote.output_token_price == 0:
        return quote.output_tokens_max
    return min(left * TOKENS_PER_PRICE // quote.output_token_price, quote.output_tokens_max)


def _reachable(price: Price, call: Call) -> list[Rates]:
    """The rates that a call could be billed at: those of every input size up to its bound.

    A tier that is no cheaper than the standard one may be served, and billed, as standard when the provider is short of
    it, so that both are reachable (https://developers.openai.com/api/docs/guides/priority-processing). A cheaper one
    is refused instead (https://developers.openai.com/api/docs/guides/flex-processing).
    """
    tiers = [price.brackets]
    if call.service_tier not in STANDARD_TIERS:
        asked = None if call.service_tier in TIERS_NOT_FOR_CALLS else price.tier(call.service_tier)
        if asked is None:
            raise UnpricedTier(f"the model {price.model} has no price for the service tier {call.service_tier}")
        tiers = [asked, price.brackets] if asked[0].rates.input >= price.brackets[0].rates.input else [asked]
    tiers += [brackets for name in call.tiers_unasked if (brackets := price.tier(name)) is not None]
    return [
        bracket.rates
        for brackets in tiers
        for bracket in brackets
        if bracket.above_tokens < call.input_tokens_max or not bracket.above_tokens or call.context_windows
    ]


def _dearest_input(price: Price, rates: Rates, call: Call) -> int:
    if not call.input_audio and not call.input_images:
        return rates.text_input_dearest
    dearest = rates.text_input_dearest
    if call.input_audio:
        if rates.audio_input is None:
            raise UnpricedAudio(f"the model {price.model} has no price for audio input")
        dearest = max(dearest, rates.audio_input, rates.cached_audio_input or 0)
    return max(dearest, rates.image_input or 0) if call.input_images else dearest


def _dearest_output(price: Price, rates: Rates, call: Call) -> int:
    if rates.output is None:
        raise UnpricedOutput(f"the model {price.model} has no price for output")
    if not call.output_audio:
        return rates.output
    if rates.audio_output is None:
        raise UnpricedAudio(f"the model {price.model} has no price for audio output")
    return max(rates.output, rates.audio_output)

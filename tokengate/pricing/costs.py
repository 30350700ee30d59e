"""What a call did cost, by the usage that the provider reported.

Where the provider's figures can be read in two ways, the dearer reading is charged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from tokengate.domain import Usage
from tokengate.money import TOKENS_PER_PRICE, cost_nano
from tokengate.prices import Brackets, Price, Rates, UnpricedFee, UnpricedPiece


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
        priced += fees_nano(price, usage.calls) * TOKENS_PER_PRICE
    return cost_nano(priced)


def fees_nano(price: Price, calls: tuple[tuple[str, int], ...]) -> int:
    """What so many of each separately billed call, or piece, cost, in nano-USD, with the model's fee for a request.

    Raises:
        UnpricedFee: one of them has no price.
        UnpricedPiece: the model is billed by what is not among them.
    """
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

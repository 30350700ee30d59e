"""What a call can cost before it is made, and what output a grant buys.

No bound that `quote` gives as the most is below what `cost` makes of any usage that the call allows.
"""

from typing import Final, Literal

from tokengate.domain import Call, Quote
from tokengate.money import TOKENS_PER_PRICE, cost_nano
from tokengate.prices import Price, Rates, UnpricedAudio, UnpricedImages, UnpricedOutput, UnpricedTier, UnpricedWindow
from tokengate.pricing.costs import fees_nano

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
        input_priced += fees_nano(price, call.fees) * TOKENS_PER_PRICE

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
        most_nano = fees_nano(price, pieces + call.fees)
    else:
        reachable = _reachable(price, call)
        tokens = call.input_tokens_max + (_windows(price, call) if call.context_windows else 0)
        priced = max(_dearest_input(price, rates, call) for rates in reachable) * tokens
        if call.output_tokens_fixed:
            priced += max(_dearest_uncapped(price, rates, call) for rates in reachable) * call.output_tokens_fixed
        if price.request_fee_nano or call.fees:
            priced += fees_nano(price, call.fees) * TOKENS_PER_PRICE
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

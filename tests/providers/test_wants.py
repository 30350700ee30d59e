"""What is held for a call is never less than what it costs, and what it costs is what its provider's prices make of it.

10,000 calls of each dialect, of every feature that has a price: their requests are read, quoted, and sent with what is
granted; their answers, as dear as what was sent allows them to be, are read by the meters and priced. What the provider
bills is calculated beside that from the price file itself (`tests/providers/generated`).
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final, NamedTuple

import orjson
import pytest

from tests.providers.generated import anthropic, gemini, openai
from tests.providers.generated.words import Asked, Billed, draw, nano
from tokengate.bodies import UnpricedFeature
from tokengate.pricing import OUTPUT_MIN_TOKENS, PriceTable, PricingError, cost, output_cap_for, quote
from tokengate.resources import pricing_file

CALLS: Final = 10_000
ABOUT_CHARS_MAX: Final = 2_000
TABLE: Final = PriceTable.parse(pricing_file().read_bytes())


class Dialect(NamedTuple):
    """How the calls of an endpoint are made, and what of them must have been seen for the test to say anything."""

    ask: Callable[[Random], Asked]
    cap_of: Callable[[Asked, dict[str, Any]], int]
    answer: Callable[[Asked, Billed], bytes]
    features: str


DIALECTS: Final = {
    "chat": Dialect(
        openai.chat,
        openai.cap_of,
        openai.answer,
        "capped streamed reasoning cached written sound spoken long tier:flex tier:priority",
    ),
    "completions": Dialect(openai.completion, openai.cap_of, openai.answer, "capped streamed long"),
    "embeddings": Dialect(openai.embedding, openai.cap_of, openai.answer, "long"),
    "responses": Dialect(
        openai.response, openai.cap_of, openai.answer, "capped streamed reasoning cached written windows fees long"
    ),
    "anthropic": Dialect(
        anthropic.message,
        anthropic.cap_of,
        anthropic.answer,
        "capped streamed reasoning cached written windows fees long tier:fast tier:us",
    ),
    "gemini": Dialect(
        gemini.generation, gemini.cap_of, gemini.answer, "capped streamed reasoning cached windows sound fees long"
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_no_call_costs_more_than_was_granted_and_each_costs_what_its_prices_say(name: str) -> None:
    random, dialect, seen = Random(f"wants of {name}"), DIALECTS[name], Counter[str]()
    while seen["admitted"] < CALLS and seen["refused"] < CALLS:
        asked = dialect.ask(random)
        about = f"call {seen['admitted']} of {name}: {asked.document} at {asked.model}"[:ABOUT_CHARS_MAX]
        try:
            request = asked.endpoint.parse(orjson.dumps(asked.document), asked.head)
            price = TABLE.lookup(asked.model, asked.section).price
            assert price is not None, about
            bounds = quote(price, request.call, 512)
        except (UnpricedFeature, PricingError):
            seen["refused"] += 1
            continue
        grant = bounds.want_nano
        if bounds.cappable and random.random() < 0.5:
            grant = random.randint(bounds.floor_nano, bounds.want_nano)
        cap = output_cap_for(bounds, grant) if bounds.cappable else None
        assert cap is None or cap >= OUTPUT_MIN_TOKENS, about
        billed = draw(random, asked, dialect.cap_of(asked, orjson.loads(request.body(cap))))
        answer = dialect.answer(asked, billed)
        events = asked.stream and not answer.startswith(b"[")
        meter = request.meter(200, "text/event-stream" if events else "application/json")
        meter.feed(answer)
        meter.finish()
        usage = meter.reading().usage
        assert usage is not None, about
        charged = cost(price, usage, request.call.service_tier)
        assert charged <= grant, about
        mixed = (billed.read or billed.written) and (billed.audio or billed.images)
        if not mixed:  # which of them were cached nobody tells: the dearer reading is charged
            assert charged == nano(asked, billed), about
        seen.update(_features(asked, billed, capped=cap is not None, mixed=bool(mixed)))
    assert seen["admitted"] == CALLS, seen
    assert min(seen[feature] for feature in dialect.features.split()) > 100, seen


def _features(asked: Asked, billed: Billed, *, capped: bool, mixed: bool) -> list[str]:
    told = {
        "admitted": True, "capped": capped, "mixed": mixed, "streamed": asked.stream,
        "windows": asked.allowed.windows > 0, "reasoning": billed.reasoning > 0, "cached": billed.read > 0,
        "written": billed.written + billed.written_long > 0, "fees": bool(billed.fees), "sound": billed.audio > 0,
        "long": billed.input > 200_000, f"tier:{billed.tier}": bool(billed.tier), "spoken": billed.spoken > 0,
    }  # fmt: skip
    return [name for name, true in told.items() if true]

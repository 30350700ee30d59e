"""What a call costs here is, to the nano-dollar, what genai-prices makes of the same usage by a calculation of its own.

Every model of three providers, in every service tier that it has, with usages that are generated from its prices: each
class of token that has one, and long-context edges from one token below to one above. genai-prices is asked by the
model's name, so that the resolving of names, its data and its arithmetic are all its own; its `Decimal` is rounded up
to the next nano-dollar, as every cost here is. What differs by intention is listed, with the reason.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from typing import Any, Final, NamedTuple

import genai_prices
import pytest
from msgspec.structs import replace

from tokengate.domain import Usage
from tokengate.prices import PRICE_FIELDS, Price
from tokengate.pricing import PriceTable, cost
from tokengate.providers.anthropic import usage as anthropic_usage
from tokengate.providers.gemini import meters as gemini_meters
from tokengate.providers.openai import response_meters
from tokengate.providers.openai import usage as openai_usage
from tokengate.resources import pricing_file

SECTIONS: Final = ("openai", "anthropic", "google")
DAY: Final = date(2026, 11, 23)
NOON: Final = datetime(2026, 11, 23, 12, tzinfo=UTC)
CASES_MIN: Final = {"openai": 1100, "anthropic": 380, "google": 410}
"""Below this the generation has lost something."""

_OURS_ALONE: Final = "a price from the overlay (OpenAI's own page): genai-prices has no such model"
_SEARCHES: Final = "a fee from the overlay: every call of a search model pays for a search"
_AUDIO: Final = "an audio price from the overlay: genai-prices bills audio of this model as text"

REGIONAL: Final = ("us", "fast-us")
"""Tiers from the overlay (Anthropic's own page): genai-prices knows no regions."""
DIFFERENT: Final = {
    ("openai", "ft:babbage-002"): _OURS_ALONE,
    ("openai", "ft:davinci-002"): _OURS_ALONE,
    ("openai", "ft:gpt-4.1"): _OURS_ALONE,
    ("openai", "ft:gpt-4.1-mini"): _OURS_ALONE,
    ("openai", "ft:gpt-4.1-nano"): _OURS_ALONE,
    ("openai", "ft:gpt-4o"): _OURS_ALONE,
    ("openai", "ft:gpt-4o-mini"): _OURS_ALONE,
    ("openai", "ft:o4-mini"): _OURS_ALONE,
    ("openai", "gpt-4o-mini-search-preview"): _SEARCHES,
    ("openai", "gpt-4o-search-preview"): _SEARCHES,
}
"""Models of which no case agrees, and why."""
DIFFERENT_AUDIO: Final = {
    ("openai", "gpt-4o-audio-preview"): _AUDIO,
    ("openai", "gpt-4o-audio-preview-2024-10-01"): _AUDIO,
    ("openai", "gpt-4o-mini-audio-preview"): _AUDIO,
}
"""Models of which the cases with audio do not agree, and why."""
_PIECES: Final = {"second": "audio_seconds", "character": "input_characters"}

TABLE: Final = PriceTable.parse(pricing_file().read_bytes())


class Case(NamedTuple):
    """A usage of one model, by what it is about."""

    section: str
    model: str
    about: str
    usage: Usage


def usages(price: Price) -> Iterator[tuple[str, Usage]]:
    """A usage for every class of token that the model has a price for; the counts are odd, so that sums get rounded."""
    if price.billed_by:
        yield f"by the {price.billed_by}", Usage(calls=((price.billed_by, 3607),))
        return
    rates = [bracket.rates for bracket in price.brackets]
    classes = {name: any(getattr(rate, name) is not None for rate in rates) for name in PRICE_FIELDS}
    answer = 503 if classes["output"] else 0
    yield "text", Usage(1017, answer)
    yield "one token", Usage(1)
    yield "cache read", Usage(2011, answer, cache_read_tokens=1025)
    if classes["output"]:
        yield "reasoning", Usage(101, 997, reasoning_tokens=701)
    if classes["cache_write"]:
        yield "cache write", Usage(2011, answer, cache_write_tokens=1025)
        yield "cache read and write", Usage(4099, answer, cache_read_tokens=1001, cache_write_tokens=1023)
    if classes["cache_write_long"]:
        yield "long cache write", Usage(2011, answer, cache_write_tokens=1025, cache_write_long_tokens=1025)
        yield (
            "both cache writes",
            Usage(4099, answer, cache_read_tokens=1001, cache_write_tokens=1023, cache_write_long_tokens=511),
        )
    if classes["audio_input"]:
        yield "audio in", Usage(1017, answer, input_audio_tokens=333)
    if classes["audio_output"]:
        yield "audio out", Usage(1017, 503, output_audio_tokens=333)
    if classes["image_input"]:
        yield "images", Usage(1017, answer, input_image_tokens=333)
    if classes["image_output"]:
        yield "images out", Usage(1017, 1503, output_image_tokens=1491)
    for edge in sorted({bracket.above_tokens for bracket in price.brackets} - {0}):
        for size in (edge - 1, edge, edge + 1):
            yield f"input of {size}", Usage(size, answer, cache_read_tokens=1009)


@cache
def cases(section: str) -> tuple[Case, ...]:
    """Of a provider: every model, every tier, every usage."""
    made = []
    for name in sorted({row.name for row in TABLE.sections[section].rows.values()}):
        price = priced(section, name)
        for tier in ("", *(tier for tier, _ in price.service_tiers if tier not in REGIONAL)):
            for about, usage in usages(price):
                told = f"{about}, {tier}" if tier else about
                made.append(Case(section, name, told, replace(usage, service_tier=tier)))
    return tuple(made)


def priced(section: str, model: str) -> Price:
    price = TABLE.lookup(model, section, DAY).price
    assert price is not None
    return price


def ours_nano(case: Case) -> int:
    return cost(priced(case.section, case.model), case.usage)


def theirs_nano(case: Case) -> int | None:
    """The cost that genai-prices calculates, in nano-USD, rounded up; None if it does not know the model."""
    try:
        calculated = genai_prices.calc_price(
            as_theirs(case.usage),
            case.model,
            provider_id=case.section,
            genai_request_timestamp=NOON,
            price_context=context(case.section, case.usage.service_tier),
        )
    except LookupError:
        return None
    return in_nano(calculated.total_price)


def in_nano(usd: Decimal) -> int:
    return int((usd * 10**9).to_integral_value(ROUND_CEILING))


def context(section: str, tier: str) -> dict[str, str]:
    """A service tier as genai-prices calls it: batches and Anthropic's fast mode are not tiers there."""
    if tier == "batch":
        return {"processing": tier}
    if tier == "fast" and section == "anthropic":
        return {"speed": tier}
    return {"service_tier": tier} if tier else {}


def as_theirs(usage: Usage) -> genai_prices.Usage:
    """The same usage in the words of genai-prices."""
    counts = {
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "cache_write_5m_tokens": usage.cache_write_tokens - usage.cache_write_long_tokens,
        "cache_write_1h_tokens": usage.cache_write_long_tokens,
        "input_audio_tokens": usage.input_audio_tokens,
        "input_image_tokens": usage.input_image_tokens,
        "output_audio_tokens": usage.output_audio_tokens,
        "output_image_tokens": usage.output_image_tokens,
        "output_reasoning_tokens": usage.reasoning_tokens,
    }
    counts |= {_PIECES[name]: count for name, count in usage.calls}
    given: dict[str, Any] = {name: count for name, count in counts.items() if count}
    return genai_prices.Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, **given)


def is_different(case: Case) -> bool:
    of = (case.section, case.model)
    has_audio = case.usage.input_audio_tokens or case.usage.output_audio_tokens
    return of in DIFFERENT or bool(has_audio and of in DIFFERENT_AUDIO)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_cost_is_what_genai_prices_calculates(section: str) -> None:
    alike = [case for case in cases(section) if not is_different(case)]
    assert len(alike) >= CASES_MIN[section]
    disagreed = [(case, ours, theirs) for case in alike if (ours := ours_nano(case)) != (theirs := theirs_nano(case))]
    assert disagreed == []


def test_what_differs_by_intention_is_dearer_here_or_unknown_there() -> None:
    """Otherwise the list would hide agreement, or a call that is charged too little."""
    different = [case for section in SECTIONS for case in cases(section) if is_different(case)]
    assert {(case.section, case.model) for case in different} == DIFFERENT.keys() | DIFFERENT_AUDIO.keys()
    cheaper = [
        (case, ours, theirs)
        for case in different
        if (theirs := theirs_nano(case)) is not None and (ours := ours_nano(case)) <= theirs
    ]
    assert cheaper == []


def test_every_class_of_token_and_every_tier_is_among_the_cases() -> None:
    """The table may lose a price that nobody misses; these are promised."""
    abouts = {case.about for section in SECTIONS for case in cases(section) if not is_different(case)}
    kinds = {about.partition(",")[0].partition(" of ")[0] for about in abouts}
    assert kinds >= {"text", "reasoning", "cache read", "cache write", "long cache write", "both cache writes"}
    assert kinds >= {"audio in", "audio out", "images", "images out", "input", "by the second", "by the character"}
    assert {about.partition(", ")[2] for about in abouts} == {"", "batch", "flex", "priority", "fast"}


# -- what providers report --------------------------------------------------------------------------------------------


def chat(prompt: int, answer: int, read: dict[str, int], generated: dict[str, int]) -> dict[str, Any]:
    """The usage of a chat completion (`openai/types/completion_usage.py`)."""
    return {
        "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
        "prompt_tokens_details": read, "completion_tokens_details": generated,
    }  # fmt: skip


def response(tokens_in: int, tokens_out: int, cached: int, written: int, reasoning: int) -> dict[str, Any]:
    """The usage of a response (`openai/types/responses/response_usage.py`)."""
    return {
        "input_tokens": tokens_in, "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        "output_tokens": tokens_out, "output_tokens_details": {"reasoning_tokens": reasoning},
    }  # fmt: skip


def message(plain: int, answer: int, read: int, short: int, long: int, searches: int = 0) -> dict[str, Any]:
    """The usage of a message (`anthropic/types/usage.py`)."""
    return {
        "input_tokens": plain, "output_tokens": answer, "cache_read_input_tokens": read,
        "cache_creation_input_tokens": short + long,
        "cache_creation": {"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long},
        "server_tool_use": {"web_search_requests": searches}, "service_tier": "standard",
    }  # fmt: skip


def content(prompt: int, shown: int, thoughts: int, cached: int = 0, tools: int = 0, **details: int) -> dict[str, Any]:
    """The usage of generated content (https://ai.google.dev/api/generate-content#UsageMetadata)."""
    listed = {
        name: [{"modality": "TEXT", "tokenCount": whole - audio}, {"modality": "AUDIO", "tokenCount": audio}]
        for name, whole, audio in (
            ("promptTokensDetails", prompt, details.get("audio", 0)),
            ("cacheTokensDetails", cached, details.get("cached_audio", 0)),
            ("toolUsePromptTokensDetails", tools, details.get("tools_audio", 0)),
            ("candidatesTokensDetails", shown, details.get("shown_audio", 0)),
        )
        if whole
    }
    return {
        "promptTokenCount": prompt, "candidatesTokenCount": shown, "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": cached, "toolUsePromptTokenCount": tools, **listed,
    }  # fmt: skip


REPORTED: Final[dict[str, tuple[str, str, str, dict[str, Any]]]] = {
    "a chat": ("openai", "chat", "gpt-4o-mini", chat(1017, 503, {}, {})),
    "a chat, cached": ("openai", "chat", "gpt-4o-mini", chat(2011, 97, {"cached_tokens": 1025}, {})),
    "a chat that reasoned": ("openai", "chat", "gpt-5.4", chat(101, 997, {}, {"reasoning_tokens": 701})),
    "a chat that wrote a cache": (
        "openai", "chat", "gpt-6-sol", chat(4099, 97, {"cached_tokens": 1001, "cache_write_tokens": 1023}, {})
    ),
    "a chat with sound": ("openai", "chat", "gpt-audio", chat(1017, 503, {"audio_tokens": 333}, {"audio_tokens": 211})),
    "predictions": (
        "openai", "chat", "gpt-4o",
        chat(101, 503, {}, {"accepted_prediction_tokens": 100, "rejected_prediction_tokens": 50}),
    ),
    "embeddings": ("openai", "embeddings", "text-embedding-3-small", {"prompt_tokens": 1017, "total_tokens": 1017}),
    "a response": ("openai", "responses", "gpt-5-mini", response(1017, 503, 0, 0, 301)),
    "a response, cached": ("openai", "responses", "gpt-6-luna", response(4099, 503, 1001, 1023, 301)),
    "a long response": ("openai", "responses", "gpt-5.4", response(272_001, 503, 1009, 0, 301)),
    "a message": ("anthropic", "default", "claude-sonnet-4-5", message(1017, 503, 0, 0, 0)),
    "a message, cached": ("anthropic", "default", "claude-haiku-4-5", message(17, 503, 1009, 511, 513)),
    "a message at its edge": ("anthropic", "default", "claude-sonnet-4-5", message(198_000, 503, 1000, 500, 500)),
    "a message over its edge": ("anthropic", "default", "claude-sonnet-4-5", message(198_001, 503, 1000, 500, 500)),
    "a message that searched": ("anthropic", "default", "claude-opus-4-5", message(1017, 503, 0, 0, 0, searches=3)),
    "content": ("google", "default", "gemini-2.5-flash", content(1017, 503, 301)),
    "content, cached": ("google", "default", "gemini-2.5-pro", content(2011, 503, 301, cached=1025)),
    "content over its edge": ("google", "default", "gemini-2.5-pro", content(200_001, 503, 301, cached=1025)),
    "content with sound": ("google", "default", "gemini-2.5-flash", content(1017, 503, 301, audio=333)),
    "content with tools": ("google", "default", "gemini-2.5-flash", content(1017, 503, 301, tools=211)),
    "content whose tools heard": (
        "google", "default", "gemini-2.5-flash", content(1017, 503, 301, audio=333, tools=211, tools_audio=101)
    ),
}  # fmt: skip


READERS: Final[dict[str, Callable[[dict[str, Any]], Usage | None]]] = {
    "chat": lambda answer: openai_usage.read_usage(answer, ()),
    "embeddings": lambda answer: openai_usage.read_usage(answer, ()),
    "responses": response_meters.read_response,
    "anthropic": lambda answer: anthropic_usage.read_usage(answer["usage"], answer["model"]),
    "google": gemini_meters.read_usage,
}


@pytest.mark.parametrize(("section", "flavor", "model", "usage"), REPORTED.values(), ids=REPORTED)
def test_what_a_provider_reports_is_read_and_charged_as_genai_prices_does(
    section: str, flavor: str, model: str, usage: dict[str, Any]
) -> None:
    name, figures = ("modelVersion", "usageMetadata") if section == "google" else ("model", "usage")
    answer = {name: model, figures: usage}
    theirs = genai_prices.extract_usage(answer, provider_id=section, api_flavor=flavor)
    calculated = theirs.calc_price(genai_request_timestamp=NOON).total_price
    read = READERS[flavor if section == "openai" else section](answer)
    assert read is not None
    assert cost(priced(section, model), read) == in_nano(calculated)


def test_cached_sound_is_taken_for_cached_text_which_is_the_dearer_reading() -> None:
    """A usage here does not say which of the cached tokens were sound: those are, on which the discount is the least."""
    usage = content(2011, 503, 301, cached=1025, audio=333, cached_audio=333)
    answer = {"modelVersion": "gemini-2.5-flash", "usageMetadata": usage}
    theirs = genai_prices.extract_usage(answer, provider_id="google").calc_price(genai_request_timestamp=NOON)
    read = gemini_meters.read_usage(answer)
    assert read is not None
    # 333 tokens of sound at $1 instead of $0.10 a million, and 333 of text at $0.03 instead of $0.30.
    assert cost(priced("google", "gemini-2.5-flash"), read) == in_nano(theirs.total_price) + 333 * (900 - 270)

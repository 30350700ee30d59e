"""The shipped price file is what its sources give, and charges what genai-prices itself would charge."""

import json
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from typing import Any

import pytest
from genai_prices import types as genai
from genai_prices.data import providers

from tokengate.domain import Usage
from tokengate.prices import REQUEST_FEE, PriceTableError
from tokengate.pricesync import PACKAGE, SyncError, sync
from tokengate.pricing import LookupStatus, PriceTable, cost
from tokengate.resources import pricing_file, pricing_overlay_file

SHIPPED = pricing_file().read_text(encoding="utf-8")
TABLE = PriceTable.parse(SHIPPED.encode())
DAY = date.fromisoformat(TABLE.as_of)
OVERLAY = pricing_overlay_file().read_bytes()
PROVIDERS = {provider.id: provider for provider in providers}
SIZES = (1, 1_000, 100_000, 100_001, 200_000, 200_001, 272_000, 272_001, 900_000)


def curated_prices() -> set[tuple[str, str]]:
    """The models whose prices are the overlay's, not genai-prices'."""
    facts = json.loads(OVERLAY)["facts"]
    priced = [fact for fact in facts if fact["set"].keys() & {"input", "cached_input", "audio_input"}]
    return {(fact["section"], name) for fact in priced for name in fact["models"]}


CURATED = curated_prices()


def test_the_environment_has_the_version_that_the_file_was_built_from() -> None:
    assert version(PACKAGE) == TABLE.genai_prices


def test_the_shipped_file_is_what_its_sources_give() -> None:
    synced = sync(OVERLAY, DAY)
    assert synced.text == SHIPPED
    assert synced.models == sum(len({row.name for row in section.rows.values()}) for section in TABLE.sections.values())


def test_what_cannot_be_priced_by_the_token_is_listed_with_the_reason() -> None:
    left_out = {(omitted.section, omitted.model): omitted.why for omitted in sync(OVERLAY, DAY).left_out}
    assert left_out["openai", "gpt-live-transcribe"] == "no price per input token"
    assert left_out["groq", "whisper-large-v3"] == "no price per input token"
    assert left_out["google", "gemini-2.5-flash-image"] == "has a price for output_image_mtok"
    assert not any(TABLE.sections[section].rows.get(model.lower()) for section, model in left_out)


def theirs(model: genai.ModelInfo, section: str, usage: Usage, context: dict[str, str] | None = None) -> int:
    """What genai-prices charges, in nano-USD rounded up."""
    reported: dict[str, int] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    if usage.cache_read_tokens:
        reported["cache_read_tokens"] = usage.cache_read_tokens
    if usage.cache_write_tokens:
        reported["cache_write_tokens"] = usage.cache_write_tokens
    if usage.cache_write_long_tokens:
        reported["cache_write_1h_tokens"] = usage.cache_write_long_tokens
    if usage.input_audio_tokens:
        reported["input_audio_tokens"] = usage.input_audio_tokens
    if usage.output_audio_tokens:
        reported["output_audio_tokens"] = usage.output_audio_tokens
    for name, count in usage.calls:
        reported[{"web_search": "web_searches", "file_search": "storage_searches"}[name]] = count
    calculated = model.calc_price(
        genai.Usage(**reported),
        PROVIDERS[section],
        genai_request_timestamp=datetime(DAY.year, DAY.month, DAY.day, 2, tzinfo=UTC),
        price_context=context,
    )
    return int((calculated.total_price * 10**9).to_integral_value(ROUND_CEILING))


def names() -> list[tuple[str, str]]:
    """Every name of the shipped file, aliases included, whose price comes from genai-prices."""
    return [
        (section.name, name)
        for section in TABLE.sections.values()
        for name, row in section.rows.items()
        if (section.name, row.name) not in CURATED and not row.price.billed_by
    ]


def find(section: str, name: str) -> genai.ModelInfo:
    """The model as genai-prices finds it; for an id that its own rules do not match, by that id."""
    provider = PROVIDERS[section]
    return provider.find_model(name) or next(model for model in provider.models if model.id.lower() == name)


def test_every_model_of_every_section_costs_what_genai_prices_says() -> None:
    different = []
    for section, name in names():
        model, lookup = find(section, name), TABLE.lookup(name, section, DAY)
        assert lookup.price is not None, name
        assert model.id.rstrip("-") == lookup.name
        has_output = lookup.price.brackets[0].rates.output is not None
        for size in SIZES:
            usage = Usage(size, 500 if has_output else 0)
            ours = cost(lookup.price, usage)
            if ours != theirs(model, section, usage):
                different.append((section, name, size, ours, theirs(model, section, usage)))
    assert different == []


@pytest.mark.parametrize("section", ["openai", "anthropic", "google", "x-ai"])
def test_cached_input_costs_what_genai_prices_says(section: str) -> None:
    compared = 0
    for name in (name for place, name in names() if place == section):
        price, model = TABLE.lookup(name, section, DAY).price, find(section, name)
        assert price is not None
        rates = price.brackets[0].rates
        for size in SIZES[1:]:
            usages = [Usage(size, cache_read_tokens=size * 8 // 10)]
            if rates.cache_write is not None:
                usages.append(Usage(size, cache_read_tokens=size // 4, cache_write_tokens=size // 2))
            if rates.cache_write_long is not None:
                usages.append(Usage(size, cache_write_tokens=size // 2, cache_write_long_tokens=size // 4))
            for usage in usages:
                assert cost(price, usage) == theirs(model, section, usage), (name, usage)
                compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("gpt-audio", Usage(1000, 500, input_audio_tokens=400, output_audio_tokens=300)),
        ("gpt-realtime", Usage(1000, 500, input_audio_tokens=400, output_audio_tokens=300)),
        ("gpt-4o", Usage(1000, 500, calls=(("web_search", 2), ("file_search", 3)))),
    ],
)
def test_audio_and_fees_cost_what_genai_prices_says(model: str, usage: Usage) -> None:
    price = TABLE.lookup(model).price
    assert price is not None
    assert cost(price, usage) == theirs(find("openai", model), "openai", usage)


def test_service_tiers_cost_what_genai_prices_says() -> None:
    compared = 0
    for name in (name for place, name in names() if place == "openai"):
        price, model = TABLE.lookup(name, on=DAY).price, find("openai", name)
        assert price is not None
        for tier, _ in price.service_tiers:
            context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier}
            for size in SIZES[1:]:
                usage = Usage(size, 500, cache_read_tokens=size // 2, service_tier=tier)
                assert cost(price, usage) == theirs(model, "openai", usage, context), (name, tier, size)
                compared += 1
    assert compared > 500


def test_a_price_of_some_hours_is_the_dearest_of_the_day() -> None:
    price = TABLE.lookup("deepseek-flash", "deepseek", DAY).price
    assert price is not None
    assert cost(price, Usage(1_000_000)) == 300_000_000


def test_announced_prices_are_written_down_with_their_day() -> None:
    before = TABLE.lookup("gemini-3.8-flash", "google", date(2026, 12, 31)).price
    after = TABLE.lookup("gemini-3.8-flash", "google", date(2027, 1, 1)).price
    assert before is not None
    assert after is not None
    assert 2 * cost(before, Usage(1_000_000)) == cost(after, Usage(1_000_000)) == 1_500_000_000


def test_a_fee_for_every_request_is_part_of_the_price() -> None:
    price = TABLE.lookup("sonar", "perplexity").price
    assert price is not None
    assert price.fee(REQUEST_FEE) == 12_000_000


@pytest.mark.parametrize(
    "model",
    ["gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "o1", "o3", "o4-mini", "gpt-4-turbo", "gpt-6-sol", "ft:gpt-4o"],
)
def test_current_models_have_their_documented_output_maximum(model: str) -> None:
    documented = {
        "gpt-4o": 16_384,
        "gpt-4o-mini": 16_384,
        "gpt-4.1": 32_768,
        "gpt-5": 128_000,
        "o1": 100_000,
        "o3": 100_000,
        "o4-mini": 100_000,
        "gpt-4-turbo": 4_096,
        "gpt-6-sol": 128_000,
        "ft:gpt-4o": 16_384,
    }
    lookup = TABLE.lookup(model)
    assert lookup.status is LookupStatus.EXACT
    assert lookup.price is not None
    assert lookup.price.output_tokens_max == documented[model]


def test_a_fine_tuned_model_is_never_cheaper_than_its_base() -> None:
    tuned = [row.price for name, row in TABLE.sections["openai"].rows.items() if name.startswith("ft:")]
    assert len(tuned) >= 9
    for price in tuned:
        base = TABLE.lookup(price.model.removeprefix("ft:")).price
        assert base is not None
        assert cost(price, Usage(1000, 500)) > cost(base, Usage(1000, 500))


def overlaid(**changes: Any) -> bytes:
    overlay: dict[str, Any] = {"version": 1, "sections": {"openai": {}}, "drop": [], "facts": [], **changes}
    return json.dumps(overlay).encode()


def fact(model: str, **fields: Any) -> dict[str, Any]:
    return {"section": "openai", "models": [model], "set": fields, "source": "https://s", "date": "2026-01-01"}


def test_a_fact_that_prices_a_model_is_its_source() -> None:
    table = PriceTable.parse(
        sync(overlaid(facts=[fact("new", input=1), fact("o1", encoding="o200k_base")]), DAY).text.encode()
    )
    new, o1 = table.lookup("new").price, table.lookup("o1").price
    assert new is not None
    assert o1 is not None
    assert (new.source, new.source_date) == ("https://s", "2026-01-01")
    assert (o1.encoding, o1.source_date) == ("o200k_base", TABLE.as_of)


@pytest.mark.parametrize(
    ("overlay", "error", "words"),
    [
        (overlaid(facts=[fact("gone", output_tokens_max=1)]), SyncError, "there is no openai model gone"),
        (overlaid(drop=[{"section": "openai", "models": ["gone"], "why": ""}]), SyncError, "no openai model gone"),
        (overlaid(drop=[{"section": "openai", "aliases": [["o1", "x"]], "why": ""}]), SyncError, "o1 has no alias x"),
        (b"{", PriceTableError, "line 1"),
    ],
)
def test_an_overlay_that_does_not_fit_is_refused(overlay: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sync(overlay, DAY)


def test_every_fact_has_its_source_and_its_day() -> None:
    facts = json.loads(OVERLAY, parse_float=Decimal)["facts"]
    assert facts
    for entry in facts:
        assert entry["source"].startswith("https://"), entry
        assert date.fromisoformat(entry["date"]) <= DAY, entry

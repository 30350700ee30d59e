"""A name finds its row or none, invented names cost no memory, and the loaded table is small."""

import subprocess
import sys
import tracemalloc
from datetime import date

import pytest

from tokengate.domain import Call, Usage
from tokengate.money import parse_usd
from tokengate.pricing import RESOLVED_NAMES_MAX, LookupStatus, PriceTable, cost, quote
from tokengate.resources import pricing_file

TABLE_BYTES_MAX = 3_000_000
TABLE = PriceTable.parse(pricing_file().read_bytes())


@pytest.mark.parametrize(
    ("model", "section", "status", "name"),
    [
        ("gpt-4o", "openai", "exact", "gpt-4o"),
        ("gpt-4o-2024-05-13", "openai", "exact", "gpt-4o-2024-05-13"),
        ("gpt-4o-2024-08-06", "openai", "resolved", "gpt-4o"),
        ("gpt-4.1-2025-04-14", "openai", "resolved", "gpt-4.1"),
        ("gpt-4o-mini-2031-12-31", "openai", "resolved", "gpt-4o-mini"),
        ("gpt-5.2-20251211", "openai", "resolved", "gpt-5.2"),
        ("gpt-4-0613", "openai", "resolved", "gpt-4"),
        ("gpt-4-1106-preview", "openai", "resolved", "gpt-4-turbo"),
        ("gpt-3.5-turbo-1106", "openai", "exact", "gpt-3.5-turbo-1106"),
        ("gpt-4o-audio-preview-2024-12-17", "openai", "resolved", "gpt-4o-audio-preview"),
        ("GPT-4o", "openai", "resolved", "gpt-4o"),
        ("openai/gpt-4o", "openai", "resolved", "gpt-4o"),
        ("openai/gpt-4o-2024-08-06", "openai", "resolved", "gpt-4o"),
        ("gpt-4o", "azure", "resolved", "gpt-4o"),
        ("claude-sonnet-4-5-20250929", "anthropic", "resolved", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "anthropic", "resolved", "claude-sonnet-4-5"),
        ("claude-3-5-haiku-20241022", "anthropic", "resolved", "claude-3-5-haiku-latest"),
        ("claude-opus-4-1-latest", "anthropic", "resolved", "claude-opus-4-1"),
        ("models/gemini-2.5-pro", "google", "resolved", "gemini-2.5-pro"),
        ("gemini-2.5-pro-preview-05-06", "google", "resolved", "gemini-2.5-pro"),
        ("gemini-2.0-flash-001", "google", "resolved", "gemini-2.0-flash"),
        ("openai/gpt-4o", "openrouter", "exact", "openai/gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:org:name:id", "openai", "resolved", "ft:gpt-4o-mini"),
        ("ft:gpt-4o-mini-2024-07-18:org:name:id:ckpt-step-100", "openai", "resolved", "ft:gpt-4o-mini"),
        ("ft:gpt-4.1-nano-2025-04-14:org::id", "openai", "resolved", "ft:gpt-4.1-nano"),
        ("gpt-4o-mini-2024-07-18.ft-0123abcd-name", "openai", "resolved", "ft:gpt-4o-mini"),
        ("openai/ft:gpt-3.5-turbo-0125:org::id", "openai", "resolved", "ft:gpt-3.5-turbo"),
    ],
)
def test_a_name_is_found(model: str, section: str, status: str, name: str) -> None:
    lookup = TABLE.lookup(model, section)
    assert (lookup.status, lookup.name) == (status, name)
    assert lookup.price is not None
    assert lookup.price.model == name


@pytest.mark.parametrize(
    ("model", "section"),
    [
        ("gpt-4o-mini-foo", "openai"),
        ("gpt-5-new", "openai"),
        ("gpt-4o-", "openai"),
        ("gpt-4o-2024", "openai"),
        ("gpt-4o-2024-13-01", "openai"),
        ("gpt-4o-9999", "openai"),
        ("gpt-4o-2024-08-06-foo", "openai"),
        ("foo-gpt-4o", "openai"),
        ("anthropic/claude-sonnet-4-5", "openai"),
        ("ft:gpt-4-0613:org::id", "openai"),
        ("ft:gpt-5:org::id", "openai"),
        ("ft:gpt-4o-mini-foo:org::id", "openai"),
        ("text-embedding-3-small-002", "openai"),
        ("omni-moderation-latest", "openai"),
        ("tts-2", "openai"),
        ("gpt-4o\n", "openai"),
        ("", "openai"),
        ("gpt-4o", "nowhere"),
    ],
)
def test_a_name_that_only_resembles_a_model_is_unpriced(model: str, section: str) -> None:
    lookup = TABLE.lookup(model, section)
    assert (lookup.status, lookup.name, lookup.price) == (LookupStatus.UNPRICED, "", None)


def test_a_search_model_pays_for_its_search_in_every_call() -> None:
    price = TABLE.lookup("gpt-4o-mini-search-preview-2025-03-11").price
    assert price is not None
    assert cost(price, Usage()) == parse_usd("0.025")
    assert quote(
        price, Call("m", stream=False, input_tokens_max=0, text_bytes=0, output_tokens_asked=None), 100
    ).input_nano == parse_usd("0.025")


def a_table(models: str, more: str = "") -> PriceTable:
    return PriceTable.parse(f'{{"version": 1, "sections": {{"openai": {{"models": {models}{more}}}}}}}'.encode())


def test_a_default_that_people_add_prices_models_without_a_row_fine_tuned_ones_too() -> None:
    table = a_table('{"known": {"input": 1}}', ', "default": {"input": 100, "output": 200}')
    assert table.lookup("known").status is LookupStatus.EXACT
    for name in ("anything", "ft:known:org::id"):
        lookup = table.lookup(name)
        assert (lookup.status, lookup.name) == (LookupStatus.DEFAULT, "default")
        assert lookup.price is not None
        assert lookup.price.brackets[0].rates.input == parse_usd("100")


def test_announced_prices_hold_from_their_day() -> None:
    table = a_table(
        '{"m": {"input": 1, "changes": [{"from": "2026-12-01", "input": 2}, {"from": "2027-01-01", "input": 3}]}}'
    )

    def input_usd(on: date) -> int:
        price = table.lookup("m", on=on).price
        assert price is not None
        return price.brackets[0].rates.input // parse_usd("1")

    days = [date(2026, 11, 30), date(2026, 12, 1), date(2026, 12, 31), date(2027, 1, 1)]
    assert [input_usd(day) for day in days] == [1, 2, 2, 3]


def test_invented_names_do_not_grow_the_memory() -> None:
    table = a_table('{"m": {"input": 1}}')
    for number in range(2 * RESOLVED_NAMES_MAX):
        table.lookup(f"m-{number}")
    remembered = table._resolve.cache_info()
    assert remembered.currsize == remembered.maxsize == RESOLVED_NAMES_MAX
    misses = remembered.misses
    table.lookup("x" * 257)
    assert table._resolve.cache_info().misses == misses


def test_the_loaded_table_is_small() -> None:
    text = pricing_file().read_bytes()
    tracemalloc.start()
    try:
        table = PriceTable.parse(text)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert table.lookup("gpt-4o").price is not None
    assert kept < TABLE_BYTES_MAX


def test_prices_are_light_to_import() -> None:
    code = (
        "import sys, tokengate.pricing; print([m for m in ('pydantic', 'genai_prices', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

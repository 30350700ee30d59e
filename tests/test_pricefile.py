"""A price file with anything wrong in it is refused, with all of its faults and where they are."""

import json
import re

import pytest

from tokengate.pricefile import FILE_BYTES_MAX, NAME_CHARS_MAX, read_price_file
from tokengate.pricefile.reading import _FILE_FIELDS, _ROW_FIELDS, _SECTION_FIELDS
from tokengate.prices import Bracket, Price, PriceTableError, Rates
from tokengate.resources import pricing_file


def file_with(models: str, more: str = "") -> bytes:
    return f'{{"version": 1, "sections": {{"openai": {{"models": {models}{more}}}}}}}'.encode()


def faults_of(text: bytes) -> list[str]:
    with pytest.raises(PriceTableError) as caught:
        read_price_file(text)
    return [str(fault) for fault in caught.value.faults]


def price_in(row: str) -> Price:
    return read_price_file(file_with(f'{{"m": {row}}}')).sections["openai"].rows["m"].price


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('{"input": -1}', ".input: must not be negative, is -1"),
        ('{"input": "2.5"}', '.input: must be a number of USD, is the text "2.5"'),
        ('{"input": NaN}', ".input: must be a number of USD, is NaN"),
        ('{"input": Infinity}', ".input: must be a number of USD, is Infinity"),
        ('{"input": -Infinity}', ".input: must be a number of USD, is -Infinity"),
        ('{"input": true}', ".input: must be a number of USD, is true"),
        ('{"input": null}', ".input: must be a number of USD, is null"),
        ('{"input": [1]}', ".input: must be a number of USD, is a list"),
        ('{"input": 1e6}', ".input: must be at most 100000 USD, is 1E+6"),
        ('{"input": 1e400}', ".input: must be a number of USD, is 1e400"),
        ('{"input": 1e-400}', ".input: must be a number of USD, is 1e-400"),
        ('{"input": 0.0000000001}', ".input: must have at most 9 decimals, is 1E-10"),
        ('{"input": ' + "9" * 5000 + "}", ".input: must be a number of USD, is " + "9" * 40 + "..."),
        ("{}", ".input: is missing"),
        ('{"input": 1, "inptu": 2}', ".inptu: unknown field"),
        ('{"input": 1, "input": 2}', ".input: is there twice"),
        ('{"input": 1, "output_tokens_max": 0}', ".output_tokens_max: must be a whole number of tokens"),
        ('{"input": 1, "output_tokens_max": 1.5}', ".output_tokens_max: must be a whole number of tokens"),
        ('{"input": 1, "context_tokens": true}', ".context_tokens: must be a whole number of tokens"),
        ('{"input": 1, "encoding": "p50k_base"}', ".encoding: must be null or one of cl100k_base, o200k_base"),
        ('{"input": 1, "date": "yesterday"}', ".date: must be a day like 2026-01-31"),
        ('{"input": 1, "source": ""}', ".source: must be a text of 1 to"),
        ('{"input": 1, "aliases": "m2"}', ".aliases: must be a list of texts"),
        ('{"input": 1, "fees": {"web_search": -1}}', ".fees.web_search: must not be negative"),
        ('{"input": 1, "fees": {"web search": "1"}}', '.fees["web search"]: must be a number of USD'),
        ('{"input": 1, "long_context": {}}', ".long_context: must be a list, is an object"),
        ('{"input": 1, "long_context": [{"above": 0, "input": 2}]}', ".long_context[0].above: must be a whole number"),
        ('{"input": 1, "long_context": [{"input": 2}]}', ".long_context[0].above: must be a whole number"),
        (
            '{"input": 1, "long_context": [{"above": 9, "input": 2}, {"above": 9, "input": 3}]}',
            ".long_context[1].above: must be above 9, the tier before it",
        ),
        (
            '{"input": 1, "output": 5, "long_context": [{"above": 9, "input": 2}]}',
            ".long_context[0].output: is missing: the base prices have it",
        ),
        (
            '{"input": 1, "cache_write": 5, "service_tiers": {"flex": {"input": 2}}}',
            ".service_tiers.flex.cache_write: is missing: the base prices have it",
        ),
        (
            '{"input": 1, "service_tiers": {"flex": {"multiplier": 0}}}',
            ".service_tiers.flex.multiplier: must be a number",
        ),
        (
            '{"input": 1, "service_tiers": {"flex": {"multiplier": 2, "input": 1}}}',
            ".service_tiers.flex.input: unknown",
        ),
        ('{"input": 1, "service_tiers": {"flex": 0.5}}', ".service_tiers.flex: must be an object, is 0.5"),
        ('{"input": 1, "changes": [{"input": 2}]}', ".changes[0].from: must be a text"),
        (
            '{"input": 1, "changes": [{"from": "2027-01-02", "input": 2}, {"from": "2027-01-01", "input": 3}]}',
            ".changes[1].from: must be after 2027-01-02, the change before it",
        ),
        ("7", ": must be an object, is 7"),
    ],
)
def test_a_fault_in_a_row_is_named_with_its_path(row: str, fault: str) -> None:
    faults = faults_of(file_with(f'{{"gpt-4o": {row}}}'))
    assert any(found.startswith('$.sections.openai.models["gpt-4o"]' + fault) for found in faults), faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"version": 1,\n "sections": {\n,}}', "line 3: "),
        (b"", "line 1: "),
        (b'{"version": 1,\n"note": "\xff"}', "line 2: not UTF-8"),
        (b"[" * 100_000, "$: nested too deep"),
        (b" " * (FILE_BYTES_MAX + 1), f"$: {FILE_BYTES_MAX + 1} bytes are more than a price file may have"),
        (b"[]", "$: must be an object, is a list"),
        (b'{"sections": {}}', "$.version: must be 1, is null"),
        (b'{"version": true, "sections": {}}', "$.version: must be 1, is true"),
        (b'{"version": 2, "sections": {}}', "$.version: must be 1, is 2"),
        (b'{"version": 1}', "$.sections: must be an object, is null"),
        (b'{"version": 1, "sections": {"x": 1}}', "$.sections.x: must be an object, is 1"),
        (b'{"version": 1, "sections": {"x": {"fallback": "y"}}}', "$.sections.x.fallback: there is no section y"),
        (b'{"version": 1, "sections": {}, "pirces": 1}', "$.pirces: unknown field"),
        (file_with('{"m": {"input": 1}, "M": {"input": 1}}'), "$.sections.openai.models.M: is the same model as m"),
        (file_with('{"m": {"input": 1, "aliases": ["n", "N"]}}'), "$.sections.openai.models.m.aliases[1]: already"),
        (
            file_with('{"m": {"input": 1}, "n": {"input": 1, "aliases": ["m"]}}'),
            "$.sections.openai.models.n.aliases[0]",
        ),
        (file_with("{}", ', "default": {"input": -1}'), "$.sections.openai.default.input: must not be negative"),
        (file_with("{}", ', "default": {"input": 1, "aliases": ["x"]}'), "$.sections.openai.default: can have neither"),
        (file_with(json.dumps({"m" * (NAME_CHARS_MAX + 1): {"input": 1}})), "$.sections.openai.models.mmm"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_line_or_path(text: bytes, fault: str) -> None:
    faults = faults_of(text)
    assert any(found.startswith(fault) for found in faults), faults


def test_all_faults_are_reported_at_once() -> None:
    faults = faults_of(file_with('{"a": {"input": -1, "output": "x"}, "b": {}, "c": {"input": 1, "d": 2}}'))
    assert [fault.split(":")[0].removeprefix("$.sections.openai.models.") for fault in faults] == [
        "a.input",
        "a.output",
        "b.input",
        "c.d",
    ]


def test_the_message_of_many_faults_is_short_and_says_how_many_there_are() -> None:
    with pytest.raises(PriceTableError, match=r"; and 15 more$") as caught:
        read_price_file(file_with(json.dumps({f"m{number}": {} for number in range(20)})))
    assert len(caught.value.faults) == 20


def test_prices_are_exact() -> None:
    assert price_in('{"input": 0.1, "output": 0.000000001}').brackets[0].rates == Rates(100_000_000, 1)


def test_a_multiplier_scales_every_price_of_every_size_and_rounds_up() -> None:
    price = price_in(
        '{"input": 0.000000003, "output": 2, "long_context": [{"above": 9, "input": 4, "output": 6}],'
        ' "service_tiers": {"flex": {"multiplier": 0.5}}}'
    )
    usd = 10**9
    assert price.tier("flex") == (Bracket(0, Rates(2, 1 * usd)), Bracket(9, Rates(2 * usd, 3 * usd)))
    assert price.tier("priority") is None


@pytest.mark.parametrize(
    ("row", "section", "output_tokens_max"),
    [
        ('{"input": 1, "output_tokens_max": 7, "context_tokens": 9}', "", 7),
        ('{"input": 1, "context_tokens": 9}', "", 9),
        ('{"input": 1}', ', "output_tokens_max_default": 11', 11),
        ('{"input": 1}', "", 128_000),
    ],
)
def test_the_output_bound_is_the_best_that_is_known(row: str, section: str, output_tokens_max: int) -> None:
    sections = read_price_file(file_with(f'{{"m": {row}}}', section)).sections
    assert sections["openai"].rows["m"].price.output_tokens_max == output_tokens_max


def test_a_row_inherits_the_source_and_the_day_unless_it_has_its_own() -> None:
    text = (
        '{"version": 1, "as_of": "2026-01-01", "sections": {"s": {"source": "https://s", "models":'
        ' {"a": {"input": 1}, "b": {"input": 1, "source": "https://b", "date": "2026-02-02"}}}}}'
    )
    rows = read_price_file(text.encode()).sections["s"].rows
    assert (rows["a"].price.source, rows["a"].price.source_date) == ("https://s", "2026-01-01")
    assert (rows["b"].price.source, rows["b"].price.source_date) == ("https://b", "2026-02-02")


def test_a_byte_order_mark_is_not_a_fault() -> None:
    assert read_price_file(b"\xef\xbb\xbf" + file_with("{}")).sections["openai"].rows == {}


def test_the_example_in_the_documentation_is_a_price_file() -> None:
    text = pricing_file().with_name("README.md").read_text(encoding="utf-8")
    example = text.split("```json\n")[1].split("```")[0]
    rows = read_price_file(example.encode()).sections["openai"].rows
    assert rows["large"] is rows["large-model"]
    assert rows["large"].price.tier("flex") == (
        Bracket(0, Rates(1_250_000_000, 7_500_000_000)),
        Bracket(272_000, Rates(2_500_000_000, 11_250_000_000)),
    )


def test_a_model_may_be_billed_by_the_second_or_the_character_alone() -> None:
    heard, said = price_in('{"per_second": 0.0001}'), price_in('{"per_character": 0.000015}')
    assert (heard.billed_by, heard.fee("second")) == ("second", 100_000)
    assert (said.billed_by, said.fee("character")) == ("character", 15_000)
    assert not heard.request_fee_nano
    assert heard.charges_calls


@pytest.mark.parametrize(
    ("beside", "path"),
    [('"input": 1', "input"), ('"per_character": 1', "per_character"), ('"service_tiers": {}', "service_tiers")],
)
def test_what_is_billed_by_the_second_has_no_other_price(beside: str, path: str) -> None:
    with pytest.raises(PriceTableError, match=rf"\.{path}: cannot be beside per_second"):
        price_in(f'{{"per_second": 0.0001, {beside}}}')


def test_every_field_of_the_format_is_documented() -> None:
    text = pricing_file().with_name("README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([a-z_]+)`", text))
    assert _FILE_FIELDS | _SECTION_FIELDS | _ROW_FIELDS | {"above", "from", "multiplier"} <= documented

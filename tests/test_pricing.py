"""Prices: the table's check values, costs at the edges of tiers, and quotes that are never exceeded."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace as change

from tokengate.domain import Call, Quote, Usage
from tokengate.money import TOKENS_PER_PRICE, parse_usd
from tokengate.prices import Bracket, Brackets, Price, Rates
from tokengate.pricing import (
    OUTPUT_MIN_TOKENS,
    REQUEST_FEE,
    OutputCap,
    PriceTable,
    UnpricedAudio,
    UnpricedFee,
    UnpricedImages,
    UnpricedOutput,
    UnpricedPiece,
    UnpricedTier,
    cost,
    output_cap_for,
    quote,
)
from tokengate.pricing.costs import _tokens_priced, _tokens_priced_by_class
from tokengate.resources import pricing_file

TABLE = PriceTable.parse(pricing_file().read_bytes())
DAY = date(2026, 11, 23)


def price_of(model: str, section: str = "openai") -> Price:
    price = TABLE.lookup(model, section, DAY).price
    assert price is not None
    return price


def a_price(
    rates: Rates, *more: Bracket, tiers: Iterable[tuple[str, Brackets]] = (), fees: dict[str, int] | None = None
) -> Price:
    return Price(
        model="m",
        section="openai",
        brackets=(Bracket(0, rates), *more),
        service_tiers=tuple(tiers),
        fees=tuple((fees or {}).items()),
        output_tokens_max=1000,
        context_tokens=None,
        encoding=None,
        source="",
        source_date="",
    )


def a_call(input_tokens_max: int = 1000, **fields: object) -> Call:
    given: dict[str, object] = {"model": "m", "stream": False, "text_bytes": 0, "output_tokens_asked": None, **fields}
    return Call(input_tokens_max=input_tokens_max, **given)  # type: ignore[arg-type]


# -- check values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "model", "usage", "usd"),
    [
        ("openai", "gpt-4o-mini", Usage(1000, 500), "0.00045"),
        ("openai", "gpt-5", Usage(1000, 500), "0.00625"),
        ("anthropic", "claude-sonnet-4-5", Usage(1000, 500), "0.0105"),
        ("google", "gemini-2.5-pro", Usage(1000, 500), "0.00625"),
        ("openai", "gpt-3.5-turbo", Usage(1000, 500), "0.00125"),
        ("openai", "text-embedding-3-small", Usage(1000), "0.00002"),
        ("anthropic", "claude-sonnet-4-5", Usage(300_000, 500), "1.81125"),
        ("openai", "gpt-4o-mini", Usage(1000, 500, cache_read_tokens=800), "0.00039"),
    ],
)
def test_published_prices(section: str, model: str, usage: Usage, usd: str) -> None:
    assert cost(price_of(model, section), usage) == parse_usd(usd)


@pytest.mark.parametrize(
    ("section", "model", "edge", "below_usd", "above_usd"),
    [
        ("anthropic", "claude-sonnet-4-5", 200_000, 3, 6),
        ("google", "gemini-2.5-pro", 200_000, "1.25", "2.5"),
        ("openai", "gpt-5.4", 272_000, "2.5", 5),
        ("x-ai", "grok-4.3", 199_999, "1.25", "2.5"),
    ],
)
def test_the_long_context_price_starts_above_its_edge_and_holds_for_the_whole_call(
    section: str, model: str, edge: int, below_usd: str, above_usd: str
) -> None:
    price = price_of(model, section)
    assert cost(price, Usage(edge)) == parse_usd(str(below_usd)) * edge // TOKENS_PER_PRICE
    assert cost(price, Usage(edge + 1)) == -(-parse_usd(str(above_usd)) * (edge + 1) // TOKENS_PER_PRICE)


# -- cost -------------------------------------------------------------------------------------------------------------

USD = parse_usd("1")
RATES = Rates(
    input=10 * USD,
    output=40 * USD,
    cached_input=1 * USD,
    cache_write=12 * USD,
    cache_write_long=20 * USD,
    audio_input=100 * USD,
    cached_audio_input=30 * USD,
    audio_output=200 * USD,
    image_input=15 * USD,
)


@pytest.mark.parametrize(
    ("rates", "usage", "usd_a_million"),
    [
        pytest.param(RATES, Usage(10, 2), 180, id="plain"),
        pytest.param(RATES, Usage(10, 2, reasoning_tokens=2), 180, id="reasoning is part of the output"),
        pytest.param(RATES, Usage(10, cache_read_tokens=4), 64, id="cache reads are part of the input"),
        pytest.param(RATES, Usage(10, cache_write_tokens=4), 108, id="cache writes are part of the input"),
        pytest.param(
            RATES, Usage(10, cache_write_tokens=4, cache_write_long_tokens=1), 116, id="long writes are part of writes"
        ),
        pytest.param(RATES, Usage(10, input_audio_tokens=4), 460, id="audio is part of the input"),
        pytest.param(RATES, Usage(10, input_image_tokens=4), 120, id="images are part of the input"),
        pytest.param(RATES, Usage(0, 10, output_audio_tokens=4), 1040, id="audio is part of the output"),
        pytest.param(
            RATES,
            Usage(10, cache_read_tokens=8, input_audio_tokens=4),
            266,
            id="cached tokens are text first, the rest of them audio",
        ),
        pytest.param(
            RATES,
            Usage(10, cache_write_tokens=10, input_audio_tokens=10),
            1000,
            id="writing audio is never cheaper than audio",
        ),
        pytest.param(RATES, Usage(10, cache_read_tokens=14), 114, id="reads beyond the input are beside it"),
        pytest.param(RATES, Usage(10, cache_write_tokens=14), 268, id="writes beyond the input are beside it"),
        pytest.param(RATES, Usage(10, cache_write_long_tokens=4), 140, id="long writes beyond the writes"),
        pytest.param(RATES, Usage(10, input_audio_tokens=14), 1500, id="audio beyond the input is beside it"),
        pytest.param(RATES, Usage(0, 10, reasoning_tokens=14), 960, id="reasoning beyond the output is beside it"),
        pytest.param(RATES, Usage(-5, -5, cache_read_tokens=-5), 0, id="negative counts are none"),
        pytest.param(
            Rates(10 * USD), Usage(10, 3, cache_read_tokens=5), 130, id="no prices of their own: the plain one"
        ),
        pytest.param(
            Rates(10 * USD, 20 * USD),
            Usage(10, 4, input_audio_tokens=4, output_audio_tokens=4),
            180,
            id="audio unpriced",
        ),
    ],
)
def test_what_a_call_cost(rates: Rates, usage: Usage, usd_a_million: int) -> None:
    assert cost(a_price(rates), usage) == usd_a_million * USD // TOKENS_PER_PRICE


def test_a_sum_is_rounded_once_and_up() -> None:
    third = Rates(input=333_333, output=333_333, cached_input=333_333)
    assert cost(a_price(third), Usage(1, 1, cache_read_tokens=1)) == 1
    assert cost(a_price(third), Usage(2, 2)) == 2
    assert cost(a_price(third), Usage()) == 0


def test_fees_are_charged_by_the_call() -> None:
    price = a_price(Rates(USD), fees={"web_search": 7, REQUEST_FEE: 100})
    assert cost(price, Usage(calls=(("web_search", 3),))) == 121
    assert cost(price, Usage(calls=(("web_search", -3),))) == 100
    with pytest.raises(UnpricedFee, match="file_search"):
        cost(price, Usage(calls=(("file_search", 1),)))


FLEX = (Bracket(0, Rates(5 * USD)),)
PRIORITY = (Bracket(0, Rates(20 * USD)),)
TIERED = a_price(Rates(10 * USD), tiers=[("batch", FLEX), ("flex", FLEX), ("priority", PRIORITY)])


@pytest.mark.parametrize(
    ("asked", "reported", "usd_a_million"),
    [
        ("", "", 10),
        ("", "priority", 20),
        ("", "default", 10),
        ("flex", "flex", 5),
        ("flex", "default", 10),
        ("flex", "", 10),
        ("priority", "priority", 20),
        ("priority", "default", 10),
        ("priority", "", 20),
        ("auto", "scale", 10),
    ],
)
def test_the_tier_that_the_provider_names_is_charged_and_the_dearer_one_if_it_names_none(
    asked: str, reported: str, usd_a_million: int
) -> None:
    assert cost(TIERED, Usage(1, service_tier=reported), asked) == usd_a_million * USD // TOKENS_PER_PRICE


# -- quote ------------------------------------------------------------------------------------------------------------


def test_a_quote_without_a_cap_of_the_callers() -> None:
    price = a_price(Rates(10 * USD, 40 * USD))
    bounds = quote(price, a_call(1000, answers=2), typical_output_tokens=300, output_min_tokens=50)
    assert bounds == Quote(
        floor_nano=14_000_000,
        need_nano=34_000_000,
        want_nano=90_000_000,
        input_nano=10_000_000,
        output_token_price=80 * USD,
        output_tokens_max=1000,
        cappable=True,
    )


@pytest.mark.parametrize(
    ("typical", "least", "need_tokens", "floor_tokens"),
    [(5000, 50, 1000, 50), (10, 50, 50, 50), (0, 0, 0, 0), (5000, 5000, 1000, 1000)],
)
def test_the_bounds_stay_in_order(typical: int, least: int, need_tokens: int, floor_tokens: int) -> None:
    bounds = quote(a_price(Rates(0, TOKENS_PER_PRICE)), a_call(), typical, least)
    assert (bounds.floor_nano, bounds.need_nano, bounds.want_nano) == (floor_tokens, need_tokens, 1000)


def test_a_cap_of_the_callers_is_kept_unless_told_otherwise() -> None:
    price = a_price(Rates(0, TOKENS_PER_PRICE))
    kept = quote(price, a_call(output_tokens_asked=700), 300)
    assert (kept.floor_nano, kept.need_nano, kept.want_nano, kept.cappable) == (700, 700, 700, False)
    lowered = quote(price, a_call(output_tokens_asked=700), 300, output_cap="always")
    assert (lowered.floor_nano, lowered.need_nano, lowered.want_nano, lowered.cappable) == (
        OUTPUT_MIN_TOKENS,
        300,
        700,
        True,
    )
    never = quote(price, a_call(), 300, output_cap="never")
    assert (never.floor_nano, never.need_nano, never.want_nano, never.cappable) == (1000, 1000, 1000, False)


def test_a_call_without_output_costs_its_input() -> None:
    bounds = quote(price_of("text-embedding-3-small"), a_call(1000, produces_output=False), 300)
    assert bounds.floor_nano == bounds.need_nano == bounds.want_nano == bounds.input_nano == parse_usd("0.00002")
    assert (bounds.output_tokens_max, bounds.output_token_price, bounds.cappable) == (0, 0, False)


@pytest.mark.parametrize(
    ("call", "input_usd"),
    [
        pytest.param(a_call(), 20, id="it may write the cache for long"),
        pytest.param(a_call(input_images=True), 20, id="images"),
        pytest.param(a_call(input_audio=True), 100, id="audio"),
    ],
)
def test_input_is_quoted_as_the_dearest_class_it_could_be(call: Call, input_usd: int) -> None:
    assert quote(a_price(RATES), call, 100).input_nano == input_usd * 1000 * USD // TOKENS_PER_PRICE


def test_images_are_quoted_at_their_own_price_where_it_is_the_dearest() -> None:
    price = a_price(Rates(10 * USD, 0, image_input=50 * USD))
    assert quote(price, a_call(1, input_images=True), 0).input_nano == 50_000
    assert quote(price, a_call(1), 0).input_nano == 10_000


def test_a_dear_service_tier_may_be_served_as_standard_and_the_quote_covers_that() -> None:
    price = a_price(Rates(10 * USD), Bracket(100, Rates(30 * USD)), tiers=[("priority", PRIORITY), ("flex", FLEX)])
    asked = a_call(200, service_tier="priority", produces_output=False)
    assert quote(price, asked, 0).want_nano == cost(price, Usage(200, service_tier="default"), "priority") == 6_000_000
    assert quote(price, change(asked, service_tier="flex"), 0).want_nano == 1_000_000


def test_input_is_quoted_in_the_dearest_tier_it_could_reach() -> None:
    price = a_price(Rates(10), Bracket(1000, Rates(5)), Bracket(2000, Rates(20)))
    per_token = {size: quote(price, a_call(size * 10**6, produces_output=False), 0).want_nano for size in (1, 3)}
    assert per_token == {1: 20 * 1, 3: 20 * 3}
    for size, nano in ((1000, 10), (1001, 10), (2000, 10), (2001, 20)):
        at_edge = replace(
            price, brackets=tuple(replace(b, rates=Rates(b.rates.input * TOKENS_PER_PRICE)) for b in price.brackets)
        )
        assert quote(at_edge, a_call(size, produces_output=False), 0).want_nano == size * nano


@pytest.mark.parametrize(("tier", "usd"), [("", 10), ("auto", 10), ("default", 10), ("flex", 5), ("priority", 20)])
def test_a_service_tier_is_quoted_as_asked(tier: str, usd: int) -> None:
    bounds = quote(TIERED, a_call(1, service_tier=tier, produces_output=False), 0)
    assert bounds.want_nano == usd * USD // TOKENS_PER_PRICE


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (a_call(service_tier="ultrafast"), UnpricedTier, "ultrafast"),
        (a_call(service_tier="batch"), UnpricedTier, "batch"),
        (a_call(input_audio=True), UnpricedAudio, "audio input"),
        (a_call(output_audio=True), UnpricedAudio, "audio output"),
        (a_call(fees=(("web_search", 1),)), UnpricedFee, "web_search"),
        (a_call(), UnpricedOutput, "output"),
    ],
)
def test_what_has_no_price_is_refused(call: Call, error: type[Exception], words: str) -> None:
    price = TIERED if error in {UnpricedTier, UnpricedOutput} else a_price(Rates(10, 10))
    with pytest.raises(error, match=words):
        quote(price, call, 100)


# -- properties -------------------------------------------------------------------------------------------------------

PRICES = st.integers(0, 10**11)
MAYBE_PRICES = st.none() | PRICES


@st.composite
def rates(draw: st.DrawFn) -> Rates:
    return Rates(draw(PRICES), draw(PRICES), *(draw(MAYBE_PRICES) for _ in range(8)))


@st.composite
def prices(draw: st.DrawFn) -> Price:
    def brackets() -> Brackets:
        edges = sorted(draw(st.sets(st.integers(1, 3000), max_size=2)))
        return tuple(Bracket(edge, draw(rates())) for edge in (0, *edges))

    drawn = a_price(draw(rates()), fees={"web_search": draw(PRICES), REQUEST_FEE: draw(PRICES)})
    tiers = (("flex", brackets()), ("priority", brackets()))
    return replace(drawn, brackets=brackets(), service_tiers=tiers)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    capped = draw(st.sampled_from([True, True, False]))
    return a_call(
        draw(st.integers(0, 4000)),
        output_tokens_asked=draw(st.none() | st.integers(1, 2000)),
        answers=draw(st.integers(1, 4)),
        produces_output=capped,
        output_tokens_fixed=0 if capped else draw(st.integers(0, 2000)),
        output_images=not capped and draw(st.booleans()),
        input_audio=draw(st.booleans()),
        input_images=draw(st.booleans()),
        output_audio=draw(st.booleans()),
        service_tier=draw(st.sampled_from(["", "auto", "flex", "priority"])),
        fees=draw(st.sampled_from([(), (("web_search", 3),)])),
    )


@st.composite
def usages(draw: st.DrawFn, price: Price, call: Call) -> Usage:
    """Any usage that a call allows, at any service tier that a provider may serve it at."""
    whole = draw(st.integers(0, call.input_tokens_max))
    audio = draw(st.integers(0, whole)) if call.input_audio else 0
    images = draw(st.integers(0, whole - audio)) if call.input_images else 0
    reads = draw(st.integers(0, whole))
    writes = draw(st.integers(0, whole - reads))
    most = (call.output_tokens_asked or price.output_tokens_max) * call.answers
    output = draw(st.integers(0, most if call.produces_output else call.output_tokens_fixed))
    asked, standard = price.tier(call.service_tier), price.brackets
    downgraded = asked is not None and asked[0].rates.input >= standard[0].rates.input
    return Usage(
        input_tokens=whole,
        output_tokens=output,
        cache_read_tokens=reads,
        cache_write_tokens=writes,
        cache_write_long_tokens=draw(st.integers(0, writes)),
        input_audio_tokens=audio,
        input_image_tokens=images,
        output_audio_tokens=draw(st.integers(0, output)) if call.output_audio and not call.output_images else 0,
        output_image_tokens=draw(st.integers(0, output)) if call.output_images else 0,
        service_tier=draw(st.sampled_from([call.service_tier, "default", ""] if downgraded else [call.service_tier])),
        calls=tuple((name, draw(st.integers(0, most))) for name, most in call.fees),
    )


BY_THE_SECOND = replace(a_price(Rates(0), fees={"second": 100_000}), billed_by="second")


def test_a_model_is_billed_by_its_seconds() -> None:
    call = a_call(1000, produces_output=False, output_tokens_fixed=50, pieces=(("character", 7), ("second", 61)))
    assert quote(BY_THE_SECOND, call, 300, output_cap="always").want_nano == 6_100_000
    assert cost(BY_THE_SECOND, Usage(calls=(("second", 60),))) == 6_000_000


def test_what_is_billed_by_the_second_is_never_free_because_nobody_counted_them() -> None:
    for call in (a_call(1000, produces_output=False), a_call(pieces=(("second", 61),))):
        with pytest.raises((UnpricedPiece, UnpricedOutput)):
            quote(BY_THE_SECOND, call, 300)
    with pytest.raises(UnpricedPiece):
        cost(BY_THE_SECOND, Usage(1000, 500))


def test_what_no_cap_can_bound_is_held_for_in_full_and_never_capped() -> None:
    price = a_price(Rates(10, 100, image_output=400, audio_output=300))
    for flags, rate in (({}, 100), ({"output_images": True}, 400), ({"output_audio": True}, 300)):
        call = a_call(50, produces_output=False, output_tokens_fixed=7_000_000, **flags)
        bounds = quote(price, call, 3, output_cap="always")
        assert bounds.floor_nano == bounds.want_nano == 7 * rate + 1
        assert not bounds.cappable


def test_images_without_a_price_are_refused() -> None:
    with pytest.raises(UnpricedImages, match="images"):
        quote(a_price(Rates(10, 100)), a_call(produces_output=False, output_tokens_fixed=1, output_images=True), 3)


@given(st.data())
def test_no_usage_that_a_call_allows_costs_more_than_its_quote(data: st.DataObject) -> None:
    price, call = data.draw(prices()), data.draw(calls())
    try:
        bounds = quote(price, call, data.draw(st.integers(0, 3000)))
    except (UnpricedAudio, UnpricedImages):
        return
    assert 0 <= bounds.input_nano <= bounds.floor_nano <= bounds.need_nano <= bounds.want_nano
    usage = data.draw(usages(price, call))
    assert cost(price, usage, call.service_tier) <= bounds.want_nano


COUNTS = st.integers(-2, 4000)
COUNTED = st.builds(Usage, COUNTS, COUNTS, reasoning_tokens=COUNTS)


@given(prices(), COUNTED)
def test_text_alone_costs_what_it_costs_by_class(price: Price, usage: Usage) -> None:
    assert _tokens_priced(price.brackets, usage) == _tokens_priced_by_class(price.brackets, usage)


@given(prices(), calls(), st.integers(0, 3000), st.sampled_from(["when_unset", "always", "never"]))
def test_a_second_bracket_of_the_same_rates_changes_no_quote(
    price: Price, call: Call, typical: int, output_cap: OutputCap
) -> None:
    rates = price.brackets[0].rates
    single = replace(price, brackets=(Bracket(0, rates),), service_tiers=())
    double = replace(single, brackets=(Bracket(0, rates), Bracket(1, rates)))
    try:
        bounds = quote(double, call, typical, output_cap=output_cap)
    except (UnpricedAudio, UnpricedImages, UnpricedTier) as error:
        with pytest.raises(type(error)):
            quote(single, call, typical, output_cap=output_cap)
    else:
        assert quote(single, call, typical, output_cap=output_cap) == bounds


@given(rates())
def test_the_dearest_that_text_can_cost_is_known_of_every_rate(rates: Rates) -> None:
    classes = ("input", "cached_input", "cache_write", "cache_write_long")
    assert rates.text_input_dearest == max(getattr(rates, name) or 0 for name in classes)


@given(st.data())
def test_no_usage_within_an_output_cap_costs_more_than_its_grant(data: st.DataObject) -> None:
    price, call = data.draw(prices()), change(data.draw(calls()), output_tokens_asked=None)
    try:
        bounds = quote(price, call, data.draw(st.integers(0, 3000)))
    except (UnpricedAudio, UnpricedImages):
        return
    grant = data.draw(st.integers(bounds.floor_nano, bounds.want_nano))
    cap = output_cap_for(bounds, grant)
    if cap is None:
        assert grant == bounds.want_nano
        return
    assert min(OUTPUT_MIN_TOKENS, bounds.output_tokens_max) <= cap <= bounds.output_tokens_max
    usage = data.draw(usages(price, change(call, output_tokens_asked=cap)))
    assert cost(price, usage, call.service_tier) <= grant


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**6), st.integers(0, 10**13))
@example(input_nano=5, price=10**6, most=10, grant=4)
@example(input_nano=5, price=0, most=10, grant=4)
def test_an_output_cap_is_the_largest_that_its_grant_pays_for(
    input_nano: int, price: int, most: int, grant: int
) -> None:
    def total(tokens: int) -> int:
        return input_nano + -(-tokens * price // TOKENS_PER_PRICE)

    bounds = Quote(total(0), total(0), total(most), input_nano, price, most, cappable=True)
    cap = output_cap_for(bounds, grant)
    if cap is None:
        assert grant >= total(most)
    elif grant < input_nano:
        assert cap == 0
    else:
        assert total(cap) <= grant < total(cap + 1)

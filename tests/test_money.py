"""Amounts are written and read without losing a nano-dollar."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.money import AMOUNT_NANO_MAX, NANO_PER_USD, AmountError, format_usd, parse_usd, reported_nano

AMOUNTS = st.integers(0, AMOUNT_NANO_MAX) | st.integers(0, AMOUNT_NANO_MAX // 10**6).map(lambda nano: nano * 10**6)


@pytest.mark.parametrize(
    ("nano", "decimals_min", "text"),
    [
        (0, 2, "0.00"),
        (0, 0, "0"),
        (1, 2, "0.000000001"),
        (450_000, 2, "0.00045"),
        (100_000_000, 2, "0.10"),
        (7_500_000_000, 2, "7.50"),
        (7_500_000_000, 0, "7.5"),
        (7_500_000_000, 9, "7.500000000"),
        (25_000_000_000, 0, "25"),
        (-1_250_000_000, 2, "-1.25"),
        (-1, 2, "-0.000000001"),
    ],
)
def test_an_amount_as_text(nano: int, decimals_min: int, text: str) -> None:
    assert format_usd(nano, decimals_min) == text


@given(AMOUNTS | AMOUNTS.map(lambda nano: -nano), st.integers(0, 9))
def test_the_text_of_an_amount_is_exact_and_no_longer_than_it_must_be(nano: int, decimals_min: int) -> None:
    text = format_usd(nano, decimals_min)
    assert Decimal(text) * NANO_PER_USD == nano
    decimals = len(text.partition(".")[2])
    assert decimals == decimals_min or (decimals > decimals_min and text[-1] != "0")


@given(AMOUNTS, st.integers(0, 9))
def test_what_is_written_is_read(nano: int, decimals_min: int) -> None:
    assert parse_usd(format_usd(nano, decimals_min)) == nano


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1.0000000001", "NaN", "1,5", ".5", "5.", "9007199.254740992"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(AmountError):
        parse_usd(text)


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        ("0", 0), ("0.0000000001", 1), ("1e-400", 1), ("12.5", 12_500_000_000), ("9007199", 9_007_199_000_000_000),
        ("9007199.1", None), ("-0.1", None), ("1e999999", None), ("NaN", None), ("Infinity", None),
    ],
)  # fmt: skip
def test_an_amount_that_somebody_else_calculated(usd: str, nano: int | None) -> None:
    assert reported_nano(Decimal(usd)) == nano

"""Money as integer nano-USD (1e-9 USD), so that no cent is lost to a float.

Every amount in TokenGate is an `int` of nano-USD; every price is an `int` of nano-USD per million tokens. This module
holds the only places where an amount is read from text, written to text, or rounded, and rounding is always up, once,
at the end of a sum. It never sees a `float`: JSON numbers reach it as `Decimal` or as text.
"""

import re
from decimal import ROUND_CEILING, Decimal
from typing import Final

NANO_PER_USD: Final = 1_000_000_000
DECIMALS_MAX: Final = 9
"""Of a nano-USD, written in USD."""
TOKENS_PER_PRICE: Final = 1_000_000
"""Prices are quoted per million tokens."""

AMOUNT_NANO_MAX: Final = 2**53 - 1
"""The largest amount a budget may have, about $9.007 million: numbers in Redis's Lua are doubles, exact up to here."""

_AMOUNT = re.compile(r"\$?(\d{1,16})(?:\.(\d{1,9}))?", re.ASCII)


class AmountError(ValueError):
    """A text is not an amount of USD; the message says what is allowed."""


def parse_usd(text: str) -> int:
    """Read `25`, `25.00` or `$25` as nano-USD.

    Raises:
        AmountError: not a plain decimal (a sign, an exponent, NaN), more than nine decimals, or above
            `AMOUNT_NANO_MAX`.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise AmountError(f"{text!r} is not an amount in USD: write it like 25, 25.00 or $25, with at most 9 decimals")
    whole, fraction = match.group(1), match.group(2) or ""
    nano = int(whole) * NANO_PER_USD + int(fraction.ljust(9, "0"))
    if nano > AMOUNT_NANO_MAX:
        raise AmountError(f"{text!r} is above the largest amount, {format_usd(AMOUNT_NANO_MAX)} USD")
    return nano


def price_nano(usd_per_million: Decimal) -> int:
    """USD per million tokens as nano-USD per million tokens, rounded up to the next nano-USD."""
    return int((usd_per_million * NANO_PER_USD).to_integral_value(ROUND_CEILING))


def reported_nano(usd: Decimal) -> int | None:
    """An amount of USD that somebody else calculated, rounded up; None if it is none that a budget could have."""
    # Compared before it is multiplied: an exponent can be as large as its author likes.
    if not usd.is_finite() or not 0 <= usd <= AMOUNT_NANO_MAX // NANO_PER_USD:
        return None
    return int((usd * NANO_PER_USD).to_integral_value(ROUND_CEILING))


def cost_nano(priced_tokens: int) -> int:
    """The one rounding: a sum of tokens x (nano-USD per million tokens), as nano-USD, rounded up."""
    return -(-priced_tokens // TOKENS_PER_PRICE)


def format_usd(nano: int, decimals_min: int = 2) -> str:
    """`7_500_000_000` as `7.50`: exact, with at least `decimals_min` decimals and no needless zeros after those."""
    if nano < 0:
        return f"-{format_usd(-nano, decimals_min)}"
    digits = str(nano).zfill(DECIMALS_MAX + 1)
    whole, fraction = digits[:-DECIMALS_MAX], digits[-DECIMALS_MAX:].rstrip("0")
    if len(fraction) < decimals_min:
        fraction = fraction.ljust(decimals_min, "0")
    return f"{whole}.{fraction}" if fraction else whole


def usd_number(nano: int) -> float:
    """An amount as the JSON number of USD that the public interface promises; for display only, never for sums."""
    return nano / NANO_PER_USD

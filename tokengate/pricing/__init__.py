"""What a call can cost and what it did cost: the rules over a price table. Pure: no I/O, no floats, no pydantic.

Three rules of thumb hold everywhere. A model, feature or tier without a price is refused, never 0. Where a provider's
figures can be read in two ways, the dearer reading is charged. And what `quote` says a call can cost at the most is
never less than what `cost` makes of any usage that the call allows.
"""

from tokengate.prices import (
    REQUEST_FEE,
    Bracket,
    Fault,
    Price,
    PriceTableError,
    PricingError,
    Rates,
    UnpricedAudio,
    UnpricedFee,
    UnpricedImages,
    UnpricedOutput,
    UnpricedPiece,
    UnpricedTier,
    UnpricedWindow,
)
from tokengate.pricing.costs import cost
from tokengate.pricing.quotes import OUTPUT_MIN_TOKENS, OutputCap, expected_nano, output_cap_for, quote
from tokengate.pricing.table import RESOLVED_NAMES_MAX, Lookup, LookupStatus, PriceTable

__all__ = (
    "OUTPUT_MIN_TOKENS",
    "REQUEST_FEE",
    "RESOLVED_NAMES_MAX",
    "Bracket",
    "Fault",
    "Lookup",
    "LookupStatus",
    "OutputCap",
    "Price",
    "PriceTable",
    "PriceTableError",
    "PricingError",
    "Rates",
    "UnpricedAudio",
    "UnpricedFee",
    "UnpricedImages",
    "UnpricedOutput",
    "UnpricedPiece",
    "UnpricedTier",
    "UnpricedWindow",
    "cost",
    "expected_nano",
    "output_cap_for",
    "quote",
)

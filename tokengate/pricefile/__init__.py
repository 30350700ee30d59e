"""The price file: how the JSON that people edit becomes prices, or a list of everything that is wrong in it.

The file is written by hand, by `tokengate pricing sync` and by ConfigMaps, and a typo in it is money: so it is read
strictly (an unknown field, a duplicate key, a price as text, a tier out of order are faults), all faults are reported
at once with their JSON path, and numbers are read as `Decimal`, never as a float. Nothing here opens a file or
guesses a price: a class of token without a price stays without one. `data/README.md` documents the format.
"""

from tokengate.pricefile.document import FILE_BYTES_MAX, load_json
from tokengate.pricefile.reading import (
    FORMAT_VERSION,
    NAME_CHARS_MAX,
    USD_DECIMALS_MAX,
    read_price_file,
)

__all__ = (
    "FILE_BYTES_MAX",
    "FORMAT_VERSION",
    "NAME_CHARS_MAX",
    "USD_DECIMALS_MAX",
    "load_json",
    "read_price_file",
)

"""Where the files that TokenGate ships with are found, in an installed wheel and in a checkout alike.

A wheel carries them as `tokengate/data`; in a checkout they stay in `data/` beside the package, where people edit them.
This module only finds paths: it opens nothing and downloads nothing.
"""

from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parent
_ROOTS: Final = (_PACKAGE / "data", _PACKAGE.parent / "data")


def data_file(relative: str) -> Path:
    """The path of a shipped file, named relative to the data directory.

    Raises:
        FileNotFoundError: it is in none of the places where TokenGate's data may be.
    """
    for root in _ROOTS:
        path = root / relative
        if path.is_file():
            return path
    raise FileNotFoundError(f"{relative} is in none of {', '.join(str(root) for root in _ROOTS)}")


def encoding_file(name: str) -> Path:
    """The gzipped vocabulary of a tiktoken encoding, for example `o200k_base`.

    Raises:
        FileNotFoundError: no such vocabulary was shipped.
    """
    return data_file(f"encodings/{name}.tiktoken.gz")


def pricing_file() -> Path:
    """The shipped price table.

    Raises:
        FileNotFoundError: it was not shipped.
    """
    return data_file("pricing_tables.json")


def pricing_overlay_file() -> Path:
    """The curated facts that `tokengate pricing sync` merges into what genai-prices knows.

    Raises:
        FileNotFoundError: it was not shipped.
    """
    return data_file("pricing_overlay.json")

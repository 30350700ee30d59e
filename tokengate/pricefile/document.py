"""A price file as JSON, before anything is known of what it means: exact numbers, and no key twice unnoticed.

`json` alone would make floats of prices and keep the last of two equal keys. What cannot be a number is kept as what it
is, so that the fault about it can name its place.
"""

import json
import re
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Final

from tokengate.prices import Fault, PriceTableError

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Above this a price file is refused unread: it is loaded into every sidecar."""
NUMBER_CHARS_MAX: Final = 40
"""A JSON number with more characters than this is not a price."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


class Unreadable:
    """A JSON number that is not one (NaN, Infinity, an absurd exponent): kept, so that its fault gets a path."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class JsonObject(dict[str, object]):
    """A JSON object that remembers which keys it had twice."""

    __slots__ = ("doubled",)

    def __init__(self, pairs: list[tuple[str, object]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(self) < len(pairs) else {}
        self.doubled = tuple(key for key, count in counts.items() if count > 1)


def _number(text: str) -> Decimal | Unreadable:
    if len(text) > NUMBER_CHARS_MAX:
        return Unreadable(f"{text[:NUMBER_CHARS_MAX]}...")
    try:
        number = Decimal(text)
    except InvalidOperation:
        return Unreadable(text)
    return number if abs(number.adjusted()) <= NUMBER_CHARS_MAX else Unreadable(text)


def _integer(text: str) -> int | Unreadable:
    return int(text) if len(text) <= NUMBER_CHARS_MAX else Unreadable(f"{text[:NUMBER_CHARS_MAX]}...")


def load_json(text: bytes) -> object:
    """Read JSON with exact numbers: `int` and `Decimal`, never a float.

    Raises:
        PriceTableError: not JSON (with its line), not UTF-8, nested too deep, or larger than `FILE_BYTES_MAX`.
    """
    if len(text) > FILE_BYTES_MAX:
        raise PriceTableError([Fault("$", f"{len(text)} bytes are more than a price file may have ({FILE_BYTES_MAX})")])
    try:
        loaded: object = json.loads(
            text.decode("utf-8-sig"),
            parse_float=_number,
            parse_int=_integer,
            parse_constant=Unreadable,
            object_pairs_hook=JsonObject,
        )
    except json.JSONDecodeError as error:
        raise PriceTableError([Fault("$", f"{error.msg} (column {error.colno})", line=error.lineno)]) from error
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise PriceTableError([Fault("$", f"not UTF-8: {error.reason}", line=line)]) from error
    except RecursionError as error:
        raise PriceTableError([Fault("$", "nested too deep")]) from error
    return loaded


def joined(path: str, key: str) -> str:
    """The JSON path of a member."""
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"


def described(value: object) -> str:
    """How a value is called in a fault, so that `"2.5"` and 2.5 cannot be confused."""
    match value:
        case Unreadable():
            return value.text
        case str():
            return f"the text {json.dumps(value[:40])}"
        case None | bool():
            return json.dumps(value)
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return str(value)

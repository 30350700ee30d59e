"""The words of `words` as JSON. `encode` and `decode` are each other's inverse; what a newer gate adds is ignored."""

from typing import Any, TypeVar

import msgspec

from tokengate.control.words import Nano
from tokengate.money import format_usd

T = TypeVar("T")


def encode(word: object) -> bytes:
    """A word, or what is made of words, as JSON."""
    return msgspec.json.encode(word, enc_hook=_encode)


def decode(text: bytes | str, kind: type[T]) -> T:
    """Read JSON.

    Raises:
        msgspec.ValidationError: it is not what it should be; the message says where.
        msgspec.DecodeError: it is not JSON.
    """
    return msgspec.json.decode(text, type=kind, dec_hook=_decode)


def convert(given: object, kind: type[T]) -> T:
    """Read what is already parsed, such as the parameters of a query string: texts are taken for numbers and booleans.

    Raises:
        msgspec.ValidationError: it is not what it should be; the message says where.
    """
    return msgspec.convert(given, kind, strict=False, dec_hook=_decode)


def schemas(kinds: list[type], ref_template: str = "#/components/schemas/{name}") -> tuple[list[Any], dict[str, Any]]:
    """JSON schemas, for a description of the API: one for each of `kinds`, and what they refer to."""
    made, components = msgspec.json.schema_components(kinds, schema_hook=_schema, ref_template=ref_template)
    return list(made), components


def _encode(value: object) -> str:
    if isinstance(value, Nano):
        return format_usd(value)
    raise NotImplementedError(f"{type(value).__name__} has no place on the wire")


def _decode(kind: type, value: object) -> object:
    if kind is Nano and isinstance(value, str):
        return Nano.parse(value)
    raise ValueError("expected an amount in USD, as a string")


def _schema(kind: type) -> dict[str, Any]:
    if kind is Nano:
        return {"type": "string", "pattern": r"^-?\d+(\.\d{1,9})?$", "description": "USD, exact", "examples": ["7.50"]}
    raise NotImplementedError(f"{kind.__name__} has no place on the wire")

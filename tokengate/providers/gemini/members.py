"""The members of Gemini's bodies, each in either of its two spellings.

Google's APIs read JSON by the rules of protocol buffers, so that `maxOutputTokens` may be written `max_output_tokens`
(https://protobuf.dev/programming-guides/json/): what is priced must be what is read, whichever is written.
"""

import re
from typing import Any, Final

from tokengate.bodies import MalformedRequest

_UPPER: Final = re.compile(r"[A-Z]")


def spelling(document: dict[str, Any], name: str) -> str:
    """How a member is spelt in a document; as it is usual if it is not there.

    Raises:
        MalformedRequest: it is there in both spellings.
    """
    other = _UPPER.sub(lambda letter: f"_{letter[0].lower()}", name)
    if other == name or other not in document:
        return name
    if name in document:
        raise MalformedRequest(f"{name} is also given as {other}; it is not clear which one counts.", name)
    return other


def member(document: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - a member may be anything
    """A member in either spelling; None if it is absent."""
    return document.get(spelling(document, name))


def section(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A member that is an object; empty if it is absent or null."""
    value = member(document, name)
    if value is None:
        return {}
    if type(value) is not dict:
        raise MalformedRequest(f"{name} must be an object.", name)
    return value


def items(document: dict[str, Any], name: str) -> list[Any]:
    """A member that is a list; empty if it is absent or null."""
    value = member(document, name)
    if value is None:
        return []
    if type(value) is not list:
        raise MalformedRequest(f"{name} must be a list.", name)
    return value


def whole_number(document: dict[str, Any], name: str, most: int) -> int | None:
    """A whole number of at least 1; None if it is absent or null. Protocol buffers also read one from a string.

    Raises:
        MalformedRequest: it is anything else.
    """
    value = member(document, name)
    if value is None or (type(value) is int and 1 <= value <= most):
        return value
    raise MalformedRequest(f"{name} must be a whole number from 1 to {most}.", name)

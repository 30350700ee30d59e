"""JSON bodies, read so that what is priced is what the provider reads, and changed so that nothing else changes.

A body with the same key twice, or one that parsers read differently, could be priced by one value and obeyed by
another, so such bodies are refused. A change is a splice into the bytes as they came wherever it can be proven to be
the intended one; a body is serialised anew only where it cannot.
"""

import json
import re
from typing import Any, Final

import orjson

MODEL_CHARS_MAX: Final = 256

DEPTH_MAX: Final = 254
"""The deepest nesting that a body may have; the bound of orjson's serialiser, and far beyond any real request."""

_VALUE: Final = re.compile(rb'\s*:\s*(\{[^{}]*\}|[^\s,"{}\[\]]+)')
"""A member's value behind its key: an object without objects in it, a number or a literal."""


class RequestError(ValueError):
    """A body that cannot be priced as it stands: the message says what is wrong and where, in words for its author."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class MalformedRequest(RequestError):
    """The body is not what the endpoint takes."""


class UnpricedFeature(RequestError):
    """The body asks for something that could cost money and has no price here."""


class _DuplicateKey(ValueError):
    pass


class _Pairs(list[tuple[str, Any]]):
    """The members of one JSON object, duplicates included."""


def read_object(body: bytes) -> dict[str, Any]:
    """Parse a body that must be one JSON object in UTF-8.

    Raises:
        MalformedRequest: it is not; or it nests deeper than `DEPTH_MAX`, or has a key twice in one object. NaN,
            Infinity, numbers beyond a double, lone surrogates and trailing content are not JSON.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"The body is not valid JSON: {error}.") from None
    if type(document) is not dict:
        raise MalformedRequest("The body must be a JSON object.")
    try:
        compact = orjson.dumps(document)
    except TypeError:
        raise MalformedRequest(f"The body nests deeper than {DEPTH_MAX} levels.") from None
    # A parsed object has every key once, so a body that equals its serialisation has no duplicates: no need to look.
    # The official SDKs send compact JSON, Python programs without an SDK the spaced form of `json.dumps`.
    if compact != body and json.dumps(document).encode() != body:
        _refuse_duplicates(body.decode())
    return document


def _refuse_duplicates(text: str) -> None:
    try:
        json.loads(text, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except _DuplicateKey:
        path = _duplicate_path(text)
        raise MalformedRequest(f"The body has the key {path} twice; it is not clear which one counts.", path) from None


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _DuplicateKey


def _duplicate_path(text: str) -> str:
    """Where the first duplicate is, like `messages[0].content`."""
    pending: list[tuple[str, Any]] = [("", json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str))]
    while pending:
        path, value = pending.pop()
        if isinstance(value, _Pairs):
            seen: set[str] = set()
            for key, member in value:
                where = f"{path}.{key}" if path else key
                if key in seen:
                    return where
                seen.add(key)
                pending.append((where, member))
        elif isinstance(value, list):
            pending += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    raise AssertionError("called for a text without duplicates")


def rewrite(body: bytes, document: dict[str, Any], changes: dict[str, Any]) -> bytes:
    """The body with some top-level members set to new values, every other byte as it was if that can be proven.

    Args:
        body: as `read_object` accepted it.
        document: what `read_object` made of it; not empty.
        changes: the members to set; those that `document` lacks are appended.
    """
    appended = b""
    for key, value in changes.items():
        if key in document:
            body, document = _replace(body, document, key, value)
        else:
            appended += b',"%b":%b' % (key.encode(), orjson.dumps(value))
    if not appended:
        return body
    end = body.rindex(b"}")
    return body[:end] + appended + body[end:]


def _replace(body: bytes, document: dict[str, Any], key: str, value: Any) -> tuple[bytes, dict[str, Any]]:  # noqa: ANN401
    changed = {**document, key: value}
    quoted = b'"%b"' % key.encode()
    if body.count(quoted) == 1:
        match = _VALUE.match(body, body.index(quoted) + len(quoted))
        if match is not None:
            spliced = body[: match.start(1)] + orjson.dumps(value) + body[match.end(1) :]
            if _reads_as(spliced, changed):
                return spliced, changed
    return orjson.dumps(changed), changed


def _reads_as(body: bytes, document: dict[str, Any]) -> bool:
    """The proof of a splice: the member may have been another one of the same name, deeper in the body or in a text."""
    try:
        return bool(orjson.loads(body) == document)
    except orjson.JSONDecodeError:
        return False


def read_model(document: dict[str, Any]) -> str:
    """The model's name.

    Raises:
        MalformedRequest: it is missing, empty, longer than `MODEL_CHARS_MAX`, or not printable.
    """
    model = document.get("model")
    if type(model) is not str or not 0 < len(model) <= MODEL_CHARS_MAX or not model.isprintable():
        raise MalformedRequest(f"model must be a string of 1 to {MODEL_CHARS_MAX} printable characters.", "model")
    return model


def read_flag(document: dict[str, Any], name: str) -> bool:
    value = document.get(name)
    if value is None or type(value) is bool:
        return value is True
    raise MalformedRequest(f"{name} must be true or false.", name)


def read_int(document: dict[str, Any], name: str, most: int) -> int | None:
    """A whole number of at least 1; None if it is absent or null.

    Raises:
        MalformedRequest: anything else, also 0, negative numbers, 16.0, "16", true, and numbers beyond 64 bits.
    """
    value = document.get(name)
    if value is None or (type(value) is int and 1 <= value <= most):
        return value
    raise MalformedRequest(f"{name} must be a whole number from 1 to {most}.", name)


def read_list(document: dict[str, Any], name: str) -> list[Any]:
    """A list; empty if it is absent or null."""
    value = document.get(name)
    if value is None:
        return []
    if type(value) is not list:
        raise MalformedRequest(f"{name} must be a list.", name)
    return value


_ASCII: Final = bytes(range(0x80))
_TWO_BYTE_LEADS: Final = bytes(range(0xC2, 0xE0))
_FOUR_BYTE_LEADS: Final = bytes(range(0xF0, 0xF5))
_CONTINUATIONS: Final = bytes(range(0x80, 0xC0))


def escapes_max(body: bytes) -> int:
    """How many bytes longer a body's text would be if every character beyond ASCII were an escape like U+XXXX.

    A provider may show a model structures as JSON in ASCII, so that what is 3 bytes in the request is 6 in the prompt:
    OpenAI does, of the results of parallel tool calls and of schemas (https://community.openai.com/t/1375117, measured:
    11.8 times the tokens for Korean; github.com/openai/openai-python/issues/2428). Bytes of the request alone would not
    bound its tokens then.
    """
    if body.isascii():
        return 0
    leads = body.translate(None, _ASCII + _CONTINUATIONS)
    two = len(leads) - len(leads.translate(None, _TWO_BYTE_LEADS))
    four = len(leads) - len(leads.translate(None, _FOUR_BYTE_LEADS))
    three = len(leads) - two - four
    return two * (6 - 2) + three * (6 - 3) + four * (12 - 4)

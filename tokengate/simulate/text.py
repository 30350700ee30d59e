"""The words of the simulated provider: text of a known number of tokens, and counts that never exceed the true ones.

A gate that counts exactly must never find more tokens billed than it counts, or the simulation would invent debt. So
what is counted here is a lower bound on what the vocabularies cl100k_base and o200k_base give, and what is written
here is exact in both.
"""

import re
from collections.abc import Callable
from random import Random
from typing import Any, Final

import orjson

Count = Callable[[str], int]

_TEXT: Final = """
the gate will hold every call to its budget and let the answer through as it is while this text has nothing of use about
any question but is as long as it was asked to be so that what it will cost can be known before it is made
"""
_WORDS: Final = _TEXT.split()
"""Each is one token in both vocabularies: in lower case after a space, and capitalised with and without one."""

_SENTENCE_TOKENS: Final = 12
_RUN: Final = re.compile(r"[\w'\x80-\U0010ffff]+")
_PIECE: Final = re.compile(r"[^\w'\x80-\U0010ffff]*[\w'\x80-\U0010ffff]+(?:[^\w'\x80-\U0010ffff]+\Z)?")
_EXAMPLE_DEPTH_MAX: Final = 8
_STRUCTURE_KEYS: Final = frozenset({"role", "type", "id", "tool_call_id", "image_url", "input_audio", "file", "detail"})
"""Keys whose values are not text for the model."""


def count_runs(text: str) -> int:
    """A lower bound on the tokens of `text`: its runs of letters, digits and non-ASCII characters.

    Both vocabularies split a text at ASCII punctuation and white space before they merge bytes, and a split part has
    at most one such run, so every run has a token of its own.
    """
    return len(_RUN.findall(text))


def count_text(value: Any, count: Count) -> int:  # noqa: ANN401 - decoded JSON
    """The tokens of all text for the model in a decoded JSON value (messages, parts, tool calls)."""
    tokens = 0
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            tokens += count(item)
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(inner for key, inner in item.items() if key not in _STRUCTURE_KEYS)
    return tokens


def prose(tokens: int, rng: Random) -> tuple[str, ...]:
    """Text in pieces of exactly one token each: sentences, of words drawn from `rng`'s starting point."""
    start = rng.randrange(len(_WORDS))
    pieces: list[str] = []
    for position in range(tokens):
        place = position % _SENTENCE_TOKENS
        word = _WORDS[(start + position) % len(_WORDS)]
        if place == _SENTENCE_TOKENS - 1:
            pieces.append(".")
        else:
            pieces.append((" " if position else "") + (word.capitalize() if place == 0 else word))
    return tuple(pieces)


def split(text: str) -> tuple[str, ...]:
    """Cut a text into pieces that join to it again, no more of them than it has tokens."""
    return tuple(_PIECE.findall(text)) or (text,)


def example(schema: Any, depth: int = 0) -> Any:  # noqa: ANN401 - decoded JSON
    """A value that a JSON schema allows: every property there is, the first of every choice; None where unsure."""
    if not isinstance(schema, dict) or depth >= _EXAMPLE_DEPTH_MAX:
        return None
    if "const" in schema:
        return schema["const"]
    for choices in ("enum", "anyOf", "oneOf"):
        options = schema.get(choices)
        if isinstance(options, list) and options:
            return options[0] if choices == "enum" else example(options[0], depth + 1)
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind == "array":
        return [example(schema.get("items"), depth + 1)]
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        inner = properties if isinstance(properties, dict) else {}
        return {name: example(value, depth + 1) for name, value in inner.items()}
    scalars: dict[Any, Any] = {"string": "as it came", "integer": 7, "number": 7.5, "boolean": True}
    return scalars.get(kind)


def example_json(schema: Any) -> str:  # noqa: ANN401 - decoded JSON
    """`example` as compact JSON text."""
    return orjson.dumps(example(schema)).decode()

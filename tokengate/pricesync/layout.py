"""A price file as text that people can review: everything in a fixed order, a model on a line wherever it fits."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from tokengate.prices import PRICE_FIELDS
from tokengate.pricesync.words import Block

_ORDER: Final = (
    "version", "as_of", "genai_prices", "sections",
    "prefixes", "fallback", "output_tokens_max_default", "default", "models",
    "from", "above", "multiplier", *PRICE_FIELDS, "per_second",
    "per_character", "fees", "context_tokens", "output_tokens_max", "encoding",
    "aliases", "source", "date", "note", "long_context", "service_tiers", "changes",
)  # fmt: skip
_RANK: Final = {name: rank for rank, name in enumerate(_ORDER)}
_BLOCKS: Final = ("long_context", "service_tiers", "changes")
"""The fields of a model that stand on lines of their own."""


def render(file: Mapping[str, Any]) -> str:
    """A price file as text that people can review: a model is a line, or a block with a line for each of its tiers.

    Args:
        file: the JSON object, with numbers as `int` or `Decimal`.
    """
    head = [f"  {json.dumps(key)}: {_inline(value)}," for key, value in _ordered(file) if key != "sections"]
    body = ",\n".join(_section(name, section) for name, section in file["sections"].items())
    return "\n".join(["{", *head, '  "sections": {', body, "  }", "}", ""])


def _section(name: str, section: Mapping[str, Any]) -> str:
    head = [f"      {json.dumps(key)}: {_inline(value)}," for key, value in _ordered(section) if key != "models"]
    rows = ",\n".join(_row(model, row) for model, row in section["models"].items())
    return "\n".join([f"    {json.dumps(name)}: {{", *head, '      "models": {', rows, "      }", "    }"])


def _row(name: str, row: Mapping[str, Any]) -> str:
    blocks = [(key, value) for key, value in _ordered(row) if key in _BLOCKS]
    fields = {key: value for key, value in row.items() if key not in _BLOCKS}
    if not blocks:
        return f"        {json.dumps(name)}: {_inline(fields)}"
    lines = [f"          {_inline(fields)[1:-1]}", *(_block(key, value) for key, value in blocks)]
    return f"        {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n        }"


def _block(key: str, value: Block | list[Block]) -> str:
    if isinstance(value, Mapping):
        lines = ",\n".join(f"            {json.dumps(name)}: {_inline(item)}" for name, item in _ordered(value))
        return f"          {json.dumps(key)}: {{\n{lines}\n          }}"
    lines = ",\n".join(f"            {_inline(item)}" for item in value)
    return f"          {json.dumps(key)}: [\n{lines}\n          ]"


def _ordered(block: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Known fields in their fixed order, then names in theirs."""
    return sorted(block.items(), key=lambda item: (_RANK.get(item[0], len(_RANK)), item[0]))


def _inline(value: object) -> str:
    match value:
        case Decimal():
            return format(value.normalize(), "f")
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(key)}: {_inline(item)}" for key, item in _ordered(value)) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inline(item) for item in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)

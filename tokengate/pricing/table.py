"""Which price a model has: what callers call it, resolved to a row of the price table, and the price of the day.

A name without a price is never guessed at. What is remembered of the names that callers invent has a bound.
"""

import re
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final

from msgspec import Struct

from tokengate.pricefile import NAME_CHARS_MAX, read_price_file
from tokengate.prices import Price, PriceFile, Row, Section

RESOLVED_NAMES_MAX: Final = 1024
"""Names remembered with what they resolved to. Callers invent names, so what is remembered about them is bounded."""


class LookupStatus(StrEnum):
    """How the price of a model was found."""

    EXACT = "exact"
    """The table has the name."""
    RESOLVED = "resolved"
    """An alias, a dated snapshot, or the name behind a provider's prefix or a fine-tuned model."""
    DEFAULT = "default"
    """No row: the section's `default` entry, which people add, stands in."""
    UNPRICED = "unpriced"


class Lookup(Struct, frozen=True, gc=False):
    """The answer to a lookup; `name` and `price` are empty and None exactly when the model is unpriced."""

    status: LookupStatus
    name: str = ""
    """The name of the row, or `default`."""
    price: Price | None = None


_UNPRICED: Final = Lookup(LookupStatus.UNPRICED)
_EXACT: Final = LookupStatus.EXACT

_MONTH, _DAY = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_SNAPSHOT: Final = re.compile(
    r"(?P<model>.+?)(?:"
    rf"-20\d\d-?{_MONTH}-?{_DAY}"  # gpt-4o-2024-08-06, claude-sonnet-4-5-20250929
    rf"|@20\d\d{_MONTH}{_DAY}"  # claude-sonnet-4-5@20250929, as Vertex AI writes it
    rf"|-{_MONTH}{_DAY}(?:-preview)?"  # gpt-4-0613, gpt-4-1106-preview
    r"|-preview-\d\d-(?:\d\d|20\d\d)"  # gemini-2.5-pro-preview-05-06, gemini-2.5-flash-preview-09-2025
    r"|(?<=gemini-...-pro)-00\d|(?<=-flash)-00\d|(?<=-flash-lite)-00\d"  # gemini-2.0-flash-001
    r"|-latest"
    r")",
    re.ASCII,
)
_FINE_TUNED: Final = re.compile(
    r"ft:(?P<model>[^:]+)(?::.*)?"  # ft:gpt-4o-mini-2024-07-18:org:name:id
    r"|(?P<azure_model>.+)\.ft-[0-9a-f]+(?:-.*)?",  # gpt-4o-mini-2024-07-18.ft-0123abcd-name
    re.ASCII,
)


class PriceTable:
    """The prices of all models, immutable; a reload makes a new table."""

    def __init__(self, file: PriceFile) -> None:
        self.as_of = file.as_of
        self.genai_prices = file.genai_prices
        self.sections = file.sections
        self._resolve = lru_cache(maxsize=RESOLVED_NAMES_MAX)(self._resolve_anew)

    @classmethod
    def parse(cls, text: bytes) -> "PriceTable":
        """Read a price file (its format: `data/README.md`).

        Raises:
            PriceTableError: with every fault of the file, each with its JSON path, or the line where it is not JSON.
        """
        return cls(read_price_file(text))

    def lookup(self, model: str, section: str = "openai", on: date | None = None) -> Lookup:
        """The price of a model as a client names it, at a provider.

        Args:
            model: the name in the request or in the answer.
            section: the provider, as the table calls it.
            on: the day that chooses among announced prices; by default today (UTC).
        """
        known = self.sections.get(section)
        if known is None:
            return _UNPRICED
        row = known.rows.get(model)
        if row is not None and row.name == model:
            return Lookup(_EXACT, model, row.price if not row.changes else _in_force(row, on))
        if not 0 < len(model) <= NAME_CHARS_MAX:
            return _UNPRICED
        status, row = self._resolve(section, model)
        return Lookup(status, row.name, _in_force(row, on)) if row is not None else _UNPRICED

    def _resolve_anew(self, section: str, model: str) -> tuple[LookupStatus, Row | None]:
        known = self.sections[section]
        for place in (known, self.sections[known.fallback] if known.fallback is not None else None):
            row = _find(place, model.lower()) if place is not None else None
            if row is not None:
                is_own = place is known and row.name == model
                return (LookupStatus.EXACT if is_own else LookupStatus.RESOLVED), row
        return (LookupStatus.UNPRICED if known.default is None else LookupStatus.DEFAULT), known.default


def _in_force(row: Row, on: date | None) -> Price:
    """The price of a row on a day. The clock is read only for the few rows whose price is announced to change."""
    if not row.changes:
        return row.price
    day = on if on is not None else datetime.now(UTC).date()
    return next((price for start, price in reversed(row.changes) if start <= day), row.price)


def _find(section: Section, name: str) -> Row | None:
    """The row of a lower-case name: as it is, or without a prefix, or as a snapshot or fine-tuning of a priced model.

    A fine-tuned model costs more than the model it was made from, so only a row of its own (`ft:...`) prices it.
    """
    row = section.rows.get(name)
    if row is not None:
        return row
    prefix = next((prefix for prefix in section.prefixes if name.startswith(prefix)), None)
    if prefix is not None:
        return _find(section, name.removeprefix(prefix))
    tuned = _FINE_TUNED.fullmatch(name)
    if tuned is not None:
        base = f"ft:{tuned['model'] or tuned['azure_model']}"
        return section.rows.get(base) or section.rows.get(_without_snapshot(base))
    return section.rows.get(_without_snapshot(name))


def _without_snapshot(name: str) -> str:
    """The name without its date or `-latest`; a name that ends in anything else stays what it is."""
    snapshot = _SNAPSHOT.fullmatch(name)
    return snapshot["model"] if snapshot is not None else name

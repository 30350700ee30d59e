"""`tokengate pricing sync`: how the price file is made from genai-prices and an overlay of curated facts.

genai-prices (https://github.com/pydantic/genai-prices, MIT) is the well-kept source of prices, but at run time it
costs 40 MB and a cache without bound, so it is read here, once, at build time, and its objects are walked. What it
does not hold (output maxima, encodings, prices it lacks) comes from the overlay, where every fact has its source and
date. The same genai-prices, overlay and day give the same bytes. What cannot be expressed as a price per token is
left out and listed, never guessed. The prices of hours of the day (off-peak discounts) become the dearest of the day.
"""

from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from typing import Any, Final

from tokengate.pricefile import FORMAT_VERSION, load_json
from tokengate.pricesync.genai import rows
from tokengate.pricesync.layout import render
from tokengate.pricesync.overlay import apply, drop, settle_aliases
from tokengate.pricesync.words import Block, LeftOut, SyncError

__all__ = ("PACKAGE", "LeftOut", "SyncError", "Synced", "sync")

PACKAGE: Final = "genai-prices"


@dataclass(frozen=True, slots=True)
class Synced:
    """A price file, and what did not make it there."""

    text: str
    genai_prices: str
    models: int
    left_out: tuple[LeftOut, ...] = field(repr=False)


def sync(overlay: bytes, as_of: date) -> Synced:
    """Build the price file.

    Args:
        overlay: the curated facts (`data/pricing_overlay.json`).
        as_of: the day whose prices are in force; announced changes after it are written down as such.

    Raises:
        ImportError: genai-prices is not installed (the extra `prices`).
        PriceTableError: the overlay is not JSON.
        SyncError: a fact of the overlay names a model that does not exist and that it does not price.
    """
    from genai_prices.data import providers  # noqa: PLC0415  (40 MB that only this command needs)

    curated: Any = load_json(overlay)
    by_id = {provider.id: provider for provider in providers}
    left_out: list[LeftOut] = []
    sections: Block = {}
    for name, head in curated["sections"].items():
        models = dict(rows(by_id[name], as_of, left_out))
        sections[name] = {"source": (by_id[name].pricing_urls or [PACKAGE])[0], **head, "models": models}
    for entry in curated["drop"]:
        drop(sections[entry["section"]]["models"], entry, left_out)
    for fact in curated["facts"]:
        apply(sections[fact["section"]]["models"], fact)
    genai_prices = version(PACKAGE)
    for section in sections.values():
        section["models"] = dict(sorted(section["models"].items()))
        settle_aliases(section["models"])
    file = {
        "version": FORMAT_VERSION,
        "as_of": as_of.isoformat(),
        "genai_prices": genai_prices,
        "sections": dict(sorted(sections.items())),
    }
    priced = sum(len(section["models"]) for section in sections.values())
    return Synced(render(file), genai_prices, priced, tuple(left_out))

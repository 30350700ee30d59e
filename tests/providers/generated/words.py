"""What generated calls are made of: a request, what its provider may bill for it, and what it did bill."""

import base64
import json
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from random import Random
from typing import Any, Final, NamedTuple

from tokengate.providers import Endpoint, Head
from tokengate.resources import pricing_file

PRICES: Final[dict[str, Any]] = json.loads(pricing_file().read_bytes(), parse_float=Decimal, parse_int=Decimal)[
    "sections"
]
"""The price file as it is written: prices are looked up in it here by another way than the gate's."""

TEXTS: Final = ("a", "Tell me about gates.", "你好，世界", "👩‍👩‍👧🎉", "테스트 ", "ﷺ", '"quoted"\n\t\\', "\x00\x1f", "def f(x):\n    return x", "é")  # fmt: skip
LONG: Final = "word " * 60_000
"""300,000 bytes: beyond every long-context edge, if each byte is a token."""


@dataclass(slots=True)
class Allowed:
    """What the provider may bill at the most, in tokens unless it says otherwise."""

    text: int = 0
    images: int = 0
    audio: int = 0
    windows: int = 0
    """Whole context windows beside the rest."""
    answers: int = 1
    beside: int = 0
    """Output whatever the cap says."""
    speaks: bool = False
    output: bool = True
    tiers: tuple[str, ...] = ("",)
    """Service tiers that may be billed, by their names in the price file."""
    searches: dict[str, int] = field(default_factory=dict)
    """Fees by name, and how often each may be billed."""
    searches_together: int | None = None
    """How many may be billed of all fees together; None: each as often as it says."""


class Asked(NamedTuple):
    """One request."""

    section: str
    model: str
    endpoint: Endpoint
    head: Head
    document: dict[str, Any]
    stream: bool
    allowed: Allowed


@dataclass(slots=True)
class Billed:
    """What was billed: classes of tokens that do not overlap."""

    plain: int = 0
    read: int = 0
    written: int = 0
    written_long: int = 0
    audio: int = 0
    images: int = 0
    output: int = 0
    reasoning: int = 0
    spoken: int = 0
    tier: str = ""
    fees: dict[str, int] = field(default_factory=dict)

    @property
    def input(self) -> int:
        return self.plain + self.read + self.written + self.written_long + self.audio + self.images


def row_of(section: str, model: str) -> dict[str, Any]:
    found: dict[str, Any] = PRICES[section]["models"][model]
    return found


def models(section: str, *, output: bool = True, **has: bool) -> list[str]:
    """The models of a section that have (or have not) these fields."""
    return sorted(
        name
        for name, row in PRICES[section]["models"].items()
        if ("output" in row) is output and all((key in row) is wanted for key, wanted in has.items())
    )


def output_max(section: str, model: str) -> int:
    row = row_of(section, model)
    least = PRICES[section].get("output_tokens_max_default", 128_000)
    return int(row.get("output_tokens_max") or row.get("context_tokens") or least)


def text(random: Random) -> str:
    if random.random() < 0.004:
        return LONG
    return random.choice(TEXTS) * random.choice((1, 1, 2, 9, 40))


def shown(*texts: str) -> int:
    """The most tokens that texts are: one for each of their bytes."""
    return sum(len(each.encode()) for each in texts)


def png(width: int, height: int) -> str:
    """The beginning of a PNG of a size, in base64."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x06\0\0\0"
    return base64.b64encode(head).decode()


def draw(random: Random, asked: Asked, cap: int) -> Billed:
    """An answer that a request allows whose provider obeys an output cap."""
    allowed, row = asked.allowed, row_of(asked.section, asked.model)
    windows = int(row.get("context_tokens", 0)) * allowed.windows

    def some(most: int) -> int:
        return random.choice((most, most, random.randint(0, most)))

    billed = Billed(tier=random.choice(allowed.tiers), audio=some(allowed.audio), images=some(allowed.images))
    left = max(1, some(allowed.text + windows))
    kind = random.randrange(4)
    if kind == 1:
        billed.read = some(left)
    elif kind == 2 and "cache_write" in row:
        billed.written = some(left)
        if "cache_write_long" in row:
            billed.written_long = some(billed.written)
            billed.written -= billed.written_long
    elif kind == 3 and "cache_write" in row:
        billed.read = random.randint(0, left // 2)
        billed.written = left - billed.read
    billed.plain = left - billed.read - billed.written - billed.written_long
    if allowed.output:
        billed.output = max(1, some(cap)) * allowed.answers + (some(allowed.beside) if allowed.beside else 0)
        billed.spoken = some(billed.output) if allowed.speaks else 0
        billed.reasoning = random.choice((0, random.randint(0, billed.output - billed.spoken)))
    room = allowed.searches_together
    for name, most in allowed.searches.items():
        calls = some(most if room is None else min(most, room))
        room = None if room is None else room - calls
        if calls:
            billed.fees[name] = calls
    return billed


def nano(asked: Asked, billed: Billed) -> int:
    """What was billed, in nano-USD, calculated from the price file by its own words, in USD and at arbitrary precision."""
    row = row_of(asked.section, asked.model)
    day = row.get("changes", [])
    assert all(change["from"] > "2026-11-23" for change in day)
    tier, factor = row, Decimal(1)
    if billed.tier in row.get("service_tiers", {}):
        tier = row["service_tiers"][billed.tier]
        if "multiplier" in tier:
            tier, factor = row, tier["multiplier"]
    rates = tier
    for bracket in tier.get("long_context", ()):
        if billed.input > bracket["above"]:
            rates = bracket
    plain, output = rates["input"], rates.get("output", rates["input"])
    written = rates.get("cache_write", plain)
    total = (
        billed.plain * plain
        + billed.read * rates.get("cached_input", plain)
        + billed.written * written
        + billed.written_long * rates.get("cache_write_long", written)
        + billed.audio * rates.get("audio_input", plain)
        + billed.images * rates.get("image_input", plain)
        + (billed.output - billed.spoken) * output
        + billed.spoken * rates.get("audio_output", output)
    )
    fees = row.get("fees", {})
    usd = total * factor / 1_000_000 + fees.get("request", 0)
    usd += sum((fees[name] * calls for name, calls in billed.fees.items()), Decimal(0))
    return int((usd * 10**9).to_integral_value(ROUND_CEILING))

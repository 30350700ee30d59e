"""What an image in a chat message is billed, in input tokens, by model, size and detail.

The rules are those of OpenAI's guide "Images and vision", section "Calculating costs"
(https://developers.openai.com/api/docs/guides/images-vision#calculating-costs), as of late 2026. Where users have
measured less than the guide says (https://community.openai.com/t/1377015), the guide holds: these are upper bounds. An
image whose size is not known costs what the largest would, and a model that is not known what the dearest would.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from tokengate.tokens import image_size

CONTEXT_TOKENS_MAX: Final = 1_050_000
"""The largest context window of OpenAI's models (gpt-5.4 and later). No prompt can be billed more input than that,
which bounds what has no other bound: an image by URL that the model reads at its original size."""

HEADER_BYTES: Final = 3 * 1024
"""How much of an image is decoded to find its size; a PNG, GIF or WebP declares it in the first 30 bytes."""
JPEG_HEADER_BYTES_MAX: Final = 3 * 64 * 1024
"""How much of a JPEG is decoded at the most: its size comes behind its metadata (Exif, colour profile)."""

_PATCH_PIXELS: Final = 32
_LOW_DETAIL_PATCHES: Final = 256  # 512 x 512 pixels
_TILE_PIXELS: Final = 512
_LONG_SIDE_MAX: Final = 2048
_SHORT_SIDE_MAX: Final = 768
_TILES_MAX: Final = 8  # 2048 x 768 pixels

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A base, and at high detail a price for every tile of 512 pixels, after scaling to 2048 and then 768 pixels."""

    base: int
    tile: int

    def tokens(self, size: Size | None, detail: str) -> int:
        if detail == "low":
            return self.base
        if size is None:
            return self.base + self.tile * _TILES_MAX
        long, short = max(size), min(size)
        if long > _LONG_SIDE_MAX:
            long, short = _LONG_SIDE_MAX, _ceil(short * _LONG_SIDE_MAX, long)
        if short > _SHORT_SIDE_MAX:
            long, short = _ceil(long * _SHORT_SIDE_MAX, short), _SHORT_SIDE_MAX
        return self.base + self.tile * _ceil(long, _TILE_PIXELS) * _ceil(short, _TILE_PIXELS)


@dataclass(frozen=True, slots=True)
class Patches:
    """A price for every patch of 32 pixels, up to a budget of patches to which larger images are scaled down."""

    hundredths: int
    """The model's multiplier, in hundredths of a token for a patch."""
    high: int | None = 1536
    """The budget at high detail; None: there is none."""
    original: int | None = 1536
    """The budget at original detail, which `auto` may mean."""

    def tokens(self, size: Size | None, detail: str) -> int:
        budget = self.high if detail in {"low", "high"} else self.original
        patches = _ceil(size[0], _PATCH_PIXELS) * _ceil(size[1], _PATCH_PIXELS) if size else None
        if detail == "low" and patches is not None:
            # Measured to have no effect, where the guide says that the image is brought to 512 x 512 pixels.
            patches = max(patches, _LOW_DETAIL_PATCHES)
        if patches is None or (budget is not None and patches > budget):
            patches = budget
        return _ceil(patches * self.hundredths, 100) if patches is not None else CONTEXT_TOKENS_MAX


@dataclass(frozen=True, slots=True)
class Dearest:
    """The dearest of all rules, for a model that is not known."""

    rules: tuple[Tiles | Patches, ...]

    def tokens(self, size: Size | None, detail: str) -> int:
        return max(rule.tokens(size, detail) for rule in self.rules)


ImageRule = Tiles | Patches | Dearest

_UNKNOWN: Final = Dearest((Tiles(2833, 5667), Patches(246, high=10_000, original=None)))

# By the words that a model's name begins with; the first that fits counts. Multipliers that the guide does not give
# (gpt-5.1 to gpt-5.6, measured at 1.2) are taken to be that of the mini models.
_RULES: Final[tuple[tuple[str, ImageRule], ...]] = (
    ("gpt-4o-mini-", Tiles(2833, 5667)),
    ("gpt-4o-", Tiles(85, 170)),
    ("chatgpt-4o-", Tiles(85, 170)),
    ("gpt-4.1-mini-", Patches(162)),
    ("gpt-4.1-nano-", Patches(246)),
    ("gpt-4.1-", Tiles(85, 170)),
    ("gpt-4.5-", Tiles(85, 170)),
    ("gpt-4-turbo-", Tiles(85, 170)),
    ("gpt-4-vision-", Tiles(85, 170)),
    ("o4-mini-", Patches(172)),
    ("codex-mini-", Patches(172)),
    ("o1-", Tiles(75, 150)),
    ("o3-", Tiles(75, 150)),
    ("computer-use-preview-", Tiles(65, 129)),
    ("gpt-5-mini-", Patches(162)),
    ("gpt-5-nano-", Patches(246)),
    ("gpt-5-codex-", Patches(162)),
    ("gpt-5-pro-", Patches(162)),
    ("gpt-5-", Tiles(70, 140)),
    ("gpt-5.1-", Patches(162)),
    ("gpt-5.2-", Patches(162)),
    ("gpt-5.3-", Patches(162)),
    ("gpt-5.4-mini-", Patches(162)),
    ("gpt-5.4-nano-", Patches(246)),
    ("gpt-5.4-", Patches(162, high=2500, original=10_000)),
    ("gpt-5.5-", Patches(162, high=2500, original=10_000)),
    ("gpt-5.6-", Patches(162, high=2500, original=None)),
)


def image_rule(model: str) -> ImageRule:
    """The rule of a model by its bare name, without a provider's prefix."""
    words = f"{model}-"
    return next((rule for prefix, rule in _RULES if words.startswith(prefix)), _UNKNOWN)


def base64_image_size(text: str) -> Size | None:
    """Width and height in pixels of an image in base64, from its first bytes; None if they cannot be read."""
    size = image_size(_decode(text, HEADER_BYTES))
    if size is None and text.startswith("/9j/"):  # the first bytes of every JPEG
        size = image_size(_decode(text, JPEG_HEADER_BYTES_MAX))
    return size


def _decode(text: str, bytes_max: int) -> bytes:
    try:
        return base64.b64decode(text[: bytes_max // 3 * 4], validate=True)
    except (binascii.Error, ValueError):
        return b""


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)

"""How many tokens an image that is generated has, and one that is edited, at the most: by model, quality and size.

By OpenAI's guide "Image generation", section "Calculating costs"
(https://developers.openai.com/api/docs/guides/image-generation), as of late 2026: a table for the models up to
gpt-image-1.5; for gpt-image-2 a calculator, whose rule is written down in
https://community.openai.com/t/gpt-image-2-output-pricing-calculator-online-and-in-your-code/1382699. gpt-image-2.5 is
held for by the same rule. What has no rule has no bound, and is refused.
"""

import re
from typing import Any, Final

from tokengate.bodies import UnpricedFeature

PARTIAL_TOKENS: Final = 100
"""Of each image that is shown before it is finished (the same guide, "Partial images cost")."""

WORDS_TOKENS_MAX: Final = 1_024
"""More than the text that models with a price for it have been seen to bill beside an image."""

EDITED_TOKENS_MAX: Final = 65 + 8 * 129 + 6_240
"""Of an image that is edited: the base, more tiles than there can be, and what high fidelity adds to one that is not
square (https://developers.openai.com/api/docs/guides/images-vision#calculating-costs, "GPT Image 1"). The 1,536 patches
of gpt-image-2 are fewer (https://community.openai.com/t/1382940)."""
EDITED_TOKENS_LOW: Final = 65 + 8 * 129
"""The same at low fidelity, for the models that have one."""

_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)

_FIXED_SIZES: Final = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1056, "1024x1536": 1584, "1536x1024": 1568},
    "high": {"1024x1024": 4160, "1024x1536": 6240, "1536x1024": 6208},
}
_LOW_FIDELITY: Final = re.compile(r"gpt-image-1(?:-mini|\.5)?(?:-20\d\d-\d\d-\d\d)?", re.ASCII)
_OF_FIXED_SIZES: Final = re.compile(r"gpt-image-1(?:-mini|\.5)?(?:-20\d\d-\d\d-\d\d)?|chatgpt-image-latest", re.ASCII)
_TELLS_WORDS: Final = re.compile(r"gpt-image-1\.5(?:-20\d\d-\d\d-\d\d)?|chatgpt-image-latest", re.ASCII)
_OF_ANY_SIZE: Final = re.compile(r"gpt-image-2(?:\.5-[a-z]+)?(?:-20\d\d-\d\d-\d\d)?", re.ASCII)
_QUALITY_MUST_BE_SAID: Final = "gpt-image-2.5"

_FACTORS: Final = {"low": 16, "medium": 48, "high": 96}
_AREA_OFFSET: Final = 2_000_000
_AREA_SCALE: Final = 4_000_000
_PIXELS_MAX: Final = 8_294_400
"""Of an image that gpt-image-2 makes: 3840 x 2160."""


def drawn_tokens(model: str, quality: Any, size: Any) -> int:  # noqa: ANN401 - as they stand in the request
    """The most output tokens of one finished image.

    Args:
        model: its bare name.
        quality: `auto`, absent or unknown: the dearest that the model has.
        size: the same.

    Raises:
        UnpricedFeature: the rule of the model, or of this quality, is not known.
    """
    quality, size = quality if type(quality) is str else "", size if type(size) is str else ""
    if _OF_FIXED_SIZES.fullmatch(model):
        sizes = _FIXED_SIZES.get(quality, _FIXED_SIZES["high"])
        words = WORDS_TOKENS_MAX if _TELLS_WORDS.fullmatch(model) else 0
        return sizes.get(size, max(sizes.values())) + words
    if not _OF_ANY_SIZE.fullmatch(model):
        raise UnpricedFeature(f"How many tokens an image of {model!r} has is not known here.", "model")
    if model.startswith(_QUALITY_MUST_BE_SAID) and quality not in _FACTORS:
        raise UnpricedFeature(
            f"What {model} bills at other qualities than low, medium and high is not documented: name one.", "quality"
        )
    return _tokens_by_area(_FACTORS.get(quality, _FACTORS["high"]), size)


def _tokens_by_area(factor: int, size: str) -> int:
    match = _SIZE.fullmatch(size)
    if match is None:
        return _ceil(factor * factor * (_AREA_OFFSET + _PIXELS_MAX), _AREA_SCALE)
    long, short = sorted((int(match[1]), int(match[2])), reverse=True)
    shorter_factor = (2 * factor * short + long) // (2 * long)
    return _ceil(factor * shorter_factor * (_AREA_OFFSET + long * short), _AREA_SCALE)


def edited_tokens(model: str, fidelity: Any) -> int:  # noqa: ANN401
    """The most input tokens of one image that is edited, looked at, or masks another."""
    low = fidelity in (None, "", "low") and _LOW_FIDELITY.fullmatch(model)
    return EDITED_TOKENS_LOW if low else EDITED_TOKENS_MAX


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)

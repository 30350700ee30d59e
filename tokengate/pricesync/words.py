"""What the steps of the making of a price file hand to each other."""

from dataclasses import dataclass
from typing import Any

Block = dict[str, Any]
"""A JSON object of the price file, in the making."""


class SyncError(ValueError):
    """The overlay and genai-prices do not fit together; the message names the fact."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model of genai-prices that is not in the price file."""

    section: str
    model: str
    why: str

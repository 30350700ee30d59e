"""What the admin API says beside the words of `control`: who is logged in."""

from typing import Annotated

from msgspec import Meta

from tokengate.api.access import Role
from tokengate.control.words import Word
from tokengate.domain import TOKEN_CHARACTERS_MAX


class Login(Word, frozen=True):
    """A token, in exchange for a session of the page."""

    token: Annotated[str, Meta(min_length=1, max_length=TOKEN_CHARACTERS_MAX)]


class Standing(Word, frozen=True):
    """Who asks, and whom."""

    name: str
    """Which token was shown: `admin` or `reader`."""
    role: Role
    """What it allows: `admin` everything, `read` to look."""
    tenant: str
    version: str
    """Of TokenGate."""

"""What the admin API says beside the words of `control`: who is logged in, and how the process itself does."""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

from tokengate.api.access import TOKEN_CHARACTERS_MAX, Role
from tokengate.control.words import Word


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
    gate: bool
    """Whether this process takes calls itself, and can say how it does: `/gate`."""


class GateState(Word, frozen=True):
    """How the gate in this process does, since its start."""

    requests: int
    """Calls that it answered, refused ones too."""
    overhead_us_mean: int | None
    """What it added to a call, in microseconds: everything but the time that the provider took. None: no calls yet."""


GateStates = Callable[[], GateState]

"""The kinds of transcript that there are: what each is about, and which verdict is right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.transcripts.tape import Tape

Write = Callable[[Tape], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of agent."""

    name: str
    about: str
    """What the agent does, in a sentence."""
    write: Write
    repetition: str = ""
    """What counts as one repetition; empty: it is healthy."""

    @property
    def runaway(self) -> bool:
        return bool(self.repetition)

    def tape(self, seed: int = 0) -> Tape:
        """One transcript of this kind."""
        tape = Tape(self.name.replace("_", "-"), seed)
        self.write(tape)
        return tape


KINDS: Final[dict[str, Kind]] = {}


def runaway(repetition: str) -> Callable[[Write], Write]:
    """The function writes a runaway; its docstring says what the agent does."""

    def register(write: Write) -> Write:
        return _register(write, repetition)

    return register


def healthy(write: Write) -> Write:
    """The function writes an agent that does its work; its docstring says which."""
    return _register(write, "")


def _register(write: Write, repetition: str) -> Write:
    if write.__name__ in KINDS or not write.__doc__:
        raise ValueError(f"{write.__name__} needs a name of its own and a docstring")
    KINDS[write.__name__] = Kind(write.__name__, " ".join(write.__doc__.split()), write, repetition)
    return write

"""RESP, the sending side: commands as bytes, of pieces of which those that do not change are made once.

A reservation has two dozen arguments, of which eight differ from one call of a session to the next. Packing all of them
anew costs more than everything else that the ledger does for a call.
"""

import hiredis
from msgspec import Struct

Part = str | bytes | int


class Parts(Struct, frozen=True, gc=False):
    """Some arguments of a command, packed."""

    count: int
    packed: bytes


def parts(*given: Part) -> Parts:
    """Pack arguments: text as UTF-8, integers in decimal."""
    return Parts(len(given), bulk(*given))


def bulk(*given: Part) -> bytes:
    """The same, where somebody else counts them."""
    packed = command(*given)
    return packed[packed.index(b"\n") + 1 :]


def command(*given: Part) -> bytes:
    """A whole command."""
    packed: bytes = hiredis.pack_command(given)  # type: ignore[arg-type]  # its stub means a tuple of one
    return packed

"""What the meters of all providers are made of: an answer kept within a bound, and the text that was shown of one."""

import json
from typing import Any, Final

import orjson

from tokengate.providers import Reading

SHOWN_BYTES_MAX: Final = 256 * 1024
"""How much generated text of one answer is kept to be counted."""


class UnmeteredBody:
    """An error of the provider: it costs nothing and passes as it is."""

    __slots__ = ("_finished",)

    def __init__(self) -> None:
        self._finished = False

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        self._finished = True
        return b""

    def reading(self) -> Reading:
        return Reading(usage=None, complete=self._finished, output_seen="", output_bytes_seen=0)


class WholeBody:
    """An answer that is read when it is all there; what makes a meter of it is how its `reading` reads it."""

    __slots__ = ("_bytes_max", "_kept", "bytes_seen", "finished")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._kept: list[bytes] = []
        self.bytes_seen = 0
        self.finished = False

    def feed(self, chunk: bytes) -> bytes:
        self.bytes_seen += len(chunk)
        if self.bytes_seen <= self._bytes_max:
            self._kept.append(chunk)
        else:
            self._kept.clear()
        return chunk

    def finish(self) -> bytes:
        self.finished = True
        return b""

    @property
    def content(self) -> bytes:
        """The answer; empty if it has not ended, or was larger than is kept."""
        return b"".join(self._kept) if self.finished else b""


class Shown:
    """The generated text that a stream has shown, for counting one that was cut."""

    __slots__ = ("_pieces", "_room", "bytes_seen")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._room = SHOWN_BYTES_MAX
        self.bytes_seen = 0

    def add(self, content: bytes) -> None:
        self.bytes_seen += len(content)
        if self._room:
            piece = content[: self._room]
            self._pieces.append(piece)
            self._room -= len(piece)

    @property
    def text(self) -> str:
        return b"".join(self._pieces).decode("utf-8", "ignore")


LENIENT_BYTES_MAX: Final = 64 * 1024
"""Up to this size, what is no JSON by the strict reader is given to one that takes any number."""


def parse(content: bytes | bytearray) -> Any:  # noqa: ANN401 - whatever a provider sends
    """JSON; None if it is none."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return _parse_any_number(content) if len(content) <= LENIENT_BYTES_MAX else None


def _parse_any_number(content: bytes | bytearray) -> Any:  # noqa: ANN401
    """JSON with numbers that are larger than any float, such as 1e400: what stands beside them can be read."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def parse_object(content: bytes | bytearray) -> dict[str, Any] | None:
    """A JSON object; None if it is something else."""
    document = parse(content)
    return document if type(document) is dict else None

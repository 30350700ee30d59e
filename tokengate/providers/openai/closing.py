"""The meter of a stream whose last event tells what was used, and no other one does: speech and transcripts as events.

Bytes pass as they came. Without that event, or without figures in it that can be believed, the hold is charged.
"""

from collections.abc import Callable
from typing import Any

from tokengate.domain import Usage
from tokengate.providers import Reading
from tokengate.providers.meters import parse_object
from tokengate.sse import Decoder, Event


class ClosingEventMeter:
    """Looks for the event of type `closing`, whose document `read` makes a usage of."""

    __slots__ = ("_closing", "_decoder", "_done", "_read", "_usage")

    def __init__(self, closing: str, read: Callable[[dict[str, Any]], Usage | None]) -> None:
        self._closing = closing
        self._read = read
        self._decoder = Decoder()
        self._usage: Usage | None = None
        self._done = False

    def feed(self, chunk: bytes) -> bytes:
        if not self._done:
            for event in self._decoder.feed(chunk):
                self._note(event)
        return chunk

    def finish(self) -> bytes:
        rest = self._decoder.rest()
        if rest and not self._done:
            self._note(Event(rest))
        return b""

    def reading(self) -> Reading:
        return Reading(self._usage, self._done, "", 0, hidden_output=self._usage is None)

    def _note(self, event: Event) -> None:
        closes = self._closing.encode() in event.raw and not event.oversized
        document = parse_object(event.data) if closes else None
        if document is not None and document.get("type") == self._closing:
            self._usage, self._done = self._read(document), True

"""An event-stream decoder that keeps every byte: what a meter reads must never change what the client receives.

Bytes in, complete events out, each with its raw bytes exactly as they came (its terminating blank line included), so
that the raw bytes of all events and `rest()` put together are the input. It follows the event stream format of the HTML
standard (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream): lines end with LF,
CRLF or CR, a byte order mark may come first, lines that begin with a colon are comments. It does no I/O, and does not
decode text: `data` stays bytes, because JSON parsers want bytes.
"""

import re
from typing import Final

EVENT_BYTES_MAX: Final = 1024 * 1024
"""The longest event that is kept until it is complete. What is longer is passed on in pieces, unparsed."""

_BLANK_LINE_BYTES_MAX: Final = 4
"""The longest end of an event: CRLF CRLF."""

_BOM: Final = b"\xef\xbb\xbf"
# Atomic groups: a CRLF is one line end and must not be read as a CR and then a LF.
_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


class Event:
    """One event as it came. `name` and `data` are read from the raw bytes when they are asked for."""

    __slots__ = ("_start", "oversized", "raw")

    def __init__(self, raw: bytes, *, oversized: bool = False, start: int = 0) -> None:
        self.raw = raw
        self.oversized = oversized
        """Whether this is an event longer than the bound, or a piece of one: nothing is read from it."""
        self._start = start

    @property
    def name(self) -> str:
        """The event's type; empty if it names none."""
        return self._field(b"event").decode("utf-8", "replace") if b"event" in self.raw else ""

    @property
    def data(self) -> bytes:
        """The event's data, its lines joined by LF; empty if there is none."""
        raw = self.raw
        # One data line, ended by LF LF, is what providers send.
        if raw.startswith(b"data: ") and raw.find(b"\n") == len(raw) - 2 and b"\r" not in raw and not self.oversized:
            return raw[6:-2]
        return self._field(b"data")

    def _field(self, field: bytes) -> bytes:
        if self.oversized:
            return b""
        values = []
        for line in self.raw[self._start :].splitlines():
            key, _, value = line.partition(b":")
            if key == field:
                values.append(value.removeprefix(b" "))
        if field == b"event":
            return values[-1] if values else b""
        return b"\n".join(values)


class Decoder:
    """Cuts one stream into events. At most `event_bytes_max` bytes of it are kept at any time."""

    def __init__(self, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._rest = bytearray()
        self._has_cr = False
        self._oversized = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes; give the events that they complete, in order.

        An event is given as soon as its blank line is complete; where that line ends with CR, a LF that follows belongs
        to the raw bytes of the next event, so that nobody waits for a byte that may never come.
        """
        if not self._has_cr and b"\r" in chunk:
            self._has_cr = True
        rest = self._rest
        if rest:
            seen = max(0, len(rest) - _BLANK_LINE_BYTES_MAX + 1)
            rest += chunk
            if not self._next_end(rest, seen):
                return self._give_up() if self._oversized or len(rest) > self._event_bytes_max else []
            chunk = bytes(rest)
            rest.clear()
        events = self._cut(chunk)
        if rest and (self._oversized or len(rest) > self._event_bytes_max):
            events += self._give_up()
        return events

    @property
    def held_bytes(self) -> int:
        """How many bytes of an incomplete event are kept; at most `event_bytes_max`."""
        return len(self._rest)

    def rest(self) -> bytes:
        """The stream ended: give the bytes of the event that was never completed."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _next_end(self, buffer: bytes | bytearray, start: int) -> int:
        """Where the next event ends, searching from `start`; 0 if it does not end in this buffer."""
        if self._has_cr:
            match = _BLANK_LINE.search(buffer, start)
            return match.end() if match else 0
        found = buffer.find(b"\n\n", start)
        return found + 2 if found >= 0 else 0

    def _cut(self, buffer: bytes) -> list[Event]:
        events = []
        start = 0
        while end := self._next_end(buffer, start):
            raw = buffer[start:end]
            if self._oversized or self._at_start or len(raw) > self._event_bytes_max:
                events.append(self._first_or_oversized(raw))
            else:
                events.append(Event(raw))
            start = end
            if start == len(buffer):
                return events
        self._rest += buffer[start:]
        return events

    def _first_or_oversized(self, raw: bytes) -> Event:
        start = len(_BOM) if self._at_start and raw.startswith(_BOM) else 0
        event = Event(raw, oversized=self._oversized or len(raw) > self._event_bytes_max, start=start)
        self._at_start = self._oversized = False
        return event

    def _give_up(self) -> list[Event]:
        """Pass on what there is of an event that grew too long, but for line ends that may begin its blank line."""
        rest = self._rest
        self._oversized = True
        self._at_start = False
        line_ends = len(rest) - len(rest.rstrip(b"\r\n"))
        raw = bytes(rest[: len(rest) - min(line_ends, _BLANK_LINE_BYTES_MAX - 1)])
        del rest[: len(raw)]
        return [Event(raw, oversized=True)] if raw else []

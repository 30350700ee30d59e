"""Meters for the answers of OpenAI's API, whole or streamed: what was used, and what can be seen if nobody says.

Bytes pass as they came. The one exception is a stream that was made to report its usage although its client had not
asked: the event with the usage is withheld, and the `"usage":null` that the provider then adds to every other event is
taken out again, so that the client receives what it would have received without TokenGate. Only for that is an
incomplete event held back; a complete one passes at once. Nothing here decodes compression or raises.
"""

import re
from typing import Any, Final

from msgspec import Struct

from tokengate.domain import Usage
from tokengate.providers import Meter, Reading
from tokengate.providers.meters import UnmeteredBody, parse_object
from tokengate.providers.openai.usage import generated_text, read_usage, read_usage_of
from tokengate.sse import Decoder, Event

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""An answer up to this size is kept whole; of a longer one only the end, which is where the usage stands."""
TAIL_BYTES: Final = 64 * 1024
"""How much of the end of a long answer is kept, and looked at before a large one is parsed whole."""
PARSE_AT_ONCE_BYTES: Final = 256 * 1024
"""An answer up to this size is parsed whole; it takes less than a millisecond."""
EVENTS_BYTES_MAX: Final = 64 * 1024
"""Events that wait to be parsed for their text, which is not needed if the usage comes."""
OUTPUT_SEEN_BYTES_MAX: Final = 256 * 1024
"""How much generated text of one answer is kept to be counted."""

_JSON: Final = "application/json"
_USAGE: Final = b'"usage"'
_NULL_USAGE: Final = b'"usage":null'
_NULL_USAGE_MEMBER: Final = b"," + _NULL_USAGE
_DONE: Final = b"[DONE]"
_GZIP: Final = b"\x1f\x8b"
_LINE: Final = re.compile(rb"(?:\xef\xbb\xbf)?(?::|(?:data|event|id|retry)(?::|$))")
"""A line of an event stream: a comment, or one of its fields."""


class Expected(Struct, frozen=True, gc=False):
    """What the request lets a meter expect of its answer."""

    injected: bool = False
    """Whether the usage in the stream was asked for by TokenGate and not by the client."""
    streamed: bool = False
    hidden_output: bool = False
    """Whether the model may generate what it does not show."""
    produces_output: bool = True
    fees: tuple[tuple[str, int], ...] = ()
    cost_reported: bool = False
    """Whether the cost that stands in the answer is to be believed."""


def meter(expected: Expected, status: int, content_type: str) -> Meter:
    """The meter for an answer. `stream: true` may be answered with JSON, and a stream come without a content type."""
    if not 200 <= status < 300:
        return UnmeteredBody()
    if content_type == _JSON:
        return BodyMeter(expected)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return StreamMeter(expected) if expected.streamed else UnlabelledMeter(expected)
    if media_type == _JSON or not expected.streamed:
        return BodyMeter(expected)
    return UnlabelledMeter(expected)


class UnlabelledMeter:
    """Tells by the first bytes what a stream without a content type is."""

    __slots__ = ("_expected", "_meter")

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._meter: Meter | None = None

    def feed(self, chunk: bytes) -> bytes:
        if self._meter is None:
            start = chunk.lstrip()
            if not start:
                return chunk
            self._meter = BodyMeter(self._expected) if start.startswith(b"{") else StreamMeter(self._expected)
        return self._meter.feed(chunk)

    def finish(self) -> bytes:
        return self._meter.finish() if self._meter else b""

    def reading(self) -> Reading:
        return (self._meter or StreamMeter(self._expected)).reading()


class BodyMeter(Struct, gc=False):
    """An answer that is one JSON document."""

    _expected: Expected
    _kept: bytes | bytearray = b""
    _bytes_seen: int = 0
    _finished: bool = False

    def feed(self, chunk: bytes) -> bytes:
        if self._kept or len(chunk) > PARSE_AT_ONCE_BYTES:
            self._gather(chunk)
        else:
            self._kept = chunk  # nearly always there is no other: it is not copied
        self._bytes_seen += len(chunk)
        return chunk

    def _gather(self, chunk: bytes) -> None:
        kept = self._kept
        if type(kept) is not bytearray:
            kept = self._kept = bytearray(kept)
        # The vectors of embeddings are large, and there is no text in them that would have to be counted.
        wanted = self._expected.produces_output and self._bytes_seen == len(kept)
        kept += chunk
        if len(kept) > (BODY_BYTES_MAX if wanted else PARSE_AT_ONCE_BYTES):
            del kept[:-TAIL_BYTES]

    def finish(self) -> bytes:
        self._finished = True
        return b""

    def reading(self) -> Reading:
        if self._finished and self._bytes_seen == len(self._kept) <= PARSE_AT_ONCE_BYTES:
            usage = read_usage_of(self._kept, self._expected.fees)
            if usage is not None and (usage.output_tokens or not self._expected.produces_output):
                return Reading(usage, True, "", 0)
        return self._reading_of_all()

    def _reading_of_all(self) -> Reading:
        """What an answer tells whose usage alone does not: its text is looked at, or of a long one its end."""
        answer = self._answer() if self._finished else None
        usage = read_usage(answer, self._expected.fees) if answer is not None else None
        if not self._expected.produces_output:
            return Reading(usage, self._finished, output_seen="", output_bytes_seen=0)
        if usage is not None and usage.output_tokens:
            return Reading(usage, self._finished, output_seen="", output_bytes_seen=0)
        if answer is None or "choices" not in answer:
            # What broke off, is no JSON or was too long to keep does not show what was generated.
            return Reading(None, self._finished, "", self._bytes_seen, hidden_output=True)
        text = generated_text(answer).encode()
        seen = text[:OUTPUT_SEEN_BYTES_MAX].decode("utf-8", "ignore")
        # A server that reports no output beside the output has not counted.
        return Reading(None if text else usage, self._finished, seen, len(text), self._expected.hidden_output)

    def _answer(self) -> dict[str, Any] | None:
        """The answer, or of a large one its end, if that has the usage."""
        if len(self._kept) > PARSE_AT_ONCE_BYTES or self._bytes_seen > len(self._kept):
            end = _end_of(bytes(self._kept[-TAIL_BYTES:]))
            if end is not None or self._bytes_seen > len(self._kept):
                return end
        return parse_object(self._kept)


def _end_of(tail: bytes) -> dict[str, Any] | None:
    """The last members of a large document from its model or usage on, by the bytes at its end.

    With an opening brace before them they are a document of their own only if the object that they belong to is the one
    that ends where the bytes end: the answer itself. The same names in a text or in an inner object cannot pass for it.
    """
    for name in (b'"model"', _USAGE):
        position = tail.rfind(name)
        if position >= 0:
            end = parse_object(b"{" + tail[position:])
            if end is not None and type(end.get("usage")) is dict:
                return end
    return None


class StreamMeter:
    """An answer that is an event stream: chunks of JSON, then `[DONE]`."""

    __slots__ = (
        "_bytes_seen",
        "_compressed",
        "_decoder",
        "_done",
        "_events",
        "_events_bytes",
        "_expected",
        "_is_usage_last",
        "_seen",
        "_seen_bytes",
        "_usage",
    )

    def __init__(self, expected: Expected) -> None:
        self._expected = expected
        self._decoder = Decoder()
        self._done = False
        self._compressed: bool | None = None
        self._usage: Usage | None = None
        self._is_usage_last = False
        self._events: list[Event] = []
        self._events_bytes = 0
        self._seen: list[bytes] = []
        self._seen_bytes = 0
        self._bytes_seen = 0

    def feed(self, chunk: bytes) -> bytes:
        if self._compressed is None:
            self._compressed = chunk.startswith(_GZIP)
        if self._passes():
            return chunk
        events = self._decoder.feed(chunk)
        if not self._expected.injected:
            for event in events:
                self._note(event)
            return chunk
        passed = b"".join([event.raw for event in events if self._note(event)])
        return passed + self._decoder.rest() if self._passes() else passed

    def finish(self) -> bytes:
        # Servers that end without a blank line mean their last event all the same.
        rest = self._decoder.rest()
        last = Event(rest)
        passed = not rest or self._note(last)
        return last.raw if passed and self._expected.injected else b""

    def reading(self) -> Reading:
        usage = self._usage
        if usage is None or not usage.output_tokens:
            self._read_events()
            usage = usage if not self._bytes_seen else None
        elif not (self._done or self._is_usage_last):
            # It counts what came up to it, and the stream went on and broke off.
            self._read_events()
            usage = None
        if usage is not None:
            return Reading(usage, self._done, output_seen="", output_bytes_seen=0)
        seen = b"".join(self._seen).decode("utf-8", "ignore")
        hidden = self._expected.hidden_output or bool(self._compressed)
        return Reading(None, self._done, seen, self._bytes_seen + self._decoder.held_bytes, hidden)

    def _passes(self) -> bool:
        """Whether nothing more is to be learnt: after the end, and where the bytes are not text."""
        return self._done or bool(self._compressed)

    def _note(self, event: Event) -> bool:
        """Learn from an event, and take out of it what nobody asked for; whether it is to be passed on."""
        if self._done:
            return True
        raw = event.raw
        if raw.startswith(b"data: [DONE]") or (_DONE in raw and event.data.startswith(_DONE)):
            self._done = True
            return True
        self._is_usage_last = False
        if _USAGE in raw and not event.oversized:
            if _NULL_USAGE not in raw or raw.count(_USAGE) > 1:
                answer = parse_object(event.data) or {}
                usage = read_usage(answer, self._expected.fees)
                if usage is not None:
                    self._usage = usage
                    self._is_usage_last = True
                if not answer.get("choices") and type(answer.get("usage")) is dict:
                    return not self._expected.injected
            if self._expected.injected:
                event.raw = _without_null_usage(raw)
        self._events.append(event)
        self._events_bytes += len(raw)
        if self._events_bytes > EVENTS_BYTES_MAX:
            self._read_events()
        return True

    def _read_events(self) -> None:
        """Take the text out of the events that wait; what cannot be read is counted by its length."""
        for event in self._events:
            if event.oversized:
                self._bytes_seen += len(event.raw)
                continue
            data = event.data
            if not data:
                self._bytes_seen += _stray_bytes(event.raw)
                continue
            answer = parse_object(data)
            text = generated_text(answer).encode() if answer is not None else data
            if answer is not None and self._seen_bytes < OUTPUT_SEEN_BYTES_MAX:
                self._seen.append(text[: OUTPUT_SEEN_BYTES_MAX - self._seen_bytes])
                self._seen_bytes += len(self._seen[-1])
            self._bytes_seen += len(text)
        self._events.clear()
        self._events_bytes = 0


def _stray_bytes(raw: bytes) -> int:
    """The bytes of lines that no event stream has, such as those of a document that is called one."""
    return sum(len(line) for line in raw.splitlines() if line and not _LINE.match(line))


def _without_null_usage(raw: bytes) -> bytes:
    """An event without the `"usage":null` that asking for usage adds to it.

    A quote within a JSON text has a backslash before it, so these bytes are a member; behind the last `]` it is one of
    the chunk itself and not of a choice in it. One that is written in another way stays: it says nothing untrue.
    """
    position = raw.rfind(_NULL_USAGE_MEMBER)
    if position < 0 or raw.find(b"]", position) >= 0:
        return raw
    return raw[:position] + raw[position + len(_NULL_USAGE_MEMBER) :]

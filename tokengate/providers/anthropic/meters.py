"""Meters for the answers of Anthropic's API, whole or streamed. Bytes pass as they came; nothing here raises.

A stream says what it used twice: its input when it begins (`message_start`), and cumulatively when it ends
(`message_delta`). What broke off before that is known by the text it showed, unless it was thinking.
"""

from typing import Any, Final

from tokengate.domain import Usage
from tokengate.providers import Meter, Reading
from tokengate.providers.anthropic.usage import read_usage
from tokengate.providers.meters import Shown, UnmeteredBody, WholeBody, parse_object
from tokengate.sse import Decoder, Event

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""An answer up to this size is kept until its end."""

_DELTAS: Final = ("text", "thinking", "partial_json")
"""The members of a `content_block_delta` that are generated (`anthropic/types/raw_content_block_delta.py`)."""


def meter(status: int, content_type: str, *, hidden_output: bool) -> Meter:
    """The meter for an answer.

    Args:
        status: of the answer.
        content_type: of the answer.
        hidden_output: whether the model may generate what it does not show.
    """
    if not 200 <= status < 300:
        return UnmeteredBody()
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return StreamMeter(hidden_output=hidden_output)
    return BodyMeter()


class BodyMeter(WholeBody):
    """An answer that is one JSON document."""

    def __init__(self) -> None:
        super().__init__(BODY_BYTES_MAX)

    def reading(self) -> Reading:
        answer = parse_object(self.content) or {}
        reported = answer.get("usage")
        usage = read_usage(reported, answer.get("model")) if type(reported) is dict else None
        # What is no message does not show what was generated.
        return Reading(usage, self.finished, "", self.bytes_seen, hidden_output=usage is None)


class StreamMeter:
    """An answer that is an event stream: `message_start`, the blocks, `message_delta`, `message_stop`."""

    __slots__ = ("_bytes_seen", "_decoder", "_done", "_hidden", "_model", "_reported", "_shown", "_total")

    def __init__(self, *, hidden_output: bool) -> None:
        self._decoder = Decoder()
        self._hidden = hidden_output
        self._model: object = ""
        self._reported: dict[str, Any] = {}
        self._total = False
        """The figures are those of the whole answer."""
        self._done = False
        self._shown = Shown()
        self._bytes_seen = 0
        """Of what could not be read."""

    def feed(self, chunk: bytes) -> bytes:
        if not self._done:
            for event in self._decoder.feed(chunk):
                self._note(event)
        return chunk

    def finish(self) -> bytes:
        rest = self._decoder.rest()
        if rest:
            self._note(Event(rest))
        return b""

    def reading(self) -> Reading:
        usage: Usage | None = read_usage(self._reported, self._model) if self._total else None
        if usage is not None:
            return Reading(usage, True, "", 0)
        shown = self._shown
        seen = shown.bytes_seen + self._bytes_seen + self._decoder.held_bytes
        return Reading(None, self._done, shown.text, seen, self._hidden)

    def _note(self, event: Event) -> None:
        document = None if event.oversized else parse_object(event.data)
        if document is None:
            self._bytes_seen += len(event.raw)
            return
        kind = document.get("type")
        if kind == "content_block_delta":
            self._note_delta(document.get("delta"))
        elif kind == "content_block_start":
            block = document.get("content_block")
            if type(block) is dict and str(block.get("type", "")).startswith("redacted"):
                self._hidden = True
        elif kind == "message_start":
            message = document.get("message")
            if type(message) is dict:
                self._model = message.get("model")
                self._add(message.get("usage"))
        elif kind == "message_delta":
            self._add(document.get("usage"))
            self._total = True
        elif kind == "message_stop":
            self._done = True

    def _add(self, usage: object) -> None:
        if type(usage) is dict:
            self._reported |= {name: value for name, value in usage.items() if value is not None}

    def _note_delta(self, delta: object) -> None:
        if type(delta) is not dict:
            return
        for name in _DELTAS:
            text = delta.get(name)
            if type(text) is str:
                self._shown.add(text.encode("utf-8", "replace"))

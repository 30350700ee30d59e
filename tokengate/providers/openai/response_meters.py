"""Meters for responses, whole or streamed. Bytes pass as they came; nothing here raises.

A stream tells what it used once, in the response within its terminal event (`response.completed`, `.incomplete` or
`.failed`); what broke off before that is known by the text it showed, unless the model reasons, which is not shown
(https://developers.openai.com/api/docs/guides/streaming-responses).
"""

from typing import Any, Final

import orjson

from tokengate.domain import Usage
from tokengate.providers import Meter, Reading
from tokengate.providers.meters import Shown, UnmeteredBody, WholeBody, parse_object
from tokengate.providers.openai.usage import is_count
from tokengate.sse import Decoder, Event

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""A response up to this size is kept until its end."""

_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_SEARCH_CALLS: Final = {"web_search_call": "web_search", "file_search_call": "file_search"}


def response_meter(status: int, content_type: str, *, hidden_output: bool, kept: bool = False) -> Meter:
    """The meter for an answer.

    Args:
        status: of the answer.
        content_type: of the answer.
        hidden_output: whether the model may generate what it does not show.
        kept: whether the provider keeps the answer.
    """
    if not 200 <= status < 300:
        return UnmeteredBody()
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return ResponseStreamMeter(hidden_output=hidden_output, kept=kept)
    return ResponseBodyMeter(kept=kept)


class ResponseBodyMeter(WholeBody):
    """A response that is one JSON document."""

    __slots__ = ("_kept_there",)

    def __init__(self, *, kept: bool) -> None:
        super().__init__(BODY_BYTES_MAX)
        self._kept_there = kept

    def reading(self) -> Reading:
        response = parse_object(self.content)
        usage = read_response(response)
        name = _name_of(response) if self._kept_there else ""
        return Reading(usage, self.finished, "", self.bytes_seen, hidden_output=usage is None, kept=name)


class ResponseStreamMeter:
    """A response that is an event stream."""

    __slots__ = ("_bytes_seen", "_decoder", "_done", "_hidden", "_kept_there", "_name", "_shown", "_usage")

    def __init__(self, *, hidden_output: bool, kept: bool) -> None:
        self._kept_there = kept
        self._name = ""
        self._decoder = Decoder()
        self._hidden = hidden_output
        self._usage: Usage | None = None
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
        if self._usage is not None:
            return Reading(self._usage, True, "", 0, kept=self._name)
        shown = self._shown
        seen = shown.bytes_seen + self._bytes_seen + self._decoder.held_bytes
        # A response that ended and does not say what it used has shown nothing of that either.
        hidden = self._hidden or self._done
        return Reading(None, self._done, shown.text, seen, hidden, self._name)

    def _note(self, event: Event) -> None:
        document = None if event.oversized else parse_object(event.data)
        if document is None:
            self._bytes_seen += len(event.raw)
            return
        kind = document.get("type")
        if kind in _TERMINAL:
            self._usage, self._done = read_response(document.get("response")), True
        elif kind == "response.created" and self._kept_there:
            self._name = _name_of(document.get("response"))
        elif type(kind) is str and kind.endswith(".delta"):
            self._note_text(document.get("delta"))

    def _note_text(self, delta: object) -> None:
        self._shown.add(delta.encode("utf-8", "replace") if type(delta) is str else orjson.dumps(delta))


def _name_of(response: object) -> str:
    """What the provider calls a response; empty if it does not say."""
    name = response.get("id") if type(response) is dict else None
    return name if type(name) is str else ""


def read_response(response: object) -> Usage | None:
    """What a response says it used; None if it has no figures that can be believed.

    By `openai/types/responses/response_usage.py`; each call of one of the provider's tools in its output costs a fee.
    """
    if type(response) is not dict:
        return None
    usage = response.get("usage")
    if type(usage) is not dict:
        return None
    read, generated = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details") or {}
    if type(read) is not dict or type(generated) is not dict:
        return None
    counts: tuple[Any, ...] = (
        usage.get("input_tokens"),
        usage.get("output_tokens"),
        read.get("cached_tokens") or 0,
        read.get("cache_write_tokens") or 0,
        generated.get("reasoning_tokens") or 0,
    )
    if not all(is_count(count) for count in counts) or not counts[0]:
        return None
    tokens_in, tokens_out, cached, written, reasoning = counts
    model, tier = response.get("model"), response.get("service_tier")
    return Usage(
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
        model=model if type(model) is str else "",
        service_tier=tier if type(tier) is str else "",
        calls=_searches(response.get("output")),
    )


def _searches(output: object) -> tuple[tuple[str, int], ...]:
    found: dict[str, int] = {}
    for item in output if type(output) is list else ():
        fee = _SEARCH_CALLS.get(str(item.get("type"))) if type(item) is dict else None
        if fee is not None:
            found[fee] = found.get(fee, 0) + 1
    return tuple(sorted(found.items()))

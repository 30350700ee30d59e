"""Meters for the answers of the Gemini API: one document, an event stream, or a stream that is one JSON list.

Every chunk of a stream says what was used up to it, so the last one counts, also of a stream that broke off. Bytes pass
as they came; nothing here raises. Figures by https://ai.google.dev/api/generate-content#UsageMetadata: thoughts stand
beside the candidates, cached content is a part of the prompt, and what tools were shown stands beside it.
"""

from typing import Any, Final, TypeGuard

from tokengate.domain import Usage
from tokengate.providers import Meter, Reading
from tokengate.providers.meters import UnmeteredBody, WholeBody, parse
from tokengate.sse import Decoder, Event

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""An answer up to this size is kept until its end: generated sound and images stand in it."""
TOKENS_REPORTED_MAX: Final = 2**31 - 1
"""No call uses more; a larger figure is a fault of the server."""

_TIERS: Final = {"ON_DEMAND_PRIORITY": "priority", "ON_DEMAND_FLEX": "flex"}


def meter(status: int, content_type: str, *, produces_output: bool) -> Meter:
    """The meter for an answer."""
    if not 200 <= status < 300:
        return UnmeteredBody()
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return StreamMeter()
    return BodyMeter(produces_output=produces_output)


class BodyMeter(WholeBody):
    """An answer that is one JSON document, or a list of the chunks of a stream."""

    def __init__(self, *, produces_output: bool) -> None:
        super().__init__(BODY_BYTES_MAX)
        self._produces_output = produces_output

    def reading(self) -> Reading:
        usage, answer = None, parse(self.content)
        for chunk in answer if type(answer) is list else [answer]:
            usage = (read_usage(chunk) if type(chunk) is dict else None) or usage
        if not self._produces_output:
            return Reading(usage, self.finished, "", 0)
        return Reading(usage, self.finished, "", self.bytes_seen, hidden_output=usage is None)


class StreamMeter:
    """An answer that is an event stream, of chunks that are answers themselves."""

    __slots__ = ("_decoder", "_finished", "_seen", "_usage")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._usage: Usage | None = None
        self._finished = False
        self._seen = 0

    def feed(self, chunk: bytes) -> bytes:
        for event in self._decoder.feed(chunk):
            self._note(event)
        return chunk

    def finish(self) -> bytes:
        rest = self._decoder.rest()
        if rest:
            self._note(Event(rest))
        self._finished = True
        return b""

    def reading(self) -> Reading:
        complete = self._finished and self._usage is not None
        # Without a figure nothing is known: most of what these models generate are thoughts, which are not shown.
        return Reading(self._usage, complete, "", self._seen, hidden_output=self._usage is None)

    def _note(self, event: Event) -> None:
        self._seen += len(event.raw)
        chunk = None if event.oversized else parse(event.data)
        if type(chunk) is dict:
            self._usage = read_usage(chunk) or self._usage


def read_usage(answer: dict[str, Any]) -> Usage | None:
    """The usage in an answer or a chunk of one; None if it has none that can be believed."""
    usage = answer.get("usageMetadata")
    if type(usage) is not dict:
        return None
    names = ("promptTokenCount", "toolUsePromptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
    counts: list[Any] = [usage.get(name) or 0 for name in (*names, "cachedContentTokenCount")]
    if not all(_is_count(count) for count in counts):
        return None
    prompt, tools, shown, thoughts, cached = counts
    if not prompt + tools:
        return None
    model, audio = answer.get("modelVersion"), _by_modality(usage, "promptTokensDetails", "AUDIO")
    if tools:
        audio += _by_modality(usage, "toolUsePromptTokensDetails", "AUDIO")
    return Usage(
        input_tokens=prompt + tools,
        output_tokens=shown + thoughts,
        cache_read_tokens=min(cached, prompt),
        input_audio_tokens=min(audio, prompt + tools),
        output_audio_tokens=0,
        reasoning_tokens=thoughts,
        model=model if type(model) is str else "",
        service_tier=_TIERS.get(str(usage.get("trafficType")), ""),
    )


def _by_modality(usage: dict[str, Any], name: str, modality: str) -> int:
    details = usage.get(name)
    total = 0
    for detail in details if type(details) is list else ():
        if type(detail) is dict and detail.get("modality") == modality and _is_count(detail.get("tokenCount")):
            total += detail["tokenCount"]
    return total


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= TOKENS_REPORTED_MAX

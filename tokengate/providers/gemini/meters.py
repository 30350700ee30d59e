"""Meters for the answers of the Gemini API: one document, an event stream, or a stream that is one JSON list.

Every chunk of a stream says what was used up to it, so the last one counts, also of a stream that broke off. Bytes pass
as they came; nothing here raises. Figures by https://ai.google.dev/api/generate-content#UsageMetadata: thoughts stand
beside the candidates, cached content is a part of the prompt, and what tools were shown stands beside it.
"""

from typing import Any, Final, TypeGuard

from msgspec.structs import replace

from tokengate.domain import Usage
from tokengate.providers import Meter, Reading
from tokengate.providers.meters import UnmeteredBody, WholeBody, parse
from tokengate.sse import Decoder, Event

BODY_BYTES_MAX: Final = 32 * 1024 * 1024
"""An answer up to this size is kept until its end: generated sound and images stand in it."""
TOKENS_REPORTED_MAX: Final = 2**31 - 1
"""No call uses more; a larger figure is a fault of the server."""

_TIERS: Final = {"ON_DEMAND_PRIORITY": "priority", "ON_DEMAND_FLEX": "flex"}


Fees = tuple[tuple[str, int], ...]


def meter(status: int, content_type: str, *, produces_output: bool, fees: Fees = ()) -> Meter:
    """The meter for an answer; `fees` are those that it may cost, each once, if it says that it was grounded so."""
    if not 200 <= status < 300:
        return UnmeteredBody()
    if content_type.partition(";")[0].strip().lower() == "text/event-stream":
        return StreamMeter(fees)
    return BodyMeter(produces_output=produces_output, fees=fees)


class BodyMeter(WholeBody):
    """An answer that is one JSON document, or a list of the chunks of a stream."""

    def __init__(self, *, produces_output: bool, fees: Fees = ()) -> None:
        super().__init__(BODY_BYTES_MAX)
        self._produces_output = produces_output
        self._fees = fees

    def reading(self) -> Reading:
        usage, answer, grounded = None, parse(self.content), set[str]()
        for chunk in answer if type(answer) is list else [answer]:
            if type(chunk) is dict:
                usage = read_usage(chunk) or usage
                if self._fees:
                    grounded |= groundings(chunk)
        if usage is not None and self._fees:
            usage = replace(usage, calls=_charged(self._fees, grounded))
        if not self._produces_output:
            return Reading(usage, self.finished, "", 0)
        return Reading(usage, self.finished, "", self.bytes_seen, hidden_output=usage is None)


class StreamMeter:
    """An answer that is an event stream, of chunks that are answers themselves."""

    __slots__ = ("_decoder", "_fees", "_finished", "_grounded", "_seen", "_usage")

    def __init__(self, fees: Fees = ()) -> None:
        self._fees = fees
        self._grounded: set[str] = set()
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
        usage = self._usage
        complete = self._finished and usage is not None
        if usage is not None and self._fees:
            usage = replace(usage, calls=_charged(self._fees, self._grounded))
        # Without a figure nothing is known: most of what these models generate are thoughts, which are not shown.
        return Reading(usage, complete, "", self._seen, hidden_output=usage is None)

    def _note(self, event: Event) -> None:
        self._seen += len(event.raw)
        chunk = None if event.oversized else parse(event.data)
        if type(chunk) is dict:
            self._usage = read_usage(chunk) or self._usage
            if self._fees:
                self._grounded |= groundings(chunk)


def groundings(answer: dict[str, Any]) -> set[str]:
    """What an answer or a chunk of one says it was grounded in, by the names of the fees.

    By `groundingMetadata` of https://ai.google.dev/api/generate-content#GroundingMetadata.
    """
    found: set[str] = set()
    candidates = answer.get("candidates")
    for candidate in candidates if type(candidates) is list else ():
        metadata = candidate.get("groundingMetadata") if type(candidate) is dict else None
        if type(metadata) is not dict:
            continue
        chunks = metadata.get("groundingChunks")
        kinds = {kind for chunk in (chunks if type(chunks) is list else ()) if type(chunk) is dict for kind in chunk}
        if metadata.get("webSearchQueries") or metadata.get("searchEntryPoint") or "web" in kinds:
            found.add("web_search")
        if metadata.get("googleMapsWidgetContextToken") or "maps" in kinds:
            found.add("google_maps")
    return found


def _charged(fees: Fees, grounded: set[str]) -> Fees:
    return tuple((name, count) for name, count in fees if name in grounded)


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

"""POST /v1/audio/transcriptions and /v1/audio/translations: what a file of sound can cost, in seconds and in tokens.

Some models are billed by the second, others by the token: both are bounded, and the price of the model decides. The
file itself is not looked into beyond its length, and not kept.
"""

from typing import Any, Final

from tokengate.bodies import MalformedRequest, UnpricedFeature, read_flag, read_model
from tokengate.domain import Call
from tokengate.forms import Form, Part, read_form
from tokengate.prices import SECOND
from tokengate.providers import NO_HEAD, Head
from tokengate.providers.openai import fields
from tokengate.providers.openai.audio import TOKENS_PER_SECOND
from tokengate.providers.openai.heard import seconds_max
from tokengate.providers.openai.pictures import read_fields
from tokengate.providers.openai.transcript_meters import transcript_meter
from tokengate.providers.openai.uncapped import UncappedRequest

WINDOW_TOKENS: Final = 16_000
"""The context window of the models that are billed by the token, which bounds what is heard at once
(https://developers.openai.com/api/docs/models/gpt-4o-transcribe)."""
OUTPUT_TOKENS_MAX: Final = 2_000
"""The most that they write at once (the same page)."""
WORDS_PER_SECOND_TOKENS: Final = 2 * TOKENS_PER_SECOND
"""Where a long file is heard in pieces, which each have a window: more than anybody can say, and the names of who spoke
when."""
SPEAKER_TOKENS: Final = 4 * 10 * TOKENS_PER_SECOND
"""The samples of known speakers: at most four of at most ten seconds."""
FRAMING_TOKENS: Final = 64

_PRICED: Final = frozenset({"model", "stream", "response_format", "prompt"})
_SAMPLES: Final = "known_speaker_references"


class Transcriptions:
    """https://developers.openai.com/api/reference/resources/audio."""

    def __init__(self, name: str = "transcriptions") -> None:
        self.name: str = name

    def parse(self, body: bytes, head: Head = NO_HEAD) -> UncappedRequest:
        form = read_form(body, head.content_type or b"")
        document = read_fields(form, _PRICED, frozenset(), frozenset({"stream"}))
        if unknown := document.keys() - fields.KNOWN:
            fields.refuse_unpriced(unknown, document)
        model, file = read_model(document), _file(form)
        seconds = seconds_max(body, file.start, file.end)
        samples = [part for part in form.parts if part.name.startswith(_SAMPLES)]
        if any(not body.startswith(b"data:", part.start) for part in samples):
            raise UnpricedFeature(f"{_SAMPLES} must be data: nothing bounds what is elsewhere.", _SAMPLES)
        heard = _heard_tokens(document, seconds, samples)
        shown = sum(part.bytes_long for part in form.parts if not part.is_file and part not in samples)
        stream = read_flag(document, "stream")
        call = Call(
            model=model,
            stream=stream,
            input_tokens_max=heard + shown + FRAMING_TOKENS,
            text_bytes=0,
            output_tokens_asked=None,
            produces_output=False,
            output_tokens_fixed=_written_tokens(document, heard),
            pieces=((SECOND, seconds),),
            input_audio=True,
        )
        return UncappedRequest(call, body, transcript_meter)


def _file(form: Form) -> Part:
    files = [part for part in form.parts if part.is_file]
    if len(files) != 1 or files[0].name != "file":
        raise MalformedRequest("The form must have one file, named file.", "file")
    return files[0]


def _in_pieces(document: dict[str, Any]) -> bool:
    return any(name.partition("[")[0] == "chunking_strategy" for name in document)


def _heard_tokens(document: dict[str, Any], seconds: int, samples: list[Part]) -> int:
    tokens = seconds * TOKENS_PER_SECOND + (SPEAKER_TOKENS if samples else 0)
    return tokens if _in_pieces(document) else min(tokens, WINDOW_TOKENS)


def _written_tokens(document: dict[str, Any], heard: int) -> int:
    return OUTPUT_TOKENS_MAX + (WORDS_PER_SECOND_TOKENS * heard // TOKENS_PER_SECOND if _in_pieces(document) else 0)

"""POST /v1/audio/speech: what a text that is spoken can cost.

`tts-1` and its like are billed by the character, which is known before. The others are billed by what they are told and
by the sound they make, and nothing that is documented bounds how slowly they may speak: a text is taken to be spoken at
no less than a byte a second, at a fifteenth of the usual pace. The sound passes as it comes.
"""

import re
from functools import partial
from typing import Any, Final

from tokengate.bodies import MalformedRequest, read_model, read_object
from tokengate.domain import Call, Usage
from tokengate.prices import CHARACTER
from tokengate.providers import NO_HEAD, Head, Meter
from tokengate.providers.openai import fields
from tokengate.providers.openai.speech_meters import TOKENS_PER_SECOND, KnownMeter, SoundMeter, speech_stream_meter
from tokengate.providers.openai.uncapped import UncappedRequest

SECONDS_MIN: Final = 60
"""What the shortest text is taken to need, pauses and all."""
SLOWEST: Final = 4
"""The slowest `speed` is 0.25 (`openai/types/audio/speech_create_params.py`)."""
FRAMING_TOKENS: Final = 64

_PRICED: Final = frozenset({"model", "input", "instructions", "response_format", "speed", "stream_format"})
_STREAM_FORMATS: Final = (None, "sse", "audio")
_BY_CHARACTER: Final = re.compile(r"tts-1(?:-hd)?(?:-\d{4})?", re.ASCII)


class Speech:
    """https://developers.openai.com/api/reference/resources/audio/subresources/speech."""

    name: str = "speech"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> UncappedRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        if unknown := document.keys() - fields.KNOWN:
            fields.refuse_unpriced(unknown, document)
        for name in document:
            if name not in _PRICED and name.lower() in _PRICED:
                raise MalformedRequest(f"{name!r} must be written {name.lower()!r}.", name)
        model, text = read_model(document), document.get("input")
        if type(text) is not str or not text:
            raise MalformedRequest("input must be a text.", "input")
        if document.get("stream_format") not in _STREAM_FORMATS:
            raise MalformedRequest("stream_format must be sse or audio.", "stream_format")
        told = len(body) + FRAMING_TOKENS
        call = Call(
            model=model,
            stream=True,
            input_tokens_max=told,
            text_bytes=0,
            output_tokens_asked=None,
            produces_output=False,
            output_tokens_fixed=_seconds_max(document, text) * TOKENS_PER_SECOND,
            pieces=((CHARACTER, len(text)),),
            output_audio=True,
        )
        if _BY_CHARACTER.fullmatch(fields.bare_name(model)):
            known = Usage(calls=((CHARACTER, len(text)),))
            return UncappedRequest(call, body, lambda _: KnownMeter(known))
        sound = document.get("response_format") or "mp3"
        return UncappedRequest(call, body, partial(_meter, sound=sound if type(sound) is str else "", told=told))


def _meter(content_type: str, *, sound: str, told: int) -> Meter:
    return speech_stream_meter() if content_type.startswith("text/event-stream") else SoundMeter(sound, told)


def _seconds_max(document: dict[str, Any], text: str) -> int:
    instructions, speed = document.get("instructions"), document.get("speed")
    told = len(text.encode()) + (len(instructions.encode()) if type(instructions) is str else 0)
    is_slow = speed is not None and (type(speed) not in (int, float) or speed < 1)
    return max(SECONDS_MIN, told) * (SLOWEST if is_slow else 1)

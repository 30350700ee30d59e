"""What a transcript says it used: seconds or tokens. Bytes pass as they came; nothing here raises.

In JSON it stands in `usage`, and of older answers in `duration` (`openai/types/audio/transcription.py`,
`transcription_verbose.py`); in a stream in the event that ends it (`transcription_text_done_event.py`); as text or
subtitles nowhere. Then the hold is charged, which is what the file was bounded by.
"""

from typing import Any, Final

from tokengate.domain import Usage
from tokengate.prices import SECOND
from tokengate.providers import Meter, Reading
from tokengate.providers.meters import WholeBody, parse_object
from tokengate.providers.openai.closing import ClosingEventMeter
from tokengate.providers.openai.heard import SECONDS_MAX
from tokengate.providers.openai.usage import is_count

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""A transcript up to this size is kept until its end."""

_DONE: Final = "transcript.text.done"


def transcript_meter(content_type: str) -> Meter:
    """The meter for an answer of a content type."""
    return (
        ClosingEventMeter(_DONE, read_transcript) if content_type.startswith("text/event-stream") else TranscriptMeter()
    )


class TranscriptMeter(WholeBody):
    """A transcript that is one document."""

    def __init__(self) -> None:
        super().__init__(BODY_BYTES_MAX)

    def reading(self) -> Reading:
        usage = read_transcript(parse_object(self.content))
        return Reading(usage, self.finished, "", self.bytes_seen, hidden_output=usage is None)


def read_transcript(document: dict[str, Any] | None) -> Usage | None:
    """The seconds or the tokens that a transcript says it used; None if it has no figures that can be believed."""
    if document is None:
        return None
    usage = document.get("usage")
    if usage is None:
        return _of_seconds(document.get("duration"))
    if type(usage) is not dict:
        return None
    if usage.get("type") == "duration":
        return _of_seconds(usage.get("seconds"))
    details = usage.get("input_token_details") or {}
    heard = details.get("audio_tokens") or 0 if type(details) is dict else None
    tokens_in, tokens_out = usage.get("input_tokens"), usage.get("output_tokens")
    if not (is_count(tokens_in) and is_count(tokens_out) and is_count(heard)) or not tokens_in:
        return None
    return Usage(tokens_in, tokens_out, input_audio_tokens=heard)


def _of_seconds(seconds: object) -> Usage | None:
    """Rounded up, where the provider says that it rounds to the nearest."""
    if type(seconds) not in (int, float) or not 0 < seconds <= SECONDS_MAX:  # type: ignore[operator]
        return None
    return Usage(calls=((SECOND, int(-(-seconds // 1))),))  # type: ignore[operator]

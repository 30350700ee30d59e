"""What audio in a chat message is billed, in input tokens: bounds from its length in bytes, nothing is decoded.

User audio costs one token for every 100 ms, assistant audio one for every 50 ms
(https://developers.openai.com/api/docs/guides/realtime-costs; the per-minute prices of the audio models agree). The
duration follows from the length and the fewest bytes that a second can have in the format.
"""

import base64
import binascii
from typing import Final

from tokengate.providers import MalformedRequest, UnpricedFeature

TOKENS_PER_SECOND: Final = 10

MP3_BYTES_PER_SECOND_MIN: Final = 1000
"""8 kbit/s, the lowest bit rate of MPEG audio layer III (ISO/IEC 13818-3, 2.4.2.3)."""

EARLIER_ANSWER_TOKENS_MAX: Final = 16_384
"""What an earlier audio answer, referred to by its id, may have: the maximum output of OpenAI's audio models
(https://developers.openai.com/api/docs/models/gpt-audio)."""

WAV_HEADER_BYTES: Final = 3 * 1024
_PCM: Final = 1
_IEEE_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE


def audio_tokens(data: object, audio_format: object, path: str) -> int:
    """The most input tokens of an `input_audio` part.

    Args:
        data: the audio in base64.
        audio_format: as the request names it.
        path: where the part is, for the message of a refusal.

    Raises:
        MalformedRequest: `data` is not base64.
        UnpricedFeature: a format whose duration has no bound by its length.
    """
    if type(data) is not str or not data.isascii():
        raise MalformedRequest(f"{path}.data must be base64.", f"{path}.data")
    length = len(data) * 3 // 4
    if audio_format == "mp3":
        per_second = MP3_BYTES_PER_SECOND_MIN
    elif audio_format == "wav":
        per_second = _wav_bytes_per_second(data)
        if not per_second:
            raise UnpricedFeature(f"{path} is no PCM WAV, so its duration is not known.", f"{path}.data")
    else:
        raise UnpricedFeature(
            f"Audio of this format has no known duration: send wav or mp3 in {path}.", f"{path}.format"
        )
    return length * TOKENS_PER_SECOND // per_second + 1


def _wav_bytes_per_second(data: str) -> int:
    try:
        header = base64.b64decode(data[: WAV_HEADER_BYTES // 3 * 4], validate=True)
    except (binascii.Error, ValueError):
        return 0
    return wav_bytes_per_second(header)


def wav_bytes_per_second(header: bytes) -> int:
    """From the format chunk: sample rate x channels x bytes a sample; 0 if there is none or it is compressed.

    Of several the first one counts, as it does for ffmpeg (`libavformat/wavdec.c`).
    """
    if not header.startswith(b"RIFF") or header[8:12] != b"WAVE":
        return 0
    position = 12
    while position + 24 <= len(header):
        length = int.from_bytes(header[position + 4 : position + 8], "little")
        if header[position : position + 4] == b"fmt ":
            chunk = header[position + 8 :]
            codec = int.from_bytes(chunk[0:2], "little")
            if codec == _EXTENSIBLE:  # the codec is the beginning of the sub-format's GUID
                codec = int.from_bytes(chunk[24:26], "little")
            if codec not in {_PCM, _IEEE_FLOAT}:
                return 0
            channels, rate = int.from_bytes(chunk[2:4], "little"), int.from_bytes(chunk[4:8], "little")
            return channels * rate * int.from_bytes(chunk[14:16], "little") // 8
        position += 8 + length + length % 2
    return 0

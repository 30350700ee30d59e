"""What speech used: told in the event that ends a stream of events, else measured by how long the sound is.

Sound alone says nothing of its tokens, but it is made of so many a second. How long it is follows from its bytes in the
formats whose pieces say how long they are; of the others the hold is charged. Bytes pass as they came, none are kept.
"""

from typing import Any, Final

from tokengate.domain import Usage
from tokengate.providers import Reading
from tokengate.providers.openai.audio import wav_bytes_per_second
from tokengate.providers.openai.closing import ClosingEventMeter
from tokengate.providers.openai.usage import is_count

TOKENS_PER_SECOND: Final = 21
"""1,250 a minute, which is what the documented $0.015 a minute of gpt-4o-mini-tts comes to at $12 a million
(https://developers.openai.com/api/docs/pricing, "Speech"), rounded up to the second."""
PCM_BYTES_PER_SECOND: Final = 48_000
"""24 kHz, 16 bits, one channel (https://developers.openai.com/api/docs/guides/text-to-speech, "Supported output
formats")."""

_DONE: Final = "speech.audio.done"
_WAV_HEADER_BYTES: Final = 64
_KBITS_1: Final = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2: Final = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_HERTZ: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_FRAME_HEAD_BYTES: Final = 4
_ID3_HEAD_BYTES: Final = 10


class KnownMeter:
    """An answer whose cost was known before it."""

    __slots__ = ("_finished", "_usage")

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._finished = False

    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def finish(self) -> bytes:
        self._finished = True
        return b""

    def reading(self) -> Reading:
        return Reading(self._usage, self._finished, "", 0)


def speech_stream_meter() -> ClosingEventMeter:
    """The meter for speech as events (`speech.audio.delta`, `speech.audio.done`)."""
    return ClosingEventMeter(_DONE, _read_speech)


def _read_speech(document: dict[str, Any]) -> Usage | None:
    usage = document.get("usage")
    told, spoken = (usage.get("input_tokens"), usage.get("output_tokens")) if type(usage) is dict else (None, None)
    if is_count(told) and is_count(spoken) and told and spoken:
        return Usage(told, spoken, output_audio_tokens=spoken)
    return None


class SoundMeter:
    """Speech as sound of a format; `told` are the most tokens that it was made from."""

    __slots__ = ("_finished", "_length", "_told")

    def __init__(self, sound: str, told: int) -> None:
        self._length: Mp3Length | PcmLength | None = None
        if sound == "mp3":
            self._length = Mp3Length()
        elif sound in ("pcm", "wav"):
            self._length = PcmLength()
        self._told = told
        self._finished = False

    def feed(self, chunk: bytes) -> bytes:
        if self._length is not None:
            self._length.feed(chunk)
        return chunk

    def finish(self) -> bytes:
        self._finished = True
        return b""

    def reading(self) -> Reading:
        ms = self._length.ms if self._length is not None and self._finished else None
        if not ms:
            # It broke off while more was made, or how long it is cannot be told.
            return Reading(None, self._finished, "", 0, hidden_output=True)
        spoken = -(-ms * TOKENS_PER_SECOND // 1000)
        usage = Usage(self._told, spoken, output_audio_tokens=spoken)
        return Reading(usage, self._finished, "", 0, assumed=True)


class PcmLength:
    """How long plain samples are, with the head of a WAV or without one."""

    __slots__ = ("_bytes", "_head")

    def __init__(self) -> None:
        self._head = b""
        self._bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._bytes += len(chunk)
        if len(self._head) < _WAV_HEADER_BYTES:
            self._head += chunk[: _WAV_HEADER_BYTES - len(self._head)]

    @property
    def ms(self) -> int:
        return -(-self._bytes * 1000 // (wav_bytes_per_second(self._head) or PCM_BYTES_PER_SECOND))


class Mp3Length:
    """How long an MP3 is, by the heads of its frames (ISO/IEC 11172-3, 2.4.1.3, and 13818-3)."""

    __slots__ = ("_carry", "_is_lost", "_skip", "_us")

    def __init__(self) -> None:
        self._carry = b""
        self._skip = 0
        """Bytes of the frame that is passing."""
        self._us = 0
        self._is_lost = False

    def feed(self, chunk: bytes) -> None:
        if self._is_lost:
            return
        if self._skip >= len(chunk):
            self._skip -= len(chunk)
            return
        data = self._carry + chunk[self._skip :]
        position = 0
        while len(data) - position >= _ID3_HEAD_BYTES:
            step = self._step(data, position)
            if not step:
                self._is_lost = True
                return
            position += step
        self._skip = max(0, position - len(data))
        self._carry = data[position:]

    @property
    def ms(self) -> int | None:
        """None if it is no MP3, or not all of it."""
        return -(-self._us // 1000) if self._us and not self._is_lost else None

    def _step(self, data: bytes, position: int) -> int:
        """How long a frame or a tag is, in bytes; 0 if there is none."""
        if data.startswith(b"ID3", position):
            a, b, c, d = data[position + 6 : position + _ID3_HEAD_BYTES]
            return _ID3_HEAD_BYTES + (a << 21 | b << 14 | c << 7 | d)
        sync, second, third = data[position : position + _FRAME_HEAD_BYTES - 1]
        version, rate = second >> 3 & 3, third >> 2 & 3
        if sync != 0xFF or second & 0xE6 != 0xE2 or version == 1 or rate == 3:
            return 0
        kbits = (_KBITS_1 if version == 3 else _KBITS_2)[third >> 4] if third >> 4 < 15 else 0
        hertz, samples = _HERTZ[version][rate], 1152 if version == 3 else 576
        if not kbits:
            return 0
        self._us += -(-samples * 1_000_000 // hertz)
        return samples // 8 * kbits * 1000 // hertz + (third >> 1 & 1)

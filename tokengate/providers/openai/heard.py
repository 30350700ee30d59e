"""How long a file of sound is at the most, in seconds, from its bytes; nothing of it is decoded.

What a provider decodes decides what it bills. Of a WAV with plain samples the length follows from its bytes; an MP3 has
no lower bit rate than 8 kbit/s. The other formats can say silence in next to nothing, so that no length of theirs has a
bound in bytes: they are taken to have at least `BYTES_PER_SECOND_MIN`, which is less than any of their encoders is made
for, and to be as long as their own heads say if that is more. Only a file that was made to deceive is longer; what is
billed for it beyond its hold is recorded as debt, which stops its session.
"""

from typing import Final

from tokengate.providers.openai.audio import MP3_BYTES_PER_SECOND_MIN, WAV_HEADER_BYTES, wav_bytes_per_second

BYTES_PER_SECOND_MIN: Final = 500
"""4 kbit/s. Opus begins at 6 kbit/s (RFC 6716, 2.1.1), AAC and Vorbis above it."""
SECONDS_MAX: Final = 10**7
"""What a head says beyond this (115 days) is a fault of the file."""

_OGG_TAIL_BYTES: Final = 128 * 1024
"""More than a page of Ogg has (RFC 3533, 6)."""
_OPUS_HERTZ: Final = 48_000
_MPEG_SYNC: Final = 0xE0
_MPEG_LAYER: Final = 0x06
"""Two bits that are 0 in AAC, which begins in the same way."""
_TAG_HEAD_BYTES: Final = 10


def seconds_max(body: bytes, start: int, end: int) -> int:
    """The most seconds that the file within a body is billed as."""
    start = _after_tag(body, start, end)
    head = body[start : min(end, start + WAV_HEADER_BYTES)]
    length = end - start
    wav = wav_bytes_per_second(head)
    if wav:
        return length // wav + 1
    if len(head) > 1 and head[0] == 0xFF and head[1] & _MPEG_SYNC == _MPEG_SYNC and head[1] & _MPEG_LAYER:
        return length // MP3_BYTES_PER_SECOND_MIN + 1
    return max(length // BYTES_PER_SECOND_MIN, min(_declared_seconds(body, head, start, end), SECONDS_MAX)) + 1


def _after_tag(body: bytes, start: int, end: int) -> int:
    """Where the sound begins, behind an ID3 tag if there is one (https://id3.org/id3v2.4.0-structure, 3.1)."""
    if not body.startswith(b"ID3", start) or end - start < _TAG_HEAD_BYTES:
        return start
    size = 0
    for byte in body[start + 6 : start + _TAG_HEAD_BYTES]:
        size = size << 7 | byte & 0x7F
    return min(end, start + _TAG_HEAD_BYTES + size)


def _declared_seconds(body: bytes, head: bytes, start: int, end: int) -> int:
    """What the head of a file says of its length; 0 if it says nothing that is understood."""
    if head.startswith(b"fLaC") and len(head) >= 26:  # RFC 9639, 8.2
        packed = int.from_bytes(head[18:26])
        hertz, samples = packed >> 44, packed & (2**36 - 1)
        return -(-samples // hertz) if hertz else 0
    if head.startswith(b"OggS") and b"OpusHead" in head[:100]:  # RFC 7845, 4
        page = body.rfind(b"OggS", max(start, end - _OGG_TAIL_BYTES), end)
        granule = int.from_bytes(body[page + 6 : page + 14], "little", signed=True)
        return max(0, granule) // _OPUS_HERTZ + 1
    if head[4:8] == b"ftyp":  # ISO/IEC 14496-12, 8.2.2
        return _movie_seconds(body, start, end)
    return 0


def _movie_seconds(body: bytes, start: int, end: int) -> int:
    position = body.find(b"mvhd", start, end)
    if position < 0 or position + 36 > end:
        return 0
    box = body[position + 4 : position + 36]
    if box[0] == 1:
        scale, length = int.from_bytes(box[20:24]), int.from_bytes(box[24:32])
    else:
        scale, length = int.from_bytes(box[12:16]), int.from_bytes(box[16:20])
    return -(-length // scale) if scale else 0

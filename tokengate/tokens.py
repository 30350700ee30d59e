"""How many tokens a text really is, and how large an image: for when a bound in bytes is too wide.

Counting is rare (only a call that does not fit its budget by its length in bytes is counted), slow (milliseconds) and
large (85 MB for a vocabulary), so nothing is imported or loaded before the first count, and all of it happens in
threads, off the event loop. The vocabularies are files that TokenGate ships; this module never downloads anything.
"""

import asyncio
import base64
import gzip
import hashlib
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tokengate.resources import encoding_file

if TYPE_CHECKING:
    import tiktoken

Count = Callable[[str], int]
"""Counts the tokens of one text."""

THREADS_MAX: Final = 2
"""Counting is CPU-bound: more threads than this would take the processor from the event loop."""

WAITING_MAX: Final = 256
"""Counts that may wait for a thread. One more is refused, and its call is priced by its bytes."""

PIECE_CHARS_MAX: Final = 8192
"""The longest piece of text that is given to the tokenizer at once."""


class CountError(RuntimeError):
    """The tokens cannot be counted now; a bound in bytes still holds."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What makes an encoding besides its ranks, as `tiktoken_ext/openai_public.py` of tiktoken 0.14 defines it."""

    sha256: str
    """The digest of the uncompressed vocabulary that tiktoken itself demands of what it downloads."""
    pattern: str
    special_tokens: dict[str, int]


_VOCABULARIES: Final = {
    "cl100k_base": _Vocabulary(
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        pattern=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
            r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
        ),
        special_tokens={
            "<|endoftext|>": 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "o200k_base": _Vocabulary(
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        pattern="|".join(  # noqa: FLY002  one alternative a line, as tiktoken writes it
            [
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
                r"\p{N}{1,3}",
                r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                r"\s*[\r\n]+",
                r"\s+(?!\S)",
                r"\s+",
            ]
        ),
        special_tokens={"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    ),
}

ENCODINGS: Final = frozenset(_VOCABULARIES)
"""The names of the encodings that can be counted with."""


class Tokenizer:
    """The loaded encodings and the threads that count with them. One per process; safe to use from many tasks."""

    def __init__(self, threads_max: int = THREADS_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="tokens")
        self._under_way = 0
        self._under_way_max = threads_max + waiting_max
        self._loading = threading.Lock()
        self._loaded: dict[str, tiktoken.Encoding] = {}

    async def count(self, encoding: str, work: Callable[[Count], int]) -> int:
        """Run `work` in a thread, with a function that counts the tokens of a text by the encoding of this name.

        Special tokens that are written out in a text are counted as the ordinary text they are to the provider.

        Raises:
            CountError: no such encoding, its file is missing or not the one expected, or too many counts are waiting.
        """
        if encoding not in _VOCABULARIES:
            raise CountError(f"there is no vocabulary for the encoding {encoding!r}")
        if self._under_way >= self._under_way_max:
            raise CountError(f"{self._under_way} texts are being counted already")
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._work, encoding, work)
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Start no further count; what is being counted ends on its own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, name: str, work: Callable[[Count], int]) -> int:
        encoding = self._loaded.get(name)
        if encoding is None:
            with self._loading:
                encoding = self._loaded.get(name)
                if encoding is None:
                    encoding = self._loaded[name] = load_encoding(name)
        return work(lambda text: count_text(encoding, text))


def load_encoding(name: str) -> "tiktoken.Encoding":
    """Build an encoding from its shipped vocabulary; takes a third of a second.

    Raises:
        CountError: the file is missing, unreadable, or not the vocabulary that tiktoken expects.
    """
    import tiktoken  # noqa: PLC0415  a sidecar that never counts must not pay for it

    vocabulary = _VOCABULARIES[name]
    try:
        content = gzip.decompress(encoding_file(name).read_bytes())
    except (OSError, EOFError) as error:
        raise CountError(f"the vocabulary of {name} cannot be read: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != vocabulary.sha256:
        raise CountError(f"the vocabulary of {name} has the sha256 {digest}, expected {vocabulary.sha256}")
    return tiktoken.Encoding(
        name,
        pat_str=vocabulary.pattern,
        mergeable_ranks={
            base64.b64decode(token): int(rank)
            for token, rank in (line.split() for line in content.splitlines() if line)
        },
        special_tokens=vocabulary.special_tokens,
    )


# Characters that have been letters since the first versions of Unicode, so that every regex engine agrees on them.
_LETTER: Final = (
    r"A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u03b1-\u03c9\u0410-\u044f\u05d0-\u05ea"
    r"\u3041-\u3094\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
_PUNCTUATION: Final = r"!\"#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~，。、！？；：（）「」『』"
_BOUNDARY: Final = rf"(?:\S(?=[ \t])|[{_LETTER}](?=[0-9\r\n{_PUNCTUATION}])|[0-9](?=[{_LETTER}\r\n{_PUNCTUATION}]))"
_FIRST_BOUNDARY: Final = re.compile(_BOUNDARY)
_LAST_BOUNDARY: Final = re.compile(rf"(?s:.*){_BOUNDARY}")


def count_text(encoding: "tiktoken.Encoding", text: str, piece_chars_max: int = PIECE_CHARS_MAX) -> int:
    """The tokens of a text: exact, but for runs without any word boundary, which count as one token a byte.

    tiktoken first splits a text into words by a pattern and then merges bytes within each word. On one enormous word
    the merging has been quadratic (github.com/openai/tiktoken/issues/195) and the pattern has overflowed the stack
    (issues/245), so a long text is given to it in pieces. It is not enough to cut anywhere: merging is greedy, so two
    halves of a word may be fewer tokens than the word ("lea" and "precedented" are one each, together they are five).
    Pieces are therefore cut only where the patterns of both encodings end a word whatever comes before or after: behind
    any visible character before a space, and between a letter, a digit and a punctuation mark (but never before an
    apostrophe, which may continue a word). There the counts of the pieces add up to the count of the whole. A run that
    has no such place is not encoded at all; as every token is at least one byte, its bytes bound its tokens. So the sum
    is never below the count of the whole text.
    """
    total = 0
    start = 0
    while len(text) - start > piece_chars_max:
        cut = _LAST_BOUNDARY.match(text, start, start + piece_chars_max + 1)
        if cut is not None:
            total += len(encoding.encode_ordinary(text[start : cut.end()]))
        else:
            cut = _FIRST_BOUNDARY.search(text, start + piece_chars_max)
            total += len(text[start : cut.end() if cut else len(text)].encode("utf-8", "surrogatepass"))
        start = cut.end() if cut else len(text)
    return total + len(encoding.encode_ordinary(text[start:]))


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the first bytes of a PNG, JPEG, GIF or WebP file declare; None if they do not.

    The end of the file is not needed. A JPEG declares its size behind its metadata, which may be long.
    """
    size = None
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        if data[12:16] == b"IHDR" and len(data) >= 24:
            size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    elif data.startswith(b"\xff\xd8"):
        size = _jpeg_size(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        if len(data) >= 10:
            size = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP" and len(data) >= 30:
        size = _webp_size(data)
    return size if size and size[0] and size[1] else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk over the segments to the first frame header (ITU-T T.81, B.2.2), which holds height before width."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return int.from_bytes(data[position + 7 : position + 9]), int.from_bytes(data[position + 5 : position + 7])
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The first chunk's header (https://developers.google.com/speed/webp/docs/riff_container)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None

"""Digests of texts that do not depend on what changes by itself.

Whitespace never matters, nor does the order of members where a text is JSON. In what programs write - system prompts
and what tools give - timestamps, random ids, addresses in memory and how long something took count as equal to each
other. In what people write they are what is said ("Order ... is late"), unless a word before them says otherwise
("Current time: ..."). Other numbers, names and hashes are contents everywhere: a tool whose result changes is in no
loop.
"""

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from enum import IntEnum
from hashlib import sha1
from itertools import islice
from typing import Any, Final
from zlib import crc32

import orjson

EXACT_BYTES_MAX: Final = 16 * 1024
"""A longer text is looked at closely only at its two ends; between them every byte counts."""

LOOKED_AT_BYTES_MAX: Final = 8 * 1024
"""How much of a request's new texts is looked at closely, from its end back: what one exchange adds is. Of what this
gate has not seen and the request has long had, every byte counts. Where a text is seen again, it counts as it did."""

CACHED_MIN: Final = 32
CACHED_MAX: Final = 64 * 1024
"""The lengths of texts that are worth remembering."""

CACHE_BYTES_MAX: Final = 4 * 1024 * 1024
"""How much is remembered: a conversation repeats with each call what was said before."""

CHARACTER_BYTES_MAX: Final = 4
CACHED_BYTES_EACH: Final = 192
"""What a character takes at the most, and what remembering a text takes beside it."""

REPLACED_MAX: Final = 64
LABELLED_MAX: Final = 16
"""How much of each kind is looked at in one text, of programs and of people: a log has no end."""

LABEL_BYTES_MAX: Final = 32
"""How far before a timestamp or an id the word may stand that says what it is."""

DIGEST_BYTES: Final = 6

_MASK: Final = 256**DIGEST_BYTES - 1
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_JSON_BEGINS: Final = frozenset({"{", "["})
_SPACE: Final = b" \t\n\r\f\v"
_ZERO: Final = b"0"[0]
_SHAPE: Final = bytes.maketrans(b"123456789", b"0" * 9)
"""What digits look like. Where a timestamp may be is then found by searching for a text, not by trying everywhere."""

_TIME: Final = re.compile(rb"0:00(:00(?:[.,]0+)?)?( ?[AaPp]\.?[Mm]\b)?(?:Z| ?UTC|[+-]00:?00)?")
_DATE: Final = re.compile(rb"(?:0000-00-00|00/00/0000)[T ]")
_DATE_BYTES: Final = 11
_EPOCH: Final = re.compile(rb"00000000000*(?:\.0+)?")
_EPOCH_DIGITS: Final = frozenset({10, 13, 16, 19})
_EPOCH_BEGINS: Final = (b"15", b"16", b"17", b"18", b"19", b"20", b"21")
"""Seconds, milli-, micro- or nanoseconds since the epoch, between the years 2017 and 2039."""

_UUID_END: Final = re.compile(rb"-[1-8][0-9a-fA-F]{3}-[089abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")
_UUID_BEGIN: Final = re.compile(rb"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}")
_UUID_BEGIN_BYTES: Final = 13

_ADDRESS: Final = re.compile(rb"0x[0-9a-fA-F]{6,16}\b")
_TOOK: Final = re.compile(rb"\.\d+ ?(?:s|ms|secs?|seconds)\b")
_TOOK_BEGIN: Final = re.compile(rb"\d*\Z")

_COUNTED: Final = re.compile(
    rb"\b(?:attempt|retry)(?:[ _](?:no\.?|number|count))?[ #:]{1,2}\d+(?: ?(?:/|of) ?\d+)?", re.IGNORECASE
)
"""Which attempt it is: whoever counts them has learnt nothing from those before."""

_ID_SIGNS: Final = (b"id=", b"id:", b"ID=", b"ID:", b"Id=", b"Id:")
_ID: Final = re.compile(rb"[ #]{0,2}[\"']?((?=[A-Za-z_-]*\d)[\w-]{8,64})")
_NAMED_ID: Final = b'"id":"'
_RANDOM_ID: Final = re.compile(rb'[A-Za-z]{0,12}[-_]?[0-9a-f]{8,64}"')
"""Ids as programs write them. A result of the same call that differs by its id alone says the same."""

STAMPED_BYTES_MAX: Final = 2
"""How far from its beginning a person's text may have its timestamp: within brackets."""

SAID_BYTES_MIN: Final = 8
"""How much must follow it; a text that is nothing but a time is about that time."""

_LABEL: Final = re.compile(
    rb"(?:time|now|clock|timestamp|today|trace|request|correlation|span|run|session)(?![a-z])[\w .]{0,12}\W{0,4}\Z",
    re.IGNORECASE,
)
"""Words that say that what follows is not what is talked about."""

_PASSING: Final = re.compile(
    rb'"(?:[xX][-_])?(?:(?:request|trace|span|correlation|run|session|event|message|operation)[-_]?[iI][dD]'
    rb"|attempts?|retry|retries|(?:attempt|retry)_?(?:number|count)|timestamp|ts|(?:elapsed|duration|took|latency|response_time|runtime)(?:_?(?:ms|s|sec|seconds|us|ns))?"
    rb'|(?:server|current|fetched|checked|generated|retrieved|queried)_?(?:time|at))":(?:"[^"]*"|-?[0-9.eE+-]+)'
)
"""Members of JSON that tell one answer of a tool from the next and are not what was asked for."""

_IDS: Final = frozenset(
    {"id", "tool_call_id", "tool_use_id", "call_id", "cache_control", "signature", "thoughtSignature"}
)
"""Members of messages, and of the parts that they consist of, that say nothing."""


class By(IntEnum):
    """Who wrote a text, and so what of it may change without a meaning."""

    PERSON = 0
    PROGRAM = 1
    MODEL = 2
    """Nothing: what a model calls for, or has said, it has chosen."""


_PERSON: Final = By.PERSON
_MODEL: Final = By.MODEL
"""Looked up in their class they would take as long as all the rest of a short text."""


class Digests:
    """Digests of texts, with a memory for those that are said again and again. Bounded by `CACHE_BYTES_MAX`."""

    def __init__(self) -> None:
        self._known: tuple[dict[str | bytes, bytes], ...] = tuple({} for _ in By)
        self._size = 0
        self._closely = LOOKED_AT_BYTES_MAX
        """How much of this request may still be looked at closely."""

    def begin(self) -> None:
        """Another request."""
        self._closely = LOOKED_AT_BYTES_MAX

    def text(self, text: str, by: By, *, always: bool = False) -> bytes:
        """The digest of a text; one that is JSON is read as such, for the order of members says nothing.

        `always`: it is looked at closely, however much has been.
        """
        size = len(text)
        if size < CACHED_MIN:
            return digest(*_written(text), by)
        known = self._known[by].get(text) if size <= CACHED_MAX else None
        if known is not None:
            return known
        if always or self._closely > 0 or by is _MODEL:
            self._closely -= min(size, EXACT_BYTES_MAX) * (not always and by is not _MODEL)
            found = digest(*_written(text), by)
        else:
            found = of_digests(text.encode())
        return self._remember(text, found, by) if size <= CACHED_MAX else found

    def value(self, value: Any, by: By, *, always: bool = False) -> bytes:  # noqa: ANN401 - whatever JSON holds
        """The digest of a value from JSON."""
        if type(value) is str:
            return self.text(value, by, always=always)
        packed = _packed(value)
        size = len(packed)
        known = self._known[by].get(packed) if size <= CACHED_MAX else None
        if known is not None:
            return known
        if always or self._closely > 0 or by is _MODEL:
            self._closely -= min(size, EXACT_BYTES_MAX) * (not always and by is not _MODEL)
            found = digest(packed, True, by)
        else:
            found = of_digests(packed)
        return self._remember(packed, found, by) if size <= CACHED_MAX else found

    def _remember(self, text: str | bytes, found: bytes, by: By) -> bytes:
        self._size += CACHED_BYTES_EACH + len(text) * (1 if type(text) is bytes else CHARACTER_BYTES_MAX)
        if self._size > CACHE_BYTES_MAX:
            # Whatever is still being said comes back with the next call.
            for known in self._known:
                known.clear()
            self._size = 0
        self._known[by][text] = found
        return found


def digest(text: bytes, is_json: bool, by: By) -> bytes:
    """The digest of a text in UTF-8."""
    if len(text) > EXACT_BYTES_MAX:
        half = EXACT_BYTES_MAX // 2
        middle = text[half:-half]
        text = text[:half] + b"%x %x" % (crc32(middle), len(middle)) + text[-half:]
    if by is not _MODEL:
        text = _constant(text, is_json, by)
    return sha1(text.translate(None, _SPACE), usedforsecurity=False).digest()[:DIGEST_BYTES]


def of_digests(*digests: bytes) -> bytes:
    """The digest of digests, and of names, in their order."""
    return sha1(b" ".join(digests), usedforsecurity=False).digest()[:DIGEST_BYTES]


def total(digests: Iterable[bytes]) -> bytes:
    """The digest of digests in whatever order."""
    return (sum(map(int.from_bytes, digests)) & _MASK).to_bytes(DIGEST_BYTES)


def encoded(found: bytes) -> str:
    """A digest in characters that need quotes nowhere."""
    return b2a_base64(found, newline=False).translate(_URLSAFE).decode()


def without_ids(block: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """A message, or a part of one, without the members that only name it."""
    if type(block) is not dict or _IDS.isdisjoint(block):
        return block
    return {name: value for name, value in block.items() if name not in _IDS}


def _written(text: str) -> tuple[bytes, bool]:
    """A text in UTF-8, in one way if it is JSON; and whether it is."""
    if text[:1] in _JSON_BEGINS and len(text) <= EXACT_BYTES_MAX:
        try:
            return _packed(orjson.loads(text)), True
        except orjson.JSONDecodeError:
            return text.encode(), False
    return text.encode(), False


def _packed(value: Any) -> bytes:  # noqa: ANN401 - whatever JSON holds
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # It reads more levels than it writes; what has so many is no conversation.
        return b"?"


# --- what changes by itself ---


def _constant(text: bytes, is_json: bool, by: By) -> bytes:
    most = LABELLED_MAX if by is _PERSON else REPLACED_MAX
    shape = text.translate(_SHAPE)
    if not is_json and b"0" not in shape:
        # Whatever changes by itself has a digit, but for some members of JSON.
        return text
    spans: list[tuple[int, int]] = []
    if b"0:00" in shape:
        spans += islice(_times(shape), most)
    if b"0000000000" in shape:
        spans += islice(_epochs(text, shape), most)
    stamps = len(spans)
    if b"-" in text:
        spans += islice(_uuids(text), most)
    if by is _PERSON:
        spans = spans and [
            span
            for place, span in enumerate(spans)
            if (place < stamps and span[0] <= STAMPED_BYTES_MAX and span[1] + SAID_BYTES_MIN <= len(text))
            or _LABEL.search(text, max(0, span[0] - LABEL_BYTES_MAX), span[0])
        ]
    else:
        spans += islice(_labelled_ids(text), most)
        if b"0x" in text:
            spans += islice((found.span() for found in _ADDRESS.finditer(text)), most)
        if b"." in text:
            spans += islice(_took(text), most)
        if is_json:
            spans += islice((found.span() for found in _PASSING.finditer(text)), most)
            spans += islice(_random_ids(text), most)
    if b"ttempt" in text or b"etry" in text:
        spans += islice((found.span() for found in _COUNTED.finditer(text)), most)
    return _without(text, spans) if spans else text


def _without(text: bytes, spans: list[tuple[int, int]]) -> bytes:
    spans.sort(key=lambda span: (span[0], -span[1]))
    pieces: list[bytes] = []
    done = 0
    for start, end in spans:
        if start >= done:
            pieces += (text[done:start], b"*")
            done = end
    pieces.append(text[done:])
    return b"".join(pieces)


def _times(shape: bytes) -> Iterator[tuple[int, int]]:
    """Times of day to the second, or with a.m. or p.m., or after a date, which then is a part of it."""
    for found in _TIME.finditer(shape):
        start, end = found.span()
        if start and shape[start - 1] == _ZERO:
            start -= 1
        if start >= _DATE_BYTES and _DATE.match(shape, start - _DATE_BYTES):
            yield start - _DATE_BYTES, end
        elif found.lastindex:
            yield start, end


def _epochs(text: bytes, shape: bytes) -> Iterator[tuple[int, int]]:
    for found in _EPOCH.finditer(shape):
        start, end = found.span()
        digits = end - start if (point := text.find(b".", start, end)) < 0 else point - start
        if digits in _EPOCH_DIGITS and text.startswith(_EPOCH_BEGINS, start) and text[start - 1 : start] != b".":
            yield start, end


def _uuids(text: bytes) -> Iterator[tuple[int, int]]:
    for found in _UUID_END.finditer(text):
        start = found.start() - _UUID_BEGIN_BYTES
        if start >= 0 and _UUID_BEGIN.match(text, start):
            yield start, found.end()


def _labelled_ids(text: bytes) -> Iterator[tuple[int, int]]:
    for sign in _ID_SIGNS:
        at = text.find(sign)
        while at >= 0:
            found = None if sign.islower() and text[at - 1 : at].isalpha() else _ID.match(text, at + len(sign))
            if found is not None:
                yield found.span(1)
            at = text.find(sign, at + 1)


def _random_ids(text: bytes) -> Iterator[tuple[int, int]]:
    at = text.find(_NAMED_ID)
    while at >= 0:
        at += len(_NAMED_ID)
        found = _RANDOM_ID.match(text, at)
        if found is not None:
            yield found.span()
        at = text.find(_NAMED_ID, at)


def _took(text: bytes) -> Iterator[tuple[int, int]]:
    """How long something took, in seconds with decimals, as test runners say it."""
    for found in _TOOK.finditer(text):
        before = _TOOK_BEGIN.search(text, max(0, found.start() - 6), found.start())
        yield before.start() if before else found.start(), found.end()

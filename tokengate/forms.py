"""Forms (multipart/form-data), read so that what is priced is what the provider reads; a body is never changed.

Readers of forms differ: some take what stands before the first boundary, some decode a part that says it is encoded,
some take the first field of a name and some the last. So only one way of writing a form is taken, that of RFC 7578 as
the official SDKs write it, in which there is nothing to differ about; any other is refused with the reason. A file is
found by its place in the body and never copied.
"""

import re
from typing import Final, NamedTuple

from tokengate.bodies import MalformedRequest

PARTS_MAX: Final = 128
PART_HEAD_BYTES_MAX: Final = 4 * 1024
FIELD_BYTES_MAX: Final = 4 * 1024 * 1024
"""The longest text field; files are bounded by the body alone."""
NAME_CHARS_SHOWN: Final = 100

_MULTIPART: Final = re.compile(rb"multipart/form-data\s*(;.*)", re.IGNORECASE)
_PARAMETER: Final = re.compile(rb';\s*([A-Za-z]+)=(?:"([^"\\]*)"|([^\s";,]+))\s*')
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046, 5.1.1."""
_DISPOSITION: Final = re.compile(
    rb"form-data\s*;\s*name=\"([^\"\\\r\n]{1,256})\""
    rb"(\s*;\s*filename=\"[^\"\r\n]*\")?(\s*;\s*filename\*=[^\s\";]*)?\s*",
    re.IGNORECASE,
)
_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLAIN_ENCODINGS: Final = frozenset({b"binary", b"8bit", b"7bit"})
_LINE_END: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"
_LAST: Final = b"--"


class Part(NamedTuple):
    """One part of a form, by where its content stands in the body."""

    name: str
    is_file: bool
    start: int
    end: int

    @property
    def bytes_long(self) -> int:
        return self.end - self.start


class Form:
    """A form's parts, in their order."""

    __slots__ = ("body", "parts")

    def __init__(self, body: bytes, parts: list[Part]) -> None:
        self.body = body
        self.parts = parts

    def files(self, name: str) -> list[Part]:
        """The parts that are files of a name, also as items of a list (`image[]`)."""
        return [part for part in self.parts if part.is_file and part.name in (name, f"{name}[]")]

    def texts(self) -> dict[str, str]:
        """The fields that are text, by name; of a list of them (`include[]`) the last.

        Raises:
            MalformedRequest: one is no UTF-8, or longer than `FIELD_BYTES_MAX`.
        """
        found: dict[str, str] = {}
        for part in self.parts:
            if part.is_file:
                continue
            if part.bytes_long > FIELD_BYTES_MAX:
                raise MalformedRequest(f"{_shown(part)} is longer than {FIELD_BYTES_MAX} bytes.", _shown(part))
            try:
                found[part.name] = self.body[part.start : part.end].decode()
            except UnicodeDecodeError:
                raise MalformedRequest(f"{_shown(part)} is not UTF-8.", _shown(part)) from None
        return found


def read_form(body: bytes, content_type: bytes) -> Form:
    """Read a body that must be one form.

    Raises:
        MalformedRequest: it is none, has more than `PARTS_MAX` parts, or is one that readers could differ about.
    """
    delimiter = _LAST + _boundary(content_type)
    if not body.startswith(delimiter + _LINE_END):
        raise MalformedRequest("The form must begin with its boundary.")
    separator = _LINE_END + delimiter
    parts: list[Part] = []
    position = len(delimiter)
    while True:
        # At the end of a boundary: a line end and a part, or the end of the form.
        follows = body[position : position + 2]
        if follows == _LAST and body[position + 2 : position + 5] in (b"", _LINE_END):
            return Form(body, parts)
        if follows != _LINE_END:
            raise MalformedRequest("What follows a boundary of the form is neither a part nor its end.")
        if len(parts) == PARTS_MAX:
            raise MalformedRequest(f"The form has more than {PARTS_MAX} parts.")
        position += 2
        head_end = body.find(_HEAD_END, position, position + PART_HEAD_BYTES_MAX)
        if head_end < 0:
            raise MalformedRequest("A part of the form has no head, or one that is too long.")
        start = head_end + len(_HEAD_END)
        end = body.find(separator, start)
        if end < 0:
            raise MalformedRequest("The form is not ended by its boundary.")
        name, is_file = _read_head(body[position:head_end])
        parts.append(Part(name, is_file, start, end))
        position = end + len(separator)


def _boundary(content_type: bytes) -> bytes:
    match = _MULTIPART.fullmatch(content_type)
    given: dict[bytes, bytes] = {}
    rest = match[1] if match is not None else b""
    position = 0
    while position < len(rest):
        parameter = _PARAMETER.match(rest, position)
        if parameter is None or parameter[1].lower() in given:
            break
        given[parameter[1].lower()] = parameter[2] if parameter[2] is not None else parameter[3]
        position = parameter.end()
    boundary = given.pop(b"boundary", b"")
    charset = given.pop(b"charset", b"utf-8").lower()
    if not rest or position < len(rest) or given or charset != b"utf-8" or not _BOUNDARY.fullmatch(boundary):
        raise MalformedRequest("The content-type must be multipart/form-data with one boundary, and in UTF-8.")
    return boundary


def _read_head(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file."""
    lines = [line.partition(b":") for line in head.split(_LINE_END)]
    headers = {name.lower(): value.strip() for name, _, value in lines if _HEADER_NAME.fullmatch(name)}
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if len(headers) < len(lines) or disposition is None or b"\n" in head.replace(_LINE_END, b""):
        raise MalformedRequest("A part of the form needs one content-disposition: form-data, with a quoted name.")
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in _PLAIN_ENCODINGS:
        raise MalformedRequest("A part of the form has a content-transfer-encoding: send it as it is.")
    is_file = disposition[2] is not None or disposition[3] is not None
    kind = headers.get(b"content-type", b"").lower()
    if not is_file and b"charset" in kind and b"utf-8" not in kind:
        raise MalformedRequest("A field of the form is in another charset: send UTF-8.")
    try:
        return disposition[1].decode(), is_file
    except UnicodeDecodeError:
        raise MalformedRequest("The name of a part of the form is not UTF-8.") from None


def _shown(part: Part) -> str:
    return part.name[:NAME_CHARS_SHOWN]

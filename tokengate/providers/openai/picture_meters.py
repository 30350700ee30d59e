"""What images that were made say they used. Bytes pass as they came, and next to none of them are kept.

An answer is megabytes of base64 and one small object, `usage`; a stream has one in the event that completes each image
(`openai/types/images_response.py`, `openai/types/image_gen_completed_event.py`). Within JSON the bytes `"usage":` can
only be a member: in a text its quotes would have backslashes. So they are looked for as the answer passes.
"""

import re
from typing import Any, Final

from tokengate.domain import Usage
from tokengate.providers import Reading
from tokengate.providers.meters import parse_object
from tokengate.providers.openai.usage import is_count

USAGE_BYTES_MAX: Final = 2 * 1024
"""The longest `usage` that is read, from its name to its end."""

_NAME: Final = b'"usage"'
_MEMBER: Final = re.compile(rb'"usage"\s*:\s*')


class PictureMeter:
    """An answer with images, whole or as an event stream."""

    __slots__ = ("_bytes_seen", "_carry", "_found", "_images", "_is_unread", "_streamed", "finished")

    def __init__(self, content_type: str, *, images: int, streamed: bool) -> None:
        self._streamed = streamed or content_type.startswith("text/event-stream")
        self._images = images
        self._carry = b""
        """What may be the beginning of a usage."""
        self._found: list[Usage] = []
        self._is_unread = False
        """There was a usage that cannot be believed."""
        self._bytes_seen = 0
        self.finished = False

    def feed(self, chunk: bytes) -> bytes:
        self._bytes_seen += len(chunk)
        data = self._carry + chunk if self._carry else chunk
        position = data.find(_NAME)
        while position >= 0:
            end = _end_of_usage(data, position)
            if end is None:  # not all of it is here
                self._carry = data[position:]
                return chunk
            if end:
                self._note(data[_MEMBER.match(data, position).end() : end])  # type: ignore[union-attr]
            position = data.find(_NAME, max(end, position + len(_NAME)))
        self._carry = data[-len(_NAME) + 1 :]
        return chunk

    def finish(self) -> bytes:
        self.finished = True
        return b""

    def reading(self) -> Reading:
        found = self._found
        complete = self.finished or (self._streamed and len(found) >= self._images)
        if not found or self._is_unread or not complete:
            return Reading(None, complete, "", self._bytes_seen, hidden_output=True)
        return Reading(_sum(found), complete, "", 0)

    def _note(self, content: bytes) -> None:
        usage = read_image_usage(parse_object(content))
        if usage is None:
            self._is_unread = True
        else:
            self._found.append(usage)


def _end_of_usage(data: bytes, position: int) -> int | None:
    """Where the object ends whose name stands at `position`; 0 if it is none, None if that cannot be told yet."""
    match = _MEMBER.match(data, position)
    if match is None or match.end() == len(data):
        return None if len(data) - position < USAGE_BYTES_MAX and _could_be(data, position) else 0
    if data[match.end()] != 0x7B:  # {
        return 0
    depth = 0
    for at in range(match.end(), min(len(data), position + USAGE_BYTES_MAX)):
        if data[at] == 0x7B:
            depth += 1
        elif data[at] == 0x7D:  # }
            depth -= 1
            if not depth:
                return at + 1
    return None if len(data) - position < USAGE_BYTES_MAX else 0


def _could_be(data: bytes, position: int) -> bool:
    """Whether what follows the name may still become its value."""
    return not data[position + len(_NAME) :].strip(b" \t\r\n:")


def read_image_usage(usage: dict[str, Any] | None) -> Usage | None:
    """The tokens of images by `openai/types/images_response.py`; None if there are none that can be believed.

    Where the output is not told apart it is images, which are the dearer.
    """
    if usage is None:
        return None
    read, made = usage.get("input_tokens_details") or {}, usage.get("output_tokens_details")
    if type(read) is not dict or (made is not None and type(made) is not dict):
        return None
    tokens_in, tokens_out = usage.get("input_tokens"), usage.get("output_tokens")
    images_in, images_out = read.get("image_tokens") or 0, tokens_out if made is None else made.get("image_tokens") or 0
    if not (is_count(tokens_in) and is_count(tokens_out) and is_count(images_in) and is_count(images_out)):
        return None
    if not tokens_in or not tokens_out:
        return None
    return Usage(tokens_in, tokens_out, input_image_tokens=images_in, output_image_tokens=images_out)


def _sum(found: list[Usage]) -> Usage:
    return Usage(
        sum(usage.input_tokens for usage in found),
        sum(usage.output_tokens for usage in found),
        input_image_tokens=sum(usage.input_image_tokens for usage in found),
        output_image_tokens=sum(usage.output_image_tokens for usage in found),
    )

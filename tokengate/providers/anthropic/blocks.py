"""What messages are made of: the content blocks, and how many input tokens those that are not text can be.

A block of a type that is not known here could be anything, also something that is billed by the page, the second or the
container, so it is refused; all others count by the bytes that they are sent in, but for media.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from tokengate.bodies import MalformedRequest, UnpricedFeature
from tokengate.tokens import image_size

IMAGE_TOKENS_MAX: Final = 4_784
"""The most that one image is: larger ones are scaled down first. Of the models that see it at its best, up to 2,576
pixels on the long edge (https://platform.claude.com/docs/en/build-with-claude/vision)."""
_PATCH_PIXELS: Final = 28
"""An image is one token for each patch of 28 by 28 pixels, never less than width x height / 750 (same page)."""

HEADER_CHARS: Final = 4 * 1024
"""How much of an image in base64 is decoded to find its size."""

_BY_ITS_BYTES: Final = frozenset(
    {
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "server_tool_use",
        "search_result",
        "web_search_tool_result",
        "tool_reference",
        "compaction",
        "fallback",
    }
)
"""Blocks of which the model is shown no more than what is sent (`anthropic/types/content_block_param.py`)."""


@dataclass(slots=True)
class Survey:
    """What was found in the messages of a request."""

    messages: int = 0
    media_bytes: int = 0
    """Bytes of the body that are not text."""
    media_tokens: int = 0
    documents: int = 0
    """Documents of which nobody knows how many tokens they are before they are read."""
    images: bool = False
    tools_used: bool = False


def survey(messages: list[Any]) -> Survey:
    """Look at all messages.

    Raises:
        MalformedRequest: one is not a message.
        UnpricedFeature: one has a block that has no price here.
    """
    found = Survey(len(messages))
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if type(message) is not dict or type(message.get("role")) is not str:
            raise MalformedRequest(f"{path} must be an object with a role.", path)
        look_at(message.get("content"), f"{path}.content", found)
    return found


def look_at(content: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    """Look at a text or a list of blocks."""
    if type(content) is str or content is None:
        return
    if type(content) is not list:
        raise MalformedRequest(f"{path} must be a string or a list of content blocks.", path)
    for index, block in enumerate(content):
        _look_at_block(block, f"{path}[{index}]", found)


def _look_at_block(block: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    if type(block) is not dict:
        raise MalformedRequest(f"{path} must be an object.", path)
    kind = block.get("type")
    if kind == "text":
        return
    if kind == "tool_result":
        found.tools_used = True
        look_at(block.get("content"), f"{path}.content", found)
    elif kind == "image":
        found.images = True
        _look_at_image(block.get("source"), f"{path}.source", found)
    elif kind == "document":
        _look_at_document(block.get("source"), f"{path}.source", found)
    elif kind in _BY_ITS_BYTES:
        found.tools_used = found.tools_used or kind != "thinking"
    else:
        raise UnpricedFeature(f"{path} is of the type {kind!r}, which has no price here.", f"{path}.type")


def _look_at_image(source: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    if type(source) is not dict:
        raise MalformedRequest(f"{path} must be an object.", path)
    tokens, data = IMAGE_TOKENS_MAX, source.get("data")
    if source.get("type") == "base64" and type(data) is str and data.isascii():
        found.media_bytes += len(data)
        size = _size(data)
        if size is not None:
            width, height = size
            tokens = min(IMAGE_TOKENS_MAX, -(-width // _PATCH_PIXELS) * -(-height // _PATCH_PIXELS))
    found.media_tokens += tokens


def _size(data: str) -> tuple[int, int] | None:
    start = data[:HEADER_CHARS]
    try:
        return image_size(base64.b64decode(start[: len(start) // 4 * 4]))
    except (binascii.Error, ValueError):
        return None


def _look_at_document(source: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    if type(source) is not dict:
        raise MalformedRequest(f"{path} must be an object.", path)
    kind = source.get("type")
    if kind == "text":
        return
    if kind == "content":
        look_at(source.get("content"), f"{path}.content", found)
        return
    data = source.get("data")
    if kind == "base64" and type(data) is str and data.isascii():
        found.media_bytes += len(data)
    # Its pages are both text and images, and compressed: that a prompt is no larger than the model's window bounds it.
    found.documents += 1

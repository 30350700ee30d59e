"""What a prompt is made of: contents and their parts, and how many input tokens those that are not text can be.

An image in the body counts by its size. Everything else that is not text - sound, video, PDF, files by their address -
may be as long as the model's window, whatever its size in bytes, and is bounded by that.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

from tokengate.bodies import MalformedRequest, UnpricedFeature
from tokengate.providers.gemini.members import items, member, section
from tokengate.tokens import image_size

TILE_TOKENS: Final = 258
"""An image with both sides up to 384 pixels is this, and each tile of a larger one
(https://ai.google.dev/gemini-api/docs/image-understanding, "Technical details")."""
SMALL_PIXELS: Final = 384
TILE_PIXELS_MIN: Final = 256
IMAGE_TOKENS_MIN: Final = 2_240
"""What an image is in the highest resolution that Gemini 3 may be asked for, whatever its size
(https://ai.google.dev/gemini-api/docs/media-resolution)."""
HEADER_CHARS: Final = 256 * 1024
"""How much of an image in base64 is decoded to find its size; a JPEG's comes behind its metadata."""

_TEXTS: Final = frozenset(
    {
        "text", "thought", "thoughtSignature", "thought_signature", "functionCall", "function_call", "functionResponse",
        "function_response", "executableCode", "executable_code", "codeExecutionResult", "code_execution_result",
        "partMetadata", "part_metadata", "videoMetadata", "video_metadata", "mediaResolution", "media_resolution",
        "toolCall", "tool_call", "toolResponse", "tool_response",
    }
)  # fmt: skip
"""Members of a part of which the model is shown no more than what is sent (`google/genai/types.py`, `Part`)."""
_FILES: Final = frozenset({"fileData", "file_data"})


@dataclass(slots=True)
class Survey:
    """What was found in the contents of a request."""

    parts: int = 0
    media_bytes: int = 0
    media_tokens: int = 0
    unbounded: bool = False
    """There is something whose length only the provider can tell."""
    images: bool = False
    audio: bool = False


def survey(contents: list[Any], name: str, found: Survey) -> Survey:
    """Look at contents.

    Raises:
        MalformedRequest: one is not a content.
        UnpricedFeature: one has a part that has no price here.
    """
    for index, content in enumerate(contents):
        look_at(content, f"{name}[{index}]", found)
    return found


def look_at(content: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    """Look at one content; some clients write its text in its place."""
    if type(content) is str or content is None:
        return
    if type(content) is not dict:
        raise MalformedRequest(f"{path} must be an object.", path)
    parts = member(content, "parts")
    for index, part in enumerate([parts] if type(parts) is dict else items(content, "parts")):
        _look_at_part(part, f"{path}.parts[{index}]", found)


def _look_at_part(part: Any, path: str, found: Survey) -> None:  # noqa: ANN401
    if type(part) is not dict:
        raise MalformedRequest(f"{path} must be an object.", path)
    found.parts += 1
    others = part.keys() - _TEXTS
    if not others:
        return
    if others <= _FILES:
        found.unbounded = True
        found.audio = True  # it may be a film
        return
    if others not in ({"inlineData"}, {"inline_data"}):
        name = min(others)
        raise UnpricedFeature(f"{path}.{name} has no price here.", f"{path}.{name}")
    data = section(part, "inlineData")
    kind, content = member(data, "mimeType"), member(data, "data")
    if type(kind) is not str or type(content) is not str or not content.isascii():
        raise MalformedRequest(f"{path}.inlineData must have a mimeType and data in base64.", f"{path}.inlineData")
    found.media_bytes += len(content)
    if kind.startswith("text/"):
        found.media_bytes -= len(content)
    elif kind.startswith("image/"):
        found.images = True
        size = _size(content)
        if size is None:
            found.unbounded = True
        else:
            found.media_tokens += image_tokens(*size)
    else:
        found.unbounded = True
        found.audio = found.audio or kind.startswith(("audio/", "video/"))


def image_tokens(width: int, height: int) -> int:
    """The most that an image of so many pixels is, in tokens, in any resolution that may be asked for."""
    if width <= SMALL_PIXELS and height <= SMALL_PIXELS:
        return max(TILE_TOKENS, IMAGE_TOKENS_MIN)
    side = max(TILE_PIXELS_MIN, min(width, height) * 2 // 3)
    return max(IMAGE_TOKENS_MIN, TILE_TOKENS * -(-width // side) * -(-height // side))


def _size(data: str) -> tuple[int, int] | None:
    start = data[:HEADER_CHARS]
    try:
        return image_size(base64.b64decode(start[: len(start) // 4 * 4]))
    except (binascii.Error, ValueError):
        return None

"""What the messages of a chat hold besides text, and how many tokens their text is.

Text is bounded by the length of the body and needs no look at all; this module looks for what is not bounded by its
length (images, audio) and for what cannot be priced (files, parts that it does not know), and counts the text exactly
when it is asked to.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from tokengate.providers import Count, MalformedRequest, UnpricedFeature
from tokengate.providers.openai.audio import EARLIER_ANSWER_TOKENS_MAX, audio_tokens
from tokengate.providers.openai.images import CONTEXT_TOKENS_MAX, ImageRule, base64_image_size, image_rule

MESSAGE_TOKENS: Final = 5
"""What frames a message, at the most: 3 or 4 tokens, and 1 for a name (https://cookbook.openai.com/examples/
how_to_count_tokens_with_tiktoken, section 6)."""
REPLY_TOKENS: Final = 3
"""Every reply is primed with `<|start|>assistant<|message|>` (the same section)."""
TOOL_TOKENS: Final = 22
"""What frames a tool definition, at the most: 7 to 10 tokens at its beginning and 12 at its end (section 7)."""
REPLAY_TOKENS: Final = 24
"""What frames a replayed call of a tool or its result beyond that, where several were made in parallel and the model is
shown them wrapped into one (measured: about 15, https://community.openai.com/t/1375117)."""
COMMA_TOKENS: Final = 2
"""What separates two values of a schema can be more tokens than its comma in JSON: 3 between two of an enumeration
(section 7), as the model is shown a rendering of the schema and not its JSON."""

_PLAIN_ROLES: Final = ("user", "assistant", "system", "developer")
_TOOL_ROLES: Final = frozenset({"tool", "function"})
_DATA_URL: Final = "data:"
_IMAGE_URL: Final = "data:image/"


class Survey:
    """What was found in the messages of a chat."""

    __slots__ = ("audio", "images", "media_bytes", "media_tokens", "replayed")

    def __init__(self) -> None:
        self.media_bytes = 0
        """Bytes of the body that are base64, and billed by other rules than text."""
        self.media_tokens = 0
        self.images = False
        self.audio = False
        self.replayed = 0
        """How many messages call tools or bring their results."""


def survey(messages: list[Any], model: str) -> Survey:
    """Look through the messages of a chat to a model of this bare name.

    Raises:
        MalformedRequest: a message or its content is not of a shape that the API has.
        UnpricedFeature: it holds something whose cost has no bound here.
    """
    found = Survey()
    for index, message in enumerate(messages):
        if type(message) is not dict:
            raise MalformedRequest(f"messages[{index}] must be an object.", f"messages[{index}]")
        if len(message) == 2 and message.get("role") in _PLAIN_ROLES and type(message.get("content")) is str:
            continue  # a role and a text: nearly every message
        content, role = message.get("content"), message.get("role")
        if content is not None and type(content) is not str:
            _look_at_content(content, f"messages[{index}].content", model, found)
        if type(role) is not str:
            raise MalformedRequest(f"messages[{index}].role must be a string.", f"messages[{index}].role")
        if role in _TOOL_ROLES or "tool_calls" in message or "function_call" in message:
            found.replayed += 1
        if message.get("audio") is not None:
            found.audio = True
            found.media_tokens += EARLIER_ANSWER_TOKENS_MAX
    found.media_tokens = min(found.media_tokens, CONTEXT_TOKENS_MAX)
    return found


def _look_at_content(content: Any, path: str, model: str, found: Survey) -> None:  # noqa: ANN401
    if type(content) is not list:
        raise MalformedRequest(f"{path} must be a string or a list of content parts.", path)
    rule = image_rule(model)
    for index, part in enumerate(content):
        if type(part) is not str and (type(part) is not dict or part.get("type") != "text"):
            _look_at_part(part, f"{path}[{index}]", rule, found)


def _look_at_part(part: Any, path: str, rule: ImageRule, found: Survey) -> None:  # noqa: ANN401
    if type(part) is not dict:
        raise MalformedRequest(f"{path} must be a string or an object.", path)
    kind = part.get("type")
    if kind == "image_url":
        found.images = True
        _look_at_image(part.get("image_url"), f"{path}.image_url", rule, found)
    elif kind == "input_audio":
        audio = part.get("input_audio")
        if type(audio) is not dict:
            raise MalformedRequest(f"{path}.input_audio must be an object.", f"{path}.input_audio")
        found.audio = True
        found.media_tokens += audio_tokens(audio.get("data"), audio.get("format"), f"{path}.input_audio")
        found.media_bytes += len(audio["data"])
    elif kind == "file":
        raise UnpricedFeature(f"{path} is a file: how many tokens it is cannot be known before it is sent.", path)
    elif kind != "refusal":
        raise UnpricedFeature(f"{path} is of the type {kind!r}, which has no price here.", f"{path}.type")


def _look_at_image(image: Any, path: str, rule: ImageRule, found: Survey) -> None:  # noqa: ANN401
    url, detail = (image.get("url"), image.get("detail")) if type(image) is dict else (image, None)
    if type(url) is not str:
        raise MalformedRequest(f"{path}.url must be a string.", f"{path}.url")
    size = None
    if url.startswith(_IMAGE_URL) and url.isascii():
        head, _, payload = url.partition(",")
        size = base64_image_size(payload) if head.endswith(";base64") else None
        found.media_bytes += len(url)
    elif url[: len(_DATA_URL)].lower() == _DATA_URL:
        raise UnpricedFeature(f"{path}.url is data, but not an image in base64.", f"{path}.url")
    found.media_tokens += rule.tokens(size, detail if type(detail) is str else "auto")


def count_messages(messages: list[Any], count: Count) -> int:
    """The tokens of the text in messages that passed `survey`, with what frames it; without images and audio."""
    total = REPLY_TOKENS
    for message in messages:
        is_result = message["role"] in _TOOL_ROLES
        replayed = is_result or "tool_calls" in message or "function_call" in message
        total += MESSAGE_TOKENS + REPLAY_TOKENS * replayed
        for key, value in message.items():
            if key == "content":
                total += _count_content(value, _escaped(count) if is_result else count)
            elif key != "audio":
                total += count_value(value, count)
    return total


def _count_content(content: Any, count: Count) -> int:  # noqa: ANN401
    if type(content) is str:
        return count(content)
    total = 0
    for part in content or ():
        if type(part) is str:
            total += count(part)
        elif part["type"] not in {"image_url", "input_audio"}:
            total += count_value(part.get("text"), count) + count_value(part.get("refusal"), count)
    return total


def count_value(value: Any, count: Count) -> int:  # noqa: ANN401
    """The most tokens that a member of a request is, whatever its shape: a text as it is, a structure by its JSON."""
    if value is None:
        return 0
    if type(value) is str:
        return count(value)
    text = json.dumps(value, separators=(",", ":"))
    return count(text) + COMMA_TOKENS * text.count(",")


def _escaped(count: Count) -> Callable[[str], int]:
    """Counts a text that the model may be shown as a JSON string in ASCII: see `escapes_max`."""
    return lambda text: max(count(text), count(json.dumps(text)))

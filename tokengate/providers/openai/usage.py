"""What an answer of OpenAI's API says it used, and the text in it.

Fields by https://developers.openai.com/api/reference/resources/chat and `openai/types/completion_usage.py` of the
official SDK. Here `cached_tokens` are a part of `prompt_tokens`, and `reasoning_tokens` and the tokens of predictions,
accepted or rejected, of `completion_tokens`. Figures that cannot be true are no figures: a server that reports a
negative number, a text or no prompt at all is treated as one that reports nothing.
"""

from typing import Annotated, Any, Final, TypeGuard

from msgspec import Meta, MsgspecError, Struct
from msgspec.json import Decoder

from tokengate.domain import Usage

TOKENS_REPORTED_MAX: Final = 2**31 - 1
"""No call uses more; a larger figure is a fault of the server."""

_NOT_TEXT: Final = frozenset(
    {"role", "id", "type", "index", "data", "expires_at", "annotations", "logprobs", "finish_reason"}
)


def read_usage(answer: dict[str, Any], fees: tuple[tuple[str, int], ...]) -> Usage | None:
    """The usage in an answer or in a chunk of one; None if it has none that can be believed.

    Args:
        answer: the parsed JSON.
        fees: separately billed calls that the request makes, which the answer does not report.
    """
    usage = answer.get("usage")
    if type(usage) is not dict:
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not is_count(prompt) or not is_count(completion) or prompt == 0:
        return None
    model, tier = answer.get("model"), answer.get("service_tier")
    model, tier = model if type(model) is str else "", tier if type(tier) is str else ""
    read, generated = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    if type(read) is not dict or type(generated) is not dict:
        return None
    details: tuple[Any, ...] = (
        read.get("cached_tokens") or 0,
        read.get("cache_write_tokens") or 0,
        read.get("audio_tokens") or 0,
        read.get("image_tokens") or 0,
        generated.get("audio_tokens") or 0,
        generated.get("reasoning_tokens") or 0,
    )
    for detail in details:
        if not is_count(detail):
            return None
    cached, written, audio_in, images, audio_out, reasoning = details
    return Usage(
        input_tokens=prompt,
        output_tokens=completion,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        input_audio_tokens=audio_in,
        input_image_tokens=images,
        output_audio_tokens=audio_out,
        reasoning_tokens=reasoning,
        model=model,
        service_tier=tier,
        calls=fees,
    )


def is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= TOKENS_REPORTED_MAX


_Count = Annotated[int, Meta(ge=0, le=TOKENS_REPORTED_MAX)]


class _InputDetails(Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None
    audio_tokens: _Count | None = None
    image_tokens: _Count | None = None


class _OutputDetails(Struct, gc=False):
    audio_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class _Reported(Struct, gc=False):
    prompt_tokens: Annotated[int, Meta(ge=1, le=TOKENS_REPORTED_MAX)]
    completion_tokens: _Count = 0
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Answer(Struct, gc=False):
    """The members of an answer that tell what it used. Of the others, by far the most, the grammar is checked."""

    usage: _Reported
    model: str = ""
    service_tier: str | None = None


_decode_answer: Final = Decoder(_Answer).decode
_NO_INPUT_DETAILS: Final = _InputDetails()
_NO_OUTPUT_DETAILS: Final = _OutputDetails()


def read_usage_of(content: bytes | bytearray, fees: tuple[tuple[str, int], ...]) -> Usage | None:
    """What `read_usage` finds in the bytes of a whole answer, without making objects of the rest of it.

    None if the answer is not of the usual shape, or has no usage or none that can be believed: then it must be parsed.
    """
    try:
        answer = _decode_answer(content)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage = answer.usage
    read = usage.prompt_tokens_details or _NO_INPUT_DETAILS
    generated = usage.completion_tokens_details or _NO_OUTPUT_DETAILS
    return Usage(  # by position, as it is made for every call
        usage.prompt_tokens,
        usage.completion_tokens,
        read.cached_tokens or 0,
        read.cache_write_tokens or 0,
        0,
        read.audio_tokens or 0,
        read.image_tokens or 0,
        generated.audio_tokens or 0,
        generated.reasoning_tokens or 0,
        answer.model,
        answer.service_tier or "",
        fees,
    )


def generated_text(answer: dict[str, Any]) -> str:
    """The text that an answer or a chunk of one shows: content, refusals, reasoning, calls of tools, transcripts.

    Every string is taken, whatever its name, so that what a server adds is counted too; base64 audio is not text.
    """
    choices = answer.get("choices")
    if type(choices) is list and len(choices) == 1 and type(choices[0]) is dict:
        delta = choices[0].get("delta")
        if type(delta) is dict and len(delta) == 1 and "text" not in choices[0]:
            content = delta.get("content")  # nearly every chunk of a stream
            if type(content) is str:
                return content
    texts: list[str] = []
    pending: list[Any] = [choices]
    while pending:
        value = pending.pop()
        if type(value) is str:
            texts.append(value)
        elif type(value) is list:
            pending += reversed(value)
        elif type(value) is dict:
            pending += [
                item for key, item in reversed(value.items()) if key not in _NOT_TEXT and key != "finish_reason"
            ]
    return "".join(texts)

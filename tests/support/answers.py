"""Answers of a provider down to the byte, for servers that misbehave: whole ones, streams, and heads of any shape."""

import json
from typing import Any, Final

from tests.support.gate import INPUT_NANO, OUTPUT_NANO

PROMPT_TOKENS: Final = 7
COMPLETION_TOKENS: Final = 3
USAGE: Final[dict[str, Any]] = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}
USED_NANO: Final = PROMPT_TOKENS * INPUT_NANO + COMPLETION_TOKENS * OUTPUT_NANO
"""What an answer with `USAGE` costs."""

TEXT: Final = " gate gate gate"
"""Three tokens in o200k_base."""

DONE: Final = b"data: [DONE]\n\n"
STREAM_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

UNSAID: Final = object()
"""A usage that is not there."""


def document(usage: object = USAGE, **more: Any) -> bytes:
    """A chat's answer."""
    message = {"role": "assistant", "content": TEXT}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini", "choices": choices}
    return json.dumps(answer | more | ({} if usage is UNSAID else {"usage": usage})).encode()


def http(
    body: bytes,
    *,
    status: str = "200 OK",
    content_type: str = "application/json",
    length: int | None = None,
    head: str = "",
) -> bytes:
    """A whole answer; `head` is put into its headers as it stands, `length` in place of its own."""
    given = len(body) if length is None else length
    typed = f"content-type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status}\r\n{typed}content-length: {given}\r\n{head}\r\n".encode("latin-1") + body


def chunk(data: bytes) -> bytes:
    """A chunk of a chunked body; the last one for no data."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str | None = None, *, finish: str | None = None, usage: object = UNSAID) -> bytes:
    """An event of a streamed chat: a piece of text, or with neither text nor finish the one that has the usage."""
    choices: list[Any] = []
    if content is not None or finish is not None:
        choices = [{"index": 0, "delta": {"content": content} if content is not None else {}, "finish_reason": finish}]
    answer = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini", "choices": choices}
    return b"data: " + json.dumps(answer | ({} if usage is UNSAID else {"usage": usage})).encode() + b"\n\n"


PIECES: Final = (event(" gate"), event(" gate"), event(" gate"))
FINISH: Final = event(finish="stop")
USAGE_EVENT: Final = event(usage=USAGE)


def stream(*events: bytes, head: bytes = STREAM_HEAD, end: bytes = chunk(b"")) -> bytes:
    """A streamed answer, an event to a chunk."""
    return head + b"".join(map(chunk, events)) + end


GOOD: Final = http(document())
GOOD_STREAM: Final = stream(*PIECES, FINISH, USAGE_EVENT, DONE)

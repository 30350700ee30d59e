"""Requests to OpenAI's endpoints as tests make them, meters fed with answers, and an exact count of tokens."""

import json
from collections.abc import Iterable
from typing import Any

import orjson

from tokengate.providers import Meter, Reading
from tokengate.providers.openai.requests import ChatCompletions, Completions, Embeddings, OpenAIRequest
from tokengate.tokens import count_text, load_encoding

O200K = load_encoding("o200k_base")
HELLO = [{"role": "user", "content": "hello"}]
KOREAN = "테스트 "


def count(text: str) -> int:
    return count_text(O200K, text)


def dumps(document: dict[str, Any]) -> bytes:
    """As the official Python SDK writes a body."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def chat(**members: Any) -> OpenAIRequest:
    return ChatCompletions().parse(dumps({"model": "gpt-4o-mini", "messages": HELLO} | members))


def completion(**members: Any) -> OpenAIRequest:
    return Completions().parse(dumps({"model": "gpt-3.5-turbo-instruct", "prompt": "hello"} | members))


def embedding(**members: Any) -> OpenAIRequest:
    return Embeddings().parse(dumps({"model": "text-embedding-3-small", "input": "hello"} | members))


# --- answers ---

JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


def request(model: str = "gpt-4o-mini", *, asked: bool = False, stream: bool = False, **members: Any) -> OpenAIRequest:
    if asked:
        members["stream_options"] = {"include_usage": True}
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream} | members
    return ChatCompletions().parse(orjson.dumps(body))


def streamed(*, asked: bool = False, **members: Any) -> Meter:
    return request(stream=True, asked=asked, **members).meter(200, SSE)


def run(meter: Meter, chunks: Iterable[bytes]) -> tuple[bytes, Reading]:
    passed = b"".join([meter.feed(piece) for piece in chunks])
    passed += meter.finish()
    return passed, meter.reading()


def cut_off(meter: Meter, chunks: Iterable[bytes]) -> Reading:
    """The connection broke: the meter is never told that the answer ended."""
    for piece in chunks:
        meter.feed(piece)
    return meter.reading()


def in_pieces(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)]


def answer(usage: object, content: str = "some text", **members: Any) -> bytes:
    choices = [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]
    return orjson.dumps({"model": "m", "choices": choices, "usage": usage} | members)

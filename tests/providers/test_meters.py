"""What the meters of all providers share: answers that are hardly JSON tell what they used all the same."""

from typing import Any, Final

import orjson
import pytest

from tests.providers.openai_calls import JSON, SSE, chat
from tests.providers.test_anthropic import request as message
from tests.providers.test_gemini import request as generation
from tokengate.providers import Reading, Request
from tokengate.providers.meters import LENIENT_BYTES_MAX, parse, parse_object
from tokengate.providers.openai.responses import Responses

HUGE: Final = b"1e999999999"


def response(*, stream: bool = False) -> Request:
    return Responses().parse(orjson.dumps({"model": "gpt-5-mini", "input": "hi", "stream": stream}))


def asked_chat(*, stream: bool = False) -> Request:
    return chat(stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))


CHAT: Final = b'{"model":"m","choices":[],"seconds":%b,"usage":{"prompt_tokens":9,"completion_tokens":2,"cost":%b}}'
RESPONSE: Final = b'{"model":"m","output":[],"seconds":%b,"usage":{"input_tokens":9,"output_tokens":2,"cost":%b}}'
CONTENT: Final = (
    b'{"candidates":[{"avgLogprobs":-%b}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,"x":%b}}'
)
ANSWERS: Final[dict[str, tuple[Any, bytes]]] = {
    "chat": (asked_chat, CHAT),
    "responses": (response, RESPONSE),
    "anthropic": (message, RESPONSE),
    "gemini": (generation, CONTENT),
}
EVENTS: Final[dict[str, bytes]] = {
    "chat": b"data: " + CHAT + b"\n\ndata: [DONE]\n\n",
    "responses": b'data: {"type":"response.completed","response":' + RESPONSE + b"}\n\n",
    "anthropic": b'data: {"type":"message_delta","delta":%b,"usage":{"input_tokens":9,"output_tokens":2,"cost":%b}}\n\n',
    "gemini": b"data: " + CONTENT + b"\n\n",
}


def read(request: Request, content_type: str, answer: bytes) -> Reading:
    meter = request.meter(200, content_type)
    assert meter.feed(answer) + meter.finish() == answer
    return meter.reading()


@pytest.mark.parametrize("dialect", ANSWERS)
def test_a_number_beyond_all_floats_passes_and_is_metered_around(dialect: str) -> None:
    ask, answer = ANSWERS[dialect]
    events = EVENTS[dialect]
    for reading in (
        read(ask(stream=False), JSON, answer % (HUGE, HUGE)),
        read(ask(stream=True), SSE, events % (HUGE, HUGE)),
    ):
        assert reading.usage is not None
        assert (reading.usage.input_tokens, reading.usage.output_tokens) == (9, 2)


@pytest.mark.parametrize("number", [HUGE, b"1e400", b"9" * 400, b"-1", b"2.5", b'"2"', b"NaN"])
def test_such_a_number_is_no_count_of_tokens(number: bytes) -> None:
    answer = CHAT.replace(b'"completion_tokens":2', b'"completion_tokens":' + number) % (b"1", b"1")
    reading = read(chat(), JSON, answer)
    assert (reading.usage, reading.hidden_output) in ((None, True), (None, False))


def test_what_is_no_json_at_all_is_nothing() -> None:
    for content in (b"{", b"[" * 50_000, b"\xff", b"", b"9" * 60_000, b"{" + b" " * LENIENT_BYTES_MAX):
        assert parse(content) is None or type(parse(content)) is int
        assert parse_object(content) is None

"""A stream reaches the client as it would without TokenGate, and what was used is known or taken conservatively."""

from typing import Any

import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.providers.openai_calls import JSON, SSE, cut_off, in_pieces, request, run, streamed
from tests.providers.openai_shapes import (
    CHAT,
    COMPLETION_STREAM,
    DONE,
    STREAM,
    STREAM_TOOLS,
    STREAM_TOOLS_UNASKED,
    STREAM_UNASKED,
    USAGE_CHUNK,
    chunk,
    event,
)
from tokengate.domain import Usage
from tokengate.providers import Reading
from tokengate.providers.openai import meters
from tokengate.providers.openai.requests import Completions


@pytest.mark.parametrize(("stream", "unasked"), [(STREAM, STREAM_UNASKED), (STREAM_TOOLS, STREAM_TOOLS_UNASKED)])
def test_a_client_that_did_not_ask_for_usage_receives_the_stream_it_would_have_received(
    stream: bytes, unasked: bytes
) -> None:
    for size in range(1, 700):
        passed, reading = run(streamed(), in_pieces(stream, size))
        assert passed == unasked
        assert reading.complete
        assert reading.usage == Usage(
            82, 17, cache_read_tokens=64, model="gpt-4o-mini-2024-07-18", service_tier="default"
        )


@pytest.mark.parametrize("stream", [STREAM, STREAM_TOOLS])
def test_a_client_that_asked_for_usage_receives_every_chunk_as_it_came_and_when_it_came(stream: bytes) -> None:
    for size in range(1, 700):
        meter = streamed(asked=True)
        pieces = in_pieces(stream, size)
        assert [meter.feed(piece) for piece in pieces] == pieces
        assert meter.finish() == b""
        reading = meter.reading()
        assert reading.complete
        assert reading.usage is not None
        assert reading.usage.output_tokens == 17


def test_only_an_incomplete_event_is_held_back() -> None:
    meter = streamed()
    first, second = chunk('{"content":"a"}'), chunk('{"content":"b"}')
    assert meter.feed(first + second[:40]) == first
    assert meter.feed(second[40:]) == second
    assert meter.feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_what_was_never_completed_is_passed_on_at_the_end() -> None:
    meter = streamed()
    assert meter.feed(DONE[:-1]) == b""
    assert meter.finish() == DONE[:-1]
    assert meter.reading().complete


def test_a_last_event_without_a_blank_line_is_read() -> None:
    passed, reading = run(streamed(), [STREAM.removesuffix(DONE)[:-2]])
    assert USAGE_CHUNK[:-2] not in passed
    assert reading.usage is not None
    assert not reading.complete


def test_after_the_end_everything_passes_unread() -> None:
    trailing = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ngarbage'
    passed, reading = run(streamed(), [STREAM + trailing, b"more", b"\n\nand more"])
    assert passed == STREAM_UNASKED + trailing + b"more" + b"\n\nand more"
    assert reading.usage is not None
    assert reading.usage.input_tokens == 82


@pytest.mark.parametrize(
    "done", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE]\r\r", b"data: [DONE] \n\n"]
)
def test_the_end_is_known_however_it_is_written(done: bytes) -> None:
    assert cut_off(streamed(), [done]).complete


def test_a_text_that_speaks_of_usage_and_of_the_end_is_only_text() -> None:
    text = chunk(
        orjson.dumps({"content": '"usage":null,"usage":{"prompt_tokens":1} [DONE]'}).decode(), usage=',"usage":null'
    )
    meter = streamed()
    assert meter.feed(text) == text.replace(b',"usage":null,"obfuscation"', b',"obfuscation"')
    reading = meter.reading()
    assert (reading.complete, reading.usage) == (False, None)
    assert reading.output_seen == '"usage":null,"usage":{"prompt_tokens":1} [DONE]'


@pytest.mark.parametrize(
    "untouched",
    [
        event('{"choices":[{"delta":{"content":"a"},"usage":null}]}'),  # of the choice
        event('{"usage":null,"choices":[{"delta":{"content":"a"}}]}'),
        event('{"choices":[{"delta":{"content":"a"}}], "usage": null}'),
        b'event: ping\ndata: {"choices":[],"type":"ping"}\n\n',
        b": comment\n\n",
        b"data: not json\n\n",
    ],
)
def test_what_is_not_surely_an_injected_null_stays(untouched: bytes) -> None:
    assert streamed().feed(untouched) == untouched


def test_usage_on_chunks_with_choices_is_cumulative_and_the_last_counts() -> None:
    chunks = [
        chunk('{"content":"a"}', usage=f',"usage":{{"prompt_tokens":9,"completion_tokens":{n}}}') for n in range(1, 6)
    ]
    passed, reading = run(streamed(), [*chunks, DONE])
    assert passed == b"".join(chunks) + DONE
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (9, 5)


def test_a_usage_that_cannot_be_true_does_not_replace_one_that_can() -> None:
    bad = event('{"choices":[],"usage":{"prompt_tokens":-9,"completion_tokens":5}}')
    _, reading = run(streamed(), [USAGE_CHUNK, bad, DONE])
    assert reading.usage is not None
    assert reading.usage.input_tokens == 82


@pytest.mark.parametrize(
    "usage",
    [
        '{"prompt_tokens":0,"completion_tokens":0}',
        '{"prompt_tokens":9,"completion_tokens":0}',
        '{"prompt_tokens":"9","completion_tokens":5}',
        '{"prompt_tokens":9,"completion_tokens":99999999999}',
        '{"prompt_tokens":null}',
        "[]",
        "null",
    ],
)
def test_zero_or_impossible_usage_on_every_chunk_is_not_believed_beside_text(usage: str) -> None:
    chunks = [chunk('{"content":"word "}', usage=f',"usage":{usage}') for _ in range(3)]
    _, reading = run(streamed(asked=True), [*chunks, DONE])
    assert reading.usage is None
    assert reading.output_seen == "word word word "


def test_a_usage_before_more_text_does_not_pay_for_it_if_the_stream_breaks_off() -> None:
    first = chunk('{"role":"assistant"}', usage=',"usage":{"prompt_tokens":9,"completion_tokens":1}')
    more = [chunk('{"content":"word "}') for _ in range(5)]
    reading = cut_off(streamed(asked=True), [first, *more])
    assert reading.usage is None
    assert reading.output_seen == "word " * 5
    whole, finished = run(streamed(asked=True), [*more, first, DONE])
    assert whole
    assert finished.usage is not None


@pytest.mark.parametrize("choices", ["[]", "null"])
def test_a_usage_chunk_without_choices_is_withheld(choices: str) -> None:
    usage = event(f'{{"id":"x","choices":{choices},"usage":{{"prompt_tokens":9,"completion_tokens":5}}}}')
    passed, reading = run(streamed(), [usage, DONE])
    assert passed == DONE
    assert reading.usage == Usage(9, 5)


def test_a_stream_that_ends_without_its_terminal_event_is_not_complete() -> None:
    _, reading = run(streamed(), [STREAM.removesuffix(DONE)])
    assert not reading.complete
    assert reading.usage is not None


TOOL_TEXT = "get_weather" + '{"city": "Oslo"}'


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (STREAM_UNASKED, "Good morning"),
        (STREAM_TOOLS_UNASKED, TOOL_TEXT),
        (COMPLETION_STREAM, "This is it"),
        (chunk('{"refusal":"No."}'), "No."),
        (chunk('{"reasoning_content":"Hm. "}') + chunk('{"content":"So."}'), "Hm. So."),
        (chunk('{"reasoning":"Hm. ","content":"So."}'), "Hm. So."),
        (chunk('{"function_call":{"name":"f","arguments":"{}"}}'), "f{}"),
        (chunk('{"audio":{"id":"a","data":"AAAA","transcript":"Hello"}}'), "Hello"),
        (chunk('{"content":"你好"}').replace(b"\n\n", b"\r\n\r\n"), "你好"),
        (event('{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}'), "ab"),
        (event('{"choices":[{"delta":{"content":[{"type":"text","text":"a"}]}}]}'), "a"),
    ],
)
def test_the_text_of_an_answer_that_broke_off_is_seen(stream: bytes, text: str) -> None:
    for meter in (streamed(), streamed(asked=True)):
        reading = cut_off(meter, in_pieces(stream, 50))
        assert reading.usage is None
        assert (reading.output_seen, reading.output_bytes_seen) == (text, len(text.encode()))


def test_events_that_cannot_be_read_count_by_their_length() -> None:
    reading = cut_off(streamed(), [event("x" * 500), b"data: " + b"y" * 300])
    assert reading.output_seen == ""
    assert reading.output_bytes_seen >= 800


def test_an_event_beyond_the_bound_passes_and_counts_by_its_length() -> None:
    huge = chunk('{"content":"%s"}' % ("x" * 3_000_000))
    passed, reading = run(streamed(), [*in_pieces(huge, 50_000), STREAM_UNASKED.removesuffix(DONE)])
    assert passed == huge + STREAM_UNASKED.removesuffix(DONE)
    assert reading.output_bytes_seen >= 3_000_000
    assert reading.output_seen == "Good morning"


def test_no_more_text_of_a_long_stream_is_kept_than_the_bound() -> None:
    meter = streamed()
    assert isinstance(meter, meters.StreamMeter)
    piece = chunk('{"content":"%s"}' % ("é" * 500))
    for _ in range(1000):
        meter.feed(piece)
        assert meter._events_bytes <= meters.EVENTS_BYTES_MAX
    reading = meter.reading()
    assert reading.output_bytes_seen == 1_000_000
    assert len(reading.output_seen.encode()) <= meters.OUTPUT_SEEN_BYTES_MAX
    assert meter.reading() == reading


@pytest.mark.parametrize(
    ("members", "hidden"),
    [
        ({"model": "gpt-4o"}, False),
        ({"model": "llama-3.3-70b"}, False),
        ({"model": "o3-mini"}, True),
        ({"model": "openai/o4-mini"}, True),
        ({"model": "gpt-5-nano-2025-08-07"}, True),
        ({"model": "gpt-5.4", "reasoning_effort": "minimal"}, True),
        ({"model": "gpt-5.4", "reasoning_effort": "none"}, False),
        ({"model": "gpt-12"}, True),
        ({"model": "gpt-audio", "modalities": ["text", "audio"]}, True),
        ({"model": "gpt-4o", "prediction": {"type": "content", "content": "x"}}, True),
    ],
)
def test_output_that_is_not_shown_is_named(members: dict[str, Any], hidden: bool) -> None:
    assert cut_off(streamed(**members), [chunk('{"content":"a"}')]).hidden_output is hidden


def test_a_compressed_stream_passes_at_once_and_hides_what_it_cost() -> None:
    meter = streamed()
    assert meter.feed(b"\x1f\x8b\x08\x00abc") == b"\x1f\x8b\x08\x00abc"
    assert meter.feed(b"def") == b"def"
    reading = meter.reading()
    assert (reading.usage, reading.hidden_output) == (None, True)


# --- content types ---


@pytest.mark.parametrize("content_type", [JSON, "", "text/plain"])
def test_a_stream_that_is_answered_with_one_document_is_read_as_one(content_type: str) -> None:
    passed, reading = run(request(stream=True).meter(200, content_type), in_pieces(b"\n " + CHAT, 64))
    assert passed == b"\n " + CHAT
    assert reading.usage is not None
    assert reading.complete


@pytest.mark.parametrize("content_type", [SSE, "", "text/plain", "TEXT/EVENT-STREAM"])
def test_a_stream_without_its_content_type_is_read_as_one(content_type: str) -> None:
    passed, reading = run(request(stream=True).meter(200, content_type), in_pieces(STREAM, 64))
    assert passed == STREAM_UNASKED
    assert reading.usage is not None


@pytest.mark.parametrize("content_type", [JSON, "", "text/plain", "application/json; charset=utf-8"])
def test_a_document_without_its_content_type_is_read_as_one(content_type: str) -> None:
    _, reading = run(request().meter(200, content_type), [CHAT])
    assert reading.usage is not None


def test_a_stream_that_was_not_asked_for_is_read_and_passes() -> None:
    passed, reading = run(request().meter(200, SSE), [STREAM])
    assert passed == STREAM
    assert reading.usage is not None


def test_an_answer_that_never_began_says_nothing() -> None:
    passed, reading = run(request(stream=True).meter(200, ""), [b"\n"])
    assert passed == b"\n"
    assert reading == Reading(usage=None, complete=False, output_seen="", output_bytes_seen=0)


def test_a_streamed_completion_is_read() -> None:
    meter = Completions().parse(b'{"model":"gpt-3.5-turbo-instruct","prompt":"x","stream":true}').meter(200, SSE)
    usage = event(
        '{"id":"cmpl-1","object":"text_completion","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}'
    )
    passed, reading = run(meter, [COMPLETION_STREAM.removesuffix(DONE) + usage + DONE])
    assert passed == COMPLETION_STREAM
    assert reading.usage == Usage(5, 3)


@given(
    st.lists(
        st.binary(max_size=80) | st.sampled_from([STREAM, USAGE_CHUNK, DONE, CHAT, b"data: ", b"\n\n"]), max_size=6
    )
)
def test_no_bytes_make_a_meter_fail_or_lose_any_when_nothing_was_injected(chunks: list[bytes]) -> None:
    for status, content_type, stream in ((200, SSE, True), (200, JSON, False), (200, "", True), (500, SSE, True)):
        meter = request(stream=stream, asked=stream).meter(status, content_type)
        assert [meter.feed(piece) for piece in chunks] == chunks
        meter.reading()
        assert meter.finish() == b""
        meter.reading()
        injected = request(stream=True).meter(status, content_type)
        for piece in chunks:
            injected.feed(piece)
        injected.finish()
        injected.reading()


def test_the_official_sdk_sees_through_the_meter_what_it_sees_without_it() -> None:
    def seen(content: bytes) -> list[dict[str, Any]]:
        answer = httpx2.Response(200, headers={"content-type": SSE}, content=content)
        http = httpx2.Client(transport=httpx2.MockTransport(lambda _: answer))
        sdk = openai.OpenAI(api_key="dummy", base_url="http://127.0.0.1/v1", http_client=http)
        chunks = sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}], stream=True)
        return [part.model_dump(exclude_unset=True) for part in chunks]

    passed, _ = run(streamed(), in_pieces(STREAM_TOOLS, 333))
    assert seen(passed) == seen(STREAM_TOOLS_UNASKED)
    assert seen(passed) != seen(STREAM_TOOLS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_document_that_is_called_a_stream_is_not_free(stream: bool) -> None:
    document = orjson.dumps({"model": "m", "choices": [{"message": {"content": "x" * 100}}]})
    reading = meters.meter(meters.Expected(streamed=stream), 200, "text/event-stream")
    reading.feed(document)
    reading.finish()
    assert reading.reading().output_bytes_seen >= 100


@pytest.mark.parametrize("line", [b": ping", b"event: x", b"id: 1", b"retry: 5", b"data:", b"data", b"\xef\xbb\xbf: x"])
def test_what_an_event_stream_has_besides_its_data_is_free(line: bytes) -> None:
    reading = meters.meter(meters.Expected(streamed=True), 200, "text/event-stream")
    reading.feed(line + b"\n\n")
    reading.finish()
    assert reading.reading().output_bytes_seen == 0

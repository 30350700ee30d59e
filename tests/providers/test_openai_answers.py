"""Answers that are one document pass as they came, and what was used is known or taken conservatively."""

import orjson
import pytest

from tests.providers.openai_calls import JSON, SSE, answer, cut_off, in_pieces, request, run
from tests.providers.openai_shapes import (
    CHAT,
    CHAT_TOOLS,
    STREAM,
    USAGE,
    embeddings,
)
from tokengate.domain import Usage
from tokengate.providers.openai import meters
from tokengate.providers.openai.requests import Embeddings


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_an_answer_passes_as_it_is_and_its_usage_is_read(size: int) -> None:
    passed, reading = run(request().meter(200, JSON), in_pieces(CHAT, size))
    assert passed == CHAT
    assert reading.complete
    assert reading.usage == Usage(82, 17, cache_read_tokens=64, model="gpt-4.1-2025-04-14", service_tier="default")


def test_an_answer_that_calls_tools_is_read() -> None:
    _, reading = run(request().meter(200, JSON), [CHAT_TOOLS])
    assert reading.usage == Usage(82, 17, cache_read_tokens=64, model="gpt-4o-mini-2024-07-18")


def test_every_class_of_token_is_read() -> None:
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 500,
        "prompt_tokens_details": {
            "cached_tokens": 100,
            "cache_write_tokens": 200,
            "audio_tokens": 300,
            "image_tokens": 40,
        },
        "completion_tokens_details": {"reasoning_tokens": 250, "audio_tokens": 60, "rejected_prediction_tokens": 9},
    }
    _, reading = run(request().meter(200, JSON), [answer(usage, service_tier="flex")])
    assert reading.usage == Usage(
        1000,
        500,
        cache_read_tokens=100,
        cache_write_tokens=200,
        input_audio_tokens=300,
        input_image_tokens=40,
        output_audio_tokens=60,
        reasoning_tokens=250,
        model="m",
        service_tier="flex",
    )


def test_details_may_be_null() -> None:
    usage = USAGE | {"prompt_tokens_details": None, "completion_tokens_details": {"reasoning_tokens": None}}
    _, reading = run(request().meter(200, JSON), [answer(usage)])
    assert reading.usage == Usage(82, 17, model="m")


def test_fees_of_the_request_are_part_of_its_usage() -> None:
    _, reading = run(request(web_search_options={}).meter(200, JSON), [answer(USAGE)])
    assert reading.usage is not None
    assert reading.usage.calls == (("web_search", 1),)


BAD_COUNTS: list[object] = [None, -1, 1.5, "17", True, [], {}, 2**31, 1e300, "NaN"]


@pytest.mark.parametrize("member", ["prompt_tokens", "completion_tokens"])
@pytest.mark.parametrize("value", BAD_COUNTS)
def test_a_usage_that_cannot_be_true_is_none_and_the_text_is_counted(member: str, value: object) -> None:
    _, reading = run(request().meter(200, JSON), [answer(USAGE | {member: value})])
    assert reading.usage is None
    assert (reading.output_seen, reading.output_bytes_seen, reading.hidden_output) == ("some text", 9, False)


@pytest.mark.parametrize("value", [-64, 1.5, "64", True, []])
def test_a_detail_that_cannot_be_true_discredits_the_usage(value: object) -> None:
    usage = USAGE | {"prompt_tokens_details": {"cached_tokens": value}}
    _, reading = run(request().meter(200, JSON), [answer(usage)])
    assert (reading.usage is None) is (value != [])


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        "none",
        5,
        {},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": 9, "completion_tokens": 0},
    ],
)
def test_a_usage_that_is_missing_or_zero_beside_text_is_none(usage: object) -> None:
    _, reading = run(request().meter(200, JSON), [answer(usage)])
    assert reading.usage is None
    assert reading.output_seen == "some text"


def test_no_output_without_text_is_believed() -> None:
    _, reading = run(request().meter(200, JSON), [answer({"prompt_tokens": 9, "completion_tokens": 0}, content="")])
    assert reading.usage == Usage(9, 0, model="m")


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"usage":{"prompt_tokens":NaN}}', b"\x1f\x8b\x08\x00abc", b"[1]", CHAT[:-9], b'{"error":"x"}']
)
def test_an_answer_that_does_not_show_its_text_hides_it(body: bytes) -> None:
    passed, reading = run(request().meter(200, JSON), [body])
    assert passed == body
    assert reading.usage is None
    assert reading.hidden_output


def test_an_answer_that_breaks_off_hides_what_it_cost() -> None:
    reading = cut_off(request().meter(200, JSON), [CHAT[:200]])
    assert (reading.usage, reading.complete, reading.hidden_output) == (None, False, True)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 503])
@pytest.mark.parametrize("content_type", [JSON, SSE, "", "text/html"])
def test_an_error_of_the_provider_passes_and_costs_nothing(status: int, content_type: str) -> None:
    for made in (request(), request(stream=True)):
        passed, reading = run(made.meter(status, content_type), in_pieces(STREAM, 99))
        assert passed == STREAM
        assert (reading.usage, reading.output_bytes_seen, reading.hidden_output) == (None, 0, False)


# --- large answers ---


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("words", [1_000, 60_000, 900_000])
def test_the_usage_of_a_large_answer_is_found(words: int, indent: int | None) -> None:
    document = orjson.loads(answer(USAGE, content='"usage": {"prompt_tokens": 1}, ' * (words // 4)))
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indent else None)
    passed, reading = run(request().meter(200, JSON), in_pieces(body, 65_536))
    assert passed == body
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (82, 17)


def test_an_answer_of_a_hundred_megabytes_is_not_kept() -> None:
    meter = request().meter(200, JSON)
    assert isinstance(meter, meters.BodyMeter)
    meter.feed(b'{"model":"m","choices":[{"message":{"content":"')
    piece = b"x" * 1_048_576
    for _ in range(100):
        assert meter.feed(piece) is piece
        assert len(meter._kept) <= meters.BODY_BYTES_MAX
    meter.feed(b'"}}],"usage":{"prompt_tokens":82,"completion_tokens":17},"service_tier":"default"}')
    meter.finish()
    assert meter.reading().usage == Usage(82, 17, service_tier="default")


FORGERY = '"usage":{"prompt_tokens":1,"completion_tokens":1}}'


@pytest.mark.parametrize(
    "end",
    [
        "",  # none at all
        f',"note":"{FORGERY[:-1]}"',  # not JSON: the text ends early
        ',"note":"\\"usage\\":{\\"prompt_tokens\\":1,\\"completion_tokens\\":1}}"',  # in a text
        ',"inner":{"usage":{"prompt_tokens":1,"completion_tokens":1}}',  # of an inner object
        ',"list":[{"usage":{"prompt_tokens":1,"completion_tokens":1}}]',
        ',"note":"ends in \\"usage"',
    ],
)
def test_a_usage_that_is_not_the_answers_own_is_not_read_from_its_end(end: str) -> None:
    body = b'{"choices":[{"message":{"content":"' + b"x" * meters.BODY_BYTES_MAX + b'"}}]' + end.encode() + b"}"
    _, reading = run(request().meter(200, JSON), in_pieces(body, 1 << 20))
    assert reading.usage is None
    assert reading.hidden_output
    assert reading.output_bytes_seen >= meters.BODY_BYTES_MAX


def test_an_answer_without_usage_keeps_no_more_text_than_the_bound() -> None:
    text = "é" * meters.OUTPUT_SEEN_BYTES_MAX
    _, reading = run(request().meter(200, JSON), [answer(None, content=text)])
    assert reading.output_bytes_seen == 2 * meters.OUTPUT_SEEN_BYTES_MAX
    assert len(reading.output_seen.encode()) == meters.OUTPUT_SEEN_BYTES_MAX


@pytest.mark.parametrize("inputs", [1, 2048])
def test_embeddings_of_any_size_are_read_without_being_kept(inputs: int) -> None:
    body = embeddings(inputs)
    meter = Embeddings().parse(b'{"model":"text-embedding-3-small","input":"x"}').meter(200, JSON)
    assert isinstance(meter, meters.BodyMeter)
    for piece in in_pieces(body, 65_536):
        assert meter.feed(piece) == piece
        assert len(meter._kept) <= meters.PARSE_AT_ONCE_BYTES
    meter.finish()
    assert meter.reading().usage == Usage(8, 0, model="text-embedding-3-small")


def test_embeddings_without_usage_have_no_output_to_count() -> None:
    meter = Embeddings().parse(b'{"model":"m","input":"x"}').meter(200, JSON)
    _, reading = run(meter, [b'{"data":[]}'])
    assert (reading.usage, reading.output_bytes_seen, reading.hidden_output) == (None, 0, False)

"""Images and audio are billed by rules of their own; what is not known about them is taken at its dearest."""

import base64
import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.providers import MalformedRequest, UnpricedFeature
from tokengate.providers.openai.audio import EARLIER_ANSWER_TOKENS_MAX
from tokengate.providers.openai.images import (
    CONTEXT_TOKENS_MAX,
    JPEG_HEADER_BYTES_MAX,
    base64_image_size,
    image_rule,
)
from tokengate.providers.openai.requests import ChatCompletions, OpenAIRequest

REMOTE = "https://example.com/cat.png"


def png(width: int, height: int, payload: int = 0) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + b"\0" * payload
    )


def jpeg(width: int, height: int, metadata: int = 0) -> bytes:
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", min(65_000, metadata - at) + 2) + b"\0" * min(65_000, metadata - at)
        for at in range(0, metadata, 65_000)
    )
    return b"\xff\xd8" + segments + struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, height, width, 3)


def wav(
    seconds: float, rate: int = 16_000, channels: int = 1, bits: int = 16, codec: int = 1, extra: bytes = b""
) -> bytes:
    data = b"\0" * int(seconds * rate * channels * bits / 8)
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", codec, channels, rate, rate * block, block, bits) + extra
    listed = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    chunks = listed + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def data_url(image: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def chat(*parts: object, model: str = "gpt-4o", **message: Any) -> OpenAIRequest:
    messages = [{"role": "user", "content": list(parts)} | message]
    return ChatCompletions().parse(orjson.dumps({"model": model, "messages": messages}))


def image(url: object, **members: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | members}


def audio(data: bytes, audio_format: object = "wav") -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": audio_format}}


def media_tokens(request: OpenAIRequest) -> int:
    return request.call.input_tokens_max - request.call.text_bytes


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [  # the examples of the guide: https://developers.openai.com/api/docs/guides/images-vision#calculating-costs
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-mini", (1024, 1024), "high", 1659),
        ("o4-mini", (1024, 1024), "high", 1762),
        # its table of bases and tiles
        ("gpt-4o-mini", (512, 512), "auto", 2833 + 5667),
        ("gpt-4o-mini", (512, 512), "low", 2833),
        ("gpt-4.1-2025-04-14", (512, 513), "high", 85 + 2 * 170),
        ("o1", (512, 512), "high", 75 + 150),
        ("o3", (512, 512), "high", 75 + 150),
        ("gpt-5", (512, 512), "high", 70 + 140),
        ("gpt-5-chat-latest", (512, 512), "low", 70),
        ("computer-use-preview", (512, 512), "high", 65 + 129),
        # its patches and budgets of them
        ("gpt-5-mini", (32, 32), "high", 2),
        ("gpt-5-nano", (33, 32), "high", 5),
        ("gpt-4.1-nano", (9999, 9999), "high", 3779),
        ("gpt-5.4-mini", (9999, 9999), "original", 2489),
        ("gpt-5.4", (9999, 9999), "high", 4050),
        ("gpt-5.4", (9999, 9999), "original", 16_200),
        ("gpt-5.6", (9600, 9600), "auto", 145_800),
    ],
)
def test_an_image_costs_what_the_guide_says(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    assert image_rule(model).tokens(size, detail) == tokens
    assert media_tokens(chat(image(data_url(png(*size)), detail=detail), model=model)) == tokens
    assert image_rule(model).tokens(size[::-1], detail) == tokens


MODELS = st.sampled_from(
    [
        "gpt-4o",
        "gpt-4o-mini",
        "gpt-4.1-mini",
        "gpt-4.1-nano",
        "o1",
        "o4-mini",
        "gpt-5",
        "gpt-5-nano",
        "gpt-5.1",
        "gpt-5.4",
    ]
)
SIDES = st.integers(1, 20_000)
DETAILS = st.sampled_from(["low", "high", "auto", "original", "unheard-of"])


@given(MODELS, SIDES, SIDES, DETAILS)
def test_no_image_costs_more_than_one_of_unknown_size_and_no_model_more_than_an_unknown_one(
    model: str, width: int, height: int, detail: str
) -> None:
    rule, unknown = image_rule(model), image_rule("some-other-model")
    known = rule.tokens((width, height), detail)
    assert 0 < known <= rule.tokens(None, detail)
    assert known <= unknown.tokens((width, height), detail)
    assert rule.tokens(None, detail) <= unknown.tokens(None, detail)


@pytest.mark.parametrize("model", ["gpt-5.6", "gpt-7", "my-own-vision-model"])
def test_what_has_no_other_bound_is_bounded_by_the_context_window(model: str) -> None:
    assert media_tokens(chat(image(REMOTE), model=model)) == CONTEXT_TOKENS_MAX
    assert media_tokens(chat(*[image(REMOTE)] * 9, model=model)) == CONTEXT_TOKENS_MAX


@pytest.mark.parametrize("model", ["openai/gpt-4o", "ft:gpt-4o:org::id", "GPT-4o", "gpt-4o-2024-08-06"])
def test_a_model_is_recognised_behind_what_stands_around_its_name(model: str) -> None:
    assert media_tokens(chat(image(REMOTE), model=model)) == 85 + 8 * 170


def test_an_image_by_url_is_the_largest_possible_and_its_url_is_text() -> None:
    request = chat(image(REMOTE))
    assert request.call.input_images
    assert media_tokens(request) == 85 + 8 * 170
    assert request.call.text_bytes > len(REMOTE)


def test_the_base64_of_an_image_is_not_billed_as_text() -> None:
    small, large = (chat(image(data_url(png(512, 512, payload)))) for payload in (0, 900_000))
    assert large.call.input_tokens_max == small.call.input_tokens_max < 500


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,bm90IGFuIGltYWdl",
        "data:image/png;base64,!!!!",
        "data:image/png,%89PNG",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png;base64,",
    ],
)
def test_an_image_whose_size_cannot_be_read_is_the_largest_possible(url: str) -> None:
    assert media_tokens(chat(image(url))) == 85 + 8 * 170


def test_the_size_of_a_jpeg_is_found_behind_its_metadata_within_a_bound() -> None:
    assert base64_image_size(base64.b64encode(jpeg(640, 480, metadata=150_000)).decode()) == (640, 480)
    beyond = base64.b64encode(jpeg(640, 480, metadata=JPEG_HEADER_BYTES_MAX)).decode()
    assert base64_image_size(beyond) is None


def test_an_image_may_be_named_by_its_url_alone() -> None:
    assert media_tokens(chat({"type": "image_url", "image_url": REMOTE})) == 85 + 8 * 170


@pytest.mark.parametrize(
    ("part", "error"),
    [
        (image(5), MalformedRequest),
        ({"type": "image_url"}, MalformedRequest),
        ({"type": "image_url", "image_url": [REMOTE]}, MalformedRequest),
        (image("data:application/pdf;base64,JVBERi0="), UnpricedFeature),
        (image("DATA:text/plain,x"), UnpricedFeature),
        (image(data_url(png(512, 512)) + "é"), UnpricedFeature),
        ({"type": "input_audio", "input_audio": "x"}, MalformedRequest),
        ({"type": "input_audio", "input_audio": {"data": 5, "format": "mp3"}}, MalformedRequest),
        ({"type": "input_audio", "input_audio": {"data": "é", "format": "mp3"}}, MalformedRequest),
        (audio(b"x", "flac"), UnpricedFeature),
        (audio(b"x", None), UnpricedFeature),
        (audio(b"x", ["wav"]), UnpricedFeature),
        (audio(b"not a wav"), UnpricedFeature),
        (audio(wav(1, codec=0x55)), UnpricedFeature),
        (audio(wav(1, codec=0xFFFE)), UnpricedFeature),
        (audio(wav(1, rate=0)), UnpricedFeature),
        (audio(wav(1)[:30]), UnpricedFeature),
    ],
)
def test_a_part_without_a_bound_is_refused(part: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        chat(part)


@given(
    st.integers(1, 60), st.sampled_from([8000, 16_000, 44_100]), st.sampled_from([1, 2]), st.sampled_from([8, 16, 24])
)
def test_pcm_audio_is_ten_tokens_a_second(seconds: int, rate: int, channels: int, bits: int) -> None:
    request = chat(audio(wav(min(seconds, 6), rate, channels, bits)), model="gpt-audio")
    assert request.call.input_audio
    assert 10 * min(seconds, 6) <= media_tokens(request) <= 10 * min(seconds, 6) + 2


def test_extensible_wav_names_its_codec_further_behind() -> None:
    extra = struct.pack("<HHI", 22, 16, 0) + struct.pack("<H", 1) + b"\0" * 14
    assert media_tokens(chat(audio(wav(3, codec=0xFFFE, extra=extra)))) in {30, 31}


def test_mp3_is_taken_at_its_lowest_bit_rate() -> None:
    ten_minutes_at_8_kbit = b"\xff\xf3\x18\xc4" * 150_000
    assert 6000 <= media_tokens(chat(audio(ten_minutes_at_8_kbit, "mp3"))) <= 6001


def test_the_base64_of_audio_is_not_billed_as_text() -> None:
    assert chat(audio(wav(5))).call.text_bytes < 300


def test_an_earlier_audio_answer_is_input_of_a_bounded_length() -> None:
    request = chat(role="assistant", audio={"id": "audio_abc"})
    assert request.call.input_audio
    assert media_tokens(request) == EARLIER_ANSWER_TOKENS_MAX


@pytest.mark.parametrize("part", [image(REMOTE), image(data_url(png(700, 900))), audio(wav(2))])
def test_media_cost_the_same_whether_text_is_counted_or_not(part: dict[str, Any]) -> None:
    request = chat({"type": "text", "text": "what is this?"}, part)
    counted = request.count_input(lambda text: len(text.encode()))
    assert media_tokens(request) < counted <= request.call.input_tokens_max

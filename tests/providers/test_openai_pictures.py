"""Images: the hold is never below the cost of anything that a request allows, and a meter reads any notation of it."""

import json
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.providers.openai_calls import cut_off, in_pieces, run
from tests.test_forms import TYPE, form, part
from tokengate.bodies import MalformedRequest, UnpricedFeature
from tokengate.domain import Usage
from tokengate.pricing import PriceTable, cost, quote
from tokengate.providers import Quirks
from tokengate.providers.openai.drawn import EDITED_TOKENS_LOW, EDITED_TOKENS_MAX, drawn_tokens
from tokengate.providers.openai.pictures import ImageEdits, ImageGenerations
from tokengate.providers.openai.uncapped import UncappedRequest
from tokengate.resources import pricing_file

TABLE = PriceTable.parse(pricing_file().read_bytes())
MODELS = (
    "gpt-image-1",
    "gpt-image-1-mini",
    "gpt-image-1.5",
    "chatgpt-image-latest",
    "gpt-image-2",
    "gpt-image-2.5-flare",
)
JSON = "application/json"


class _Head:
    raw_path = query = b""

    def __init__(self, content_type: bytes | None) -> None:
        self.content_type = content_type
        self.given: dict[bytes, bytes] = {}


def generation(**members: Any) -> UncappedRequest:
    return ImageGenerations().parse(orjson.dumps({"model": "gpt-image-1.5", "prompt": "a cat"} | members))


def edit(*parts: bytes) -> UncappedRequest:
    return ImageEdits().parse(form(*parts), _Head(TYPE))


MODEL, PROMPT = part("model", b"gpt-image-1-mini"), part("prompt", b"a cat")
IMAGE = part("image", b"\x89PNG" + bytes(5000), '; filename="a.png"')


# --- what is held ---


@pytest.mark.parametrize(
    ("model", "quality", "size", "tokens"),
    [
        ("gpt-image-1", "low", "1024x1024", 272),
        ("gpt-image-1-mini", "high", "1024x1536", 6240),
        ("gpt-image-1-mini", "auto", "auto", 6240),
        ("gpt-image-1-mini", None, "1536x1024", 6208),
        ("gpt-image-1-mini", ["low"], 7, 6240),
        ("gpt-image-1.5", "low", "1024x1024", 272 + 1024),
        ("gpt-image-2", "high", "1024x1024", 7024),
        ("gpt-image-2-2026-04-21", "high", "1536x1024", 5488),
        ("gpt-image-2", "high", "1792x1024", 5063),
        ("gpt-image-2", "high", "3584x2048", 12_329),
        ("gpt-image-2", None, None, 23_719),
        ("gpt-image-2", "low", "auto", 659),
        ("gpt-image-2.5-sunburst", "high", "1024x1024", 7024),
    ],
)
def test_an_image_has_the_tokens_that_are_documented(model: str, quality: Any, size: Any, tokens: int) -> None:
    assert drawn_tokens(model, quality, size) == tokens


@given(
    st.sampled_from(["low", "medium", "high"]),
    st.integers(16, 3840),
    st.integers(16, 3840),
)
def test_no_size_that_is_taken_has_more_tokens_than_an_open_one(quality: str, width: int, height: int) -> None:
    if width * height <= 8_294_400:
        assert drawn_tokens("gpt-image-2", quality, f"{width}x{height}") <= drawn_tokens("gpt-image-2", quality, "auto")


OPTIONS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "prompt": st.text(max_size=60),
        "quality": st.sampled_from(["low", "medium", "high"]),
    },
    optional={
        "size": st.sampled_from(["1024x1024", "1024x1536", "1536x1024", "auto"]),
        "n": st.integers(1, 10),
        "stream": st.just(True),
        "partial_images": st.integers(0, 3),
        "background": st.just("auto"),
        "input_fidelity": st.sampled_from(["low", "high"]),
    },
)


def any_usage(data: st.DataObject, asked: dict[str, Any], edited: int) -> Usage:
    """What a provider could bill: every image as a call of its own, by the documented tokens."""
    text = images = output = 0
    for _ in range(asked.get("n", 1)):
        text += data.draw(st.integers(1, 8 + len(asked["prompt"].encode())))
        images += data.draw(st.integers(0, edited * (65 + 8 * 129)))
        size = asked.get("size", "auto")
        size = "1024x1536" if size == "auto" else size
        output += (
            drawn_tokens("gpt-image-1", asked["quality"], size)
            if "-2" not in asked["model"]
            else drawn_tokens("gpt-image-2", asked["quality"], size)
        )
        output += 100 * asked.get("partial_images", 0)
    made = output if data.draw(st.booleans()) else output - data.draw(st.integers(0, output))
    return Usage(text + images, output, input_image_tokens=images, output_image_tokens=made)


@settings(max_examples=2000)
@given(st.data(), OPTIONS, st.integers(0, 4))
def test_no_images_cost_more_than_was_held_for_them(data: st.DataObject, asked: dict[str, Any], edited: int) -> None:
    if edited:
        fields = [
            part(name, str(value).lower().encode() if name != "prompt" else value.encode())
            for name, value in asked.items()
        ]
        request = edit(*fields, *[IMAGE] * edited)
    else:
        request = ImageGenerations().parse(json.dumps(asked).encode())
    price = TABLE.lookup(asked["model"]).price
    assert price is not None
    bounds = quote(price, request.call, 300, output_cap="always")
    assert bounds.floor_nano == bounds.want_nano
    assert not bounds.cappable
    assert cost(price, any_usage(data, asked, edited)) <= bounds.want_nano


def test_images_that_are_edited_count_as_images_and_their_bytes_not_as_text() -> None:
    few, more = edit(MODEL, PROMPT, IMAGE), edit(MODEL, PROMPT, IMAGE, IMAGE)
    assert few.call.input_tokens_max < 2500
    between = more.call.input_tokens_max - few.call.input_tokens_max
    assert EDITED_TOKENS_LOW <= between <= EDITED_TOKENS_LOW + 200
    faithful = edit(MODEL, PROMPT, IMAGE, part("input_fidelity", b"high"))
    assert faithful.call.input_tokens_max - few.call.input_tokens_max >= EDITED_TOKENS_MAX - EDITED_TOKENS_LOW
    url = f"data:image/png;base64,{'A' * 90_000}"
    document = {
        "model": "gpt-image-2",
        "prompt": "a",
        "images": [{"image_url": url}, {"file_id": "file-1"}],
        "mask": {},
    }
    by_json = ImageEdits().parse(orjson.dumps(document))
    assert 2 * EDITED_TOKENS_MAX < by_json.call.input_tokens_max < 2 * EDITED_TOKENS_MAX + 1000


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"model": "dall-e-3"}, UnpricedFeature),
        ({"model": "gpt-image-9"}, UnpricedFeature),
        ({"model": "gpt-image-2.5-flare"}, UnpricedFeature),
        ({"model": "gpt-image-2.5-flare", "quality": "xhigh"}, UnpricedFeature),
        ({"output_format": "svg"}, UnpricedFeature),
        ({"complexity": "high"}, UnpricedFeature),
        ({"frame_count": 2}, UnpricedFeature),
        ({"svg": {"model": "gpt-5"}}, UnpricedFeature),
        ({"extra_body": {"n": 9}}, UnpricedFeature),
        ({"n": 11}, MalformedRequest),
        ({"n": 0}, MalformedRequest),
        ({"n": 1.0}, MalformedRequest),
        ({"n": True}, MalformedRequest),
        ({"N": 9}, MalformedRequest),
        ({"Quality": "low"}, MalformedRequest),
        ({"partial_images": 4}, MalformedRequest),
        ({"partial_images": -1}, MalformedRequest),
        ({"stream": "yes"}, MalformedRequest),
        ({"prompt": ["a"]}, MalformedRequest),
        ({"model": None}, MalformedRequest),
    ],
)
def test_what_has_no_bound_is_refused(asked: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        generation(**asked)


@pytest.mark.parametrize(
    "parts",
    [
        (MODEL, PROMPT, IMAGE, MODEL),
        (MODEL, PROMPT, IMAGE, part("model[]", b"gpt-image-2")),
        (MODEL, PROMPT, IMAGE, part("MODEL", b"gpt-image-2")),
        (MODEL, PROMPT, IMAGE, part(" model", b"gpt-image-2")),
        (MODEL, PROMPT, IMAGE, part("model", b"gpt-image-2", '; filename="model"')),
        (MODEL, PROMPT, IMAGE, part("n", b"2"), part("n", b"1")),
        (MODEL, PROMPT, IMAGE, part("n", b" 1")),
        (MODEL, PROMPT, IMAGE, part("n", b"1e1")),
        (MODEL, PROMPT, IMAGE, part("n", "٣".encode())),
        (MODEL, PROMPT, IMAGE, part("stream", b"1")),
        (MODEL, PROMPT, *[IMAGE] * 19),
        (PROMPT, IMAGE),
        (MODEL, IMAGE),
    ],
)
def test_a_form_that_says_a_thing_twice_or_oddly_is_refused(parts: Iterable[bytes]) -> None:
    with pytest.raises(MalformedRequest):
        edit(*parts)


def test_the_order_of_the_parts_is_nothing() -> None:
    assert edit(IMAGE, PROMPT, MODEL).call == edit(MODEL, PROMPT, IMAGE).call


def test_what_is_forwarded_is_what_came_whatever_was_granted() -> None:
    request = edit(MODEL, PROMPT, IMAGE)
    assert request.body(None) == request.body(5) == form(MODEL, PROMPT, IMAGE)
    assert request.suited(Quirks()).body(5) == request.body(None)
    assert request.asked() is None
    assert request.count_input(len) == request.call.input_tokens_max


# --- what is charged ---


def answer(usage: object, images: int = 1, image: str = "iVBORw0KGgo" * 3000) -> bytes:
    return orjson.dumps({"created": 1, "data": [{"b64_json": image}] * images, "quality": "low", "usage": usage})


USAGE = {
    "input_tokens": 113, "input_tokens_details": {"text_tokens": 13, "image_tokens": 100},
    "output_tokens": 372, "total_tokens": 485,
}  # fmt: skip
READ = Usage(113, 372, input_image_tokens=100, output_image_tokens=372)


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 10**6])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_usage_is_found_however_the_answer_is_cut(size: int, indent: int | None) -> None:
    whole = answer(USAGE, image="iVBORw0KGgo" * (30 if size < 10 else 3000))
    whole = json.dumps(json.loads(whole), indent=indent).encode()
    passed, reading = run(generation().meter(200, JSON), in_pieces(whole, size))
    assert passed == whole
    assert (reading.usage, reading.complete) == (READ, True)


def test_words_are_told_from_images_where_the_answer_does() -> None:
    told = USAGE | {"output_tokens_details": {"image_tokens": 272, "text_tokens": 100}}
    _, reading = run(generation().meter(200, JSON), [answer(told)])
    assert reading.usage == Usage(113, 372, input_image_tokens=100, output_image_tokens=272)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": 5},
        USAGE | {"output_tokens": -1},
        USAGE | {"output_tokens": 0},
        USAGE | {"input_tokens": 1.5},
        USAGE | {"input_tokens_details": 7},
        USAGE | {"output_tokens_details": []},
        USAGE | {"more": "x" * 4000},
    ],
)
def test_a_usage_that_cannot_be_believed_costs_the_hold(usage: object) -> None:
    _, reading = run(generation().meter(200, JSON), [answer(usage)])
    assert reading.usage is None
    assert reading.hidden_output


def test_an_answer_that_breaks_off_costs_the_hold_and_an_error_nothing() -> None:
    assert cut_off(generation().meter(200, JSON), [answer(USAGE)]).usage is None
    _, reading = run(generation().meter(400, JSON), [b'{"error":{}}'])
    assert (reading.usage, reading.hidden_output) == (None, False)


def test_a_stream_is_complete_with_its_last_image() -> None:
    event = (
        b"data: " + orjson.dumps({"type": "image_generation.completed", "b64_json": "A" * 99, "usage": USAGE}) + b"\n\n"
    )
    shown = b'data: {"type":"image_generation.partial_image","b64_json":"AAAA"}\n\n'
    request = generation(n=2, stream=True, partial_images=1)
    kind = "text/event-stream"
    assert cut_off(request.meter(200, kind), [shown, event, shown]).usage is None
    reading = cut_off(request.meter(200, kind), [shown, event, shown, event])
    assert reading.complete
    assert reading.usage == Usage(226, 744, input_image_tokens=200, output_image_tokens=744)


def test_a_cost_that_the_server_tells_is_taken_where_it_is_believed() -> None:
    request = generation().suited(Quirks(cost_reported=True))
    _, reading = run(request.meter(200, JSON), [answer(USAGE | {"cost": 0.0425})])
    assert reading.usage is not None
    assert reading.usage.cost_nano == 42_500_000


def test_next_to_nothing_of_an_answer_is_kept() -> None:
    meter = generation().meter(200, JSON)
    for _ in range(64):
        meter.feed(b"A" * 65_536)
    assert len(meter._carry) < 16  # type: ignore[attr-defined]

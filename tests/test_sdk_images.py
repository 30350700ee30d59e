"""Images by the official OpenAI SDK through the gate: what it gets is what it gets without one, and is charged as told.

Costs are compared with genai-prices, which makes them from the same figures by a calculation of its own.
"""

import asyncio
import base64
from decimal import ROUND_CEILING, Decimal
from types import SimpleNamespace
from typing import Any

import genai_prices
import openai
import pytest
import redis

from tests.support.gate import until
from tests.support.hashes import held_nano, spent_nano
from tests.support.redis_server import Server
from tests.test_sdk import collected, dump, paired
from tokengate.simulate import SimulateOptions, media

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PROMPT = "A tin robot that waters a garden, in the style of a woodcut"


@pytest.fixture(autouse=True)
def _one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "time", SimpleNamespace(time=lambda: 1_790_000_000.0))


def theirs(model: str, *usages: Any) -> int:
    """What genai-prices makes of the usage of images, in nano-USD rounded up."""
    images = sum(usage.input_tokens_details.image_tokens for usage in usages)
    output = sum(usage.output_tokens for usage in usages)
    used = genai_prices.Usage(
        input_tokens=sum(usage.input_tokens for usage in usages),
        input_image_tokens=images,
        output_tokens=output,
        output_image_tokens=output,
    )
    found = genai_prices.calc_price(used, model, provider_id="openai")
    return int((found.total_price * Decimal(10**9)).to_integral_value(ROUND_CEILING))


GENERATED: dict[str, dict[str, Any]] = {
    "plain": {"model": "gpt-image-1.5"},
    "a size and a quality": {"model": "gpt-image-1-mini", "size": "1024x1536", "quality": "low"},
    "several": {"model": "gpt-image-2", "n": 3, "quality": "medium", "size": "1536x1024"},
    "a new model": {"model": "gpt-image-2.5-flare", "quality": "high"},
}
EDITED: dict[str, dict[str, Any]] = {
    "an image": {"model": "gpt-image-1-mini", "image": ("a.png", PNG, "image/png")},
    "several, and a mask": {
        "model": "gpt-image-1.5",
        "image": [("a.png", PNG, "image/png"), ("b;name=model.png", PNG, "image/png")],
        "mask": ("mask.png", PNG, "image/png"),
        "n": 2,
        "input_fidelity": "high",
    },
    "an odd name": {"model": "gpt-image-2", "image": ('"quoted"\\ü.png', PNG), "quality": "low", "size": "1024x1024"},
}


@pytest.mark.parametrize(
    ("method", "asked"),
    [*(("generate", asked) for asked in GENERATED.values()), *(("edit", asked) for asked in EDITED.values())],
    ids=[*GENERATED, *EDITED],
)
async def test_images_are_what_they_are_without_the_gate_and_cost_what_was_told(
    store: Server, redis_cli: redis.Redis, method: str, asked: dict[str, Any]
) -> None:
    async with paired(store) as both:
        expected, actual = [
            await getattr(sdk.images, method)(prompt=PROMPT, **asked) for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert dump(actual) == dump(expected)
    cost = theirs(asked["model"], actual.usage)
    assert cost == spent_nano(redis_cli) == round(line["actual_cost"] * 10**9)
    assert cost <= round(line["estimated_cost"] * 10**9)
    assert held_nano(redis_cli) == 0
    assert (line["input_tokens"], line["output_tokens"]) == (actual.usage.input_tokens, actual.usage.output_tokens)
    assert "robot" not in str(line)
    assert ".png" not in str(line)


@pytest.mark.parametrize("partial_images", [0, 2])
@pytest.mark.parametrize("method", ["generate", "edit"])
async def test_a_stream_of_images_is_what_it_is_without_the_gate_event_by_event(
    store: Server, redis_cli: redis.Redis, method: str, partial_images: int
) -> None:
    asked: dict[str, Any] = {"model": "gpt-image-1.5", "prompt": PROMPT, "partial_images": partial_images, "n": 2}
    if method == "edit":
        asked["image"] = ("a.png", PNG, "image/png")
    async with paired(store) as both:
        expected, actual = [
            await collected(await getattr(sdk.images, method)(stream=True, **asked))
            for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert actual == expected
    assert len(actual) == 2 * (partial_images + 1)
    usages = [openai.types.images_response.Usage(**event["usage"]) for event in actual if "usage" in event]
    assert theirs("gpt-image-1.5", *usages) == spent_nano(redis_cli) == round(line["actual_cost"] * 10**9)
    assert (line["stream"], line["ending"]) == (True, "complete")


async def test_a_body_passes_byte_for_byte_with_its_boundary(store: Server) -> None:
    async with paired(store) as both:
        for sdk in (both.direct, both.gated):
            await sdk.images.edit(model="gpt-image-1-mini", image=("a.bin", b"\r\n--x\r\n\0" * 99), prompt="ü")
        plain, gated = both.plain.requests[-1], both.provider.requests[-1]
    told = [dict(each["headers"])["content-type"].partition("boundary=")[2] for each in (plain, gated)]
    assert plain["body"].replace(told[0], told[1]) == gated["body"]
    assert told[1] in gated["body"]


async def test_images_that_do_not_say_what_they_used_cost_the_whole_hold(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store) as both:
        for stream in (False, True):
            answer = await both.gated.images.generate(
                model="gpt-image-1.5", prompt=PROMPT, stream=stream, extra_headers={"x-simulate-fault": "no_usage"}
            )
            if stream:
                await collected(answer)  # type: ignore[arg-type]
        lines = await both.gate.log()
    assert [line["assumed"] for line in lines] == [True, True]
    assert spent_nano(redis_cli) == round(sum(line["estimated_cost"] for line in lines) * 10**9)
    assert held_nano(redis_cli) == 0


async def test_whoever_leaves_a_stream_of_images_pays_the_hold(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store, SimulateOptions(seed=11, tokens_per_second=20)) as both:
        async with await both.gated.images.generate(
            model="gpt-image-1.5", prompt=PROMPT, stream=True, partial_images=3, n=10
        ) as stream:
            async for _ in stream:
                break
        await until(lambda: both.provider.disconnects == 1)
        (line,) = await both.gate.log()
    assert (line["ending"], line["assumed"]) == ("cut", True)
    assert spent_nano(redis_cli) == round(line["estimated_cost"] * 10**9)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "a retired model": ("generate", {"model": "dall-e-3"}, "model_not_priced"),
    "a chat model": ("generate", {"model": "gpt-4o"}, "model_not_priced"),
    "a quality of unknown cost": ("generate", {"model": "gpt-image-2.5-flare", "quality": "max"}, "model_not_priced"),
    "a quality that is left open": ("generate", {"model": "gpt-image-2.5-flare"}, "model_not_priced"),
    "frames": ("generate", {"model": "gpt-image-2", "output_format": "gif"}, "model_not_priced"),
    "too many": ("generate", {"model": "gpt-image-2", "n": 11}, "body_invalid"),
    "none": ("edit", {"model": "gpt-image-2", "n": 0, "image": ("a.png", PNG)}, "body_invalid"),
    "a model twice": (
        "edit",
        {"model": "gpt-image-1-mini", "image": ("a.png", PNG), "extra_body": {"model[]": "gpt-image-2"}},
        "body_invalid",
    ),
    "a model in another case": (
        "edit",
        {"model": "gpt-image-1-mini", "image": ("a.png", PNG), "extra_body": {"Model": "gpt-image-2"}},
        "body_invalid",
    ),
}


@pytest.mark.parametrize(("method", "asked", "code"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_bounded_is_refused_and_never_forwarded(
    store: Server, method: str, asked: dict[str, Any], code: str
) -> None:
    async with paired(store) as both:
        with pytest.raises(openai.BadRequestError) as refused:
            await getattr(both.gated.images, method)(prompt=PROMPT, **asked)
        assert both.provider.received == 0
    assert refused.value.code == code


async def test_a_budget_that_does_not_cover_the_dearest_image_refuses_it(store: Server) -> None:
    async with paired(store, default_budget="0.10") as both:
        await both.gated.images.generate(model="gpt-image-2", prompt=PROMPT, quality="low", size="1024x1024")
        with pytest.raises(openai.RateLimitError) as refused:
            await both.gated.images.generate(model="gpt-image-2", prompt=PROMPT)
        assert both.provider.received == 1
    assert refused.value.code == "insufficient_quota"


async def test_many_at_once_never_pass_the_cap(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store, SimulateOptions(seed=11, ttft_ms=20), default_budget="0.30", busy_wait_ms=0) as both:
        asked: dict[str, Any] = {"model": "gpt-image-1.5", "prompt": PROMPT, "quality": "medium", "size": "1024x1024"}
        ended = await asyncio.gather(*(both.gated.images.generate(**asked) for _ in range(12)), return_exceptions=True)
        await both.gate.idle()
    assert 1 <= sum(not isinstance(end, BaseException) for end in ended) < 12
    assert spent_nano(redis_cli) <= 300_000_000

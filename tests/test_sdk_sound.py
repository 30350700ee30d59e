"""Speech, transcriptions and translations by the official OpenAI SDK through the gate: the same bytes, and their cost."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from tests.providers.test_openai_sound import wav
from tests.support.gate import ROOT, until
from tests.support.hashes import held_nano, key, spent_nano
from tests.support.inmemory import prices
from tests.support.redis_server import Server
from tests.test_sdk import collected, dump, paired
from tokengate import cutting
from tokengate.cli import replay as command
from tokengate.settings import Settings
from tokengate.simulate import SimulateOptions
from tokengate.simulate.media import MP3_FRAME

TEXT = "The tin robot waters the garden at seven, and again at nine."
FILE = ("evening.wav", wav(12), "audio/wav")


SPOKEN: dict[str, tuple[dict[str, Any], int]] = {
    "by the character": ({"model": "tts-1"}, len(TEXT) * 15_000),
    "by the character, as wav": ({"model": "tts-1", "response_format": "wav"}, len(TEXT) * 15_000),
    "by the character, better": ({"model": "tts-1-hd", "response_format": "opus"}, len(TEXT) * 30_000),
}


@pytest.mark.parametrize(("asked", "nano"), SPOKEN.values(), ids=SPOKEN)
async def test_speech_by_the_character_costs_what_its_text_has(
    store: Server, redis_cli: redis.Redis, asked: dict[str, Any], nano: int
) -> None:
    async with paired(store) as both:
        expected, actual = [
            (await sdk.audio.speech.create(input=TEXT, voice="ash", **asked)).content
            for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert actual == expected
    assert spent_nano(redis_cli) == round(line["estimated_cost"] * 10**9) == nano
    assert (line["assumed"], line["ending"]) == (False, "complete")
    assert "robot" not in str(line)


@pytest.mark.parametrize("sound", ["mp3", "wav", "pcm"])
async def test_speech_by_the_token_is_charged_by_its_length_and_says_so(
    store: Server, redis_cli: redis.Redis, sound: Any
) -> None:
    async with paired(store) as both:
        expected, actual = [
            (
                await sdk.audio.speech.create(
                    model="gpt-4o-mini-tts", input=TEXT, voice="ash", instructions="Whisper.", response_format=sound
                )
            ).content
            for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
        truly = both.provider.total
    assert actual == expected
    assert line["assumed"] is True
    billed = truly["input_tokens"] * 600 + truly["output_tokens"] * 12_000
    assert billed < spent_nano(redis_cli) < billed * 1.5
    assert spent_nano(redis_cli) <= round(line["estimated_cost"] * 10**9)


async def test_speech_in_events_is_charged_by_what_they_tell(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store) as both:
        told = []
        for sdk in (both.direct, both.gated):
            async with sdk.audio.speech.with_streaming_response.create(
                model="gpt-4o-mini-tts", input=TEXT, voice="ash", stream_format="sse"
            ) as response:
                told.append([chunk async for chunk in response.iter_lines()])
        (line,) = await both.gate.log()
        truly = both.provider.total
    assert told[1] == told[0]
    assert spent_nano(redis_cli) == truly["input_tokens"] * 600 + truly["output_tokens"] * 12_000
    assert (line["assumed"], line["output_tokens"]) == (False, truly["output_tokens"])


async def test_sound_is_not_gathered_before_it_goes_on(store: Server) -> None:
    """The provider sends nothing after its first piece until the caller has it."""
    async with paired(store, SimulateOptions(seed=11)) as both:
        async with both.gated.audio.speech.with_streaming_response.create(
            model="tts-1", input=TEXT * 9, voice="ash", extra_headers={"x-simulate-fault": "hang_midway:1"}
        ) as response:
            first = await anext(response.iter_bytes(1024))
        assert first.startswith(b"\xff\xf3")
        assert response.headers["x-tokengate-held-usd"]
        await until(lambda: both.provider.disconnects == 1)
        (line,) = await both.gate.log()
    assert (line["ending"], line["actual_cost"]) == ("cut", round(len(TEXT * 9) * 0.000015, 9))


async def test_whoever_leaves_speech_by_the_token_pays_the_hold(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store, SimulateOptions(seed=11)) as both:
        async with both.gated.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", input=TEXT * 9, voice="ash", extra_headers={"x-simulate-fault": "hang_midway:1"}
        ) as response:
            await anext(response.iter_bytes(1024))
        await until(lambda: both.provider.disconnects == 1)
        (line,) = await both.gate.log()
    assert (line["ending"], line["assumed"]) == ("cut", True)
    assert spent_nano(redis_cli) == round(line["estimated_cost"] * 10**9)
    assert held_nano(redis_cli) == 0


async def test_sound_that_breaks_off_ends_without_words_among_it(store: Server) -> None:
    got = b""

    async def listen(sdk: openai.AsyncOpenAI) -> None:
        nonlocal got
        async with sdk.audio.speech.with_streaming_response.create(
            model="tts-1", input=TEXT * 9, voice="ash", extra_headers={"x-simulate-fault": "reset_midway:2"}
        ) as response:
            async for chunk in response.iter_bytes():
                got += chunk

    async with paired(store) as both:
        with pytest.raises(Exception, match="peer closed connection without sending complete message body"):
            await listen(both.gated)
        await both.gate.idle()
    assert got.replace(b"\0", b"") == b"\xff\xf3\x84\xc4" * -(-len(got) // len(MP3_FRAME))


async def test_a_freeze_ends_sound_in_flight_which_is_charged(
    store: Server, redis_cli: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "FREEZE_SEEN_WITHIN_S", 0.02)

    async def listen(sdk: openai.AsyncOpenAI) -> None:
        async with sdk.audio.speech.with_streaming_response.create(
            model="tts-1", input=TEXT * 9, voice="ash", extra_headers={"x-simulate-fault": "hang_midway:1"}
        ) as response:
            async for _ in response.iter_bytes():
                redis_cli.hset(key("default"), mapping={"frozen": "1", "frozen_reason": "Suspicious activity"})

    async with paired(store, freeze_cuts_streams="true") as both:
        with pytest.raises(Exception, match="peer closed connection without sending complete message body"):
            await listen(both.gated)
        (line,) = await both.gate.log()
    assert (line["ending"], line["reason"]) == ("cut", "session_frozen")
    assert spent_nano(redis_cli) == len(TEXT * 9) * 15_000


# --- transcripts ---


HEARD: dict[str, tuple[dict[str, Any], int | None]] = {
    "json": ({"model": "whisper-1"}, 12 * 100_000),
    "verbose": (
        {"model": "whisper-1", "response_format": "verbose_json", "timestamp_granularities": ["word"]},
        1_200_000,
    ),
    "by the second, newly": ({"model": "gpt-transcribe", "languages": ["en", "de"]}, 12 * 75_000),
    "by the token": ({"model": "gpt-4o-transcribe", "prompt": "A garden.", "include": ["logprobs"]}, None),
    "cheaply": ({"model": "gpt-4o-mini-transcribe", "temperature": 0.2}, None),
    "in pieces": (
        {
            "model": "gpt-4o-transcribe-diarize",
            "response_format": "diarized_json",
            "chunking_strategy": {"type": "server_vad", "threshold": 0.5},
        },
        None,
    ),
}
PRICES = {"gpt-4o-transcribe": (2500, 6000, 10_000), "gpt-4o-mini-transcribe": (1250, 3000, 5000)}
"""Nano-USD a token of text, of sound and of transcript (https://developers.openai.com/api/docs/pricing)."""


@pytest.mark.parametrize(("asked", "nano"), HEARD.values(), ids=HEARD)
async def test_transcripts_are_what_they_are_without_the_gate_and_cost_what_was_told(
    store: Server, redis_cli: redis.Redis, asked: dict[str, Any], nano: int | None
) -> None:
    async with paired(store) as both:
        expected, actual = [
            await sdk.audio.transcriptions.create(file=FILE, **asked) for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert dump(actual) == dump(expected)
    if nano is None:
        text, sound, written = PRICES[asked["model"].removesuffix("-diarize")]
        used, details = actual.usage, actual.usage.input_token_details
        nano = details.text_tokens * text + details.audio_tokens * sound + used.output_tokens * written
    assert spent_nano(redis_cli) == nano <= round(line["estimated_cost"] * 10**9)
    assert held_nano(redis_cli) == 0
    assert line["assumed"] is False
    assert not {"garden", "evening.wav"} & set(str(line).replace("'", " ").split())


@pytest.mark.parametrize("kind", ["text", "srt", "vtt"])
async def test_a_transcript_that_says_nothing_of_its_cost_is_charged_as_long_as_the_file_can_be(
    store: Server, redis_cli: redis.Redis, kind: Any
) -> None:
    async with paired(store) as both:
        expected, actual = [
            await sdk.audio.transcriptions.create(file=FILE, model="whisper-1", response_format=kind)
            for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert actual == expected
    assert line["assumed"] is True
    assert spent_nano(redis_cli) == 13 * 100_000


async def test_a_streamed_transcript_is_what_it_is_without_the_gate_event_by_event(
    store: Server, redis_cli: redis.Redis
) -> None:
    async with paired(store) as both:
        expected, actual = [
            await collected(
                await sdk.audio.transcriptions.create(file=FILE, model="gpt-4o-mini-transcribe", stream=True)
            )
            for sdk in (both.direct, both.gated)
        ]
        (line,) = await both.gate.log()
    assert actual == expected
    assert len(actual) > 2
    usage = actual[-1]["usage"]
    assert spent_nano(redis_cli) == 2 * 1250 + 120 * 3000 + usage["output_tokens"] * 5000
    assert (line["stream"], line["ending"], line["output_tokens"]) == (True, "complete", usage["output_tokens"])


async def test_a_translation_costs_what_a_transcription_costs(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store) as both:
        with pytest.warns(DeprecationWarning, match="deprecated"):
            expected, actual = [
                await sdk.audio.translations.create(file=FILE, model="whisper-1") for sdk in (both.direct, both.gated)
            ]
        await both.gate.idle()
    assert dump(actual) == dump(expected)
    assert spent_nano(redis_cli) == 1_200_000


async def test_the_file_passes_byte_for_byte(store: Server) -> None:
    file = bytes(range(256)) * 40
    async with paired(store) as both:
        for sdk in (both.direct, both.gated):
            await sdk.audio.transcriptions.create(file=("a.webm", file), model="whisper-1")
        plain, gated = both.plain.requests[-1], both.provider.requests[-1]
    boundaries = [dict(each["headers"])["content-type"].partition("boundary=")[2] for each in (plain, gated)]
    assert plain["body"].replace(boundaries[0], boundaries[1]) == gated["body"]


FORM = "multipart/form-data; boundary=xyz"
FIELD = 'Content-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
MALFORMED: dict[str, tuple[str, str]] = {
    "no end": (FORM, f"--xyz\r\n{FIELD}"),
    "no boundary": ("multipart/form-data", f"--xyz\r\n{FIELD}--xyz--\r\n"),
    "two models": (FORM, f"--xyz\r\n{FIELD}--xyz\r\n{FIELD}--xyz--\r\n"),
    "no file": (FORM, f"--xyz\r\n{FIELD}--xyz--\r\n"),
    "json": ("application/json", '{"model":"whisper-1"}'),
    "another form": ("application/x-www-form-urlencoded", "model=whisper-1"),
}


@pytest.mark.parametrize(("kind", "body"), MALFORMED.values(), ids=MALFORMED)
async def test_a_form_that_cannot_be_read_is_refused_in_words_and_costs_nothing(
    store: Server, kind: str, body: str
) -> None:
    async with paired(store) as both, httpx.AsyncClient() as client:
        url = f"{both.gate.base_url}/audio/transcriptions"
        answer = await client.post(url, content=body.encode(), headers={"content-type": kind})
        (line,) = await both.gate.log()
        assert both.provider.received == 0
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "body_invalid")
    assert (line["decision"], line["actual_cost"]) == ("blocked", None)


async def test_a_form_from_a_page_is_refused(store: Server) -> None:
    """A page may send a form anywhere without being asked."""
    async with paired(store) as both:
        with pytest.raises(openai.BadRequestError, match="page"):
            await both.gated.audio.transcriptions.create(
                file=FILE, model="whisper-1", extra_headers={"origin": "https://evil.example"}
            )
        assert both.provider.received == 0


async def test_a_file_beyond_the_bound_is_refused(store: Server) -> None:
    async with paired(store, body_bytes_max=65_536) as both:
        with pytest.raises(openai.APIStatusError) as refused:
            await both.gated.audio.transcriptions.create(file=("a.mp3", bytes(70_000)), model="whisper-1")
        assert both.provider.received == 0
    assert refused.value.status_code == 413


async def test_a_model_without_a_price_for_sound_is_refused(store: Server) -> None:
    async with paired(store) as both:
        for model in ("gpt-4o-mini", "tts-1", "gpt-live-transcribe"):
            with pytest.raises(openai.BadRequestError) as refused:
                await both.gated.audio.transcriptions.create(file=FILE, model=model)
            assert refused.value.code == "model_not_priced"
        for model in ("gpt-4o-mini", "whisper-1"):
            with pytest.raises(openai.BadRequestError) as refused:
                await both.gated.audio.speech.create(input=TEXT, voice="ash", model=model)
            assert refused.value.code == "model_not_priced"
        with pytest.raises(openai.BadRequestError) as refused:
            await both.gated.embeddings.create(input=TEXT, model="whisper-1")
        assert refused.value.code == "model_not_priced"
        assert both.provider.received == 0


async def test_a_session_is_told_by_its_header_as_ever(store: Server, redis_cli: redis.Redis) -> None:
    async with paired(store) as both:
        await both.gated.audio.transcriptions.create(
            file=FILE, model="whisper-1", extra_headers={"X-Session-ID": "my-session"}
        )
        await both.gate.idle()
    assert spent_nano(redis_cli, "my-session") == 1_200_000


async def test_the_log_of_images_and_sound_is_replayed_as_it_was(store: Server) -> None:
    async with paired(store) as both:
        sdk = both.gated
        for kind in ("json", "text"):
            await sdk.audio.transcriptions.create(file=FILE, model="whisper-1", response_format=kind)
        await sdk.audio.transcriptions.create(file=FILE, model="gpt-4o-transcribe")
        for model in ("tts-1", "gpt-4o-mini-tts"):
            await sdk.audio.speech.create(model=model, voice="ash", input=TEXT)
        await sdk.images.generate(model="gpt-image-1.5", prompt=TEXT)
        lines = await both.gate.log()
    assert [line.get("pieces") for line in lines[:5]] == [
        {"second": 12}, {"second": 13}, None, {"character": len(TEXT)}, None,
    ]  # fmt: skip
    reader, running = command.offline(Settings(), prices(None))
    for line in lines:
        entry = reader.read(json.dumps(line).encode())
        assert entry is not None
        await running.feed(entry)
    report = running.finish()
    assert (report.calls, report.blocked) == (6, 0)
    assert report.cost_nano == sum(round(line["actual_cost"] * 10**9) for line in lines)


async def test_the_guide_does_what_it_says(
    store: Server, redis_cli: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "docs" / "how-to" / "images-and-sound.md").read_text(encoding="utf-8")
    code = guide.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    async with paired(store) as both:
        program = code.replace("http://localhost:8000/v1", both.gate.base_url)
        assert program != code
        await asyncio.to_thread(exec, program, {})
        lines = await both.gate.log()
        await both.gated.images.generate(model="gpt-image-2", prompt="A gate")
        (*_, open_) = await both.gate.log()
    assert [line["ending"] for line in lines[:3]] == ["complete"] * 3
    assert f"the gate holds about ${lines[0]['estimated_cost']:.3f};" in guide
    assert f"left open, ${open_['estimated_cost']:.2f}," in guide
    assert spent_nano(redis_cli) > 0

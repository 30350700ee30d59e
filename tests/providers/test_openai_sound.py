"""Speech and transcripts: what is held is never below what a request allows, and what is charged is what was told."""

import io
import struct
import wave
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.providers.openai_calls import cut_off, in_pieces, run
from tests.providers.test_openai_pictures import TABLE, _Head
from tests.test_forms import TYPE, form, part
from tokengate.bodies import MalformedRequest, UnpricedFeature
from tokengate.domain import Usage
from tokengate.pricing import cost, quote
from tokengate.providers.openai.heard import BYTES_PER_SECOND_MIN, seconds_max
from tokengate.providers.openai.speech import Speech
from tokengate.providers.openai.transcripts import Transcriptions
from tokengate.providers.openai.uncapped import UncappedRequest
from tokengate.simulate.media import MP3_FRAME, MP3_FRAME_MS

EVENTS = "text/event-stream"
JSON = "application/json"


def wav(seconds: Fraction | int, hertz: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as writing:
        writing.setnchannels(channels)
        writing.setsampwidth(width)
        writing.setframerate(hertz)
        writing.writeframes(bytes(int(hertz * seconds) * channels * width))
    return made.getvalue()


def transcription(file: bytes, *parts: bytes, model: str = "whisper-1") -> UncappedRequest:
    body = form(part("model", model.encode()), part("file", file, '; filename="a"'), *parts)
    return Transcriptions().parse(body, _Head(TYPE))


def speech(**members: Any) -> UncappedRequest:
    return Speech().parse(orjson.dumps({"model": "tts-1", "voice": "ash", "input": "Good evening"} | members))


def want(request: UncappedRequest) -> int:
    price = TABLE.lookup(request.call.model).price
    assert price is not None
    bounds = quote(price, request.call, 300, output_cap="always")
    assert bounds.floor_nano == bounds.want_nano
    assert not bounds.cappable
    return bounds.want_nano


def charged(request: UncappedRequest, usage: Usage | None) -> int:
    price = TABLE.lookup(request.call.model).price
    assert price is not None
    assert usage is not None
    return cost(price, usage)


# --- how long a file is ---


@settings(max_examples=300)
@given(
    st.integers(0, 4000).map(lambda ms: Fraction(ms, 1000)),
    st.sampled_from([8_000, 16_000, 44_100]),
    st.integers(1, 2),
    st.integers(1, 4),
)
def test_a_wav_is_as_long_as_its_samples(seconds: Fraction, hertz: int, channels: int, width: int) -> None:
    file = wav(seconds, hertz, channels, width)
    assert seconds <= seconds_max(b"x" * 9 + file, 9, 9 + len(file)) <= seconds + 2


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\1\0" + bytes(128)])
def test_an_mp3_is_bounded_by_the_lowest_bit_rate(tag: bytes) -> None:
    file = tag + b"\xff\xf3\x14\xc4" + bytes(32_000 - 4)  # 8 kbit/s
    assert seconds_max(file, 0, len(file)) == 33


def flac(hertz: int, samples: int) -> bytes:
    return b"fLaC\0\0\0\x22" + bytes(10) + (hertz << 44 | 1 << 41 | 15 << 36 | samples).to_bytes(8) + bytes(100)


def opus(granule: int) -> bytes:
    return b"OggS\0\2" + bytes(22) + b"OpusHead" + bytes(300) + b"OggS\0\4" + struct.pack("<q", granule) + bytes(60)


def movie(scale: int, length: int, version: int = 0) -> bytes:
    times = bytes(16) + struct.pack(">IQ", scale, length) if version else bytes(8) + struct.pack(">II", scale, length)
    return b"\0\0\0\x20ftypM4A " + bytes(99) + b"\0\0\0\x6cmvhd" + bytes([version, 0, 0, 0]) + times + bytes(80)


@pytest.mark.parametrize(
    ("file", "seconds"),
    [
        (flac(16_000, 16_000 * 3600), 3600),
        (flac(0, 7), 0),
        (opus(48_000 * 90), 90),
        (opus(-1), 0),
        (movie(1000, 61_500), 62),
        (movie(48_000, 48_000 * 7200, version=1), 7200),
        (movie(0, 5), 0),
        (b"\x1aE\xdf\xa3" + bytes(10 * BYTES_PER_SECOND_MIN), 10),
        (b"\xff\xf1" + bytes(10 * BYTES_PER_SECOND_MIN), 10),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x55\0" + bytes(5 * BYTES_PER_SECOND_MIN), 5),
        (b"", 0),
    ],
    ids=[
        "flac", "flac without a rate", "opus", "opus without an end", "m4a", "m4a with long times", "m4a without a scale",
        "webm", "aac", "a compressed wav", "nothing",
    ],
)  # fmt: skip
def test_other_files_are_as_long_as_they_say_or_as_their_bytes_allow(file: bytes, seconds: int) -> None:
    assert seconds <= seconds_max(file, 0, len(file)) <= seconds + 3


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"RIFF", b"ID3", b"fLaC", b"OggS", b"\0\0\0\0ftypmvhd", b"\xff\xfb"])
)
def test_no_file_breaks_the_bound(noise: bytes, start: bytes) -> None:
    file = start + noise
    assert seconds_max(file, 0, len(file)) >= 1


# --- transcripts: what is held ---


def test_seconds_are_held_for_where_the_model_is_billed_by_them_and_tokens_elsewhere() -> None:
    file = wav(60)
    assert want(transcription(file)) == 61 * 100_000
    assert want(transcription(file, model="gpt-transcribe")) == 61 * 75_000
    tokens = transcription(file, model="gpt-4o-transcribe").call
    assert 610 <= tokens.input_tokens_max < 900
    assert tokens.output_tokens_fixed == 2000


def test_what_is_heard_at_once_is_no_more_than_the_window() -> None:
    file = b"\x1aE\xdf\xa3" + bytes(10**6)
    whole = transcription(file, model="gpt-4o-transcribe").call
    assert 16_000 <= whole.input_tokens_max < 16_500
    pieces = transcription(file, part("chunking_strategy", b"auto"), model="gpt-4o-transcribe").call
    assert pieces.input_tokens_max > 20_000
    assert pieces.output_tokens_fixed > 40_000


def test_a_file_is_no_text() -> None:
    few, more = (
        transcription(wav(1), model="gpt-4o-transcribe"),
        transcription(wav(1, 48_000, 2, 4), part("prompt", b"x" * 500), model="gpt-4o-transcribe"),
    )
    assert 500 <= more.call.input_tokens_max - few.call.input_tokens_max <= 520


MODELS = ("whisper-1", "gpt-transcribe", "gpt-4o-transcribe", "gpt-4o-mini-transcribe", "gpt-4o-transcribe-diarize")


@settings(max_examples=1500)
@given(
    st.sampled_from(MODELS),
    st.integers(1, 9000).map(lambda ms: Fraction(ms, 1000)),
    st.text(max_size=60),
    st.booleans(),
    st.data(),
)
def test_no_transcript_costs_more_than_was_held_for_it(
    model: str, seconds: Fraction, prompt: str, in_pieces: bool, data: st.DataObject
) -> None:
    parts = [part("prompt", prompt.encode())]
    if in_pieces:
        parts.append(part("chunking_strategy[type]", b"server_vad"))
    request = transcription(wav(seconds), *parts, model=model)
    heard = int(seconds * 10) + 1
    told = {
        "type": "tokens", "input_tokens": heard + len(prompt.encode()) + data.draw(st.integers(0, 8)),
        "output_tokens": data.draw(st.integers(0, 2000)), "input_token_details": {"audio_tokens": heard},
    }  # fmt: skip
    if "4o" not in model:
        told = {"type": "duration", "seconds": float(seconds) if data.draw(st.booleans()) else int(-(-seconds // 1))}
    answer = orjson.dumps({"text": "", "usage": told})
    _, reading = run(request.meter(200, JSON), [answer])
    assert charged(request, reading.usage) <= want(request)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ((), MalformedRequest),
        ((part("file", b"RIFF"),), MalformedRequest),
        ((part("other", b"RIFF", '; filename="a"'),), MalformedRequest),
        ((part("file", b"a", '; filename="a"'), part("file", b"b", '; filename="b"')), MalformedRequest),
        ((part("file", b"a", '; filename="a"'), part("model", b"gpt-4o-transcribe")), MalformedRequest),
        ((part("file", b"a", '; filename="a"'), part("model[]", b"gpt-4o-transcribe")), MalformedRequest),
        ((part("file", b"a", '; filename="a"'), part("stream", b"maybe")), MalformedRequest),
        (
            (part("file", b"a", '; filename="a"'), part("known_speaker_references[]", b"https://x/a.wav")),
            UnpricedFeature,
        ),
    ],
)
def test_a_form_that_cannot_be_bounded_is_refused(parts: tuple[bytes, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        Transcriptions().parse(form(part("model", b"whisper-1"), *parts), _Head(TYPE))


def test_a_transcription_is_a_form() -> None:
    with pytest.raises(MalformedRequest, match="content-type"):
        Transcriptions().parse(b'{"model":"whisper-1"}', _Head(b"application/json"))


# --- transcripts: what is charged ---

TOKENS = {
    "type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
    "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
}  # fmt: skip
"""https://developers.openai.com/api/reference/resources/audio (create transcription, example)."""


@pytest.mark.parametrize(
    ("answer", "usage"),
    [
        ({"text": "a", "usage": TOKENS}, Usage(14, 45, input_audio_tokens=10)),
        ({"text": "a", "usage": {"type": "duration", "seconds": 9}}, Usage(calls=(("second", 9),))),
        ({"text": "a", "usage": {"type": "duration", "seconds": 9.01}}, Usage(calls=(("second", 10),))),
        ({"text": "a", "duration": 8.470000267028809}, Usage(calls=(("second", 9),))),
        ({"text": "a", "duration": 8.47, "usage": TOKENS}, Usage(14, 45, input_audio_tokens=10)),
        ({"text": "a"}, None),
        ({"text": "a", "duration": -1}, None),
        ({"text": "a", "duration": "8"}, None),
        ({"text": "a", "duration": 8, "usage": []}, None),
        ({"text": "a", "duration": 8, "usage": {"type": "duration"}}, None),
        ({"text": "a", "usage": TOKENS | {"input_tokens": 0}}, None),
        ({"text": "a", "usage": TOKENS | {"output_tokens": -45}}, None),
        ({"text": "a", "usage": TOKENS | {"input_token_details": 3}}, None),
        (["text"], None),
    ],
)
def test_a_transcript_says_what_it_used(answer: object, usage: Usage | None) -> None:
    whole = orjson.dumps(answer)
    passed, reading = run(transcription(b"a").meter(200, JSON), in_pieces(whole, 7))
    assert passed == whole
    assert (reading.usage, reading.hidden_output) == (usage, usage is None)


def test_text_and_what_breaks_off_cost_the_hold() -> None:
    _, text = run(transcription(b"a").meter(200, "text/plain"), [b"Good evening"])
    assert (text.usage, text.hidden_output) == (None, True)
    assert cut_off(transcription(b"a").meter(200, JSON), [orjson.dumps({"usage": TOKENS})]).hidden_output


def test_a_streamed_transcript_says_it_in_its_last_event() -> None:
    request = transcription(b"a", part("stream", b"true"), model="gpt-4o-transcribe")
    assert request.call.stream
    delta = b'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":"transcript.text.done"}\n\n'
    done = b"data: " + orjson.dumps({"type": "transcript.text.done", "text": "a", "usage": TOKENS}) + b"\n\n"
    assert cut_off(request.meter(200, EVENTS), [delta]).usage is None
    reading = cut_off(request.meter(200, EVENTS), [delta, done])
    assert (reading.usage, reading.complete) == (Usage(14, 45, input_audio_tokens=10), True)
    passed, reading = run(request.meter(200, EVENTS), in_pieces(delta + done.rstrip(), 11))
    assert passed == delta + done.rstrip()
    assert reading.usage == Usage(14, 45, input_audio_tokens=10)


# --- speech ---


@pytest.mark.parametrize(
    ("model", "text", "nano"),
    [("tts-1", "a" * 1000, 15_000_000), ("tts-1-hd", "ü" * 10, 300_000), ("tts-1-1106", "👋", 15_000)],
)
def test_what_is_billed_by_the_character_is_known_before(model: str, text: str, nano: int) -> None:
    request = speech(model=model, input=text)
    assert want(request) == nano
    for meter in (request.meter(200, "audio/mpeg"), request.meter(200, "audio/flac")):
        reading = cut_off(meter, [b"abc"])
        assert charged(request, reading.usage) == nano
        assert not reading.complete
    assert run(request.meter(200, "audio/mpeg"), [b"abc"])[1].complete


@settings(max_examples=1000)
@given(st.text(min_size=1, max_size=200), st.none() | st.text(max_size=40), st.integers(1, 100))
def test_no_speech_of_a_believable_pace_costs_more_than_was_held_for_it(
    text: str, instructions: str | None, ms_a_byte: int
) -> None:
    asked = {"instructions": instructions} if instructions is not None else {}
    request = speech(model="gpt-4o-mini-tts", input=text, **asked)
    ms = max(1, len(text.encode()) * ms_a_byte * 10)
    _, reading = run(request.meter(200, "audio/mpeg"), [MP3_FRAME * max(1, ms // MP3_FRAME_MS)])
    assert reading.assumed
    assert charged(request, reading.usage) <= want(request)


def test_speech_that_is_slowed_down_is_longer() -> None:
    asked = {"model": "gpt-4o-mini-tts", "input": "a" * 500}
    slow, usual = speech(speed=0.25, **asked).call, speech(speed=1.5, **asked).call
    assert slow.output_tokens_fixed == 4 * usual.output_tokens_fixed == 4 * 21 * 500


@pytest.mark.parametrize("size", [1, 3, 100, 4096])
def test_an_mp3_is_as_long_as_its_frames(size: int) -> None:
    sound = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + MP3_FRAME * 250  # 6 s
    meter = speech(model="gpt-4o-mini-tts", input="Hello").meter(200, "audio/mpeg")
    passed, reading = run(meter, in_pieces(sound, size))
    assert passed == sound
    assert reading.usage is not None
    assert reading.usage.output_tokens == 126


@pytest.mark.parametrize(
    ("sound", "content", "tokens"),
    [
        ("pcm", bytes(48_000 * 2), 42),
        ("wav", wav(2, 24_000), 43),
        ("wav", wav(2, 8_000), 43),
        ("mp3", b"\xff\xfb\x90\xc4" + bytes(413), 1),  # 417 bytes at 128 kbit/s and 44.1 kHz are 26 ms
        ("mp3", b"no mp3 at all", None),
        ("mp3", MP3_FRAME * 9 + b"lost, lost, lost", None),
        ("mp3", b"\xff\xf3\xf4\xc4" + bytes(188), None),
        ("mp3", b"", None),
        ("opus", b"OggS" * 9, None),
        (7, b"abc", None),
    ],
)
def test_sound_is_charged_by_its_length_or_by_the_hold(sound: object, content: bytes, tokens: int | None) -> None:
    meter = speech(model="gpt-4o-mini-tts", response_format=sound).meter(200, "audio/x")
    _, reading = run(meter, [content])
    assert (reading.usage and reading.usage.output_tokens) == tokens
    assert reading.hidden_output is (tokens is None)
    assert cut_off(speech(model="gpt-4o-mini-tts").meter(200, "audio/x"), [MP3_FRAME * 9]).hidden_output


def test_speech_in_events_says_what_it_used() -> None:
    delta = b'data: {"type":"speech.audio.delta","audio":"AAAA"}\n\n'
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    done = b"data: " + orjson.dumps({"type": "speech.audio.done", "usage": usage}) + b"\n\n"
    request = speech(model="gpt-4o-mini-tts", stream_format="sse")
    passed, reading = run(request.meter(200, EVENTS), [delta, done])
    assert passed == delta + done
    assert reading.usage == Usage(14, 101, output_audio_tokens=101)
    assert not reading.assumed
    assert cut_off(request.meter(200, EVENTS), [delta]).hidden_output
    _, untold = run(request.meter(200, EVENTS), [delta, b'data: {"type":"speech.audio.done"}'])
    assert (untold.usage, untold.complete, untold.hidden_output) == (None, True, True)


@pytest.mark.parametrize(
    "asked", [{"input": ""}, {"input": ["a"]}, {"Input": "a"}, {"stream_format": "ws"}, {"model": 7}]
)
def test_speech_that_is_not_asked_for_rightly_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        speech(**asked)

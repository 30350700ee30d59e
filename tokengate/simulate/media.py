"""Images and sound of the simulated provider: a request in, the whole answer in pieces out, and what it bills.

Pure but for the random numbers. Shapes are those of the official SDK's types (`openai/types/images_response.py`,
`openai/types/image_gen_completed_event.py`, `openai/types/audio/`). What an image has in tokens is what
OpenAI's guide and its calculator say; sound is silence of a length that its text would take. Forms are read by Python's
own parser of mail, not by the gate's.
"""

import base64
import email.parser
import email.policy
import io
import math
import struct
import time
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from tokengate.simulate.answers import Refused
from tokengate.simulate.options import FaultKind, SimulateOptions
from tokengate.simulate.text import Count, prose

GENERATIONS: Final = "/v1/images/generations"
EDITS: Final = "/v1/images/edits"
SPEECH: Final = "/v1/audio/speech"
TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
TRANSLATIONS: Final = "/v1/audio/translations"
PATHS: Final = frozenset({GENERATIONS, EDITS, SPEECH, TRANSCRIPTIONS, TRANSLATIONS})

PCM_BYTES_PER_SECOND: Final = 48_000
"""24 kHz, one channel, 16 bits: what OpenAI speaks."""
AUDIO_TOKENS_PER_SECOND: Final = 20
CHARACTERS_PER_SECOND: Final = 15
MP3_FRAME: Final = b"\xff\xf3\x84\xc4" + bytes(188)
"""A frame of 24 ms at 24 kHz and 64 kbit/s, silent."""
MP3_FRAME_MS: Final = 24
FILE_BYTES_PER_SECOND: Final = 16_000
"""What a file that is no WAV is taken to have: 128 kbit/s."""
HEARD_TOKENS_PER_SECOND: Final = 10
EDITED_TOKENS: Final = 323
PARTIAL_TOKENS: Final = 100
_PIECE_BYTES: Final = 4096
_IMAGE_BYTES: Final = 3_000
_TABLE: Final = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1056, "1024x1536": 1584, "1536x1024": 1568},
    "high": {"1024x1024": 4160, "1024x1536": 6240, "1536x1024": 6208},
}
_TABLE_OF_2: Final = {
    "low": {"1024x1024": 196, "1024x1536": 158, "1536x1024": 158},
    "medium": {"1024x1024": 1756, "1024x1536": 1372, "1536x1024": 1372},
    "high": {"1024x1024": 7024, "1024x1536": 5488, "1536x1024": 5488},
}
_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_SOUNDS: Final = {
    "mp3": "audio/mpeg", "opus": "audio/opus", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
    "pcm": "audio/pcm",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: its headers, its body in the pieces in which it is sent, and what it bills."""

    headers: dict[str, str]
    pieces: tuple[bytes, ...]
    streamed: bool
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: its fields, and the bytes of its files."""

    fields: dict[str, Any]
    files: tuple[bytes, ...]

    def number(self, name: str, default: int) -> int:
        return int(self.fields.get(name) or default)

    @property
    def stream(self) -> bool:
        return self.fields.get("stream") in (True, "true")


def read(raw: bytes, headers: Mapping[bytes, bytes]) -> Asked:
    """Read a body, JSON or a form.

    Raises:
        Refused: it is neither, or names no model.
    """
    kind = headers.get(b"content-type", b"")
    if kind.startswith(b"multipart/form-data"):
        asked = _read_form(raw, kind)
    else:
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError:
            fields = None
        if not isinstance(fields, dict):
            raise Refused("We could not parse the JSON body of your request.")
        asked = Asked(fields, ())
    if not isinstance(asked.fields.get("model"), str) or not asked.fields["model"]:
        raise Refused("you must provide a model parameter")
    return asked


def _read_form(raw: bytes, kind: bytes) -> Asked:
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(b"content-type: " + kind + b"\r\n\r\n" + raw)
    fields: dict[str, Any] = {}
    files: list[bytes] = []
    for part in message.iter_parts():
        content = part.get_payload(decode=True)
        name = part.get_param("name", header="content-disposition")
        if not isinstance(content, bytes) or not isinstance(name, str):
            raise Refused("Could not parse multipart form.")
        if part.get_filename() is not None:
            files.append(content)
        else:
            fields[name] = content.decode()
    return Asked(fields, tuple(files))


def answer(path: str, asked: Asked, options: SimulateOptions, rng: Random, count: Count, fault: str | None) -> Answer:
    """What is answered to a request.

    Raises:
        Refused: as the provider would.
    """
    tells = fault != FaultKind.NO_USAGE
    if path in (GENERATIONS, EDITS):
        return _images(path, asked, options, rng, count, tells=tells)
    if path == SPEECH:
        return _speech(asked, count, tells=tells)
    return _transcript(asked, options, rng, tells=tells)


# --- images ---


def _images(path: str, asked: Asked, options: SimulateOptions, rng: Random, count: Count, *, tells: bool) -> Answer:
    prompt = asked.fields.get("prompt")
    if not isinstance(prompt, str):
        raise Refused("Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter")
    images, partial = asked.number("n", 1), asked.number("partial_images", 0) if asked.stream else 0
    edited = len(asked.files) or len(asked.fields.get("images") or ())
    quality, size = _chosen(asked.fields, rng)
    table = _TABLE_OF_2 if asked.fields["model"].startswith("gpt-image-2") else _TABLE
    tokens = options.output_tokens or table[quality][size]
    usages = [_image_usage(count(prompt), edited * EDITED_TOKENS, tokens + partial * PARTIAL_TOKENS)] * images
    shape = {"background": "opaque", "output_format": "png", "quality": quality, "size": size}
    drawn = [base64.b64encode(rng.randbytes(_IMAGE_BYTES)).decode() for _ in range(images)]
    total = {"input_tokens": 0, "output_tokens": 0}
    for usage in usages:
        total = {name: total[name] + usage[name] for name in total}
    if asked.stream:
        kind = "image_generation" if path == GENERATIONS else "image_edit"
        pieces = tuple(_image_events(kind, drawn, partial, shape, usages if tells else []))
        return Answer(_EVENTS, pieces, True, **total)
    details = [usage["input_tokens_details"] for usage in usages]
    usage = total | {
        "total_tokens": sum(total.values()),
        "input_tokens_details": {name: sum(each[name] for each in details) for name in ("text_tokens", "image_tokens")},
    }
    body: dict[str, Any] = {"created": int(time.time())} | shape | {"data": [{"b64_json": image} for image in drawn]}
    return Answer(_JSON, (orjson.dumps(body | ({"usage": usage} if tells else {})),), False, **total)


def _chosen(fields: Mapping[str, Any], rng: Random) -> tuple[str, str]:
    quality, size = fields.get("quality"), fields.get("size")
    quality = quality if quality in _TABLE else rng.choice(sorted(_TABLE))
    return str(quality), str(size if size in _TABLE["low"] else rng.choice(sorted(_TABLE["low"])))


def _image_usage(text: int, images: int, output: int) -> dict[str, Any]:
    return {
        "input_tokens": text + images,
        "input_tokens_details": {"text_tokens": text, "image_tokens": images},
        "output_tokens": output,
        "total_tokens": text + images + output,
    }


def _image_events(
    kind: str, drawn: list[str], partial: int, shape: dict[str, str], usages: list[dict[str, Any]]
) -> Iterator[bytes]:
    for index, image in enumerate(drawn):
        common = {"created_at": int(time.time())} | shape
        for number in range(partial):
            yield _event({"type": f"{kind}.partial_image", "partial_image_index": number, "b64_json": image} | common)
        told = {"usage": usages[index]} if usages else {}
        yield _event({"type": f"{kind}.completed", "b64_json": image} | common | told)


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (str(value["type"]).encode(), orjson.dumps(value))


# --- sound ---


def _speech(asked: Asked, count: Count, *, tells: bool) -> Answer:
    text = asked.fields.get("input")
    if not isinstance(text, str) or not text:
        raise Refused("Missing required parameter: 'input'.", "input", "missing_required_parameter")
    kind = asked.fields.get("response_format") or "mp3"
    if kind not in _SOUNDS:
        raise Refused(f"Invalid response_format {kind!r}.", "response_format")
    ms = math.ceil(len(text) * 1000 / CHARACTERS_PER_SECOND)
    sound = _sound(kind, ms)
    spoken = math.ceil(ms * AUDIO_TOKENS_PER_SECOND / 1000)
    heard = count(text) + count(str(asked.fields.get("instructions") or ""))
    if asked.fields.get("stream_format") != "sse":
        pieces = tuple(sound[at : at + _PIECE_BYTES] for at in range(0, len(sound), _PIECE_BYTES))
        return Answer({"content-type": _SOUNDS[kind]}, pieces, True, heard, spoken)
    usage = {"input_tokens": heard, "output_tokens": spoken, "total_tokens": heard + spoken}
    events = [
        _event({"type": "speech.audio.delta", "audio": base64.b64encode(sound[at : at + _PIECE_BYTES]).decode()})
        for at in range(0, len(sound), _PIECE_BYTES)
    ]
    events.append(_event({"type": "speech.audio.done"} | ({"usage": usage} if tells else {})))
    return Answer(_EVENTS, tuple(events), True, heard, spoken)


def _sound(kind: str, ms: int) -> bytes:
    pcm = bytes(PCM_BYTES_PER_SECOND * ms // 1000 // 2 * 2)
    if kind == "pcm":
        return pcm
    if kind == "wav":
        unknown = 0xFFFFFFFF  # as OpenAI does, which does not know the length when it begins
        form = struct.pack("<HHIIHH", 1, 1, 24_000, PCM_BYTES_PER_SECOND, 2, 16)
        return b"RIFF%bWAVEfmt %b%bdata%b" % (
            struct.pack("<I", unknown), struct.pack("<I", len(form)), form, struct.pack("<I", unknown)
        ) + pcm  # fmt: skip
    if kind == "mp3":
        return MP3_FRAME * -(-ms // MP3_FRAME_MS)
    return kind.encode() + bytes(ms)


def _transcript(asked: Asked, options: SimulateOptions, rng: Random, *, tells: bool) -> Answer:
    if len(asked.files) != 1:
        raise Refused("Missing required parameter: 'file'.", "file", "missing_required_parameter")
    seconds = _seconds(asked.files[0])
    words = prose(options.output_tokens or max(1, math.ceil(seconds * 2)), rng)
    text, kind = "".join(words), asked.fields.get("response_format") or "json"
    if asked.fields["model"].startswith("whisper") or asked.fields["model"] == "gpt-transcribe":
        usage: dict[str, Any] = {"type": "duration", "seconds": math.ceil(seconds)}
        tokens = (0, 0)
    else:
        heard = math.ceil(seconds * HEARD_TOKENS_PER_SECOND)
        tokens = heard + 2, len(words)
        usage = {
            "type": "tokens", "input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens),
            "input_token_details": {"audio_tokens": heard, "text_tokens": 2},
        }  # fmt: skip
    told = {"usage": usage} if tells else {}
    if asked.stream and usage["type"] == "tokens":
        events = [_event({"type": "transcript.text.delta", "delta": word}) for word in words]
        events.append(_event({"type": "transcript.text.done", "text": text} | told))
        return Answer(_EVENTS, tuple(events), True, *tokens)
    if kind == "json":
        return Answer(_JSON, (orjson.dumps({"text": text} | told),), False, *tokens)
    if kind in ("verbose_json", "diarized_json"):
        body = {"task": "transcribe", "language": "english", "duration": seconds, "text": text, "segments": []}
        return Answer(_JSON, (orjson.dumps(body | told),), False, *tokens)
    return Answer({"content-type": "text/plain; charset=utf-8"}, (text.encode(),), False, *tokens)


def _seconds(sound: bytes) -> float:
    try:
        with wave.open(io.BytesIO(sound)) as read_wave:
            return float(read_wave.getnframes() / read_wave.getframerate())
    except (wave.Error, EOFError):
        return len(sound) / FILE_BYTES_PER_SECOND

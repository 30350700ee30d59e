"""Generated calls of OpenAI's chats, completions, embeddings and responses.

What is billed: texts by https://github.com/openai/openai-cookbook (How to count tokens with tiktoken), images by
https://developers.openai.com/api/docs/guides/images-vision, sound by the guide on realtime costs, and tools of the
provider's own by https://developers.openai.com/api/docs/pricing.
"""

import base64
import math
from random import Random
from typing import Any, Final

import orjson

from tests.providers.generated.words import Allowed, Asked, Billed, models, output_max, png, row_of, shown, text
from tokengate.providers import NO_HEAD
from tokengate.providers.openai.requests import ChatCompletions, Completions, Embeddings
from tokengate.providers.openai.responses import Responses

CHATTING: Final = [name for name in models("openai") if name.startswith(("gpt-", "o1", "o3", "o4", "ft:", "chatgpt"))]
TALKING: Final = ["gpt-audio", "gpt-audio-mini", "gpt-4o-audio-preview", "gpt-4o-mini-audio-preview"]
NOT_CHATTING: Final = ("image", "realtime", "transcribe", "tts", "deep-research")
COMPLETING: Final = ["gpt-3.5-turbo-instruct", "davinci-002", "babbage-002", "ft:davinci-002"]
EMBEDDING: Final = ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"]
PATCHED: Final = {"gpt-4.1-mini": 1.62, "gpt-4.1-nano": 2.46, "gpt-5-mini": 1.62, "gpt-5-nano": 2.46, "o4-mini": 1.72}
TILED: Final = {"gpt-4o": (85, 170), "gpt-4o-mini": (2833, 5667), "gpt-4.1": (85, 170), "gpt-5": (70, 140), "o1": (75, 150), "o3": (75, 150)}  # fmt: skip


def chat(random: Random) -> Asked:
    allowed = Allowed(text=3)
    talks = random.random() < 0.1
    model = random.choice(TALKING) if talks else random.choice(CHATTING)
    while any(word in model for word in NOT_CHATTING):
        model = random.choice(CHATTING)
    document: dict[str, Any] = {"model": model, "messages": []}
    for _ in range(random.choice((1, 1, 2, 5))):
        document["messages"].append(_message(random, model, allowed, talks=talks))
    if random.random() < 0.3:
        _tools(random, document, allowed)
    if random.random() < 0.1:
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {text(random): {"type": "string", "description": text(random)}},
        }
        document["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        allowed.text += (
            shown(*schema["properties"], *(each["description"] for each in schema["properties"].values())) + 12
        )
    if random.random() < 0.5:
        document[random.choice(("max_tokens", "max_completion_tokens"))] = random.choice((1, 16, 500, 9000))
    if random.random() < 0.2:
        document["n"] = allowed.answers = random.choice((1, 2, 8))
    if random.random() < 0.05:
        predicted = text(random)
        document["prediction"] = {"type": "content", "content": predicted}
        allowed.beside = shown(predicted) * allowed.answers
        allowed.text += shown(predicted)
    if talks and random.random() < 0.5:
        document["modalities"], document["audio"] = ["text", "audio"], {"voice": "alloy", "format": "wav"}
        allowed.speaks = True
    _others(random, document)
    _tier(random, document, allowed)
    stream = _streams(random, document)
    return Asked("openai", model, ChatCompletions(), NO_HEAD, document, stream, allowed)


def _message(random: Random, model: str, allowed: Allowed, *, talks: bool) -> dict[str, Any]:
    said = text(random)
    allowed.text += shown(said) + 4
    kind = random.random()
    if kind < 0.6:
        return {"role": random.choice(("system", "developer", "user", "assistant")), "content": said}
    if kind < 0.75:
        arguments = text(random)
        allowed.text += shown(arguments) + 8
        call = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": arguments}}
        return {"role": "assistant", "content": said, "tool_calls": [call]}
    if kind < 0.85:
        return {"role": "tool", "tool_call_id": "call_1", "content": said}
    parts: list[dict[str, Any]] = [{"type": "text", "text": said}]
    if talks:
        parts.append(_sound(random, allowed))
    elif model in PATCHED or model in TILED:
        width, height = random.choice(((20, 20), (512, 512), (1024, 1024), (2000, 900), (4000, 4000)))
        detail = random.choice(("high", "auto"))
        url = f"data:image/png;base64,{png(width, height)}"
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": detail}})
        allowed.images += image_tokens(model, width, height)
    return {"role": "user", "content": parts}


def image_tokens(model: str, width: int, height: int) -> int:
    """At high detail, by the guide."""
    if model in PATCHED:
        patches = min(1536, math.ceil(width / 32) * math.ceil(height / 32))
        return math.floor(patches * PATCHED[model])
    base, tile = TILED[model]
    shrink = min(1.0, 2048 / max(width, height))
    width, height = int(width * shrink), int(height * shrink)
    shrink = min(1.0, 768 / min(width, height))
    return base + tile * math.ceil(int(width * shrink) / 512) * math.ceil(int(height * shrink) / 512)


def _sound(random: Random, allowed: Allowed) -> dict[str, Any]:
    if random.random() < 0.5:
        kbits, size = random.choice((8, 32, 128)), random.choice((10, 5000))
        allowed.audio += math.ceil(size * 8 / (kbits * 1000) * 10)
        return {
            "type": "input_audio",
            "input_audio": {"data": base64.b64encode(b"\0" * size).decode(), "format": "mp3"},
        }
    rate, channels, size = random.choice((8000, 24000)), random.choice((1, 2)), random.choice((100, 48_000))
    layout = (
        b"fmt " + (16).to_bytes(4, "little") + b"\1\0" + channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    )
    layout += (rate * channels * 2).to_bytes(4, "little") + (channels * 2).to_bytes(2, "little") + b"\x10\0"
    data = b"RIFF\0\0\0\0WAVE" + layout + b"data" + size.to_bytes(4, "little") + b"\0" * size
    allowed.audio += math.ceil(size / (rate * channels * 2) * 10)
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def _tools(random: Random, document: dict[str, Any], allowed: Allowed, *, flat: bool = False) -> None:
    """Functions, whose definitions are 7 tokens and their texts, 3 a property and 3 an enumerated value, and 12 after."""
    tools = document.setdefault("tools", [])
    for _ in range(random.choice((1, 3))):
        name, about, choices = "find", text(random), [text(random) for _ in range(random.choice((0, 4)))]
        property_ = {"type": "string", "description": about, **({"enum": choices} if choices else {})}
        function = {
            "name": name,
            "description": about,
            "parameters": {"type": "object", "properties": {"q": property_}},
        }
        tools.append({"type": "function", **function} if flat else {"type": "function", "function": function})
        allowed.text += shown(name, about, about, "q", *choices) + 3 * len(choices) + 3 + 10 + 12


def _others(random: Random, document: dict[str, Any]) -> None:
    """Members that change nothing about the price."""
    members: dict[str, Any] = {
        "seed": 7, "logprobs": True, "store": True, "metadata": {"a": "b"}, "user": "u", "temperature": 0.5,
        "safety_identifier": "s", "prompt_cache_key": "k", "reasoning_effort": "low", "logit_bias": {"1": 2},
    }  # fmt: skip
    document |= {name: value for name, value in members.items() if random.random() < 0.05}


def _tier(random: Random, document: dict[str, Any], allowed: Allowed) -> None:
    asked = random.choice((None, None, None, "auto", "default", "flex", "priority", "fast"))
    if asked is None:
        return
    document["service_tier"] = asked
    has = row_of("openai", document["model"]).get("service_tiers", {})
    if asked == "flex" and "flex" in has:
        allowed.tiers = ("flex",)
    elif asked in ("priority", "fast") and "priority" in has:
        allowed.tiers = ("priority", "")


def _streams(random: Random, document: dict[str, Any]) -> bool:
    if random.random() < 0.4:
        document["stream"] = True
        if random.random() < 0.5:
            document["stream_options"] = {"include_usage": True}
        return True
    return False


def completion(random: Random) -> Asked:
    allowed, model = Allowed(), random.choice(COMPLETING)
    document: dict[str, Any] = {"model": model, "echo": random.random() < 0.1}
    prompts = random.choice((1, 1, 2, 20))
    if prompts == 1 and random.random() < 0.3:
        document["prompt"] = [random.randrange(50_000) for _ in range(random.choice((1, 99)))]
        allowed.text = len(document["prompt"])
    else:
        document["prompt"] = [text(random) for _ in range(prompts)]
        allowed.text = shown(*document["prompt"])
        if prompts == 1:
            document["prompt"] = document["prompt"][0]
    if random.random() < 0.2:
        document["suffix"] = text(random)
        allowed.text += shown(document["suffix"])
    shown_answers, tried = random.choice(((1, 1), (2, 2), (1, 5)))
    if (shown_answers, tried) != (1, 1):
        document["n"], document["best_of"] = shown_answers, tried
    allowed.answers = tried * prompts
    if random.random() < 0.6:
        document["max_tokens"] = random.choice((1, 16, 500))
    return Asked("openai", model, Completions(), NO_HEAD, document, _streams(random, document), allowed)


def embedding(random: Random) -> Asked:
    allowed, document = Allowed(output=False), {"model": random.choice(EMBEDDING)}
    inputs: list[Any] = [text(random) for _ in range(random.choice((1, 3, 50)))]
    allowed.text = shown(*inputs)
    if random.random() < 0.2:
        inputs = [[random.randrange(100_000) for _ in range(random.randint(1, 60))] for _ in inputs]
        allowed.text = sum(map(len, inputs))
    members: dict[str, Any] = {"input": inputs[0] if len(inputs) == 1 else inputs, "user": "u"}
    members |= random.choice(({}, {"encoding_format": "base64"}, {"dimensions": 256, "encoding_format": "float"}))
    return Asked("openai", document["model"], Embeddings(), NO_HEAD, document | members, False, allowed)


SEARCHING: Final = [name for name in CHATTING if "web_search" in row_of("openai", name).get("fees", {})]


def response(random: Random) -> Asked:
    allowed, model = Allowed(text=3), random.choice(SEARCHING + CHATTING)
    while any(word in model for word in (*NOT_CHATTING, "search")):
        model = random.choice(SEARCHING)
    document: dict[str, Any] = {"model": model}
    if random.random() < 0.3:
        document["input"] = text(random)
        allowed.text += shown(document["input"]) + 4
    else:
        document["input"] = [_item(random, model, allowed) for _ in range(random.choice((1, 2, 6)))]
    if random.random() < 0.3:
        document["instructions"] = text(random)
        allowed.text += shown(document["instructions"]) + 4
    if random.random() < 0.15:
        name, value = random.choice((("previous_response_id", "resp_1"), ("conversation", "conv_1"), ("prompt", {"id": "pmpt_1"})))  # fmt: skip
        document[name] = value
        allowed.windows = 1
    if random.random() < 0.3:
        _tools(random, document, allowed, flat=True)
    if random.random() < 0.3:
        most = document["max_tool_calls"] = random.choice((1, 2, 7))
        kinds = random.choice((("web_search",), ("file_search",), ("web_search_preview", "file_search")))
        document.setdefault("tools", []).extend(
            {"type": kind, **({"vector_store_ids": ["vs_1"]} if kind == "file_search" else {})} for kind in kinds
        )
        allowed.searches = {kind.removesuffix("_preview"): most for kind in kinds}
        allowed.searches_together = most
        # The model is run again on what each call found, with all that it saw before.
        allowed.windows = max(1, allowed.windows) + most
    if random.random() < 0.5:
        document["max_output_tokens"] = random.choice((16, 500, 9000))
    _others(random, document)
    _tier(random, document, allowed)
    stream = random.random() < 0.4
    if stream:
        document["stream"] = True
    return Asked("openai", model, Responses(), NO_HEAD, document, stream, allowed)


def _item(random: Random, model: str, allowed: Allowed) -> dict[str, Any]:
    said = text(random)
    allowed.text += shown(said) + 4
    kind = random.randrange(6)
    if kind == 0:
        allowed.text += shown("find") + 8
        return {"type": "function_call", "call_id": "c", "name": "find", "arguments": said}
    if kind == 1:
        return {"type": "function_call_output", "call_id": "c", "output": said}
    if kind == 2 and (model in PATCHED or model in TILED):
        width, height = random.choice(((20, 20), (1024, 1024), (4000, 900)))
        allowed.images += image_tokens(model, width, height)
        image = {"type": "input_image", "detail": "high", "image_url": f"data:image/png;base64,{png(width, height)}"}
        return {"role": "user", "content": [{"type": "input_text", "text": said}, image]}
    if kind == 3 and random.random() < 0.2:
        allowed.windows = 1
        file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}
        return {"role": "user", "content": [{"type": "input_text", "text": said}, file]}
    return {"role": "user", "content": said}


# --- what is obeyed, and what is answered ---


def cap_of(asked: Asked, sent: dict[str, Any]) -> int:
    """The cap that the provider obeys: the larger one, if there are two."""
    names = ("max_output_tokens",) if asked.endpoint.name == "responses" else ("max_tokens", "max_completion_tokens")
    caps = [sent[name] for name in names if sent.get(name) is not None]
    return max(caps) if caps else output_max("openai", asked.model)


def answer(asked: Asked, billed: Billed) -> bytes:
    """The answer as it comes: a document, or a stream of events."""
    tier = billed.tier or "default"
    if asked.endpoint.name == "responses":
        return _response(asked, billed, tier)
    usage: dict[str, Any] = {"prompt_tokens": billed.input, "total_tokens": billed.input + billed.output}
    if asked.allowed.output:
        usage["completion_tokens"] = billed.output
        usage["prompt_tokens_details"] = {
            "cached_tokens": billed.read, "cache_write_tokens": billed.written, "audio_tokens": billed.audio,
            "image_tokens": billed.images,
        }  # fmt: skip
        usage["completion_tokens_details"] = {"reasoning_tokens": billed.reasoning, "audio_tokens": billed.spoken}
    whole = {"id": "x", "model": asked.model, "service_tier": tier, "choices": [], "usage": usage}
    if not asked.stream:
        return orjson.dumps(whole)
    shown_ = {"model": asked.model, "choices": [{"index": 0, "delta": {"content": "Gates"}}], "usage": None}
    return b"".join(b"data: %b\n\n" % event for event in (orjson.dumps(shown_), orjson.dumps(whole), b"[DONE]"))


def _response(asked: Asked, billed: Billed, tier: str) -> bytes:
    kinds = {"web_search": "web_search_call", "file_search": "file_search_call"}
    whole = {
        "id": "resp_1", "model": asked.model, "service_tier": tier,
        "output": [{"type": kinds[name], "status": "completed"} for name, calls in billed.fees.items() for _ in range(calls)],
        "usage": {
            "input_tokens": billed.input, "output_tokens": billed.output,
            "input_tokens_details": {"cached_tokens": billed.read, "cache_write_tokens": billed.written},
            "output_tokens_details": {"reasoning_tokens": billed.reasoning},
        },
    }  # fmt: skip
    if not asked.stream:
        return orjson.dumps(whole)
    events = (
        {"type": "response.output_text.delta", "delta": "Gates"},
        {"type": "response.completed", "response": whole},
    )
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(event["type"]).encode(), orjson.dumps(event)) for event in events)

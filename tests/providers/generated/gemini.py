"""Generated calls of Gemini's generateContent.

What is billed, by https://ai.google.dev/gemini-api/docs: texts and media (tokens, image-understanding), thoughts as
output (thinking), and what is kept in a cache as input (caching).
"""

import math
from random import Random
from types import MappingProxyType
from typing import Any, Final

import orjson

from tests.providers.generated.words import Allowed, Asked, Billed, models, output_max, png, row_of, shown, text
from tokengate.providers.gemini.requests import GenerateContent

MODELS: Final = [name for name in models("google") if name.startswith("gemini") and "embedding" not in name]
HEARING: Final = [name for name in MODELS if "audio_input" in row_of("google", name)]


class At:
    """The head of a request."""

    query = b""
    content_type: bytes | None = None
    given: MappingProxyType[bytes, bytes] = MappingProxyType({})

    def __init__(self, path: str) -> None:
        self.raw_path = path.encode()


def generation(random: Random) -> Asked:
    allowed, model = Allowed(text=3), random.choice(MODELS)
    hears = model in HEARING and random.random() < 0.3
    document: dict[str, Any] = {
        "contents": [_content(random, allowed, hears=hears) for _ in range(random.choice((1, 3)))]
    }
    if random.random() < 0.3:
        said = text(random)
        document[random.choice(("systemInstruction", "system_instruction"))] = {"parts": [{"text": said}]}
        allowed.text += shown(said) + 4
    if random.random() < 0.1:
        document["cachedContent"] = "cachedContents/1"
        allowed.windows = 1
    if random.random() < 0.3:
        about = text(random)
        function = {
            "name": "find",
            "description": about,
            "parameters": {"type": "OBJECT", "properties": {"q": {"type": "STRING"}}},
        }
        document["tools"] = [{"functionDeclarations": [function]}]
        allowed.text += shown("find", about, "OBJECT", "q", "STRING") + 20
    if model.startswith(("gemini-2.5-", "gemini-2.0-")) and random.random() < 0.5:
        document.setdefault("tools", []).append({random.choice(("googleSearch", "google_search")): {}})
        allowed.windows += 1
        allowed.searches["web_search"] = 1
    settings: dict[str, Any] = {}
    if random.random() < 0.5:
        settings[random.choice(("maxOutputTokens", "max_output_tokens"))] = random.choice((1, 16, 500, 9000))
    if random.random() < 0.2:
        settings["candidateCount"] = allowed.answers = random.choice((1, 2, 8))
    if random.random() < 0.2:
        settings["thinkingConfig"] = {"thinkingBudget": 500, "includeThoughts": True}
    if settings:
        document[random.choice(("generationConfig", "generation_config"))] = settings
    _tiers(random, document, allowed, row_of("google", model).get("service_tiers", {}))
    stream = random.random() < 0.4
    verb = "streamGenerateContent" if stream else "generateContent"
    head = At(f"/v1beta/models/{model}:{verb}")
    return Asked("google", model, GenerateContent(stream=stream), head, document, stream, allowed)


def _content(random: Random, allowed: Allowed, *, hears: bool) -> dict[str, Any]:
    said = text(random)
    allowed.text += shown(said) + 4
    parts: list[dict[str, Any]] = [{"text": said}]
    kind = random.randrange(6)
    if kind == 0:
        width, height = random.choice(((20, 20), (384, 384), (960, 540), (3000, 3000)))
        parts.append({"inlineData": {"mimeType": "image/png", "data": png(width, height)}})
        allowed.text += image_tokens(width, height)
    elif kind == 1 and hears:  # a model hears no more than its window, whatever the request says
        seconds = random.choice((1, 60))
        parts.append({"inlineData": {"mimeType": "audio/ogg", "data": "AAAA"}})
        allowed.audio += 32 * seconds
        allowed.windows = 1
    elif kind == 2 and random.random() < 0.2:
        parts.append({"inline_data": {"mime_type": "application/pdf", "data": "AAAA"}})
        allowed.windows = 1
    elif kind == 3:
        found = text(random)
        parts.append({"functionResponse": {"name": "find", "response": {"found": found}}})
        allowed.text += shown(found, "find", "found") + 20
    return {"role": random.choice(("user", "model")), "parts": parts}


def image_tokens(width: int, height: int) -> int:
    """258, or 258 for each tile; 2,240 in the highest resolution of Gemini 3."""
    if width <= 384 and height <= 384:
        return 258
    side = max(256, math.floor(min(width, height) / 1.5))
    return 258 * math.ceil(width / side) * math.ceil(height / side)


def _tiers(random: Random, document: dict[str, Any], allowed: Allowed, has: dict[str, Any]) -> None:
    asked = random.choice((None, None, None, "standard", "flex", "priority"))
    if asked is not None:
        document["serviceTier"] = asked
        if asked == "priority" and "priority" in has:
            allowed.tiers = (
                "priority",
            )  # what is served at less than that, a header alone tells: it is charged in full


def cap_of(asked: Asked, sent: dict[str, Any]) -> int:
    settings = sent.get("generationConfig") or sent.get("generation_config") or {}
    cap = settings.get("maxOutputTokens") or settings.get("max_output_tokens")
    return cap or output_max("google", asked.model)


def answer(asked: Asked, billed: Billed) -> bytes:
    usage: dict[str, Any] = {
        "promptTokenCount": billed.input, "cachedContentTokenCount": billed.read,
        "candidatesTokenCount": billed.output - billed.reasoning, "thoughtsTokenCount": billed.reasoning,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": billed.input - billed.audio}, {"modality": "AUDIO", "tokenCount": billed.audio},
        ],
        "trafficType": "ON_DEMAND_PRIORITY" if billed.tier == "priority" else "ON_DEMAND",
    }  # fmt: skip
    grounding = {"webSearchQueries": ["gates"]} if billed.fees else {}
    whole = {"candidates": [{"groundingMetadata": grounding}], "usageMetadata": usage, "modelVersion": asked.model}
    if not asked.stream:
        return orjson.dumps(whole)
    begun = {"candidates": [], "usageMetadata": usage | {"candidatesTokenCount": 1}, "modelVersion": asked.model}
    if asked.head.query == b"alt=sse":
        return b"".join(b"data: %b\r\n\r\n" % orjson.dumps(each) for each in (begun, whole))
    return orjson.dumps([begun, whole])

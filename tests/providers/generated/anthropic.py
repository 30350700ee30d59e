"""Generated calls of Anthropic's Messages API.

What is billed, by https://platform.claude.com/docs: prompts and caches (prompt-caching), images (vision), tools
(tool-use/overview, web-search-tool, web-fetch-tool), the fast mode and the region (pricing).
"""

import math
from random import Random
from typing import Any, Final

import orjson

from tests.providers.generated.words import Allowed, Asked, Billed, models, png, row_of, shown, text
from tokengate.providers import NO_HEAD
from tokengate.providers.anthropic.requests import Messages

MODELS: Final = models("anthropic")


def message(random: Random) -> Asked:
    allowed, model = Allowed(text=3), random.choice(MODELS)
    document: dict[str, Any] = {"model": model, "max_tokens": random.choice((1, 16, 1000, 5000, 64_000))}
    document["messages"] = [_message(random, allowed) for _ in range(random.choice((1, 1, 3)))]
    if random.random() < 0.3:
        document["system"] = text(random)
        allowed.text += shown(document["system"]) + 3
    if random.random() < 0.3:
        _tools(random, document, allowed)
    if random.random() < 0.3:
        _search(random, document, allowed)
    if random.random() < 0.2:
        budget = random.choice((1024, 30_000))
        document["thinking"] = {"type": "enabled", "budget_tokens": budget}
        allowed.beside = max(0, budget - document["max_tokens"])
    _tiers(random, document, allowed, row_of("anthropic", model).get("service_tiers", {}))
    stream = random.random() < 0.4
    if stream:
        document["stream"] = True
    return Asked("anthropic", model, Messages(), NO_HEAD, document, stream, allowed)


def _message(random: Random, allowed: Allowed) -> dict[str, Any]:
    said = text(random)
    allowed.text += shown(said) + 4
    blocks: list[dict[str, Any]] = [{"type": "text", "text": said, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    kind = random.randrange(8)
    if kind == 0:
        width, height = random.choice(((20, 20), (1000, 1000), (2576, 2000), (9000, 9000)))
        source = {"type": "base64", "media_type": "image/png", "data": png(width, height)}
        blocks.append({"type": "image", "source": source})
        allowed.text += image_tokens(width, height)
    elif kind == 1 and random.random() < 0.3:
        source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
        blocks.append({"type": "document", "source": source})
        allowed.windows = 1
    elif kind == 2:
        found = text(random)
        blocks.append({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": found}]})
        allowed.text += shown(found) + 20
    elif kind == 3:
        return {"role": "user", "content": said}
    return {"role": random.choice(("user", "assistant")), "content": blocks}


def image_tokens(width: int, height: int) -> int:
    """Width x height / 750 after scaling to 1,568 pixels on the long edge, or to 2,576 by the models that see more."""
    shrink = min(1.0, 2576 / max(width, height))
    return min(4784, math.ceil(width * shrink * height * shrink / 750))


def _tools(random: Random, document: dict[str, Any], allowed: Allowed) -> None:
    about = text(random)
    schema = {"type": "object", "properties": {"q": {"type": "string", "description": about}}}
    document.setdefault("tools", []).append({"name": "find", "description": about, "input_schema": schema})
    allowed.text += 804 + shown("find", about, about, "object", "properties", "q", "type", "string", "description") + 60
    if random.random() < 0.3:
        document["tools"].append({"type": "bash_20250124", "name": "bash"})
        allowed.text += 245


def _search(random: Random, document: dict[str, Any], allowed: Allowed) -> None:
    uses = random.choice((1, 3))
    kind = random.choice(("web_search", "web_fetch"))
    document.setdefault("tools", []).append({"type": f"{kind}_20260209", "name": kind, "max_uses": uses})
    allowed.text += 804
    allowed.windows = max(1, allowed.windows) + uses
    if kind == "web_search":
        allowed.searches["web_search"] = uses


def _tiers(random: Random, document: dict[str, Any], allowed: Allowed, has: dict[str, Any]) -> None:
    """The fast mode, and where the model is run: where nobody says so, the workspace does."""
    fast = random.random() < 0.2
    if fast:
        document["speed"] = "fast"
    mode = "fast" if fast and "fast" in has else ""
    geo = random.choice((None, None, "global", "us"))
    if geo:
        document["inference_geo"] = geo
    american = f"{mode}-us".removeprefix("-")
    if geo != "global" and american in has:
        allowed.tiers = (american,) if geo == "us" else (mode, american)
    else:
        allowed.tiers = (mode,)
    if random.random() < 0.1:
        document["service_tier"] = random.choice(("auto", "standard_only"))


def cap_of(asked: Asked, sent: dict[str, Any]) -> int:
    cap: int = sent["max_tokens"]
    return cap


def answer(asked: Asked, billed: Billed) -> bytes:
    usage: dict[str, Any] = {
        "input_tokens": billed.plain + billed.audio + billed.images, "cache_read_input_tokens": billed.read,
        "cache_creation_input_tokens": billed.written + billed.written_long,
        "cache_creation": {"ephemeral_5m_input_tokens": billed.written, "ephemeral_1h_input_tokens": billed.written_long},
        "output_tokens": billed.output, "output_tokens_details": {"thinking_tokens": billed.reasoning},
        "service_tier": "standard", "inference_geo": "us" if billed.tier.endswith("us") else "global",
    }  # fmt: skip
    if billed.tier.startswith("fast"):
        usage["speed"] = "fast"
    if "web_search" in billed.fees:
        usage["server_tool_use"] = {"web_search_requests": billed.fees["web_search"]}
    if not asked.stream:
        return orjson.dumps({"id": "msg_1", "type": "message", "model": asked.model, "content": [], "usage": usage})
    begun = usage | {"output_tokens": 1, "server_tool_use": None}
    events: tuple[dict[str, Any], ...] = (
        {"type": "message_start", "message": {"model": asked.model, "usage": begun}},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Gates"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    )
    return b"".join(b"event: %b\ndata: %b\n\n" % (each["type"].encode(), orjson.dumps(each)) for each in events)

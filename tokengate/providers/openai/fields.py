"""The members of a request's body: which ones there are, what they may hold, and which ones could cost money.

A member that is not known here passes: it costs nothing that is known of. What could cost money that no price covers
is refused by name.
"""

from collections.abc import Set as AbstractSet
from typing import Any, Final

from msgspec.structs import replace

from tokengate.bodies import MalformedRequest, UnpricedFeature
from tokengate.domain import Call

TIER_CHARS_MAX: Final = 64
OUTPUT_TOKENS_MAX: Final = 2**31 - 1
ANSWERS_MAX: Final = 128
"""The most that `n` may be (https://developers.openai.com/api/reference/resources/chat)."""

MAX_TOKENS: Final = "max_tokens"
MAX_COMPLETION_TOKENS: Final = "max_completion_tokens"

NOT_IN_PROMPT: Final = frozenset(
    {
        "audio",
        "best_of",
        "dimensions",
        "echo",
        "encoding_format",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""Members that steer an answer and are not shown to the model (https://developers.openai.com/api/reference)."""

_TEXTS: Final = frozenset({"messages", "prompt", "suffix", "input"})
_STRUCTURES: Final = frozenset(
    {"tools", "functions", "response_format", "tool_choice", "function_call", "prediction", "web_search_options"}
)
SHOWN_AS_SENT: Final = NOT_IN_PROMPT | _TEXTS
"""Members of which the model is shown nothing or the texts themselves; it may be shown others in another notation."""

SIMPLE: Final = NOT_IN_PROMPT - {"audio", "best_of", "modalities", "n", "service_tier"} | {"messages"}
"""Members of a chat that, caps aside, change nothing about its price beyond the bytes they are sent in."""

_UNPRICED: Final = {
    "data_sources": "data of Azure's own retrieval",
    "enable_search": "web search",
    "extra_body": "members that would override the others",
    "fallbacks": "answers of other models",
    "models": "answers of other models",
    "plugins": "plugins of the provider",
    "search_parameters": "live search",
}
"""Members that OpenAI-compatible servers (Azure OpenAI, Qwen, LiteLLM, OpenRouter, xAI) bill beyond the tokens of the
request, or that make what is priced not what is obeyed."""

KNOWN: Final = SHOWN_AS_SENT | _STRUCTURES
_MEANT: Final = KNOWN | _UNPRICED.keys()


def refuse_unpriced(unknown: AbstractSet[str], document: dict[str, Any]) -> None:
    """Look at the members of a body that are not `KNOWN`.

    Raises:
        UnpricedFeature: one could cost money.
        MalformedRequest: one is a known member in other letter case, which some servers take for it and others do not.
    """
    for name in sorted(unknown):
        if name in _UNPRICED and document[name] not in (None, False, [], {}):
            raise UnpricedFeature(f"{name} asks for {_UNPRICED[name]}, which has no price here.", name)
        if name not in _MEANT and name.lower() in _MEANT:
            raise MalformedRequest(f"{name!r} must be written {name.lower()!r}.", name)


def bare_name(model: str) -> str:
    """A model's name without what providers and fine-tuning put around it: `openai/gpt-4o`, `ft:gpt-4o:org::id`."""
    if "/" in model or model.startswith("ft:"):
        return model.rpartition("/")[2].removeprefix("ft:").partition(":")[0].lower()
    return model.lower()


def read_service_tier(document: dict[str, Any]) -> str:
    """The service tier asked for; empty for the standard one.

    `fast` is another name of `priority`, which is what the answer calls it
    (https://developers.openai.com/api/docs/guides/fast-mode).

    Raises:
        MalformedRequest: it is not a string, longer than `TIER_CHARS_MAX`, or not printable.
    """
    tier = document.get("service_tier")
    if tier is None or tier in ("auto", "default"):
        return ""
    if type(tier) is not str or len(tier) > TIER_CHARS_MAX or not tier.isprintable():
        raise MalformedRequest(
            f"service_tier must be a string of at most {TIER_CHARS_MAX} printable characters.", "service_tier"
        )
    return "priority" if tier == "fast" else tier


def left_to_account(call: Call, document: dict[str, Any], tier: str) -> Call:
    """A call at an account that is set to a service tier: billed by it unless it says otherwise, which `auto` does not.

    By `service_tier` of https://developers.openai.com/api/reference/resources/chat, "auto": the project's setting.
    """
    if not tier or document.get("service_tier") not in (None, "auto"):
        return call
    return replace(call, tiers_unasked=(tier,))

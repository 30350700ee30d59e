"""POST /v1/messages: what a request can cost at the most, in tokens, and how it is sent on.

Anthropic's vocabularies are not public, so nothing is counted exactly here: a token is at least one byte of the text
it stands for, so that the length of the body bounds its text, plus what frames messages, tools and calls. What the
provider finds and shows the model itself is bounded by the model's window, once for each time that it may look.
"""

from typing import Any, Final

from tokengate.bodies import (
    MalformedRequest,
    UnpricedFeature,
    escapes_max,
    read_flag,
    read_int,
    read_list,
    read_model,
    read_object,
    rewrite,
)
from tokengate.domain import Call
from tokengate.providers import NO_HEAD, Asked, Count, Head, Meter, Quirks
from tokengate.providers.anthropic.blocks import look_at, survey
from tokengate.providers.anthropic.meters import meter

OUTPUT_TOKENS_MAX: Final = 2**31 - 1
FORMAL_CAP_TOKENS: Final = 4_096
"""`max_tokens` is required of every request, so programs fill in the most that the model has (LiteLLM: 64,000). From
here on it is taken for that, and a smaller one may be written near the end of a budget."""

MESSAGE_TOKENS: Final = 16
"""More than what frames a message; its roles and separators are a handful of tokens."""
TOOLS_TOKENS: Final = 2_048
"""What the provider tells the model about tools if there are any: 264 to 804 tokens, by the model
(https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview, "Pricing"), with room for later models."""
OWN_TOOL_TOKENS: Final = 8_192
"""What the definition of a tool of the provider's own is at the most: 245 for bash, 700 for the text editor, 735 for
computer use, and of a toolset every one of its thirty tools."""
NOTATION_TOKENS: Final = 12
"""What one member of a tool's schema, or of a call of one, can be longer in the notation that the model is shown."""

_CLIENT_TOOLS: Final = (
    "custom", "bash_", "text_editor_", "computer_", "memory_", "browser_toolset_", "computer_toolset_",
)  # fmt: skip
"""Tools that the caller runs."""
_SEARCHING_TOOLS: Final = {"web_search_": "web_search", "web_fetch_": ""}
"""Tools that the provider runs, and their fee: what they find is billed as input, again with each further turn
(https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-search-tool, "Usage and pricing")."""
USES_MAX: Final = 1_000

_UNPRICED: Final = {
    "container": "skills and files of a container, which is billed by its time",
    "mcp_servers": "tools of other servers, whose answers are billed as input without a bound",
    "fallbacks": "answers of other models",
    "thread": "a conversation that the provider keeps, whose length is not known here",
    "compaction": "summaries that the provider makes and bills by itself",
    "context_management": "changes of the conversation that the provider makes and may bill by itself",
    "billing_policy": "another way of billing",
}
"""Members that could cost what nothing here holds (`anthropic/types/beta/message_create_params.py`)."""

AMERICAN: Final = "us"
"""The region in which every token costs a tenth more, and what the price table calls that
(https://platform.claude.com/docs/en/manage-claude/data-residency, and /docs/en/about-claude/pricing)."""
_REGIONS: Final = (None, "global", "not_available", AMERICAN)


class MessagesRequest:
    """A parsed request."""

    __slots__ = ("_body", "_document", "call")

    def __init__(self, call: Call, body: bytes, document: dict[str, Any]) -> None:
        self.call = call
        self._body = body
        self._document = document

    def count_input(self, count: Count) -> int:  # noqa: ARG002 - no vocabulary is public
        return self.call.input_tokens_max

    def suited(self, quirks: Quirks) -> "MessagesRequest":  # noqa: ARG002 - this API has had no other server yet
        return self

    def body(self, output_cap_tokens: int | None) -> bytes:
        asked = self.call.output_tokens_asked
        if output_cap_tokens is None or asked is None or output_cap_tokens >= asked:
            return self._body
        return rewrite(self._body, self._document, {"max_tokens": max(1, output_cap_tokens)})

    def asked(self) -> Asked | None:
        return Asked(self._document, "messages", len(self._body))

    def meter(self, status: int, content_type: str) -> Meter:
        return meter(status, content_type, hidden_output=_thinks(self._document))


class Messages:
    """https://platform.claude.com/docs/en/api/messages."""

    name: str = "messages"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> MessagesRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        for name, what in _UNPRICED.items():
            if document.get(name) not in (None, False, [], {}):
                raise UnpricedFeature(f"{name} asks for {what}: it has no price here.", name)
        model, stream = read_model(document), read_flag(document, "stream")
        messages = read_list(document, "messages")
        if not messages:
            raise MalformedRequest("messages must be a list of at least one message.", "messages")
        found = survey(messages)
        look_at(document.get("system"), "system", found)
        asked = _max_tokens(document)
        tools_tokens, uses, fees = _tools(document)
        text_tokens = len(body) - found.media_bytes + MESSAGE_TOKENS * (found.messages + 1)
        if tools_tokens or found.tools_used or "output_config" in document or "output_format" in document:
            text_tokens += tools_tokens + escapes_max(body) + NOTATION_TOKENS * body.count(b":")
        budget = _thinking_tokens(document)
        tier, unasked = _tiers(document)
        call = Call(
            model=model,
            stream=stream,
            input_tokens_max=text_tokens + found.media_tokens,
            text_bytes=text_tokens,
            output_tokens_asked=asked or None,
            # A cap below the budget for thinking is refused by the API.
            output_cap_formal=asked >= FORMAL_CAP_TOKENS and not budget,
            # Thinking between calls of tools may take more than max_tokens
            # (https://platform.claude.com/docs/en/build-with-claude/extended-thinking, "Interleaved thinking").
            output_tokens_beside=max(0, budget - asked),
            context_windows=min(1, found.documents) + (uses + 1 if uses else 0),
            produces_output=asked > 0,
            input_images=found.images,
            service_tier=tier,
            tiers_unasked=unasked,
            fees=fees,
        )
        return MessagesRequest(call, body, document)


def _max_tokens(document: dict[str, Any]) -> int:
    """The output cap; 0 fills the cache and generates nothing."""
    if document.get("max_tokens") == 0 and type(document["max_tokens"]) is int:
        return 0
    asked = read_int(document, "max_tokens", OUTPUT_TOKENS_MAX)
    if asked is None:
        raise MalformedRequest("max_tokens must be set.", "max_tokens")
    return asked


def _fast(document: dict[str, Any]) -> bool:
    speed = document.get("speed")
    if speed not in (None, "standard", "fast"):
        raise UnpricedFeature("speed must be standard or fast: nothing else has a price here.", "speed")
    return speed == "fast"


def _tiers(document: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What the price depends on, by its names in the price table: how fast and, if it is asked for, where.

    Where a request does not say where, the workspace's default does, which only the answer tells: that is held for.
    """
    geo = document.get("inference_geo")
    if geo not in _REGIONS:
        raise UnpricedFeature("inference_geo must be global or us: no other has a price here.", "inference_geo")
    fast = _fast(document)
    american = f"fast-{AMERICAN}" if fast else AMERICAN
    if geo == AMERICAN:
        return american, ()
    return "fast" if fast else "", (american,) if geo is None else ()


def _thinks(document: dict[str, Any]) -> bool:
    """Whether the model may generate more than it shows. Some think unless they are told not to."""
    thinking = document.get("thinking")
    return not (type(thinking) is dict and thinking.get("type") == "disabled") and (
        thinking is not None or document.get("output_config") is not None
    )


def _thinking_tokens(document: dict[str, Any]) -> int:
    thinking = document.get("thinking")
    if thinking is None:
        return 0
    if type(thinking) is not dict:
        raise MalformedRequest("thinking must be an object.", "thinking")
    return read_int(thinking, "budget_tokens", OUTPUT_TOKENS_MAX) or 0


def _tools(document: dict[str, Any]) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    """What tools add to the input in tokens, how often the provider may search, and the fees for it.

    Raises:
        UnpricedFeature: a tool of the provider's has no price here, or may be used without a bound.
    """
    tools = read_list(document, "tools")
    if not tools:
        return 0, 0, ()
    own, uses, searches = 0, 0, 0
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        kind = (tool.get("type") or "custom") if type(tool) is dict else None
        if type(kind) is not str:
            raise MalformedRequest(f"{path} must be an object whose type is a string.", path)
        if kind.startswith(_CLIENT_TOOLS):
            own += kind != "custom"
            continue
        fee = next((fee for prefix, fee in _SEARCHING_TOOLS.items() if kind.startswith(prefix)), None)
        if fee is None:
            raise UnpricedFeature(f"{path} is of the type {kind!r}, which has no price here.", f"{path}.type")
        most = read_int(tool, "max_uses", USES_MAX)
        if most is None:
            raise UnpricedFeature(
                f"{path}: set max_uses, without which nothing bounds what {kind} finds and bills.", f"{path}.max_uses"
            )
        own, uses, searches = own + 1, uses + most, searches + (most if fee else 0)
    fees = (("web_search", searches),) if searches else ()
    return TOOLS_TOKENS + OWN_TOOL_TOKENS * own, uses, fees

"""POST /v1/responses: what a response can cost at the most, in tokens, and how it is sent on.

The provider may bring in what the request does not show: an earlier response, a conversation, a stored prompt, files,
and what its own tools find. None of it is larger than the model's window, which is held for once, and once more for
each call of a tool that the request allows the provider; a number of calls without a bound is refused.
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
from tokengate.providers.openai import fields
from tokengate.providers.openai.images import base64_image_size, image_rule
from tokengate.providers.openai.messages import COMMA_TOKENS, MESSAGE_TOKENS, REPLAY_TOKENS, REPLY_TOKENS, TOOL_TOKENS
from tokengate.providers.openai.reported import CostMeter
from tokengate.providers.openai.requests import reasons
from tokengate.providers.openai.response_meters import response_meter

MAX_OUTPUT_TOKENS: Final = "max_output_tokens"
TOOL_CALLS_MAX: Final = 1_000
OWN_TOOL_TOKENS: Final = 2_048
"""More than the definition of any tool of the provider's own that the caller runs."""

_CALLERS_TOOLS: Final = frozenset(
    {"function", "custom", "local_shell", "apply_patch", "computer", "computer_use_preview", "namespace"}
)
"""Tools that the caller runs (`openai/types/responses/tool_param.py`)."""
_SEARCHES: Final = {
    "web_search": "web_search",
    "web_search_2025_08_26": "web_search",
    "web_search_preview": "web_search",
    "web_search_preview_2025_03_11": "web_search",
    "file_search": "file_search",
}
"""Tools that the provider runs at a fee for each call, and what it finds is billed as input
(https://developers.openai.com/api/docs/pricing, "Built-in tools")."""

_NOT_RUN: Final = {
    "code_interpreter": "it runs in a container that is billed by its time, which nothing here holds",
    "image_generation": "the images that it makes are billed beyond what bounds the answer",
    "mcp": "what other servers answer is billed as input, without a bound",
    "shell": "it runs in a container that is billed by its time, which nothing here holds",
}
"""Tools of the provider's own that are refused, and why (https://developers.openai.com/api/docs/pricing)."""

_KEPT: Final = ("previous_response_id", "conversation", "prompt")
"""Members that bring in what the provider keeps."""
_UNPRICED: Final = {
    "background": "an answer that goes on after its caller has gone, which nobody here would see the end of",
    "context_management": "summaries that the provider makes and bills by itself",
    "image": "generated images",
}
_BY_THEIR_BYTES: Final = frozenset(
    {
        "function_call", "custom_tool_call", "reasoning", "web_search_call", "file_search_call", "computer_call",
        "local_shell_call", "local_shell_call_output", "apply_patch_call", "apply_patch_call_output",
        "additional_tools", "tool_search_call", "tool_search_output", "shell_call", "shell_call_output",
    }
)  # fmt: skip
"""Items of which the model is shown what is sent (`openai/types/responses/response_input_item_param.py`)."""
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_NOT_SHOWN: Final = frozenset(
    {"id", "type", "role", "status", "image_url", "file_data", "call_id", "encrypted_content"}
)


class _Survey:
    """What was found in the items of a request."""

    __slots__ = ("images", "items", "kept", "media_bytes", "media_tokens", "replayed")

    def __init__(self) -> None:
        self.items = 0
        self.media_bytes = 0
        self.media_tokens = 0
        self.images = False
        self.replayed = 0
        self.kept = False
        """There is something whose length only the provider knows."""


class ResponsesRequest:
    """A parsed request."""

    __slots__ = ("_body", "_cost_reported", "_document", "_found", "call")

    def __init__(
        self, call: Call, body: bytes, document: dict[str, Any], found: _Survey, *, cost_reported: bool = False
    ) -> None:
        self.call = call
        self._body = body
        self._document = document
        self._found = found
        self._cost_reported = cost_reported

    def count_input(self, count: Count) -> int:
        found, tools = self._found, self._document.get("tools") or ()
        framing = REPLY_TOKENS + MESSAGE_TOKENS * (found.items + 1) + REPLAY_TOKENS * found.replayed
        total = found.media_tokens + framing + (TOOL_TOKENS + OWN_TOOL_TOKENS) * len(tools)
        for name, value in self._document.items():
            if name not in fields.NOT_IN_PROMPT and name not in _KEPT:
                total += _count(value, count)
        return min(self.call.input_tokens_max, total)

    def suited(self, quirks: Quirks) -> "ResponsesRequest":
        call = fields.left_to_account(self.call, self._document, quirks.service_tier_default)
        return ResponsesRequest(call, self._body, self._document, self._found, cost_reported=quirks.cost_reported)

    def body(self, output_cap_tokens: int | None) -> bytes:
        if output_cap_tokens is None:
            return self._body
        cap = min(output_cap_tokens, self.call.output_tokens_asked or output_cap_tokens)
        return rewrite(self._body, self._document, {MAX_OUTPUT_TOKENS: max(1, cap)})

    def asked(self) -> Asked | None:
        return Asked(self._document, "input", len(self._body))

    def meter(self, status: int, content_type: str) -> Meter:
        found = response_meter(
            status, content_type, hidden_output=reasons(self.call.model), kept=self._document.get("store") is not False
        )
        return CostMeter(found) if self._cost_reported else found


class Responses:
    """https://developers.openai.com/api/reference/resources/responses."""

    name: str = "responses"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> ResponsesRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        for name, what in _UNPRICED.items():
            if document.get(name) not in (None, False, [], {}):
                raise UnpricedFeature(f"{name} asks for {what}: it has no price here.", name)
        model = read_model(document)
        found = _survey(document, fields.bare_name(model))
        tools, calls, fees = _tools(document)
        kept = found.kept or any(document.get(name) is not None for name in _KEPT)
        text_tokens = len(body) - found.media_bytes + MESSAGE_TOKENS * (found.items + 1) + REPLY_TOKENS
        if tools or found.replayed or document.get("text") is not None:
            text_tokens += escapes_max(body) + COMMA_TOKENS * body.count(b",")
            text_tokens += REPLAY_TOKENS * found.replayed + (TOOL_TOKENS + OWN_TOOL_TOKENS) * tools
        call = Call(
            model=model,
            stream=read_flag(document, "stream"),
            input_tokens_max=text_tokens + found.media_tokens,
            text_bytes=text_tokens,
            output_tokens_asked=read_int(document, MAX_OUTPUT_TOKENS, fields.OUTPUT_TOKENS_MAX),
            context_windows=int(kept) + (calls + 1 if calls else 0),
            input_images=found.images,
            service_tier=fields.read_service_tier(document),
            fees=fees,
        )
        return ResponsesRequest(call, body, document, found)


def _survey(document: dict[str, Any], model: str) -> _Survey:
    found, given = _Survey(), document.get("input")
    if type(given) is str or given is None:
        return found
    if type(given) is not list:
        raise MalformedRequest("input must be a string or a list of items.", "input")
    for index, item in enumerate(given):
        path = f"input[{index}]"
        if type(item) is not dict:
            raise MalformedRequest(f"{path} must be an object.", path)
        _look_at_item(item, path, model, found)
    return found


def _look_at_item(item: dict[str, Any], path: str, model: str, found: _Survey) -> None:
    kind = item.get("type", "message")
    found.items += 1
    if kind == "message":
        _look_at_content(item.get("content"), f"{path}.content", model, found)
    elif kind in ("function_call_output", "custom_tool_call_output"):
        found.replayed += 1
        _look_at_content(item.get("output"), f"{path}.output", model, found)
    elif kind == "computer_call_output":
        found.replayed += 1
        _look_at_content([item.get("output")], f"{path}.output", model, found)
    elif kind in ("item_reference", "compaction"):
        found.kept = True
    elif kind in _BY_THEIR_BYTES:
        found.replayed += 1
    else:
        raise UnpricedFeature(f"{path} is of the type {kind!r}, which has no price here.", f"{path}.type")


def _look_at_content(content: Any, path: str, model: str, found: _Survey) -> None:  # noqa: ANN401
    if type(content) is str or content is None:
        return
    if type(content) is not list:
        raise MalformedRequest(f"{path} must be a string or a list of parts.", path)
    for index, part in enumerate(content):
        place = f"{path}[{index}]"
        if type(part) is not dict:
            raise MalformedRequest(f"{place} must be an object.", place)
        kind = part.get("type")
        if kind in _TEXT_PARTS:
            continue
        if kind in ("input_image", "computer_screenshot"):
            _look_at_image(part, place, model, found)
        elif kind == "input_file":
            found.kept = True
            data = part.get("file_data")
            found.media_bytes += len(data) if type(data) is str and data.isascii() else 0
        else:
            raise UnpricedFeature(f"{place} is of the type {kind!r}, which has no price here.", f"{place}.type")


def _look_at_image(part: dict[str, Any], path: str, model: str, found: _Survey) -> None:
    url, detail = part.get("image_url"), part.get("detail")
    size = None
    if type(url) is str and url.startswith("data:image/") and url.isascii():
        start, _, payload = url.partition(",")
        size = base64_image_size(payload) if start.endswith(";base64") else None
        found.media_bytes += len(url)
    elif type(url) is str and url[:5].lower() == "data:":
        raise UnpricedFeature(f"{path}.image_url is data, but not an image in base64.", f"{path}.image_url")
    found.images = True
    found.media_tokens += image_rule(model).tokens(size, detail if type(detail) is str else "auto")


def _tools(document: dict[str, Any]) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    """How many tools there are, how often the provider may call its own, and the fees for that.

    Raises:
        UnpricedFeature: one has no price here, or may be called without a bound.
    """
    tools, fees = read_list(document, "tools"), set()
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        kind = tool.get("type") if type(tool) is dict else None
        if type(kind) is not str:
            raise MalformedRequest(f"{path} must be an object with a type.", path)
        if kind in _SEARCHES:
            fees.add(_SEARCHES[kind])
        elif kind not in _CALLERS_TOOLS:
            why = f": {_NOT_RUN[kind]}" if kind in _NOT_RUN else ""
            raise UnpricedFeature(f"{path} is of the type {kind!r}, which has no price here{why}.", f"{path}.type")
    if not fees:
        return len(tools), 0, ()
    most = read_int(document, "max_tool_calls", TOOL_CALLS_MAX)
    if most is None:
        raise UnpricedFeature(
            "Set max_tool_calls, without which nothing bounds what the provider's own tools find and bill.",
            "max_tool_calls",
        )
    # All the calls may be of the dearest tool, so that each of them is held for in full.
    return len(tools), most, tuple((fee, most) for fee in sorted(fees))


def _count(value: Any, count: Count) -> int:  # noqa: ANN401
    """The tokens of all texts in a value, whatever they are called, and of what separates them."""
    total, pending = 0, [value]
    while pending:
        each = pending.pop()
        if type(each) is str:
            total += count(each)
        elif type(each) is list:
            pending += each
        elif type(each) is dict:
            total += sum(count(name) + COMMA_TOKENS for name in each if name not in _NOT_SHOWN)
            pending += [member for name, member in each.items() if name not in _NOT_SHOWN]
            sealed = each.get("encrypted_content")
            total += len(sealed) if type(sealed) is str else 0
        elif each is not None:
            total += len(str(each))
    return total

"""The metered endpoints of the Gemini API: what a request can cost at the most, in tokens, and how it is sent on.

The model stands in the path, not in the body. Its vocabulary is public but not small, so nothing is counted exactly:
the length of the body bounds its text.
"""

import re
from typing import Any, Final

from tokengate.bodies import MalformedRequest, UnpricedFeature, escapes_max, read_object, rewrite
from tokengate.domain import Call
from tokengate.providers import NO_HEAD, Asked, Count, Head, Meter, Quirks
from tokengate.providers.gemini.contents import Survey, look_at, survey
from tokengate.providers.gemini.members import items, member, section, spelling, whole_number
from tokengate.providers.gemini.meters import meter

OUTPUT_TOKENS_MAX: Final = 2**31 - 1
ANSWERS_MAX: Final = 8
"""The most that `candidateCount` may be (https://ai.google.dev/api/generate-content#generationconfig)."""
EMBEDDED_MAX: Final = 2_048

PART_TOKENS: Final = 16
"""More than what frames a content or a part."""
OWN_TOOL_TOKENS: Final = 8_192
"""What the definitions of the functions of computer use are at the most."""
NOTATION_TOKENS: Final = 12
"""What one member of a function's schema, or of a call of one, can be longer in the notation that a model is shown."""

_MODEL: Final = re.compile(rb"/models/([A-Za-z0-9][A-Za-z0-9._-]{0,127}):", re.ASCII)
_FUNCTIONS: Final = frozenset({"functionDeclarations", "function_declarations"})
_COMPUTER: Final = frozenset({"computerUse", "computer_use"})
_GROUNDED: Final = {
    "googleSearch": "web_search",
    "google_search": "web_search",
    "googleMaps": "google_maps",
    "google_maps": "google_maps",
}
"""Tools by which the provider looks things up itself, and their fees."""
_BILLED_BY_PROMPT: Final = re.compile(r"gemini-2\.[05]-", re.ASCII)
"""Models that bill such a tool once for a prompt, however often they look; later ones bill every query that they think
of (https://ai.google.dev/gemini-api/docs/google-search, "Pricing")."""
_SHOWN: Final = frozenset({"TEXT"})
_STANDARD_TIERS: Final = frozenset({"", "standard", "unspecified", "flex"})
"""Tiers that are charged as the standard one: flex too, which is cheaper, because an answer does not say that it was
served."""

_UNPRICED: Final = {
    "continuationToken": "an answer that goes on without being asked, whose length has no bound",
    "automaticContinuation": "an answer that goes on without being asked, whose length has no bound",
}


class GeminiRequest:
    """A parsed request of any of the endpoints."""

    __slots__ = ("_body", "_document", "call")

    def __init__(self, call: Call, body: bytes, document: dict[str, Any]) -> None:
        self.call = call
        self._body = body
        self._document = document

    def count_input(self, count: Count) -> int:  # noqa: ARG002 - see the module
        return self.call.input_tokens_max

    def suited(self, quirks: Quirks) -> "GeminiRequest":  # noqa: ARG002 - this API has had no other server yet
        return self

    def body(self, output_cap_tokens: int | None) -> bytes:
        if output_cap_tokens is None or not self.call.produces_output:
            return self._body
        name = spelling(self._document, "generationConfig")
        settings = section(self._document, "generationConfig")
        cap = min(output_cap_tokens, self.call.output_tokens_asked or output_cap_tokens)
        capped = {**settings, spelling(settings, "maxOutputTokens"): max(1, cap)}
        return rewrite(self._body, self._document, {name: capped})

    def asked(self) -> Asked | None:
        if not self.call.produces_output:
            return None
        # The model stands in the path; a conversation of one content may stand there without its list.
        return Asked(self._document | {"model": self.call.model}, "contents", len(self._body))

    def meter(self, status: int, content_type: str) -> Meter:
        return meter(status, content_type, produces_output=self.call.produces_output, fees=self.call.fees)


class GenerateContent:
    """https://ai.google.dev/api/generate-content."""

    def __init__(self, *, stream: bool) -> None:
        self.name: str = "stream_generate_content" if stream else "generate_content"
        self._stream = stream

    def parse(self, body: bytes, head: Head = NO_HEAD) -> GeminiRequest:
        document, model = read_object(body), _model(head)
        _refuse_unpriced(document)
        found = survey(_contents(document), "contents", Survey())
        look_at(member(document, "systemInstruction"), "systemInstruction", found)
        settings = section(document, "generationConfig")
        tools, fees = _tools(document, model)
        # What is kept in a cache is billed as input, and only the provider knows how long it is.
        windows = int(found.unbounded or member(document, "cachedContent") is not None) + (1 if fees else 0)
        text_tokens = len(body) - found.media_bytes + PART_TOKENS * (found.parts + 4) + tools
        if tools or b"function" in body or b"chema" in body:
            text_tokens += escapes_max(body) + NOTATION_TOKENS * body.count(b":")
        call = Call(
            model=model,
            stream=self._stream,
            input_tokens_max=text_tokens + found.media_tokens,
            text_bytes=text_tokens,
            output_tokens_asked=whole_number(settings, "maxOutputTokens", OUTPUT_TOKENS_MAX),
            context_windows=windows,
            answers=whole_number(settings, "candidateCount", ANSWERS_MAX) or 1,
            input_audio=found.audio,
            input_images=found.images,
            output_audio=_speaks(settings, model),
            service_tier=_service_tier(document),
            fees=fees,
        )
        return GeminiRequest(call, body, document)


class EmbedContent:
    """https://ai.google.dev/api/embeddings#method:-models.embedcontent."""

    name: str = "embed_content"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> GeminiRequest:
        document, model = read_object(body), _model(head)
        _same_model(document, model)
        return _embedding(model, body, document, [member(document, "content")])


class BatchEmbedContents:
    """https://ai.google.dev/api/embeddings#method:-models.batchembedcontents."""

    name: str = "batch_embed_contents"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> GeminiRequest:
        document, model = read_object(body), _model(head)
        requests = items(document, "requests")
        if not 0 < len(requests) <= EMBEDDED_MAX:
            raise MalformedRequest(f"requests must be a list of 1 to {EMBEDDED_MAX} requests.", "requests")
        contents = []
        for index, request in enumerate(requests):
            if type(request) is not dict:
                raise MalformedRequest(f"requests[{index}] must be an object.", f"requests[{index}]")
            _same_model(request, model)
            contents.append(member(request, "content"))
        return _embedding(model, body, document, contents)


def _embedding(model: str, body: bytes, document: dict[str, Any], contents: list[Any]) -> GeminiRequest:
    found = survey(contents, "content", Survey())
    if found.media_bytes or found.unbounded:
        raise UnpricedFeature("Only text is embedded: other content has no price here.", "content")
    text_tokens = len(body) + PART_TOKENS * (found.parts + len(contents))
    call = Call(
        model=model,
        stream=False,
        input_tokens_max=text_tokens,
        text_bytes=text_tokens,
        output_tokens_asked=None,
        produces_output=False,
    )
    return GeminiRequest(call, body, document)


def _model(head: Head) -> str:
    match = _MODEL.search(head.raw_path)
    if match is None:
        raise MalformedRequest("The path must name a model: /v1beta/models/MODEL:METHOD.", "model")
    return match[1].decode()


def _same_model(request: dict[str, Any], model: str) -> None:
    named = member(request, "model")
    if named is not None and named not in (model, f"models/{model}"):
        raise MalformedRequest(f"model must be models/{model}, as in the path.", "model")


def _contents(document: dict[str, Any]) -> list[Any]:
    contents = member(document, "contents")
    if type(contents) is dict:
        return [contents]
    found = items(document, "contents")
    if not found:
        raise MalformedRequest("contents must be a list of at least one content.", "contents")
    return found


def _refuse_unpriced(document: dict[str, Any]) -> None:
    for name, what in _UNPRICED.items():
        if member(document, name) not in (None, False, "", {}):
            raise UnpricedFeature(f"{name} asks for {what}: it has no price here.", name)


def _tools(document: dict[str, Any], model: str) -> tuple[int, tuple[tuple[str, int], ...]]:
    """What tools add to the input beyond what they are written in, in tokens, and the fees that they may cost.

    What the provider finds is held for as a whole window.

    Raises:
        UnpricedFeature: the provider runs one itself: what it finds, or how often, has no bound that could be held.
    """
    tokens, fees = 0, set[str]()
    for index, tool in enumerate(items(document, "tools")):
        path = f"tools[{index}]"
        if type(tool) is not dict:
            raise MalformedRequest(f"{path} must be an object.", path)
        if tool.keys() <= _FUNCTIONS:
            tokens += PART_TOKENS
        elif tool.keys() <= _FUNCTIONS | _COMPUTER:
            tokens += OWN_TOOL_TOKENS
        elif tool.keys() <= _FUNCTIONS | _GROUNDED.keys():
            name = min(tool.keys() & _GROUNDED.keys())
            if _BILLED_BY_PROMPT.match(model) is None:
                raise UnpricedFeature(
                    f"{path}.{name}: this model bills every query that it thinks of, and nothing bounds how many.", path
                )
            tokens += OWN_TOOL_TOKENS
            fees |= {_GROUNDED[each] for each in tool if each in _GROUNDED}
        else:
            name = min(tool.keys() - _FUNCTIONS - _COMPUTER - _GROUNDED.keys(), default=min(tool))
            raise UnpricedFeature(
                f"{path}.{name} is run by the provider, and what it finds and bills has no bound here.", path
            )
    return tokens, tuple((fee, 1) for fee in sorted(fees))


def _speaks(settings: dict[str, Any], model: str) -> bool:
    modalities = {str(each).upper() for each in items(settings, "responseModalities")}
    if modalities - _SHOWN - {"AUDIO"}:
        raise UnpricedFeature("responseModalities may hold TEXT and AUDIO: nothing else has a price here.", None)
    # The price of what a model for speech generates is its price for output.
    return "AUDIO" in modalities and "tts" not in model


def _service_tier(document: dict[str, Any]) -> str:
    tier = member(document, "serviceTier")
    if tier is None:
        return ""
    if type(tier) is not str or len(tier) > 64 or not tier.isprintable():
        raise MalformedRequest("serviceTier must be standard, flex or priority.", "serviceTier")
    asked = tier.lower().removeprefix("service_tier_")
    return "" if asked in _STANDARD_TIERS else asked

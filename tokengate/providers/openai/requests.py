"""The metered endpoints of OpenAI's API: what a request to each can cost at the most, in tokens, and how it is sent on.

The bound on input is the length of the body in bytes, less what is base64, plus what frames the messages. It holds for
every text, without looking at it: a byte-level BPE token is at least one byte of UTF-8, and a JSON string is never
shorter than the text it stands for (a character is itself or an escape, and every escape is longer). The two cases in
which the provider is known to show the model more than it was sent, schemas and replayed tool calls, are bounded by
`escapes_max` and `COMMA_TOKENS`.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import orjson
from msgspec.structs import replace

from tokengate.bodies import escapes_max, read_flag, read_int, read_list, read_model, read_object, rewrite
from tokengate.domain import Call
from tokengate.providers import NO_HEAD, Asked, Count, Head, MalformedRequest, Meter, Quirks, UnpricedFeature
from tokengate.providers.openai import fields
from tokengate.providers.openai.fields import MAX_COMPLETION_TOKENS, MAX_TOKENS
from tokengate.providers.openai.messages import (
    COMMA_TOKENS,
    MESSAGE_TOKENS,
    REPLAY_TOKENS,
    REPLY_TOKENS,
    TOOL_TOKENS,
    count_messages,
    count_value,
    survey,
)
from tokengate.providers.openai.meters import Expected, meter
from tokengate.providers.openai.reported import CostMeter

PROMPTS_MAX: Final = 2048
"""Inputs in one request (https://developers.openai.com/api/reference/resources/embeddings)."""

NAMES_CACHED: Final = 1024
"""Names of models that are remembered with what they say: callers invent names, so it is bounded."""

_TOOL_TYPES: Final = ("function", "custom")
_MODALITIES: Final = ("text", "audio")
_WEB_SEARCH: Final = "web_search"

# Models that reason, by OpenAI's naming: their reasoning is billed as output and not shown.
_REASONS: Final = re.compile(r"(?:o\d|gpt-[5-9]|gpt-\d\d|codex|computer-use)", re.ASCII)
# Models that search the web in every answer. Of the first kind it is one search at a fixed fee, what it finds included;
# of the others neither the number of searches nor what they find has a bound
# (https://developers.openai.com/api/docs/pricing, "Web search").
_SEARCHES_ONCE: Final = re.compile(r"gpt-4o(?:-mini)?-search-preview\b", re.ASCII)
_SEARCHES: Final = re.compile(r".*-(?:search|deep-research)\b", re.ASCII)


class OpenAIRequest:
    """A parsed request of any of the endpoints."""

    __slots__ = ("_body", "_cap_field", "_count", "_document", "_expected", "_media_tokens", "_unseen_tokens", "call")

    def __init__(
        self,
        call: Call,
        body: bytes,
        document: dict[str, Any],
        expected: Expected,
        count: Callable[[dict[str, Any], Count], int],
        *,
        cap_field: str | None = None,
        media_tokens: int = 0,
        unseen_tokens: int = 0,
    ) -> None:
        self.call = call
        self._body = body
        self._document = document
        self._expected = expected
        self._count = count
        self._cap_field = cap_field
        self._media_tokens = media_tokens
        self._unseen_tokens = unseen_tokens

    def count_input(self, count: Count) -> int:
        return min(self.call.input_tokens_max, self._media_tokens + self._count(self._document, count))

    def suited(self, quirks: Quirks) -> "OpenAIRequest":
        cap_field = self._cap_field
        return OpenAIRequest(
            fields.left_to_account(self.call, self._document, quirks.service_tier_default),
            self._body,
            self._document,
            replace(
                self._expected,
                injected=self._expected.injected and quirks.stream_options,
                cost_reported=quirks.cost_reported,
            ),
            self._count,
            cap_field=cap_field and (quirks.output_cap_field or cap_field),
            media_tokens=self._media_tokens,
            unseen_tokens=self._unseen_tokens,
        )

    def body(self, output_cap_tokens: int | None) -> bytes:
        changes: dict[str, Any] = {}
        if output_cap_tokens is not None and self._cap_field is not None:
            changes = self._caps(self._cap_field, max(1, output_cap_tokens - self._unseen_tokens))
        if self._expected.injected:
            changes["stream_options"] = {**(self._document.get("stream_options") or {}), "include_usage": True}
        return rewrite(self._body, self._document, changes) if changes else self._body

    def _caps(self, field: str, cap: int) -> dict[str, int]:
        """Whatever cap the request sets is lowered; the endpoint's own is added, unless the request sets the older one.

        OpenAI refuses chats that set both `max_tokens` and `max_completion_tokens`; other servers obey either.
        """
        present = [name for name in (MAX_COMPLETION_TOKENS, MAX_TOKENS) if self._document.get(name) is not None]
        if field not in present and not (field == MAX_COMPLETION_TOKENS and present):
            present.append(field)
        wanted = {name: min(self._document.get(name) or cap, cap) for name in present}
        return {name: value for name, value in wanted.items() if self._document.get(name) != value}

    def asked(self) -> Asked | None:
        if not self.call.produces_output:
            return None
        return Asked(self._document, "messages" if "messages" in self._document else "prompt", len(self._body))

    def meter(self, status: int, content_type: str) -> Meter:
        found = meter(self._expected, status, content_type)
        return CostMeter(found) if self._expected.cost_reported else found


class ChatCompletions:
    """POST /v1/chat/completions (https://developers.openai.com/api/reference/resources/chat)."""

    name: str = "chat_completions"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> OpenAIRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        members = document.keys()
        simple = members <= fields.SIMPLE
        if not simple and not members <= fields.KNOWN:
            fields.refuse_unpriced(members - fields.KNOWN, document)
        model = read_model(document)
        named = _named(model)
        stream = read_flag(document, "stream")
        messages = read_list(document, "messages")
        if not messages:
            raise MalformedRequest("messages must be a list of at least one message.", "messages")
        found = survey(messages, named.bare)
        text_tokens = len(body) - found.media_bytes + MESSAGE_TOKENS * len(messages) + REPLY_TOKENS
        if found.replayed or not (simple or members <= fields.SHOWN_AS_SENT):
            text_tokens += _notation_tokens(body) + TOOL_TOKENS * _tools(document) + REPLAY_TOKENS * found.replayed
        output_audio, predicted, answers, tier = False, 0, 1, ""
        if not simple:
            output_audio, predicted = _speaks(document), _predicted_tokens(document)
            answers, tier = _answers(document), fields.read_service_tier(document)
        call = Call(
            model=model,
            stream=stream,
            input_tokens_max=text_tokens + found.media_tokens,
            text_bytes=text_tokens,
            output_tokens_asked=_asked(document, (MAX_COMPLETION_TOKENS, MAX_TOKENS)),
            output_tokens_beside=predicted,
            answers=answers,
            input_audio=found.audio,
            input_images=found.images,
            output_audio=output_audio,
            service_tier=tier,
            fees=_fees(document, named.bare) if named.searches or not simple else (),
        )
        expected = Expected(
            injected=stream and _injects_usage(document),
            streamed=stream,
            hidden_output=output_audio
            or predicted > 0
            or (named.reasons and document.get("reasoning_effort") != "none"),
            fees=call.fees,
        )
        return OpenAIRequest(
            call,
            body,
            document,
            expected,
            _count_chat,
            cap_field=MAX_COMPLETION_TOKENS,
            media_tokens=found.media_tokens,
            unseen_tokens=predicted,
        )


class Completions:
    """POST /v1/completions (https://developers.openai.com/api/reference/resources/completions)."""

    name: str = "completions"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> OpenAIRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        if unknown := document.keys() - fields.KNOWN:
            fields.refuse_unpriced(unknown, document)
        model = read_model(document)
        stream = read_flag(document, "stream")
        prompts = _inputs(document, "prompt") if document.get("prompt") is not None else 1
        tokens_max = _prompts_tokens_max(body, document)
        call = Call(
            model=model,
            stream=stream,
            input_tokens_max=tokens_max,
            text_bytes=tokens_max,
            output_tokens_asked=_asked(document, (MAX_TOKENS,)),
            answers=_answers(document) * prompts,
            service_tier=fields.read_service_tier(document),
        )
        expected = Expected(injected=stream and _injects_usage(document), streamed=stream)
        return OpenAIRequest(call, body, document, expected, partial(_count_inputs, "prompt"), cap_field=MAX_TOKENS)


class Embeddings:
    """POST /v1/embeddings (https://developers.openai.com/api/reference/resources/embeddings)."""

    name: str = "embeddings"

    def parse(self, body: bytes, head: Head = NO_HEAD) -> OpenAIRequest:  # noqa: ARG002 - all of it is in the body
        document = read_object(body)
        if unknown := document.keys() - fields.KNOWN:
            fields.refuse_unpriced(unknown, document)
        model = read_model(document)
        _inputs(document, "input")
        tokens_max = _prompts_tokens_max(body, document)
        call = Call(
            model=model,
            stream=False,
            input_tokens_max=tokens_max,
            text_bytes=tokens_max,
            output_tokens_asked=None,
            produces_output=False,
            service_tier=fields.read_service_tier(document),
        )
        return OpenAIRequest(call, body, document, Expected(produces_output=False), partial(_count_inputs, "input"))


def _notation_tokens(body: bytes) -> int:
    """What the notation in which a model is shown schemas and calls of tools can add to the bytes of their JSON."""
    return escapes_max(body) + COMMA_TOKENS * body.count(b",")


def _prompts_tokens_max(body: bytes, document: dict[str, Any]) -> int:
    return len(body) + REPLY_TOKENS + (0 if document.keys() <= fields.SHOWN_AS_SENT else _notation_tokens(body))


def _asked(document: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The output cap to hold for: the largest of those that the endpoint may obey, None if none is set.

    Every cap is validated, also one that the endpoint ignores, because another server may not.
    """
    if MAX_COMPLETION_TOKENS not in document and MAX_TOKENS not in document:
        return None
    if len(names) == 2 and not (MAX_COMPLETION_TOKENS in document and MAX_TOKENS in document):
        # The usual case, of a chat with one of them.
        name = MAX_TOKENS if MAX_TOKENS in document else MAX_COMPLETION_TOKENS
        return read_int(document, name, fields.OUTPUT_TOKENS_MAX)
    caps = {name: read_int(document, name, fields.OUTPUT_TOKENS_MAX) for name in (MAX_COMPLETION_TOKENS, MAX_TOKENS)}
    obeyed = [cap for name in names if (cap := caps[name]) is not None]
    return max(obeyed) if obeyed else None


def _answers(document: dict[str, Any]) -> int:
    """Answers generated for a prompt: `best_of` are generated and billed even though only `n` are shown."""
    if "n" not in document and "best_of" not in document:
        return 1
    counts = [read_int(document, name, fields.ANSWERS_MAX) or 1 for name in ("n", "best_of")]
    return max(counts)


def _injects_usage(document: dict[str, Any]) -> bool:
    """Whether a streamed request must be made to ask for its usage."""
    options = document.get("stream_options")
    if options is None:
        return True
    if type(options) is not dict:
        raise MalformedRequest("stream_options must be an object.", "stream_options")
    return not read_flag(options, "include_usage")


def _tools(document: dict[str, Any]) -> int:
    """How many tools are defined.

    Raises:
        UnpricedFeature: one is of a type that the provider runs and bills itself.
    """
    tools = read_list(document, "tools")
    for index, tool in enumerate(tools):
        if type(tool) is not dict or tool.get("type") not in _TOOL_TYPES:
            path = f"tools[{index}].type"
            raise UnpricedFeature(f"{path} must be function or custom: no other tool has a price here.", path)
    return len(tools) + len(read_list(document, "functions"))


def _speaks(document: dict[str, Any]) -> bool:
    if "modalities" not in document:
        return False
    modalities = read_list(document, "modalities")
    for modality in modalities:
        if modality not in _MODALITIES:
            raise UnpricedFeature("modalities may hold text and audio: nothing else has a price here.", "modalities")
    return "audio" in modalities


def _predicted_tokens(document: dict[str, Any]) -> int:
    """A bound on the tokens of a predicted output.

    Those that the model rejects are billed as output although no answer shows them ("still counted in the total
    completion tokens for purposes of billing": `CompletionTokensDetails` in the official SDK), and the guide does not
    say that a cap bounds them (https://developers.openai.com/api/docs/guides/predicted-outputs), so they are held for
    on top of a cap, and are taken off one that is written into the request.
    """
    prediction = document.get("prediction")
    return len(orjson.dumps(prediction)) if prediction is not None else 0


def _fees(document: dict[str, Any], name: str) -> tuple[tuple[str, int], ...]:
    """Web searches, by the models that search in every answer.

    Raises:
        UnpricedFeature: the searches and what they find have no bound.
    """
    if document.get("web_search_options") is None and "-search" not in name and "-deep-research" not in name:
        return ()
    if _SEARCHES.match(name) and not _SEARCHES_ONCE.match(name):
        raise UnpricedFeature("This model bills every search and all it finds, which has no bound.", "model")
    return ((_WEB_SEARCH, 1),)


class _Named(NamedTuple):
    """What the name of a model says of it."""

    bare: str
    reasons: bool
    searches: bool


@lru_cache(maxsize=NAMES_CACHED)
def _named(model: str) -> _Named:
    name = fields.bare_name(model)
    return _Named(name, _REASONS.match(name) is not None, "-search" in name or "-deep-research" in name)


def reasons(model: str) -> bool:
    """Whether a model may reason before it answers, which is billed and not shown."""
    return _named(model).reasons


def _inputs(document: dict[str, Any], field: str) -> int:
    """How many prompts there are in a string, a list of strings, a list of token ids, or a list of such lists.

    Raises:
        MalformedRequest: it is something else, empty, or longer than `PROMPTS_MAX`.
    """
    value = document.get(field)
    if type(value) is str:
        return 1
    if type(value) is list and value:
        kinds = {type(item) for item in value}
        if kinds == {int}:
            return 1
        if len(value) > PROMPTS_MAX:
            raise MalformedRequest(f"{field} may hold at most {PROMPTS_MAX} inputs.", field)
        if kinds == {str} or (
            kinds == {list} and all(item and {type(token) for token in item} == {int} for item in value)
        ):
            return len(value)
    raise MalformedRequest(
        f"{field} must be a string, a list of strings, a list of token ids, or a list of those.", field
    )


def _count_chat(document: dict[str, Any], count: Count) -> int:
    tools = len(document.get("tools") or ()) + len(document.get("functions") or ())
    return (
        count_messages(document["messages"], count) + TOOL_TOKENS * tools + _count_others(document, "messages", count)
    )


def _count_inputs(field: str, document: dict[str, Any], count: Count) -> int:
    total = REPLY_TOKENS + _count_others(document, field, count)
    value = document.get(field)
    for item in value if type(value) is list else (value,):
        if type(item) is str:
            total += count(item)
        elif item is not None:
            total += 1 if type(item) is int else len(item)
    return total


def _count_others(document: dict[str, Any], main: str, count: Count) -> int:
    """The tokens of all other members that the model may be shown, among them those that are not known here."""
    return sum(
        count_value(value, count)
        for name, value in document.items()
        if name != main and name not in fields.NOT_IN_PROMPT
    )

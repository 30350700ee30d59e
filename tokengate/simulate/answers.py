"""What the simulated provider will answer: a request's body in, a plan of the whole answer out.

Pure but for the random numbers it is given. It decides words, lengths and counts; how they look as JSON is `frames`,
when and whether they are sent is `app`. Request checks follow the API reference
(https://platform.openai.com/docs/api-reference) as far as a client would notice.
"""

import math
import time
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import orjson

from tokengate.simulate.options import CapRule, SimulateOptions
from tokengate.simulate.text import Count, count_text, example_json, prose, split

ANSWERS_MAX: Final = 128
"""The largest `n`, as documented for chat completions."""
INPUTS_MAX: Final = 2048
"""The most inputs of one embeddings request, as documented, and the most prompts of one completions request."""
DIMENSIONS_MAX: Final = 3072
TEXT_CAP_DEFAULT: Final = 16
"""`max_tokens` of /v1/completions when it is not given, as documented."""

_MESSAGE_TOKENS: Final = 3
_REPLY_TOKENS: Final = 3
"""What every message, and the reply, costs beside its text (OpenAI cookbook, "How to count tokens with tiktoken")."""
_IMAGE_TOKENS: Final = 85
"""The least that an image costs on GPT-4o (https://platform.openai.com/docs/guides/images-vision)."""
_BULK_TOKENS: Final = 4096
_DIMENSIONS: Final = {"text-embedding-3-large": 3072}
_DIMENSIONS_DEFAULT: Final = 1536


class Refused(Exception):
    """The provider refuses the request: status and the parts of OpenAI's error object."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The call of a function; its arguments are the pieces of the choice it belongs to."""

    id: str
    name: str
    tokens: int
    """What the name costs, beside the arguments."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer, in the pieces in which it is streamed."""

    index: int
    pieces: tuple[str, ...]
    finish: str
    tool: ToolCall | None = None
    piece_tokens: int = 1
    """What each piece is billed as."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        return len(self.pieces) * self.piece_tokens + (self.tool.tokens if self.tool else 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One whole answer, before a byte of it is sent."""

    id: str
    created: int
    model: str
    chat: bool
    """Chat completions, else completions."""
    stream: bool
    include_usage: bool
    service_tier: str
    choices: tuple[Choice, ...]
    input_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    discarded_tokens: int = 0
    """Generated and billed, but not shown: what `best_of` threw away."""

    @property
    def output_tokens(self) -> int:
        """Every billed token of output."""
        return self.hidden_tokens + sum(choice.tokens for choice in self.choices)

    @property
    def hidden_tokens(self) -> int:
        """The billed tokens of output that nobody sees."""
        return self.reasoning_tokens + self.discarded_tokens


@dataclass(frozen=True, slots=True)
class EmbeddingPlan:
    """The answer of an embeddings request."""

    model: str
    inputs: tuple[bytes, ...]
    """What each vector is made from."""
    dimensions: int
    base64: bool
    input_tokens: int


def read_body(raw: bytes) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        Refused: it is not one, or names no model.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise Refused("We could not parse the JSON body of your request.")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Refused("you must provide a model parameter")
    return body


def plan_chat(body: dict[str, Any], options: SimulateOptions, rng: Random, count: Count) -> Plan:
    """Plan the answer to a chat request.

    Raises:
        Refused: as the provider would.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise Refused("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    cap = min(_chat_cap(body, options.cap_rule) or options.output_tokens_max, options.output_tokens_max)
    reasoning = min(options.reasoning_tokens, cap)
    answers = _whole(body, "n", ANSWERS_MAX) or 1
    tokens = _chat_input(body, messages, count) if options.input_tokens is None else options.input_tokens
    return Plan(
        **_common(body, "chatcmpl", rng),
        chat=True,
        choices=tuple(_chat_choice(index, body, options, cap - reasoning, rng) for index in range(answers)),
        input_tokens=tokens,
        cached_tokens=min(options.cached_tokens, tokens),
        reasoning_tokens=reasoning * answers,
    )


def plan_text(body: dict[str, Any], options: SimulateOptions, rng: Random, count: Count) -> Plan:
    """Plan the answer to a completions request.

    Raises:
        Refused: as the provider would.
    """
    prompts = _inputs(body, "prompt")
    answers = _whole(body, "n", ANSWERS_MAX) or 1
    generated = max(answers, _whole(body, "best_of", ANSWERS_MAX) or 1)
    if generated > answers and body.get("stream"):
        raise Refused("best_of is not compatible with streaming", "best_of")
    cap = min(_whole(body, "max_tokens", None) or TEXT_CAP_DEFAULT, options.output_tokens_max)
    drawn = [[_prose(cap, options, rng) for _ in range(generated)] for _ in prompts]
    tokens = _inputs_tokens(prompts, options, count)
    kept = [answer for of_prompt in drawn for answer in of_prompt[:answers]]
    return Plan(
        **_common(body, "cmpl", rng),
        chat=False,
        choices=tuple(Choice(index, pieces, finish) for index, (pieces, finish) in enumerate(kept)),
        input_tokens=tokens,
        cached_tokens=min(options.cached_tokens, tokens),
        reasoning_tokens=0,
        discarded_tokens=sum(len(pieces) for of_prompt in drawn for pieces, _ in of_prompt[answers:]),
    )


def enlarge(plan: Plan, megabytes: int, rng: Random) -> Plan:
    """The same plan with a first answer of about `megabytes` of text, whatever the request allows."""
    bulk = "".join(prose(_BULK_TOKENS, rng))
    pieces = (bulk,) * -(-megabytes * 1_000_000 // len(bulk))
    first = Choice(0, pieces, "stop", piece_tokens=_BULK_TOKENS)
    return replace(plan, choices=(first, *plan.choices[1:]))


def plan_embeddings(body: dict[str, Any], options: SimulateOptions, count: Count) -> EmbeddingPlan:
    """Plan the answer to an embeddings request.

    Raises:
        Refused: as the provider would.
    """
    inputs = _inputs(body, "input")
    encoding = body.get("encoding_format", "float")
    if encoding not in {"float", "base64"}:
        raise Refused(f"'{encoding}' is not one of ['float', 'base64'] - 'encoding_format'", "encoding_format")
    model = body["model"]
    return EmbeddingPlan(
        model=model,
        inputs=tuple(orjson.dumps([model, item]) for item in inputs),
        dimensions=_whole(body, "dimensions", DIMENSIONS_MAX) or _DIMENSIONS.get(model, _DIMENSIONS_DEFAULT),
        base64=encoding == "base64",
        input_tokens=_inputs_tokens(inputs, options, count),
    )


def _common(body: dict[str, Any], prefix: str, rng: Random) -> dict[str, Any]:
    stream_options = body.get("stream_options")
    if stream_options is not None and not body.get("stream"):
        raise Refused("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    tier = body.get("service_tier")
    return {
        "id": f"{prefix}-{rng.getrandbits(96):024x}",
        "created": int(time.time()),
        "model": body["model"],
        "stream": body.get("stream") is True,
        "include_usage": isinstance(stream_options, dict) and stream_options.get("include_usage") is True,
        "service_tier": tier if isinstance(tier, str) and tier != "auto" else "default",
    }


def _whole(body: dict[str, Any], name: str, high: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f"Invalid type for '{name}': expected an integer.", name, "invalid_type")
    if value < 1:
        message = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
        raise Refused(message, name, "integer_below_min_value")
    if high is not None and value > high:
        message = f"Invalid '{name}': integer above maximum value. Expected a value <= {high}, but got {value} instead."
        raise Refused(message, name, "integer_above_max_value")
    return value


def _chat_cap(body: dict[str, Any], rule: CapRule) -> int | None:
    completion = _whole(body, "max_completion_tokens", None)
    tokens = _whole(body, "max_tokens", None)
    if completion is None or tokens is None:
        return completion or tokens
    if rule is CapRule.REFUSE:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise Refused(message, "max_tokens", "invalid_parameter_combination")
    return max(completion, tokens) if rule is CapRule.LARGER else completion


def _prose(cap: int, options: SimulateOptions, rng: Random) -> tuple[tuple[str, ...], str]:
    wanted = options.output_tokens
    if wanted is None:
        drawn = rng.lognormvariate(math.log(options.output_tokens_median), options.output_tokens_sigma)
        wanted = max(1, round(drawn))
    return prose(min(wanted, cap), rng), "length" if wanted > cap else "stop"


def _chat_choice(index: int, body: dict[str, Any], options: SimulateOptions, cap: int, rng: Random) -> Choice:
    function = _function_to_call(body, options)
    if function is not None:
        name = str(function.get("name"))
        call = ToolCall(f"call_{rng.getrandbits(96):024x}", name, min(cap, len(split(name))))
        pieces = split(example_json(function.get("parameters")) if function.get("parameters") else "{}")
        room = cap - call.tokens
        return Choice(index, pieces[:room], "tool_calls" if len(pieces) <= room else "length", call)
    schema = _schema_to_fill(body)
    if schema is not None:
        pieces = split(example_json(schema))
        return Choice(index, pieces[:cap], "stop" if len(pieces) <= cap else "length")
    pieces, finish = _prose(cap, options, rng)
    return Choice(index, pieces, finish)


def _function_to_call(body: dict[str, Any], options: SimulateOptions) -> dict[str, Any] | None:
    """The function that the model calls: the one that was named, else the first; none after a tool has answered."""
    tools = body.get("tools")
    functions: list[dict[str, Any]] = [
        tool["function"]
        for tool in (tools if isinstance(tools, list) else [])
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    choice = body.get("tool_choice", "auto")
    answered = body["messages"][-1].get("role") == "tool" and not options.loop_tools
    if not functions or choice == "none" or (choice == "auto" and answered):
        return None
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        named = choice["function"].get("name")
        return next((function for function in functions if function.get("name") == named), functions[0])
    return functions[0]


def _schema_to_fill(body: dict[str, Any]) -> dict[str, Any] | None:
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") not in {"json_object", "json_schema"}:
        return None
    described = wanted.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    return schema if isinstance(schema, dict) else {"type": "object", "properties": {"answer": {"type": "string"}}}


def _chat_input(body: dict[str, Any], messages: list[dict[str, Any]], count: Count) -> int:
    parts = [part for message in messages if isinstance(content := message.get("content"), list) for part in content]
    images = sum(1 for part in parts if isinstance(part, dict) and part.get("type") == "image_url")
    schemas = [orjson.dumps(body[name]).decode() for name in ("tools", "response_format") if body.get(name)]
    text = count_text(messages, count) + sum(count(schema) for schema in schemas)
    return text + images * _IMAGE_TOKENS + len(messages) * _MESSAGE_TOKENS + _REPLY_TOKENS


def _inputs(body: dict[str, Any], name: str) -> list[Any]:
    """The inputs of a request that takes a text, tokens, or a list of either."""
    value = body.get(name)
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        value = [value]
    if not isinstance(value, list) or not 1 <= len(value) <= INPUTS_MAX:
        raise Refused(f"Missing or invalid required parameter: '{name}'.", name)
    return value


def _inputs_tokens(inputs: list[Any], options: SimulateOptions, count: Count) -> int:
    if options.input_tokens is not None:
        return options.input_tokens
    return sum(len(item) if isinstance(item, list) else max(1, count_text(item, count)) for item in inputs)

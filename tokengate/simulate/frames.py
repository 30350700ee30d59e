"""How a planned answer looks as JSON, whole and in chunks: the shapes of OpenAI's API reference, and nothing else.

Pure. The order and the members of the objects are those that api.openai.com sends
(https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming).
"""

import base64
import hashlib
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tokengate.simulate.answers import Choice, EmbeddingPlan, Plan, Refused
from tokengate.simulate.options import Fault, FaultKind

DONE: Final = b"data: [DONE]\n\n"
FINGERPRINT: Final = "fp_simulated"
_MODELS_CREATED: Final = 1_715_367_049
_NEGATIVE_TOKENS: Final = -1000
_COUNTS: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a stream, and how many tokens were generated for it."""

    data: bytes
    tokens: int


def event(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def usage(plan: Plan, output_tokens: int | None = None) -> dict[str, Any]:
    """The usage object of an answer, or of the part of it that has `output_tokens`."""
    output = plan.output_tokens if output_tokens is None else output_tokens
    counts: dict[str, Any] = {
        "prompt_tokens": plan.input_tokens,
        "completion_tokens": output,
        "total_tokens": plan.input_tokens + output,
    }
    if not plan.chat:
        return counts
    return counts | {
        "prompt_tokens_details": {"cached_tokens": plan.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": plan.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def reported_usage(true: dict[str, Any], fault: Fault | None) -> dict[str, Any] | None:
    """What the provider says was used at the end: the truth, unless its fault is to say something else."""
    match fault:
        case Fault(FaultKind.NO_USAGE | FaultKind.NULL_USAGE):
            return None
        case Fault(FaultKind.ZERO_USAGE | FaultKind.ZERO_USAGE_ON_CHUNKS):
            return dict.fromkeys(_COUNTS & true.keys(), 0)
        case Fault(FaultKind.HUGE_USAGE):
            grown = "completion_tokens" if "completion_tokens" in true else "prompt_tokens"
            return true | {grown: fault.number, "total_tokens": true["total_tokens"] - true[grown] + fault.number}
        case Fault(FaultKind.NEGATIVE_USAGE):
            return dict.fromkeys(_COUNTS & true.keys(), _NEGATIVE_TOKENS)
        case Fault(FaultKind.TEXT_USAGE):
            return {"prompt_tokens": "many", "completion_tokens": 1.5, "total_tokens": True}
        case _:
            return true


def whole(plan: Plan, fault: Fault | None = None) -> bytes:
    """The body of an answer that is not streamed."""
    value: dict[str, Any] = {
        "id": plan.id,
        "object": "chat.completion" if plan.chat else "text_completion",
        "created": plan.created,
        "model": _model(plan, fault),
        "choices": [_message(choice) if plan.chat else _text(choice) for choice in plan.choices],
        "usage": reported_usage(usage(plan), fault),
        "system_fingerprint": FINGERPRINT,
    }
    if plan.chat:
        value["service_tier"] = plan.service_tier
    if fault is not None and fault.kind is FaultKind.NO_USAGE:
        del value["usage"]
    return orjson.dumps(value)


def chunks(plan: Plan, fault: Fault | None = None) -> Iterator[Chunk]:
    """The events of a streamed answer, `[DONE]` excepted.

    With `include_usage` every chunk has `"usage": null`, and one more with no choices has the usage; without it there
    is no member of that name (API reference, `stream_options`).
    """
    kind = fault.kind if fault else None
    reported = reported_usage(usage(plan), fault)
    generated = 0
    for choices, tokens, finishes in _deltas(plan):
        generated += tokens
        value = _chunk(plan, fault, choices)
        if kind is FaultKind.CUMULATIVE_USAGE:
            value["usage"] = usage(plan, generated)
        elif kind is FaultKind.ZERO_USAGE_ON_CHUNKS or (kind is FaultKind.USAGE_ON_FINISH and finishes):
            value["usage"] = reported
        elif plan.include_usage and kind is not FaultKind.NO_USAGE:
            value["usage"] = None
        yield Chunk(event(value), tokens)
    if plan.include_usage and kind not in {FaultKind.NO_USAGE, FaultKind.USAGE_ON_FINISH}:
        yield Chunk(event(_chunk(plan, fault, []) | {"usage": reported}), 0)


def _deltas(plan: Plan) -> Iterator[tuple[list[dict[str, Any]], int, bool]]:
    """The choices of every chunk, its tokens, and whether it is the last of the answer; choices take turns."""
    if plan.chat:
        for choice in plan.choices:
            hidden = plan.hidden_tokens if choice.index == 0 else 0
            yield [_opening(choice)], hidden + (choice.tool.tokens if choice.tool else 0), False
    for turn in range(max(len(choice.pieces) for choice in plan.choices)):
        for choice in plan.choices:
            if turn < len(choice.pieces):
                yield [_piece(plan, choice, choice.pieces[turn])], choice.piece_tokens, False
    for choice in plan.choices:
        yield [_closing(plan, choice)], 0, choice is plan.choices[-1]


def _model(plan: Plan, fault: Fault | None) -> str:
    return fault.argument if fault is not None and fault.kind is FaultKind.OTHER_MODEL else plan.model


def _chunk(plan: Plan, fault: Fault | None, choices: list[dict[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": plan.id,
        "object": "chat.completion.chunk" if plan.chat else "text_completion",
        "created": plan.created,
        "model": _model(plan, fault),
    }
    if plan.chat:
        value["service_tier"] = plan.service_tier
    return value | {"system_fingerprint": FINGERPRINT, "choices": choices}


def _function(choice: Choice, arguments: str) -> dict[str, Any]:
    assert choice.tool is not None  # noqa: S101 - for the type checker; callers have looked
    function = {"name": choice.tool.name, "arguments": arguments}
    return {"id": choice.tool.id, "type": "function", "function": function}


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None if choice.tool else choice.text}
    if choice.tool:
        message["tool_calls"] = [_function(choice, choice.text)]
    message |= {"refusal": None, "annotations": []}
    return {"index": choice.index, "message": message, "logprobs": None, "finish_reason": choice.finish}


def _text(choice: Choice) -> dict[str, Any]:
    return {"text": choice.text, "index": choice.index, "logprobs": None, "finish_reason": choice.finish}


def _opening(choice: Choice) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": None if choice.tool else ""}
    if choice.tool:
        delta["tool_calls"] = [{"index": 0} | _function(choice, "")]
    delta["refusal"] = None
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}


def _piece(plan: Plan, choice: Choice, piece: str) -> dict[str, Any]:
    if not plan.chat:
        return {"text": piece, "index": choice.index, "logprobs": None, "finish_reason": None}
    delta: dict[str, Any] = (
        {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} if choice.tool else {"content": piece}
    )
    return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}


def _closing(plan: Plan, choice: Choice) -> dict[str, Any]:
    if not plan.chat:
        return {"text": "", "index": choice.index, "logprobs": None, "finish_reason": choice.finish}
    return {"index": choice.index, "delta": {}, "logprobs": None, "finish_reason": choice.finish}


def embeddings(plan: EmbeddingPlan, fault: Fault | None = None) -> bytes:
    """The body of an embeddings answer: unit vectors, floats or base64 of little-endian 32-bit floats."""
    data = []
    for index, seed in enumerate(plan.inputs):
        vector = _vector(seed, plan.dimensions)
        coded: Any = base64.b64encode(vector.tobytes()).decode() if plan.base64 else vector.tolist()
        data.append({"object": "embedding", "index": index, "embedding": coded})
    counts = {"prompt_tokens": plan.input_tokens, "total_tokens": plan.input_tokens}
    value = {"object": "list", "data": data, "model": plan.model, "usage": reported_usage(counts, fault)}
    if fault is not None and fault.kind is FaultKind.NO_USAGE:
        del value["usage"]
    return orjson.dumps(value)


def _vector(seed: bytes, dimensions: int) -> "array[float]":
    numbers = array("i", hashlib.shake_128(seed).digest(4 * dimensions))
    norm = math.sqrt(sum(number * number for number in numbers)) or 1.0
    return array("f", (number / norm for number in numbers))


def model(name: str) -> dict[str, Any]:
    """The object of one model."""
    return {"id": name, "object": "model", "created": _MODELS_CREATED, "owned_by": "simulated"}


def models(names: tuple[str, ...]) -> bytes:
    """The body of the list of models."""
    return orjson.dumps({"object": "list", "data": [model(name) for name in names]})


def error(refused: Refused) -> bytes:
    """The body of a refusal (https://platform.openai.com/docs/guides/error-codes)."""
    kind = "server_error" if refused.status >= 500 else "invalid_request_error"
    if refused.status == 429:
        kind = "requests"
    value = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return orjson.dumps({"error": value})

"""A provider of OpenAI's Responses API that answers what it is told, in the shapes of the reference, and keeps what it
was asked (https://developers.openai.com/api/reference/resources/responses).
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import serving

MODEL = "gpt-5-mini"
USAGE: dict[str, Any] = {
    "input_tokens": 300,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 30},
    "total_tokens": 340,
}


@dataclass
class Answers:
    """What is answered, and what was asked."""

    model: str = MODEL
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))
    searches: int = 0
    text: str = "Gates stand in walls."
    ends: bool = True
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        document = json.loads(body or b"{}")
        self.asked.append((scope["path"], document))
        if scope["path"].endswith("/moderations"):
            await _json(send, {"id": "modr-1", "model": "omni-moderation-latest", "results": []})
        elif document.get("stream"):
            await self._stream(receive, send, function_to_call(document))
        else:
            await _json(send, self.response("completed", function_to_call(document)))

    def response(self, status: str, function: str | None = None) -> dict[str, Any]:
        done = status == "completed"
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": self.text, "annotations": []}],
        }  # fmt: skip
        said = message if function is None else function_call(function)
        search = {
            "id": "ws_1",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "x"},
        }
        return {
            "id": "resp_1", "object": "response", "created_at": 1_790_000_000, "status": status, "model": self.model,
            "output": [*[search] * self.searches, said] if done else [], "parallel_tool_calls": True, "tools": [],
            "tool_choice": "auto", "usage": self.usage if done else None, "service_tier": "default", "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip

    def events(self, function: str | None = None) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = [{"type": "response.created", "response": self.response("in_progress")}]
        if function is None:
            place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
            told += [{"type": "response.output_text.delta", "delta": word, **place} for word in self.text.split()]
        else:
            told += function_events(function_call(function))
        if self.ends:
            told.append({"type": "response.completed", "response": self.response("completed", function)})
        return [event | {"sequence_number": number} for number, event in enumerate(told)]

    async def _stream(self, receive: Any, send: Any, function: str | None) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in self.events(function):
            text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        if not self.ends:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b""})


def function_to_call(asked: dict[str, Any]) -> str | None:
    """The first function that was offered, until the output of one stands at the end of the input."""
    functions = [tool["name"] for tool in asked.get("tools") or () if tool.get("type") == "function"]
    given = asked.get("input")
    answered = isinstance(given, list) and given and given[-1].get("type") == "function_call_output"
    return functions[0] if functions and not answered else None


def function_call(name: str) -> dict[str, Any]:
    return {
        "id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1", "name": name,
        "arguments": '{"query": "gates"}',
    }  # fmt: skip


def function_events(call: dict[str, Any]) -> list[dict[str, Any]]:
    """How the call of a function is streamed (openai/types/responses/response_stream_event.py)."""
    place = {"item_id": call["id"], "output_index": 0}
    arguments: str = call["arguments"]
    begun = call | {"status": "in_progress", "arguments": ""}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        {"type": "response.function_call_arguments.delta", "delta": arguments[:7], **place},
        {"type": "response.function_call_arguments.delta", "delta": arguments[7:], **place},
        {"type": "response.function_call_arguments.done", "arguments": arguments, "name": call["name"], **place},
        {"type": "response.output_item.done", "output_index": 0, "item": call},
    ]


async def _json(send: Any, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def answering(**told: Any) -> AsyncIterator[tuple[str, Answers]]:
    """Run one in this loop; gives its URL and what it was asked."""
    answers = Answers(**told)
    async with serving(answers) as url:
        yield url, answers

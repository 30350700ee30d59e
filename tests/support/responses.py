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
            await self._stream(receive, send)
        else:
            await _json(send, self.response("completed"))

    def response(self, status: str) -> dict[str, Any]:
        done = status == "completed"
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": self.text, "annotations": []}],
        }  # fmt: skip
        search = {
            "id": "ws_1",
            "type": "web_search_call",
            "status": "completed",
            "action": {"type": "search", "query": "x"},
        }
        return {
            "id": "resp_1", "object": "response", "created_at": 1_790_000_000, "status": status, "model": self.model,
            "output": [*[search] * self.searches, message] if done else [], "parallel_tool_calls": True, "tools": [],
            "tool_choice": "auto", "usage": self.usage if done else None, "service_tier": "default", "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "temperature": 1.0, "top_p": 1.0,
        }  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = [{"type": "response.created", "response": self.response("in_progress")}]
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
        told += [{"type": "response.output_text.delta", "delta": word, **place} for word in self.text.split()]
        if self.ends:
            told.append({"type": "response.completed", "response": self.response("completed")})
        return [event | {"sequence_number": number} for number, event in enumerate(told)]

    async def _stream(self, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in self.events():
            text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        if not self.ends:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b""})


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

"""A provider of Anthropic's API that answers what it is told, in the shapes of the official reference, and keeps what
it was asked (https://platform.claude.com/docs/en/api/messages, https://platform.claude.com/docs/en/build-with-claude/streaming).
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import serving

MODEL = "claude-sonnet-5"
USAGE: dict[str, Any] = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 100,
    "cache_read_input_tokens": 1000,
    "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60},
    "output_tokens": 15,
    "service_tier": "standard",
}


@dataclass
class Answers:
    """What is answered, and what was asked."""

    usage: dict[str, Any] = field(default_factory=lambda: dict(USAGE))
    text: str = "Gates stand in walls."
    ends: bool = True
    """Whether a stream comes to its end; else it stops after its text and waits."""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        document = json.loads(body or b"{}")
        self.asked.append((scope["path"], headers, document))
        if scope["path"].endswith("/count_tokens"):
            await _json(send, {"input_tokens": 14})
        elif scope["method"] == "GET":
            await _json(send, {"data": [{"type": "model", "id": MODEL}], "has_more": False})
        elif document.get("stream"):
            await self._stream(receive, send)
        else:
            await _json(send, self.message(self.usage) | {"content": [{"type": "text", "text": self.text}]})

    def message(self, usage: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
        }  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        start = self.message(self.usage | {"output_tokens": 1}) | {"stop_reason": None}
        told: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
                for word in self.text.split()
            ),
        ]
        if not self.ends:
            return told
        final = {"stop_reason": "end_turn", "stop_sequence": None}
        return [
            *told,
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": final, "usage": {"output_tokens": self.usage["output_tokens"]}},
            {"type": "message_stop"},
        ]

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

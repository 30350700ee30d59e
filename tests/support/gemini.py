"""A provider of the Gemini API that answers what it is told, in the shapes of the reference, and keeps what it was asked
(https://ai.google.dev/api/generate-content).
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import serving

MODEL = "gemini-2.5-flash"
USAGE: dict[str, Any] = {
    "promptTokenCount": 1200,
    "cachedContentTokenCount": 1000,
    "candidatesTokenCount": 20,
    "thoughtsTokenCount": 30,
    "totalTokenCount": 1250,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1200}],
}


@dataclass
class Answers:
    """What is answered, and what was asked."""

    usage: dict[str, Any] = field(default_factory=lambda: dict(USAGE))
    words: tuple[str, ...] = ("Gates ", "stand ", "in ", "walls.")
    ends: bool = True
    asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path, query = scope["path"], scope["query_string"].decode()
        self.asked.append((path, query, headers, json.loads(body or b"{}")))
        if path.endswith(":countTokens"):
            await _json(send, {"totalTokens": 14})
        elif scope["method"] == "GET":
            await _json(send, {"models": [{"name": f"models/{MODEL}"}]})
        elif path.endswith(":batchEmbedContents"):
            await _json(send, {"embeddings": [{"values": [0.5, 0.25]}], "usageMetadata": {"promptTokenCount": 7}})
        elif path.endswith(":streamGenerateContent"):
            await self._stream(receive, send, sse="alt=sse" in query)
        elif path.endswith(":generateContent"):
            await _json(send, self.chunk("".join(self.words), self.usage, "STOP"))
        else:
            await _json(send, {"error": {"code": 404, "message": path, "status": "NOT_FOUND"}}, 404)

    def chunk(self, text: str, usage: dict[str, Any], finish: str | None) -> dict[str, Any]:
        candidate = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL, "responseId": "r1"}

    def chunks(self) -> list[dict[str, Any]]:
        last = len(self.words) - 1
        return [
            self.chunk(
                word,
                self.usage if number == last else self.usage | {"candidatesTokenCount": 4 * number + 1},
                "STOP" if number == last else None,
            )
            for number, word in enumerate(self.words)
        ]

    async def _stream(self, receive: Any, send: Any, *, sse: bool) -> None:
        kind = b"text/event-stream" if sse else b"application/json; charset=UTF-8"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        for number, chunk in enumerate(self.chunks() if self.ends else self.chunks()[:2]):
            text = f"data: {json.dumps(chunk)}\r\n\r\n" if sse else ("[" if not number else ",\r\n") + json.dumps(chunk)
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        if not self.ends:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await send({"type": "http.response.body", "body": b"" if sse else b"]"})


async def _json(send: Any, document: dict[str, Any], status: int = 200) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json; charset=UTF-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def answering(**told: Any) -> AsyncIterator[tuple[str, Answers]]:
    """Run one in this loop; gives its URL and what it was asked."""
    answers = Answers(**told)
    async with serving(answers) as url:
        yield url, answers

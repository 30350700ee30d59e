"""A small HTTP client for the races: one connection a call, all calls at once, nothing retried."""

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from bench.processes import KEY

CALL_S_MAX: Final = 60.0
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: str
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal; empty if there is none."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        found = value.get("error") if isinstance(value, dict) else None
        return found if isinstance(found, dict) else {}


async def call(port: int, session: str, body: bytes, simulate: str = "") -> Answer:
    """One chat completion; the answer is read to its end."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"X-Session-ID: {session}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += f"x-simulate-fault: {simulate}\r\nConnection: close\r\n\r\n"
    return await _exchange(port, head.encode() + body)


async def control(port: int, method: str, path: str) -> Any:
    """The JSON answer of a GET or POST without a body."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return json.loads((await _exchange(port, head.encode())).body)


async def _exchange(port: int, request: bytes) -> Answer:
    async with asyncio.timeout(CALL_S_MAX):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=ANSWER_BYTES_MAX)
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
            body = await (reader.readexactly(int(length.group(1))) if length else reader.read())
        finally:
            writer.close()
    if "transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    return Answer(int(head.split(" ", 2)[1]), head, body)


def _joined(chunked: bytes) -> bytes:
    parts: list[bytes] = []
    while chunked:
        size_text, _, rest = chunked.partition(b"\r\n")
        size = int(size_text, 16)
        parts.append(rest[:size])
        chunked = rest[size + 2 :]
    return b"".join(parts)

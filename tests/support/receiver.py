"""A receiver of webhooks on a real socket: keeps what it was sent, and answers as a test says."""

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.gate import until
from tests.support.servers import Conversation, raw_server

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HANG = b""
"""Answer nothing, ever."""


@dataclass
class Receiver:
    url: str = ""
    answers: deque[bytes] = field(default_factory=deque)
    """For the next requests, in order; afterwards `OK`."""
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of every request, as it was sent."""

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]

    @property
    def summaries(self) -> list[str]:
        return [body["summary"] for body in self.bodies]

    async def count(self, number: int) -> None:
        """Wait until so many requests have come."""
        await until(lambda: len(self.received) >= number)


@asynccontextmanager
async def receiver(*answers: bytes) -> AsyncIterator[Receiver]:
    found = Receiver(answers=deque(answers))

    async def behave(talk: Conversation) -> None:
        while True:
            head = await talk.request()
            found.received.append((_headers(head), server.requests[-1][1]))
            answer = found.answers.popleft() if found.answers else OK
            if answer == HANG:
                await talk.gone()
                return
            await talk.say(answer)

    async with raw_server(behave) as server:
        found.url = f"{server.url}/hook"
        yield found


def _headers(head: bytes) -> dict[str, str]:
    pairs = (line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.lower(): value for name, colon, value in pairs if colon}


def answer(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "content-length: 0", "", ""]).encode()

"""What a gate receives, written down as a transcript."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.transcripts.tape import stamp
from tokengate.inbound import ASGIScope, Receive, Send
from tokengate.session import HEADER


@dataclass
class Recorder:
    """An application around a gate's; `lines` are the calls by the gate's request ids, in the order of their ends."""

    app: Any
    now_ms: Callable[[], int]
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        began_ms, body, status, request_id = self.now_ms(), bytearray(), 0, ""

        async def received() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def sending(message: Any) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = dict(message["headers"])[b"x-tokengate-request-id"].decode()
            await send(message)

        await self.app(scope, received, sending)
        headers = dict(scope["headers"])
        self.lines[request_id] = {
            "timestamp": stamp(began_ms),
            "session_id": headers[HEADER].decode(),
            "headers": {name.decode(): value.decode() for name, value in headers.items() if b"retry" in name},
            "url": scope["path"],
            "body": json.loads(body),
            "duration_ms": self.now_ms() - began_ms,
            "status": status,
        }

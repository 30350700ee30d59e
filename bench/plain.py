"""The plain hop: the gate's server and the gate's transport, with no gate between them.

Run as `python -m bench.plain PORT UPSTREAM`. It reads a request, forwards it, and passes the answer on as it comes:
what the gate adds is what is measured beyond this.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import uvicorn

from tokengate.upstream import Response, Transport
from tokengate.upstream.transport import HttpTransport

_HELD_BACK: Final = {b"host", b"content-length", b"connection", b"transfer-encoding", b"accept-encoding"}
_HOP_BY_HOP: Final = {b"connection", b"transfer-encoding", b"keep-alive"}
CONNECTIONS_MAX: Final = 1024
TIMEOUT_S: Final = 60.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class PlainHop:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream.removesuffix("/v1")
        self._transport: Transport | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if self._transport is None:
            self._transport = HttpTransport(
                connect_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S, connections_max=CONNECTIONS_MAX
            )
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = [(name, value) for name, value in scope["headers"] if name not in _HELD_BACK]
        response = await self._transport.send(scope["method"], self._upstream + scope["path"], headers, body)
        watcher = asyncio.create_task(_stop_when_left(receive, response))
        try:
            passed = [(name, value) for name, value in response.headers if name not in _HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status, "headers": passed})
            while (chunk := await response.read()) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            watcher.cancel()


async def _stop_when_left(receive: Receive, response: Response) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    await response.aclose()


def main() -> None:
    port, upstream = int(sys.argv[1]), sys.argv[2]
    app: Any = PlainHop(upstream)
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", lifespan="off", ws="none",
        access_log=False, log_level="critical", proxy_headers=False, server_header=False, date_header=False,
        backlog=2048, timeout_keep_alive=75,
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""The upstream of the stream measurements: paced chat completion streams whose every token says when it was written.

Run as `python -m bench.emitter PORT TOKENS_PER_SECOND TOKENS`. A bare asyncio protocol, so that it costs little beside
what is measured. Times are nanoseconds of the monotonic clock, which all processes of a machine share. A request is
known by its `user`; `GET /lost` tells when each connection that was closed in the midst of an answer was seen to be.
A request that is not for a stream is answered whole, after `HEAD_DELAY_S`.
"""

import asyncio
import json
import sys
import time
from typing import Any, Final, cast

import uvloop

HEAD_DELAY_S: Final = 0.1
REQUESTS_KEPT: Final = 10_000

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini",'
    b'"service_tier":"default","system_fingerprint":"fp_bench","choices":[{"index":0,"delta":{"content":" %d"},'
    b'"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_FINISH: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini",'
    b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
)
_USAGE: Final = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1760000000,"model":"gpt-4o-mini",'
    b'"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
_DONE: Final = b"data: [DONE]\n\n"


class Emitter(asyncio.Protocol):
    """One connection; answers one request at a time."""

    tokens_per_second: float = 50.0
    tokens: int = 100
    lost_ns: dict[str, int] = {}  # noqa: RUF012 - what all connections report to
    seen: list[str] = []  # noqa: RUF012 - the users of all requests, as they came
    whole: bytes = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._data = b""
        self._user = ""
        self._timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        if len(body) < length:
            return
        self._data = b""
        if head.startswith(b"GET"):
            self._whole(json.dumps({"lost": self.lost_ns, "seen": self.seen}).encode())
            return
        asked: dict[str, Any] = json.loads(body)
        user = str(asked.get("user", ""))
        if len(self.seen) < REQUESTS_KEPT:
            self.seen.append(user)
        if asked.get("stream"):
            self._user = user
            options = asked.get("stream_options") or {}
            self._started, self._sent = time.monotonic(), 0
            self._ends = [
                _FINISH,
                *([_USAGE % (self.tokens, self.tokens + 20)] if options.get("include_usage") else []),
            ]
            self._transport.write(_HEAD)
            self._next()
        else:
            self._timer = asyncio.get_running_loop().call_later(HEAD_DELAY_S, self._whole, self.whole)

    def _whole(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def _next(self) -> None:
        """Emit one event and set the time of the next by the start, so that no delay adds up."""
        if self._sent < self.tokens:
            event = _EVENT % time.monotonic_ns()
        elif self._ends:
            event = self._ends.pop(0)
        else:
            self._user = ""
            self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(_DONE), _DONE))
            return
        self._transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self._sent += 1
        due = self._started + self._sent / self.tokens_per_second
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._next)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        if self._user and len(self.lost_ns) < REQUESTS_KEPT:
            self.lost_ns[self._user] = time.monotonic_ns()
        if self._timer is not None:
            self._timer.cancel()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Emitter, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    Emitter.tokens_per_second, Emitter.tokens = float(sys.argv[2]), int(sys.argv[3])
    from bench.processes import HERE

    Emitter.whole = (HERE / "completion.json").read_bytes().strip()
    uvloop.run(serve(int(sys.argv[1])))

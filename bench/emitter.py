"""The upstream of the stream measurements: paced chat completion streams whose every token says when it was written.

Run as `python -m bench.emitter PORT TOKENS_PER_SECOND TOKENS STREAMS`. A thread writes every token at its time, evenly
spread over all streams, because an event loop's timers count whole milliseconds and would write tokens in bursts that
wait for each other. Times are nanoseconds of the monotonic clock, which all processes of a machine share. A request is
known by its `user`; `GET /lost` tells when each connection that was closed in the midst of a stream was seen to be. A
request that is not for a stream is answered whole, after `HEAD_DELAY_S`.
"""

import asyncio
import heapq
import json
import math
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import uvloop

HEAD_DELAY_S: Final = 0.1
REQUESTS_KEPT: Final = 10_000
_INPUT_TOKENS: Final = 20

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


@dataclass(slots=True)
class Stream:
    """One answer under way."""

    socket: socket.socket
    slot: int
    ends: list[bytes]
    """What comes after the tokens, `[DONE]` excepted."""
    sent: int = 0
    over: bool = False


class Pacer(threading.Thread):
    """Writes the tokens of all streams, each stream in a time slot of its own within the interval between tokens."""

    def __init__(self, tokens_per_second: float, tokens: int, streams_max: int) -> None:
        super().__init__(daemon=True)
        self._interval_s = 1 / tokens_per_second
        self._tokens = tokens
        self._streams_max = streams_max
        self._free = list(range(streams_max))
        self._due: list[tuple[float, int, Stream]] = []
        self._turn = threading.Condition()
        self._epoch = time.monotonic()

    def add(self, connection: socket.socket, ends: list[bytes]) -> Stream:
        """Begin a stream; its first token comes with its slot's next turn."""
        with self._turn:
            if not self._free:
                raise RuntimeError("more streams than the emitter was started for")
            stream = Stream(connection, heapq.heappop(self._free), ends)
            turns = math.ceil((time.monotonic() - self._epoch) / self._interval_s)
            due = self._epoch + (turns + stream.slot / self._streams_max) * self._interval_s
            heapq.heappush(self._due, (due, stream.slot, stream))
            self._turn.notify()
        return stream

    def run(self) -> None:
        while True:
            with self._turn:
                while not self._due:
                    self._turn.wait()
                wait_s = self._due[0][0] - time.monotonic()
                if wait_s > 0:
                    self._turn.wait(wait_s)
                    continue
                due, slot, stream = heapq.heappop(self._due)
                self._write(stream)
                if stream.over:
                    heapq.heappush(self._free, slot)
                else:
                    heapq.heappush(self._due, (due + self._interval_s, slot, stream))

    def _write(self, stream: Stream) -> None:
        if stream.over:
            return
        last = b""
        if stream.sent < self._tokens:
            event = _EVENT % time.monotonic_ns()
        elif stream.ends:
            event = stream.ends.pop(0)
        else:
            event, last, stream.over = _DONE, b"0\r\n\r\n", True
        stream.sent += 1
        try:
            stream.socket.send(b"%x\r\n%s\r\n%s" % (len(event), event, last))
        except OSError:
            stream.over = True


class Emitter(asyncio.Protocol):
    """One connection; answers one request at a time."""

    pacer: Pacer
    tokens: int
    whole: bytes
    lost_ns: dict[str, int] = {}  # noqa: RUF012 - what all connections report to
    seen: list[str] = []  # noqa: RUF012 - the users of all requests, as they came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        self._user = ""
        self._stream: Stream | None = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        if not found or len(body) < (int(lines[0].partition(b":")[2]) if lines else 0):
            return
        self._data = b""
        if head.startswith(b"GET"):
            self._answer(json.dumps({"lost": self.lost_ns, "seen": self.seen}).encode())
            return
        asked: dict[str, Any] = json.loads(body)
        self._user = str(asked.get("user", ""))
        if len(self.seen) < REQUESTS_KEPT:
            self.seen.append(self._user)
        if asked.get("stream"):
            counts = (self.tokens, self.tokens + _INPUT_TOKENS)
            wants_usage = (asked.get("stream_options") or {}).get("include_usage")
            self._socket.send(_HEAD)
            self._stream = self.pacer.add(self._socket, [_FINISH, _USAGE % counts] if wants_usage else [_FINISH])
        else:
            asyncio.get_running_loop().call_later(HEAD_DELAY_S, self._answer, self.whole)

    def _answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        stream = self._stream
        if stream is not None and not stream.over:
            stream.over = True
            if len(self.lost_ns) < REQUESTS_KEPT:
                self.lost_ns[self._user] = time.monotonic_ns()
        self._socket.close()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Emitter, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


def main() -> None:
    port, tokens_per_second, tokens, streams = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    Emitter.pacer, Emitter.tokens = Pacer(tokens_per_second, tokens, streams), tokens
    Emitter.whole = (Path(__file__).parent / "completion.json").read_bytes().strip()
    Emitter.pacer.start()
    uvloop.run(serve(port))


if __name__ == "__main__":
    main()

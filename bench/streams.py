"""What a stream feels of the gate: the delay of every chunk beside nginx's, and how soon the provider sees a client go.

50 streams at 50 tokens a second run through each way in turn. Every chunk carries the time at which it was written, so
that the delay of each is known; what the way adds is what is beyond the delay of the same streams with nothing between.
"""

import asyncio
import contextlib
import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Final, cast

import uvloop

from bench.figures import Figure, at_most, exactly, told
from bench.processes import KEY, all_of, base_url, free_port, gate, nginx_hop, plain_hop, redis_server, running

STREAMS: Final = 50
TOKENS_PER_SECOND: Final = 50
TOKENS: Final = 100
ROUNDS: Final = 5
LEAVERS: Final = 40
LEAVES_AFTER_CHUNKS: Final = 10
NOTICE_S_MAX: Final = 10.0
STREAM_S_MAX: Final = 30.0
APART_NS: Final = 5_000_000

_STAMP: Final = re.compile(rb'"content":" (\d{6,20})"')


@contextmanager
def emitter() -> Iterator[int]:
    """The paced upstream; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.emitter", str(port), str(TOKENS_PER_SECOND), str(TOKENS), str(STREAMS)]
    with running("the emitter", command, port=port, ready_path="/lost"):
        yield port


class Reader(asyncio.Protocol):
    """Asks for one stream and notes when each of its chunks came."""

    def __init__(self, port: int, user: str, leave_after: int | None = None) -> None:
        self._request = _request(port, user)
        self._leave_after = leave_after
        self.delays_us: list[float] = []
        self.together = 0
        """Chunks that came in one read with a chunk that was written well before."""
        self.left_ns = 0
        self.whole = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        stamps = _STAMP.findall(data)
        self.delays_us.extend((now - int(stamp)) / 1000 for stamp in stamps)
        # A late emitter writes two chunks at once; only chunks written at different times can be held back.
        self.together += sum(int(late) - int(soon) > APART_NS for soon, late in pairwise(stamps))
        if self._leave_after is not None and len(self.delays_us) >= self._leave_after and not self.left_ns:
            self.left_ns = time.monotonic_ns()
            self._transport.abort()
        self._tail = (self._tail + data)[-64:]
        if b"data: [DONE]" in self._tail:
            self.whole = True
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        if not self.over.done():
            self.over.set_result(None)


def _request(port: int, user: str) -> bytes:
    body = json.dumps(
        {
            "model": "gpt-4o-mini",
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_completion_tokens": 1000,
            "user": user,
            "messages": [{"role": "user", "content": f"Count for {user}."}],
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"X-Session-ID: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def read_streams(port: int, users: Sequence[str], leave_after: int | None = None) -> list[Reader]:
    """Read streams at once, begun evenly over one interval between tokens."""
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    for user in users:
        _, reader = await loop.create_connection(lambda user=user: Reader(port, user, leave_after), "127.0.0.1", port)  # type: ignore[misc]
        readers.append(reader)
        await asyncio.sleep(1 / TOKENS_PER_SECOND / len(users))
    async with asyncio.timeout(STREAM_S_MAX):
        await asyncio.gather(*(reader.over for reader in readers))
    return readers


def notice_ms(port: int, emitter_port: int, name: str) -> list[float]:
    """Milliseconds from when a client leaves to when the provider sees its connection close."""
    readers = {f"{name}-{number}": number for number in range(LEAVERS)}
    left = uvloop.run(read_streams(port, list(readers), LEAVES_AFTER_CHUNKS))
    deadline = time.monotonic() + NOTICE_S_MAX
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{emitter_port}/lost", timeout=5) as answer:
            lost: dict[str, int] = json.load(answer)["lost"]
        if time.monotonic() > deadline or all(user in lost for user in readers):
            break
        time.sleep(0.05)
    never = NOTICE_S_MAX * 1000
    return [
        (lost[user] - reader.left_ns) / 1e6 if user in lost else never
        for user, reader in zip(readers, left, strict=True)
    ]


def run() -> list[Figure]:
    """Directly, through nginx, through the gate, and through the plain hop, in turns."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(emitter())
        upstream = base_url(source)
        redis_url = stack.enter_context(redis_server())
        hops = stack.enter_context(all_of(nginx_hop(upstream), gate(upstream, redis_url), plain_hop(upstream)))
        ways = dict(zip(("direct", "nginx", "gate", "plain"), (source, *(hop.port for hop in hops)), strict=True))
        delays: dict[str, list[float]] = {name: [] for name in ways}
        together: dict[str, list[int]] = {name: [] for name in ways}
        unfinished = 0
        for number in range(ROUNDS):
            for name, port in ways.items():
                users = [f"{name}-{number}-{stream}-read" for stream in range(STREAMS)]
                readers = uvloop.run(read_streams(port, users))
                delays[name].append(statistics.median(delay for reader in readers for delay in reader.delays_us))
                together[name].append(sum(reader.together for reader in readers))
                unfinished += sum(not reader.whole or len(reader.delays_us) != TOKENS for reader in readers)
        notices = {name: notice_ms(ways[name], source, name) for name in ("gate", "nginx")}
    rounds = [dict(zip(delays, values, strict=True)) for values in zip(*delays.values(), strict=True)]
    added = {name: statistics.median(found[name] - found["direct"] for found in rounds) for name in ways}
    return [
        at_most("added delay of a chunk at the median, gate / nginx", added["gate"] / added["nginx"], "", 2.0),
        told("  gate", added["gate"], "us"),
        told("  nginx", added["nginx"], "us"),
        told("  no gate", added["plain"], "us"),
        told("  delay with nothing between", statistics.median(delays["direct"]), "us"),
        exactly("chunks held back until the next, quietest round", min(together["gate"]), "chunks", 0),
        exactly("streams that did not come whole", unfinished, "streams", 0),
        at_most(
            "from a client's leaving to the provider's notice, gate", statistics.median(notices["gate"]), "ms", 20.0
        ),
        told("  nginx", statistics.median(notices["nginx"]), "ms"),
        told("  the slowest of the gate's", max(notices["gate"]), "ms"),
    ]

"""The callers of the soak: all of a client's manners, good and bad, on raw sockets, drawn from one seed.

A caller asks for whole answers and streams, short and long, capped and not, of a provider that is told to misbehave at
random; it reads to the end, or reads slowly, or leaves. It counts what it saw and judges nothing.
"""

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Final

from bench.processes import KEY
from bench.races import MODEL

VISIT_S_MAX: Final = 60.0
CHUNK_BYTES: Final = 65_536
SLOW_CHUNK_BYTES: Final = 2048
SLOW_PAUSE_S: Final = 0.02
SLOW_BUFFER_BYTES: Final = 4096
LEAVES_AFTER_S_MAX: Final = 0.4
THINKS_S_MAX: Final = 0.04
TAIL_BYTES: Final = 600
"""How much of an answer's end is looked at for its error."""

HUGE_USAGE: Final = "huge_usage:3000"
HUGE_ANSWER: Final = "huge_answer:1,tokens_per_second:0"
BEYOND_THE_REQUEST: Final = frozenset({HUGE_USAGE, HUGE_ANSWER})
"""The provider bills more than the request allows. Whoever leaves before it is said cannot know, nor can the gate: no
hold is large enough. So their answers are read to the end."""

FAULTS: Final = (
    "rate_limited:0", "server_error:500", "server_error:503", "bad_request", "error_as_events", "slow_headers:300",
    "hang_before_headers", "hang_midway", "hang_midway:40", "reset_before_headers", "reset_midway", "reset_midway:30",
    "error_midway", "truncated_json", "no_usage", "null_usage", "zero_usage", HUGE_USAGE, "negative_usage",
    "text_usage", "cumulative_usage", "zero_usage_on_chunks", "usage_on_finish", "gzip", "content_type",
    "no_content_type", "no_done", "garbage_after_done", HUGE_ANSWER, "json_for_stream",
)  # fmt: skip
"""Every fault that the simulated provider knows but `other_model`, for which its books have no price by caller."""

RARE: Final = frozenset({HUGE_ANSWER})
"""Takes the budgets of thousands of calls at once."""

LONG_PROMPT: Final = "Say something about gates, walls, bridges and towers. " * 60
"""Above what is priced by its bytes alone, so that the tokenizer is at work from the beginning."""


@dataclass(slots=True)
class Seen:
    """What all callers saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    manners: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


class Kind(StrEnum):
    """What may happen to the calls of a session; the name of a session begins with it."""

    CALM = "calm"
    """Only what happens to Redis and to the gates: what was charged is what was billed, to the nano-dollar."""
    LEFT = "left"
    """Streams whose readers are slow, or leave."""
    STORM = "storm"
    """Everything."""


class Sessions:
    """The sessions that are being spent; one whose budget is used up makes place for a new one of its kind."""

    def __init__(self, live: int, sessions_max: int) -> None:
        self.names = [f"{kind}-{number}" for number in range(live) for kind in Kind]
        self._live = list(self.names)
        self._sessions_max = sessions_max

    def one(self, random: Random) -> str:
        return random.choice(self._live)

    def used_up(self, name: str) -> None:
        if name in self._live and len(self.names) < self._sessions_max:
            self.names.append(f"{kind_of(name)}-{len(self.names)}")
            self._live[self._live.index(name)] = self.names[-1]


def kind_of(session: str) -> Kind:
    """The kind of a session, by its name."""
    return Kind(session.partition("-")[0])


def _conduct(kind: Kind, random: Random) -> tuple[str, str, bool]:
    """The provider's fault, the caller's manner, and whether a stream is asked for."""
    if kind is Kind.CALM:
        return "", random.choices(("reads", "slow"), (90, 10))[0], random.random() < 0.6
    manner = random.choices(("reads", "slow", "leaves"), (60, 10, 30))[0]
    if kind is Kind.LEFT:
        return "", manner, True
    fault = random.choice(FAULTS) if random.random() < 0.6 else ""
    if fault in RARE and random.random() < 0.9:
        fault = ""
    return fault, "reads" if fault in BEYOND_THE_REQUEST else manner, random.random() < 0.6


def _request(port: int, session: str, random: Random, fault: str, *, stream: bool) -> bytes:
    prompt = LONG_PROMPT if random.random() < 0.1 else f"Say something about gate {random.randrange(1000)}."
    asked: dict[str, object] = {"model": MODEL, "user": session, "messages": [{"role": "user", "content": prompt}]}
    if random.random() < 0.4:
        asked["max_tokens"] = random.choice((16, 100, 400))
    if stream:
        asked["stream"] = True
        if random.random() < 0.5:
            asked["stream_options"] = {"include_usage": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"X-Session-ID: {session}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return (head + f"x-simulate-fault: {fault}\r\nConnection: close\r\n\r\n").encode() + body


async def _read(reader: asyncio.StreamReader, *, slow: bool) -> bytes:
    """The beginning and the end of an answer."""
    first, last = b"", b""
    while chunk := await reader.read(SLOW_CHUNK_BYTES if slow else CHUNK_BYTES):
        first = first or chunk[:TAIL_BYTES]
        last = (last + chunk)[-TAIL_BYTES:]
        if slow:
            await asyncio.sleep(SLOW_PAUSE_S)
    return first + last


async def _visit(port: int, request: bytes, manner: str, random: Random) -> bytes:
    with socket.socket() as plug:
        plug.setblocking(False)
        if manner == "slow":
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER_BYTES)
        await asyncio.get_running_loop().sock_connect(plug, ("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=plug, limit=SLOW_BUFFER_BYTES)
        try:
            writer.write(request)
            if manner != "leaves":
                return await _read(reader, slow=manner == "slow")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(0, LEAVES_AFTER_S_MAX)):
                    await _read(reader, slow=False)
            return b""
        finally:
            writer.transport.abort()


async def soaker(ports: Sequence[int], sessions: Sessions, seen: Seen, random: Random, until: float) -> None:
    """Call until the loop's time is `until`; the last call is ended, not broken off."""
    loop = asyncio.get_running_loop()
    while loop.time() < until:
        session = sessions.one(random)
        fault, manner, stream = _conduct(kind_of(session), random)
        port = random.choice(ports)
        request = _request(port, session, random, fault, stream=stream)
        seen.manners[manner] += 1
        seen.faults[fault or "none"] += 1
        try:
            async with asyncio.timeout(VISIT_S_MAX):
                answer = await _visit(port, request, manner, random)
        except TimeoutError:
            seen.statuses["no answer in time"] += 1
        except OSError:
            seen.statuses["no connection"] += 1  # a gate is being restarted
            await asyncio.sleep(THINKS_S_MAX)
        else:
            seen.statuses[answer[9:12].decode("latin-1") or ("left" if manner == "leaves" else "cut off")] += 1
            if b'"insufficient_quota"' in answer:
                sessions.used_up(session)
        await asyncio.sleep(random.uniform(0, THINKS_S_MAX))

"""A whole gate without a socket: callers' bytes go in, a scripted provider answers, the ledger is the reference model.

Everything between the caller's bytes and the provider's is production's: the protocol, the proxy, the gate, the meters.
So thousands of requests a minute can be sent, cut anywhere, and what is left of each is known as soon as it has ended.
"""

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import uvicorn
from uvicorn.server import ServerState

from tests.support.gate import KEY, WAIT_S_MAX
from tokengate import tokens
from tokengate.app import load_prices
from tokengate.budgets import Policy, limits
from tokengate.destination import Destination, Destinations
from tokengate.domain import Session
from tokengate.gate import Gate
from tokengate.ledger import ScopeState
from tokengate.ledger.memory import MemoryLedger
from tokengate.providers import Router, openai
from tokengate.proxy import Bounds, Proxy
from tokengate.session import Identity
from tokengate.telemetry import Telemetry
from tokengate.tokens import Tokenizer
from tokengate.upstream import ConnectFailed, Headers, Transport, UpstreamLost, UpstreamTimeout
from tokengate.upstream.http1 import request_head
from tokengate.wire import Protocol

BASE_URL: Final = "http://provider.example/v1"
WRITE_BUFFER_BYTES: Final = 65_536

prices = functools.cache(load_prices)
load_encoding = functools.cache(tokens.load_encoding)

End = Literal["complete", "lost", "timeout", "hang", "refused", "silent"]


@dataclass
class Answer:
    """What the provider does with one request: `refused` and `silent` come before its head."""

    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ((b"content-type", b"application/json"),)
    chunks: list[bytes] = field(default_factory=list)
    end: End = "complete"
    ended: bool = False
    hanging: bool = False
    _closed: bool = False

    async def read(self) -> bytes | None:
        if self._closed:
            raise UpstreamLost("closed")
        await asyncio.sleep(0)
        if self.chunks:
            return self.chunks.pop(0)
        if self.end == "lost":
            raise UpstreamLost("the connection was lost within the answer")
        if self.end == "timeout":
            raise UpstreamTimeout("no more of the answer")
        if self.end == "hang":
            await self.hang()
        self.ended = True
        return None

    async def hang(self) -> None:
        self.hanging = True
        try:
            await asyncio.Event().wait()
        finally:
            self.hanging = False

    async def aclose(self) -> None:
        self._closed = True


Answering = Callable[[bytes], Answer]


class Script:
    """The `Transport`: asks `answering` what the provider does with a body, and keeps what was forwarded."""

    def __init__(self) -> None:
        self.answering: Answering = lambda _: Answer()
        self.forwarded: list[bytes] = []
        self.answers: list[Answer] = []

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> Answer:
        if not url.startswith(f"{BASE_URL}/"):
            raise AssertionError(url)
        # What could not be written as one request of one meaning is not sent: production's own rule.
        request_head(
            method, url.removeprefix("http://provider.example").encode(), b"provider.example", headers, len(body)
        )
        answer = self.answering(body)
        if answer.end == "refused":
            raise ConnectFailed("refused")
        self.forwarded.append(body)
        self.answers.append(answer)
        if answer.end == "silent":
            await answer.hang()
        return answer

    async def aclose(self) -> None: ...

    @property
    def hanging(self) -> bool:
        return any(answer.hanging for answer in self.answers)


class Sink(asyncio.Transport):
    """A caller's connection as the gate writes to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("sockname", "peername") else default


class InMemory:
    """A gate, its provider, its ledger, and all it has logged."""

    def __init__(self, cap_nano: int) -> None:
        self.policy = Policy(session_cap_nano=cap_nano)
        self.ledger = MemoryLedger(lease_ms=60_000, sessions_max=10**9, now_ms=1_900_000_000_000)
        self.provider = Script()
        self.lines: list[dict[str, Any]] = []
        self.faults: list[logging.LogRecord] = []
        self.gate = Gate(
            self.ledger, prices(None), self.policy, Tokenizer(), output_cap="when_unset", busy_wait_ms=20, waiters_max=64,
            lease_ms=60_000, tenant="default",
        )  # fmt: skip
        self.telemetry = Telemetry(
            lambda text: self.lines.extend(map(json.loads, text.split(b"\n")[:-1])), logging.INFO
        )
        self.proxy = Proxy(
            router=Router(openai.ROUTES),
            dialect=openai.dialect,
            gate=self.gate,
            identity=Identity("default", "", "", "default", strict=False),
            destinations=Destinations({"openai": _destination(self.provider)}),
            telemetry=self.telemetry,
            bounds=Bounds(body_bytes_max=1_000_000, header_bytes_max=32_768, concurrency_max=100),
        )
        self._config = uvicorn.Config(
            cast("Any", self.proxy), http=Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, date_header=False,
        )  # fmt: skip
        self._config.load()

    async def call(self, pieces: Sequence[bytes], *, leave_after_bytes: int | None = None) -> bytes:
        """Send the bytes of one connection, and give what came back; the caller leaves at last, or once so much came."""
        state = ServerState()
        sink = Sink()
        line = Protocol(config=self._config, server_state=state, app_state={})
        line.connection_made(sink)
        for piece in pieces:
            if not sink.closing:
                line.data_received(piece)
                await asyncio.sleep(0)
        async with asyncio.timeout(WAIT_S_MAX):
            spins = 0
            while state.tasks and not self._stuck(line):
                if leave_after_bytes is not None and len(sink.written) >= leave_after_bytes:
                    break
                spins += 1
                await asyncio.sleep(0 if spins < 50 else 0.001)
            sink.closing = True
            line.connection_lost(None)
            if state.tasks:
                await asyncio.wait(state.tasks)
        return bytes(sink.written)

    async def settled(self) -> None:
        """Wait until everything is charged and logged."""
        if await self.gate.drain(WAIT_S_MAX):
            raise TimeoutError("charges are still not posted")
        self.telemetry.flush()

    async def state(self, session: str) -> ScopeState:
        return await self.ledger.state(limits(self.policy, Session(session))[0])

    def _stuck(self, line: Protocol) -> bool:
        """Whether nothing more can happen but the caller's leaving."""
        return self.provider.hanging or (line.cycle.more_body)


def _destination(transport: Transport) -> Destination:
    key = f"Bearer {KEY}".encode()
    return Destination("openai", BASE_URL, transport, section="openai", replaces="/v1", key=key)

"""A provider, a gate before it, and a client that is no SDK: what most tests of the whole begin with."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from tests.support.gate import INPUT_NANO, OUTPUT_NANO, WAIT_S_MAX, Gate, Provider, gate, simulated
from tokengate.domain import Call
from tokengate.money import format_usd
from tokengate.providers import Router, openai
from tokengate.simulate import SimulateOptions

MODEL: Final = "gpt-4o-mini"
CHAT: Final = "/v1/chat/completions"
_ROUTER: Final = Router(openai.ROUTES)


def chat(content: str = "Say something about gates.", **more: Any) -> bytes:
    """The body of a chat request."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]} | more
    return json.dumps(body, ensure_ascii=False).encode()


def parsed(body: bytes) -> Call:
    """What the gate reads in the body of a chat request."""
    route = _ROUTER.match("POST", CHAT)
    if route is None or route.endpoint is None:
        raise LookupError("there is no route for chats")
    return route.endpoint.parse(body).call


@dataclass(frozen=True)
class Fixed:
    """A chat of which the price is known before: the provider is told to bill exactly what the gate holds for it."""

    body: bytes
    simulate: str
    cost_nano: int

    def budget(self, calls: int) -> str:
        """What pays for so many of them, in USD."""
        return format_usd(calls * self.cost_nano)


def fixed(output_tokens: int = 50, simulate: str = "", **more: Any) -> Fixed:
    body = chat(max_tokens=output_tokens, **more)
    input_tokens = parsed(body).input_tokens_max
    directives = f"input_tokens:{input_tokens},output_tokens:{output_tokens}"
    cost_nano = input_tokens * INPUT_NANO + output_tokens * OUTPUT_NANO
    return Fixed(body, f"{directives},{simulate}" if simulate else directives, cost_nano)


@asynccontextmanager
async def client(base_url: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client that is no SDK: without certificates, retries and bounds on connections."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=base_url, verify=False, timeout=WAIT_S_MAX, limits=limits) as http:
        yield http


@dataclass
class Scene:
    provider: Provider
    gate: Gate
    http: httpx.AsyncClient

    async def post(
        self, body: bytes, session: str | None = None, simulate: str = "", path: str = CHAT
    ) -> httpx.Response:
        return await self.http.post(path, content=body, headers=headers(session, simulate))

    async def ask(self, session: str | None = None, simulate: str = "", **more: Any) -> httpx.Response:
        """Send a chat."""
        return await self.post(chat(**more), session, simulate)

    def begin(self, body: bytes, session: str | None = None, simulate: str = "") -> "asyncio.Task[httpx.Response]":
        """Send a chat whose answer may never come; cancelling the task closes the connection."""
        return asyncio.create_task(self.post(body, session, simulate))

    @asynccontextmanager
    async def stream(
        self, body: bytes, session: str | None = None, simulate: str = ""
    ) -> AsyncIterator[httpx.Response]:
        """Send a chat and read its answer as it comes; leaving the block closes the connection."""
        async with self.http.stream("POST", CHAT, content=body, headers=headers(session, simulate)) as response:
            yield response


def headers(session: str | None, simulate: str = "") -> dict[str, str]:
    named = {"content-type": "application/json", "authorization": "Bearer dummy-key"}
    if session is not None:
        named["x-session-id"] = session
    if simulate:
        named["x-simulate-fault"] = simulate
    return named


@asynccontextmanager
async def scene(store: str | None, options: SimulateOptions | None = None, **settings: object) -> AsyncIterator[Scene]:
    """Run a provider and a gate in this loop; the settings are the gate's."""
    async with (
        simulated(options) as provider,
        gate(provider.base_url, store, **settings) as running,
        client(running.url) as http,
    ):
        yield Scene(provider, running, http)


async def raw(url: str, request: bytes) -> bytes:
    """Send bytes that no HTTP library would send, and give everything that comes back until the connection closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        async with asyncio.timeout(WAIT_S_MAX):
            return await reader.read()
    finally:
        writer.close()


def events(content: bytes) -> list[Any]:
    """The JSON events of a stream, with `[DONE]` as text."""
    texts = [part.removeprefix("data: ") for part in content.decode().split("\n\n") if part]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]

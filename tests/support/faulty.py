"""A provider that misbehaves once: it says given bytes to its first request, and something good to every later one."""

import functools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal
from unittest import mock

import httpx

from tests.support.gate import Gate, gate
from tests.support.redis_server import Server
from tests.support.scene import client
from tests.support.servers import Behaviour, Conversation, RawServer, raw_server
from tokengate import tokens
from tokengate.upstream.transport import HttpTransport

READ_TIMEOUT_S: Final = 0.2
"""How long the gate waits for this provider, in place of the setting, which is in whole seconds."""

_load_encoding = functools.cache(tokens.load_encoding)
"""A vocabulary is immutable and takes a third of a second to load: once for all gates."""

Then = Literal["next", "close", "reset", "hang"]
"""What comes behind an answer: the next request, the end of the connection, a reset of it, silence."""


class Faulty:
    """Says the fault to its first request, and something good to every other one."""

    def __init__(self, says: bytes, good: bytes, then: Then = "next") -> None:
        self.says = says
        self.good = good
        self.then = then
        self.asked = 0

    async def __call__(self, peer: Conversation) -> None:
        while True:
            await peer.request()
            self.asked += 1
            if self.asked > 1:
                await peer.say(self.good)
                continue
            await peer.say(self.says)
            if self.then == "close":
                return
            if self.then == "reset":
                peer.reset()
                return
            if self.then == "hang":
                await peer.gone()
                return


@asynccontextmanager
async def facing(
    behaviour: Behaviour, store: Server, tls: ssl.SSLContext | None = None, **settings: object
) -> AsyncIterator[tuple[RawServer, Gate, httpx.AsyncClient]]:
    """A gate before a server that does exactly what a test says."""
    with mock.patch.object(tokens, "load_encoding", _load_encoding):
        async with (
            raw_server(behaviour, tls) as provider,
            gate(f"{provider.url}/v1", store.url, **settings) as running,
            client(running.url) as http,
        ):
            transport = running.app.proxy.destinations.of("openai").transport
            assert isinstance(transport, HttpTransport)
            transport._read_timeout_s = READ_TIMEOUT_S
            yield provider, running, http

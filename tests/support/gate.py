"""A real gate on a real socket, in the test's own loop or as a process, and a simulated provider behind it.

In the loop: the application that production opens, under uvicorn's protocol with our bounds, so that a test can wait
for events instead of for time. As a process: `python -m tokengate serve`, as an operator starts it. Waits are bounded by
`WAIT_S_MAX`, which no passing test comes near; nothing here asserts.
"""

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

import openai
import uvicorn
from uvicorn.server import ServerState

import tokengate.app
from tests.support.servers import free_port
from tokengate.app import App, load_prices, open_app
from tokengate.settings import load
from tokengate.simulate import SimulateOptions
from tokengate.simulate.app import SimulatedProvider
from tokengate.simulate.text import count_runs
from tokengate.wire import Protocol

WAIT_S_MAX: Final = 20.0
POLL_S: Final = 0.002
ROOT: Final = Path(__file__).parent.parent.parent
KEY: Final = "sk-the-providers-own"

CALM: Final = dict.fromkeys(("LOOPS", "TOOL_LOOPS", "GROWTH", "VELOCITY"), "off")
"""Tests send the same again and again: rules about runaways are for those that are about them."""

INPUT_NANO: Final = 150
OUTPUT_NANO: Final = 600
"""Nano-USD a token of gpt-4o-mini: $0.15 and $0.60 a million (https://developers.openai.com/api/docs/pricing)."""


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what has no event of its own (something that another process, or the other side of a socket, does)."""
    async with asyncio.timeout(WAIT_S_MAX):
        while not happened():
            await asyncio.sleep(POLL_S)


def official(base_url: str, **options: Any) -> openai.AsyncOpenAI:
    """The official SDK as it is, but that it loads no certificates, for which plain HTTP has no use (25 ms)."""
    http = openai.DefaultAsyncHttpxClient(verify=False)
    given: dict[str, Any] = {"api_key": "dummy-key", "max_retries": 0, "timeout": WAIT_S_MAX} | options
    return openai.AsyncOpenAI(base_url=base_url, http_client=http, **given)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An ASGI application on a port of 127.0.0.1, in this loop; gives its URL."""
    config = uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False,
        proxy_headers=False, server_header=False, date_header=False, timeout_keep_alive=60,
    )  # fmt: skip
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", 0
    )
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        tasks = set(state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


# --- the provider ---


@dataclass
class Provider:
    """A simulated provider in this loop; its books are the truth about what was forwarded."""

    url: str
    app: SimulatedProvider

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def total(self) -> dict[str, int]:
        """What was received, answered, refused and cut, and the tokens billed."""
        found: dict[str, int] = self.app._books.as_json()["total"]
        return found

    @property
    def received(self) -> int:
        return self.total["received"]

    @property
    def disconnects(self) -> int:
        count: int = self.app._books.as_json()["disconnects"]["count"]
        return count

    @property
    def requests(self) -> list[dict[str, Any]]:
        return self.app._books.requests_as_json()

    def body(self, number: int = -1) -> dict[str, Any]:
        """The body of one of the latest requests."""
        found: dict[str, Any] = json.loads(self.requests[number]["body"])
        return found

    def headers(self, number: int = -1) -> dict[str, str]:
        return dict(self.requests[number]["headers"])

    def billed_nano(self) -> int:
        """What the provider would bill for gpt-4o-mini, in nano-USD."""
        return self.total["input_tokens"] * INPUT_NANO + self.total["output_tokens"] * OUTPUT_NANO


@asynccontextmanager
async def simulated(options: SimulateOptions | None = None) -> AsyncIterator[Provider]:
    app = SimulatedProvider(options or SimulateOptions(), count_runs)
    async with serving(app) as url:
        yield Provider(url, app)


# --- the gate, in this loop ---

_prices = functools.cache(load_prices)
"""A table is read once for all tests that name the same one: it is immutable, and takes 60 ms."""


@dataclass
class Gate:
    """A gate in this loop. `lines` are its log lines of requests, in order, as they are written."""

    url: str
    app: App
    lines: list[dict[str, Any]]

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    async def idle(self) -> None:
        """Wait until no request is in flight and every charge is posted."""
        await until(lambda: self.app.proxy._in_flight == 0)
        if await self.app.proxy.gate.drain(WAIT_S_MAX):
            raise TimeoutError("charges are still not posted")
        self.app.proxy.telemetry.flush()

    async def log(self) -> list[dict[str, Any]]:
        """The log lines of everything until now."""
        await self.idle()
        return self.lines


@asynccontextmanager
async def gate(provider: str, store: str | None, **settings: object) -> AsyncIterator[Gate]:
    """Run a gate in this loop.

    Args:
        provider: the base URL of the provider, with its `/v1`.
        store: a REDIS_URL; None: the embedded store of the setting `data_dir`.
        settings: others, by their field names, in the notation of the environment.
    """
    given = {name.upper(): str(value) for name, value in settings.items() if value is not None}
    environ = {"OPENAI_BASE_URL": provider, "OPENAI_API_KEY": KEY, "REDIS_URL": store or ""} | CALM | given
    lines: list[dict[str, Any]] = []
    with (
        mock.patch.object(tokengate.app, "write_stdout", lambda data: lines.extend(map(json.loads, data.splitlines()))),
        mock.patch.object(tokengate.app, "load_prices", _prices),
    ):
        opened = open_app(load(environ, env_file=None).settings, "all", "test")
        app = await opened.__aenter__()
    try:
        async with serving(app) as url:
            yield Gate(url, app, lines)
    finally:
        await opened.__aexit__(None, None, None)


# --- processes ---


@dataclass
class Process:
    """A server in a process of its own."""

    url: str
    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What it has printed until now; every line is JSON."""
        return [json.loads(line) for line in self.output.read_bytes().splitlines()]

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.lines if line.get("event") == event]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end; gives the exit code."""
        await until(lambda: self.process.poll() is not None)
        return self.process.returncode


@asynccontextmanager
async def gate_processes(
    number: int, provider: str, store: str | None, role: str = "sidecar", **settings: object
) -> AsyncIterator[list[Process]]:
    """Several gates that share a store, started together; ended by their ids."""
    given = {name.upper(): str(value) for name, value in settings.items()}
    # Nothing of whoever runs the tests: neither their settings nor a .env in their directory.
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environ |= {"OPENAI_BASE_URL": provider, "OPENAI_API_KEY": KEY, "REDIS_URL": store or "", "PYTHONPATH": str(ROOT)}
    environ |= CALM
    command = [sys.executable, "-m", "tokengate", "serve", "--role", role]
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as place:
        running: list[Process] = []
        try:
            for index in range(number):
                folder = Path(place) / str(index)
                folder.mkdir()
                port = free_port()
                with (folder / "output").open("wb") as output:
                    process = subprocess.Popen(
                        command, stdout=output, stderr=output, cwd=folder, env=environ | {"PORT": str(port)} | given
                    )
                running.append(Process(f"http://127.0.0.1:{port}", process, folder / "output"))
            for each in running:
                await _ready(each)
            yield running
        finally:
            for each in running:
                await _end(each.process)


async def _ready(running: Process) -> None:
    port = int(running.url.rpartition(":")[2])

    async def answers() -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n")
        status = await reader.readline()
        writer.close()
        await writer.wait_closed()
        return b" 200 " in status

    async with asyncio.timeout(WAIT_S_MAX):
        while not await answers():
            if running.process.poll() is not None:
                raise RuntimeError(f"the gate ended at once: {running.output.read_text()}")
            await asyncio.sleep(0.01)


async def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, kindly at first."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            await until(lambda: process.poll() is not None)
        except TimeoutError:
            process.kill()
    process.wait()

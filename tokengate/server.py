"""The server: uvicorn on uvloop and httptools around the application, with bounds, signals and a graceful stop.

SIGTERM and SIGINT stop accepting, let what is in flight finish for `SHUTDOWN_GRACE_S`, settle, and end; a second one
does not wait. SIGHUP reads the price table anew: a table that cannot be used is reported and the old one stays.

For a first try without an account, `--simulate-without-key` puts the simulated provider behind the gate, and says so.
What is said to a person goes to standard error: standard output has nothing but the log.
"""

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import uvicorn
import uvloop

from tokengate import __version__
from tokengate.app import App, load_prices, open_app
from tokengate.inbound import ASGIApp
from tokengate.money import format_usd
from tokengate.pricing import PriceTableError
from tokengate.settings import Settings, SettingsError, load
from tokengate.store import StoreError
from tokengate.telemetry import configure_logging
from tokengate.wire import Protocol

KEEP_ALIVE_S: Final = 75
"""How long a caller's idle connection is kept: longer than the pools of the SDKs, so that they close it, not we."""

BACKLOG_MAX: Final = 2048

ROLES: Final = ("all", "sidecar")

SIMULATED_PORT: Final = 8001
"""Where the simulated provider listens, if that port is free; else on any that is."""

SIMULATED_GRACE_S: Final = 1

STATUS_GRACE_S: Final = 1

GC_THRESHOLDS: Final = (20_000, 20, 50)
"""A request makes hundreds of objects and no cycles: Python's own thresholds would look for some twice a request."""

log = structlog.get_logger()


class Server(uvicorn.Server):
    """uvicorn's, with signals left to the event loop: its own handling ends the process before we have settled."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not touch the process's signal handlers."""
        yield

    def stop(self) -> None:
        """Begin a graceful stop; called again, do not wait any longer."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def _serve(settings: Settings, role: str, *, simulate: bool, guide: bool) -> None:
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    listener = _listen(settings.host, settings.port)
    async with contextlib.AsyncExitStack() as stack:
        if simulate:
            settings = settings.model_copy(update={"openai_base_url": await stack.enter_async_context(_simulated())})
        app = await stack.enter_async_context(open_app(settings, role, owner))
        if settings.status_port is not None:
            await stack.enter_async_context(_observed(app, settings.status_port))
        server = Server(_config(app, settings.shutdown_grace_s))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _handle_signals(server, app, settings)
        log.info(
            "serving",
            url=f"http://{settings.host}:{settings.port}/v1",
            version=__version__,
            role=role,
            provider=settings.openai_base_url,
            provider_key="ours" if settings.openai_api_key else "the caller's",
            pid=os.getpid(),
        )
        if guide:
            _say(_guide(settings, simulate=simulate))
        await server.serve(sockets=[listener])
    log.info("stopped")


def _config(app: ASGIApp, grace_s: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
    )


@asynccontextmanager
async def _observed(app: App, port: int) -> AsyncIterator[None]:
    """What monitors ask, on a port of its own, for as long as the gate serves: also while it drains."""
    server = Server(_config(app.observe, STATUS_GRACE_S))
    serving = asyncio.create_task(server.serve(sockets=[_listen_everywhere(port)]))
    try:
        yield
    finally:
        server.stop()
        await serving


@asynccontextmanager
async def _simulated() -> AsyncIterator[str]:
    """The simulated provider, in this event loop and for as long as the gate serves; gives its base URL."""
    from tokengate.simulate import create_app  # noqa: PLC0415 - only a first try needs it

    host = "127.0.0.1"
    try:
        listener = _listen(host, SIMULATED_PORT)
    except OSError:
        listener = _listen(host, 0)
    server = Server(
        uvicorn.Config(
            create_app(),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SIMULATED_GRACE_S,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://{host}:{listener.getsockname()[1]}/v1"
    finally:
        server.stop()
        await serving


def _guide(settings: Settings, *, simulate: bool) -> str:
    """What a person needs to know to try the gate that has just been started."""
    url, budget = f"http://{settings.host}:{settings.port}/v1", format_usd(settings.default_budget)
    if simulate:
        provider = (
            f"OPENAI_API_KEY is not set: a simulated provider answers, free of charge\n({settings.openai_base_url})."
        )
    else:
        provider = f"Calls are forwarded to {settings.openai_base_url} and may cost money."
    command = "tokengate" if shutil.which("tokengate") else os.path.relpath(Path(sys.executable).with_name("tokengate"))
    return f"""
TokenGate is ready. Its base URL: {url}
{provider}
Each session has a budget of ${budget}. Try:

  curl {url}/chat/completions \\
    -H 'Content-Type: application/json' -H 'X-Session-ID: my-session' \\
    -d '{{"model": "gpt-4o-mini",
         "messages": [{{"role": "user", "content": "Hello"}}]}}'
  {command} get-budget my-session

Ctrl-C stops it. Each request is a line of JSON below.
"""


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.listen(BACKLOG_MAX)
    listener.setblocking(False)
    return listener


def _listen_everywhere(port: int) -> socket.socket:
    """On every address of this machine, of both families where it has both: a kubelet may come by either."""
    try:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG_MAX, dualstack_ipv6=True)
    except (OSError, ValueError):
        return _listen("0.0.0.0", port)  # noqa: S104 - where there is no IPv6; the reason, if it is another one, is told
    listener.setblocking(False)
    return listener


def _handle_signals(server: Server, app: App, settings: Settings) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        app.status.draining = True
        server.stop()

    def reload() -> None:
        try:
            app.proxy.gate.prices = load_prices(settings.pricing_file)
        except (OSError, PriceTableError) as error:
            log.error("the price table was not reloaded; the old one stays", error=str(error))
        else:
            log.info("the price table was reloaded")

    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)


def main(arguments: list[str]) -> int:
    """`tokengate serve`: gives the exit code (0 stopped, 1 cannot run, 2 wrong arguments or settings)."""
    parser = argparse.ArgumentParser(prog="tokengate serve", description="Run the gate until it is told to stop.")
    parser.add_argument(
        "--role", choices=ROLES, default="all", help="sidecar: the data plane alone, for beside an agent (default: all)"
    )
    parser.add_argument("--host", help="the address to listen on (HOST)")
    parser.add_argument("--port", type=int, help="the port to listen on (PORT)")
    parser.add_argument(
        "--simulate-without-key",
        action="store_true",
        help="while neither OPENAI_API_KEY nor OPENAI_BASE_URL is set, put the simulated provider behind the gate",
    )
    options = parser.parse_args(arguments)
    given = {name: str(value) for name, value in (("HOST", options.host), ("PORT", options.port)) if value is not None}
    try:
        loaded = load({**os.environ, **given})
    except SettingsError as error:
        _say("\n  ".join(["The settings cannot be used:", *error.faults]))
        return 2
    guide: bool = options.simulate_without_key
    simulate = guide and loaded.sources["openai_api_key"] == loaded.sources["openai_base_url"] == "default"
    configure_logging(logging.getLevelNamesMapping()[loaded.settings.log_level])
    for warning in loaded.warnings:
        log.warning(warning)
    try:
        uvloop.run(_serve(loaded.settings, options.role, simulate=simulate, guide=guide))
    except (StoreError, PriceTableError, OSError, ValueError) as error:
        _say(f"tokengate serve: {error}")
        return 1
    return 0


def _say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201

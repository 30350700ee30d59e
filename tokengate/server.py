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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
import uvloop
from pydantic import SecretStr

from tokengate import __version__
from tokengate.app import SETTLE_GRACE_S, App, open_app
from tokengate.inbound import ASGIApp
from tokengate.listener import listen, listen_beside, listen_everywhere, reserve
from tokengate.money import format_usd
from tokengate.pricing import PriceTableError
from tokengate.settings import Settings, SettingsError, load
from tokengate.store import StoreError
from tokengate.telemetry import configure_logging
from tokengate.telemetry.metrics import new_counts
from tokengate.wire import Protocol
from tokengate.workers import Place, Workers

if TYPE_CHECKING:
    from tokengate.console import Console

KEEP_ALIVE_S: Final = 75
"""How long a caller's idle connection is kept: longer than the pools of the SDKs, so that they close it, not we."""

ROLES: Final = ("all", "sidecar", "console")

SIMULATED_PORT: Final = 8001
"""Where the simulated provider listens, if that port is free; else on any that is."""

SIMULATED_GRACE_S: Final = 1

STATUS_GRACE_S: Final = 1

TOKEN_BYTES: Final = 32
"""Of the token that is made where none is set."""

GC_THRESHOLDS: Final = (20_000, 20, 50)
"""A request makes hundreds of objects and no cycles: Python's own thresholds would look for some twice a request."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where callers, monitors and administrators connect."""

    calls: socket.socket
    """Of a console: the only one that it serves."""
    status: socket.socket | None
    admin: socket.socket | None


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


@dataclass(frozen=True, slots=True)
class _Words:
    """What is said to a person once it serves."""

    guide: bool
    invites: bool


async def _serve(
    settings: Settings, role: str, place: Place, sockets: Sockets, *, simulate: bool, words: _Words
) -> None:
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    async with contextlib.AsyncExitStack() as stack:
        if simulate:
            settings = settings.model_copy(update={"openai_base_url": await stack.enter_async_context(_simulated())})
        app = await stack.enter_async_context(_opened(settings, role, owner, place))
        if sockets.status is not None:
            await stack.enter_async_context(_beside(app.observe, sockets.status))
        if sockets.admin is not None and isinstance(app, App) and app.console is not None:
            await stack.enter_async_context(_beside(app.console, sockets.admin))
        server = Server(_config(app, settings.shutdown_grace_s))
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        _handle_signals(server, app, settings, place)
        log.info("serving", **_whereabouts(settings, role), version=__version__, role=role, pid=os.getpid())
        if words.guide:
            _say(_guide(settings, simulate=simulate))
        if words.invites:
            _say(_invitation(settings))
        # Connections wait in the socket until they are accepted.
        listener = sockets.calls if place.lifeline_fd is None else listen_beside(sockets.calls)
        place.ready()
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
async def _opened(settings: Settings, role: str, owner: str, place: Place) -> "AsyncIterator[App | Console]":
    """What the role serves."""
    if role != "console":
        async with open_app(settings, role, owner, place.regions, place.index) as app:
            yield app
        return
    from tokengate.console import open_console  # noqa: PLC0415 - FastAPI is for administrators

    async with open_console(settings, owner) as console:
        yield console


def _whereabouts(settings: Settings, role: str) -> dict[str, str]:
    """Where it serves, for the log."""
    found = {}
    if role != "console":
        found["url"] = f"http://{settings.host}:{settings.port}/v1"
        found["provider"] = settings.openai_base_url
        found["provider_key"] = "ours" if settings.openai_api_key else "the caller's"
    if role != "sidecar":
        found["dashboard"] = _dashboard(settings)
    return found


def _dashboard(settings: Settings) -> str:
    """The address of the dashboard, for a browser on this machine if it listens on every address."""
    host = settings.admin_host or settings.host
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{host}:{settings.admin_port or settings.port}/dashboard"


@asynccontextmanager
async def _beside(app: ASGIApp, listener: socket.socket) -> AsyncIterator[None]:
    """Another application on a port of its own, for as long as the gate serves: also while it drains."""
    server = Server(_config(app, STATUS_GRACE_S))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
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
        listener = listen(host, SIMULATED_PORT)
    except OSError:
        listener = listen(host, 0)
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


def _invitation(settings: Settings) -> str:
    """The way in where no token was set: behind a #, which browsers keep to themselves."""
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    return f"""
The dashboard, with a token that is good until this process ends (set ADMIN_TOKEN for one that stays):

  {_dashboard(settings)}#token={token}
"""


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


def _handle_signals(server: Server, app: "App | Console", settings: Settings, place: Place) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        app.status.draining = True
        server.stop()

    loop.add_signal_handler(signal.SIGTERM, stop)
    if place.lifeline_fd is None:
        loop.add_signal_handler(signal.SIGINT, stop)
    else:
        lifeline_fd = place.lifeline_fd

        def abandoned() -> None:
            loop.remove_reader(lifeline_fd)
            log.error("the supervisor is gone; this worker stops", pid=os.getpid())
            stop()

        loop.add_reader(lifeline_fd, abandoned)
    loop.add_signal_handler(signal.SIGHUP, app.reload, settings.pricing_file)


def main(arguments: list[str]) -> int:
    """`tokengate serve`: gives the exit code (0 stopped, 1 cannot run, 2 wrong arguments or settings)."""
    parser = argparse.ArgumentParser(prog="tokengate serve", description="Run the gate until it is told to stop.")
    parser.add_argument(
        "--role",
        choices=ROLES,
        default="all",
        help="sidecar: calls alone, for beside an agent; console: dashboard and admin API alone (default: all)",
    )
    parser.add_argument("--host", help="the address to listen on (HOST)")
    parser.add_argument("--port", type=int, help="the port to listen on (PORT)")
    parser.add_argument("--workers", type=int, help="how many processes serve the port (WORKERS)")
    parser.add_argument(
        "--simulate-without-key",
        action="store_true",
        help="while neither OPENAI_API_KEY nor OPENAI_BASE_URL is set, put the simulated provider behind the gate",
    )
    options = parser.parse_args(arguments)
    said = (("HOST", options.host), ("PORT", options.port), ("WORKERS", options.workers))
    given = {name: str(value) for name, value in said if value is not None}
    try:
        loaded = load({**os.environ, **given})
    except SettingsError as error:
        return _refuse(error)
    guide: bool = options.simulate_without_key
    simulate = guide and loaded.sources["openai_api_key"] == loaded.sources["openai_base_url"] == "default"
    configure_logging(logging.getLevelNamesMapping()[loaded.settings.log_level])
    for warning in loaded.warnings:
        log.warning(warning)
    try:
        # Before there are workers: all of them have the same token.
        own = _of_role(loaded.settings, options.role)
        sockets = _open_sockets(own, options.role)
    except SettingsError as error:
        return _refuse(error)
    except OSError as error:
        _say(f"tokengate serve: {error.strerror or error}")
        return 1

    invites = options.role != "sidecar" and loaded.settings.admin_token is None

    def work(place: Place) -> int:
        settings, first = _share(own), place.index == 0
        words = _Words(guide=guide and first, invites=invites and first)
        try:
            uvloop.run(_serve(settings, options.role, place, sockets, simulate=simulate, words=words))
        except (StoreError, PriceTableError, OSError, ValueError) as error:
            _say(f"tokengate serve: {error}")
            return 1
        return 0

    number, grace_s = loaded.settings.workers, loaded.settings.shutdown_grace_s
    if number == 1:
        return work(Place())
    regions = [new_counts(shared=True) for _ in range(number)]
    # Answers have the grace to end, and after them their charges, to be posted.
    return Workers(work, regions, grace_s=grace_s + max(grace_s, SETTLE_GRACE_S)).run()


def _open_sockets(settings: Settings, role: str) -> Sockets:
    make = listen if settings.workers == 1 else reserve
    calls = make(settings.host, settings.port)
    status = None if settings.status_port is None else listen_everywhere(settings.status_port)
    apart = role == "all" and settings.admin_port is not None
    return Sockets(
        calls, status, listen(settings.admin_host or settings.host, settings.admin_port or 0) if apart else None
    )


def _of_role(settings: Settings, role: str) -> Settings:
    """The settings that the role goes by, with a token that nobody knows yet if none is set.

    Raises:
        SettingsError: administrators would be served elsewhere than whoever set this thinks.
    """
    changes: dict[str, object] = {}
    if settings.admin_token is None:
        changes["admin_token"] = SecretStr(secrets.token_urlsafe(TOKEN_BYTES))
    if role == "console":
        # It is apart already: what else there is to it, HOST and PORT say.
        changes |= {"admin_host": "", "admin_port": None}
    elif role == "all" and settings.admin_host and settings.admin_port is None:
        raise SettingsError([f"ADMIN_HOST={settings.admin_host}: allowed is only together with ADMIN_PORT"])
    return settings.model_copy(update=changes)


def _share(settings: Settings) -> Settings:
    """A worker's part of what the whole gate may spend without its store."""
    return settings.model_copy(update={"store_allowance": settings.store_allowance // settings.workers})


def _refuse(error: SettingsError) -> int:
    """Say what is wrong with the settings; gives the exit code."""
    _say("\n  ".join(["The settings cannot be used:", *error.faults]))
    return 2


def _say(text: str) -> None:
    """Tell the person at the terminal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201

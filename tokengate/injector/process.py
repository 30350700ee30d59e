"""The injector as a process: its two ports, its files read again as they change, and a stop without a failed question.

On SIGTERM it says that it is not ready and goes on answering for a while, because API servers learn late that an
address is gone; then it closes. A second signal does not wait.
"""

import asyncio
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from msgspec import Struct
from uvicorn.server import ServerState

from tokengate import __version__
from tokengate.injector.metrics import Metrics
from tokengate.injector.policy import Policy, parse
from tokengate.injector.reading import CERTIFICATE_FILES, Certificate, Reading
from tokengate.injector.webhook import Monitor, State, Webhook
from tokengate.wire import Protocol

READ_AGAIN_S: Final = 2.0
"""How often the files are looked at."""
HANDSHAKE_TIMEOUT_S: Final = 5.0
KEEP_ALIVE_S: Final = 120
"""Longer than an API server keeps an idle connection (90 s), so that it closes it, not we while it asks."""
CONNECTIONS_MAX: Final = 512
"""Beyond, questions are answered with 503, which the API server treats by its failurePolicy."""
BACKLOG_MAX: Final = 512
GRACE_S: Final = 5.0
"""How long answers that are under way may take once the ports are closed."""

log = structlog.get_logger()


class Options(Struct, frozen=True):
    """How it was started."""

    certificates: Path
    """A directory with `tls.crt` and `tls.key`."""
    policy: Path | None = None
    """A file; None: the built-in policy."""
    host: str = ""
    """Empty: every address."""
    port: int = 8443
    status_port: int = 15890
    drain_s: float = 5.0
    """How long it goes on after it was told to stop."""


async def run(options: Options) -> None:
    """Serve until told to stop.

    Raises:
        OSError: a port cannot be had.
    """
    state, metrics = State(), Metrics()
    certificate = Certificate()
    files = tuple(options.certificates / name for name in CERTIFICATE_FILES)
    readings = (
        Reading("certificate", files, certificate.take),
        Reading("policy", (options.policy,) if options.policy else (), _policy),
    )
    stopping, hurry = asyncio.Event(), asyncio.Event()
    _handle_signals(stopping, hurry)
    _read(readings, state, metrics)
    async with (
        _listening(Monitor(state, metrics), options.host, options.status_port),
        _listening(Webhook(state, metrics), options.host, options.port, certificate.context),
    ):
        reading = asyncio.create_task(_read_again(readings, state, metrics))
        log.info("serving", version=__version__, role="injector", port=options.port, status_port=options.status_port)
        try:
            await stopping.wait()
            state.draining = True
            await _first(hurry, options.drain_s)
        finally:
            reading.cancel()
    log.info("stopped")


async def _read_again(readings: tuple[Reading[Any], Reading[Any]], state: State, metrics: Metrics) -> None:
    while True:
        await asyncio.sleep(READ_AGAIN_S)
        _read(readings, state, metrics)


def _read(readings: tuple[Reading[Any], Reading[Any]], state: State, metrics: Metrics) -> None:
    for reading in readings:
        done = reading.again()
        if done is not None:
            metrics.reloaded(reading.what, done=done)
    certificate, policy = readings
    state.certified, state.policy = certificate.value is not None, policy.value
    metrics.serves(policy.value, certificate.value.timestamp() if certificate.value else None)


def _policy(contents: tuple[bytes, ...]) -> Policy:
    return parse(b"".join(contents))


async def _first(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, but not longer than that."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def _handle_signals(stopping: asyncio.Event, hurry: asyncio.Event) -> None:
    def stop() -> None:
        if stopping.is_set():
            hurry.set()
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


@asynccontextmanager
async def _listening(
    app: Webhook | Monitor, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[None]:
    """An application on a port; on leaving it takes nothing new, and what is under way is waited for."""
    config = uvicorn.Config(
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
        limit_concurrency=CONNECTIONS_MAX,
    )
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config=config, server_state=state, app_state={}),
        sock=_listener(host, port),
        backlog=BACKLOG_MAX,
        ssl=tls,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls else None,
    )
    try:
        yield
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(GRACE_S):
                while state.connections:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            for connection in list(state.connections):
                connection.transport.abort()


def _listener(host: str, port: int) -> socket.socket:
    """On one address, or on every one of both families where the machine has both."""
    try:
        if host:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, port), family=family, backlog=BACKLOG_MAX)
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError:
                pass  # there is none after all; or the port is taken, which is told below
        return socket.create_server(("0.0.0.0", port))  # noqa: S104 - every address is meant
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host or '*'}:{port}: {error.strerror}") from None

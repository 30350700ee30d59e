"""The console: the dashboard and the admin API of one tenant, put together from settings and a store.

Beside the data plane it is what `App` sends its paths to; alone (`serve --role console`) it is all there is: no call is
taken, and no provider's key is asked for. Imported only where there are administrators, because FastAPI is.
"""

import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from tokengate import __version__
from tokengate.api import LOOPBACK_NAMES, PATHS, Access, create_console
from tokengate.composition import open_control, open_ledger, policy_of
from tokengate.inbound import ASGIApp, ASGIScope, Receive, Send
from tokengate.ledger import keys
from tokengate.providers import openai
from tokengate.scrape import Scrape
from tokengate.session import Identity
from tokengate.settings import Settings
from tokengate.status import Status, not_found
from tokengate.store import Store, inspect, open_store
from tokengate.telemetry.standing import Reading, StandingExposition

ANY_HOST: Final = "*"

log = structlog.get_logger()


class Console:
    """What a port answers that is for administrators alone: the console, and whether the process is well."""

    def __init__(
        self,
        admin: ASGIApp,
        status: Status,
        reading: Reading,
        scrape: Scrape | None = None,
        *,
        scrape_apart: bool = False,
    ) -> None:
        """Nothing is served yet.

        Args:
            admin: the dashboard and the admin API.
            status: health.
            reading: how budgets stand, for whoever tells it.
            scrape: None where nothing is told here.
            scrape_apart: it is served on STATUS_PORT alone.
        """
        self.admin = admin
        self.status = status
        self.reading = reading
        self._scrape = scrape
        self._scrape_here = None if scrape_apart else scrape

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith(PATHS):
            await self.admin(scope, receive, send)
        else:
            await self._observe(scope, receive, send, self._scrape_here)

    async def observe(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one request on STATUS_PORT: what monitors ask of the process."""
        await self._observe(scope, receive, send, self._scrape)

    async def _observe(self, scope: ASGIScope, receive: Receive, send: Send, scrape: Scrape | None) -> None:
        if scope["type"] == "http" and scope["path"] in Status.PROCESS_PATHS:
            await self.status(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == Scrape.PATH and scrape is not None:
            await scrape(scope, receive, send)
        elif scope["type"] == "http":
            await not_found(send)

    def reload(self, pricing_file: Path | None) -> None:
        """There is nothing to read anew: a console has no prices."""


def hosts_of(settings: Settings) -> frozenset[str] | None:
    """The names by which the console may be asked; None: by any.

    Where it listens on loopback, those of loopback: a page on the web must not reach it by a name of its own that it
    has pointed there. Elsewhere, those that are set, if any are.
    """
    allowed = frozenset(settings.admin_allowed_hosts)
    listens_on = (settings.admin_host or settings.host).lower()
    if ANY_HOST in allowed:
        return None
    if listens_on in LOOPBACK_NAMES or listens_on.startswith("127."):
        return allowed | LOOPBACK_NAMES | {listens_on}
    return allowed or None


@asynccontextmanager
async def open_admin(settings: Settings, store: Store, owner: str) -> AsyncIterator[tuple[ASGIApp, Reading]]:
    """The dashboard and the admin API, on an open store, and how budgets stand. `admin_token` must be set.

    Raises:
        ValueError: the settings of the tokens cannot be used.
    """
    if settings.admin_token is None:
        raise ValueError("a console needs a token")
    read_token = settings.admin_read_token
    access = Access(settings.admin_token.get_secret_value(), read_token.get_secret_value() if read_token else None)
    async with open_control(settings, store, owner) as control:
        admin = create_console(control, access, tenant=settings.tenant, hosts=hosts_of(settings))
        yield admin, Reading(control.standing)


@asynccontextmanager
async def open_console(settings: Settings, owner: str) -> AsyncIterator[Console]:
    """All that `serve --role console` serves."""
    async with contextlib.AsyncExitStack() as stack:
        store = await open_store(settings)
        stack.push_async_callback(store.aclose)
        for level, finding in await inspect(store, keys.leases(settings.tenant)):
            log.log(logging.getLevelNamesMapping()[level.upper()], finding)
        ledger = await stack.enter_async_context(open_ledger(settings, store, owner))
        if settings.alert_webhook_url is not None:
            from tokengate.alerts.opening import telling  # noqa: PLC0415 - only who tells needs it

            await stack.enter_async_context(telling(settings, ledger, owner))
        admin, reading = await stack.enter_async_context(open_admin(settings, store, owner))
        status = Status(
            ledger=ledger,
            ping=ledger.ping,
            policy=policy_of(settings),
            identity=Identity(settings.tenant, "", "", settings.default_session, strict=False),
            dialect=openai.dialect,
            role="console",
            outage=lambda: {"away": False},
        )
        scrape = Scrape(StandingExposition(reading, __version__)) if settings.metrics else None
        yield Console(admin, status, reading, scrape, scrape_apart=settings.status_port is not None)

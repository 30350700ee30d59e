"""From settings to a task that tells: what every role that may tell of alerts opens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from tokengate.alerts.dispatch import Dispatcher
from tokengate.alerts.webhook import ATTEMPT_S_MAX, CONNECT_S_MAX, Receiver, Webhook, receiver
from tokengate.ledger.events import EventFeed
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import Settings
from tokengate.upstream.transport import HttpTransport

log = structlog.get_logger()


def receiver_of(settings: Settings) -> Receiver | None:
    """Who is told of alerts; None: nobody.

    Raises:
        ReceiverError: the settings name one that may not be used.
    """
    if settings.alert_webhook_url is None:
        return None
    secret, routing_key = settings.alert_secret, settings.alert_routing_key
    return receiver(
        settings.alert_webhook_url.get_secret_value(),
        settings.alert_format,
        secret=secret.get_secret_value() if secret else "",
        routing_key=routing_key.get_secret_value() if routing_key else "",
        hosts_allowed=settings.alert_hosts_allowed,
    )


@asynccontextmanager
async def open_webhook(settings: Settings, to: Receiver) -> AsyncIterator[Webhook]:
    """The way to a receiver, with connections of its own: no call to a provider ever waits for one."""
    transport = HttpTransport(
        connect_timeout_s=CONNECT_S_MAX,
        read_timeout_s=ATTEMPT_S_MAX,
        connections_max=1,
        ca_file=str(settings.upstream_ca_file) if settings.upstream_ca_file else None,
    )
    try:
        yield Webhook(to, transport)
    finally:
        await transport.aclose()


@asynccontextmanager
async def telling(settings: Settings, ledger: RedisLedger, owner: str) -> AsyncIterator[None]:
    """Alerts are delivered in the meantime, if the settings say to whom.

    Raises:
        ReceiverError: the settings name a receiver that may not be used.
    """
    to = receiver_of(settings)
    if to is None:
        yield
        return
    feed = EventFeed(ledger.run, tenant=settings.tenant, reader=f"alerts-{to.name}", owner=owner)
    async with open_webhook(settings, to) as webhook:
        dispatcher = Dispatcher(
            feed,
            webhook,
            tenant=settings.tenant,
            gate=owner,
            mode=settings.on_store_failure,
            topics=frozenset(settings.alert_on),
            scopes=frozenset(settings.alert_scopes),
        )
        log.info("alerts are delivered", host=to.host, format=to.form)
        task = asyncio.create_task(dispatcher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await dispatcher.aclose()

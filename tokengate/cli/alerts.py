"""`tokengate test-alert`: whether alerts would arrive, found out before something happens."""

import asyncio
import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tokengate.alerts.webhook import Attempt, Receiver
    from tokengate.settings import Settings


def test_alert(settings: "Settings") -> int:
    """Send one alert to the receiver that the settings name, once; gives the exit code."""
    from tokengate.alerts.opening import receiver_of
    from tokengate.alerts.webhook import ReceiverError, Result

    try:
        to = receiver_of(settings)
    except ReceiverError as error:
        typer.echo(f"tokengate: {error}", err=True)
        return 2
    if to is None:
        typer.echo("tokengate: ALERT_WEBHOOK_URL is not set, so nobody is told of alerts", err=True)
        return 2
    attempt = asyncio.run(_send(settings, to))
    if attempt.result is Result.DELIVERED:
        typer.echo(f"delivered to {to.host} as {to.form}: {attempt.words}")
        return 0
    typer.echo(f"tokengate: not delivered to {to.host} as {to.form}: {attempt.words}", err=True)
    return 1


async def _send(settings: "Settings", to: "Receiver") -> "Attempt":
    from tokengate.alerts import example
    from tokengate.alerts.opening import open_webhook

    async with open_webhook(settings, to) as webhook:
        return await webhook.attempt(example(settings.tenant, time.time_ns() // 1_000_000))

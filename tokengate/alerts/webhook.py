"""Delivers alerts to one receiver: signed, over TLS, to a host that is allowed, and to no other, whatever it answers.

Signatures are those of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over id, timestamp and body,
so that any of its libraries verifies them. A redirect is not followed. The receiver's URL, the secret and the routing
key are never logged: a webhook's URL is a credential itself.
"""

import asyncio
import base64
import binascii
import email.utils
import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from tokengate import __version__
from tokengate.alerts import Alert
from tokengate.alerts.bodies import writer
from tokengate.upstream import Headers, Response, Transport, UpstreamError

CONNECT_S_MAX: Final = 5.0
ATTEMPT_S_MAX: Final = 15.0
"""How long one attempt may take in all; half of the lease that it is made under."""

ANSWER_BYTES_MAX: Final = 64 * 1024
"""How much of an answer is read, so that its connection can be used again; more of it closes the connection."""

RETRY_AFTER_S_MAX: Final = 300.0
"""The longest that a receiver can make us wait with one answer."""

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with, not one

_PASSING: Final = frozenset({408, 425, 429})
"""Refusals that may pass, beside all 5xx."""


class ReceiverError(ValueError):
    """The settings name no receiver that may be used; the message says why, without the URL."""


class Result(Enum):
    """What became of an attempt."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    """The receiver will not take it, however often it is said."""
    FAILED = "failed"
    """It may take it later."""


class Attempt(Struct, frozen=True):
    """What became of an attempt, in words for the log, and how long the receiver wants to be left alone (seconds)."""

    result: Result
    words: str
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where alerts go, and how. Make one with `receiver`."""

    url: str = field(repr=False)
    form: str
    secret: bytes = field(repr=False)
    """Empty: no signature."""
    routing_key: str = field(repr=False)

    @property
    def name(self) -> str:
        """Stands for the receiver where its URL must not: gates with the same one share the telling."""
        return hashlib.sha256(f"{self.form} {self.url} {self.routing_key}".encode()).hexdigest()[:16]

    @property
    def host(self) -> str:
        """For people."""
        return urlsplit(self.url).hostname or ""


def receiver(url: str, form: str, *, secret: str, routing_key: str, hosts_allowed: Sequence[str]) -> Receiver:
    """Check a receiver.

    Args:
        url: https, or http to this machine itself.
        form: `json`, `slack` or `pagerduty`.
        secret: signs what is sent; with `whsec_` before it, it is base64 as Standard Webhooks writes it. May be empty.
        routing_key: PagerDuty's, without which that form is of no use.
        hosts_allowed: host names, `*.domain` for those below one; empty: any.

    Raises:
        ReceiverError: it may not be used.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ReceiverError("ALERT_WEBHOOK_URL is not a URL") from None
    if not host or parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable():
        raise ReceiverError("ALERT_WEBHOOK_URL must be a URL with a host, without user and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        raise ReceiverError("ALERT_WEBHOOK_URL must begin with https:// (http:// only for this machine itself)")
    if hosts_allowed and not any(_matches(host, pattern) for pattern in hosts_allowed):
        raise ReceiverError(f"ALERT_WEBHOOK_URL: the host {host} is not in ALERT_HOSTS_ALLOWED")
    if form == "pagerduty" and not routing_key:
        raise ReceiverError("ALERT_FORMAT=pagerduty needs ALERT_ROUTING_KEY, the integration key of the service")
    return Receiver(url, form, _secret(secret), routing_key)


class Webhook:
    """One receiver and the way to it; the transport is its owner's."""

    def __init__(self, to: Receiver, transport: Transport, now_s: Callable[[], float] = time.time) -> None:
        self._to = to
        self._transport = transport
        self._now_s = now_s
        self._write = writer(to.form, to.routing_key)

    async def attempt(self, alert: Alert) -> Attempt:
        """Send an alert once. Never raises but for cancellation."""
        body = self._write(alert)
        headers = [
            (b"content-type", b"application/json"),
            (b"user-agent", f"tokengate/{__version__}".encode()),
            *signed(self._to.secret, alert.id, int(self._now_s()), body),
        ]
        attempt: Attempt | None = None
        try:
            async with asyncio.timeout(ATTEMPT_S_MAX):
                response = await self._transport.send("POST", self._to.url, headers, body)
                try:
                    attempt = judged(response.status, response.headers, self._now_s())
                    await _read(response)
                finally:
                    await response.aclose()
        except UpstreamError as error:
            # What follows the head of an answer does not matter.
            return attempt or Attempt(Result.FAILED, str(error))
        except TimeoutError:
            return attempt or Attempt(Result.FAILED, f"the receiver did not answer within {ATTEMPT_S_MAX:g} s")
        return attempt


def signed(secret: bytes, identity: str, at_s: int, body: bytes) -> Headers:
    """The headers of Standard Webhooks; without a secret, those that identify and date the message."""
    headers = [(b"webhook-id", identity.encode()), (b"webhook-timestamp", b"%d" % at_s)]
    if secret:
        digest = hmac.digest(secret, b"%b.%d.%b" % (identity.encode(), at_s, body), "sha256")
        headers.append((b"webhook-signature", b"v1," + base64.b64encode(digest)))
    return headers


def judged(status: int, headers: Headers, now_s: float) -> Attempt:
    """What an answer means."""
    words = f"the receiver answered {status}"
    if 200 <= status < 300:
        return Attempt(Result.DELIVERED, words)
    if 300 <= status < 400:
        return Attempt(Result.REFUSED, f"{words}; redirects are not followed")
    if status in _PASSING or status >= 500:
        return Attempt(Result.FAILED, words, _retry_after_s(headers, now_s))
    return Attempt(Result.REFUSED, words)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, by its name or address alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _retry_after_s(headers: Headers, now_s: float) -> float | None:
    """`Retry-After`, in seconds or as a date (RFC 9110, 10.2.3), between 0 and `RETRY_AFTER_S_MAX`."""
    text = next((value.decode("latin-1").strip() for name, value in headers if name == b"retry-after"), "")
    if text.isascii() and text.isdigit():
        seconds = float(text[:9])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


async def _read(response: Response) -> None:
    """Read a short answer to its end; the rest of a long one is not wanted."""
    left = ANSWER_BYTES_MAX
    while left > 0 and (chunk := await response.read()) is not None:
        left -= len(chunk)


def _matches(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _secret(text: str) -> bytes:
    if not text.startswith(SECRET_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ReceiverError(f"ALERT_SECRET begins with {SECRET_PREFIX}, and what follows is not base64") from None

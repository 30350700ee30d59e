"""`GET /metrics`: what the gate has counted, for Prometheus and whatever reads its formats. Raw ASGI, no keys.

It tells tenants, models and what was spent, and nothing of a session, a prompt or a key. Where callers share a gate and
should not see that, STATUS_PORT takes it away from the port of the calls.
"""

from typing import Final, Protocol

from tokengate.inbound import ASGIScope, Receive, Send

ACCEPT_BYTES_MAX: Final = 1024
"""An `Accept` header beyond this is not read; the answer is in the plain format."""


class Exposition(Protocol):
    """What there is to tell."""

    async def render(self, accept: str) -> tuple[str, bytes]:
        """The content type and the text for an `Accept` header."""
        ...


class Scrape:
    """See the module."""

    PATH: Final = "/metrics"

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one scrape."""
        status, content_type, body = 405, "text/plain; charset=utf-8", b"use GET\n"
        if scope["method"] in ("GET", "HEAD"):
            accept = dict(scope["headers"]).get(b"accept", b"")
            text = accept.decode("latin-1") if len(accept) <= ACCEPT_BYTES_MAX else ""
            content_type, body = await self._exposition.render(text)
            status = 200
        headers = [
            (b"content-type", content_type.encode("latin-1", "replace")),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

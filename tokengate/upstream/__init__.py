"""The way to the provider: sends one request, gives the answer's bytes as they come, and says what a failure means.

What decides money is whether a failed request *certainly never reached* the provider (it cost nothing) or may have
(nobody can say what it cost). Foreign errors are translated once, into this tree:

    UpstreamError
    ├── ConnectFailed     not sent: refused, DNS, TLS, proxy, connect timeout, no free connection, malformed request
    ├── UpstreamTimeout   sent, but no answer (or no more of it) in time: what it cost is unknown
    └── UpstreamLost      sent, but the connection was lost before or within the answer, or closed from our side

`transport` keeps the connections, `http1` speaks on one of them, `route` finds the way to an origin and `tunnel` goes
through a proxy. A request is written once: it is never retried, no redirect is followed, no cookie kept, no body
decoded. This package knows nothing of budgets, nor of any provider.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]
"""As in ASGI: (name, value) in order, repeated names apart."""


class UpstreamError(Exception):
    """The provider gave no complete answer. The message names neither a credential nor a URL."""


class ConnectFailed(UpstreamError):
    """The request certainly never reached the provider: it cost nothing."""


class UpstreamTimeout(UpstreamError):
    """The request was sent; the answer, or its next bytes, did not come in time."""


class UpstreamLost(UpstreamError):
    """The request was sent; the connection was lost, or the answer was not HTTP, or we closed it."""


class CancelledUnsent(asyncio.CancelledError):
    """The task was cancelled before anything of the request was written: it cost nothing."""


class Response(Protocol):
    """One answer, whose body is read as it comes. It must be read to its end or closed."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers:
        """As ASGI wants them: lower-case names, in the provider's order, hop-by-hop headers included."""
        ...

    @property
    def ended(self) -> bool:
        """True once all bytes have been read, so that the next `read` is sure to give None."""
        ...

    async def read(self) -> bytes | None:
        """The next bytes, as soon as there are any; None at the end of the answer.

        Cancelling the task that reads stops the upstream.

        Raises:
            UpstreamTimeout: no bytes within the read timeout.
            UpstreamLost: the answer broke off, or `aclose` was called.
        """
        ...

    async def aclose(self) -> None:
        """Stop the upstream at once if the answer is not finished: the provider sees the connection close.

        May be called many times, and from another task than the one in `read`, which then raises `UpstreamLost`.
        """
        ...


class Transport(Protocol):
    """Sends requests to a provider over connections that it keeps."""

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> Response:
        """Send a request and wait for the head of the answer.

        `Host`, `Connection`, `Content-Length` and `Transfer-Encoding` are the transport's own: the caller leaves them
        out. Cancelling the task stops the request.

        Raises:
            ConnectFailed: certainly not sent.
            UpstreamTimeout: sent, no head of an answer in time.
            UpstreamLost: sent, no answer.
            CancelledUnsent: the task was cancelled, and nothing was sent.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection; what is in flight ends with `UpstreamLost`."""
        ...

"""What an ASGI request brings: its body within bounds, and the headers that may go on to a provider.

Hop-by-hop headers end here (RFC 9110, 7.6.1), and so do those that name the caller's session, the way it came or its
trace: they are nobody's business at the provider. The encoding asked for is identity, because a compressed answer
cannot be metered while it passes.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from tokengate.domain import Reason, Refusal

ASGIScope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[ASGIScope, Receive, Send], Awaitable[None]]

CONNECTION: Final = "tokengate.connection"
"""The ASGI extension by which our server hands a request the `Connection` that it came on."""

HEAD_BYTES: Final = "tokengate.head_bytes"
"""The ASGI extension by which our server says how large the head of a request was."""

BODY_READ_TIMEOUT_S: Final = 60
"""How long a caller may take to send its body."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NAMES_NOTHING: Final = frozenset({b"", b"keep-alive", b"Keep-Alive", b"close"})
_STAYS_HOME: Final = HOP_BY_HOP | {
    b"authorization",
    b"host",
    b"content-length",
    b"expect",
    b"accept-encoding",
    b"x-session-id",
    b"forwarded",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
    b"via",
    b"traceparent",
    b"tracestate",
    b"baggage",
    b"cookie",
}

_IDENTITY: Final = (b"accept-encoding", b"identity")


class Connection(Protocol):
    """The caller's connection.

    uvicorn's `send` succeeds silently on one that is closed, and a task that waits for `http.disconnect` would cost
    every request more than its whole parsing does: so whoever serves it is told by a call.
    """

    on_lost: Callable[[], None] | None
    """Called once when the connection closes, if it is set."""


class ClientGone(Exception):
    """The caller closed its connection before it had sent its request."""


class Inbound:
    """The head of one request, read once."""

    __slots__ = (
        "authorization",
        "content_length",
        "forwarded",
        "method",
        "path",
        "query",
        "raw_path",
        "session",
        "size",
    )

    def __init__(self, scope: ASGIScope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.query: bytes = scope["query_string"]
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        last = dict(headers)
        self.session = last.get(b"x-session-id")
        if len(last) != len(headers) and self.session is not None:
            # Two different ids in one request are refused, as an id that no name can be.
            given = {value for name, value in headers if name == b"x-session-id"}
            self.session = self.session if len(given) == 1 else b""
        self.authorization = last.get(b"authorization")
        length = last.get(b"content-length", b"")
        self.content_length = int(length) if length.isdigit() else None
        self.forwarded = [pair for pair in headers if pair[0] not in _STAYS_HOME]
        """What goes on to the provider, but for the authorization."""
        connection = last.get(b"connection", b"")
        if connection not in _NAMES_NOTHING:
            self._drop_named(connection)
        self.forwarded.append(_IDENTITY)

    def _drop_named(self, connection: bytes) -> None:
        named = {name.strip().lower() for name in connection.split(b",")}
        self.forwarded = [(name, value) for name, value in self.forwarded if name not in named]

    def headers(self, provider_authorization: bytes | None) -> list[tuple[bytes, bytes]]:
        """The headers for the provider: with its key if we have one, else with the caller's own authorization."""
        authorization = provider_authorization or self.authorization
        if authorization is not None:
            return [*self.forwarded, (b"authorization", authorization)]
        return self.forwarded


async def read_body(
    inbound: Inbound, receive: Receive, bytes_max: int, task: "asyncio.Task[object]"
) -> bytes | Refusal:
    """The whole body, or a refusal if it is larger than `bytes_max` or too slow. `task` is the one that reads.

    Raises:
        ClientGone: the caller left.
    """
    if inbound.content_length is not None and inbound.content_length > bytes_max:
        return _too_large(bytes_max)
    late = False

    def expire() -> None:
        nonlocal late
        late = True
        task.cancel()

    # By hand, not `asyncio.timeout`: this is paid by every request.
    timer = asyncio.get_running_loop().call_later(BODY_READ_TIMEOUT_S, expire)
    try:
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            return body if len(body) <= bytes_max else _too_large(bytes_max)
        return await _read_pieces(message, receive, bytes_max)
    except asyncio.CancelledError:
        if not late:
            raise
        task.uncancel()
        return Refusal(
            Reason.BODY_INVALID, f"The body did not arrive within {BODY_READ_TIMEOUT_S} s; nothing was forwarded."
        )
    finally:
        timer.cancel()


async def _read_pieces(message: Message, receive: Receive, bytes_max: int) -> bytes | Refusal:
    pieces: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        piece = message.get("body", b"")
        size += len(piece)
        if size > bytes_max:
            return _too_large(bytes_max)
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(
        Reason.BODY_TOO_LARGE, f"The body is larger than this gate takes: {bytes_max} bytes (BODY_BYTES_MAX)."
    )

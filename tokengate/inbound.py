"""What an ASGI request brings: its body within bounds, and the headers that may go on to a provider.

Hop-by-hop headers end here (RFC 9110, 7.6.1), and so do those that name the caller's session, the way it came or its
trace: they are nobody's business at the provider. The encoding asked for is identity, because a compressed answer
cannot be metered while it passes.
"""

import asyncio
import re
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

TYPE_CHARS_SHOWN: Final = 100
"""How much of a content type that is refused is told and logged."""

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
NAMES_NOTHING: Final = frozenset({b"", b"keep-alive", b"Keep-Alive", b"close"})
"""The usual values of `Connection`: they name no header that ends here."""
CREDENTIALS: Final = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
"""The headers in which the SDKs of the providers send a key."""

_STAYS_HOME: Final = HOP_BY_HOP | {
    *CREDENTIALS,
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

_FORM: Final = b"multipart/form-data"
_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8"})
_JSON_TYPE: Final = re.compile(
    rb'application/([\w.+-]+\+)?json\s*(;\s*charset="?(utf-?8|us-ascii)"?\s*)?;?', re.IGNORECASE
)


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
        "coded",
        "content_length",
        "content_type",
        "forwarded",
        "from_page",
        "given",
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
        self.given = last = dict(headers)
        """The last value of each header."""
        self.session = last.get(b"x-session-id")
        self.content_type = last.get(b"content-type")
        self.coded = last.get(b"content-encoding", b"identity") != b"identity"
        self.from_page = b"origin" in last
        """A web page sent it: only pages have an origin."""
        if len(last) != len(headers):
            self._look_at_repeated(headers)
        length = last.get(b"content-length", b"")
        self.content_length = int(length) if length.isdigit() else None
        self.forwarded = [pair for pair in headers if pair[0] not in _STAYS_HOME]
        """What goes on to the provider, but for the credentials."""
        connection = last.get(b"connection", b"")
        if connection not in NAMES_NOTHING:
            self.forwarded = without_named(self.forwarded, connection)
        self.forwarded.append(_IDENTITY)

    def _look_at_repeated(self, headers: list[tuple[bytes, bytes]]) -> None:
        """Two different ids, or two types of a body, are refused: as an id that no name can be, and no type that is."""
        ids = {value for name, value in headers if name == b"x-session-id"}
        types = {value for name, value in headers if name == b"content-type"}
        if len(ids) > 1:
            self.session = b""
        if len(types) > 1:
            self.content_type = b", ".join(sorted(types))


def without_named(headers: list[tuple[bytes, bytes]], connection: bytes) -> list[tuple[bytes, bytes]]:
    """Headers without those that a `Connection` header names: they were meant for the gate alone."""
    named = {name.strip().lower() for name in connection.split(b",")}
    return [pair for pair in headers if pair[0] not in named]


async def read_body(
    inbound: Inbound,
    receive: Receive,
    bytes_max: int,
    task: "asyncio.Task[object]",
    *,
    takes_forms: bool = False,
) -> bytes | Refusal:
    """The whole body, or a refusal if it is larger than `bytes_max`, too slow, or not to be read as JSON in UTF-8.

    `task` is the one that reads. With `takes_forms` it may be a form as well.

    Raises:
        ClientGone: the caller left.
    """
    if inbound.content_length is not None and inbound.content_length > bytes_max:
        return _too_large(bytes_max)
    if inbound.content_type not in _JSON or inbound.coded:
        refusal = _unreadable(inbound, takes_forms=takes_forms)
        if refusal is not None:
            return refusal
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


def _unreadable(inbound: Inbound, *, takes_forms: bool) -> Refusal | None:
    """Why a body is not read, if its headers say that it is something else than it would be priced as.

    A page on the web can make a browser send any body to a gate on its user's machine without asking first, unless the
    body says that it is JSON (https://fetch.spec.whatwg.org/#cors-safelisted-request-header).
    So no form is taken from one.
    """
    if inbound.coded:
        return Refusal(Reason.BODY_INVALID, "The body is compressed (content-encoding): send it as it is.")
    given = inbound.content_type
    if given is None and not inbound.from_page:
        return None
    if given is not None and _JSON_TYPE.fullmatch(given):
        return None
    if takes_forms and given is not None and given[: len(_FORM)].lower() == _FORM:
        if not inbound.from_page:
            return None
        return Refusal(Reason.BODY_INVALID, "A form from a page (origin) is not taken: any page could have sent it.")
    shown = repr(given.decode("latin-1")[:TYPE_CHARS_SHOWN]) if given is not None else "missing"
    return Refusal(Reason.BODY_INVALID, f"The content-type is {shown}: send application/json, in UTF-8.")


def _too_large(bytes_max: int) -> Refusal:
    return Refusal(
        Reason.BODY_TOO_LARGE, f"The body is larger than this gate takes: {bytes_max} bytes (BODY_BYTES_MAX)."
    )

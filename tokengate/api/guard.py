"""What stands before the page and the API: who asks, from where, and whether a browser was tricked into asking.

Nothing behind it is reached without a token or a session of the page, but for the login, the page itself (which says
nothing) and its assets; no body is read before that is settled, and none beyond `BODY_BYTES_MAX`. It knows nothing of
what is asked for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import structlog
from msgspec import Struct

from tokengate.api.access import COOKIE_CHARACTERS_MAX, Access, Brake, Principal, Role
from tokengate.control.encoding import encode
from tokengate.control.words import Fault, FaultAnswer
from tokengate.inbound import ASGIApp, ASGIScope, Message, Receive, Send

ROOT: Final = "/api/dashboard"
LOGIN: Final = f"{ROOT}/login"
LOGOUT: Final = f"{ROOT}/logout"
PAGE: Final = "/dashboard"

BODY_BYTES_MAX: Final = 16 * 1024
"""The largest body of the admin API: a reason, a name, an amount."""

BODY_READ_TIMEOUT_S: Final = 10

CALLER: Final = "tokengate.caller"
"""Where the scope of a request has its `Caller`."""

HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""Of every answer of the API: it is data, for whoever asked, and for now."""

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})

PATH_CHARS_SHOWN: Final = 200

_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

STATUS: Final[Mapping[str, int]] = {
    "invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "too_many_attempts": 429,
    "internal": 500,
    "unavailable": 503,
}
"""The types of faults, and with which status they are answered."""


log = structlog.get_logger()


class Caller(Struct, frozen=True):
    """Who asks, and from where."""

    principal: Principal | None
    """None: nobody yet, which is enough for the login."""
    address: str
    cookie: str
    """The session of the page that was shown; empty if none was."""
    secure: bool
    """The browser came by HTTPS, as far as is known."""


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, type_: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        self.type = type_
        self.headers = headers
        super().__init__(message)


class Guard:
    """The ASGI application before `api` and `page`.

    Args:
        hosts: the names by which it may be asked (`Host`), in lower case and without a port; None: by any. Where it
            listens on loopback, a page on the web must not reach it by a name of its own that it has pointed there.
    """

    def __init__(
        self,
        *,
        api: ASGIApp,
        page: Callable[[ASGIScope, Send, bool], Awaitable[None]],
        access: Access,
        brake: Brake,
        hosts: frozenset[str] | None,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._page = page
        self._access = access
        self._brake = brake
        self._hosts = hosts
        self._clock_s = clock_s

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        try:
            headers = dict(scope["headers"])
            self._check_host(headers)
            path: str = scope["path"]
            if path == PAGE or path.startswith(f"{PAGE}/"):
                cookie = self._cookie(headers)
                known = bool(cookie) and self._access.by_session(cookie, int(self._clock_s())) is not None
                await self._page(scope, send, known)
                return
            scope[CALLER] = self._admit(scope, headers)
            body = await _body(headers, receive)
        except Refused as refused:
            await refuse(send, refused.type, str(refused), refused.headers)
            return
        try:
            await self._api(scope, _once(body, receive), send)
        except Exception:
            # It has been answered; FastAPI raises it again so that somebody logs it.
            log.exception("a request to the admin API failed", path=path[:PATH_CHARS_SHOWN])

    def _admit(self, scope: ASGIScope, headers: dict[bytes, bytes]) -> Caller:
        path, method = scope["path"], scope["method"]
        address = scope["client"][0] if scope.get("client") else "a local socket"
        secure = scope.get("scheme") == "https" or headers.get(b"x-forwarded-proto", b"").lower() == b"https"
        cookie = self._cookie(headers)
        if path == LOGIN:
            _check_origin(headers, needed=False)
            self._check_brake(address)
            return Caller(None, address, cookie, secure)
        given = headers.get(b"authorization")
        if given is not None:
            principal = self._by_bearer(given.decode("latin-1"), address)
        else:
            found = self._access.by_session(cookie, int(self._clock_s())) if cookie else None
            if found is None:
                raise _unauthorized("Log in, or show a token: Authorization: Bearer and the ADMIN_TOKEN.")
            principal = found
            if method not in _SAFE:
                _check_origin(headers, needed=True)
        if principal.role is not Role.ADMIN and method not in _SAFE and path != LOGOUT:
            raise Refused("forbidden", "This token is for reading only (ADMIN_READ_TOKEN); a change takes ADMIN_TOKEN.")
        return Caller(principal, address, cookie if given is None else "", secure)

    def _by_bearer(self, given: str, address: str) -> Principal:
        scheme, _, token = given.partition(" ")
        self._check_brake(address)
        principal = self._access.by_token(token.strip()) if scheme.lower() == "bearer" else None
        if principal is None:
            self._brake.count(address, self._clock_s())
            log.warning("a wrong token was shown", address=address)
            raise _unauthorized("This is not the ADMIN_TOKEN, nor the ADMIN_READ_TOKEN.")
        return principal

    def _check_brake(self, address: str) -> None:
        wait_s = self._brake.wait_s(address, self._clock_s())
        if wait_s:
            raise Refused(
                "too_many_attempts",
                f"Too many wrong tokens came from {address}: try again in {wait_s} s.",
                ((b"retry-after", b"%d" % wait_s),),
            )

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        if self._hosts is None:
            return
        name = _host(headers.get(b"host", b"").decode("latin-1"))
        if name not in self._hosts:
            raise Refused(
                "forbidden", f"This is not served as {name[:100]!r}: if it should be, add it to ADMIN_ALLOWED_HOSTS."
            )

    def _cookie(self, headers: dict[bytes, bytes]) -> str:
        for each in headers.get(b"cookie", b"").decode("latin-1").split(";"):
            name, _, value = each.strip().partition("=")
            if name == self._access.cookie and len(value) <= COOKIE_CHARACTERS_MAX:
                return value
        return ""


async def refuse(send: Send, type_: str, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Answer with a fault."""
    body = encode(FaultAnswer(error=Fault(type=type_, message=message)))
    length = (b"content-length", b"%d" % len(body))
    head = [(b"content-type", b"application/json"), length, *HEADERS, *headers]
    await send({"type": "http.response.start", "status": STATUS[type_], "headers": head})
    await send({"type": "http.response.body", "body": body})


def _unauthorized(message: str) -> Refused:
    return Refused("unauthorized", message, ((b"www-authenticate", b'Bearer realm="TokenGate"'),))


def _host(given: str) -> str:
    """`localhost` of `localhost:8000`, `::1` of `[::1]:8000`."""
    try:
        return urlsplit(f"//{given}").hostname or ""
    except ValueError:
        return ""


def _check_origin(headers: dict[bytes, bytes], *, needed: bool) -> None:
    """A page of another origin, also of another port of this machine, must not use the session of this one.

    Browsers say where a request comes from in `Sec-Fetch-Site`, but not over plain HTTP to another machine; in `Origin`
    with every POST (https://fetch.spec.whatwg.org/#origin-header).
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None:
        if site == b"same-origin":
            return
    elif origin is not None:
        if origin.lower().partition(b"://")[2] == headers.get(b"host", b"").lower():
            return
    elif not needed:
        return
    raise Refused("forbidden", "This request comes from another page than the dashboard.")


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    length = headers.get(b"content-length", b"0")
    too_large = Refused("too_large", f"The body is larger than the admin API takes: {BODY_BYTES_MAX} bytes.")
    if not length.isdigit() or int(length[:20]) > BODY_BYTES_MAX:
        raise too_large
    body = b""
    try:
        async with asyncio.timeout(BODY_READ_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    break
                body += message.get("body", b"")
                if len(body) > BODY_BYTES_MAX:
                    raise too_large
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise Refused("invalid", f"The body did not arrive within {BODY_READ_TIMEOUT_S} s.") from None
    if body and not headers.get(b"content-type", b"").lower().startswith(b"application/json"):
        # What a form of any page can send is never taken for a change.
        raise Refused("invalid", "The body must be JSON: Content-Type: application/json.")
    return body


def _once(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever comes next: the body in one piece, and then what the server has to say."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again

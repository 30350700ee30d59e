"""`Control` over the admin API of a gate: for where the store cannot be reached, and a token can be had.

It says what it is told to a gate, and reads what that answers; it decides nothing. Redirects are not followed, so that
the token goes nowhere else; an answer beyond `ANSWER_BYTES_MAX` is given up.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from tokengate import __version__
from tokengate.control import ControlError, Denied, Invalid, Unavailable, Unknown
from tokengate.control.encoding import decode, encode
from tokengate.control.words import (
    Account,
    BudgetChange,
    Change,
    Detail,
    EventPage,
    EventQuery,
    FaultAnswer,
    FreezeChange,
    Kind,
    Page,
    Query,
    Spend,
    SpendQuery,
    Stats,
)
from tokengate.money import format_usd

ROOT: Final = "/api/dashboard"
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 30.0
"""How long all of an answer may take, from the question to its last byte."""

ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})

T = TypeVar("T")


class _Access(msgspec.Struct, frozen=True):
    """What is needed of the answer that says who asks."""

    tenant: str


class RemoteControl:
    """See `Control`. Use as `async with`."""

    def __init__(self, url: str, token: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Nothing is asked yet.

        Args:
            url: where the gate or the console is, without a path.
            token: one of its tokens.
            transport: another way to it, for tests.

        Raises:
            Invalid: the URL or the token is none.
        """
        self.url = _base(url)
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise Invalid("the token is empty, or has characters that no token has")
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {token}", "user-agent": f"tokengate/{__version__}"},
            timeout=httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            verify=_trusted(self.url),
            transport=transport,
        )
        self._tenant = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def in_the_clear(self) -> bool:
        """Whether the token can be read on its way."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and parts.hostname not in _LOOPBACK

    async def sessions(self, query: Query) -> Page:
        return await self._ask("GET", f"{ROOT}/sessions", Page, parameters=query)

    async def detail(self, kind: Kind, name: str) -> Detail:
        return await self._ask("GET", await self._path(kind, name), Detail, about=(kind, name))

    async def account(self, kind: Kind, name: str) -> Account:
        return await self._ask("GET", await self._path(kind, name, "budget"), Account, about=(kind, name))

    async def events(self, query: EventQuery) -> EventPage:
        return await self._ask("GET", f"{ROOT}/events", EventPage, parameters=query)

    async def spend(self, query: SpendQuery) -> Spend:
        return await self._ask("GET", f"{ROOT}/spend", Spend, parameters=query)

    async def stats(self) -> Stats:
        return await self._ask("GET", f"{ROOT}/stats", Stats)

    async def set_budget(self, kind: Kind, name: str, budget_nano: int | None, *, by: str) -> Account:
        budget = None if budget_nano is None else format_usd(budget_nano)
        return await self._change(kind, name, "budget", BudgetChange(budget_usd=budget, by=by))

    async def freeze(
        self, kind: Kind, name: str, *, reason: str, for_ms: int | None, by: str, new: bool = False
    ) -> Account:
        return await self._change(kind, name, "freeze", FreezeChange(reason=reason, for_ms=for_ms, new=new, by=by))

    async def unfreeze(self, kind: Kind, name: str, *, by: str) -> Account:
        return await self._change(kind, name, "unfreeze", Change(by=by))

    async def reset(self, kind: Kind, name: str, *, by: str) -> Account:
        return await self._change(kind, name, "reset", Change(by=by))

    async def delete(self, kind: Kind, name: str, *, by: str) -> None:
        await self._send("DELETE", await self._path(kind, name), body=Change(by=by), about=(kind, name))

    async def _change(self, kind: Kind, name: str, act: str, change: object) -> Account:
        return await self._ask("POST", await self._path(kind, name, act), Account, body=change, about=(kind, name))

    async def _path(self, kind: Kind, name: str, act: str = "") -> str:
        if kind is Kind.TENANT and not name:
            self._tenant = self._tenant or (await self._ask("GET", f"{ROOT}/access", _Access)).tenant
            name = self._tenant
        if name in ("", ".", ".."):
            # The latter two would be taken for a way through the path.
            raise Invalid(f"{name!r} is no name of a {kind}")
        return f"{ROOT}/{kind}/{quote(name, safe='')}" + (f"/{act}" if act else "")

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        parameters: object = None,
        body: object = None,
        about: tuple[Kind, str] | None = None,
    ) -> T:
        answer = await self._send(method, path, parameters=parameters, body=body, about=about)
        try:
            return decode(answer, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self.url} answers what no gate of this version does: {error}") from None

    async def _send(
        self,
        method: str,
        path: str,
        *,
        parameters: object = None,
        body: object = None,
        about: tuple[Kind, str] | None = None,
    ) -> bytes:
        request = self._client.build_request(
            method,
            path,
            params=_parameters(parameters) if parameters is not None else None,
            content=encode(body) if body is not None else None,
            headers={"content-type": "application/json"} if body is not None else None,
        )
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                response = await self._client.send(request, stream=True)
                try:
                    answer = await _read(response)
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise Unavailable(
                f"{self.url} has not answered within {ANSWER_TIMEOUT_S:g} s; whether it was done is not known"
            ) from None
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            why = str(error) or ("no connection in time" if isinstance(error, httpx.TimeoutException) else repr(error))
            raise Unavailable(f"{self.url} cannot be reached: {why}") from None
        if response.is_success:
            return answer
        if response.has_redirect_location:
            to = response.headers["location"]
            raise Unavailable(f"{self.url} sends us to {to}: name that with --server, if it is to be given the token")
        raise _fault(self.url, response.status_code, answer, about)


def _base(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid(f"{url!r} is no URL of a gate") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None or port == 0:
        raise Invalid(f"{url!r} is no URL of a gate: it is like https://gate.example:8000, without a user")
    if parts.path.rstrip("/") or parts.query or parts.fragment:
        raise Invalid(f"{url!r} is more than the URL of a gate: leave out what comes after the host and port")
    return f"{parts.scheme}://{parts.netloc}"


def _trusted(url: str) -> ssl.SSLContext | bool:
    """Whom to trust: for https whom httpx trusts; else nobody, which takes no reading of certificates."""
    return url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _parameters(word: object) -> Mapping[str, str]:
    """A query as parameters; what is as it is by default is left out."""
    fields = msgspec.structs.fields(word)  # type: ignore[arg-type]
    given: dict[str, Any] = {field.encode_name: getattr(word, field.name) for field in fields}
    defaults = {field.encode_name: field.default for field in fields}
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in given.items()
        if value is not None and value != defaults[name]
    }


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise Unavailable(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return b"".join(parts)


def _fault(url: str, status: int, answer: bytes, about: tuple[Kind, str] | None) -> ControlError:
    try:
        fault = decode(answer, FaultAnswer).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        fault = None
    # A sidecar says in the words of a provider that there is no such endpoint.
    if fault is None or (status == 404 and fault.type != "not_found"):
        if status >= 500:
            return Unavailable(f"{url} fails (HTTP {status}), and not as a gate does: what stands before it?")
        return Unavailable(f"there is no admin API at {url} (HTTP {status}): a sidecar has none, a console has one")
    if fault.type == "not_found" and about is not None:
        return Unknown(*about, fault.similar)
    if status in (401, 403):
        return Denied(fault.message)
    if fault.type == "invalid":
        return Invalid(fault.message)
    return Unavailable(fault.message)

"""Who may see and change what: two tokens, the sessions of the page that they open, and a brake on guessing. No HTTP.

A session of the page is a signed statement that its browser keeps, so that every console that has the same token knows
it, also after a restart, and nothing is remembered for it here. Its key is made from the token that opened it: a token
that is changed ends the sessions that it opened.
"""

import base64
import hashlib
import hmac
import math
import secrets
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

SESSION_S: Final = 12 * 3600
"""How long a session of the page lasts, whatever is done in it."""

COOKIE_CHARACTERS_MAX: Final = 512

ENDED_MAX: Final = 4096
"""How many sessions that were ended before their time are remembered; the first of them is forgotten first."""

GUESSES_MAX: Final = 10
"""How many wrong tokens an address may say at once; after that one every `GUESS_EVERY_S`."""

GUESS_EVERY_S: Final = 6.0

ADDRESSES_MAX: Final = 4096
"""From how many addresses guesses are counted; the one that guessed first is forgotten first."""


class Role(StrEnum):
    """What somebody may do."""

    READ = "read"
    ADMIN = "admin"


class Principal(Struct, frozen=True):
    """Somebody who has shown a token."""

    name: str
    """Which token it was, for the record of what was changed."""
    role: Role


class _Statement(Struct, frozen=True, array_like=True):
    """What a cookie says."""

    name: str
    id: str
    expires_s: int


_statement: Final = msgspec.json.Decoder(_Statement)


class Access:
    """The tokens and the sessions. Times are seconds since the epoch."""

    def __init__(self, admin_token: str, read_token: str | None) -> None:
        """`read_token`: None where everybody who may look may also change.

        Raises:
            ValueError: the two are one.
        """
        if admin_token == read_token:
            raise ValueError("ADMIN_TOKEN and ADMIN_READ_TOKEN are the same: whoever may look could change everything")
        tokens = {Principal("admin", Role.ADMIN): admin_token}
        if read_token is not None:
            tokens[Principal("reader", Role.READ)] = read_token
        self._principals = {principal.name: principal for principal in tokens}
        self._digests = {principal: _digest(token) for principal, token in tokens.items()}
        self._keys = {
            principal.name: hmac.digest(token.encode(), b"tokengate: sessions of the page", "sha256")
            for principal, token in tokens.items()
        }
        # Browsers keep cookies by host, not by port: two gates on one machine must not end each other's sessions.
        self.cookie = f"tokengate_{hmac.digest(self._keys['admin'], b'name', 'sha256').hex()[:8]}"
        self._ended: dict[str, None] = {}

    def by_token(self, token: str) -> Principal | None:
        """Whose token it is. Takes as long for a wrong one, however wrong it is."""
        given = _digest(token)
        found = None
        for principal, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = principal
        return found

    def open_session(self, principal: Principal, now_s: int) -> str:
        """A new session of the page, as the value of its cookie."""
        statement = _Statement(principal.name, secrets.token_urlsafe(12), now_s + SESSION_S)
        said = _to_text(msgspec.json.encode(statement))
        return f"{said}.{self._sign(principal.name, said)}"

    def by_session(self, cookie: str, now_s: int) -> Principal | None:
        """Who opened a session; None if it is not ours, is over, or was ended."""
        statement = self._read(cookie)
        if statement is None or statement.expires_s <= now_s or statement.id in self._ended:
            return None
        return self._principals[statement.name]

    def end_session(self, cookie: str) -> None:
        """End a session before its time: in this process, for good; its browser is told to forget it."""
        statement = self._read(cookie)
        if statement is not None:
            self._ended[statement.id] = None
            if len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]

    def _read(self, cookie: str) -> _Statement | None:
        said, dot, signature = cookie.rpartition(".")
        if not dot or len(cookie) > COOKIE_CHARACTERS_MAX or not cookie.isascii():
            return None
        try:
            statement = _statement.decode(base64.urlsafe_b64decode(f"{said}{'=' * (-len(said) % 4)}"))
        except (ValueError, msgspec.MsgspecError):
            return None
        if statement.name not in self._keys or not hmac.compare_digest(signature, self._sign(statement.name, said)):
            return None
        return statement

    def _sign(self, name: str, said: str) -> str:
        return _to_text(hmac.digest(self._keys[name], said.encode(), "sha256"))


class Brake:
    """Counts wrong tokens by the address that they come from. What it refuses does not count, so it ends by itself."""

    def __init__(self) -> None:
        self._guesses: dict[str, tuple[float, float]] = {}
        """By address: how many guesses are counted, and at which second they were."""

    def wait_s(self, address: str, now_s: float) -> int:
        """In how many whole seconds the address may try again; 0: now."""
        counted = self._counted(_network(address), now_s)
        return max(0, math.ceil((counted - GUESSES_MAX + 1) * GUESS_EVERY_S))

    def count(self, address: str, now_s: float) -> None:
        """Somebody at this address has said a wrong token."""
        network = _network(address)
        counted = self._counted(network, now_s)
        self._guesses.pop(network, None)
        if len(self._guesses) >= ADDRESSES_MAX:
            del self._guesses[next(iter(self._guesses))]
        self._guesses[network] = (counted + 1, now_s)

    def _counted(self, network: str, now_s: float) -> float:
        counted, at_s = self._guesses.get(network, (0.0, now_s))
        return max(0.0, counted - (now_s - at_s) / GUESS_EVERY_S)


def _network(address: str) -> str:
    """An IPv6 address is as good as its /64, which one host has all to itself (RFC 6177)."""
    if ":" not in address:
        return address
    import ipaddress  # noqa: PLC0415 - seldom needed

    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


def _to_text(data: bytes) -> str:
    """Letters that a cookie may have without being quoted: base64 without its padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

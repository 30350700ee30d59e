"""Who is calling: a session id from the request, checked, within the tenant and agent that only an operator can set.

Pure: headers and query in, a `Session` or a `Refusal` out. A name travels into keys, logs, pages and headers, so its
characters are those that mean nothing in any of them.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from tokengate.domain import NAME_CHARACTERS_MAX, NAME_PATTERN, Reason, Refusal, Session

HEADER: Final = b"x-session-id"
PARAMETER: Final = "session_id"

_NAME = re.compile(NAME_PATTERN, re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """What an operator has said of the callers: who they are, and how much of that they may choose."""

    tenant: str
    agent: str
    pinned: str
    """The session of every call, if not empty: a caller cannot choose another one."""
    fallback: str
    """The session of a call that names none."""
    strict: bool
    """A call that names no session is refused."""

    def identify(self, header: bytes | None, query: bytes) -> Session | Refusal:
        """The session of a call, from its `X-Session-ID` header (preferred) or its `session_id` parameter."""
        if self.pinned:
            return Session(self.pinned, self.tenant, self.agent)
        if header is not None:
            return self._named(header.decode("latin-1"), "the X-Session-ID header")
        if query:
            given = {
                value for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if name == PARAMETER
            }
            if given:
                # Two different ids in one request are refused, as an id that no name can be.
                return self._named(given.pop() if len(given) == 1 else "", "the session_id parameter")
        if self.strict:
            return Refusal(
                Reason.SESSION_MISSING,
                "This gate is in strict mode: name a session in the X-Session-ID header (or ?session_id=).",
                param="X-Session-ID",
            )
        return Session(self.fallback, self.tenant, self.agent)

    def _named(self, name: str, where: str) -> Session | Refusal:
        if len(name) <= NAME_CHARACTERS_MAX and _NAME.fullmatch(name):
            return Session(name, self.tenant, self.agent)
        return Refusal(
            Reason.SESSION_INVALID,
            f"The session id in {where} is not valid: use 1 to {NAME_CHARACTERS_MAX} letters, digits or "
            ". _ : @ + = ~ - and begin with a letter or a digit.",
            param="X-Session-ID",
        )


def without_session(query: bytes) -> bytes:
    """A query string without our parameter, for the provider; every other byte as it came."""
    if not query:
        return query
    return b"&".join(part for part in query.split(b"&") if _name(part) != PARAMETER)


def _name(part: bytes) -> str:
    return unquote_plus(part.partition(b"=")[0].decode("latin-1"))

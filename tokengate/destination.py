"""Where a request goes: which upstream, by which URL, and with whose key.

A destination is chosen by a prefix of the path, else by the model's name, else it is the dialect's own: always by what
an operator has set, never by a header. A caller's own credentials go on only to a destination for which the gate has no
key. No I/O but through the transport that a destination names.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from msgspec import Struct

from tokengate.inbound import CREDENTIALS, Inbound
from tokengate.providers import Quirks
from tokengate.session import without_session
from tokengate.upstream import Transport

MODELS_CACHED: Final = 1024
"""Names of models that are remembered with where they go: callers invent names, so it is bounded."""


class Destination(Struct, frozen=True, eq=False):
    """One upstream."""

    name: str
    """As the settings, logs and metrics call it."""
    base_url: str
    """Without a trailing slash."""
    transport: Transport
    section: str
    """The section of the price table by which its models are priced."""
    replaces: str = ""
    """The beginning of a path that `base_url` takes the place of."""
    key_header: bytes = b"authorization"
    key: bytes | None = None
    """The value of `key_header` that the gate sends; None: what the caller sent goes on."""
    key_parameter: str = ""
    """A parameter of the query that is a key, and stays here where the gate has its own."""
    quirks: Quirks | None = None
    """What it does otherwise than its dialect says."""
    prefix: str = ""
    """Paths that begin with it go here: `/groq`. Empty: none do."""
    root: str = ""
    """What stands in the place of the prefix, to find the endpoint by: `/v1` where a path has no version of its own."""
    models: tuple[str, ...] = ()
    """Models that go here, as shell patterns."""

    def path(self, written: str) -> str:
        """The path of an endpoint, as it was written with the prefix."""
        return self.root + written.removeprefix(self.prefix)

    def url(self, path: str, query: bytes) -> str:
        """Where a request for a path goes: what names the session stays here."""
        url = self.base_url + path.removeprefix(self.replaces)
        kept = without_session(query)
        if kept and self.key is not None and self.key_parameter:
            kept = b"&".join(part for part in kept.split(b"&") if _name(part) != self.key_parameter)
        return f"{url}?{kept.decode('latin-1')}" if kept else url

    def headers(self, inbound: Inbound) -> list[tuple[bytes, bytes]]:
        """The headers that go on: with the gate's key if it has one, else with the caller's own credentials."""
        if self.key is not None:
            return [*inbound.forwarded, (self.key_header, self.key)]
        return inbound.forwarded + [(name, value) for name in CREDENTIALS if (value := inbound.given.get(name))]


class Destinations:
    """All upstreams."""

    def __init__(self, own: Mapping[str, Destination], configured: Sequence[Destination] = ()) -> None:
        """Of the configured ones, the first that a path or a model belongs to takes it.

        Args:
            own: where each dialect goes by default, by the dialect's name.
            configured: those that take paths or models.
        """
        self._own = own
        self._prefixed = [each for each in configured if each.prefix]
        self._patterns = [
            (re.compile("|".join(map(translate, each.models)), re.IGNORECASE), each)
            for each in configured
            if each.models
        ]
        self._by_model = lru_cache(maxsize=MODELS_CACHED)(self._find)

    def by_prefix(self, path: str) -> Destination | None:
        """Where a path goes by its beginning; None: nothing is said of it."""
        for each in self._prefixed:
            if path.startswith(each.prefix) and path[len(each.prefix) : len(each.prefix) + 1] == "/":
                return each
        return None

    def of(self, dialect: str, model: str = "") -> Destination:
        """Where a call of a dialect goes."""
        if self._patterns and model:
            found = self._by_model(model)
            if found is not None:
                return found
        return self._own[dialect]

    def has(self, dialect: str) -> bool:
        """Whether a dialect goes anywhere by default."""
        return dialect in self._own

    def _find(self, model: str) -> Destination | None:
        return next((each for pattern, each in self._patterns if pattern.match(model)), None)


def _name(part: bytes) -> str:
    return unquote_plus(part.partition(b"=")[0].decode("latin-1"))

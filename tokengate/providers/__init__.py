"""What a provider's dialect must be able to do, and nothing about any provider.

A provider is one module in this package. It says which endpoints it has (`routes`), reads a body into a `Request`, and
dresses a refusal in its own error shape. Everything here is sans-I/O: bytes in, values out. Providers never import
each other.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Protocol

from msgspec import Struct

from tokengate.bodies import MalformedRequest, RequestError, UnpricedFeature
from tokengate.domain import Call, Reason, Refusal, Usage
from tokengate.money import usd_number
from tokengate.tokens import Count

__all__ = (
    "NO_HEAD",
    "STATUS",
    "Asked",
    "Count",
    "Dialect",
    "Endpoint",
    "Head",
    "MalformedRequest",
    "Meter",
    "Quirks",
    "Reading",
    "Request",
    "RequestError",
    "Route",
    "Router",
    "UnpricedFeature",
    "figures",
)

STATUS: Final = MappingProxyType(
    {
        Reason.BUDGET_EXCEEDED: 429,
        Reason.BUDGET_BUSY: 429,
        Reason.BUDGET_INVALID: 429,
        Reason.SESSIONS_FULL: 429,
        Reason.RATE_LIMITED: 429,
        Reason.SESSION_FROZEN: 403,
        Reason.SESSION_MISSING: 400,
        Reason.SESSION_INVALID: 400,
        Reason.BODY_INVALID: 400,
        Reason.BODY_TOO_LARGE: 413,
        Reason.HEADERS_TOO_LARGE: 431,
        Reason.MODEL_NOT_PRICED: 400,
        Reason.ENDPOINT_NOT_METERED: 404,
        Reason.METHOD_NOT_ALLOWED: 405,
        Reason.CONCURRENCY_EXCEEDED: 503,
        Reason.STORE_UNAVAILABLE: 503,
        Reason.UPSTREAM_UNREACHABLE: 502,
        Reason.UPSTREAM_TIMEOUT: 504,
        Reason.SHUTTING_DOWN: 503,
        Reason.INTERNAL: 500,
    }
)
"""The HTTP status of a refusal, the same in every dialect. SDKs retry 408, 409, 429 and 5xx: see `x-should-retry`."""


ANY_METHOD: Final = "*"


class Reading(Struct, frozen=True, gc=False):
    """What a meter has learnt from the response so far."""

    usage: Usage | None
    """What the provider reported; None if it has reported nothing that can be read."""
    complete: bool
    """The answer came to its own end (for a stream: its terminal event was seen)."""
    output_seen: str
    """The generated text seen, for counting an answer that was cut; bounded. Not collected where `usage` is known."""
    output_bytes_seen: int
    """UTF-8 bytes of generated text seen, including what no longer fitted into `output_seen`."""
    hidden_output: bool = False
    """Whether tokens may have been generated that cannot be counted from what was seen: reasoning, audio, the rejected
    part of a prediction, or an answer of which the text cannot be read. Matters only where `usage` is None."""
    kept: str = ""
    """What the provider calls the answer, if it keeps it to be asked for again."""
    assumed: bool = False
    """The usage is not what the provider reported but what was measured of its answer, not too low."""


class Meter(Protocol):
    """Reads one response while its bytes pass through, for one request. Never raises on what a provider sends.

    `finish` is called once, if and when the provider ended the response in order; after it `feed` is not called again.
    `reading` may be asked at any time, also for a response that broke off, and is what is known by then.
    """

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes from the provider; give the bytes to pass on now (the same, unless some are withheld)."""
        ...

    def finish(self) -> bytes:
        """The response ended: give the bytes still withheld."""
        ...

    def reading(self) -> Reading: ...


class Quirks(Struct, frozen=True):
    """What a server that speaks a dialect does otherwise than the dialect's own provider."""

    stream_options: bool = True
    """It takes `stream_options`; else its streams are counted by what is seen, unless they tell by themselves."""
    output_cap_field: str = ""
    """The name of the output cap that it obeys, if it is another than the dialect's (`max_tokens`)."""
    cost_reported: bool = False
    """Its answers say what they cost, and it is believed."""
    service_tier_default: str = ""
    """The service tier that its account is set to, by which calls that leave it to the account may be billed."""


class Asked(Struct, frozen=True, gc=False):
    """What a request asks, for telling whether it repeats another one."""

    document: dict[str, Any]
    """The body, as parsed."""
    conversation: str
    """The member of it that is the conversation: a list of messages, or a text."""
    bytes: int


class Request(Protocol):
    """One parsed request of a metered endpoint."""

    @property
    def call(self) -> Call: ...

    def count_input(self, count: Count) -> int:
        """The billed input tokens counted exactly with `count` (never below what the provider bills); off the loop."""
        ...

    def suited(self, quirks: Quirks) -> "Request":
        """The same request for a server that is not quite what its dialect says."""
        ...

    def body(self, output_cap_tokens: int | None) -> bytes:
        """The bytes to forward: as they came, but for the output cap (if one is given) and what metering needs."""
        ...

    def asked(self) -> Asked | None:
        """What is asked; None where asking the same again and again means nothing, as of texts that are embedded."""
        ...

    def meter(self, status: int, content_type: str) -> Meter:
        """A meter for the response to this request, by the response's status and content type."""
        ...


class Dialect(Protocol):
    """How a provider's clients expect to be spoken to."""

    name: str

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        """The JSON body of a refusal."""
        ...

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        """The terminal event, as bytes, of a stream that is refused in its midst."""
        ...


def figures(refusal: Refusal) -> dict[str, Any]:
    """What an error says beyond its dialect's own members: `budget_info`, and of a freeze `reason` and `until`."""
    found: dict[str, Any] = {}
    standing, required_nano = refusal.standing, refusal.required_nano
    if standing is not None and refusal.reason is not Reason.RATE_LIMITED:
        found["budget_info"] = {
            "budget": usd_number(standing.cap_nano),
            "spent": usd_number(standing.spent_nano),
            "remaining": usd_number(standing.remaining_nano),
            "scope": str(standing.scope),
            "held": usd_number(standing.held_nano),
            "required": usd_number(required_nano) if required_nano is not None else None,
            "resets_at": _timestamp(standing.resets_at_ms),
        }
    if refusal.reason is Reason.SESSION_FROZEN:
        found |= {"reason": refusal.frozen_reason, "until": _timestamp(refusal.frozen_until_ms)}
    if refusal.rule is not None:
        found["rule"] = refusal.rule
    return found


def _timestamp(at_ms: int | None) -> str | None:
    """ISO 8601 in UTC, to the second; None stays None."""
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Head(Protocol):
    """What an endpoint may need to know of a request beside its body."""

    @property
    def raw_path(self) -> bytes:
        """As it was written, without the query."""
        ...

    @property
    def query(self) -> bytes: ...

    @property
    def content_type(self) -> bytes | None: ...

    @property
    def given(self) -> Mapping[bytes, bytes]:
        """The last value of each header, by its name in lower case."""
        ...


class _NoHead:
    raw_path = query = b""
    content_type: bytes | None = None
    given: Mapping[bytes, bytes] = MappingProxyType({})


NO_HEAD: Final[Head] = _NoHead()


class Endpoint(Protocol):
    """One metered endpoint: reads its bodies."""

    name: str

    def parse(self, body: bytes, head: Head = NO_HEAD) -> Request:
        """Read a body; `head` for what stands before it: a model in the path, the boundary of a form.

        Raises:
            MalformedRequest: not what the endpoint takes.
            UnpricedFeature: it asks for something that could cost money and cannot be priced.
        """
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """A row of a provider's endpoint table.

    A `*` in a path takes one segment, or a part of one; at the path's end, behind a slash, it takes all that is left.
    """

    method: str
    """`*`: any, of a path that is refused whatever is done with it."""
    path: str
    dialect: Dialect
    name: str
    endpoint: Endpoint | None
    """None: free of charge, passed through; unless it is refused."""
    refused: str = ""
    """Why it is not forwarded, in words for its caller; empty: it is."""
    takes_forms: bool = False
    """A body may be a form (multipart/form-data), not only JSON."""
    own: bool = False
    """Of what the provider keeps, named by the path's third segment: it is forwarded for the session that made it."""
    told_by: bytes = b""
    """The header by which it is told from another provider's route of the same path; empty: whatever is left."""


class Router:
    """Finds the route of a request; exact paths first, then patterns in their order. Immutable after it is built."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact: dict[tuple[str, str], Route] = {}
        self._told: dict[tuple[str, str], list[Route]] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Route]] = []
        self._methods: dict[str, list[str]] = {}
        self._families: dict[str, set[Dialect]] = {}
        for route in routes:
            key = route.method, route.path
            self._families.setdefault(_family(route.path), set()).add(route.dialect)
            if route.told_by:
                self._told.setdefault(key, []).append(route)
            elif "*" in route.path:
                self._patterns.append((route.method, _pattern(route.path), route))
            else:
                self._exact[key] = route
            methods = [] if route.refused else self._methods.setdefault(route.path, [])
            if route.method not in methods:
                methods.append(route.method)

    def match(self, method: str, path: str, given: Mapping[bytes, bytes] = MappingProxyType({})) -> Route | None:
        """The route of a request, or None if the path is not metered (or not with this method)."""
        route = self._exact.get((method, path)) or self._by_pattern(method, path)
        if route is None or not self._told:
            return route
        rivals = self._told.get((method, route.path), ())
        return next((rival for rival in rivals if rival.told_by in given), route)

    def _by_pattern(self, method: str, path: str) -> Route | None:
        for verb, pattern, route in self._patterns:
            if verb in (method, ANY_METHOD) and pattern.fullmatch(path):
                return route
        return self._exact.get((ANY_METHOD, path))

    def dialect_of(self, path: str, given: Mapping[bytes, bytes]) -> Dialect | None:
        """Whose words a caller understands that asks for what is no endpoint: by its headers, or the path's beginning.

        None: several providers could have such a path.
        """
        for rivals in self._told.values():
            for rival in rivals:
                if rival.told_by in given:
                    return rival.dialect
        family = self._families.get(_family(path), set())
        return next(iter(family)) if len(family) == 1 else None

    def methods(self, path: str) -> list[str]:
        """The methods that an exact path does have, for a refusal that says so."""
        return self._methods.get(path, [])


def _family(path: str) -> str:
    """The beginning of a path that says whose it may be: `/v1beta`."""
    return path.split("/", 2)[1] if path.startswith("/") else ""


def _pattern(path: str) -> re.Pattern[str]:
    start, slash, rest = path.rpartition("/")
    head = "/".join(re.escape(part).replace(r"\*", "[^/]+") for part in start.split("/"))
    tail = ".+" if rest == "*" else re.escape(rest).replace(r"\*", "[^/]+")
    return re.compile(head + slash + tail)

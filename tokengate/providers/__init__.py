"""What a provider's dialect must be able to do, and nothing about any provider.

A provider is one module in this package. It says which endpoints it has (`routes`), reads a body into a `Request`, and
dresses a refusal in its own error shape. Everything here is sans-I/O: bytes in, values out. Providers never import
each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tokengate.domain import Call, Refusal, Usage

Count = Callable[[str], int]
"""Counts the tokens of a text exactly; may take milliseconds, so it is called off the event loop."""


class RequestError(ValueError):
    """A body that cannot be priced as it stands: the message says what is wrong and where, in words for its author."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class MalformedRequest(RequestError):
    """The body is not what the endpoint takes."""


class UnpricedFeature(RequestError):
    """The body asks for something that could cost money and has no price here."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter has learnt from the response so far."""

    usage: Usage | None
    """What the provider reported; None if it has reported nothing that can be read."""
    complete: bool
    """The answer came to its own end (for a stream: its terminal event was seen)."""
    output_seen: str
    """The generated text seen, for counting an answer that was cut; bounded."""
    output_bytes_seen: int
    """Bytes of generated text seen, including what no longer fitted into `output_seen`."""
    hidden_output: bool = False
    """Whether the model may have generated billed tokens that are not shown (reasoning)."""


class Meter(Protocol):
    """Reads one response while its bytes pass through, for one request. Never raises on what a provider sends."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes from the provider; give the bytes to pass on now (the same, unless some are withheld)."""
        ...

    def finish(self) -> bytes:
        """The response ended: give the bytes still withheld."""
        ...

    def reading(self) -> Reading: ...


class Request(Protocol):
    """One parsed request of a metered endpoint."""

    @property
    def call(self) -> Call: ...

    def count_input(self, count: Count) -> int:
        """The billed input tokens counted exactly with `count` (never below what the provider bills); off the loop."""
        ...

    def body(self, output_cap_tokens: int | None) -> bytes:
        """The bytes to forward: as they came, but for the output cap (if one is given) and what metering needs."""
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


class Endpoint(Protocol):
    """One metered endpoint: reads its bodies."""

    name: str

    def parse(self, body: bytes) -> Request:
        """Read a body.

        Raises:
            MalformedRequest: not what the endpoint takes.
            UnpricedFeature: it asks for something that could cost money and cannot be priced.
        """
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """A row of a provider's endpoint table. A path ending in `/*` takes exactly one more segment (slashes included)."""

    method: str
    path: str
    dialect: Dialect
    name: str
    endpoint: Endpoint | None
    """None: free of charge, passed through."""


class Router:
    """Finds the route of a request; exact paths first, then prefixes. Immutable after it is built."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._exact = {(route.method, route.path): route for route in routes if not route.path.endswith("/*")}
        self._prefixes = [route for route in routes if route.path.endswith("/*")]
        self._methods: dict[str, list[str]] = {}
        for route in routes:
            self._methods.setdefault(route.path, []).append(route.method)

    def match(self, method: str, path: str) -> Route | None:
        """The route of a request, or None if the path is not metered (or not with this method)."""
        route = self._exact.get((method, path))
        if route is not None:
            return route
        for route in self._prefixes:
            if route.method == method and path.startswith(route.path[:-1]) and len(path) > len(route.path) - 1:
                return route
        return None

    def methods(self, path: str) -> list[str]:
        """The methods that an exact path does have, for a refusal that says so."""
        return self._methods.get(path, [])

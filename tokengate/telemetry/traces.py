"""A request's place in a distributed trace: its ids, whether it is sampled, and what the provider is told of it.

The caller's context is taken from its W3C headers (https://www.w3.org/TR/trace-context/). What is sampled is decided
here, by the rules of OpenTelemetry's `OTEL_TRACES_SAMPLER`, because the provider may have to be told; the spans are
made later, elsewhere, of what is recorded (`spans`). So nothing of OpenTelemetry is loaded here, and none of its
machinery runs while a call is under way. Where traces are off there is no `Tracing`, and a request does not even look
at its headers.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from tokengate.domain import Trace

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Where spans are sent to: traces are on if one of these is in the environment
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/)."""

STATE_BYTES_MAX: Final = 512
"""A longer `tracestate` ends here: W3C asks for no more than that to be passed on."""

_PARENT: Final = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})"
    rb"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?",
    re.DOTALL,
)
_STATE: Final = re.compile(rb"[\x20-\x7e\t]*")
_NOT_ZERO: Final = 1 << 64 | 1
"""No id may be zero: the lowest bit of each of the two in one number."""
_SPAN_IDS: Final = 1 << 64
_SAMPLED: Final = 1

Headers = Sequence[tuple[bytes, bytes]]
Sampler = Callable[[int, bool | None], bool]
"""Whether a trace is sampled, by its id and by whether its parent is (None: it has none)."""

log = structlog.get_logger()


class Tracing:
    """Gives each request its place. `sampler` is None where no spans are made, but the caller's are passed on."""

    def __init__(self, sampler: Sampler | None, *, propagate: bool) -> None:
        """`propagate`: whether providers are told."""
        self._sampler = sampler
        self._propagate = propagate

    def begin(self, headers: Headers) -> Trace | None:
        """The place of a request with such headers, as ASGI has them; None if it has none."""
        given = dict(headers).get(b"traceparent")
        found = None if given is None else _context(headers, given)
        if found is not None:
            return self._within(found, headers)
        if self._sampler is None:
            return None
        bits = random.getrandbits(192) | _NOT_ZERO
        ids = bits.to_bytes(24, "big").hex()
        return Trace(ids[:32], ids[32:], "", "", self._sampler(bits >> 64, None))

    def _within(self, found: re.Match[bytes], headers: Headers) -> Trace:
        """The place of a request that is a part of its caller's trace."""
        trace_id, parent_span_id = found["trace"].decode(), found["span"].decode()
        sampled = bool(int(found["flags"], 16) & _SAMPLED)
        state = b",".join(value for name, value in headers if name == b"tracestate")
        if len(state) > STATE_BYTES_MAX or _STATE.fullmatch(state) is None:
            state = b""
        if self._sampler is None:
            return Trace(trace_id, "", parent_span_id, state.decode(), sampled)
        span_id = f"{random.getrandbits(64) | 1:016x}"
        return Trace(trace_id, span_id, parent_span_id, state.decode(), self._sampler(int(trace_id, 16), sampled))

    def upstream_headers(self, trace: Trace) -> list[tuple[bytes, bytes]]:
        """What the provider is told; nothing unless that is wanted."""
        if not self._propagate:
            return []
        span_id = child_id(trace, UPSTREAM) if trace.span_id else trace.parent_span_id
        told = [(b"traceparent", f"00-{trace.trace_id}-{span_id}-{int(trace.sampled):02x}".encode())]
        if trace.state:
            told.append((b"tracestate", trace.state.encode()))
        return told


RESERVE, UPSTREAM, SETTLE = 0x7265_7365_7276_6500, 0x7570_7374_7265_6100, 0x7365_7474_6C65_0000
"""The children of a request's span."""


def child_id(trace: Trace, child: int) -> str:
    """The id of a child of a request's span: the same whenever it is asked for, and nobody else's in the trace."""
    return f"{int(trace.span_id, 16) ^ child:016x}"


def _context(headers: Headers, given: bytes) -> re.Match[bytes] | None:
    """What a `traceparent` says; None if it is none, or not the only one (W3C, 3.2)."""
    found = _PARENT.fullmatch(given)
    if found is None or (found["version"] == b"00" and found["more"]):
        return None
    return found if sum(name == b"traceparent" for name, _ in headers) == 1 else None


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for spans to be exported."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() not in ("", "otlp"):
        return False
    return any(environ.get(name, "").strip() for name in ENDPOINTS)


def sampler(environ: Mapping[str, str]) -> Sampler:
    """The sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` name; else that of the default.

    As https://opentelemetry.io/docs/languages/sdk-configuration/general/ has them; one that is not known is reported.
    """
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    root_name = name.removeprefix("parentbased_")
    if root_name == "traceidratio":
        root = _ratio(environ.get("OTEL_TRACES_SAMPLER_ARG", ""))
    elif root_name in ("always_on", "always_off"):
        kept = root_name == "always_on"
        root = lambda _, __: kept  # noqa: E731
    else:
        log.warning("OTEL_TRACES_SAMPLER is not known; every trace is sampled unless its parent is not", given=name)
        return sampler({})
    if name == root_name:
        return root
    return lambda trace_number, above: root(trace_number, above) if above is None else above


def _ratio(text: str) -> Sampler:
    try:
        ratio = float(text or "1")
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        log.warning("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1; every trace is sampled", given=text)
        ratio = 1.0
    # As OpenTelemetry's TraceIdRatioBased, so that all that see a trace decide alike.
    bound = round(ratio * _SPAN_IDS)
    return lambda trace_number, _: trace_number % _SPAN_IDS < bound

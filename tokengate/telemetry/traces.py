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
_SPAN_IDS: Final = 1 << 64
_TRACE_IDS: Final = 1 << 128
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
        parent, states = b"", []
        parents = 0
        for name, value in headers:
            if name == b"traceparent":
                parent = value
                parents += 1
            elif name == b"tracestate":
                states.append(value)
        # Two parents are none (W3C, 3.2).
        found = _PARENT.fullmatch(parent) if parents == 1 else None
        if found is not None and found["version"] == b"00" and found["more"]:
            found = None
        state = b",".join(states) if found is not None else b""
        if len(state) > STATE_BYTES_MAX or _STATE.fullmatch(state) is None:
            state = b""
        if self._sampler is None:
            return None if found is None else _passed(found, state)
        trace_number = random.getrandbits(128) or 1 if found is None else int(found["trace"], 16)
        above = None if found is None else bool(int(found["flags"], 16) & _SAMPLED)
        return Trace(
            f"{trace_number:032x}",
            f"{random.getrandbits(64) or 1:016x}",
            f"{random.getrandbits(64) or 1:016x}",
            parent_span_id="" if found is None else found["span"].decode(),
            state=state.decode(),
            sampled=self._sampler(trace_number, above),
        )

    def upstream_headers(self, trace: Trace) -> list[tuple[bytes, bytes]]:
        """What the provider is told; nothing unless that is wanted."""
        if not self._propagate:
            return []
        parent = f"00-{trace.trace_id}-{trace.upstream_span_id}-{int(trace.sampled):02x}"
        told = [(b"traceparent", parent.encode())]
        if trace.state:
            told.append((b"tracestate", trace.state.encode()))
        return told


def _passed(found: re.Match[bytes], state: bytes) -> Trace:
    """The caller's own context, where the gate makes no spans of its own."""
    parent = found["span"].decode()
    return Trace(
        found["trace"].decode(),
        "",
        parent,
        parent_span_id=parent,
        state=state.decode(),
        sampled=bool(int(found["flags"], 16) & _SAMPLED),
    )


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

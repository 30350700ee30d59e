"""Spans, made of recorded outcomes and sent to an OTLP receiver, in a thread of their own. Loads OpenTelemetry's SDK.

An outcome of a sampled trace waits in a bounded queue, and everything else is done by the thread: making the spans,
encoding them, sending them. A receiver that is slow or away costs a request nothing: what does not fit into the queue
is dropped, and counted. Endpoint, headers, compression, timeouts and resource are what the `OTEL_...` variables of
the environment say (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

A request is a server span with a child for each part of it: `reserve` (from its body to the gate's decision), the call
to the provider, and `settle` (from the charge to the store's word for it, mostly after the answer's end). The
provider's follows the conventions for generative AI, https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/.
No prompt or answer is in any of them.
"""

import contextlib
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import structlog
from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from tokengate import __version__
from tokengate.domain import Outcome, Trace
from tokengate.money import usd_number

QUEUE_MAX: Final = 2048
"""How many outcomes and settlements may wait (OTEL_BSP_MAX_QUEUE_SIZE)."""

BATCH_MAX: Final = 128
"""How many of them are made into spans and sent at a time (OTEL_BSP_MAX_EXPORT_BATCH_SIZE, if that is less)."""

PAUSE_MS: Final = 5000
"""How often what waits is sent, if it is less than a batch (OTEL_BSP_SCHEDULE_DELAY)."""

CLOSE_S: Final = 5.0
"""How long a stop waits for the receiver to take what is left."""

OPERATIONS: Final[Mapping[str, str]] = {
    "chat_completions": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "responses": "chat",
    "messages": "chat",
    "generate_content": "generate_content",
    "embed_content": "embeddings",
}
"""`gen_ai.operation.name` by endpoint; another endpoint is its own operation."""

PROVIDERS: Final[Mapping[str, str]] = {
    "azure": "azure.ai.openai",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
"""`gen_ai.provider.name`, where the conventions call one otherwise than we do."""

_MILLI: Final = 1_000_000
_MICRO: Final = 1_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("tokengate", __version__)
_UNSET: Final = Status(StatusCode.UNSET)

_CHILDREN: Final = {"reserve": 0x7265_7365_7276_6500, "settle": 0x7365_7474_6C65_0000}

Counted = Callable[[str, int], None]
"""Told what became of so many requests: `exported`, `failed` or `dropped`."""

log = structlog.get_logger()


class Settling(Struct, frozen=True, gc=False):
    """One posting of a charge: from when to when (nanoseconds since the epoch), and whether it is known."""

    trace: Trace
    began_ns: int
    ended_ns: int
    cost_nano: int
    known: bool


class Spans:
    """The queue and its thread. `put` from the event loop; `close` once."""

    def __init__(
        self, exporter: SpanExporter, resource: Resource, counted: Counted, environ: Mapping[str, str]
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._counted = counted
        self._queue_max = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX)
        self._batch_max = min(_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_MAX), BATCH_MAX)
        self._pause_s = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", PAUSE_MS) / 1000
        self._queue: deque[Outcome | Settling] = deque()
        self._woken = threading.Event()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, what: Outcome | Settling) -> None:
        """Have spans made of it, soon; drops it if too much waits."""
        queue = self._queue
        if len(queue) >= self._queue_max:
            if isinstance(what, Outcome):
                self._counted("dropped", 1)
            return
        queue.append(what)
        if len(queue) == self._batch_max:
            self._woken.set()

    def close(self) -> None:
        """Send what is left, within `CLOSE_S`, and stop."""
        self._closing = True
        self._woken.set()
        self._thread.join(CLOSE_S)
        with contextlib.suppress(Exception):
            self._exporter.shutdown()

    def _run(self) -> None:
        while not self._closing:
            self._woken.wait(self._pause_s)
            self._woken.clear()
            while self._queue:
                self._send()

    def _send(self) -> None:
        batch: list[Outcome | Settling] = []
        with contextlib.suppress(IndexError):
            while len(batch) < self._batch_max:
                batch.append(self._queue.popleft())
        spans = [span for each in batch for span in self._made(each)]
        taken = False
        try:
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:  # noqa: BLE001 - whatever it is, the thread has to live on
            log.debug("an export of spans failed", error=str(error))
        requests = sum(isinstance(each, Outcome) for each in batch)
        if requests:
            self._counted("exported" if taken else "failed", requests)
        if taken == self._failing:
            self._failing = not taken
            if taken:
                log.warning("spans are taken again by their receiver")
            else:
                log.warning("spans are not taken by their receiver; they are lost", requests=requests)

    def _made(self, what: Outcome | Settling) -> Iterator[ReadableSpan]:
        return self._settled(what) if isinstance(what, Settling) else self._request(what)

    # --- spans ---

    def _request(self, outcome: Outcome) -> Iterator[ReadableSpan]:
        trace = outcome.trace
        if trace is None:
            return
        began_ns = outcome.started_ms * _MILLI
        ended_ns = began_ns + outcome.duration_us * _MICRO
        own = _context(trace, trace.span_id)
        parent = _context(trace, trace.parent_span_id, remote=True) if trace.parent_span_id else None
        name = f"{outcome.method} {outcome.route}" if outcome.route else outcome.method
        yield self._span(
            name, own, parent, SpanKind.SERVER, began_ns, ended_ns, _server(outcome), _status(outcome, outcome.status)
        )
        if outcome.admitted_us is not None:
            yield self._span(
                "reserve",
                _context(trace, _child(trace, "reserve")),
                own,
                SpanKind.INTERNAL,
                began_ns + outcome.received_us * _MICRO,
                began_ns + outcome.admitted_us * _MICRO,
                _decision(outcome),
                _UNSET,
            )
        if outcome.dispatched_us is not None:
            answered_us = outcome.answered_us or outcome.duration_us
            yield self._span(
                _operation(outcome),
                _context(trace, trace.upstream_span_id),
                own,
                SpanKind.CLIENT,
                began_ns + outcome.dispatched_us * _MICRO,
                began_ns + answered_us * _MICRO,
                _provider(outcome),
                Status(StatusCode.ERROR) if outcome.code_class is not None else _UNSET,
            )

    def _settled(self, settling: Settling) -> Iterator[ReadableSpan]:
        trace = settling.trace
        yield self._span(
            "settle",
            _context(trace, _child(trace, "settle")),
            _context(trace, trace.span_id),
            SpanKind.INTERNAL,
            settling.began_ns,
            settling.ended_ns,
            {"tokengate.cost_usd": usd_number(settling.cost_nano)},
            _UNSET if settling.known else Status(StatusCode.ERROR, "not known to be posted; it is repeated"),
        )

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        began_ns: int,
        ended_ns: int,
        attributes: Mapping[str, Any],
        status: Status,
    ) -> ReadableSpan:
        return ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes={key: value for key, value in attributes.items() if value is not None},
            kind=kind,
            status=status,
            start_time=began_ns,
            end_time=ended_ns,
            instrumentation_scope=_SCOPE,
        )


def open_spans(counted: Counted, environ: Mapping[str, str] = os.environ) -> Spans:
    """Spans to wherever the environment says."""
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol not in (None, "", "http/protobuf"):
        log.warning("spans are sent as http/protobuf; no other protocol is spoken", given=protocol)
    # What it has to say, with every batch that fails, is told and counted here, once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    given = {"service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        given["service.name"] = "tokengate"
    return Spans(OTLPSpanExporter(), Resource.create(given), counted, environ)


# --- what stands in them ---


def _server(outcome: Outcome) -> dict[str, Any]:
    """Attributes of the request's own span: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server."""
    session = outcome.session
    return {
        "http.request.method": outcome.method,
        "http.route": outcome.route or None,
        "url.path": outcome.path,
        "url.scheme": "http",
        "http.response.status_code": outcome.status,
        "error.type": _error_type(outcome) if outcome.status >= 500 else None,
        "tokengate.request_id": outcome.request_id,
        "tokengate.tenant": session.tenant if session is not None else None,
        "tokengate.agent": session.agent or None if session is not None else None,
        "tokengate.session": session.id if session is not None else None,
        **_decision(outcome),
        "tokengate.cost_usd": _usd(outcome.actual_nano),
        "tokengate.ending": outcome.ending.value if outcome.ending is not None else None,
        "tokengate.assumed": outcome.assumed if outcome.ending is not None else None,
    }


def _decision(outcome: Outcome) -> dict[str, Any]:
    return {
        "tokengate.decision": outcome.decision,
        "tokengate.reason": outcome.reason.value if outcome.reason is not None else None,
        "tokengate.estimate_usd": _usd(outcome.estimated_nano),
        "tokengate.hold_usd": _usd(outcome.held_nano),
        "tokengate.waited_ms": outcome.waited_us / 1000 if outcome.waited_us else None,
    }


def _provider(outcome: Outcome) -> dict[str, Any]:
    """Attributes of the call to the provider."""
    if outcome.ending is None:
        return {"http.request.method": outcome.method, "http.response.status_code": outcome.status}
    usage = outcome.usage
    first_us, sent_us = outcome.first_byte_us, outcome.dispatched_us or 0
    used = usage.input_tokens or usage.output_tokens
    return {
        "gen_ai.operation.name": OPERATIONS.get(outcome.endpoint, outcome.endpoint),
        "gen_ai.provider.name": PROVIDERS.get(outcome.provider, outcome.provider),
        "gen_ai.request.model": outcome.model,
        "gen_ai.request.stream": True if outcome.stream else None,
        "gen_ai.response.model": usage.model or None,
        "gen_ai.response.time_to_first_chunk": (first_us - sent_us) / 1e6 if outcome.stream and first_us else None,
        "gen_ai.usage.input_tokens": usage.input_tokens if used else None,
        "gen_ai.usage.output_tokens": usage.output_tokens if used else None,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
        "error.type": _error_type(outcome) if outcome.code_class is not None else None,
    }


def _operation(outcome: Outcome) -> str:
    """The name of the call to the provider; models are few where they are priced, and no others come so far."""
    if outcome.ending is None:
        return f"{outcome.method} {outcome.route}"
    return f"{OPERATIONS.get(outcome.endpoint, outcome.endpoint)} {outcome.model}"


def _error_type(outcome: Outcome) -> str:
    return outcome.reason.value if outcome.reason is not None else str(outcome.status)


def _status(outcome: Outcome, status: int) -> Status:
    """A server's span is in error if the server is to blame (HTTP conventions), and who left is not."""
    return Status(StatusCode.ERROR, outcome.error) if status >= 500 else _UNSET


def _usd(nano: int | None) -> float | None:
    return None if nano is None else usd_number(nano)


def _context(trace: Trace, span_id: str, *, remote: bool = False) -> SpanContext:
    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(int(trace.trace_id, 16), int(span_id, 16), remote, _SAMPLED, state)


def _child(trace: Trace, name: str) -> str:
    """The id of a child that nobody else has to know: made of its parent's, and unlike it."""
    return f"{int(trace.span_id, 16) ^ _CHILDREN[name] or 1:016x}"


def _number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    try:
        return max(1, int(environ.get(name, "") or otherwise))
    except ValueError:
        log.warning("a setting of OpenTelemetry is not a number; the default counts", name=name, default=otherwise)
        return otherwise

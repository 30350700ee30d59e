"""Spans, made of recorded outcomes and sent to an OTLP receiver, in a thread of their own. Loads OpenTelemetry's SDK.

An outcome of a sampled trace waits in a bounded queue, and everything else is done by the thread: the spans are written
(`otlp`) and sent by the SDK's OTLP exporter. A receiver that is slow or away costs a request nothing: what does not fit
into the queue is dropped, and counted. Endpoint, headers, compression, timeouts and resource are what the `OTEL_...`
variables of the environment say (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).

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
from typing import Final, Protocol

import structlog
from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource

from tokengate import __version__
from tokengate.domain import Outcome, Trace
from tokengate.money import usd_number
from tokengate.telemetry.otlp import CLIENT, INTERNAL, SERVER, Value, attribute, common, request, span
from tokengate.telemetry.traces import RESERVE, SETTLE, UPSTREAM, child_id

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
_SCOPE: Final = ("tokengate", __version__)

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


class Sender(Protocol):
    """What takes spans to a receiver. `shutdown` ends a `send` that is under way, soon."""

    def send(self, encoded: bytes) -> bool:
        """Send an ExportTraceServiceRequest; gives whether it was taken. May block."""
        ...

    def shutdown(self) -> None: ...


class Exporter(OTLPSpanExporter):
    """The SDK's exporter, with its settings, retries and connections, for spans that are encoded already."""

    def send(self, encoded: bytes) -> bool:
        """Send an ExportTraceServiceRequest; gives whether it was taken."""
        # The one private name of the SDK that is relied upon; tests/telemetry/test_spans.py fails if it goes away.
        return self._client.export(encoded).success


class Spans:
    """The queue and its thread. `put` from the event loop; `close` once."""

    def __init__(
        self, sender: Sender, resource: Mapping[str, Value], counted: Counted, environ: Mapping[str, str]
    ) -> None:
        self._sender = sender
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
            self._sender.shutdown()

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
        taken = False
        try:
            spans = [found for each in batch for found in made(each)]
            taken = self._sender.send(request(self._resource, _SCOPE, spans))
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
    return Spans(Exporter(), _attributes(given), counted, environ)


def _attributes(given: Mapping[str, str]) -> dict[str, Value]:
    """The resource's attributes, ours and those of the environment; a list is what nobody here has a use for."""
    found = Resource.create(dict(given)).attributes
    return {key: value for key, value in found.items() if isinstance(value, (str, int, float))}


# --- spans ---


def made(what: Outcome | Settling) -> Iterator[bytes]:
    """The spans of a request, or of a settlement, encoded."""
    return _settled(what) if isinstance(what, Settling) else _request(what)


def _request(outcome: Outcome) -> Iterator[bytes]:
    trace = outcome.trace
    if trace is None:
        return
    trace_id, own, state = bytes.fromhex(trace.trace_id), bytes.fromhex(trace.span_id), trace.state
    began_ns = outcome.started_ms * _MILLI
    yield span(
        trace_id,
        own,
        bytes.fromhex(trace.parent_span_id),
        state,
        f"{outcome.method} {outcome.route}" if outcome.route else outcome.method,
        SERVER,
        began_ns,
        began_ns + outcome.duration_us * _MICRO,
        _server(outcome),
        # A server's span is in error if the server is to blame; who left, or asked in vain, is not its fault.
        outcome.error or "" if outcome.status >= 500 else None,
    )
    if outcome.admitted_us is not None:
        yield span(
            trace_id,
            bytes.fromhex(child_id(trace, RESERVE)),
            own,
            state,
            "reserve",
            INTERNAL,
            began_ns + outcome.received_us * _MICRO,
            began_ns + outcome.admitted_us * _MICRO,
            [attribute("tokengate.waited_ms", outcome.waited_us / 1000)] if outcome.waited_us else [],
            None,
        )
    if outcome.dispatched_us is not None:
        yield span(
            trace_id,
            bytes.fromhex(child_id(trace, UPSTREAM)),
            own,
            state,
            _operation(outcome),
            CLIENT,
            began_ns + outcome.dispatched_us * _MICRO,
            began_ns + (outcome.answered_us or outcome.duration_us) * _MICRO,
            _provider(outcome),
            "" if outcome.code_class is not None else None,
        )


def _settled(settling: Settling) -> Iterator[bytes]:
    trace = settling.trace
    yield span(
        bytes.fromhex(trace.trace_id),
        bytes.fromhex(child_id(trace, SETTLE)),
        bytes.fromhex(trace.span_id),
        trace.state,
        "settle",
        INTERNAL,
        settling.began_ns,
        settling.ended_ns,
        [attribute("tokengate.cost_usd", usd_number(settling.cost_nano))],
        None if settling.known else "not known to be posted; it is repeated",
    )


def _server(outcome: Outcome) -> list[bytes]:
    """Attributes of the request's own span: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server."""
    session, reason = outcome.session, outcome.reason
    found = [
        common("http.request.method", outcome.method),
        attribute("url.path", outcome.path),
        common("url.scheme", "http"),
        common("http.response.status_code", outcome.status),
        attribute("tokengate.request_id", outcome.request_id),
        common("tokengate.decision", outcome.decision),
    ]
    if outcome.route:
        found.append(common("http.route", outcome.route))
    if session is not None:
        found += (common("tokengate.tenant", session.tenant), attribute("tokengate.session", session.id))
        if session.agent:
            found.append(common("tokengate.agent", session.agent))
    if reason is not None:
        found.append(common("tokengate.reason", reason.value))
    if outcome.status >= 500:
        found.append(common("error.type", _error_type(outcome)))
    for name, nano in (
        ("tokengate.estimate_usd", outcome.estimated_nano),
        ("tokengate.hold_usd", outcome.held_nano),
        ("tokengate.cost_usd", outcome.actual_nano),
    ):
        if nano is not None:
            found.append(attribute(name, usd_number(nano)))
    if outcome.ending is not None:
        found.append(common("tokengate.ending", outcome.ending.value))
    if outcome.assumed:
        found.append(common("tokengate.assumed", True))
    return found


def _provider(outcome: Outcome) -> list[bytes]:
    """Attributes of the call to the provider."""
    if outcome.ending is None:
        return [
            common("http.request.method", outcome.method),
            common("http.response.status_code", outcome.status),
        ]
    usage, first_us = outcome.usage, outcome.first_byte_us
    found = [
        common("gen_ai.operation.name", OPERATIONS.get(outcome.endpoint, outcome.endpoint)),
        common("gen_ai.provider.name", PROVIDERS.get(outcome.provider, outcome.provider)),
        common("gen_ai.request.model", outcome.model),
    ]
    if usage.model:
        found.append(common("gen_ai.response.model", usage.model))
    if outcome.stream:
        found.append(common("gen_ai.request.stream", True))
        if first_us is not None:
            waited_s = (first_us - (outcome.dispatched_us or 0)) / 1_000_000
            found.append(attribute("gen_ai.response.time_to_first_chunk", waited_s))
    for name, tokens in (
        ("gen_ai.usage.input_tokens", usage.input_tokens),
        ("gen_ai.usage.output_tokens", usage.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", usage.cache_read_tokens),
        ("gen_ai.usage.cache_creation.input_tokens", usage.cache_write_tokens),
        ("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens),
    ):
        if tokens:
            found.append(attribute(name, tokens))
    if outcome.code_class is not None:
        found.append(common("error.type", _error_type(outcome)))
    return found


def _operation(outcome: Outcome) -> str:
    """The name of the call to the provider; models are few where they are priced, and no others come so far."""
    if outcome.ending is None:
        return f"{outcome.method} {outcome.route}"
    return f"{OPERATIONS.get(outcome.endpoint, outcome.endpoint)} {outcome.model}"


def _error_type(outcome: Outcome) -> str:
    return outcome.reason.value if outcome.reason is not None else str(outcome.status)


def _number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    try:
        return max(1, int(environ.get(name, "") or otherwise))
    except ValueError:
        log.warning("a setting of OpenTelemetry is not a number; the default counts", name=name, default=otherwise)
        return otherwise

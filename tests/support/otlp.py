"""A receiver of OTLP over HTTP, on a real socket: decodes what is sent with OpenTelemetry's own protobuf messages."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.gate import serving


@dataclass
class Span:
    """One span as it came."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    start_ns: int
    end_ns: int
    error: bool
    message: str
    flags: int
    scope: tuple[str, str]
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Receiver:
    url: str = ""
    status: int = 200
    """What it answers."""
    requests: list[dict[str, str]] = field(default_factory=list)
    """The headers of every request."""
    paths: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)

    def traces(self) -> dict[str, dict[str, Span]]:
        """Spans by trace and by name; the server's is `server`, the provider's `client`."""
        found: dict[str, dict[str, Span]] = {}
        for span in self.spans:
            name = {2: "server", 3: "client"}.get(span.kind, span.name)
            found.setdefault(span.trace_id, {})[name] = span
        return found

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append(headers)
        self.paths.append(scope["path"])
        if self.status == 200:
            self.take(gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body)
        answer = ExportTraceServiceResponse().SerializeToString()
        sent = [(b"content-type", b"application/x-protobuf"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": self.status, "headers": sent})
        await send({"type": "http.response.body", "body": answer})

    def take(self, body: bytes) -> None:
        """Read an ExportTraceServiceRequest."""
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for group in request.resource_spans:
            resource = _attributes(group.resource.attributes)
            for scope in group.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Span(
                            span.name, span.kind, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                            span.trace_state, span.start_time_unix_nano, span.end_time_unix_nano, span.status.code == 2,
                            span.status.message, span.flags, (scope.scope.name, scope.scope.version),
                            _attributes(span.attributes), resource,
                        )
                    )  # fmt: skip


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def otlp_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with serving(receiver) as url:
        receiver.url = url
        yield receiver

"""Spans on the wire: what OpenTelemetry's own messages read is what was written, whatever it was."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.otlp import Receiver
from tokengate.telemetry.otlp import CLIENT, INTERNAL, SERVER, attribute, common, request, span

NANOSECONDS = st.integers(0, 2**63)
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
ID = st.binary(min_size=8, max_size=8)
VALUE = st.one_of(TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@given(
    trace_id=st.binary(min_size=16, max_size=16),
    ids=st.tuples(ID, st.one_of(st.just(b""), ID)),
    state=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=512),
    name=TEXT,
    kind=st.sampled_from([INTERNAL, SERVER, CLIENT]),
    times=st.tuples(NANOSECONDS, NANOSECONDS),
    attributes=st.dictionaries(TEXT, VALUE, max_size=20),
    error=st.one_of(st.none(), TEXT),
    resource=st.dictionaries(TEXT, VALUE, max_size=5),
)
def test_it_reads_as_it_was_written(
    trace_id: bytes,
    ids: tuple[bytes, bytes],
    state: str,
    name: str,
    kind: int,
    times: tuple[int, int],
    attributes: dict[str, Any],
    error: str | None,
    resource: dict[str, Any],
) -> None:
    encoded = [attribute(key, value) for key, value in attributes.items()]
    written = span(trace_id, *ids, state, name, kind, *times, encoded, error)
    receiver = Receiver()
    whole = request(resource, ("a scope", "1"), [written, written])
    receiver.take(whole)
    assert receiver.spans[0] == receiver.spans[1]
    (read, _) = receiver.spans
    assert (read.trace_id, read.span_id, read.parent_id) == (trace_id.hex(), ids[0].hex(), ids[1].hex())
    assert (read.state, read.name, read.kind, read.start_ns, read.end_ns) == (state, name, kind, *times)
    assert (read.error, read.message) == (error is not None, error or "")
    assert read.flags == 0x101 | (0x200 if kind == SERVER and ids[1] else 0)
    assert (read.attributes, read.resource, read.scope) == (attributes, resource, ("a scope", "1"))
    # Nothing that the messages do not know.
    kept, known = ExportTraceServiceRequest.FromString(whole), ExportTraceServiceRequest.FromString(whole)
    known.DiscardUnknownFields()
    assert known.SerializeToString() == kept.SerializeToString()


def test_what_is_remembered_is_what_it_was() -> None:
    for value in (True, 1, 1.0, "1", "True"):
        assert common("key", value) == attribute("key", value)


def test_text_that_is_no_unicode_is_written_all_the_same() -> None:
    receiver = Receiver()
    written = span(b"t" * 16, b"s" * 8, b"", "", "n", CLIENT, 1, 2, [attribute("path", "/\udcff")], None)
    receiver.take(request({}, ("", ""), [written]))
    assert receiver.spans[0].attributes == {"path": "/?"}

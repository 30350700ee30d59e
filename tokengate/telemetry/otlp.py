"""Spans as OTLP has them on the wire: protobuf, written straight from what is known, without messages in between.

OpenTelemetry's own encoder makes a message of every attribute and copies it twice: 100 us and more a request, which
would be half of what all telling may cost where a tenth of the requests is sampled. Here what is the same in many
spans (a method, a model, a decision) is encoded once and remembered, and a span is a join of bytes. The fields are
those of opentelemetry/proto/trace/v1/trace.proto (https://github.com/open-telemetry/opentelemetry-proto); the tests
read what is written with the messages made from it.
"""

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

ATTRIBUTES_CACHED: Final = 1024
"""Attributes that are remembered as they are encoded."""

INTERNAL, SERVER, CLIENT = 1, 2, 3
"""Kinds of span."""

Value = str | int | float | bool

_SAMPLED: Final = 0x01
_REMOTE_KNOWN: Final = 0x100
_REMOTE: Final = 0x200
_ERROR: Final = b"\x18\x02"

_times: Final = struct.Struct("<BQBQ").pack
_flags: Final = struct.Struct("<BBI").pack
_double: Final = struct.Struct("<Bd").pack
_LENGTHS: Final = tuple(bytes([length]) for length in range(0x80))


def span(
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    state: str,
    name: str,
    kind: int,
    began_ns: int,
    ended_ns: int,
    attributes: list[bytes],
    error: str | None,
) -> bytes:
    """One span, as a part of `request`.

    Args:
        trace_id: 16 bytes.
        span_id: 8 bytes.
        parent_id: 8 bytes, or none.
        state: the trace's `tracestate`, or "".
        name: what it is called.
        kind: `INTERNAL`, `SERVER` or `CLIENT`. The parent of a `SERVER` is in another process.
        began_ns: nanoseconds since the epoch.
        ended_ns: the same.
        attributes: each as `attribute` gives it.
        error: why it is in error; None if it is not.
    """
    text = name.encode()
    flags = _SAMPLED | _REMOTE_KNOWN | (_REMOTE if kind == SERVER and parent_id else 0)
    parts = [b"\x0a\x10", trace_id, b"\x12\x08", span_id]
    if state:
        parts += (b"\x1a", _length(len(state)), state.encode())
    if parent_id:
        parts += (b"\x22\x08", parent_id)
    parts += (b"\x2a", _length(len(text)), text, b"\x30", _LENGTHS[kind], _times(0x39, began_ns, 0x41, ended_ns))
    parts += attributes
    if error is not None:
        parts.append(_field(b"\x7a", (_field(b"\x12", error.encode()) if error else b"") + _ERROR))
    parts.append(_flags(0x85, 0x01, flags))
    return _field(b"\x12", b"".join(parts))


def attribute(key: str, value: Value) -> bytes:
    """An attribute of a span."""
    return _field(b"\x4a", _pair(key, value))


@lru_cache(maxsize=ATTRIBUTES_CACHED, typed=True)
def common(key: str, value: Value) -> bytes:
    """The same, of one that many spans have."""
    return attribute(key, value)


def request(resource: Mapping[str, Value], scope: tuple[str, str], spans: Iterable[bytes]) -> bytes:
    """A whole ExportTraceServiceRequest: spans of one resource and one scope (its name and version)."""
    about = b"".join(_field(b"\x0a", _pair(key, value)) for key, value in resource.items())
    named = _field(b"\x0a", scope[0].encode()) + _field(b"\x12", scope[1].encode())
    scoped = _field(b"\x0a", named) + b"".join(spans)
    return _field(b"\x0a", _field(b"\x0a", about) + _field(b"\x12", scoped))


def _pair(key: str, value: Value) -> bytes:
    return _field(b"\x0a", key.encode()) + _field(b"\x12", _value(value))


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return _field(b"\x0a", value.encode(errors="replace"))
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + _length(value % (1 << 64))
    return _double(0x21, value)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + _length(len(content)) + content


def _length(number: int) -> bytes:
    """A whole number, not negative, as a varint."""
    if number < 0x80:
        return _LENGTHS[number]
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)

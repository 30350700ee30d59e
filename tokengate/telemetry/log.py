"""One finished request becomes one JSON line on standard output. Never a prompt, never a key.

Lines are gathered for a moment and written together, so that a request does not wait for a pipe: at most
`LINES_HELD_MAX` lines or `FLUSH_AFTER_S` seconds of them are lost if the process is killed, and none of the money,
which is the ledger's.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from select import PIPE_BUF
from typing import Final

import orjson
import structlog
from msgspec import Struct
from msgspec.json import Encoder
from structlog.tracebacks import ExceptionDictTransformer

from tokengate.domain import Ending, Outcome, Reason
from tokengate.money import usd_number

FLUSH_AFTER_S: Final = 0.05
LINES_HELD_MAX: Final = 1000

_encode: Final = Encoder().encode
_MILLISECONDS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))

Write = Callable[[bytes], None]


class Log:
    """Writes lines. `level` is a `logging` level: above INFO only refusals and failures are written."""

    def __init__(self, write: Write, level: int) -> None:
        self._write = write
        self._all = level <= logging.INFO
        self._some = level <= logging.WARNING
        self._lines: list[bytes] = []

    def record(self, outcome: Outcome) -> None:
        """Take one finished request."""
        if not self._all and not (self._some and outcome.error is not None):
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self.flush)
        self._lines.append(_encode(line(outcome)))
        if len(self._lines) >= LINES_HELD_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        lines, self._lines = self._lines, []
        if lines:
            self._write(b"\n".join(lines) + b"\n")


class Line(Struct, frozen=True, gc=False, omit_defaults=True):
    """A request's log line, in the order in which it is written; docs/reference/log.md explains each field."""

    timestamp: str
    event: str
    request_id: str
    tenant: str | None
    agent: str | None
    session_id: str | None
    endpoint: str
    model: str
    stream: bool
    status: int
    decision: str
    estimated_cost: float | None
    held: float | None
    actual_cost: float | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    ending: Ending | None
    assumed: bool
    duration_ms: float
    overhead_ms: float
    first_byte_ms: float | None
    waited_ms: float | None = None
    trace_id: str | None = None
    span_id: str | None = None
    rule: str | None = None
    pieces: dict[str, int] | None = None
    reason: Reason | None = None
    error: str | None = None


def line(outcome: Outcome) -> Line:
    """The log line of a request; `waited_ms` and what follows it are written only if there are any."""
    session, usage, trace = outcome.session, outcome.usage, outcome.trace
    estimated_nano, held_nano, actual_nano = outcome.estimated_nano, outcome.held_nano, outcome.actual_nano
    first_byte_us = outcome.first_byte_us
    # By position: by name it would take five times as long to make. The types and a test hold the order.
    return Line(
        timestamp(outcome.started_ms),
        "request",
        outcome.request_id,
        session.tenant if session else None,
        session.agent or None if session else None,
        session.id if session else None,
        outcome.endpoint,
        outcome.model,
        outcome.stream,
        outcome.status,
        outcome.decision,
        None if estimated_nano is None else usd_number(estimated_nano),
        None if held_nano is None else usd_number(held_nano),
        None if actual_nano is None else usd_number(actual_nano),
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.reasoning_tokens,
        outcome.ending,
        outcome.assumed,
        outcome.duration_us / 1000,
        outcome.overhead_us / 1000,
        None if first_byte_us is None else first_byte_us / 1000,
        outcome.waited_us / 1000 if outcome.waited_us else None,
        None if trace is None else trace.trace_id,
        None if trace is None else trace.span_id or None,
        outcome.rule,
        dict(usage.calls) if usage.calls else None,
        outcome.reason,
        outcome.error,
    )


def timestamp(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC."""
    return _second(ms // 1000) + _MILLISECONDS[ms % 1000]


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def write_stdout(lines: bytes) -> None:
    """Write to standard output; a reader that has gone away must not stop the gate.

    Several processes may write to one pipe: what has at most PIPE_BUF bytes is never torn apart there.
    """
    try:
        for piece in pieces(lines, PIPE_BUF):
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    except (BrokenPipeError, ValueError):
        return


def pieces(lines: bytes, bytes_max: int) -> Iterator[bytes]:
    """Whole lines, in pieces of at most `bytes_max`; a line that is longer is a piece of its own."""
    start = 0
    while len(lines) - start > bytes_max:
        end = lines.rfind(b"\n", start, start + bytes_max) + 1 or lines.find(b"\n", start + bytes_max) + 1
        if not end:
            break
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]


def configure_logging(level: int) -> None:
    """Make everything else that is logged (by us, by uvicorn) a JSON line of the same shape on standard output."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Without locals, which structlog adds unless told otherwise: they hold prompts and keys.
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_serialize)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_serialize),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def _serialize(fields: object, **_: object) -> str:
    return orjson.dumps(fields, default=repr).decode()

"""One finished request becomes one JSON line on standard output. Never a prompt, never a key.

Lines are gathered for a moment and written together, so that a request does not wait for a pipe: at most
`LINES_HELD_MAX` lines or `FLUSH_AFTER_S` seconds of them are lost if the process is killed, and none of the money,
which is the ledger's.
"""

import asyncio
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from tokengate.domain import Outcome
from tokengate.money import usd_number

FLUSH_AFTER_S: Final = 0.05
LINES_HELD_MAX: Final = 1000

Write = Callable[[bytes], None]


class Telemetry:
    """Records outcomes. `level` is a `logging` level: above INFO only refusals and failures are written."""

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
        self._lines.append(orjson.dumps(line(outcome), option=orjson.OPT_APPEND_NEWLINE))
        if len(self._lines) >= LINES_HELD_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        lines, self._lines = self._lines, []
        if lines:
            self._write(b"".join(lines))


def line(outcome: Outcome) -> dict[str, Any]:
    """The fields of a request's log line; docs/reference/log.md explains each."""
    session, usage = outcome.session, outcome.usage
    fields: dict[str, Any] = {
        "timestamp": timestamp(outcome.started_ms),
        "event": "request",
        "request_id": outcome.request_id,
        "tenant": session.tenant if session else None,
        "agent": session.agent or None if session else None,
        "session_id": session.id if session else None,
        "endpoint": outcome.endpoint,
        "model": outcome.model,
        "stream": outcome.stream,
        "status": outcome.status,
        "decision": outcome.decision,
        "estimated_cost": _usd(outcome.estimated_nano),
        "held": _usd(outcome.held_nano),
        "actual_cost": _usd(outcome.actual_nano),
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cache_read_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "ending": outcome.ending,
        "assumed": outcome.assumed,
        "duration_ms": outcome.duration_us / 1000,
        "overhead_ms": outcome.overhead_us / 1000,
        "first_byte_ms": outcome.first_byte_us / 1000 if outcome.first_byte_us is not None else None,
    }
    if outcome.reason is not None:
        fields["reason"] = outcome.reason
    if outcome.error is not None:
        fields["error"] = outcome.error
    return fields


def timestamp(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601 in UTC."""
    return f"{_second(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _usd(nano: int | None) -> float | None:
    return None if nano is None else usd_number(nano)


def write_stdout(lines: bytes) -> None:
    """Write to standard output; a reader that has gone away must not stop the gate."""
    try:
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()
    except (BrokenPipeError, ValueError):
        return


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

"""What is told of a finished request: one `Outcome` becomes a log line, metrics, spans, and sums for the page.

`log` writes lines, `metrics` counts for whoever scrapes, `traces` has spans exported, and `rollup` adds up what all
gates of a tenant did. None of them is ever in a request's way, and none ever sees a prompt, an answer or a key.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tokengate.domain import Outcome, Trace
from tokengate.telemetry.log import Line, Log, Write, configure_logging, line, timestamp, write_stdout
from tokengate.telemetry.metrics import Metrics
from tokengate.telemetry.rollup import Rollup
from tokengate.telemetry.traces import Tracing

if TYPE_CHECKING:
    from tokengate.telemetry.spans import Spans

__all__ = (
    "Line",
    "Metrics",
    "Rollup",
    "Telemetry",
    "Tracing",
    "configure_logging",
    "line",
    "timestamp",
    "write_stdout",
)


class Telemetry:
    """Records outcomes. `level` is a `logging` level: above INFO only refusals and failures are written."""

    def __init__(
        self,
        write: Write,
        level: int,
        *,
        metrics: Metrics | None = None,
        rollup: Rollup | None = None,
        tracing: Tracing | None = None,
        spans: "Spans | None" = None,
    ) -> None:
        self.tracing = tracing
        """Gives requests their place in traces; None: there are none."""
        self.in_flight: Callable[[int], None] = _nothing if metrics is None else metrics.in_flight
        """Told how many requests are under way, whenever that changes."""
        self._log = Log(write, level)
        self._metrics = metrics
        self._rollup = rollup
        self._spans = spans

    def record(self, outcome: Outcome) -> None:
        """Take one finished request."""
        self._log.record(outcome)
        if self._metrics is not None:
            self._metrics.record(outcome)
        if self._rollup is not None:
            self._rollup.record(outcome)
        if self._spans is not None and outcome.trace is not None and outcome.trace.sampled:
            self._spans.put(outcome)

    def settling(self, trace: Trace, cost_nano: int) -> Callable[[bool], None] | None:
        """What wants to be told whether the charge of a request, which is posted from now on, is known to be posted."""
        spans = self._spans
        if spans is None or not trace.sampled:
            return None
        from tokengate.telemetry.spans import Settling  # noqa: PLC0415 - loaded already, where there are spans

        began_ns = time.time_ns()
        return lambda known: spans.put(Settling(trace, began_ns, time.time_ns(), cost_nano, known))

    def flush(self) -> None:
        """Write the log lines that have gathered."""
        self._log.flush()


def _nothing(_: int) -> None:
    pass

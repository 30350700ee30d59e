"""What is told of a finished request: one `Outcome` becomes a log line, metrics, spans, and sums for the page.

`log` writes lines, `metrics` counts for whoever scrapes, `traces` has spans exported, and `rollup` adds up what all
gates of a tenant did. None of them is ever in a request's way, and none ever sees a prompt, an answer or a key.
"""

from tokengate.domain import Outcome
from tokengate.telemetry.log import Line, Log, Write, configure_logging, line, timestamp, write_stdout
from tokengate.telemetry.metrics import Metrics
from tokengate.telemetry.rollup import Rollup

__all__ = ("Line", "Metrics", "Rollup", "Telemetry", "configure_logging", "line", "timestamp", "write_stdout")


class Telemetry:
    """Records outcomes. `level` is a `logging` level: above INFO only refusals and failures are written."""

    def __init__(
        self, write: Write, level: int, *, metrics: Metrics | None = None, rollup: Rollup | None = None
    ) -> None:
        self._log = Log(write, level)
        self._metrics = metrics
        self._rollup = rollup

    def in_flight(self, calls: int) -> None:
        """So many requests are under way."""
        if self._metrics is not None:
            self._metrics.in_flight(calls)

    def record(self, outcome: Outcome) -> None:
        """Take one finished request."""
        self._log.record(outcome)
        if self._metrics is not None:
            self._metrics.record(outcome)
        if self._rollup is not None:
            self._rollup.record(outcome)

    def flush(self) -> None:
        """Write the log lines that have gathered."""
        self._log.flush()

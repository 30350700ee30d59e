"""Several processes that serve one port: forked, watched, replaced when they end unasked, and stopped together.

The supervisor loads everything once and forks, so that the workers share its memory and one is replaced in
milliseconds. It has no event loop, no thread and no connection, which is what makes forking safe, and it serves
nothing. It passes SIGTERM, SIGINT and SIGHUP on. The first worker has to be ready before the others are started: what
keeps one from starting would keep all, and is told once. A worker whose supervisor is gone stops by itself.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from tokengate.telemetry.counts import Counts
from tokengate.telemetry.metrics import ended

LIVED_S: Final = 10.0
"""A worker that ended sooner is replaced only after a pause, which doubles each time."""

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 10.0

KILL_MARGIN_S: Final = 15.0
"""How long after its grace a worker that was told to stop is killed."""

FAILED: Final = 70
"""The exit code of a worker with a fault that nobody foresaw (EX_SOFTWARE)."""

_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POLL_S: Final = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker is given: which one it is, where all of them count, and how it hears of its supervisor."""

    index: int = 0
    regions: Sequence[Counts] = ()
    ready_fd: int | None = None
    lifeline_fd: int | None = None
    """Can be read from (its end) when the supervisor is no more. None: there is no supervisor."""

    def ready(self) -> None:
        """Say that calls are taken."""
        if self.ready_fd is not None:
            with contextlib.suppress(OSError):
                os.write(self.ready_fd, b"!")
            os.close(self.ready_fd)


@dataclass(slots=True)
class Worker:
    """One place, and the process that has it at the moment."""

    index: int
    pid: int = 0
    """0: none."""
    ready_fd: int | None = None
    started_s: float = 0.0
    due_s: float = 0.0
    """When the next process is to be started."""
    pause_s: float = field(default=PAUSE_FIRST_S)


class Workers:
    """See the module. `run` once."""

    def __init__(self, work: Callable[[Place], int], regions: Sequence[Counts], *, grace_s: float) -> None:
        """Nothing is forked yet.

        Args:
            work: serves until it is told to stop by SIGTERM, and gives an exit code; runs in a process of its own.
            regions: where each worker counts: there are as many workers as regions.
            grace_s: how long a worker may take to stop.
        """
        self._work = work
        self._regions = regions
        self._kill_after_s = grace_s + KILL_MARGIN_S
        self._workers = [Worker(index) for index in range(len(regions))]
        self._started = False
        self._stopping_since_s: float | None = None
        self._worst = 0
        self._news, self._wakeup = socket.socketpair()
        self._lifeline_end, self._lifeline = os.pipe()

    def run(self) -> int:
        """Keep the workers until a signal says otherwise; gives the exit code."""
        self._take_signals()
        gc.collect()
        gc.freeze()
        self._fork(self._workers[0])
        while self._stopping_since_s is None or any(worker.pid for worker in self._workers):
            self._wait()
            self._reap()
            if self._stopping_since_s is None:
                self._start_due()
            elif time.monotonic() > self._stopping_since_s + self._kill_after_s:
                self._tell(signal.SIGKILL)
        return self._worst

    # --- signals ---

    def _take_signals(self) -> None:
        self._news.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def _wait(self) -> None:
        """Until a signal has come, a worker is ready, or one is due."""
        now_s = time.monotonic()
        due_s = [worker.due_s - now_s for worker in self._workers if not worker.pid and worker.due_s]
        ready = {worker.ready_fd: worker for worker in self._workers if worker.ready_fd is not None}
        news = self._news.fileno()
        readable, _, _ = select.select([news, *ready], [], [], max(0.0, min([_POLL_S, *due_s])))
        for each in readable:
            if each != news:
                self._heard(ready[each])
        with contextlib.suppress(BlockingIOError):
            for number in self._news.recv(4096):
                self._signalled(number)

    def _heard(self, worker: Worker) -> None:
        """A worker is ready, or has ended before it was."""
        if worker.ready_fd is not None and os.read(worker.ready_fd, 1):
            self._started = True
        self._close_ready(worker)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._tell(signal.SIGHUP)
        elif number in _PASSED_ON:
            if self._stopping_since_s is None:
                self._stopping_since_s = time.monotonic()
            # A worker that is told a second time does not wait any longer.
            self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    # --- processes ---

    def _start_due(self) -> None:
        if not self._started:
            return
        now_s = time.monotonic()
        for worker in self._workers:
            if not worker.pid and worker.due_s <= now_s:
                self._fork(worker)

    def _fork(self, worker: Worker) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        ready_fd, says_ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready_fd)
            self._become(worker, says_ready)
        os.close(says_ready)
        worker.pid, worker.ready_fd, worker.started_s = pid, ready_fd, time.monotonic()

    def _become(self, worker: Worker, says_ready: int) -> None:
        """Be the worker, in the new process; never returns."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # A Ctrl-C reaches every process of a terminal; the supervisor passes it on, once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            os.close(self._lifeline)
            self._news.close()
            self._wakeup.close()
            for other in self._workers:
                self._close_ready(other)
            code = self._work(Place(worker.index, self._regions, says_ready, self._lifeline_end))
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            log.exception("a worker failed", worker=worker.index)
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.pid:
                continue
            pid, status, usage = os.wait4(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)

    def _ended(self, worker: Worker, code: int, cpu_s: float) -> None:
        if worker.ready_fd is not None:
            # What it said last may not have been read yet.
            self._heard(worker)
        pid, worker.pid = worker.pid, 0
        asked = self._stopping_since_s is not None
        ended(self._regions[worker.index], int(cpu_s * 1_000_000), replaced=not asked and self._started)
        if asked:
            # One that was still starting ends by the signal itself.
            self._worst = self._worst or _exit_code(0 if code == -signal.SIGTERM else code)
            return
        if not self._started:
            # It has said why it cannot start, and the others could not either.
            self._worst = _exit_code(code) or FAILED
            self._stopping_since_s = time.monotonic()
            return
        now_s = time.monotonic()
        worker.pause_s = 0.0 if now_s - worker.started_s >= LIVED_S else max(PAUSE_FIRST_S, 2 * worker.pause_s)
        worker.pause_s = min(worker.pause_s, PAUSE_MAX_S)
        worker.due_s = now_s + worker.pause_s
        log.error(
            "a worker ended and is replaced",
            worker=worker.index,
            pid=pid,
            exit_code=code,
            after_s=round(now_s - worker.started_s, 3),
            pause_s=worker.pause_s,
        )

    def _close_ready(self, worker: Worker) -> None:
        if worker.ready_fd is not None:
            os.close(worker.ready_fd)
            worker.ready_fd = None


def _exit_code(code: int) -> int:
    """An exit code for ourselves of one of a worker, which is negative if a signal ended it."""
    return code if code >= 0 else FAILED

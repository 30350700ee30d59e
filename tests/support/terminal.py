"""Commands as people meet them: processes with pipes, or on a terminal of their own with so many columns."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.gate import ROOT

WAIT_S_MAX = 60
COMMAND = [sys.executable, "-m", "tokengate"]

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def environment(folder: Path, **given: str) -> dict[str, str]:
    """Nobody's settings, but those that are given."""
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder), "LANG": "C.UTF-8"}
    return kept | given


def command(folder: Path, *arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, into pipes."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=folder, timeout=WAIT_S_MAX,
        env=environment(folder, **settings), stdin=subprocess.DEVNULL,
    )  # fmt: skip


class Terminal:
    """A terminal, and what the process on it has said."""

    def __init__(self, process: "subprocess.Popen[bytes]", descriptor: int) -> None:
        self.process = process
        self.said = ""
        self._descriptor = descriptor

    @property
    def text(self) -> str:
        """What it has said, without colours and what else moves the cursor."""
        return _STYLE.sub("", self.said).replace("\r\n", "\n")

    def until(self, met: Callable[[], bool]) -> None:
        """Read until something is true."""
        deadline = time.monotonic() + WAIT_S_MAX
        while not met():
            assert time.monotonic() < deadline, f"it never came: {self.said!r}"
            if not self._read():
                assert met(), f"it ended before: {self.said!r}"
                return

    def type(self, text: str) -> None:
        """Press keys; `\\x03` is Ctrl-C."""
        os.write(self._descriptor, text.encode())

    def ended(self) -> int:
        """Read to its end; gives its exit code."""
        while self._read():
            pass
        return self.process.wait(WAIT_S_MAX)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], WAIT_S_MAX)
        assert ready, f"nothing more came: {self.said!r}"
        try:
            data = os.read(self._descriptor, 65_536)
        except OSError:
            # How Linux says that nobody has the other end open any more.
            return False
        self.said += data.decode(errors="replace")
        return bool(data)


@contextmanager
def terminal(folder: Path, *arguments: str, columns: int = 80, **settings: str) -> Iterator[Terminal]:
    """Run a command on a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, start_new_session=True,
        env=environment(folder, TERM="xterm-256color", **settings), preexec_fn=_take_the_terminal,  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S_MAX)
        os.close(ours)


def heed_interrupts() -> None:
    """Whoever runs the tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _take_the_terminal() -> None:
    """Without a controlling terminal, Ctrl-C would be a letter."""
    heed_interrupts()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

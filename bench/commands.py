"""What somebody at a prompt waits for: commands from their start to their end, beside a Python that does nothing.

CPU time is what is held to a bound: on a machine that does other things too, the clock measures those.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.figures import Figure, at_most, told
from bench.processes import redis_server

ROUNDS: Final = 9
SECONDS_MAX: Final = 0.5

COMMANDS: Final = {
    "get-budget": ("get-budget", "mine"),
    "list-sessions": ("list-sessions",),
    "show-session": ("show-session", "mine"),
    "freeze-session": ("freeze-session", "mine", "--reason", "measured"),
    "list-sessions --server (nobody there)": ("list-sessions", "--server", "http://127.0.0.1:9"),
}


def _cpu_s(command: Sequence[str], environ: Mapping[str, str], folder: str) -> tuple[float, float]:
    """CPU and elapsed seconds of a process that is run to its end."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environ, cwd=folder, capture_output=True, check=False)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def run() -> list[Figure]:
    """Each command in turn, a few times over; the first time, which writes what is compiled, does not count."""
    figures: list[Figure] = []
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        environ = {
            "PATH": os.environ["PATH"], "HOME": folder, "REDIS_URL": url, "ADMIN_TOKEN": "a-token-of-the-bench",
            "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONPYCACHEPREFIX": folder,
        }  # fmt: skip
        _cpu_s([sys.executable, "-m", "tokengate", "set-budget", "mine", "25"], environ, folder)
        nothing = [sys.executable, "-c", "pass"]
        for name, arguments in COMMANDS.items():
            command = [sys.executable, "-m", "tokengate", *arguments]
            _cpu_s(command, environ, folder)
            rounds = [(_cpu_s(command, environ, folder), _cpu_s(nothing, environ, folder)) for _ in range(ROUNDS)]
            used, elapsed = (statistics.median(ours[column] for ours, _ in rounds) for column in range(2))
            bare = statistics.median(none[0] for _, none in rounds)
            figures += [
                at_most(f"{name}: CPU time, median of {ROUNDS}", used, "s", SECONDS_MAX),
                told("  from its start to its end", elapsed, "s"),
                told("  CPU time beside a Python that does nothing", used / bare, "times"),
            ]
    return figures

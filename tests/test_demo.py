"""`tokengate demo`: the runaway is stopped, the table is true, and nothing is left behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tokengate import demo

ROOT = Path(__file__).parent.parent
WAIT_S_MAX = 60


@pytest.fixture
def place() -> Iterator[Path]:
    """Where the demo may leave files, and where all of its processes work. Short: a unix socket's path is bounded."""
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        yield Path(folder)


def start(place: Path, *arguments: str) -> "subprocess.Popen[str]":
    environ = {"PATH": os.environ["PATH"], "HOME": str(place), "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "tokengate", "demo", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ | {"COLUMNS": "80"},
    )  # fmt: skip


def working_in(place: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(place):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def figures(output: str) -> dict[str, str]:
    return dict(re.findall(r"^(requested|forwarded|blocked|budget|spent|saved|overspent) +(\S+)", output, re.MULTILINE))


def test_a_runaway_is_stopped_at_its_budget(place: Path) -> None:
    process = start(place, "--budget", "0.05", "--calls", "25")
    output, errors = process.communicate(timeout=WAIT_S_MAX)
    assert (process.returncode, errors) == (0, "")
    shown = figures(output)
    assert shown["requested"] == "25"
    assert int(shown["forwarded"]) > 0
    assert int(shown["blocked"]) > 0
    assert int(shown["forwarded"]) + int(shown["blocked"]) == 25
    assert shown["budget"] == "$0.0500"
    assert 0 < float(shown["spent"][1:]) <= 0.05
    assert float(shown["saved"][1:]) > 0
    assert shown["overspent"] == "$0"
    assert "Budget exceeded. Remaining: $" in output
    assert max(len(line) for line in output.splitlines()) <= 80
    assert working_in(place) == []
    assert list(place.glob("tokengate-demo-*")) == []


def test_a_demo_that_is_ended_ends_what_it_started(place: Path) -> None:
    process = start(place, "--calls", "10000")
    try:
        assert process.stdout is not None
        assert "An agent in a loop" in process.stdout.readline()
        assert len(working_in(place)) >= 2
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 128 + signal.SIGTERM
    assert working_in(place) == []


def test_without_openais_client_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    assert demo.run(1_000_000_000, 1) == 1
    assert "pip install 'tokengate[demo]'" in capsys.readouterr().err

"""The page for who is woken in the night: its commands, as they stand, do what it says; from each of the places it names."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.control.desk import ADMIN, USD, Desk, desk
from tests.support.gate import ROOT, gate_processes
from tests.support.redis_server import Server
from tests.support.terminal import COMMAND, WAIT_S_MAX, command
from tokengate.control.words import Kind

PAGE = (ROOT / "docs" / "how-to" / "night-call.md").read_text()
LINES = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]  # fmt: skip

Said = Callable[[str], str]


async def frozen(at: Desk) -> None:
    """What a rule has done to an agent that spent $4 on a model."""
    await at.spend("night-agent", 4 * USD, agent="crawler")
    reason = "The same call 8 times in a row"
    await at.control.freeze(Kind.SESSION, "night-agent", reason=reason, for_ms=900_000, by="anomaly")
    events: Any = at.redis
    [(event_id, fields)] = events.xrevrange("tokengate:{default}:events", count=1)
    events.xdel("tokengate:{default}:events", event_id)
    events.xadd("tokengate:{default}:events", fields | {"rule": "loop", "first": "tg-1", "last": "tg-8"})


def walk_through(said: Said) -> None:
    """Type every line of the page, and look at what is said."""
    listed, shown, *rest = LINES
    assert re.search(r"^night-agent +\$4\.00 .* frozen$", said(listed), re.MULTILINE)
    everything = said(shown)
    for text in (
        "FROZEN for 14 min more", "why       The same call 8 times in a row", "by the rule loop",
        "requests  first tg-1, last tg-8", "gpt-4o  $4.00", "To set it free: tokengate unfreeze-session night-agent",
    ):  # fmt: skip
        assert text in everything
    answers = [said(line) for line in rest]
    assert answers[0] == "session night-agent is not frozen; $6.00 remain\n"
    assert answers[1].startswith("session night-agent is frozen until ")
    assert "$5.00  (its own)" in answers[2]
    assert answers[3] == "session night-agent is not frozen; $1.00 remain\n"
    record = [line.split()[2] for line in answers[4].splitlines() if "threshold" not in line and "relief" not in line]
    assert record == ["freeze", "unfreeze", "freeze", "budget", "unfreeze"]
    assert "Loops on ticket 17; Ann looks at it at nine" in answers[4]


def test_the_page_has_the_commands_that_are_tried() -> None:
    assert [shlex.split(line)[:2] for line in LINES] == [
        ["tokengate", "list-sessions"], ["tokengate", "show-session"], ["tokengate", "unfreeze-session"],
        ["tokengate", "freeze-session"], ["tokengate", "set-budget"], ["tokengate", "unfreeze-session"],
        ["tokengate", "events"],
    ]  # fmt: skip


async def test_from_a_terminal_that_reaches_the_store(store: Server, tmp_path: Path) -> None:
    async with desk(store, "local") as at:
        await frozen(at)

    def said(line: str) -> str:
        done = command(tmp_path, *shlex.split(line)[1:], REDIS_URL=store.url)
        assert done.returncode == 0, done.stderr
        return done.stdout

    walk_through(said)
    guess = command(tmp_path, "show-session", "nigth-agent", REDIS_URL=store.url)
    assert (guess.returncode, "did you mean night-agent?" in guess.stderr) == (3, True)


async def test_from_a_terminal_that_reaches_a_console(store: Server, tmp_path: Path) -> None:
    async with desk(store, "local") as at:
        await frozen(at)
    async with gate_processes(1, "http://127.0.0.1:9/v1", store.url, "console", admin_token=ADMIN) as [console]:

        def said(line: str) -> str:
            done = command(tmp_path, *shlex.split(line)[1:], TOKENGATE_SERVER=console.url, ADMIN_TOKEN=ADMIN)
            assert done.returncode == 0, done.stderr
            return done.stdout

        walk_through(said)


@pytest.mark.parametrize("home", ["/nonexistent", None])
async def test_as_a_job_without_a_terminal_or_a_home(store: Server, tmp_path: Path, home: str | None) -> None:
    """As in a pod: a directory that cannot be written to, a secret in a file, nothing else."""
    async with desk(store, "local") as at:
        await frozen(at)
    (tmp_path / "REDIS_URL").write_text(store.url + "\n")
    folder = tmp_path / "work"
    folder.mkdir(mode=0o555)
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "REDIS_URL_FILE": str(tmp_path / "REDIS_URL")}
    environ |= {"HOME": home} if home else {}

    def said(line: str) -> str:
        done = subprocess.run(
            [*COMMAND, *shlex.split(line)[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            env=environ, cwd=folder, timeout=WAIT_S_MAX, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    walk_through(said)

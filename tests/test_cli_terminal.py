"""The commands as people and shells meet them: on a terminal, in a pipe, interrupted, cut off, completed."""

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.control.desk import USD, desk
from tests.support.gate import ROOT
from tests.support.redis_server import Server
from tests.support.servers import free_port
from tests.support.terminal import COMMAND, WAIT_S_MAX, command, environment, heed_interrupts, terminal
from tokengate.cli.say import Exit
from tokengate.control.words import Kind

HOSTILE = "\x1b[31mred\x07<b>"
LONG = "an-agents-run-of-the-night-" + "x" * 90
GOLDEN = json.loads((ROOT / "tests" / "golden" / "commands.json").read_text())


@pytest.fixture
async def filled(store: Server) -> Server:
    """A store with a frozen session, a long name, a hostile one, and some spending."""
    async with desk(store, "local", AGENT_BUDGET="100") as at:
        await at.spend("my-session", 9 * USD, agent="crawler")
        await at.spend(LONG, USD, model="claude-sonnet-4-5")
        await at.hold("my-session", USD // 2, agent="crawler")
        await at.control.freeze(Kind.SESSION, "my-session", reason="the same again", for_ms=3_600_000, by="ann@laptop")
        at.redis.hset(f"tokengate:{{default}}:session:{HOSTILE}", "budget", "1")
        for index, score in (("", 1), (":names", 0)):
            at.redis.zadd(f"tokengate:{{default}}:sessions{index}", {HOSTILE: score})
    return store


class TestATerminal:
    def test_has_tables_that_fit_80_columns_and_colours(self, tmp_path: Path, filled: Server) -> None:
        for arguments in (["list-sessions"], ["spend"], ["show-session", "crawler", "--kind", "agent"]):
            with terminal(tmp_path, *arguments, REDIS_URL=filled.url, AGENT_BUDGET="100") as at:
                assert at.ended() == 0
                assert "\x1b[1m" in at.said, arguments
                assert max(map(len, at.text.splitlines())) <= 80, arguments
        assert "\x1b[1;31mfrozen" in self.listed(tmp_path, filled)

    def test_has_bars_where_there_is_room(self, tmp_path: Path, filled: Server) -> None:
        with terminal(tmp_path, "list-sessions", columns=120, REDIS_URL=filled.url) as at:
            assert at.ended() == 0
        assert "██████████" in at.text
        assert max(map(len, at.text.splitlines())) <= 120

    def test_without_colours_has_none(self, tmp_path: Path, filled: Server) -> None:
        assert not re.search(r"\x1b\[[0-9;]*3\d", self.listed(tmp_path, filled, NO_COLOR="1"))

    def test_is_not_moved_by_a_name(self, tmp_path: Path, filled: Server) -> None:
        said = self.listed(tmp_path, filled)
        assert "\x1b[31mred" not in said
        assert "\x07" not in said
        assert "\\x1b[31mred" in said

    def listed(self, folder: Path, store: Server, **settings: str) -> str:
        with terminal(folder, "list-sessions", columns=80, REDIS_URL=store.url, **settings) as at:
            assert at.ended() == 0
        return at.said


class TestAPipe:
    def test_has_no_colours_and_nothing_is_cut_off(self, tmp_path: Path, filled: Server) -> None:
        for arguments in (
            ["list-sessions"],
            ["show-session", "my-session"],
            ["spend"],
            ["top", "--once", "--interval", "0.5"],
        ):
            done = command(tmp_path, *arguments, REDIS_URL=filled.url, FORCE_COLOR="", TERM="xterm-256color")
            assert (done.returncode, "\x1b" in done.stdout + done.stderr) == (0, False), arguments
        listed = command(tmp_path, "list-sessions", REDIS_URL=filled.url).stdout
        assert LONG in listed
        assert listed.splitlines()[0].split()[:3] == ["SESSION", "SPENT", "HELD"]

    @pytest.mark.parametrize(
        "arguments",
        ["list-sessions --json", "events -n 1000", "export sessions", "top --json --interval 0.5", "--help"],
    )
    def test_whose_reader_has_enough_ends_the_command_quietly(
        self, tmp_path: Path, filled: Server, arguments: str
    ) -> None:
        line = f"{shlex.join(COMMAND)} {arguments} | head -1"
        done = subprocess.run(
            ["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=WAIT_S_MAX,
            env=environment(tmp_path, REDIS_URL=filled.url),
        )  # fmt: skip
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""

    @pytest.mark.parametrize("arguments", ["list-sessions", "get-budget my-session", "--help"])
    def test_into_a_full_disk_is_told_of(self, tmp_path: Path, filled: Server, arguments: str) -> None:
        done = self.redirected(tmp_path, filled, f"{arguments} > /dev/full")
        assert (done.returncode, done.stdout) == (1, "")
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr

    def test_that_is_closed_is_no_fault(self, tmp_path: Path, filled: Server) -> None:
        done = self.redirected(tmp_path, filled, "list-sessions >&- 2>&-")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def redirected(self, folder: Path, store: Server, line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", f"{shlex.join(COMMAND)} {line}"], capture_output=True, text=True, check=False, cwd=folder,
            env=environment(folder, REDIS_URL=store.url), timeout=WAIT_S_MAX,
        )  # fmt: skip


class TestTop:
    def test_is_drawn_anew_until_ctrl_c_and_leaves_the_screen_as_it_was(self, tmp_path: Path, filled: Server) -> None:
        with terminal(tmp_path, "top", "--interval", "0.5", REDIS_URL=filled.url) as at:
            at.until(lambda: at.text.count("A MINUTE") >= 3)
            at.type("\x03")
            assert at.ended() == 0
        assert "my-session" in at.text
        assert at.said.index("\x1b[?1049h") < at.said.rindex("\x1b[?1049l")
        assert at.said.index("\x1b[?25l") < at.said.rindex("\x1b[?25h")
        assert "Traceback" not in at.text
        assert "Aborted" not in at.text

    def test_goes_on_while_the_store_is_away(self, tmp_path: Path, filled: Server) -> None:
        with terminal(tmp_path, "top", "--interval", "0.5", REDIS_URL=filled.url, STORE_TIMEOUT_MS="100") as at:
            at.until(lambda: "A MINUTE" in at.text)
            filled.process.send_signal(signal.SIGSTOP)
            try:
                at.until(lambda: "not up to date" in at.text)
            finally:
                filled.process.send_signal(signal.SIGCONT)
            looks = at.text.count("TokenGate  default")
            at.until(lambda: at.text.count("TokenGate  default") > looks)
            at.type("\x03")
            assert at.ended() == 0


class TestCtrlC:
    @contextmanager
    def following(self, folder: Path, store: Server) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            [*COMMAND, "events", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env=environment(folder, REDIS_URL=store.url), preexec_fn=heed_interrupts,  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=WAIT_S_MAX)

    def test_ends_what_follows_events_as_they_happen(self, tmp_path: Path, filled: Server) -> None:
        with self.following(tmp_path, filled) as process:
            assert process.stdout is not None
            # The latest of what was before, then what happens.
            for line in process.stdout:
                if "the same again" in line:
                    break
            assert command(tmp_path, "set-budget", "another", "7", REDIS_URL=filled.url).returncode == 0
            line = process.stdout.readline()
            assert "session another" in line
            assert "from the default to $7.00" in line
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=WAIT_S_MAX)
        assert (process.returncode, rest, errors) == (0, "", "")

    def test_ends_what_waits_without_it_being_done(self, tmp_path: Path, filled: Server) -> None:
        with terminal(tmp_path, "delete-session", "my-session", REDIS_URL=filled.url) as at:
            at.until(lambda: "Forget it?" in at.text)
            at.type("\x03")
            assert at.ended() != 0
        assert "Traceback" not in at.text
        assert command(tmp_path, "show-session", "my-session", REDIS_URL=filled.url).returncode == 0

    def test_while_the_store_is_asked_has_the_exit_code_of_shells(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            with terminal(tmp_path, "get-budget", "x", REDIS_URL=url, STORE_TIMEOUT_MS="60000") as at:
                silent.settimeout(WAIT_S_MAX)
                asked, _ = silent.accept()
                assert asked.recv(1)
                at.type("\x03")
                assert at.ended() == Exit.INTERRUPTED
                asked.close()
        assert "Traceback" not in at.text


class TestFaults:
    def test_say_what_was_probably_meant(self, tmp_path: Path, filled: Server) -> None:
        done = command(tmp_path, "show-session", "my-sesion", REDIS_URL=filled.url)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "tokengate: no session my-sesion; did you mean my-session?\n"
        assert "'list-sessions'" in command(tmp_path, "list-sesions", NO_COLOR="1").stderr

    def test_each_exit_code_is_documented_and_true(self, tmp_path: Path, filled: Server) -> None:
        table = (ROOT / "docs" / "reference" / "cli.md").read_text().partition("## ")[0]
        assert [int(each) for each in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == sorted(Exit)
        away = f"redis://127.0.0.1:{free_port()}"
        for arguments, url, code in (
            (["get-budget", "my-session"], filled.url, Exit.DONE),
            (["get-budget", "my-session"], away, Exit.FAILED),
            (["get-budget", "no session id"], filled.url, Exit.WRONG),
            (["unfreeze-session", "nobody"], filled.url, Exit.UNKNOWN),
        ):
            done = command(tmp_path, *arguments, REDIS_URL=url)
            assert done.returncode == code, arguments
            assert "Traceback" not in done.stderr


def shape(value: Any) -> Any:
    """What a program may rely on: the names of fields, and what kind of value they have."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "null" if value is None else type(value).__name__


def is_kept(promised: Any, given: Any) -> bool:
    """Whether what was promised is there; there may be more."""
    if isinstance(promised, dict):
        return isinstance(given, dict) and all(
            name in given and is_kept(each, given[name]) for name, each in promised.items()
        )
    if isinstance(promised, list):
        return isinstance(given, list) and (not promised or (bool(given) and is_kept(promised[0], given[0])))
    return bool(promised == given)


class TestJson:
    @pytest.mark.parametrize("line", GOLDEN)
    def test_has_what_it_always_had(self, tmp_path: Path, filled: Server, line: str) -> None:
        done = command(tmp_path, *shlex.split(line), REDIS_URL=filled.url, AGENT_BUDGET="100")
        # There is no provider here, which a doctor finds.
        assert done.returncode == int(line.startswith("doctor")), done.stderr
        assert done.stdout.isascii()
        given = json.loads(done.stdout.splitlines()[-1] if line.startswith("events") else done.stdout)
        assert is_kept(GOLDEN[line], shape(given)), shape(given)


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_there_is_a_script_for(self, tmp_path: Path, shell: str) -> None:
        done = command(tmp_path, "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
        assert done.returncode == 0
        assert "_TOKENGATE_COMPLETE" in done.stdout

    def test_completes_commands_options_and_the_ids_of_sessions(self, tmp_path: Path, filled: Server) -> None:
        script = command(tmp_path, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout
        (tmp_path / "tokengate").write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        (tmp_path / "tokengate").chmod(0o755)
        for words, found in (
            (["tokengate", "freeze"], ["freeze-session"]),
            (["tokengate", "get-budget", "--ser"], ["--server"]),
            (["tokengate", "get-budget", "my-"], ["my-session"]),
            (["tokengate", "get-budget", "nobody"], []),
        ):
            line = (
                f'{script}\nPATH="{tmp_path}:$PATH"; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n'
                '_tokengate_completion tokengate; printf "%s\\n" "${COMPREPLY[@]}"'
            )
            done = subprocess.run(
                ["bash", "-c", line], capture_output=True, text=True, check=True, timeout=WAIT_S_MAX, cwd=tmp_path,
                env=environment(tmp_path, REDIS_URL=filled.url),
            )  # fmt: skip
            assert (done.stdout.split(), done.stderr) == (found, ""), words


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tokengate", "--help"], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environment(tmp_path, NO_COLOR="1"), timeout=WAIT_S_MAX,
    )  # fmt: skip
    assert "Usage: tokengate [OPTIONS] COMMAND" in done.stdout

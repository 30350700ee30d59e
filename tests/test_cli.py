"""The commands: what they print, where, and their exit codes."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from tests.support.redis_server import Server
from tests.support.servers import free_port
from tokengate import __version__
from tokengate.cli import app
from tokengate.settings import NAMES
from tokengate.simulate import SimulateOptions

ROOT = Path(__file__).parent.parent
WAIT_S_MAX = 60
HELLO = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)


def run(*arguments: str, **settings: str) -> Result:
    return CliRunner(env=settings).invoke(app, arguments)


def test_it_says_its_version() -> None:
    assert run("--version").stdout == f"tokengate {__version__}\n"


class TestBudgets:
    def test_a_session_nobody_named_stands_at_its_start_and_is_not_created(self, store: Server) -> None:
        result = run("get-budget", "new", REDIS_URL=store.url, DEFAULT_BUDGET="12.50")
        assert result.exit_code == 0
        assert result.stdout.split() == [
            *("session", "new", "(not", "seen", "yet)", "budget", "$12.50", "(the", "default)"),
            *("spent", "$0.00", "held", "$0.00", "remaining", "$12.50"),
        ]
        with store.client() as client:
            assert client.keys("*") == []

    @pytest.mark.parametrize("written", ["25", "25.00", "$25"])
    def test_a_budget_is_set_in_the_store_and_shown(self, store: Server, written: str) -> None:
        result = run("set-budget", "mine", written, REDIS_URL=store.url)
        assert result.exit_code == 0
        assert "budget     $25.00  (its own)" in result.stdout
        with store.client() as client:
            assert client.hget("tokengate:{default}:session:mine", "budget") == "25.000000000"

    def test_json_has_usd_as_exact_text(self, store: Server) -> None:
        run("set-budget", "mine", "0.5", REDIS_URL=store.url)
        shown = json.loads(run("get-budget", "mine", "--json", REDIS_URL=store.url).stdout)
        amounts = [shown[f"{name}_usd"] for name in ("budget", "spent", "remaining")]
        assert (shown["kind"], shown["name"], amounts) == ("session", "mine", ["0.50", "0.00", "0.50"])

    def test_a_tenants_sessions_are_its_own(self, store: Server) -> None:
        run("set-budget", "mine", "1", REDIS_URL=store.url, TENANT="a")
        assert "$10.00  (the default)" in run("get-budget", "mine", REDIS_URL=store.url, TENANT="b").stdout

    @pytest.mark.parametrize("amount", ["-1", "1e3", "NaN", "25,00", "0.0000000001", "9007200"])
    def test_what_is_no_amount_is_refused(self, amount: str) -> None:
        for arguments in (("mine", "--", amount), ("mine", amount)):
            result = run("set-budget", *arguments)
            assert (result.exit_code, result.stdout) == (2, "")
            assert amount in result.stderr
            assert "amount" in result.stderr

    @pytest.mark.parametrize("arguments", [("5", "--knd", "agent"), ("--knd",)])
    def test_a_misspelt_option_is_no_amount(self, arguments: tuple[str, ...]) -> None:
        result = run("set-budget", "mine", *arguments, NO_COLOR="1")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--knd" in result.stderr

    @pytest.mark.parametrize("name", ["", "a b", "-x", "{x}", "a" * 129])
    def test_what_is_no_session_id_is_refused(self, name: str) -> None:
        for command in (("get-budget", "--", name), ("set-budget", "--", name, "1")):
            result = run(*command)
            assert (result.exit_code, result.stdout) == (2, "")
            assert "is no session id" in result.stderr

    def test_a_store_that_is_away_is_an_error(self) -> None:
        url = f"redis://127.0.0.1:{free_port()}"
        result = run("get-budget", "mine", REDIS_URL=url, STORE_TIMEOUT_MS="50")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "the store cannot do that" in result.stderr

    def test_settings_that_cannot_be_used_are_named(self) -> None:
        result = run("get-budget", "mine", PORT="http", DEFAULT_BUDGET="much")
        assert result.exit_code == 2
        assert "PORT=http" in result.stderr
        assert "DEFAULT_BUDGET=much" in result.stderr


class TestCheckConfig:
    def test_it_prints_every_setting_and_its_source(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("PORT=8100\n")
        lines = run("check-config", DEFAULT_BUDGET="5", OPENAI_API_KEY="sk-secret").stdout.splitlines()
        shown = {line.split()[0]: line.split()[1:] for line in lines}
        assert list(shown) == [name.upper() for name in NAMES]
        assert shown["PORT"] == ["8100", ".env"]
        assert shown["DEFAULT_BUDGET"] == ["5.00", "USD", "environment"]
        assert shown["OPENAI_API_KEY"] == ["********", "environment"]
        assert shown["LOG_LEVEL"] == ["INFO", "default"]

    def test_it_prints_json(self) -> None:
        shown = json.loads(run("check-config", "--json", REDIS_URL="redis://u:secret@h").stdout)
        assert shown["REDIS_URL"] == {"value": "redis://u:********@h", "source": "environment"}

    def test_it_names_every_fault(self) -> None:
        result = run("check-config", PORT="0", STRICT_MODE="maybe")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "PORT=0" in result.stderr
        assert "STRICT_MODE=maybe" in result.stderr

    def test_a_misspelt_variable_is_only_warned_of(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("DEFAULT_BUGDET=5\n")
        result = run("check-config")
        assert result.exit_code == 0
        assert "did you mean DEFAULT_BUDGET?" in result.stderr


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            (("simulate", "--fault", "nonsense"), "nonsense"),
            (("simulate", "--median", "0"), "output_tokens_median"),
            (("demo", "--budget", "much"), "much"),
            (("demo", "--calls", "0"), "calls"),
            (("set-budget", "mine"), "USD"),
            (("frobnicate",), "frobnicate"),
        ],
    )
    def test_wrong_ones_are_named_with_exit_code_2(self, arguments: tuple[str, ...], named: str) -> None:
        result = run(*arguments, NO_COLOR="1", COLUMNS="200")
        assert (result.exit_code, result.stdout) == (2, "")
        assert named in result.stderr

    def test_simulate_hands_its_options_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[object] = []
        monkeypatch.setattr("tokengate.simulate.run", lambda *all_of_them: given.extend(all_of_them))
        result = run("simulate", "--port", "9", "--seed", "3", "--output-tokens", "7", "--loop-tools", "--ttft-ms", "5")
        assert result.exit_code == 0
        assert given == [SimulateOptions(seed=3, output_tokens=7, loop_tools=True, ttft_ms=5), "127.0.0.1", 9]
        assert result.stdout == ""
        assert "http://127.0.0.1:9/v1" in result.stderr


# --- serve, as a process ---


@contextmanager
def serve(*arguments: str, **settings: str) -> "Iterator[subprocess.Popen[str]]":
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokengate", "serve", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kept | settings, cwd=folder,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=WAIT_S_MAX)


def until_said(process: "subprocess.Popen[str]", text: str) -> str:
    """What it has said to a person, up to a line with this text."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"{text!r} was not said, but: {said}")


def test_serve_refuses_wrong_arguments_and_settings() -> None:
    for arguments, settings, named in (
        (["--role", "king"], {}, "king"),
        (["--port", "x"], {}, "--port"),
        ([], {"DEFAULT_BUDGET": "much"}, "DEFAULT_BUDGET=much"),
    ):
        with serve(*arguments, **settings) as process:
            output, errors = process.communicate(timeout=WAIT_S_MAX)
        assert (process.returncode, output) == (2, "")
        assert named in errors


def test_serve_says_that_its_port_is_taken(store: Server) -> None:
    with taken_port() as port, serve("--port", str(port), REDIS_URL=store.url) as process:
        _, errors = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors


@contextmanager
def taken_port() -> Iterator[int]:
    """A port that somebody listens on already."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_without_a_key_the_simulated_provider_answers_and_a_person_is_told(store: Server) -> None:
    port = free_port()
    with serve("--simulate-without-key", "--port", str(port), REDIS_URL=store.url) as process:
        said = until_said(process, "Ctrl-C stops it")
        assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in said
        assert "OPENAI_API_KEY is not set: a simulated provider answers" in said
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=HELLO, timeout=WAIT_S_MAX)
        assert answer.status_code == 200
        assert answer.json()["system_fingerprint"] == "fp_simulated"
        assert float(answer.headers["x-tokengate-cost-usd"]) > 0
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert [event for event in events if event in ("serving", "request")] == ["serving", "request"]
    assert "no append-only file" in events[0], "what is wrong with the store is said first"
    assert events[-1] == "stopped"


@pytest.mark.parametrize("setting", ["OPENAI_API_KEY", "OPENAI_BASE_URL"])
def test_with_a_key_or_a_provider_nothing_is_simulated(store: Server, setting: str) -> None:
    value = f"http://127.0.0.1:{free_port()}/v1"
    settings = {"OPENAI_BASE_URL": value, "REDIS_URL": store.url}
    if setting == "OPENAI_API_KEY":
        settings |= {setting: "sk-real"}
    port = free_port()
    with serve("--simulate-without-key", "--port", str(port), **settings) as process:
        said = until_said(process, "Ctrl-C stops it")
        assert f"Calls are forwarded to {value} and may cost money." in said
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=HELLO, timeout=WAIT_S_MAX)
        assert answer.status_code == 502


def test_serve_without_the_flag_says_nothing_to_people(store: Server) -> None:
    port = free_port()
    with serve(
        "--port", str(port), REDIS_URL=store.url, OPENAI_BASE_URL="http://127.0.0.1:1/v1", ADMIN_TOKEN="t" * 32
    ) as process:
        assert process.stdout is not None
        assert "no append-only file" in json.loads(process.stdout.readline())["event"]
        assert json.loads(process.stdout.readline())["event"] == "serving"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_S_MAX)
    assert (process.returncode, errors) == (0, "")

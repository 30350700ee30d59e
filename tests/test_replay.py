"""Calls of the past go through the gate, offline: what is refused, when, and what that would have saved."""

import gzip
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from typer.testing import CliRunner, Result

from tests.support.gate import gate, official, serving, simulated
from tests.support.inmemory import prices
from tests.support.recording import Recorder
from tests.support.redis_server import Server
from tests.transcripts.tape import stamp
from tokengate.cli import app
from tokengate.cli import replay as command
from tokengate.domain import Reason
from tokengate.ledger import RECORD_TTL_MS
from tokengate.replay import Order, Replay, Report
from tokengate.settings import NAMES, Settings
from tokengate.simulate import SimulateOptions
from tokengate.transcript import Entry

READER, _ = command.offline(Settings(), prices(None))
START_MS = 1_772_442_000_000
COST_NANO = 10 * 150 + 100 * 600
"""Of a call of 10 and 100 tokens to gpt-4o-mini."""


def asking(text: str) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "max_tokens": 100}


def call(at_ms: int = 0, **members: Any) -> dict[str, Any]:
    line = {"timestamp": stamp(START_MS + at_ms), "session_id": "s", "body": asking("hi")}
    line["usage"] = {"prompt_tokens": 10, "completion_tokens": 100}
    return {name: value for name, value in (line | members).items() if value is not None}


def entry(at_ms: int = 0, **members: Any) -> Entry:
    read = READER.read(json.dumps(call(at_ms, **members)).encode())
    assert read is not None
    return read


def replay(cap_nano: int = 10**10, busy_wait_ms: int = 30_000) -> Replay:
    return command.offline(Settings(default_budget=cap_nano, busy_wait_ms=busy_wait_ms), prices(None))[1]


async def report(running: Replay, *entries: Entry) -> Report:
    for each in entries:
        await running.feed(each)
    return running.finish()


class TestReplay:
    async def test_what_no_budget_stops_passes(self) -> None:
        found = await report(replay(), *(entry(1000 * n) for n in range(5)))
        assert found == Report(
            [], calls=5, sessions=1, cost_nano=5 * COST_NANO, first_ms=START_MS, last_ms=START_MS + 4000
        )

    async def test_a_budget_is_spent_by_what_was_used_and_the_rest_is_refused(self) -> None:
        # Three calls leave room for no fourth: it can cost more than it did, by what its bytes could be as tokens.
        found = await report(replay(4 * COST_NANO), *(entry(1000 * n) for n in range(10)))
        (finding,) = found.findings
        assert (found.blocked, found.saved_nano) == (7, 7 * COST_NANO)
        assert (finding.reason, finding.session.id) == (Reason.BUDGET_EXCEEDED, "s")
        assert (finding.first_call, finding.first_ms, finding.last_ms) == (4, START_MS + 3000, START_MS + 9000)
        assert (finding.calls, finding.saved_nano) == (7, 7 * COST_NANO)
        assert finding.message.startswith("Budget exceeded. Remaining: $0.0000615, Required: $")

    async def test_each_session_has_its_budget(self) -> None:
        entries = [entry(1000 * n, session_id=f"s{n % 4}") for n in range(12)]
        assert (await report(replay(4 * COST_NANO), *entries)).blocked == 0

    async def test_calls_that_overlap_hold_their_budget_together(self) -> None:
        # Together they would need more than there is, but each ends before the next has waited too long.
        entries = [entry(n, duration_ms=2000) for n in range(3)]
        cap_nano = 18 * COST_NANO // 5
        assert (await report(replay(cap_nano), *entries)).blocked == 0
        (finding,) = (await report(replay(cap_nano, busy_wait_ms=0), *entries)).findings
        assert (finding.reason, finding.first_call) == (Reason.BUDGET_BUSY, 3)

    async def test_each_provider_has_its_prices(self) -> None:
        body = {"model": "claude-sonnet-4-5", "max_tokens": 900, "messages": [{"role": "user", "content": "hi"}]}
        usage = {"input_tokens": 1000, "output_tokens": 500}
        found = await report(replay(), entry(url="/v1/messages", body=body, usage=usage))
        assert (found.blocked, found.cost_nano) == (0, 10_500_000)

    async def test_a_further_upstream_has_its_prices_by_its_prefix_and_by_its_models(self, tmp_path: Path) -> None:
        file = tmp_path / "upstreams.toml"
        file.write_text(
            '[[upstream]]\nname = "groq"\nbase_url = "https://api.groq.com/openai/v1"\nprefix = "/groq"\n'
            'models = ["llama-*"]\nkey_env = "NOT_SET"\n'
        )
        reader, running = command.offline(Settings(upstreams_file=file), prices(None))
        body = call()["body"] | {"model": "llama-3.3-70b-versatile"}
        for url in ("/groq/v1/chat/completions", "/v1/chat/completions"):
            read = reader.read(json.dumps(call(url=url, body=body)).encode())
            assert read is not None
            assert read.section == "groq"
            assert await running.feed(read) is None
        assert running.finish().cost_nano > 0

    async def test_a_failure_costs_nothing(self) -> None:
        found = await report(replay(), entry(status=500), entry(1))
        assert found.cost_nano == COST_NANO

    async def test_a_call_without_usage_is_priced_as_a_typical_answer(self) -> None:
        found = await report(replay(), entry(usage=None))
        # "hi" and "user" are a token each, and eight frame a message; its output cap is below a typical answer.
        assert (found.assumed, found.cost_nano) == (1, (2 + 8) * 150 + 100 * 600)

    async def test_what_a_gate_charged_is_what_it_cost(self) -> None:
        line: dict[str, Any] = {
            "timestamp": stamp(START_MS),
            "decision": "allowed",
            "session_id": "s",
            "model": "gpt-4o-mini",
        }
        line |= {
            "endpoint": "chat_completions",
            "input_tokens": 10,
            "output_tokens": 100,
            "actual_cost": 0.5,
            "status": 200,
        }
        read = READER.read(json.dumps(line).encode())
        assert read is not None
        found = await report(replay(), read)
        assert found.cost_nano == 500_000_000

    async def test_what_a_gate_had_refused_is_tried_again_at_no_cost(self) -> None:
        line = {"timestamp": stamp(START_MS), "decision": "blocked", "session_id": "s", "model": "gpt-4o-mini"}
        line["endpoint"] = "chat_completions"
        read = READER.read(json.dumps(line | {"status": 429}).encode())
        assert read is not None
        found = await report(replay(), read)
        assert (found.calls, found.blocked, found.blocked_before, found.cost_nano) == (1, 0, 1, 0)

    async def test_a_model_without_a_price_is_refused_as_a_gate_would(self) -> None:
        body = call()["body"] | {"model": "gpt-unheard-of"}
        found = await report(replay(), entry(body=body))
        assert [finding.reason for finding in found.findings] == [Reason.MODEL_NOT_PRICED]
        assert found.saved_nano == 0

    async def test_a_call_from_the_past_is_taken_as_of_now(self) -> None:
        found = await report(replay(), entry(5000), entry(0), entry(6000))
        assert (found.late, found.last_ms) == (1, START_MS + 6000)

    async def test_calls_of_more_sessions_than_there_is_room_for_are_left_out(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tokengate.replay.SESSIONS_MAX", 5)
        found = await report(replay(), *(entry(n, session_id=f"s{n % 8}") for n in range(16)))
        assert (found.calls, found.sessions, found.left_out, found.blocked) == (10, 5, 6, 0)

    async def test_nothing_is_kept_of_a_call_that_has_ended(self) -> None:
        running = replay()
        await report(running, *(entry(20_000 * n, duration_ms=5000) for n in range(150)))
        # The rules ask for what has become of the calls of a quarter of an hour.
        assert len(running._ledger._holds) == len(running._records) == RECORD_TTL_MS // 20_000
        assert running._in_flight == []
        assert running._gate._held == set()

    async def test_calls_without_a_duration_follow_one_another_unless_they_come_together(self) -> None:
        cap_nano = 18 * COST_NANO // 5
        apart = await report(replay(cap_nano, busy_wait_ms=0), *(entry(60 * n) for n in range(3)))
        assert apart.blocked == 0
        together = await report(replay(cap_nano, busy_wait_ms=0), *(entry(20 * n) for n in range(3)))
        assert [finding.reason for finding in together.findings] == [Reason.BUDGET_BUSY]
        running = replay()
        await report(running, *(entry(n, session_id=f"s{n % 7}") for n in range(0, 10_000, 30)))
        assert running._untimed == {}

    async def test_findings_are_bounded_and_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tokengate.replay.FINDINGS_MAX", 3)
        found = await report(replay(0), *(entry(n, session_id=f"s{n}") for n in range(5)))
        assert (len(found.findings), found.findings_dropped, found.blocked) == (3, 2, 5)


async def test_a_replay_refuses_what_a_gate_refuses(store: Server) -> None:
    """The same calls, made through a real gate and replayed from what another one, with room for all, received."""
    options, budget = SimulateOptions(seed=3, output_tokens_median=200), "0.0012"

    async def calls(base_url: str) -> list[bool]:
        passed = []
        async with official(f"{base_url}/v1", default_headers={"X-Session-ID": "s"}) as sdk:
            for number in range(30):
                prompt = f"Question {number}. " + "Words of it. " * number
                try:
                    await sdk.chat.completions.create(
                        model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}], max_completion_tokens=300
                    )
                    passed.append(True)
                except openai.RateLimitError:
                    passed.append(False)
        return passed

    async with simulated(options) as provider, gate(provider.base_url, store.url, tenant="roomy") as running:
        recorder = Recorder(running.app, lambda: START_MS + 1000 * len(recorder.lines))
        async with serving(recorder) as url:
            assert all(await calls(url))
        for line in await running.log():
            usage = {"prompt_tokens": line["input_tokens"], "completion_tokens": line["output_tokens"]}
            recorder.lines[line["request_id"]]["usage"] = usage
    async with (
        simulated(options) as provider,
        gate(provider.base_url, store.url, default_budget=budget, tenant="tight") as tight,
    ):
        really = await calls(tight.url)
    running_offline, passed = replay(1_200_000), []
    for each in recorder.lines.values():
        read = READER.read(json.dumps(each).encode())
        assert read is not None
        passed.append(await running_offline.feed(read) is None)
    assert passed == really
    assert 0 < sum(passed) < 30


class TestOrder:
    def test_entries_come_out_in_the_order_of_their_times(self) -> None:
        order = Order(entries_max=3)
        times = [5, 1, 3, 2, 9, 7, 8, 20, 11]
        found = [due.at_ms - START_MS for at_ms in times for due in order.push(entry(at_ms), 100)]
        found += [due.at_ms - START_MS for due in order.rest()]
        assert found == sorted(times)

    def test_what_is_held_is_bounded_in_bytes_too(self) -> None:
        order = Order(bytes_max=1000)
        assert order.push(entry(5), 900) == []
        assert [due.at_ms for due in order.push(entry(4), 200)] == [START_MS + 4]
        assert [due.at_ms for due in order.push(entry(9), 5000)] == [START_MS + 5, START_MS + 9]
        assert order.rest() == []


@pytest.fixture(autouse=True)
def _nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name.upper(), raising=False)


def written(*lines: dict[str, Any] | str) -> str:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    Path("calls.jsonl").write_text(text)
    return "calls.jsonl"


def run(*arguments: str, text: str | None = None, **settings: str) -> Result:
    return CliRunner(env=settings).invoke(app, ["replay", *arguments], input=text)


class TestCommand:
    CALLS = tuple(call(1000 * n, body=asking(f"h{n}")) for n in range(10))

    def test_what_it_prints(self) -> None:
        result = run(written(*self.CALLS), "--default-budget", "0.000246")
        assert result.exit_code == 0
        assert result.stdout == (
            "replayed  10 calls of 1 session\n"
            "between   2026-03-02T09:00:00Z and 2026-03-02T09:00:09Z\n"
            "cost      $0.000615\n"
            "blocked   7 calls  (70.0%)\n"
            "saved     $0.0004305  (70.0%)\n"
            "\n"
            "session s: budget_exceeded\n"
            "  Budget exceeded. Remaining: $0.0000615, Required: $0.000075\n"
            "  from its 4th call, 2026-03-02T09:00:03Z, to 2026-03-02T09:00:09Z\n"
            "  7 calls blocked, $0.0004305 saved\n"
        )
        assert result.stderr == ""

    def test_what_it_says_to_programs(self) -> None:
        shown = json.loads(run(written(*self.CALLS), "--json", DEFAULT_BUDGET="0.000246").stdout)
        (finding,) = shown.pop("findings")
        assert shown == {
            "calls": 10,
            "sessions": 1,
            "from": "2026-03-02T09:00:00Z",
            "to": "2026-03-02T09:00:09Z",
            "cost": 0.000615,
            "blocked": 7,
            "saved": 0.0004305,
            "shadowed": {},
            "blocked_before": 0,
            "assumed": 0,
            "out_of_order": 0,
            "left_out": 0,
            "unreadable_lines": 0,
            "findings_left_out": 0,
        }
        assert finding == {
            "tenant": "default",
            "agent": None,
            "session_id": "s",
            "reason": "budget_exceeded",
            "rule": None,
            "message": "Budget exceeded. Remaining: $0.0000615, Required: $0.000075",
            "first": "2026-03-02T09:00:03Z",
            "first_call": 4,
            "last": "2026-03-02T09:00:09Z",
            "blocked": 7,
            "saved": 0.0004305,
        }

    def test_an_option_goes_before_the_environment(self) -> None:
        name = written(*self.CALLS)
        assert "blocked   0 calls\n" in run(name, "--default-budget", "1", DEFAULT_BUDGET="0").stdout

    def test_every_setting_is_an_option_of_its_name(self) -> None:
        assert set(command.SETTINGS) <= set(NAMES)
        shown = run("--help").stdout
        for name in command.SETTINGS:
            assert f"--{name.replace('_', '-')} " in shown

    def test_check_tells_by_its_exit_code(self) -> None:
        name = written(*self.CALLS)
        assert run(name, "--check").exit_code == 0
        assert run(name, "--check", "--default-budget", "0.0001").exit_code == 1

    def test_a_compressed_file_and_standard_input(self) -> None:
        name = written(*self.CALLS)
        plain = run(name).stdout
        Path("calls.gz").write_bytes(gzip.compress(Path(name).read_bytes()))
        assert run("calls.gz").stdout == plain
        assert run("-", text=Path(name).read_text()).stdout == plain

    def test_lines_that_cannot_be_read_are_named_and_left_out(self) -> None:
        lines: list[dict[str, Any] | str] = [*self.CALLS, "nonsense", call(timestamp=None), "", call(session_id="a b")]
        result = run(written(*lines, *["{}"] * 4))
        assert result.exit_code == 0
        assert "note      7 lines could not be read" in result.stdout.splitlines()
        assert result.stderr.splitlines() == [
            "calls.jsonl: line 11: not a JSON object: JSON is malformed: invalid character (byte 4)",
            "calls.jsonl: line 12: it has no timestamp",
            "calls.jsonl: line 14: session_id: 'a b' is not a name",
            *(
                f"calls.jsonl: line {n}: neither a call (it has no body) nor a request of the log (it has no decision)"
                for n in (15, 16)
            ),
            "calls.jsonl: and 2 more lines that cannot be read",
        ]

    def test_a_line_that_is_too_long_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(command, "LINE_BYTES_MAX", 400)
        result = run(written(call(), call(body={"model": "m", "messages": [{"content": "x" * 5000}]}), call(1)))
        assert "replayed  2 calls of 1 session" in result.stdout
        assert result.stderr == "calls.jsonl: line 2: longer than 400 bytes\n"

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "calls.jsonl: No such file or directory"),
            (b"", "there is no call in calls.jsonl"),
            (b"\n\n", "there is no call in calls.jsonl"),
            (gzip.compress(b"x" * 100, mtime=0)[:-12], "calls.jsonl: "),
            (b"\x1f\x8bnot gzip at all", "calls.jsonl: "),
        ],
    )
    def test_a_file_without_calls_is_an_error_in_words(self, content: bytes | None, words: str) -> None:
        if content is not None:
            Path("calls.jsonl").write_bytes(content)
        result = run("calls.jsonl")
        assert (result.exit_code, result.stdout) == (1, "")
        assert words in result.stderr.splitlines()[-1]

    def test_a_directory_is_no_file(self) -> None:
        Path("calls.jsonl").mkdir()
        assert "Is a directory" in run("calls.jsonl").stderr

    @pytest.mark.parametrize(
        "arguments",
        [("--default-budget", "lots"), ("--agent", "a b"), ("--pricing-file", "nowhere"), ("--budgets", "1"), ()],
    )
    def test_wrong_arguments(self, arguments: tuple[str, ...]) -> None:
        result = run(*(() if not arguments else (written(call()), *arguments)))
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr

    def test_no_line_is_wider_than_a_terminal(self) -> None:
        long = "s" * 128
        calls = [call(1000 * n, session_id=f"{long[:-3]}{n:03}", agent="a" * 128) for n in range(30)]
        shown = run(written(*calls), "--default-budget", "0").stdout.splitlines()
        # Names are not broken: they are to be copied.
        assert all(len(line) <= 80 for line in shown if "session s" not in line and "agent" not in line)
        assert shown[-1] == "and 10 more findings; --json has them"


class TestRules:
    LOOP = tuple(call(1500 * n, duration_ms=500) for n in range(12))

    def test_a_runaway_is_told_with_its_evidence(self) -> None:
        result = run(written(*self.LOOP))
        assert result.stdout == (
            "replayed  12 calls of 1 session\n"
            "between   2026-03-02T09:00:00Z and 2026-03-02T09:00:16Z\n"
            "cost      $0.000738\n"
            "blocked   5 calls  (41.7%)\n"
            "saved     $0.0003075  (41.7%)\n"
            "\n"
            "session s: session_frozen by the rule loop\n"
            "  The session s is frozen until 2026-03-02T09:10:10Z: sent the same request to\n"
            "  gpt-4o-mini 8 times in a row; first request call-1, last call-8; spent\n"
            "  $0.000431 in 10s\n"
            "  from its 8th call, 2026-03-02T09:00:10Z, to 2026-03-02T09:00:16Z\n"
            "  5 calls blocked, $0.0003075 saved\n"
        )
        (finding,) = json.loads(run(written(*self.LOOP), "--json").stdout)["findings"]
        assert (finding["rule"], finding["first_call"], finding["blocked"]) == ("loop", 8, 5)

    @pytest.mark.parametrize(
        ("options", "blocked"),
        [
            (("--loop-repeats", "12"), 1),
            (("--loops", "off"), 0),
            (("--loop-pause-ms", "900"), 0),
            (("--freeze-s", "2"), 2),
            (("--loops", "off", "--rate-limit", "4/min"), 7),
            (("--loops", "off", "--velocity-max", "0.0003"), 7),
        ],
    )
    def test_thresholds_are_options(self, options: tuple[str, ...], blocked: int) -> None:
        assert json.loads(run(written(*self.LOOP), "--json", *options).stdout)["blocked"] == blocked

    def test_what_is_in_shadow_is_counted_and_not_refused(self) -> None:
        result = run(written(*self.LOOP), "--loops", "shadow", "--check")
        assert result.exit_code == 0
        assert "blocked   0 calls" in result.stdout
        assert "note      5 calls that the rule loop would refuse, were it enforced\n" in result.stdout

    def test_a_freeze_is_over_in_the_time_of_the_calls(self) -> None:
        later = [call(700_000 + 1500 * n, duration_ms=500) for n in range(7)]
        assert json.loads(run(written(*self.LOOP, *later), "--json").stdout)["blocked"] == 5

"""Alerts of real gates, by real calls, to a real receiver."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import redis
from typer.testing import CliRunner

from tests.support.admin import ADMIN
from tests.support.gate import gate_processes, simulated, until
from tests.support.receiver import HANG, answer, receiver
from tests.support.redis_server import Server, redis_server, start, stop
from tests.support.scene import CHAT, client, fixed, headers, scene
from tokengate import cli
from tokengate.alerts import dispatch

CALL: Final = fixed()


def reader_of(store: "redis.Redis") -> str:
    """The key of the one reader there is."""
    (key,) = store.keys("tokengate:{default}:reader:*")
    return str(key)


def percentages(bodies: list[dict[str, Any]]) -> list[int]:
    return [body["budget"]["percent"] for body in bodies]


async def test_each_threshold_once_however_many_gates(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        receiver() as hook,
        simulated() as provider,
        gate_processes(
            3, provider.base_url, store.url, alert_webhook_url=hook.url, default_budget=CALL.budget(10)
        ) as gates,
        client() as http,
    ):
        await until(lambda: bool(redis_cli.keys("tokengate:{default}:reader:*")))
        for number in range(10):
            url = f"{gates[number % 3].url}{CHAT}"
            reply = await http.post(url, content=CALL.body, headers=headers("alice", CALL.simulate))
            assert reply.status_code == 200
        for each in gates:
            refused = await http.post(f"{each.url}{CHAT}", content=CALL.body, headers=headers("alice"))
            assert refused.status_code == 429
        await hook.count(3)
        latest: Any = redis_cli.xrevrange("tokengate:{default}:events", count=1)
        await until(lambda: redis_cli.hget(reader_of(redis_cli), "told") == latest[0][0])
        assert percentages(hook.bodies) == [50, 80, 100]
        assert {body["scope"]["name"] for body in hook.bodies} == {"alice"}
        assert not any(hook.url in each.output.read_text() for each in gates)


async def test_the_gate_that_tells_is_killed(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        receiver(*[answer(503)] * 1000) as hook,
        simulated() as provider,
        gate_processes(
            2, provider.base_url, store.url, alert_webhook_url=hook.url, default_budget=CALL.budget(2)
        ) as gates,
        client() as http,
    ):
        await until(lambda: bool(redis_cli.keys("tokengate:{default}:reader:*")))
        reader = reader_of(redis_cli)
        teller = next(each for each in gates if f":{each.process.pid}:" in str(redis_cli.hget(reader, "by")))
        (other,) = (each for each in gates if each is not teller)
        await http.post(f"{other.url}{CHAT}", content=CALL.body, headers=headers("alice", CALL.simulate))
        await hook.count(1)
        teller.signal(signal.SIGKILL)
        await teller.ended()
        hook.answers.clear()
        tried = len(hook.received)
        # Its lease would run out by itself.
        redis_cli.hset(reader, "until_ms", 0)
        await hook.count(tried + 1)
        assert percentages(hook.bodies[tried:]) == [50]
        assert f":{other.process.pid}:" in str(redis_cli.hget(reader, "by"))


async def test_a_console_tells_of_what_gates_do_that_tell_nobody(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        receiver() as hook,
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, "console", alert_webhook_url=hook.url, admin_token=ADMIN),
        gate_processes(1, provider.base_url, store.url, default_budget=CALL.budget(1)) as (gate,),
        client() as http,
    ):
        await until(lambda: bool(redis_cli.keys("tokengate:{default}:reader:*")))
        await http.post(f"{gate.url}{CHAT}", content=CALL.body, headers=headers("alice", CALL.simulate))
        await hook.count(1)
        assert percentages(hook.bodies) == [100]


async def test_the_store_is_lost_and_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dispatch, "AWAY_S", 0.2)
    monkeypatch.setattr(dispatch, "READER_POLL_S", 0.05)
    with redis_server("--appendonly", "yes") as server:
        async with receiver() as hook, scene(server.url, alert_webhook_url=hook.url, store_timeout_ms=200) as play:
            assert (await play.ask()).status_code == 200
            with server.client() as store:
                await until(lambda: bool(store.keys("tokengate:{default}:reader:*")))
            stop(server)
            await hook.count(1)
            assert (await play.ask()).status_code == 503
            again = start(server.folder, "--appendonly", "yes")
            try:
                await hook.count(2)
                assert [body["type"] for body in hook.bodies] == ["store.lost", "store.back"]
                assert (await play.ask()).status_code == 200
            finally:
                stop(again)


async def test_a_slow_receiver_is_in_nobodys_way(store: Server) -> None:
    """While it hangs, calls pass, and the gate stops without waiting for it."""
    async with (
        receiver(HANG) as hook,
        scene(store.url, alert_webhook_url=hook.url, default_budget=CALL.budget(4)) as play,
    ):
        for _ in range(2):
            assert (await play.post(CALL.body, "alice", CALL.simulate)).status_code == 200
        await hook.count(1)
        assert (await play.post(CALL.body, "alice", CALL.simulate)).status_code == 200


def test_a_gate_that_tells_nobody_loads_none_of_it() -> None:
    code = "import sys, tokengate.server; print([name for name in sys.modules if 'tokengate.alerts' in name])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


async def test_a_receiver_that_may_not_be_is_refused_at_the_start(store: Server) -> None:
    with pytest.raises(ValueError, match="must begin with https"):
        async with scene(store.url, alert_webhook_url="http://hooks.example/secret"):
            raise AssertionError


class TestCommand:
    async def test_it_arrives(self) -> None:
        async with receiver() as hook:
            environ = {"ALERT_WEBHOOK_URL": hook.url, "ALERT_FORMAT": "slack"}
            result = await asyncio.to_thread(CliRunner(env=environ).invoke, cli.app, ["test-alert"])
            assert (result.exit_code, result.output) == (
                0,
                "delivered to 127.0.0.1 as slack: the receiver answered 200\n",
            )
            assert hook.bodies[0]["text"].endswith("This is a test alert of TokenGate. Nothing has happened.")

    async def test_it_does_not(self) -> None:
        async with receiver(answer(403)) as hook:
            result = await asyncio.to_thread(
                CliRunner(env={"ALERT_WEBHOOK_URL": hook.url}).invoke, cli.app, ["test-alert"]
            )
            assert result.exit_code == 1
            assert "tokengate: not delivered to 127.0.0.1 as json: the receiver answered 403" in result.output

    @pytest.mark.parametrize(
        ("environ", "words"),
        [
            ({}, "ALERT_WEBHOOK_URL is not set"),
            ({"ALERT_WEBHOOK_URL": "http://hooks.example/"}, "must begin with https"),
        ],
    )
    def test_nobody_to_tell(self, environ: dict[str, str], words: str) -> None:
        result = CliRunner(env=environ).invoke(cli.app, ["test-alert"])
        assert result.exit_code == 2
        assert words in result.output

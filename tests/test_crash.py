"""Gates that are killed, and streams that last: holds are leases, so nothing leaks and nothing is free."""

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support import certificates, redis_server
from tests.support.gate import ROOT, WAIT_S_MAX, gate_processes, simulated, until
from tests.support.hashes import fields, happened, held_nano, spent_nano
from tests.support.pipes import link_to
from tests.support.redis_groups import node
from tests.support.redis_server import Server
from tests.support.scene import CHAT, Fixed, client, fixed, headers, scene
from tests.support.servers import free_port
from tokengate.ledger.redis import RedisLedger
from tokengate.money import format_usd, parse_usd

LEASE_S = 5


async def later(store: Server, seconds: float) -> int:
    """What a gate does now and then, as if so much time had passed; gives how many holds it charged."""
    ledger = RedisLedger(link_to(store.socket), owner="later", lease_ms=1000, sessions_max=10, retry_ms=1000)
    ledger.now_ms = int((time.time() + seconds) * 1000)
    try:
        return await ledger.sweep("default")
    finally:
        await ledger.aclose()


async def test_a_gate_killed_with_calls_and_streams_under_way(store: Server, redis_cli: "redis.Redis") -> None:
    unary, stream = fixed(simulate="hang_before_headers"), fixed(stream=True, simulate="hang_midway:2")
    good = fixed()
    held = 4 * unary.cost_nano + 4 * stream.cost_nano
    # Room for two calls more, and a little that is not enough for one.
    budget = format_usd(held + 2 * good.cost_nano + good.cost_nano // 2)
    given: dict[str, Any] = {"hold_lease_s": LEASE_S, "default_budget": budget, "busy_wait_ms": 0}
    async with simulated() as provider:
        async with gate_processes(1, provider.base_url, store.url, **given) as (one,), client(one.url) as http:
            calls = [
                asyncio.create_task(http.post(CHAT, content=call.body, headers=headers(None, call.simulate)))
                for call in (unary, stream)
                for _ in range(4)
            ]
            await until(lambda: provider.received == 8)
            assert held_nano(redis_cli) == held
            one.signal(signal.SIGKILL)
            await one.ended()
            await asyncio.gather(*calls, return_exceptions=True)
        async with scene(store.url, default_budget=budget, busy_wait_ms=0) as at:
            # The dead gate's holds still stand: the budget is not exceeded.
            answers = [await at.post(good.body, simulate=good.simulate) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert answers[-1].json()["error"]["code"] == "budget_busy"
            await at.gate.idle()
            assert await later(store, LEASE_S + 1) == 8
            assert held_nano(redis_cli) == 0
            assert spent_nano(redis_cli) == held + 2 * good.cost_nano
            assert fields(redis_cli)["assumed"] == format_usd(held, 9)
            assert [each["kind"] for each in happened(redis_cli)] == ["expired"] * 8
            # Nor is it blocked for ever: it is spent, and says so; a larger one works at once.
            spent = await at.post(good.body, simulate=good.simulate)
            assert spent.json()["error"]["code"] == "insufficient_quota"
            redis_cli.hset("tokengate:{default}:session:default", "budget", "10")
            assert (await at.post(good.body, simulate=good.simulate)).status_code == 200
            await at.gate.idle()
            assert spent_nano(redis_cli) == held + 3 * good.cost_nano


async def test_the_next_gate_charges_what_a_killed_one_left(store: Server, redis_cli: "redis.Redis") -> None:
    """The sweep is the gate's own, not the test's: it comes at a third of a lease."""
    call = fixed(simulate="hang_before_headers")
    async with simulated() as provider:
        async with (
            gate_processes(1, provider.base_url, store.url, hold_lease_s=LEASE_S) as (one,),
            client(one.url) as http,
        ):
            lost = asyncio.create_task(http.post(CHAT, content=call.body, headers=headers(None, call.simulate)))
            await until(lambda: provider.received == 1)
            one.signal(signal.SIGKILL)
            await one.ended()
            await asyncio.gather(lost, return_exceptions=True)
        # Its lease as if it had begun a while ago.
        [hold_id] = redis_cli.zrange("tokengate:{default}:leases", 0, -1)
        redis_cli.zadd("tokengate:{default}:leases", {str(hold_id): 1})
        async with gate_processes(1, provider.base_url, store.url, hold_lease_s=LEASE_S):
            await until(lambda: held_nano(redis_cli) == 0)
            assert spent_nano(redis_cli) == call.cost_nano


@pytest.mark.parametrize("renewed", [True, False])
async def test_a_stream_of_ten_minutes_keeps_its_hold_as_long_as_it_is_renewed(
    store: Server, redis_cli: "redis.Redis", renewed: bool
) -> None:
    call = fixed(stream=True, simulate="hang_midway:2")
    async with scene(store.url, hold_lease_s=60) as at:
        gate = at.gate.app.proxy.gate
        ledger = gate._ledger
        assert isinstance(ledger, RedisLedger)
        began_ms = ledger.now_ms = int(time.time() * 1000)
        async with at.stream(call.body, simulate=call.simulate) as response:
            await anext(response.aiter_bytes())
            while ledger.now_ms < began_ms + 600_000:
                ledger.now_ms += 20_000
                if renewed:
                    await gate._renew()
                await ledger.sweep("default")
            assert held_nano(redis_cli) == (call.cost_nano if renewed else 0)
        await at.gate.idle()
        [line] = at.gate.lines
    kinds = [each["kind"] for each in happened(redis_cli)]
    assert kinds == ([] if renewed else ["expired", "late"])
    assert held_nano(redis_cli) == 0
    # It was cut by its caller: what was seen is charged, once, whether or not the hold had been charged before.
    assert spent_nano(redis_cli) == round(line["actual_cost"] * 1_000_000_000)
    assert 0 < spent_nano(redis_cli) <= call.cost_nano


@pytest.mark.parametrize("seed", [1])
async def test_gates_and_store_killed_in_turn_under_load(tmp_path: Path, seed: int) -> None:
    """At any moment, with a journal being written or being posted: afterwards nothing is missing."""
    dice = random.Random(seed)
    call = fixed()
    given: dict[str, Any] = {
        "on_store_failure": "allowance", "store_allowance": "100", "default_budget": "1000", "store_timeout_ms": 100,
        "data_dir": tmp_path / "data",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        kept = ("--appendonly", "yes", "--appendfsync", "always")
        server = redis_server.start(Path(folder), *kept)
        try:
            async with simulated() as provider:
                for _ in range(2):
                    async with (
                        gate_processes(1, provider.base_url, server.url, **given) as (one,),
                        client(one.url) as http,
                    ):
                        load = [asyncio.create_task(_call_on(http, call)) for _ in range(8)]
                        for turn in range(3):
                            goal = provider.received + dice.randrange(20, 60)
                            await until(lambda goal=goal: provider.received >= goal)  # type: ignore[misc]
                            if turn % 2:
                                server = redis_server.start(Path(folder), *kept)
                            else:
                                server.process.kill()
                                server.process.wait()
                        if dice.random() < 0.5:
                            server = redis_server.start(Path(folder), *kept)
                            await asyncio.sleep(dice.random() / 4)
                        one.signal(signal.SIGKILL)
                        await one.ended()
                        await asyncio.gather(*load, return_exceptions=True)
                    if server.process.poll() is not None:
                        server = redis_server.start(Path(folder), *kept)
                async with gate_processes(1, provider.base_url, server.url, **given):
                    await until(lambda: not list((tmp_path / "data").glob("journal/*.journal")))
                await later(server, 3600)
                with server.client() as cli:
                    assert held_nano(cli) == 0
                    assumed = parse_usd(fields(cli).get("assumed", "0"))
                    # Each kill leaves at most what was under way; all of it is charged, and flagged.
                    assert assumed <= 2 * 8 * call.cost_nano
                    assert provider.billed_nano() <= spent_nano(cli) <= provider.billed_nano() + assumed
                    # What is gone is forgotten; who is killed, or meets a slow store, just before that leaves its note.
                    assert len(cli.hgetall("tokengate:{default}:journals")) <= 3
        finally:
            redis_server.stop(server)


async def _call_on(http: httpx.AsyncClient, call: Fixed) -> None:
    """Call and call again, until there is nobody to answer."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            await http.post(CHAT, content=call.body, headers=headers(None, call.simulate))


# --- a store that will never do ---


async def says(tmp_path: Path, url: str) -> tuple[int, str]:
    """The exit code of a gate that is started with this store, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tokengate", "serve", "--port", str(free_port())),
        cwd=tmp_path,
        env={"REDIS_URL": url, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(2 * WAIT_S_MAX):
            _, told = await process.communicate()
    finally:
        # One that serves after all is a failure, not a process that stays.
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, told.decode()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A server with a password, by TLS on one port and in the clear on another."""
    made, tls, plain = certificates.make(tmp_path), free_port(), free_port()
    options = (
        "--tls-port", tls, "--tls-cert-file", made.certificate, "--tls-key-file", made.key,
        "--tls-ca-cert-file", made.authority, "--tls-auth-clients", "no", "--requirepass", "right",
    )  # fmt: skip
    with node(tmp_path, *map(str, options), "--unixsocket", str(tmp_path / "s"), port=plain):
        yield tls, plain


async def test_wrong_passwords_and_wrong_tls_end_the_start_in_one_line(
    guarded: tuple[int, int], tmp_path: Path
) -> None:
    tls, plain = guarded
    cases = {
        f"redis://:wr0ng@127.0.0.1:{plain}": "refuses our credentials",
        f"redis://127.0.0.1:{plain}": "Set user and password in REDIS_URL",
        f"unix://:wr0ng@{tmp_path / 's'}": "refuses our credentials",
        f"rediss://:right@127.0.0.1:{tls}": "ssl_ca_certs",
        f"redis://:right@127.0.0.1:{tls}": "should begin with rediss://",
        f"rediss://:right@127.0.0.1:{plain}": "should begin with redis://",
    }
    told = await asyncio.gather(*(says(tmp_path, url) for url in cases))
    for (code, text), (url, hint) in zip(told, cases.items(), strict=True):
        assert (code, text.count("\n")) == (1, 1), (url, text)
        assert hint in text, (url, text)
        assert "wr0ng" not in text
        assert "right" not in text

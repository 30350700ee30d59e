"""While the store is away: what may be spent without it, and that the store is told of all of it, once."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.away import Away
from tests.support.gate import gate_processes, simulated, until
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import Fixed, Scene, client, fixed, headers, scene
from tokengate.ledger.outage import OutageLedger


@asynccontextmanager
async def outage(away: Away, mode: str, data: Path, **settings: object) -> AsyncIterator[Scene]:
    async with scene(
        away.url, None, on_store_failure=mode, data_dir=data, store_timeout_ms=100, **settings
    ) as at:  # fmt: skip
        yield at


def ledger_of(at: Scene) -> OutageLedger:
    ledger = at.gate.app.proxy.gate._ledger
    assert isinstance(ledger, OutageLedger)
    return ledger


async def told(at: Scene, away: Away) -> None:
    """Wait until the store knows everything."""
    await at.gate.idle()
    await until(lambda: ledger_of(at)._mending is None)
    with away.server.client() as cli:
        assert cli.hgetall("tokengate:{default}:journals") == {}


async def send(at: Scene, call: Fixed, count: int) -> list[int]:
    answers = await asyncio.gather(*(at.post(call.body, simulate=call.simulate) for _ in range(count)))
    return [answer.status_code for answer in answers]


async def one_at_a_time(at: Scene, call: Fixed) -> httpx.Response:
    answer = await at.post(call.body, simulate=call.simulate)
    await at.gate.idle()
    return answer


def journals(data: Path) -> list[Path]:
    return list((data / "journal").glob("*.journal"))


@pytest.mark.parametrize("mode", ["open", "allowance"])
async def test_calls_go_on_without_the_store_which_is_told_of_each_once(away: Away, tmp_path: Path, mode: str) -> None:
    call = fixed()
    async with outage(away, mode, tmp_path) as at:
        assert await send(at, call, 3) == [200] * 3
        await at.gate.idle()
        away.leave()
        assert await send(at, call, 5) == [200] * 5
        assert await send(at, fixed(stream=True), 2) == [200] * 2
        health = await at.http.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["store"]) == (503, "degraded", "unavailable")
        assert health.json()["on_store_failure"] == mode
        [journal] = journals(tmp_path)
        kinds = [json.loads(line)["line"] for line in journal.read_bytes().splitlines()]
        assert (kinds.count("journal"), kinds.count("hold")) == (1, 7)
        away.come_back()
        await told(at, away)
        assert journals(tmp_path) == []
        assert (await at.http.get("/health")).json()["status"] == "ok"
        assert await send(at, call, 2) == [200] * 2
        await told(at, away)
        with away.server.client() as cli:
            assert held_nano(cli) == 0
            assert spent_nano(cli) == at.provider.billed_nano()
            assert at.provider.received == 12
            assert "assumed" not in fields(cli)


async def test_the_allowance_is_all_that_is_spent_and_comes_back_with_the_store(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path, store_allowance=call.budget(4), busy_wait_ms=0) as at:
        assert await send(at, call, 1) == [200]
        await at.gate.idle()
        away.leave()
        answers = [await one_at_a_time(at, call) for _ in range(7)]
        assert [each.status_code for each in answers] == [200] * 4 + [429] * 3
        refused = answers[-1]
        error = refused.json()["error"]
        assert error["code"] == "insufficient_quota"
        assert "allowance (STORE_ALLOWANCE) while the store is away exceeded" in error["message"]
        assert refused.headers["x-tokengate-scope"] == "allowance"
        assert error["budget_info"]["remaining"] == 0
        health: Any = (await at.http.get("/health")).json()
        assert health["allowance"]["spent"] == health["allowance"]["budget"]
        assert at.provider.received == 5
        away.come_back()
        await told(at, away)
        away.leave()
        assert (await send(at, call, 6)).count(200) == 4
        away.come_back()
        await told(at, away)
        with away.server.client() as cli:
            assert spent_nano(cli) == at.provider.billed_nano() == 9 * call.cost_nano


async def test_parallel_calls_cannot_spend_the_allowance_twice(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path, store_allowance=call.budget(10), busy_wait_ms=2000) as at:
        await send(at, call, 1)
        away.leave()
        await send(at, call, 1)
        statuses = await send(at, call, 30)
        assert sorted(statuses) == [200] * 9 + [429] * 21
        away.come_back()
        await told(at, away)
        with away.server.client() as cli:
            assert spent_nano(cli) == at.provider.billed_nano() == 11 * call.cost_nano


async def test_closed_admits_nothing_and_says_so(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with scene(away.url, data_dir=tmp_path, store_timeout_ms=50) as at:
        assert await send(at, call, 1) == [200]
        away.leave()
        assert await send(at, call, 3) == [503] * 3
        health = (await at.http.get("/health")).json()
        assert (health["status"], health["on_store_failure"]) == ("degraded", "closed")
        away.come_back()
        assert await send(at, call, 1) == [200]
        await at.gate.idle()
        assert list(tmp_path.iterdir()) == []
        with away.server.client() as cli:
            assert (held_nano(cli), spent_nano(cli)) == (0, at.provider.billed_nano())


async def test_a_call_held_by_the_store_is_charged_once_when_it_ends_without_it(away: Away, tmp_path: Path) -> None:
    call = fixed(stream=True, simulate="slow_headers:300")
    async with outage(away, "allowance", tmp_path) as at:
        under_way = [at.begin(call.body, simulate=call.simulate) for _ in range(3)]
        await until(lambda: at.provider.received == 3)
        away.leave()
        assert [(await each).status_code for each in under_way] == [200] * 3
        await at.gate.idle()
        away.come_back()
        await told(at, away)
        with away.server.client() as cli:
            assert (held_nano(cli), spent_nano(cli)) == (0, at.provider.billed_nano())


@pytest.mark.parametrize("mode", ["allowance", "closed"])
async def test_a_journal_outlives_the_gate_and_is_posted_once_by_the_next(
    away: Away, tmp_path: Path, mode: str
) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path) as at:
        assert await send(at, call, 1) == [200]
        await at.gate.idle()
        away.leave()
        assert await send(at, call, 4) == [200] * 4
        await at.gate.idle()
        billed = at.provider.billed_nano()
    assert len(journals(tmp_path)) == 1
    copy = journals(tmp_path)[0].read_bytes()
    away.come_back()
    async with outage(away, mode, tmp_path) as at:
        await told(at, away)
    assert journals(tmp_path) == []
    with away.server.client() as cli:
        assert spent_nano(cli) == billed
        # As after a crash between the last line and the end: read again, with the store's note still there.
        journal = json.loads(copy.splitlines()[0])["id"]
        cli.hset("tokengate:{default}:journals", journal, len(copy.splitlines()))
        for key in cli.scan_iter("*:hold:*"):
            cli.delete(key)
        (tmp_path / "journal" / f"{journal}.journal").write_bytes(copy)
        async with outage(away, mode, tmp_path) as at:
            await told(at, away)
        assert spent_nano(cli) == billed
        assert fields(cli)["requests"] == "5"


async def test_what_was_spent_before_a_restart_counts_against_the_allowance(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path, store_allowance=call.budget(3)) as at:
        await send(at, call, 1)
        away.leave()
        assert await send(at, call, 2) == [200] * 2
        await at.gate.idle()
    async with outage(away, "allowance", tmp_path, store_allowance=call.budget(3), busy_wait_ms=0) as at:
        answers = [await one_at_a_time(at, call) for _ in range(3)]
        assert [each.status_code for each in answers] == [200, 429, 429]
        away.come_back()
        await told(at, away)
    with away.server.client() as cli:
        assert spent_nano(cli) == 4 * call.cost_nano


async def test_a_gate_killed_without_the_store_loses_nothing(away: Away, tmp_path: Path) -> None:
    call, hanging = fixed(), fixed(simulate="hang_before_headers")
    given: dict[str, Any] = {"on_store_failure": "allowance", "data_dir": tmp_path, "store_timeout_ms": 100}
    async with simulated() as provider:
        async with gate_processes(1, provider.base_url, away.url, **given) as (one,), client(one.url) as http:
            path = "/v1/chat/completions"
            await http.post(path, content=call.body, headers=headers(None, call.simulate))
            away.leave()
            await http.post(path, content=call.body, headers=headers(None, call.simulate))
            lost = asyncio.create_task(
                http.post(path, content=hanging.body, headers=headers(None, hanging.simulate))
            )  # fmt: skip
            await until(lambda: provider.received == 3)
            one.signal(signal.SIGKILL)
            await one.ended()
            await asyncio.gather(lost, return_exceptions=True)
        away.come_back()
        async with gate_processes(1, provider.base_url, away.url, **given) as (two,), client(two.url) as http:
            await until(lambda: journals(tmp_path) == [])
            answer = await http.post(path, content=call.body, headers=headers(None, call.simulate))
            assert answer.status_code == 200
            await until(lambda: _requests(away) == 4)
    with away.server.client() as cli:
        # The one under way is charged in full, and flagged: its provider has billed something, nobody knows what.
        assert spent_nano(cli) == 3 * call.cost_nano + hanging.cost_nano
        assert fields(cli)["assumed"] == f"{hanging.cost_nano / 1e9:.9f}"
        assert held_nano(cli) == 0


def _requests(away: Away) -> int:
    with away.server.client() as cli:
        return int(fields(cli).get("requests", "0"))


async def test_a_session_first_seen_without_the_store_is_listed_when_it_is_back(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with outage(away, "open", tmp_path) as at:
        away.leave()
        assert (await at.post(call.body, "newcomer", call.simulate)).status_code == 200
        away.come_back()
        await told(at, away)
        with away.server.client() as cli:
            assert cli.zrange("tokengate:{default}:sessions", 0, -1) == ["newcomer"]
            assert spent_nano(cli, "newcomer") == call.cost_nano
        assert (await at.post(call.body, "newcomer", call.simulate)).status_code == 200
        await at.gate.idle()
        with away.server.client() as cli:
            assert fields(cli, "newcomer")["budget"] == "10.000000000"
            assert spent_nano(cli, "newcomer") == 2 * call.cost_nano


async def test_what_the_disk_cannot_take_is_not_admitted(away: Away, tmp_path: Path) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path) as at:
        (tmp_path / "journal").rmdir()
        (tmp_path / "journal").write_text("not a directory")
        away.leave()
        assert await send(at, call, 2) == [503] * 2
        assert at.provider.received == 0
        (tmp_path / "journal").unlink()
        assert await send(at, call, 1) == [200]
        away.come_back()
        await told(at, away)
        with away.server.client() as cli:
            assert (held_nano(cli), spent_nano(cli)) == (0, call.cost_nano)


async def test_a_store_that_is_out_of_memory_is_as_good_as_away_until_it_can_write(
    away: Away, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call = fixed()
    async with outage(away, "allowance", tmp_path) as at:
        assert await send(at, call, 1) == [200]
        await at.gate.idle()
        with away.server.client() as cli:
            cli.config_set("maxmemory", 1)
            assert await send(at, call, 4) == [200] * 4
            assert (await at.http.get("/health")).json()["store"] == "unavailable"
            cli.config_set("maxmemory", 0)
            await told(at, away)
            assert (held_nano(cli), spent_nano(cli)) == (0, at.provider.billed_nano())


def test_a_journal_of_another_store_is_left_alone(store: Server, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    (folder / "a.journal").write_text('{"line":"journal","id":"a","tenant":"default","store":"redis://elsewhere"}\n')

    async def start() -> None:
        async with scene(store.url, data_dir=tmp_path) as at:
            await at.gate.idle()

    asyncio.run(start())
    assert (folder / "a.journal").exists()

"""Faults of failing stores that others shipped, of what grows, and of names that callers choose (23 to 32 of the list).

Elsewhere: 25, refusals that SDKs retry, in `test_sdk`; 26, the refusal that names its budget, with 10 in
`test_faults_memory`; 28, invented names of models, in `test_pricing_lookup`. 27: there are no alerts yet.
"""

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from tests.support import redis_server
from tests.support.gate import official, until
from tests.support.hashes import booked, fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, MODEL, Scene, chat, fixed, raw, scene
from tokengate.ledger.redis import RedisLedger

HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]


# --- 23: the store is away ---


async def sdk_is_refused(at: Scene) -> None:
    async with official(at.gate.base_url) as sdk:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                await sdk.chat.completions.create(model=MODEL, messages=HELLO, stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.code == "store_unavailable"
            assert int(caught.value.response.headers["retry-after"]) >= 1
            assert "x-should-retry" not in caught.value.response.headers


async def test_23_without_the_store_calls_are_refused_in_the_clients_dialect_until_it_is_back() -> None:
    call, slow = fixed(), fixed(simulate="slow_headers:1")
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        kept = ("--appendonly", "yes", "--appendfsync", "always")
        server = redis_server.start(Path(folder), *kept)
        try:
            async with scene(server.url, store_timeout_ms=50) as at:
                assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
                await at.gate.idle()
                async with at.stream(fixed(stream=True).body, simulate=f"{slow.simulate}") as response:
                    # Admitted and under way: it is answered, and posted when the store is back.
                    redis_server.stop(server)
                    await response.aread()
                assert response.status_code == 200
                await sdk_is_refused(at)
                assert at.provider.received == 2
                health = await at.http.get("/health")
                assert (health.status_code, health.json()["store"]) == (503, "unavailable")
                assert (await at.http.get("/readyz")).status_code == 200
                server = redis_server.start(Path(folder), *kept)
                assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
                await at.gate.idle()
                assert (await at.http.get("/health")).status_code == 200
                with server.client() as cli:
                    assert held_nano(cli) == 0
                    assert spent_nano(cli) == at.provider.billed_nano()
                reasons = [line.get("reason") for line in await at.gate.log()]
                assert reasons == [None, None, "store_unavailable", "store_unavailable", None]
        finally:
            redis_server.stop(server)


async def test_23_a_store_that_hangs_is_as_good_as_away_and_keeps_no_hold_of_what_was_refused(tmp_path: Path) -> None:
    call = fixed()
    with redis_server.redis_server() as server:
        async with scene(server.url, store_timeout_ms=50) as at:
            assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
            await at.gate.idle()
            server.process.send_signal(signal.SIGSTOP)
            try:
                await sdk_is_refused(at)
            finally:
                server.process.send_signal(signal.SIGCONT)
            await at.gate.idle()
            with server.client() as cli:
                assert held_nano(cli) == 0
                assert spent_nano(cli) == call.cost_nano
            assert at.provider.received == 1


# --- 24: servers that forbid ---


async def test_24_scripts_run_where_evalsha_and_script_are_forbidden(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    redis_cli.execute_command("ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all", "-evalsha", "-script")
    try:
        async with scene(f"unix://gate:secret@{store.socket}", default_budget=call.budget(3)) as at:
            answers = [await at.post(call.body, simulate=call.simulate) for _ in range(5)]
            await at.gate.idle()
    finally:
        redis_cli.execute_command("ACL", "DELUSER", "gate")
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert spent_nano(redis_cli) == 3 * call.cost_nano


async def test_24_a_server_that_forgot_the_scripts_is_sent_them_again(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    async with scene(store.url) as at:
        for _ in range(3):
            assert (await at.post(call.body, simulate=call.simulate)).status_code == 200
            await at.gate.idle()
            redis_cli.script_flush()
    assert spent_nano(redis_cli) == 3 * call.cost_nano


# --- 28, 29: what grows ---


async def test_28_invented_sessions_are_bounded_and_those_that_exist_go_on(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with scene(store.url, sessions_max=3) as at:
        answers = [await at.ask(f"invented-{number}") for number in range(6)]
        again = await at.ask("invented-1")
        await at.gate.idle()
        assert at.provider.received == 4
    assert [answer.status_code for answer in [*answers, again]] == [200] * 3 + [429] * 3 + [200]
    assert answers[-1].json()["error"]["code"] == "sessions_full"
    assert answers[-1].headers["x-should-retry"] == "false"
    assert len(list(redis_cli.scan_iter("*:session:*"))) == redis_cli.zcard("tokengate:{default}:sessions") == 3


async def commands(at: Scene, cli: "redis.Redis") -> dict[str, int]:
    """What one call makes the store do, those within scripts included."""
    await at.gate.idle()
    cli.config_resetstat()
    assert (await at.ask()).status_code == 200
    await at.gate.idle()
    stats: Any = cli.info("commandstats")
    return {
        name.removeprefix("cmdstat_"): numbers["calls"]
        for name, numbers in stats.items()
        if name not in ("cmdstat_config|resetstat", "cmdstat_info")
    }


async def test_29_admission_does_not_cost_more_with_history(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, default_budget="1000") as at:
        ledger = at.gate.app.proxy.gate._ledger
        assert isinstance(ledger, RedisLedger)
        ledger.now_ms = 1_900_000_000_000
        await at.ask()
        early = await commands(at, redis_cli)
        await asyncio.gather(*(at.ask(f"other-{number % 40}") for number in range(80)), *(at.ask() for _ in range(80)))
        late = await commands(at, redis_cli)
    assert late == early
    assert early["evalsha"] == 2


async def test_29_one_round_trip_stands_before_forwarding_and_one_behind(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call = fixed(simulate="hang_before_headers")
    async with scene(store.url) as at:
        await at.ask()
        await at.gate.idle()
        redis_cli.config_resetstat()
        asking = at.begin(call.body, simulate=call.simulate)
        await until(lambda: at.provider.received == 2)
        stats: Any = redis_cli.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 1
        asking.cancel()
        await at.gate.idle()
        stats = redis_cli.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2


# --- 32: names that callers choose ---

BAD_IDS = [
    "",
    " ",
    "a b",
    "../x",
    "a/b",
    "a{b}",
    "a}b",
    "<b>",
    "a'b",
    'a"b',
    "a\\b",
    "a%0d%0ab",
    "é",
    "-a",
    "a" * 129,
    "a,b",
    "a;b",
    "a\tb",
    "*",
]


@pytest.mark.parametrize("name", BAD_IDS)
async def test_32_a_session_id_that_could_mean_something_elsewhere_is_refused(
    store: Server, redis_cli: "redis.Redis", name: str
) -> None:
    body = chat()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: {len(body)}\r\n".encode()
    async with scene(store.url) as at:
        by_header = await raw(at.gate.url, head + b"x-session-id:" + name.encode() + b"\r\n\r\n" + body)
        by_query = await at.http.post(CHAT, content=body, params={"session_id": name})
        await at.gate.idle()
        assert at.provider.requests == []
    assert by_header.startswith(b"HTTP/1.1 400")
    assert b'"session_invalid"' in by_header
    assert by_query.status_code == 400
    assert by_query.json()["error"]["param"] == "X-Session-ID"
    assert booked(redis_cli) == []


@pytest.mark.parametrize("name", ["a", "A-1._:@+=~", "a" * 128, "user@example.com", "0"])
async def test_32_other_names_are_kept_as_they_are(store: Server, redis_cli: "redis.Redis", name: str) -> None:
    async with scene(store.url) as at:
        assert (await at.ask(name)).status_code == 200
        assert (await at.http.post(CHAT, content=chat(), params={"session_id": name})).status_code == 200
        await at.gate.idle()
    assert fields(redis_cli, name)["requests"] == "2"


@pytest.mark.parametrize(
    "sent", [b"x-session-id: a\r\nx-session-id: b", b"x-session-id: a\r\n b: c\r\nx-session-id: b"]
)
async def test_32_two_ids_in_one_request_are_refused(store: Server, redis_cli: "redis.Redis", sent: bytes) -> None:
    body = chat()
    async with scene(store.url) as at:
        answer = await raw(
            at.gate.url,
            f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: {len(body)}\r\n".encode()
            + sent
            + b"\r\n\r\n"
            + body,
        )
        assert at.provider.requests == []
    assert answer.startswith(b"HTTP/1.1 400")
    assert booked(redis_cli) == []


async def test_a_fault_within_the_gate_is_an_answer_in_the_clients_dialect(
    store: Server, redis_cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scene(store.url) as at, official(at.gate.base_url) as sdk:

        async def breaks(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(at.gate.app.proxy.gate, "admit", breaks)
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(model=MODEL, messages=HELLO)
        [line] = await at.gate.log()
    assert caught.value.code == "internal_error"
    assert "fault of ours" not in str(caught.value)
    assert (line["status"], line["reason"]) == (500, "internal_error")

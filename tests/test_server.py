"""The server as a process: it stops in order, reads its prices anew, and its log holds no secret."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.gate import INPUT_NANO, KEY, OUTPUT_NANO, ROOT, Process, gate_processes, simulated, until
from tests.support.hashes import booked, fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, client, fixed, headers, parsed, scene
from tests.support.servers import Conversation, RawServer, free_port, raw_server

EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini","choices":[%b]%b}\n\n'
PIECE = EVENT % (b'{"index":0,"delta":{"content":" gate"},"finish_reason":null}', b"")
USAGE = EVENT % (b"", b',"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}')
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


class Slow:
    """A provider that sends the first piece of a stream, and the rest when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, peer: Conversation) -> None:
        await peer.request()
        await peer.say(HEAD + PIECE)
        await self.go_on.wait()
        await peer.say(PIECE + USAGE + b"data: [DONE]\n\n")


@asynccontextmanager
async def serving(
    slow: Slow, store: Server, **settings: Any
) -> AsyncIterator[tuple[RawServer, Process, httpx.AsyncClient]]:
    async with (
        raw_server(slow) as provider,
        gate_processes(1, f"{provider.url}/v1", store.url, **settings) as [gate],
        client(gate.url) as http,
    ):
        yield provider, gate, http


async def refuses_connections(gate: Process) -> None:
    port = int(gate.url.rpartition(":")[2])
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            writer.close()
            with contextlib.suppress(ConnectionError):
                # Reset, as it was waiting to be accepted when the gate stopped listening.
                await writer.wait_closed()


async def test_a_stop_lets_a_stream_finish_and_settles_it(store: Server, redis_cli: "redis.Redis") -> None:
    slow = Slow()
    async with serving(slow, store) as (_, gate, http):
        async with http.stream("POST", CHAT, content=chat(stream=True)) as response:
            parts = response.aiter_raw()
            assert await anext(parts) == PIECE
            gate.signal(signal.SIGTERM)
            await refuses_connections(gate)
            slow.go_on.set()
            assert b"".join([part async for part in parts]) == PIECE + b"data: [DONE]\n\n"
        assert await gate.ended() == 0
        [line] = gate.said("request")
        assert gate.lines[-1]["event"] == "stopped"
    assert (line["ending"], line["output_tokens"]) == ("complete", 2)
    assert spent_nano(redis_cli) == 7 * INPUT_NANO + 2 * OUTPUT_NANO
    assert held_nano(redis_cli) == 0


@pytest.mark.parametrize("grace_s", [0, 1])
async def test_at_the_end_of_its_grace_a_stream_is_cut_in_words_and_settled(
    store: Server, redis_cli: "redis.Redis", grace_s: int
) -> None:
    body = chat(stream=True)
    async with serving(Slow(), store, shutdown_grace_s=grace_s) as (provider, gate, http):
        async with http.stream("POST", CHAT, content=body) as response:
            parts = response.aiter_raw()
            assert await anext(parts) == PIECE
            gate.signal(signal.SIGTERM)
            rest = b"".join([part async for part in parts])
        assert await gate.ended() == 0
        assert len(provider.requests) == 1
        [line] = gate.said("request")
    assert json.loads(rest.removeprefix(b"data: "))["error"]["code"] == "shutting_down"
    assert (line["ending"], line["reason"], line["output_tokens"]) == ("cut", "shutting_down", 1)
    assert spent_nano(redis_cli) == parsed(body).input_tokens_max * INPUT_NANO + 1 * OUTPUT_NANO
    assert held_nano(redis_cli) == 0


async def test_at_the_end_of_its_grace_who_still_waits_is_told_and_what_is_unknown_is_charged(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call = fixed(simulate="hang_before_headers")
    redis_cli.config_resetstat()
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, shutdown_grace_s=0, default_budget=call.budget(1)) as [gate],
        client(gate.url) as http,
    ):
        asking = [
            asyncio.create_task(http.post(CHAT, content=call.body, headers=headers("mine", call.simulate)))
            for _ in range(2)
        ]
        await until(lambda: provider.received == 1)
        # The other one has been told by the store that it must wait, and asks again now and then.
        await until(lambda: calls(redis_cli) > 2)
        gate.signal(signal.SIGTERM)
        answers = await asyncio.gather(*asking)
        assert await gate.ended() == 0
        assert provider.received == 1
    for answer in answers:
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        assert answer.headers["retry-after"] == "1"
    assert spent_nano(redis_cli, "mine") == call.cost_nano
    assert held_nano(redis_cli, "mine") == 0


def calls(client: "redis.Redis") -> int:
    """How many scripts have run since the test began."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("eval", "evalsha"))


async def test_prices_are_read_anew_on_sighup_and_a_faulty_table_leaves_the_old_one(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path
) -> None:
    def table(usd: object) -> str:
        prices = {"m": {"input": 0, "output": usd}}
        return json.dumps({"version": 1, "as_of": "2026-01-01", "sections": {"openai": {"models": prices}}})

    prices, answered = tmp_path / "prices.json", 0
    prices.write_text(table(1))
    body = chat(model="m", max_tokens=10)
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, pricing_file=prices) as [gate],
        client(gate.url) as http,
    ):

        async def spent() -> int:
            nonlocal answered
            answered += 1
            response = await http.post(CHAT, content=body, headers=headers(f"s{answered}", "output_tokens:10"))
            assert response.status_code == 200, response.text
            await until(lambda: fields(redis_cli, f"s{answered}").get("spent") is not None)
            return spent_nano(redis_cli, f"s{answered}")

        async def reload(said: str, times: int) -> None:
            gate.signal(signal.SIGHUP)
            await until(lambda: len(gate.said(said)) == times)

        refused = "the price table was not reloaded; the old one stays"
        assert await spent() == 10 * 1000
        prices.write_text(table(3))
        assert await spent() == 10 * 1000
        await reload("the price table was reloaded", 1)
        assert await spent() == 10 * 3000
        prices.write_text(table("a lot"))
        await reload(refused, 1)
        assert "openai" in gate.said(refused)[0]["error"]
        prices.write_text("{")
        await reload(refused, 2)
        prices.unlink()
        await reload(refused, 3)
        assert await spent() == 10 * 3000


async def test_every_line_of_the_log_is_json_with_what_was_promised_and_no_secret(store: Server) -> None:
    promised = {
        "timestamp", "session_id", "model", "estimated_cost", "actual_cost", "input_tokens", "output_tokens", "decision",
    }  # fmt: skip
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, log_level="DEBUG") as [gate],
        client(gate.url) as http,
    ):
        for content in ("the secret of the prompt", "x" * 3000):
            for stream in (False, True):
                asked = chat(f"{content} secret", stream=stream, user="a secret user")
                await http.post(CHAT, content=asked, headers=headers("mine", "no_usage"))
        await http.post(CHAT, content=b'{"the secret', headers=headers("mine"))
        await http.post(CHAT, content=chat("secret", model="no-such"), headers=headers("mine"))
        await http.post("/v1/secret/" + "x" * 5000, headers=headers("mine"))
        gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0
        lines = gate.said("request")
        output = gate.output.read_text()
    blocked = [line for line in lines if line["decision"] == "blocked"]
    assert [line["reason"] for line in blocked] == ["body_invalid", "model_not_priced", "endpoint_not_metered"]
    assert len(lines) == 4 + len(blocked)
    assert all(promised <= line.keys() for line in lines)
    assert all(line["error"] for line in blocked)
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert max(map(len, output.splitlines())) < 2000
    output = output.replace("/v1/secret", "")
    assert not [word for word in ("secret", KEY, "dummy-key", "Bearer") if word in output]


def test_a_failure_that_is_logged_shows_no_values() -> None:
    program = """
import logging, structlog
from tokengate.telemetry import configure_logging
configure_logging(logging.INFO)
def fail(authorization):
    raise ValueError("what went wrong")
for log in (structlog.get_logger(), logging.getLogger("uvicorn.error")):
    try:
        fail("Bearer " + "sk-" + "1234")
    except ValueError:
        log.exception("a failure")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert [json.loads(line)["event"] for line in done.stdout.splitlines()] == ["a failure"] * 2
    assert done.stdout.count("what went wrong") == 2
    assert "sk-1234" not in done.stdout


async def test_the_status_port_tells_of_the_process_and_serves_no_calls(store: Server) -> None:
    port = free_port()
    async with (
        serving(Slow(), store, status_port=port) as (_, gate, http),
        client(f"http://127.0.0.1:{port}") as monitor,
    ):
        for path in ("/livez", "/readyz", "/health"):
            assert (await monitor.get(path)).json()["status"] == "ok"
        for path in ("/tokengate/budget", "/v1/models", CHAT, "/"):
            assert (await monitor.get(path)).status_code == 404
        assert (await monitor.post(CHAT, content=chat())).status_code == 404
        async with http.stream("POST", CHAT, content=chat(stream=True)) as response:
            assert response.status_code == 200
            gate.signal(signal.SIGTERM)
            await refuses_connections(gate)
            assert (await monitor.get("/readyz")).status_code == 503
            assert (await monitor.get("/livez")).status_code == 200
            gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0


async def test_a_status_port_that_is_taken_is_told(store: Server) -> None:
    async with raw_server(Slow()) as other:
        port = other.url.rpartition(":")[2]
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "tokengate", "serve", "--port", str(free_port())],
            env={"STATUS_PORT": port, "REDIS_URL": store.url, "PATH": ""},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 1
    assert f"cannot listen on 0.0.0.0:{port}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_sidecar_loads_only_what_it_needs_before_its_first_request() -> None:
    program = "import sys, tokengate.server; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "tokengate" in loaded
    assert not {"tiktoken", "typer", "httpx", "fastapi", "genai_prices", "openai", "pytest"} & loaded


# --- bounds on what comes in ---


async def test_headers_and_bodies_beyond_their_bounds_are_refused_with_the_settings_name(store: Server) -> None:
    async with scene(store.url, body_bytes_max=2000, header_bytes_max=2000) as at:
        long_header = await at.http.post(CHAT, content=chat(), headers={"x-long": "x" * 2000})
        long_body = await at.post(chat("x" * 2000))

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b"x" * 1000

        long_pieces = await at.http.post(CHAT, content=pieces())
        fits = await at.post(chat("x" * 1000))
        await at.gate.idle()
        assert at.provider.received == 1
    statuses = [answer.status_code for answer in (long_header, long_body, long_pieces, fits)]
    assert statuses == [431, 413, 413, 200]
    assert "HEADER_BYTES_MAX" in long_header.json()["error"]["message"]
    assert "BODY_BYTES_MAX" in long_body.json()["error"]["message"]


async def test_more_requests_than_the_bound_are_told_to_come_again(store: Server) -> None:
    slow = fixed(simulate="hang_before_headers")
    async with scene(store.url, concurrency_max=2) as at:
        asking = [at.begin(slow.body, simulate=slow.simulate) for _ in range(2)]
        await until(lambda: at.provider.received == 2)
        refused = await at.ask()
        for each in asking:
            each.cancel()
        await at.gate.idle()
        assert (await at.ask()).status_code == 200
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "concurrency_exceeded"


async def test_a_client_that_leaves_within_its_body_is_no_fault(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url) as at:
        host, _, port = at.gate.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\ncontent-length: 100\r\n\r\n{{".encode())
        await until(lambda: at.gate.app.proxy._in_flight == 1)
        writer.close()
        [line] = await at.gate.log()
        assert at.provider.requests == []
    assert line["status"] == 499
    assert booked(redis_cli) == []

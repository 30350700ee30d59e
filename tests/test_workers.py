"""Several processes behind one port: counted as one, replaced when one dies, stopped as one. With real processes."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.support.gate import ROOT, Process, gate_processes, simulated, until
from tests.support.hashes import spent_nano
from tests.support.redis_server import Server
from tests.support.samples import Samples, scrape
from tests.support.scene import CHAT, chat, client, fixed, headers
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.listener import listen, listen_beside, reserve
from tokengate.server import _share
from tokengate.settings import load

CALLS: Final = 60


def workers(gate: Process) -> list[psutil.Process]:
    """The worker processes of a supervisor."""
    return psutil.Process(gate.process.pid).children()


def alive(process: psutil.Process) -> bool:
    """Whether a process is more than an entry that nobody has asked for."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def all_serve(gate: Process, number: int) -> None:
    await until(lambda: len(gate.said("serving")) >= number)


@asynccontextmanager
async def gate_of(number: int, provider: str, store: str | None, **settings: Any) -> AsyncIterator[Process]:
    async with gate_processes(1, provider, store, workers=number, **settings) as [gate]:
        await all_serve(gate, number)
        yield gate


async def asked(gate: Process, body: bytes, simulate: str = "") -> int:
    """Send a call on a connection of its own, which any of the workers may get."""
    async with client(gate.url) as http:
        return (await http.post(CHAT, content=body, headers=headers("s", simulate))).status_code


async def scraped(gate: Process) -> Samples:
    async with client(gate.url) as http:
        return await scrape(http)


async def counted(gate: Process, calls: int) -> Samples:
    """Wait until so many requests are counted: an answer has its end before it is recorded."""
    found = await scraped(gate)
    async with asyncio.timeout(20):
        while found.value("requests_total") < calls:
            await asyncio.sleep(0.01)
            found = await scraped(gate)
    return found


async def test_whichever_worker_is_asked_answers_for_all(store: Server, redis_cli: Any) -> None:
    call = fixed()
    async with simulated() as provider, gate_of(3, provider.base_url, store.url) as gate:
        statuses = [await asked(gate, call.body, call.simulate) for _ in range(CALLS)]
        assert statuses == [200] * CALLS
        await counted(gate, CALLS)
        for found in [await scraped(gate) for _ in range(12)]:
            assert found.value("requests_total", outcome="complete") == CALLS
            assert found.value("request_duration_seconds_count") == CALLS
            assert found.value("cost_usd_total") == pytest.approx(CALLS * call.cost_nano / 1e9, rel=1e-9)
            assert found.value("store_operation_seconds_count", op="reserve") == CALLS
            assert found.value("workers") == 3
            assert found.value("inflight") == 0
        served = {line["request_id"].rpartition("-")[0] for line in gate.said("request")}
        await until(lambda: spent_nano(redis_cli, "s") == CALLS * call.cost_nano)
    assert len(served) == 3


async def test_a_worker_that_is_killed_is_replaced_and_what_it_had_counted_is_kept(
    store: Server, redis_cli: Any
) -> None:
    call = fixed()
    async with simulated() as provider, gate_of(2, provider.base_url, store.url) as gate:
        for _ in range(CALLS):
            assert await asked(gate, call.body, call.simulate) == 200
        await counted(gate, CALLS)
        before = workers(gate)
        for number, victim in enumerate(before, start=1):
            victim.kill()
            await all_serve(gate, 2 + number)
        after = workers(gate)
        found = await scraped(gate)
        assert found.value("requests_total", outcome="complete") == CALLS
        assert found.value("worker_restarts_total") == 2
        assert found.value("workers") == 2
        for _ in range(10):
            assert await asked(gate, call.body, call.simulate) == 200
        assert (await counted(gate, CALLS + 10)).value("requests_total", outcome="complete") == CALLS + 10
        said = gate.said("a worker ended and is replaced")
    assert not {process.pid for process in before} & {process.pid for process in after}
    assert [line["exit_code"] for line in said] == [-signal.SIGKILL] * 2


async def test_what_a_killed_worker_had_in_flight_is_not_in_flight_for_ever(store: Server) -> None:
    async with simulated() as provider, gate_of(1 + 1, provider.base_url, store.url) as gate:
        calls = [asyncio.create_task(asked(gate, chat(), "hang_before_headers")) for _ in range(4)]
        await until(lambda: provider.received == 4)
        assert (await scraped(gate)).value("inflight") == 4
        for process in workers(gate):
            process.kill()
        await asyncio.gather(*calls, return_exceptions=True)
        await all_serve(gate, 4)
        assert (await scraped(gate)).value("inflight") == 0


async def test_the_embedded_store_is_started_once_and_stopped_in_the_end(tmp_path: Path) -> None:
    async with simulated() as provider, gate_of(3, provider.base_url, None, data_dir=tmp_path) as gate:
        assert await asked(gate, chat()) == 200
        running = [
            process
            for process in psutil.process_iter(["cmdline"])
            if str(tmp_path) in " ".join(process.info["cmdline"] or [])
        ]
        gate.signal(signal.SIGTERM)
        assert await gate.ended() == 0
    assert len(running) == 1
    assert not alive(running[0])
    assert (tmp_path / "store" / "store.log").read_text().count("is starting") == 1


EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\ndata: [DONE]\n\n'


async def test_a_stop_lets_every_worker_end_what_it_has(store: Server) -> None:
    go_on = asyncio.Event()

    async def slow(peer: Conversation) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + EVENT)
        await go_on.wait()
        await peer.say(EVENT + USAGE)

    async def stream(gate: Process, begun: "asyncio.Queue[None]") -> bytes:
        async with client(gate.url) as http, http.stream("POST", CHAT, content=chat(stream=True)) as response:
            parts = response.aiter_raw()
            first = await anext(parts)
            begun.put_nowait(None)
            return first + b"".join([part async for part in parts])

    async with raw_server(slow) as provider, gate_of(2, f"{provider.url}/v1", store.url) as gate:
        begun: asyncio.Queue[None] = asyncio.Queue()
        streams = [asyncio.create_task(stream(gate, begun)) for _ in range(6)]
        for _ in streams:
            await begun.get()
        processes = workers(gate)
        gate.signal(signal.SIGTERM)
        await until(lambda: not _listens(gate))
        go_on.set()
        for each in await asyncio.gather(*streams):
            assert each.endswith(b"data: [DONE]\n\n")
        assert await gate.ended() == 0
        lines = gate.said("request")
    assert [line["ending"] for line in lines] == ["complete"] * 6
    assert len(processes) == 2
    assert not any(map(alive, processes))


def _listens(gate: Process) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(gate.url.rpartition(":")[2]))) == 0


async def test_workers_stop_when_their_supervisor_is_gone(store: Server) -> None:
    async with simulated() as provider, gate_of(2, provider.base_url, store.url) as gate:
        processes = workers(gate)
        gate.signal(signal.SIGKILL)
        await until(lambda: not any(map(alive, processes)))
        assert len(gate.said("the supervisor is gone; this worker stops")) == 2
        assert len(gate.said("stopped")) == 2


async def test_a_second_gate_cannot_have_the_port(store: Server) -> None:
    async with simulated() as provider, gate_of(2, provider.base_url, store.url) as gate:
        port = gate.url.rpartition(":")[2]
        for number in ("1", "2"):
            ran = await asyncio.to_thread(serve, REDIS_URL=store.url, PORT=port, WORKERS=number)
            assert ran.returncode == 1
            assert ran.stderr == f"tokengate serve: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def serve(**environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tokengate", "serve"]
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | environ
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False, cwd="/tmp")


def test_what_keeps_one_from_starting_is_said_once_and_ends_all(store: Server, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text("{")
    ran = serve(REDIS_URL=store.url, PORT=str(free_port()), WORKERS="4", PRICING_FILE=str(tmp_path / "prices.json"))
    assert ran.returncode == 1
    assert ran.stderr.count("tokengate serve: line 1") == 1
    assert ran.stdout == ""


def test_a_worker_that_ends_again_and_again_is_started_more_and_more_slowly() -> None:
    script = textwrap.dedent(
        """
        import os, signal, time
        from tokengate.telemetry import configure_logging
        from tokengate.telemetry.metrics import RESTARTS_AT, PROCESS, new_counts
        from tokengate.workers import Workers

        def work(place):
            place.ready()
            if place.index == 1:
                if place.regions[1].cells[place.regions[1].row(PROCESS, ()) + RESTARTS_AT] == 3:
                    os.kill(os.getppid(), signal.SIGTERM)
                    time.sleep(60)
                return 3
            signal.pause()
            return 0

        configure_logging(0)
        raise SystemExit(Workers(work, [new_counts(shared=True), new_counts(shared=True)], grace_s=1).run())
        """
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    said = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["pause_s"] for line in said] == [0.2, 0.4, 0.8]
    assert [(line["worker"], line["exit_code"]) for line in said] == [(1, 3)] * 3
    assert ran.returncode == 0


def test_workers_share_what_may_be_spent_without_the_store() -> None:
    settings = load({"WORKERS": "3", "STORE_ALLOWANCE": "1.00"}, env_file=None).settings
    assert _share(settings).store_allowance == 333_333_333


def test_a_reserved_port_takes_calls_only_where_a_worker_listens() -> None:
    with reserve("127.0.0.1", 0) as reserved:
        place = reserved.getsockname()
        with socket.socket() as probe:
            assert probe.connect_ex(place) != 0
        with listen_beside(reserved), listen_beside(reserved), socket.socket() as probe:
            assert probe.connect_ex(place) == 0
            for take in (listen, reserve):
                with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{place[1]}: Address already in use"):
                    take(*place)

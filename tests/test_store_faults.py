"""Stores that break under load: nothing is lost, nothing is charged twice, and the next good request works.

The truth is in the books of the simulated provider: what it bills for is what the store must say was spent, to the
nano-dollar, with nothing held, whatever broke in between.
"""

import asyncio
import itertools
import random
import resource
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support import redis_groups, redis_server
from tests.support.gate import until
from tests.support.hashes import happened, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import Scene, fixed, scene
from tests.support.wires import Wire, wire
from tokengate.domain import Scope
from tokengate.ledger import keys

WORKERS = 12
SESSIONS = 3
BUDGET = "1000"
STREAM, UNARY = fixed(stream=True), fixed()


class Load:
    """Callers that do not stop: unary calls and streams, of a few sessions."""

    def __init__(self, at: Scene) -> None:
        self._at = at
        self.statuses: Counter[int] = Counter()
        self._stopping = False
        self._workers = [asyncio.create_task(self._work(number)) for number in range(WORKERS)]

    async def _work(self, number: int) -> None:
        for turn in itertools.count():
            if self._stopping:
                return
            call = STREAM if (number + turn) % 2 else UNARY
            answer = await self._at.post(call.body, f"s{number % SESSIONS}", call.simulate)
            self.statuses[answer.status_code] += 1
            if answer.status_code != 200:
                await asyncio.sleep(0.01)

    async def answered(self, calls: int) -> None:
        """Wait for so many answers more."""
        goal = self.statuses[200] + calls
        await until(lambda: self.statuses[200] >= goal or self._failed())
        if self._failed():
            await self.stop()

    def _failed(self) -> bool:
        return any(worker.done() for worker in self._workers)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._workers)


async def nothing_lost(at: Scene, cli: "redis.Redis") -> None:
    """The next good request works, and the store and the provider agree."""
    answer = await at.post(UNARY.body, "s0", UNARY.simulate)
    assert answer.status_code == 200
    await at.gate.idle()
    names = [f"s{number}" for number in range(SESSIONS)]
    assert [held_nano(cli, name) for name in names] == [0] * SESSIONS
    assert sum(spent_nano(cli, name) for name in names) == at.provider.billed_nano()
    assert cli.zcard(keys.leases("default")) == 0
    assert at.provider.total["cut"] == 0


@contextmanager
def kept(fsync: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        yield Path(folder), ("--appendonly", "yes", "--appendfsync", fsync)


@pytest.mark.parametrize(
    ("binary", "ending", "fsync"),
    [
        (None, signal.SIGTERM, "always"),
        (None, signal.SIGKILL, "always"),
        (None, signal.SIGKILL, "everysec"),
        (redis_server.valkey(), signal.SIGKILL, "always"),
    ],
)
async def test_a_server_restarted_under_load(binary: str | None, ending: signal.Signals, fsync: str) -> None:
    with kept(fsync) as (folder, options):
        server = redis_server.start(folder, *options, binary=binary)
        try:
            async with scene(server.url, default_budget=BUDGET) as at:
                load = Load(at)
                for _ in range(2):
                    await load.answered(60)
                    server.process.send_signal(ending)
                    server.process.wait()
                    server = redis_server.start(folder, *options, binary=binary)
                await load.answered(60)
                await load.stop()
                assert set(load.statuses) <= {200, 503}
                with server.client() as cli:
                    await nothing_lost(at, cli)
        finally:
            redis_server.stop(server)


# --- one server takes another's place ---


async def under_way(at: Scene, count: int) -> "list[asyncio.Task[object]]":
    """Calls that the provider has, and answers in a while."""
    slow, before = fixed(simulate="slow_headers:700"), at.provider.received
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(at.post(slow.body, f"s{number % SESSIONS}", slow.simulate)) for number in range(count)
    ]
    await until(lambda: at.provider.received == before + count)
    return tasks


async def fail_over(group: redis_groups.Group) -> None:
    """Kill the master with calls held, others under way to it, and more that come while there is none."""
    async with scene(group.url, default_budget=BUDGET, store_timeout_ms=15_000) as at:
        load = Load(at)
        await load.answered(60)
        await load.stop()
        held = await under_way(at, 9)
        # What a master has said yes to and not told its replica is lost with it: that is Redis's own promise.
        await group.replicated()
        group.master.kill()
        load = Load(at)
        await load.answered(60)
        await load.stop()
        assert set(load.statuses) == {200}
        answers = await asyncio.gather(*held)
        assert [getattr(answer, "status_code", None) for answer in answers] == [200] * 9
        assert group.replica.is_master()
        with group.replica.client() as cli:
            await nothing_lost(at, cli)
            assert [each for each in happened(cli) if each["kind"] != "budget"] == []


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "tls and passwords"])
async def test_a_sentinel_puts_a_replica_in_the_place_of_a_killed_master(guarded: bool) -> None:
    async with redis_groups.sentinel(guarded=guarded) as group:
        await fail_over(group)


@pytest.mark.parametrize("guarded", [False, True], ids=["plain", "tls and passwords"])
async def test_a_cluster_puts_a_replica_in_the_place_of_a_killed_master(guarded: bool) -> None:
    async with redis_groups.cluster(keys.scope(Scope("default", "session", "s0")), guarded=guarded) as group:
        await fail_over(group)


async def test_holds_that_a_failover_has_lost_are_charged_by_their_settlement() -> None:
    async with (
        redis_groups.sentinel() as group,
        scene(group.url, default_budget=BUDGET, store_timeout_ms=15_000) as at,
    ):
        assert (await at.post(UNARY.body, "s0", UNARY.simulate)).status_code == 200
        await at.gate.idle()
        await group.replicated()
        # From here on the replica hears nothing more from its master.
        group.replica.process.send_signal(signal.SIGSTOP)
        with group.master.client() as master:
            master.client_kill_filter(_type="replica")
        held = await under_way(at, 6)
        group.master.kill()
        group.replica.process.send_signal(signal.SIGCONT)
        answers = await asyncio.gather(*held)
        assert [getattr(answer, "status_code", None) for answer in answers] == [200] * 6
        await at.gate.idle()
        with group.replica.client() as cli:
            assert [each["kind"] for each in happened(cli)] == ["lost"] * 6
            assert sum(spent_nano(cli, f"s{number}") for number in range(SESSIONS)) == at.provider.billed_nano()


# --- scripts ---


async def test_a_server_that_forgets_the_scripts_again_and_again(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, default_budget=BUDGET) as at:
        load = Load(at)
        for _ in range(10):
            await load.answered(10)
            redis_cli.script_flush()
        await load.stop()
        assert set(load.statuses) == {200}
        await nothing_lost(at, redis_cli)


async def test_evalsha_and_script_forbidden_while_calls_are_under_way(store: Server, redis_cli: "redis.Redis") -> None:
    redis_cli.execute_command("ACL", "SETUSER", "gate", "on", ">secret", "~*", "&*", "+@all")
    try:
        async with scene(f"unix://gate:secret@{store.socket}", default_budget=BUDGET) as at:
            load = Load(at)
            await load.answered(30)
            redis_cli.execute_command("ACL", "SETUSER", "gate", "-evalsha", "-script")
            await load.answered(60)
            await load.stop()
            assert set(load.statuses) == {200}
            await nothing_lost(at, redis_cli)
    finally:
        redis_cli.execute_command("ACL", "DELUSER", "gate")


# --- full, slow, cut ---


async def test_a_server_out_of_memory_refuses_in_words_and_recovers() -> None:
    with redis_server.redis_server("--maxmemory-policy", "noeviction") as server, server.client() as cli:
        async with scene(server.url, default_budget=BUDGET) as at:
            load = Load(at)
            await load.answered(40)
            cli.config_set("maxmemory", 1)
            await until(lambda: load.statuses[503] >= 20)
            refused = await at.post(UNARY.body, "s0", UNARY.simulate)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            cli.config_set("maxmemory", 0)
            await load.answered(40)
            await load.stop()
            assert set(load.statuses) == {200, 503}
            await nothing_lost(at, cli)


async def test_a_server_whose_disk_is_full_admits_nothing_until_it_can_write_again() -> None:
    with kept("everysec") as (folder, options):
        server = redis_server.start(folder, *options)
        try:
            async with scene(server.url, default_budget=BUDGET) as at:
                load = Load(at)
                await load.answered(40)
                # No file may grow: what a full disk is to a program that writes.
                signals = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
                await until(lambda: load.statuses[503] >= 20)
                refused = await at.post(UNARY.body, "s0", UNARY.simulate)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
                resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, signals)
                await load.answered(40)
                await load.stop()
                assert set(load.statuses) == {200, 503}
                with server.client() as cli:
                    await nothing_lost(at, cli)
        finally:
            redis_server.stop(server)


async def test_a_slow_store_slows_calls_and_loses_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    async with wire(store.socket) as slow, scene(slow.url, default_budget=BUDGET) as at:
        load = Load(at)
        await load.answered(20)
        slow.delay_s = 0.5
        await load.answered(2 * WORKERS)
        slow.delay_s = 0.0
        await load.stop()
        assert set(load.statuses) == {200}
        await nothing_lost(at, redis_cli)


async def test_a_store_slower_than_its_timeout_is_away_and_keeps_no_hold(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with wire(store.socket) as slow, scene(slow.url, default_budget=BUDGET, store_timeout_ms=100) as at:
        load = Load(at)
        await load.answered(20)
        slow.delay_s = 0.5
        await until(lambda: load.statuses[503] >= WORKERS)
        slow.delay_s = 0.0
        await load.answered(20)
        await load.stop()
        assert set(load.statuses) == {200, 503}
        await nothing_lost(at, redis_cli)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mode", ["closed", "allowance"])
async def test_a_connection_cut_again_and_again_in_the_midst_of_commands_and_replies(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path, seed: int, mode: str
) -> None:
    async with (
        wire(store.socket) as broken,
        scene(
            broken.url, default_budget=BUDGET, store_timeout_ms=500, on_store_failure=mode, data_dir=tmp_path,
            store_allowance="100",
        ) as at,
    ):  # fmt: skip
        load = Load(at)
        await load.answered(20)
        broken.cuts = random.Random(seed)
        await until(lambda: broken.cut >= 40 or load._failed())
        broken.cuts = None
        await load.answered(20)
        await load.stop()
        assert set(load.statuses) <= {200, 503}
        await until(lambda: not list(tmp_path.glob("journal/*.journal")))
        await nothing_lost(at, redis_cli)


async def test_a_wire_that_breaks_at_every_byte_of_a_reply(store: Server, redis_cli: "redis.Redis") -> None:
    """The settlement's reply is 12 bytes or so, a reservation's some 80: each place in it once."""
    async with wire(store.socket) as broken, scene(broken.url, default_budget=BUDGET) as at:
        assert (await at.post(UNARY.body, "s0", UNARY.simulate)).status_code == 200
        for turn, bytes_before in enumerate(range(0, 100, 3)):
            await at.gate.idle()
            cut_next_reply(broken, bytes_before)
            assert (await at.post(UNARY.body, f"s{turn % SESSIONS}", UNARY.simulate)).status_code == 200
        await nothing_lost(at, redis_cli)


def cut_next_reply(broken: Wire, bytes_before: int) -> None:
    """Break the next connection after so many bytes of replies, and leave later ones alone."""
    broken.reply_bytes_left = bytes_before

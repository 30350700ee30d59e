"""Several real servers that stand in for each other: a master with a replica and a Sentinel, and a Cluster."""

import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import redis

from tests.support import certificates
from tests.support.gate import until
from tests.support.servers import free_port

PASSWORD, SENTINEL_PASSWORD = "a master's: secret", "a watcher's secret"


@dataclass(frozen=True)
class Guard:
    """Servers that speak TLS only, and ask for a password."""

    made: certificates.Certificates

    def server(self, port: int) -> list[str]:
        secrets = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        return [*secrets, "--tls-replication", "yes", "--tls-cluster", "yes", *self._tls(port)]

    def watcher(self, port: int) -> str:
        options = " ".join(self._tls(port)).replace(" --", "\n").removeprefix("--")
        secrets = f'sentinel auth-pass mine "{PASSWORD}"\nrequirepass "{SENTINEL_PASSWORD}"'
        return f"{options}\ntls-replication yes\n{secrets}\n"

    def _tls(self, port: int) -> list[str]:
        files = ("--tls-cert-file", self.made.certificate, "--tls-key-file", self.made.key)
        trust = ("--tls-ca-cert-file", self.made.authority, "--tls-auth-clients", "no")
        return [*map(str, (*files, *trust)), "--port", "0", "--tls-port", str(port)]

    @property
    def query(self) -> str:
        return f"?ssl_ca_certs={quote(str(self.made.authority))}"


@dataclass
class Node:
    """A server on a port of 127.0.0.1."""

    port: int
    process: "subprocess.Popen[bytes]"
    guard: Guard | None = None
    password: str = PASSWORD

    def client(self) -> "redis.Redis":
        if self.guard is None:
            return redis.Redis(port=self.port, decode_responses=True)
        return redis.Redis(
            port=self.port, decode_responses=True, password=self.password, ssl=True,
            ssl_ca_certs=str(self.guard.made.authority),
        )  # fmt: skip

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False

    def is_master(self) -> bool:
        """Whether it says so; one that is gone does not."""
        try:
            with self.client() as client:
                role: list[str] = client.execute_command("ROLE")
        except redis.exceptions.RedisError:
            return False
        return role[0] == "master"


@contextmanager
def node(
    folder: Path,
    *options: str | int,
    config: Path | None = None,
    port: int | None = None,
    guard: Guard | None = None,
) -> Iterator[Node]:
    """Run a server in a directory of its own."""
    port = port or free_port()
    place = folder / str(port)
    place.mkdir()
    given = [str(config), "--sentinel"] if config else ["--port", str(port), "--dir", str(place), "--save", ""]
    given += guard.server(port) if guard and not config else []
    process = subprocess.Popen(
        ["redis-server", *given, *map(str, options)], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield Node(port, process, guard, SENTINEL_PASSWORD if config else PASSWORD)
    finally:
        process.kill()
        process.wait()


@dataclass
class Group:
    url: str
    master: Node
    replica: Node
    """Takes the master's place."""

    async def replicated(self) -> None:
        """Wait until the replica has everything that the master has said yes to."""
        with self.master.client() as master, self.replica.client() as replica:

            def offset(of: "redis.Redis", name: str) -> int:
                found: dict[str, int] = of.info("replication")
                return found[name]

            reached = offset(master, "master_repl_offset")
            await until(lambda: offset(replica, "slave_repl_offset") >= reached)


@asynccontextmanager
async def sentinel(*, guarded: bool = False) -> AsyncIterator[Group]:
    """A master, a replica, and a Sentinel that watches them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg", dir="/tmp")))
        guard = Guard(certificates.make(folder)) if guarded else None
        quick = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", 0)
        master = stack.enter_context(node(folder, *quick, guard=guard))
        await until(master.answers)
        replica = stack.enter_context(node(folder, *quick, "--replicaof", f"127.0.0.1 {master.port}", guard=guard))
        await until(lambda: replica.answers() and _linked(replica))
        watch, config = free_port(), folder / "sentinel.conf"
        config.write_text(
            f"port {watch}\ndir {folder}\nsentinel monitor mine 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mine 300\nsentinel failover-timeout mine 3000\n"
            + (guard.watcher(watch) if guard else "")
        )
        watcher = stack.enter_context(node(folder, config=config, port=watch, guard=guard))
        await until(watcher.answers)
        with watcher.client() as client:
            await until(lambda: len(client.sentinel_slaves("mine")) == 1)
        url = f"redis+sentinel://127.0.0.1:{watch}/mine"
        if guard:
            user = f":{quote(PASSWORD)}@"
            own = f"&sentinel_password={quote(SENTINEL_PASSWORD)}"
            url = f"rediss+sentinel://{user}127.0.0.1:{watch}/mine{guard.query}{own}"
        yield Group(url, master, replica)


@asynccontextmanager
async def cluster(key: str, *, guarded: bool = False) -> AsyncIterator[Group]:
    """Three masters, and a replica of the one that owns a key."""
    enabled = ("--cluster-enabled", "yes", "--cluster-node-timeout", 500, "--cluster-replica-validity-factor", 0)
    quick = (*enabled, "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", 0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tg", dir="/tmp")))
        guard = Guard(certificates.make(folder)) if guarded else None
        nodes = [
            stack.enter_context(node(folder, *quick, "--cluster-port", free_port(), guard=guard)) for _ in range(4)
        ]
        await until(lambda: all(each.answers() for each in nodes))
        with ExitStack() as clients:
            say = [clients.enter_context(each.client()) for each in nodes]
            bounds = (0, 5461, 10923, 16384)
            for index in range(3):
                say[index].execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[index], bounds[index + 1] - 1)
                say[index].execute_command("CLUSTER", "SET-CONFIG-EPOCH", index + 1)
            for each in nodes[1:]:
                bus: dict[str, str] = say[nodes.index(each)].config_get("cluster-port")
                say[0].execute_command("CLUSTER", "MEET", "127.0.0.1", each.port, bus["cluster-port"])
            slot: int = say[0].execute_command("CLUSTER", "KEYSLOT", key)
            owner = next(index for index in range(3) if slot < bounds[index + 1])
            identity: str = say[owner].execute_command("CLUSTER", "MYID")
            await until(lambda: identity in str(say[3].execute_command("CLUSTER", "NODES")))
            say[3].execute_command("CLUSTER", "REPLICATE", identity)
            await until(lambda: _linked(nodes[3]))
            await until(lambda: all("cluster_state:ok" in str(each.execute_command("CLUSTER", "INFO")) for each in say))
            # All must know the replica as one, else the masters do not vote for it.
            await until(lambda: all(_slaves(each) == 1 for each in say))
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in nodes)
        url = f"rediss+cluster://:{quote(PASSWORD)}@{hosts}/{guard.query}" if guard else f"redis+cluster://{hosts}"
        yield Group(url, nodes[owner], nodes[3])


def _slaves(client: "redis.Redis") -> int:
    found: dict[str, dict[str, str]] = client.execute_command("CLUSTER NODES")
    return sum("slave" in each["flags"] for each in found.values())


def _linked(replica: Node) -> bool:
    with replica.client() as client:
        found: dict[str, str] = client.info("replication")
    return found.get("master_link_status") == "up"

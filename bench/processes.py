"""The processes of a measurement: started on a core, waited for until they answer, ended by their id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
READY_S_MAX: Final = 20.0
STOP_S_MAX: Final = 10.0
LOG_LINES_SHOWN: Final = 20
KEY: Final = "sk-bench"

_CORES: Final = sorted(os.sched_getaffinity(0))
GATE_CORE: Final = _CORES[0]
OTHER_CORE: Final = _CORES[-1]


class BenchError(RuntimeError):
    """A measurement could not be made; the message says what is missing or what failed."""


@dataclass(frozen=True, slots=True)
class Hop:
    """A server that stands between the load and the upstream."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """The processor time it has used, in user and in kernel mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def stay_off_the_gates_core() -> None:
    """Keep this process, and what it starts without saying otherwise, on the other core."""
    os.sched_setaffinity(0, {OTHER_CORE})


def tool(name: str) -> str:
    """The path of a program that a measurement needs."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError(f"{name} is needed for this measurement: install it (Debian: apt-get install {name})")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(port: int, path: str | None = None) -> bool:
    """Whether something listens; with a path, whether it answers a GET with 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            if path is None:
                return True
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(4096).split(b"\r\n", 1)[0]
    except OSError:
        return False


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    *,
    port: int,
    ready_path: str | None = None,
    core: int = OTHER_CORE,
    env: Mapping[str, str] | None = None,
    poll_s: float = 0.02,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; it has begun to answer when the block begins.

    What it prints goes to a file that is shown only if it does not come up: a terminal or a pipe would slow it.
    """
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory(prefix="bench-") as folder:
        pinned = [tool("taskset"), "-c", str(core), *command]
        # An empty working directory: no .env of whoever runs this may change what is measured.
        found = dict(os.environ if env is None else env) | {"PYTHONPATH": str(HERE.parent)}
        process = subprocess.Popen(pinned, stdout=log, stderr=log, env=found, cwd=folder)
        try:
            deadline = time.monotonic() + READY_S_MAX
            while not answers(port, ready_path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    tail = b"\n".join(log.read().splitlines()[-LOG_LINES_SHOWN:]).decode(errors="replace")
                    raise BenchError(f"{name} did not come up:\n{tail}")
                time.sleep(poll_s)
            yield process
        finally:
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process, kindly at first."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own that keeps nothing; gives its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        path, port = f"{folder}/redis.sock", free_port()
        command = [tool("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", path]
        command += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", folder]
        with running("redis-server", command, port=port):
            yield f"unix://{path}"


@contextmanager
def nginx(server: str, port: int, core: int, before: str = "") -> Iterator[Hop]:
    """An nginx of one process with one server, written as the inside of its `server` block."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder:
        temp = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;"
            "events { worker_connections 4096; }"
            f"http {{ access_log off; keepalive_requests 100000000; {temp} {before} "
            f"server {{ listen 127.0.0.1:{port} backlog=4096; {server} }} }}"
        )
        with running("nginx", [tool("nginx"), "-p", folder, "-c", str(config)], port=port, core=core) as process:
            yield Hop(port, process.pid)


@contextmanager
def static_upstream() -> Iterator[int]:
    """The upstream of the throughput measurements: nginx giving one chat completion to every POST; gives its port."""
    port = free_port()
    answer = (HERE / "completion.json").read_text().strip()
    with nginx(f"location / {{ default_type application/json; return 200 '{answer}'; }}", port, OTHER_CORE):
        yield port


def base_url(port: int) -> str:
    """What clients are told of an upstream."""
    return f"http://127.0.0.1:{port}/v1"


@contextmanager
def nginx_hop(upstream: str) -> Iterator[Hop]:
    """nginx as a plain reverse proxy that keeps its connections and buffers nothing."""
    port = free_port()
    authority = upstream.removeprefix("http://").partition("/")[0]
    server = "location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ''; "
    server += "proxy_buffering off; proxy_request_buffering off; }"
    with nginx(server, port, GATE_CORE, f"upstream up {{ server {authority}; keepalive 128; }}") as hop:
        yield hop


@contextmanager
def plain_hop(upstream: str) -> Iterator[Hop]:
    """The server and the transport of the gate with no gate between them."""
    port = free_port()
    command = [sys.executable, "-m", "bench.plain", str(port), upstream]
    with running("the plain hop", command, port=port, core=GATE_CORE) as process:
        yield Hop(port, process.pid)


@contextmanager
def gate(upstream: str, redis_url: str, **settings: str) -> Iterator[Hop]:
    """A sidecar gate in front of an upstream."""
    port = free_port()
    with running(
        "the gate", gate_command(), port=port, ready_path="/readyz", core=GATE_CORE,
        env=gate_environment(upstream, redis_url, port, **settings),
    ) as process:  # fmt: skip
        yield Hop(port, process.pid)


def gate_command() -> list[str]:
    return [sys.executable, "-m", "tokengate", "serve", "--role", "sidecar"]


def gate_environment(upstream: str, redis_url: str, port: int, **settings: str) -> dict[str, str]:
    """The environment of a gate: nothing of the caller's own settings, and a budget that is never met unless said.

    What is measured is sent again and again, so a loop is told and not frozen: it costs what enforcing does.
    """
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    own = {"OPENAI_BASE_URL": upstream, "OPENAI_API_KEY": "sk-provider", "REDIS_URL": redis_url}
    own |= {"HOST": "127.0.0.1", "PORT": str(port), "DEFAULT_BUDGET": "1000000.00"}
    own |= dict.fromkeys(("LOOPS", "TOOL_LOOPS", "GROWTH", "VELOCITY"), "shadow")
    return kept | own | settings


@contextmanager
def all_of(*managers: "contextlib.AbstractContextManager[Hop]") -> Iterator[list[Hop]]:
    """Several servers at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(manager) for manager in managers]

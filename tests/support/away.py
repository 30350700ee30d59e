"""A store that goes away and comes back."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import redis_server

KEPT = ("--appendonly", "yes", "--appendfsync", "always")


class Away:
    """A server that can be taken away and brought back with all that it knew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = redis_server.start(folder, *KEPT)

    @property
    def url(self) -> str:
        return self.server.url

    def leave(self) -> None:
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()

    def come_back(self) -> None:
        self.server = redis_server.start(self.folder, *KEPT)


@contextmanager
def away_server() -> Iterator[Away]:
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        running = Away(Path(folder))
        try:
            yield running
        finally:
            redis_server.stop(running.server)

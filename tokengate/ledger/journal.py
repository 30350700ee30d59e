"""What the store has not been told yet, on disk: a file of JSON lines, each of them safe before anyone relies on it.

A process has one journal at the most, made with its first line and removed when the store knows all of it. The first
line says whose it is; then a call admitted without the store has a line when it is held and one when it is charged. The
file is locked for as long as its process lives, so that a journal without a lock is one that somebody must take over.
It never decides anything and never speaks to the store.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from tokengate.ledger import Settlement

JOURNAL_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest journal of one process, about 60,000 calls; a call that it has no room for is not admitted."""

LINE_BYTES_MAX: Final = 8 * 1024
"""More than any line has: names have 128 characters, and a path a handful of limits."""

SUFFIX: Final = ".journal"

log = structlog.get_logger()


class JournalError(Exception):
    """A line could not be made safe: the disk is full, gone or broken, or the journal has its largest size."""


class Head(Struct, frozen=True, tag="journal", tag_field="line"):
    """The first line."""

    id: str
    tenant: str
    store: str
    """Which store it is for, in the words of `Store.where`."""


class Held(Struct, frozen=True, tag="hold", tag_field="line"):
    """A call was admitted without the store; unless a charge follows, this is what it is charged."""

    settlement: Settlement


class Charged(Struct, frozen=True, tag="charge", tag_field="line"):
    """A call has ended."""

    settlement: Settlement
    certain_until_ms: int | None = None
    """Of a call that the store held: until when a store that knows no such hold must have lost it, and is to charge it.
    Later it may as well have forgotten one that was charged. None: the store never held it."""


Line = Head | Held | Charged
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Line)


class Journal:
    """The journal of this process. It lives in one event loop; the disk is waited for in a thread."""

    def __init__(self, folder: Path, tenant: str, store: str) -> None:
        self._folder = folder
        self._tenant = tenant
        self._store = store
        self._file: int | None = None
        self._size = 0
        self._queued = 0
        self._waiting: list[tuple[bytes, asyncio.Future[int]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.id = secrets.token_hex(8)
        self.lines = 0
        """How many lines are safe; the first has the number 1."""
        self._size = 0

    @property
    def path(self) -> Path:
        return self._folder / f"{self.id}{SUFFIX}"

    @property
    def idle(self) -> bool:
        """Nothing is being written."""
        return self._writing is None

    def has_room(self, lines: int) -> bool:
        """Whether so many lines more would fit, whatever they say."""
        return self._size + self._queued + lines * LINE_BYTES_MAX <= JOURNAL_BYTES_MAX

    def append(self, entry: Held | Charged) -> asyncio.Future[int]:
        """Write a line; the future gives its number once it is safe, or raises `JournalError`. Do not cancel it."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        line = _encoder.encode(entry) + b"\n"
        if len(line) > LINE_BYTES_MAX or not self.has_room(1):
            future.set_exception(JournalError(f"{self.path} has no room for it"))
            return future
        self._queued += len(line)
        self._waiting.append((line, future))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write())
        return future

    async def _write(self) -> None:
        """Make safe what has gathered while the disk was busy, all with one flush."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            self._queued = 0
            error = await asyncio.to_thread(self._commit, b"".join(line for line, _ in batch))
            for _, future in batch:
                if error is not None:
                    future.set_exception(error)
                else:
                    self.lines += 1
                    future.set_result(self.lines)
        self._writing = None

    def _commit(self, data: bytes) -> JournalError | None:
        try:
            if self._file is None:
                self._file = self._create()
            try:
                _write_all(self._file, data)
                os.fsync(self._file)
            except OSError:
                # Half a line must not stand before the next one.
                os.ftruncate(self._file, self._size)
                raise
        except OSError as error:
            return JournalError(f"{self.path} cannot be written: {error.strerror}")
        self._size += len(data)
        return None

    def _create(self) -> int:
        make_folder(self._folder)
        # Nobody may find it before it is locked and has its head.
        hidden = self.path.with_suffix(".new")
        file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            head = _encoder.encode(Head(self.id, self._tenant, self._store)) + b"\n"
            _write_all(file, head)
            os.fsync(file)
            hidden.rename(self.path)
            _sync(self._folder)
        except OSError:
            os.close(file)
            hidden.unlink(missing_ok=True)
            raise
        self._size = len(head)
        self.lines = 1
        return file

    def remove(self) -> None:
        """The store knows all of it: begin another one. Only while `idle`."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            _sync(self._folder)
            os.close(self._file)
            self._file = None
        self._begin()

    async def aclose(self) -> None:
        """Let go of the file; whoever opens the folder next takes it over."""
        while self._writing is not None:
            await asyncio.wait([self._writing])
        if self._file is not None:
            os.close(self._file)
            self._file = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """The journal of a process that has ended, locked by this one."""

    path: Path
    head: Head
    file: int

    def charges(self) -> list[tuple[int, Charged]]:
        """What is to be posted, numbered; whoever reads it, and however often, numbers it alike.

        Calls that were held and never charged follow after the last line: charged in full, as after a lost lease.
        """
        held: dict[str, Held] = {}
        found: list[tuple[int, Charged]] = []
        number = 0
        for number, line in _lines(self.path):
            if isinstance(line, Held):
                held[line.settlement.hold_id] = line
            elif isinstance(line, Charged):
                held.pop(line.settlement.hold_id, None)
                found.append((number, line))
        found.extend((number + index, Charged(each.settlement)) for index, each in enumerate(held.values(), 1))
        return found

    def remove(self) -> None:
        """The store knows all of it."""
        self.path.unlink(missing_ok=True)
        _sync(self.path.parent)
        self.release()

    def release(self) -> None:
        """Leave it to somebody else."""
        os.close(self.file)


def orphans(folder: Path, tenant: str, store: str) -> list[Orphan]:
    """Take over the journals of ended processes that are for this tenant of this store; others are reported."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            orphan = _adopted(path, file, tenant, store)
            if orphan is None:
                os.close(file)
            else:
                found.append(orphan)
    return found


def _adopted(path: Path, file: int, tenant: str, store: str) -> Orphan | None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino != os.fstat(file).st_ino:
            return None
    except OSError:
        # Its process lives, or somebody else has just posted and removed it.
        return None
    head = next((line for _, line in _lines(path)), None)
    if not isinstance(head, Head):
        log.critical("a journal cannot be read, and its charges are not posted", journal=str(path))
        return None
    if (head.tenant, head.store) != (tenant, store):
        log.error(
            "a journal is for another store, and its charges are not posted",
            journal=str(path), tenant=head.tenant, store=head.store,
        )  # fmt: skip
        return None
    return Orphan(path, head, file)


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    """The lines with their numbers. What follows the last line end was never safe, so nobody has relied on it."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            try:
                line = _decoder.decode(text)
            except msgspec.MsgspecError:
                log.critical("a line of a journal cannot be read", journal=str(path), number=number)
            else:
                yield number, line


def make_folder(folder: Path) -> None:
    """See that there is a folder for journals.

    Raises:
        OSError: there can be none.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync(folder: Path) -> None:
    """Make a name's coming or going safe."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

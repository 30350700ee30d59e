"""Counters that outlive whoever counts: whole numbers in memory that the worker processes of a gate share.

Each worker writes to a region of its own, without locks, and can read all of them. So whichever worker is asked knows
what all have counted, a worker that is killed loses nothing that it had counted, and whoever takes its place goes on
in the same region. A region is made before the workers are forked; its size is fixed, and with it how many rows it has
room for. What does not fit is counted in one row more of its kind, the overflow.

A row is what is counted for one set of labels: so many cells of 64 bits, which `cells[row + n] += 1` changes. What the
cells mean is for `metrics` to know.
"""

import mmap
from collections.abc import Iterator, Sequence
from typing import Final

import orjson
from msgspec import Struct

NAMES_BYTES_MAX: Final = 1024 * 1024
"""Room for the labels of a region's rows; pages that are never written take no memory."""

_LENGTH_BYTES: Final = 2
_CELL_BYTES: Final = 8
_EMPTY: Final[tuple[str, ...]] = ()

Labels = tuple[str, ...]


class Kind(Struct, frozen=True):
    """What rows have in common."""

    number: int
    width: int
    """Cells in a row."""
    rows_max: int
    """How many sets of labels are told apart."""
    overflow: Labels = _EMPTY
    """The labels of the row that all others share."""


class Counts:
    """One worker's region."""

    def __init__(self, kinds: Sequence[Kind]) -> None:
        self._kinds = tuple(kinds)
        self._starts: list[int] = []
        size = 0
        for kind in self._kinds:
            self._starts.append(size)
            size += kind.width * (kind.rows_max + 1)
        # Anonymous and shared: a fork writes to the same memory.
        self.cells = memoryview(mmap.mmap(-1, size * _CELL_BYTES)).cast("q")
        """All cells; rows are offsets into it."""
        self._names = mmap.mmap(-1, NAMES_BYTES_MAX)
        self._end = 0
        self._rows: tuple[dict[Labels, int], ...] = tuple({} for _ in self._kinds)

    def adopt(self) -> None:
        """Go on where another process has stopped."""
        self._sync()

    def find(self, kind: Kind, labels: Labels) -> int | None:
        """The row of these labels, if they have one of their own."""
        return self._rows[kind.number].get(labels)

    def row(self, kind: Kind, labels: Labels) -> int:
        """The row of these labels; made, if they have none and there is room, else the overflow row of the kind."""
        rows = self._rows[kind.number]
        found = rows.get(labels)
        if found is not None:
            return found
        start = self._starts[kind.number]
        entry = orjson.dumps((kind.number, *labels))
        end = self._end + _LENGTH_BYTES + len(entry)
        if len(rows) >= kind.rows_max or end + _LENGTH_BYTES > NAMES_BYTES_MAX or len(entry) > 0xFFFF:
            return start
        # Its length last: whoever reads meanwhile sees the whole entry or none. Behind it there is none, whatever a
        # process may have left there that was killed in this very place.
        self._names[self._end + _LENGTH_BYTES : end + _LENGTH_BYTES] = entry + bytes(_LENGTH_BYTES)
        self._names[self._end : self._end + _LENGTH_BYTES] = len(entry).to_bytes(_LENGTH_BYTES, "big")
        self._end = end
        row = rows[labels] = start + kind.width * (len(rows) + 1)
        return row

    def rows(self, kind: Kind) -> Iterator[tuple[Labels, int]]:
        """All rows of a kind with their labels: the overflow only if something was counted there."""
        self._sync()
        start = self._starts[kind.number]
        if any(self.cells[start : start + kind.width]):
            yield kind.overflow, start
        yield from self._rows[kind.number].items()

    def _sync(self) -> None:
        """Read the labels that the owner of the region has added meanwhile."""
        while True:
            begin = self._end + _LENGTH_BYTES
            size = int.from_bytes(self._names[self._end : begin], "big")
            if size == 0:
                return
            number, *labels = orjson.loads(self._names[begin : begin + size])
            rows, kind = self._rows[number], self._kinds[number]
            rows[tuple(labels)] = self._starts[number] + kind.width * (len(rows) + 1)
            self._end = begin + size

"""Counters as rows of cells, which outlive whoever counts where several worker processes count for one gate.

A row is what is counted for one set of labels: so many cells, which `cells[row + n] += 1` changes. What they mean is
for `metrics` to know. The size of a region is fixed, and with it how many rows it has room for; what does not fit is
counted in one row more of its kind, the overflow.

The cells of a gate that is one process are a list, which is four times as fast as anything that can be shared. Where
there are several workers, each writes to a region of shared memory, without locks, and can read all of them. So
whichever worker is asked knows what all have counted, a worker that is killed loses nothing that it had counted, and
whoever takes its place goes on in the same region. Such regions are made before the workers are forked.
"""

import mmap
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Union

import orjson
from msgspec import Struct

NAMES_BYTES_MAX: Final = 1024 * 1024
"""Room for the labels of a region's rows; pages that are never written take no memory."""

_LENGTH_BYTES: Final = 2
_CELL_BYTES: Final = 8
_EMPTY: Final[tuple[str, ...]] = ()

Labels = tuple[str, ...]
Cells = Union[list[int], "memoryview[int]"]


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

    def __init__(self, kinds: Sequence[Kind], *, shared: bool) -> None:
        """`shared`: with processes that are forked from now on."""
        self._kinds = tuple(kinds)
        self._starts: list[int] = []
        size = 0
        for kind in self._kinds:
            self._starts.append(size)
            size += kind.width * (kind.rows_max + 1)
        # Anonymous memory, which a fork writes to as well; 64 bits a cell.
        self.cells: Cells = memoryview(mmap.mmap(-1, size * _CELL_BYTES)).cast("q") if shared else [0] * size
        """All cells; rows are offsets into it."""
        self._names = mmap.mmap(-1, NAMES_BYTES_MAX) if shared else None
        self._end = 0
        self._rows: tuple[dict[Labels, int], ...] = tuple({} for _ in self._kinds)

    def adopt(self) -> None:
        """Go on where another process has stopped."""
        self._sync()

    def index(self, kind: Kind) -> Mapping[Labels, int]:
        """The rows of a kind by their labels, as far as they are known here; it grows with them."""
        return self._rows[kind.number]

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
        if self._names is not None:
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
        while self._names is not None:
            begin = self._end + _LENGTH_BYTES
            size = int.from_bytes(self._names[self._end : begin], "big")
            if size == 0:
                return
            number, *labels = orjson.loads(self._names[begin : begin + size])
            rows, kind = self._rows[number], self._kinds[number]
            rows[tuple(labels)] = self._starts[number] + kind.width * (len(rows) + 1)
            self._end = begin + size

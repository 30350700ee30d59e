"""Cells that processes share: nothing that was counted is lost, and there is an end to what is kept."""

import os

import pytest

from tokengate.telemetry.counts import NAMES_BYTES_MAX, Counts, Kind

FEW = Kind(0, 2, 3, ("others",))
ONE = Kind(1, 1, 1)


@pytest.fixture
def counts() -> Counts:
    return Counts((FEW, ONE), shared=True)


@pytest.fixture(params=[False, True], ids=["alone", "shared"])
def either(request: pytest.FixtureRequest) -> Counts:
    return Counts((FEW, ONE), shared=request.param)


def test_a_row_is_found_again_and_belongs_to_nobody_else(either: Counts) -> None:
    rows = [either.row(FEW, (name,)) for name in ("a", "b", "c")]
    assert [either.row(FEW, (name,)) for name in ("a", "b", "c")] == rows
    assert either.index(FEW)[("b",)] == rows[1]
    assert ("x",) not in either.index(FEW)
    cells = {row + at for row in (*rows, either.row(FEW, ("x",))) for at in range(FEW.width)}
    assert len(cells) == 4 * FEW.width
    assert either.row(ONE, ()) not in cells


def test_what_does_not_fit_is_counted_together(either: Counts) -> None:
    for name in "abcdefg":
        either.cells[either.row(FEW, (name,)) + 1] += 1
    assert [(labels, either.cells[row + 1]) for labels, row in either.rows(FEW)] == [
        (("others",), 4), (("a",), 1), (("b",), 1), (("c",), 1),
    ]  # fmt: skip


def test_the_overflow_is_shown_only_if_there_is_any(either: Counts) -> None:
    either.row(FEW, ("a",))
    assert [labels for labels, _ in either.rows(FEW)] == [("a",)]


@pytest.mark.parametrize("shared", [False, True])
def test_labels_that_do_not_fit_are_counted_together(shared: bool) -> None:
    many = Kind(0, 1, 1000, ("others",))
    counts = Counts((many,), shared=shared)
    name = "n" * 60_000
    for number in range(100):
        counts.cells[counts.row(many, (f"{number}{name}",))] += 1
    counts.cells[counts.row(many, ("x" * 70_000,))] += 1
    rows = dict(counts.rows(many))
    assert 0 < len(rows) - 1 <= NAMES_BYTES_MAX // 60_000
    assert sum(counts.cells[row] for row in rows.values()) == 101


def test_another_process_sees_it_at_once_and_goes_on_with_it(counts: Counts) -> None:
    def child(names: str) -> None:
        pid = os.fork()
        if pid == 0:
            counts.adopt()
            for name in names:
                counts.cells[counts.row(FEW, (name,))] += 10
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    child("aé")
    assert [(labels, counts.cells[row]) for labels, row in counts.rows(FEW)] == [(("a",), 10), (("é",), 10)]
    child("éb")
    assert {labels: counts.cells[row] for labels, row in counts.rows(FEW)} == {("a",): 10, ("é",): 20, ("b",): 10}


def test_labels_that_a_process_was_writing_when_it_was_killed_are_none(counts: Counts) -> None:
    pid = os.fork()
    if pid == 0:
        counts.row(FEW, ("a",))
        assert counts._names is not None
        # All but the length, which comes last.
        counts._names[counts._end + 2 : counts._end + 10] = b'[0,"torn'
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    counts.adopt()
    assert [labels for labels, _ in counts.rows(FEW)] == [("a",)]
    counts.row(FEW, ("b",))
    assert [labels for labels, _ in counts.rows(FEW)] == [("a",), ("b",)]

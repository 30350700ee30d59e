"""`export`: everything there is, as CSV for a spreadsheet or as JSON for a program, row by row.

The names of the columns are those of `--json`, but that instants are ISO 8601 and lose their `_ms`. A cell that a
spreadsheet would take for a formula is made text.
"""

import csv
import json
import sys
from collections.abc import AsyncIterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from tokengate.cli.budgets import KindOf, kind_of
from tokengate.cli.reach import Server, TokenFile, run
from tokengate.cli.say import Exit, fail, note
from tokengate.cli.spending import By, From, Only, Per, To, query_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokengate.control import Control
    from tokengate.control.words import Kind, SpendQuery

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")

Row = dict[str, Any]


class What(StrEnum):
    """What can be exported."""

    SESSIONS = "sessions"
    SPEND = "spend"
    EVENTS = "events"


def export(
    what: Annotated[What, typer.Argument(help="Every session as it stands, what was spent, or the events.")],
    form: Annotated[Literal["csv", "json"], typer.Option("--format")] = "csv",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to. Default: standard output.")] = None,
    kind: KindOf = "session",
    by: By = "model",
    per: Per = "day",
    from_: From = "month",
    to: To = "now",
    name: Only = "",
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Write sessions, spending or events as CSV or JSON. --by, --per, --from, --to and --name are for spending."""
    of = kind_of(kind)
    query = query_of(by, per, from_, to, name, 50) if what is What.SPEND else None

    async def write(control: "Control") -> int:
        with _opened(out) as file:
            writer = _Csv(file) if form == "csv" else _Json(file)
            async for row in _rows(control, what, of, query):
                writer.write(row)
            writer.end()
            return writer.rows

    rows = run(write, server, token_file)
    if out is not None:
        note(f"{rows:,} rows are in {out}")


async def _rows(control: "Control", what: What, kind: "Kind", query: "SpendQuery | None") -> AsyncIterator[Row]:
    from msgspec.structs import replace

    from tokengate.control.words import EVENTS_MAX, PAGE_MAX, EventQuery, Query, Sort

    if query is not None:
        for point in (await control.spend(query)).points:
            yield _row(point)
    elif what is What.EVENTS:
        events = EventQuery(after="0-0", limit=EVENTS_MAX)
        while (page := await control.events(events)).events:
            for event in page.events:
                yield _row(event)
            events = replace(events, after=page.last_id)
    else:
        accounts = Query(kind=kind, sort=Sort.NAME, descending=False, limit=PAGE_MAX)
        while True:
            listed = await control.sessions(accounts)
            for account in listed.rows:
                yield _row(account)
            if listed.next_offset is None:
                return
            accounts = replace(accounts, offset=listed.next_offset)


def _row(word: object) -> Row:
    """A word, flat; instants are ISO 8601."""
    from tokengate.control.encoding import encode

    row: Row = {}
    for name, value in json.loads(encode(word)).items():
        if name.endswith("_ms"):
            at = None if value is None else datetime.fromtimestamp(value / 1000, UTC)
            row[name.removesuffix("_ms")] = (
                None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            )
        else:
            row[name] = value
    return row


class _Csv:
    """Comma-separated values, as RFC 4180 has them."""

    def __init__(self, file: IO[str]) -> None:
        self._writer = csv.writer(file)
        self.rows = 0

    def write(self, row: Row) -> None:
        if self.rows == 0:
            self._writer.writerow(row)
        self._writer.writerow([_cell(value) for value in row.values()])
        self.rows += 1

    def end(self) -> None:
        """Nothing comes after the last row."""


class _Json:
    """One array, one row a line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.rows = 0

    def write(self, row: Row) -> None:
        self._file.write(("[\n" if self.rows == 0 else ",\n") + json.dumps(row))
        self.rows += 1

    def end(self) -> None:
        self._file.write("[]\n" if self.rows == 0 else "\n]\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps(value)
    text = str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return text.lstrip("-").replace(".", "", 1).isdigit()


@contextmanager
def _opened(out: Path | None) -> "Iterator[IO[str]]":
    if out is None:
        yield sys.stdout
        return
    try:
        file = out.open("w", newline="")
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror}", Exit.FAILED)
    with file:
        yield file

"""Tables for a terminal, drawn by rich, which is imported only where there is one to draw.

On a terminal they fit its width (80 columns suffice) and have colours, unless NO_COLOR is set; into a pipe they go
without colours, and nothing is cut off. Cells are text and nothing else: markup in a name stays what it is.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import typer

from tokengate.cli.say import shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

PIPE_COLUMNS: Final = 400
"""The width of what is drawn into a pipe: nothing is cut off, short of this."""

GAP: Final = 2
_FLEXIBLE_MIN: Final = 8

BAR_CELLS: Final = 12
BARS_FROM_COLUMNS: Final = 100
"""How wide a terminal must be for bars beside the figures."""

_LOUD_PERCENT: Final = 95
_WARM_PERCENT: Final = 80


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `flexible`: it gives way when the terminal is narrow."""

    title: str
    right: bool = False
    flexible: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and how it looks where there are colours."""

    text: str
    style: str = ""


def console() -> "Console":
    """Standard output, as rich sees it."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], *, indent: int = 0) -> None:
    """Draw a table on standard output."""
    from rich.padding import Padding

    on = console()
    print_drawn(on, Padding(table(columns, rows, on.width - indent), (0, 0, 0, indent)))


def print_drawn(on: "Console", drawn: "RenderableType") -> None:
    """Print what rich draws, without the blanks that it fills lines up with."""
    with on.capture() as captured:
        on.print(drawn)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip(), color=True)


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], width: int) -> "Table":
    """A table without lines, that is no wider than so many columns: what is flexible is cut off, figures are not."""
    from rich.table import Table
    from rich.text import Text

    texts = [
        [
            Text(shown(cell.text), style=cell.style)
            for cell in (each if isinstance(each, Cell) else Cell(each) for each in row)
        ]
        for row in rows
    ]
    widths = [max([len(column.title), *(row[index].cell_len for row in texts)]) for index, column in enumerate(columns)]
    rigid = sum(size for size, column in zip(widths, columns, strict=True) if not column.flexible)
    left = max(_FLEXIBLE_MIN, width - rigid - GAP * (len(columns) - 1))
    drawn = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column, size in zip(columns, widths, strict=True):
        # What is beside the flexible column is as wide as it is; rich would narrow all of them alike.
        drawn.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=True,
            overflow="ellipsis",
            width=min(size, left) if column.flexible else size,
        )
    for row in texts:
        drawn.add_row(*row)
    return drawn


def columns_of_the_terminal() -> int:
    """How wide standard output is."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_COLUMNS


def heat(percent: int) -> str:
    """The style of a share of a budget."""
    if percent >= _LOUD_PERCENT:
        return "bold red"
    return "yellow" if percent >= _WARM_PERCENT else ""


def bar(spent_percent: int, held_percent: int) -> str:
    """A share of a budget as a bar: spent, held, free."""
    spent = min(BAR_CELLS, spent_percent * BAR_CELLS // 100)
    held = min(BAR_CELLS - spent, -(-held_percent * BAR_CELLS // 100))
    return "█" * spent + "▒" * held + "·" * (BAR_CELLS - spent - held)

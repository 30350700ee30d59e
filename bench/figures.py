"""A measured number beside what it should be."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One number. `met` is None for numbers that only give the others a scale."""

    name: str
    value: float
    unit: str
    target: str = ""
    met: bool | None = None

    @property
    def text(self) -> str:
        if self.unit in {"", "calls", "nano-USD"} or self.value == int(self.value):
            return f"{self.value:,.0f}" if self.value == int(self.value) else f"{self.value:,.3f}"
        return f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:,.3f}"


def told(name: str, value: float, unit: str) -> Figure:
    return Figure(name, value, unit)


def at_least(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f">= {bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Figure:
    return Figure(name, value, unit, f"<= {bound:g}", value <= bound)


def exactly(name: str, value: int, unit: str, wanted: int) -> Figure:
    return Figure(name, value, unit, f"== {wanted:,}", value == wanted)


def show(title: str, figures: Iterable[Figure]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", min_width=90)
    for column in ("figure", "measured", "unit", "target", "met"):
        table.add_column(column, justify="right" if column in {"measured", "target"} else "left")
    words = {None: "", True: "yes", False: "NO"}
    for figure in figures:
        table.add_row(figure.name, figure.text, figure.unit, figure.target, words[figure.met])
    Console(width=110).print(table)


def as_markdown(title: str, figures: Iterable[Figure]) -> str:
    """A table for the documentation."""
    words = {None: "", True: "yes", False: "**no**"}
    rows = [
        f"| {figure.name.strip()} | {figure.text} {figure.unit} | {figure.target} | {words[figure.met]} |"
        for figure in figures
    ]
    return "\n".join([f"### {title}", "", "| figure | measured | target | met |", "|---|---:|---:|---|", *rows, ""])


def as_json(figures: Iterable[Figure]) -> list[dict[str, object]]:
    return [asdict(figure) for figure in figures]

"""`spend`: what was spent, on what, over time."""

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokengate.cli.reach import Json, Server, TokenFile, run
from tokengate.cli.say import Exit, fail, instant, print_json, usd

if TYPE_CHECKING:
    from tokengate.control.words import Spend, SpendQuery

By = Annotated[Literal["model", "session", "agent", "tenant"], typer.Option("--by", help="What is told apart.")]
Per = Annotated[Literal["hour", "day", "month", "all"], typer.Option("--per", help="What is one sum.")]
From = Annotated[
    str, typer.Option("--from", metavar="TIME", help="2026-11-23, 2026-11-23T18:00, today, month, 24h (ago) ... UTC.")
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="The same; exclusive.")]
Only = Annotated[str, typer.Option("--name", metavar="NAME", help="Only this model, session, agent or tenant.")]


def spend(
    by: By = "model",
    per: Per = "all",
    from_: From = "today",
    to: To = "now",
    name: Only = "",
    top: Annotated[int, typer.Option(min=1, max=50, help="How many names to tell apart.")] = 20,
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show what was spent, by model, session, agent or tenant, exactly. Days and months are those of UTC."""
    query = query_of(by, per, from_, to, name, top)
    spent = run(lambda control: control.spend(query), server, token_file)
    if as_json:
        print_json(spent)
        return
    until = f"{instant(spent.from_ms)} to {instant(min(spent.to_ms, time.time_ns() // 1_000_000))}"
    if not spent.points:
        typer.echo(f"nothing was spent from {until}.")
        return
    _print(spent)
    typer.echo(f"{usd(spent.total_nano)} from {until}", err=True)


def query_of(by: str, per: str, from_: str, to: str, name: str, top: int) -> "SpendQuery":
    """What was asked for; or an end, with what is wrong with it."""
    import msgspec

    from tokengate.cli.times import TimeError, parse_instant_ms
    from tokengate.control.encoding import convert
    from tokengate.control.words import SpendQuery

    try:
        given = {"from_ms": parse_instant_ms(from_), "to_ms": parse_instant_ms(to)}
    except TimeError as error:
        fail(str(error), Exit.WRONG)
    try:
        return convert({"by": by, "per": per, "name": name, "series_max": top, **given}, SpendQuery)
    except msgspec.ValidationError as error:
        fail(f"{error}".replace("`$.", "`--").replace("_ms`", "`"), Exit.WRONG)


def when(start_ms: int, per: str) -> str:
    """The beginning of a sum, as far as it says something."""
    text = instant(start_ms)
    return {"hour": text[:16] + "Z", "day": text[:10], "month": text[:7]}.get(per, text)


def _print(spent: "Spend") -> None:
    from tokengate.cli.tables import Cell, Column, print_table

    timed, counted = spent.per != "all", any(point.requests is not None for point in spent.points)
    columns: list[Column] = [
        *([Column("TIME")] if timed else []),
        Column(spent.by.upper(), flexible=True),
        Column("SPENT", right=True),
        *([Column(title, right=True) for title in ("CALLS", "TOKENS IN", "OUT")] if counted else []),
    ]
    rows: list[list[Cell | str]] = []
    before = None
    for point in spent.points:
        figures = [f"{figure or 0:,}" for figure in (point.requests, point.input_tokens, point.output_tokens)]
        rows.append(
            [
                *([when(point.start_ms, spent.per) if point.start_ms != before else ""] if timed else []),
                Cell(point.name, "bold") if point.name else Cell("(others)", "dim"),
                usd(point.spent_nano),
                *(figures if counted else []),
            ]
        )
        before = point.start_ms
    print_table(columns, rows)

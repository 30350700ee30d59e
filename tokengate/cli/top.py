"""`top`: who spends, right now. On a terminal it is drawn anew every moment; into a pipe it is said once."""

import asyncio
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tokengate.cli.reach import Json, Server, TokenFile, run
from tokengate.cli.say import instant, print_json_line, shown, usd

if TYPE_CHECKING:
    from rich.console import Console, Group

    from tokengate.control import Control
    from tokengate.control.words import Account, Stats

LATEST_MAX: Final = 100
"""Of how many sessions, those that were active last, the rate is looked at."""

FROZEN_MAX: Final = 20
RATE_WINDOW_S: Final = 60.0
"""Over how long the rate of a session is measured, once it has been looked at for so long."""

HEAD_LINES: Final = 7


class Rates:
    """What sessions spend a minute, by how their totals grow from look to look. Bounded by what one look has."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def look(self, accounts: "list[Account]", at_s: float) -> None:
        """Take a look; whoever is not in it is forgotten."""
        before, self._seen = self._seen, {}
        for account in accounts:
            totals = self._seen[account.name] = before.get(account.name) or deque()
            totals.append((at_s, account.total_nano))
            while len(totals) > 2 and at_s - totals[1][0] >= RATE_WINDOW_S:
                totals.popleft()

    def a_minute_nano(self, name: str) -> int | None:
        """Nano-USD a minute; None after the first look."""
        totals = self._seen.get(name)
        if totals is None or len(totals) < 2 or totals[-1][0] <= totals[0][0]:
            return None
        return round((totals[-1][1] - totals[0][1]) * 60 / (totals[-1][0] - totals[0][0]))


def top(
    interval: Annotated[float, typer.Option(min=0.5, max=3600, help="Seconds from one look to the next.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, say it once, and end.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=LATEST_MAX, help="How many sessions, at the most.")] = 50,
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Watch who spends: frozen sessions first, then those that spend most a minute. Ctrl-C ends it."""
    live = sys.stdout.isatty() and not once and not as_json
    run(
        lambda control: _watch(control, interval, limit, once=once, live=live, as_json=as_json),
        server,
        token_file,
        endless=not once,
    )


async def _watch(control: "Control", interval_s: float, limit: int, *, once: bool, live: bool, as_json: bool) -> None:
    if live:
        await _live(control, interval_s, limit)
        return
    rates = Rates()
    stats, accounts = await _look(control, rates)
    if once or not as_json:
        await asyncio.sleep(interval_s)
        stats, accounts = await _look(control, rates)
    if not as_json:
        from tokengate.cli.tables import console, print_drawn

        on = console()
        print_drawn(on, _drawn(stats, accounts, rates, limit, on, ""))
        return
    while True:
        print_json_line({"stats": stats, "sessions": _ordered(accounts, rates)[:limit]})
        if once:
            return
        await asyncio.sleep(interval_s)
        stats, accounts = await _look(control, rates)


async def _live(control: "Control", interval_s: float, limit: int) -> None:
    from rich.live import Live

    from tokengate.cli.tables import console
    from tokengate.control import Unavailable

    rates, on = Rates(), console()
    stats, accounts = await _look(control, rates)
    with Live(console=on, screen=True, auto_refresh=False) as screen:
        trouble = ""
        while True:
            rows = min(limit, max(1, on.height - HEAD_LINES))
            screen.update(_drawn(stats, accounts, rates, rows, on, trouble), refresh=True)
            await asyncio.sleep(interval_s)
            try:
                stats, accounts = await _look(control, rates)
                trouble = ""
            except Unavailable as error:
                # What is shown stays, and says how old it is.
                trouble = shown(str(error))


async def _look(control: "Control", rates: Rates) -> "tuple[Stats, list[Account]]":
    from tokengate.control.words import Query

    stats = await control.stats()
    latest = (await control.sessions(Query(limit=LATEST_MAX))).rows
    frozen = (await control.sessions(Query(frozen=True, limit=FROZEN_MAX))).rows if stats.sessions_frozen else []
    known = {account.name for account in latest}
    accounts = [*latest, *(account for account in frozen if account.name not in known)]
    rates.look(accounts, time.monotonic())
    return stats, accounts


def _ordered(accounts: "list[Account]", rates: Rates) -> "list[Account]":
    return sorted(
        accounts,
        key=lambda each: (not each.frozen, -(rates.a_minute_nano(each.name) or 0), -(each.last_active_ms or 0)),
    )


def _drawn(stats: "Stats", accounts: "list[Account]", rates: Rates, rows: int, on: "Console", trouble: str) -> "Group":
    from rich.console import Group
    from rich.text import Text

    from tokengate.cli.sessions import account_cells, account_columns
    from tokengate.cli.tables import BARS_FROM_COLUMNS, Cell, Column, table

    bars = on.is_terminal and on.width >= BARS_FROM_COLUMNS
    columns = account_columns(bars=bars)
    # The rate stands beside what was spent; what is held makes room for it.
    columns[2] = Column("A MINUTE", right=True)
    drawn: list[list[Cell | str]] = []
    for account in _ordered(accounts, rates)[:rows]:
        cells = account_cells(account, stats.now_ms, bars=bars)
        rate = rates.a_minute_nano(account.name)
        cells[2] = "-" if rate is None else Cell(usd(rate), "bold" if rate else "")
        drawn.append(cells)
    head: list[Any] = [Text(line, no_wrap=True, overflow="ellipsis", style=style) for line, style in _head(stats)]
    if trouble:
        head.append(Text(f"not up to date: {trouble}", style="bold red", no_wrap=True, overflow="ellipsis"))
    body: Any = table(columns, drawn, on.width) if drawn else Text("No sessions yet: the first call of one makes it.")
    return Group(*head, Text(""), body)


def _head(stats: "Stats") -> list[tuple[str, str]]:
    memory = f", {stats.store.memory_bytes / 2**20:,.1f} MiB" if stats.store.memory_bytes is not None else ""
    held = "" if stats.held_nano is None else f", {usd(stats.held_nano)} held"
    refused = sum(stats.blocked_today.values())
    saved = f", {usd(stats.saved_today_nano)} saved" if stats.saved_today_nano else ""
    frozen = f", {stats.sessions_frozen:,} frozen" if stats.sessions_frozen else ""
    spent = f"today {usd(stats.spent_today_nano)}, yesterday {usd(stats.spent_yesterday_nano)}"
    ahead = f"today {usd(stats.projected_today_nano)}, this month {usd(stats.projected_month_nano)}"
    return [
        (f"TokenGate  {shown(stats.tenant)}  {instant(stats.now_ms)}  {shown(stats.store.version)}{memory}", "bold"),
        (f"spent   {spent}, in the last hour {usd(stats.spent_hour_nano)}", ""),
        (f"ahead   {ahead}", ""),
        (f"calls   today {stats.requests_today:,} made, {refused:,} refused{saved}; now {stats.in_flight:,}{held}", ""),
        (f"in all  {stats.sessions:,} sessions{frozen}", "bold red" if frozen else ""),
    ]

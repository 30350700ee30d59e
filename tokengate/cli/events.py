"""`events`: what happened, and who did it; as it happens, if asked to."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tokengate.cli.budgets import KindOf, kind_of
from tokengate.cli.complete import names
from tokengate.cli.reach import Server, TokenFile, run
from tokengate.cli.say import note, print_json_line

if TYPE_CHECKING:
    from tokengate.control import Control
    from tokengate.control.words import Event, EventQuery

POLL_S: Final = 1.0
"""How often it is asked what has happened."""

RETRY_S: Final = 5.0


def events(
    session: Annotated[
        str, typer.Option("--session", metavar="SESSION", help="Only about this one.", autocompletion=names)
    ] = "",
    kind: KindOf = "session",
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, max=1000, help="How many.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each.")] = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show what happened: budgets set, freezes, resets, anomalies, charges that were assumed. The latest come last."""
    from tokengate.cli.sessions import event_line
    from tokengate.control.words import EventQuery

    query = EventQuery(limit=tail, kind=kind_of(kind) if session else None, name=session)

    def tell(event: "Event") -> None:
        if as_json:
            print_json_line(event)
        else:
            typer.echo(event_line(event))

    if follow:
        run(lambda control: _follow(control, query, tell), server, token_file, endless=True)
        return
    page = run(lambda control: control.events(query), server, token_file)
    for event in page.events:
        tell(event)
    if not page.events and not as_json:
        typer.echo("no events" + (" about it" if session else " yet") + ".", err=True)


async def _follow(control: "Control", query: "EventQuery", tell: "Callable[[Event], None]") -> None:
    """For ever: what goes wrong meanwhile may pass."""
    from msgspec.structs import replace

    from tokengate.control import Unavailable
    from tokengate.control.words import EVENTS_MAX

    page = await control.events(query)
    while True:
        for event in page.events:
            tell(event)
        query = replace(query, after=page.last_id, limit=EVENTS_MAX)
        try:
            if len(page.events) < EVENTS_MAX:
                await asyncio.sleep(POLL_S)
            page = await control.events(query)
        except Unavailable as error:
            note(f"{error}; trying again")
            page = replace(page, events=[])
            await asyncio.sleep(RETRY_S)

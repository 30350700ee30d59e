"""`list-sessions`, `show-session`, and what can be done to one: freeze, unfreeze, reset, delete."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tokengate.cli.budgets import KindOf, Name, kind_of
from tokengate.cli.reach import Json, Server, TokenFile, run, who
from tokengate.cli.say import Exit, age, fail, instant, length, print_json, shown, usd
from tokengate.money import format_usd, parse_usd

if TYPE_CHECKING:
    from tokengate.cli.tables import Cell, Column
    from tokengate.control.words import Account, Detail, Event, Page

EVENTS_SHOWN: Final = 10
"""How many events are shown of one session; what is asked first stays on the screen."""


def list_sessions(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only ids that contain this; with * at the end: that begin with it.")
    ] = "",
    frozen: Annotated[bool, typer.Option("--frozen", help="Only those that are frozen.")] = False,
    over: Annotated[
        int | None, typer.Option(min=0, max=1000, metavar="PERCENT", help="Only those that have spent so much.")
    ] = None,
    sort: Annotated[Literal["activity", "spent", "share", "name"], typer.Option(help="In which order.")] = "activity",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="Where to begin: what the page before says.")] = 0,
    kind: KindOf = "session",
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """List sessions: what each has spent of its budget, and which are frozen. The latest active ones come first."""
    from tokengate.control.words import TEXT_CHARACTERS_MAX, Kind, Query, Sort

    if len(text) > TEXT_CHARACTERS_MAX:
        fail(f"a text to search for has at most {TEXT_CHARACTERS_MAX} characters", Exit.WRONG)
    order = Sort(sort)
    # Names ascend, figures descend, unless they are to be the other way round.
    descending = (order is not Sort.NAME) != reverse
    query = Query(
        kind=Kind(kind),
        text=text,
        frozen=frozen,
        over_percent=over,
        sort=order,
        descending=descending,
        offset=offset,
        limit=limit,
    )
    page = run(lambda control: control.sessions(query), server, token_file)
    if as_json:
        print_json(page)
        return
    plural = f"{query.kind}s"
    if not page.rows and page.next_offset is None:
        conditions = text or frozen or over or offset
        typer.echo(f"no {plural}" + (" like that" if conditions else " yet: the first call of one makes it") + ".")
        return
    _print_accounts(page)
    typer.echo(_summary(page, plural), err=True)


def show_session(
    session: Name, kind: KindOf = "session", as_json: Json = False, server: Server = None, token_file: TokenFile = None
) -> None:
    """Show everything about a session: its limits, what it spent on what, its calls under way, why it is frozen."""
    of = kind_of(kind)
    detail = run(lambda control: control.detail(of, session), server, token_file)
    if as_json:
        print_json(detail)
    else:
        _print_detail(detail)


def freeze_session(
    session: Name,
    reason: Annotated[str, typer.Option(help="Why: callers are told.")],
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="How long, like 30m, 1h or 2d. Default: until it is lifted."),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Even if there is no such session, but one much like it.")] = False,
    kind: KindOf = "session",
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Refuse every call of a session from now on, for a time or until somebody lifts it."""
    from tokengate.cli.times import TimeError, parse_length_ms

    of = kind_of(kind)
    try:
        for_ms = None if for_ is None else parse_length_ms(for_)
    except TimeError as error:
        fail(str(error), Exit.WRONG)
    account = run(
        lambda control: control.freeze(of, session, reason=reason, for_ms=for_ms, by=who(), new=new), server, token_file
    )
    if as_json:
        print_json(account)
        return
    until = f" until {instant(account.frozen_until_ms)}" if account.frozen_until_ms is not None else ""
    unseen = "" if account.requests or account.blocked else " (it has made no calls yet)"
    typer.echo(f"{account.kind} {shown(account.name)} is frozen{until}{unseen}")
    if for_ms is None:
        typer.echo(f"To lift it: tokengate unfreeze-session {_quoted(account)}", err=True)


def unfreeze_session(
    session: Name, kind: KindOf = "session", as_json: Json = False, server: Server = None, token_file: TokenFile = None
) -> None:
    """Lift the freeze of a session: its calls pass again, within its budget."""
    of = kind_of(kind)
    account = run(lambda control: control.unfreeze(of, session, by=who()), server, token_file)
    if as_json:
        print_json(account)
        return
    typer.echo(f"{account.kind} {shown(account.name)} is not frozen; {usd(account.remaining_nano)} remain")


def reset_session(
    session: Name, kind: KindOf = "session", as_json: Json = False, server: Server = None, token_file: TokenFile = None
) -> None:
    """Let a session start anew, with nothing spent. Calls under way are charged to what was before."""
    of = kind_of(kind)
    account = run(lambda control: control.reset(of, session, by=who()), server, token_file)
    if as_json:
        print_json(account)
        return
    typer.echo(f"{account.kind} {shown(account.name)} starts anew: {usd(account.remaining_nano)} remain")


def delete_session(
    session: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    kind: KindOf = "session",
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Forget a session. Should it call again, it starts with the default budget: to stop it, freeze it instead."""
    import sys

    of = kind_of(kind)
    if not yes:
        if not sys.stdin.isatty():
            fail("nobody can be asked here: say --yes to delete it", Exit.WRONG)
        warning = f"Should {of} {shown(session)} call again, it has the default budget. Forget it?"
        if not typer.confirm(warning, err=True):
            raise typer.Exit(Exit.FAILED)
    run(lambda control: control.delete(of, session, by=who()), server, token_file)
    if as_json:
        print_json({"kind": of, "name": session, "deleted": True})
        return
    typer.echo(f"{of} {shown(session)} is deleted")


# --- how it looks ---


def account_columns(*, bars: bool) -> "list[Column]":
    """The columns of a list of accounts; 80 columns of a terminal leave 20 for the name."""
    from tokengate.cli.tables import Column

    return [
        Column("SESSION", flexible=True),
        Column("SPENT", right=True),
        Column("HELD", right=True),
        Column("BUDGET", right=True),
        Column("USED", right=True),
        *([Column("")] if bars else []),
        Column("ACTIVE", right=True),
        Column("STATE"),
    ]


def account_cells(account: "Account", now_ms: int, *, bars: bool) -> "list[Cell | str]":
    """One row of it."""
    from tokengate.cli.tables import Cell, bar, heat

    used = account.used_percent
    held = account.held_nano * 100 // account.budget_nano if account.budget_nano else 0
    state = Cell("frozen", "bold red") if account.frozen else Cell("faulty", "bold red") if account.fault else Cell("")
    return [
        Cell(account.name, "bold"),
        usd(account.spent_nano),
        usd(account.held_nano),
        usd(account.budget_nano),
        Cell(f"{used}%", heat(used)),
        *([Cell(bar(used, held), heat(used))] if bars else []),
        age(account.last_active_ms, now_ms),
        state,
    ]


def _print_accounts(page: "Page") -> None:
    from tokengate.cli.tables import BARS_FROM_COLUMNS, columns_of_the_terminal, print_table

    bars = columns_of_the_terminal() >= BARS_FROM_COLUMNS and _is_terminal()
    rows = (account_cells(account, page.now_ms, bars=bars) for account in page.rows)
    print_table(account_columns(bars=bars), rows)


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()


def _summary(page: "Page", plural: str) -> str:
    count = f"{len(page.rows)} of {page.of:,} {plural}"
    if page.total is not None and page.total != page.of:
        count = f"{len(page.rows)} of {page.total:,} like that, of {page.of:,} {plural}"
    elif page.total is None:
        count = f"{len(page.rows)} found among {page.looked_at:,} looked at, of {page.of:,} {plural}"
    return count + (f"; go on with --offset {page.next_offset}" if page.next_offset is not None else "")


def _quoted(account: "Account") -> str:
    import shlex

    kind = "" if account.kind == "session" else f" --kind {account.kind}"
    return shlex.quote(shown(account.name)) + kind


def _print_detail(detail: "Detail") -> None:
    from tokengate.cli.tables import Cell, console, print_drawn

    account, on = detail.account, console()
    from rich.text import Text

    head = Text(f"{account.kind} {shown(account.name)}", style="bold")
    if account.frozen:
        head.append("   FROZEN", style="bold red")
        if account.frozen_until_ms is not None:
            left = length((account.frozen_until_ms - detail.now_ms) / 1000)
            head.append(f" for {left} more, until {instant(account.frozen_until_ms)}", style="red")
    print_drawn(on, head)
    for name, value in _facts(detail):
        typer.echo(f"  {name:<9} {shown(value)}")
    _print_limits(detail)
    if detail.models:
        _section("Spent on, ever")
        _print_rows(["MODEL", ">SPENT"], [[each.model, usd(each.spent_nano)] for each in detail.models])
    if detail.holds or not detail.holds_complete:
        _section(f"Calls under way: {len(detail.holds)}" + ("" if detail.holds_complete else " or more"))
        _print_rows(
            ["ID", "MODEL", ">HELD", ">SINCE"],
            [
                [Cell(each.id), each.model, usd(each.held_nano), age(each.since_ms, detail.now_ms)]
                for each in detail.holds
            ],
        )
    if detail.events:
        _section("Events, the latest last")
        for event in detail.events[-EVENTS_SHOWN:]:
            typer.echo(f"  {event_line(event, about=False)}")
        if len(detail.events) > EVENTS_SHOWN:
            typer.echo(f"  more: tokengate events --session {_quoted(account)}")
    if account.frozen:
        typer.echo(f"\nTo set it free: tokengate unfreeze-session {_quoted(account)}")


def _facts(detail: "Detail") -> Iterator[tuple[str, str]]:
    """What there is to know, in the order in which somebody who is woken asks."""
    account = detail.account
    if account.frozen:
        yield "why", account.frozen_reason or "no reason was given"
        yield from _freeze(detail)
    if account.fault:
        yield "fault", f"{account.fault}; its calls are refused"
    whose = "the default" if account.budget_is_default else "its own"
    yield (
        "budget",
        f"{usd(account.budget_nano)} ({whose})"
        + ("" if account.period == "none" else f" a {account.period}; anew {instant(account.resets_at_ms or 0)}"),
    )
    yield "spent", f"{usd(account.spent_nano)} ({account.used_percent}%)"
    yield "held", f"{usd(account.held_nano)} by calls under way"
    yield "remaining", usd(account.remaining_nano)
    yield "ever", _ever(account)
    if account.agent:
        yield "agent", account.agent
    yield "calls", f"{account.requests:,} made, {account.blocked:,} refused"
    if account.created_ms is not None:
        active = age(account.last_active_ms, detail.now_ms)
        yield "seen", f"first {instant(account.created_ms)}, last {active} ago"


def _freeze(detail: "Detail") -> Iterator[tuple[str, str]]:
    """Since when it is frozen, who or which rule has done it, and between which requests that saw what it saw."""
    account = detail.account
    last = next((event.fields for event in reversed(detail.evidence) if event.kind == "freeze"), {})
    rule = last.get("rule", "")
    since = f"{age(account.frozen_at_ms, detail.now_ms)} ago" if account.frozen_at_ms is not None else ""
    by = f"by the rule {rule}" if rule else f"by {account.frozen_by}" if account.frozen_by else ""
    if since or by:
        yield "frozen", " ".join(word for word in (since, by) if word)
    if seen := [f"{name} {last[name]}" for name in ("first", "last") if last.get(name)]:
        yield "requests", ", ".join(seen)


def _ever(account: "Account") -> str:
    text = usd(account.total_nano)
    beside = [
        f"{usd(nano)} {what}"
        for nano, what in ((account.assumed_nano, "assumed"), (account.overrun_nano, "beyond what was held"))
        if nano
    ]
    return text + (f", of it {' and '.join(beside)}" if beside else "")


def _print_limits(detail: "Detail") -> None:
    from tokengate.cli.tables import Cell, heat

    if len(detail.path) < 2:
        return
    _section("Limits on its way")
    _print_rows(
        ["LIMIT", ">BUDGET", ">SPENT", ">HELD", ">LEFT", ">USED", ""],
        [
            [
                f"{each.kind} {each.name}",
                usd(each.budget_nano),
                usd(each.spent_nano),
                usd(each.held_nano),
                usd(each.remaining_nano),
                Cell(f"{each.used_percent}%", heat(each.used_percent)),
                Cell("frozen", "bold red") if each.frozen else "",
            ]
            for each in detail.path
        ],
    )


def _section(title: str) -> None:
    typer.echo(f"\n{title}")


def _print_rows(titles: list[str], rows: "list[list[Cell | str]]") -> None:
    """A table, indented; `>` before a title: its column is of figures."""
    from tokengate.cli.tables import Column, print_table

    columns = [
        Column(title.removeprefix(">"), right=title.startswith(">"), flexible=not index)
        for index, title in enumerate(titles)
    ]
    print_table(columns, rows, indent=2)


def event_line(event: "Event", *, about: bool = True) -> str:
    """An event on one line; `about`: say whom it is about."""
    words = [instant(event.at_ms), f"{event.kind:<9}"]
    if about and event.scope_name:
        words.append(f"{event.scope_kind} {event.scope_name}")
    if event.by:
        words.append(f"by {event.by}")
    told = dict(event.fields)
    before, after = told.pop("before", None), told.pop("after", None)
    if after is not None:
        words.append(f"from {_readable(before or '') or 'the default'} to {_readable(after) or 'the default'}")
    elif before is not None:
        words.append(f"{_readable(before)} spent before")
    words += [f"{name} {_readable(value)}" for name, value in told.items() if value]
    return shown("  ".join(words))


def _readable(value: str) -> str:
    """A field of an event: amounts and instants as people read them."""
    if re.fullmatch(r"\d{1,7}\.\d{9}", value, re.ASCII):
        return f"${format_usd(parse_usd(value))}"
    return re.sub(r"(?<!\d)\d{13}(?!\d)", lambda ms: instant(int(ms.group())), value)

"""`set-budget` and `get-budget`."""

from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tokengate.cli.complete import names
from tokengate.cli.reach import Json, Server, TokenFile, run, who
from tokengate.cli.say import Exit, fail, note, print_json, shown

if TYPE_CHECKING:
    from tokengate.control import Control
    from tokengate.control.words import Account, Kind

DEFAULT: Final = "default"
"""In the place of an amount: the default again."""

Name = Annotated[str, typer.Argument(metavar="SESSION", help="Its id.", autocompletion=names)]
KindOf = Annotated[Literal["session", "agent", "tenant"], typer.Option("--kind", help="What the id is of.")]


def kind_of(text: str) -> "Kind":
    """What `--kind` says."""
    from tokengate.control.words import Kind

    return Kind(text)


def _name_of(session: str) -> str:
    """A name that a call could have: what is none is said before anything is opened."""
    import re

    from tokengate.domain import NAME_CHARACTERS_MAX, NAME_PATTERN

    if re.fullmatch(NAME_PATTERN, session, re.ASCII) is None:
        fail(
            f"{session!r} is no session id: 1 to {NAME_CHARACTERS_MAX} letters, digits or . _ : @ + = ~ - ,"
            " beginning with a letter or a digit",
            Exit.WRONG,
        )
    return session


def set_budget(
    session: Name,
    amount: Annotated[
        str,
        typer.Argument(
            metavar="USD",
            help=f"25, 25.00 or '$25' (quoted: to a shell $2 is something else); or {DEFAULT}, to follow the default.",
        ),
    ],
    kind: KindOf = "session",
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Give a session a budget of its own. It need not exist yet."""
    from tokengate.money import AmountError, parse_usd

    of, name = kind_of(kind), _name_of(session)
    try:
        budget_nano = None if amount == DEFAULT else parse_usd(amount)
    except AmountError as error:
        fail(str(error), Exit.WRONG)

    async def act(control: "Control") -> "tuple[Account, str]":
        hint = await _hint(control, of, name)
        return await control.set_budget(of, name, budget_nano, by=who()), hint

    account, hint = run(act, server, token_file)
    _print(account, as_json=as_json)
    if hint:
        note(f"it is new; {hint}")


def get_budget(
    session: Name,
    kind: KindOf = "session",
    as_json: Json = False,
    server: Server = None,
    token_file: TokenFile = None,
) -> None:
    """Show a session's budget, what is spent of it and what is held."""
    of, name = kind_of(kind), _name_of(session)

    async def act(control: "Control") -> "tuple[Account, str]":
        account = await control.account(of, name)
        return account, "" if account.known else await _hint(control, of, name)

    account, hint = run(act, server, token_file)
    _print(account, as_json=as_json)
    if hint:
        note(hint)


async def _hint(control: "Control", kind: "Kind", name: str) -> str:
    """What else may have been meant, if there is none of that name."""
    from tokengate.control import Unavailable, Unknown

    try:
        await control.detail(kind, name)
    except Unknown as error:
        return f"did you mean {' or '.join(error.similar)}?" if error.similar else ""
    except Unavailable:
        # Whoever may do it need not be allowed to look around.
        return ""
    return ""


def _print(account: "Account", *, as_json: bool) -> None:
    from tokengate.money import format_usd

    if as_json:
        print_json(account)
        return
    whose = "the default" if account.budget_is_default else "its own"
    typer.echo(f"{account.kind:<10} {shown(account.name)}" + ("" if account.known else "  (not seen yet)"))
    typer.echo(f"budget     ${format_usd(account.budget_nano)}  ({whose})")
    typer.echo(f"spent      ${format_usd(account.spent_nano)}")
    typer.echo(f"held       ${format_usd(account.held_nano)}")
    typer.echo(f"remaining  ${format_usd(account.remaining_nano)}")
    if account.frozen:
        note(f"it is frozen: {account.frozen_reason}")
    if account.fault:
        note(f"its calls are refused: {account.fault}")

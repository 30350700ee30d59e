"""How the commands speak: exit codes, what goes where, and how names, amounts and times look on a terminal.

Names come from the store, and anybody who may write there may have put anything into them: whatever could move a
cursor, colour a screen or turn text around is shown as its escape.
"""

import time
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final, NoReturn

import typer

from tokengate.money import NANO_PER_USD, format_usd

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
_CENTS_BELOW_NANO: Final = NANO_PER_USD // 100


class Exit(IntEnum):
    """The exit codes."""

    DONE = 0
    FAILED = 1
    """It could not be done: the store or the gate cannot be reached, or will not."""
    WRONG = 2
    """Wrong arguments or settings."""
    UNKNOWN = 3
    """There is no such session, agent or tenant."""
    DENIED = 4
    """The token does not allow it."""
    INTERRUPTED = 130
    """Ctrl-C, before it was done; what has no end of its own (`top`, `events --follow`) is done then."""


def fail(message: str, code: Exit) -> NoReturn:
    """Say what went wrong, and end."""
    typer.echo(f"tokengate: {shown(message)}", err=True)
    raise typer.Exit(code)


def note(message: str) -> None:
    """Say something beside the result."""
    typer.echo(f"tokengate: {shown(message)}", err=True)


def shown(text: str) -> str:
    """Text that does nothing but be read: what is not printable is shown as its escape, on one line."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def print_json(word: object) -> None:
    """A word of `control`, or a list of them, as indented JSON in ASCII: nothing in it does anything to a terminal."""
    import json

    from tokengate.control.encoding import encode

    typer.echo(json.dumps(json.loads(encode(word)), indent=2))


def print_json_line(word: object) -> None:
    """The same on one line."""
    import json

    from tokengate.control.encoding import encode

    typer.echo(json.dumps(json.loads(encode(word))))


def usd(nano: int) -> str:
    """An amount to read: in cents; below a cent in as many decimals as show two digits of it."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    if nano == 0 or nano >= _CENTS_BELOW_NANO:
        cents = (nano + _CENTS_BELOW_NANO // 2) // _CENTS_BELOW_NANO
        return f"{sign}${cents // 100:,}.{cents % 100:02}"
    unit = 10 ** max(0, len(str(nano)) - 2)
    return f"{sign}${format_usd((nano + unit // 2) // unit * unit)}"


def instant(at_ms: int) -> str:
    """An instant to read: `2026-11-23 18:53:12Z`."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def length(seconds: float) -> str:
    """A length of time to read, in its two largest units: `2 d 3 h`, `5 min`, `12 s`."""
    whole = max(0, int(seconds))
    if whole >= _DAY_S:
        return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"
    if whole >= _HOUR_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S} min"
    if whole >= _MINUTE_S:
        return f"{whole // _MINUTE_S} min"
    return f"{whole} s"


def age(at_ms: int | None, now_ms: int | None = None) -> str:
    """How long ago something was, in its largest unit: `3d`, `2h`, `5m`, `12s`; `-` if it never was."""
    if at_ms is None:
        return "-"
    seconds = max(0, ((now_ms or time.time_ns() // 1_000_000) - at_ms) // 1000)
    for unit, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if seconds >= unit:
            return f"{seconds // unit}{name}"
    return f"{seconds}s"

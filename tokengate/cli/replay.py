"""`tokengate replay`: what a gate with these settings would have refused of what a file says was called.

It reads a file and the settings, and prints. What a gate does is not decided here, and no store is touched.
"""

import argparse
import asyncio
import gzip
import json
import logging
import os
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO, Final

import structlog

from tokengate.app import ROUTES, destinations_of, further_of, load_prices, load_upstreams
from tokengate.composition import policy_of, rules_of
from tokengate.domain import Session
from tokengate.gate import Gate
from tokengate.ledger.memory import MemoryLedger
from tokengate.money import format_usd, usd_number
from tokengate.prices import PriceTableError
from tokengate.pricing import PriceTable
from tokengate.replay import SESSIONS_MAX, Finding, Order, Replay, Report
from tokengate.settings import Settings, SettingsError, allowed, load
from tokengate.tokens import Tokenizer
from tokengate.transcript import LINE_BYTES_MAX, Reader, TranscriptError
from tokengate.upstream import ConnectFailed, Headers, Response
from tokengate.upstreamfile import UpstreamFileError

WIDTH: Final = 80
FAULTS_SHOWN: Final = 5
FINDINGS_SHOWN: Final = 20
SETTINGS: Final = (
    "default_budget",
    "default_budget_period",
    "agent_budget",
    "agent_budget_period",
    "tenant_budget",
    "tenant_budget_period",
    "budget_timezone",
    "output_cap",
    "loops",
    "loop_repeats",
    "loop_pause_ms",
    "tool_loops",
    "tool_loop_repeats",
    "growth",
    "growth_calls",
    "growth_percent",
    "velocity",
    "velocity_max",
    "velocity_factor",
    "velocity_floor",
    "freeze_s",
    "freeze_s_max",
    "rate_limit",
    "rate_limit_mode",
    "agent_rate_limit",
    "agent_rate_limit_mode",
    "tenant_rate_limit",
    "tenant_rate_limit_mode",
    "busy_wait_ms",
    "default_session",
    "agent",
    "tenant",
    "pricing_file",
    "upstreams_file",
)
"""Those that decide what is refused; each is an option."""

_GZIP: Final = b"\x1f\x8b"
_LEASE_MS: Final = 1 << 40
"""No hold expires: every call of a replay is settled."""


class Unreadable(Exception):
    """The file cannot be read; the message says why."""


class _Nowhere:
    """The transport of a gate that forwards nothing."""

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> Response:  # noqa: ARG002
        raise ConnectFailed(f"{method} {url} is not sent: this is a replay")

    async def aclose(self) -> None:
        return


@dataclass(slots=True)
class Faults:
    """Lines that could not be read: how many, and the first few in words."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, number: int, why: str) -> None:
        self.count += 1
        if len(self.shown) < FAULTS_SHOWN:
            self.shown.append(f"line {number}: {why}")


def main(arguments: list[str]) -> int:
    """`tokengate replay`: gives the exit code.

    0: done; 1: could not be done or, with --check, calls would have been refused; 2: wrong arguments or settings.
    """
    options = _parser().parse_args(arguments)
    given = {name.upper(): value for name in SETTINGS if (value := getattr(options, name)) is not None}
    try:
        settings = load({**os.environ, **given}).settings
    except SettingsError as error:
        _say("\n  ".join(["The settings cannot be used:", *error.faults]))
        return 2
    # What the gate would log is what the report says.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    faults = Faults()
    try:
        with _opened(options.file) as file:
            report = asyncio.run(_replay(file, settings, faults))
    except (Unreadable, PriceTableError, UpstreamFileError, OSError) as error:
        _say(f"tokengate replay: {error}")
        return 1
    for fault in faults.shown:
        _say(f"{options.file}: {fault}")
    if faults.count > len(faults.shown):
        _say(f"{options.file}: and {faults.count - len(faults.shown)} more lines that cannot be read")
    if report.calls == 0:
        _say(f"tokengate replay: there is no call in {options.file}")
        return 1
    print(json.dumps(as_json(report, faults), indent=2) if options.json else as_text(report, faults))  # noqa: T201
    return 1 if options.check and report.blocked else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokengate replay",
        description="Say what a gate would have refused of the calls in a file, when, why, and what that had saved.",
        epilog="Settings that are not given as options are those of the environment and .env, as for a gate.",
    )
    parser.add_argument("file", metavar="FILE", help="the log of a gate, or calls as JSONL; - for standard input")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--check", action="store_true", help="exit with 1 if any call would have been refused")
    group = parser.add_argument_group("settings (each goes before the variable of its name)")
    for name in SETTINGS:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=allowed(name).replace("%", "%%"))
    return parser


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file, uncompressed.

    Raises:
        Unreadable: it is not there, or not a file, or not a whole gzip file.
    """
    try:
        if name == "-":
            yield sys.stdin.buffer
            return
        with open(name, "rb") as file:  # noqa: PTH123 - a name that a person gave
            if file.peek(2)[:2] != _GZIP:
                yield file
                return
            with gzip.open(file) as inner:
                yield inner
    except (EOFError, gzip.BadGzipFile) as error:
        raise Unreadable(f"{name}: {error}") from None
    except OSError as error:
        raise Unreadable(f"{name}: {error.strerror or error}") from None


def _lines(file: BinaryIO | gzip.GzipFile, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; one that is too long is passed over without being kept."""
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) <= LINE_BYTES_MAX:
            yield number, line
            continue
        faults.add(number, f"longer than {LINE_BYTES_MAX} bytes")
        while line and not line.endswith(b"\n"):
            line = file.readline(LINE_BYTES_MAX)


def offline(settings: Settings, prices: PriceTable | None = None) -> tuple[Reader, Replay]:
    """A gate with these settings for calls of the past, and what reads them. Without `prices`, those of the settings.

    Raises:
        PriceTableError, UpstreamFileError, OSError: a file that the settings name cannot be used.
    """
    rules, tokenizer = rules_of(settings), Tokenizer()
    ledger = MemoryLedger(_LEASE_MS, SESSIONS_MAX + 1, 0, rules)
    gate = Gate(
        ledger,
        prices or load_prices(settings.pricing_file),
        policy_of(settings),
        tokenizer,
        output_cap=settings.output_cap,
        busy_wait_ms=0,  # the replay waits in the calls' time
        waiters_max=0,
        lease_ms=_LEASE_MS,
        tenant=settings.tenant,
        rules=rules,
    )
    nowhere = _Nowhere()
    further = [further_of(entry, nowhere, None) for entry in load_upstreams(settings.upstreams_file)]
    destinations = destinations_of(settings, nowhere, further)
    reader = Reader(ROUTES, destinations, Session(settings.default_session, settings.tenant, settings.agent))
    return reader, Replay(gate, ledger, tokenizer, settings.busy_wait_ms)


async def _replay(file: BinaryIO | gzip.GzipFile, settings: Settings, faults: Faults) -> Report:
    reader, replay = offline(settings)
    order = Order()
    for number, line in _lines(file, faults):
        try:
            entry = reader.read(line)
        except TranscriptError as error:
            faults.add(number, str(error))
            continue
        if entry is not None:
            for due in order.push(entry, len(line)):
                await replay.feed(due)
    for due in order.rest():
        await replay.feed(due)
    return replay.finish()


# --- what is printed ---


def as_json(report: Report, faults: Faults) -> dict[str, object]:
    """The report for programs: amounts in USD, times in ISO 8601."""
    return {
        "calls": report.calls,
        "sessions": report.sessions,
        "from": _iso(report.first_ms),
        "to": _iso(report.last_ms),
        "cost": usd_number(report.cost_nano),
        "blocked": report.blocked,
        "saved": usd_number(report.saved_nano),
        "shadowed": report.shadowed,
        "blocked_before": report.blocked_before,
        "assumed": report.assumed,
        "out_of_order": report.late,
        "left_out": report.left_out,
        "unreadable_lines": faults.count,
        "findings_left_out": report.findings_dropped,
        "findings": [_finding_as_json(finding) for finding in report.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, object]:
    return {
        "tenant": finding.session.tenant,
        "agent": finding.session.agent or None,
        "session_id": finding.session.id,
        "reason": finding.reason,
        "rule": finding.rule,
        "message": finding.message,
        "first": _iso(finding.first_ms),
        "first_call": finding.first_call,
        "last": _iso(finding.last_ms),
        "blocked": finding.calls,
        "saved": usd_number(finding.saved_nano),
    }


def as_text(report: Report, faults: Faults) -> str:
    """The report for a terminal of 80 columns."""
    lines = [
        f"replayed  {_calls(report.calls)} of {_many(report.sessions, 'session')}",
        f"between   {_iso(report.first_ms)} and {_iso(report.last_ms)}",
        f"cost      ${_usd(report.cost_nano)}",
        f"blocked   {_calls(report.blocked)}{_share(report.blocked, report.calls)}",
        f"saved     ${_usd(report.saved_nano)}{_share(report.saved_nano, report.cost_nano)}",
    ]
    notes = [
        *((count, f"that the rule {rule} would refuse, were it enforced") for rule, count in report.shadowed.items()),
        (report.assumed, "without usage, priced as typical answers"),
        (report.blocked_before, "that a gate had refused already, at no cost"),
        (report.left_out, f"left out: they are of more than {SESSIONS_MAX:,} sessions"),
        (report.late, "far out of order, taken as of when they were met"),
    ]
    lines += [f"note      {_calls(count)} {words}" for count, words in notes if count]
    if faults.count:
        lines.append(f"note      {_many(faults.count, 'line')} could not be read")
    for finding in report.findings[:FINDINGS_SHOWN]:
        lines += ["", *_finding_as_text(finding)]
    left = len(report.findings) - FINDINGS_SHOWN + report.findings_dropped
    if left > 0:
        lines += ["", f"and {left} more findings; --json has them"]
    return "\n".join(lines)


def _finding_as_text(finding: Finding) -> list[str]:
    session = finding.session
    whose = f"session {session.id}" + (f" of agent {session.agent}" if session.agent else "")
    until = "" if finding.calls == 1 else f", to {_iso(finding.last_ms)}"
    return [
        *textwrap.wrap(f"{whose}: {finding.reason}" + (f" by the rule {finding.rule}" if finding.rule else ""), WIDTH),
        *textwrap.wrap(finding.message, WIDTH, initial_indent="  ", subsequent_indent="  "),
        f"  from its {_ordinal(finding.first_call)} call, {_iso(finding.first_ms)}{until}",
        f"  {_calls(finding.calls)} blocked, ${_usd(finding.saved_nano)} saved",
    ]


def _calls(count: int) -> str:
    return _many(count, "call")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number:,}{ending}"


def _share(part: int, whole: int) -> str:
    return f"  ({100 * part / whole:.1f}%)" if part and whole else ""


def _usd(nano: int) -> str:
    return format_usd(nano, decimals_min=4)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201

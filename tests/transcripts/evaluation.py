"""What the rules make of transcripts, at the settings that a gate has by default: which are frozen, when, and why.

The calls go through the production gate over the reference ledger, as `tokengate replay` takes them there.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.inmemory import prices
from tests.transcripts.collection import REPETITIONS_MAX, Transcript, read
from tokengate.cli.replay import offline
from tokengate.domain import Reason
from tokengate.settings import Settings

WIDTH: Final = 100
_NAME_WIDTH: Final = 32
_FROZEN: Final = re.compile(r"The \w+ [\w-]+ is frozen(?: until \S+)?: (.*?)(?:; first request.*)?$")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one transcript."""

    calls: int
    refused_at: int | None = None
    """The first call that was refused, from 1; None: none was."""
    reason: Reason | None = None
    message: str = ""

    @property
    def evidence(self) -> str:
        """What the agent did, in the gate's words."""
        found = _FROZEN.match(self.message)
        return found[1] if found else self.message


async def judge(text: bytes, settings: Settings) -> Verdict:
    """Take a transcript through a gate, until it refuses a call."""
    reader, replay = offline(settings, prices(None))
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        entry = reader.read(line)
        if entry is None:
            raise ValueError(f"line {number}: there is no call in it")
        refusal = await replay.feed(entry)
        if refusal is not None:
            return Verdict(len(lines), number, refusal.reason, refusal.message)
    return Verdict(len(lines))


def fault(verdict: Verdict, label: dict[str, Any]) -> str:
    """What is wrong with a verdict; empty if it is right."""
    if label["verdict"] == "healthy":
        return "" if verdict.refused_at is None else f"touched at call {verdict.refused_at}: {verdict.message}"
    if verdict.refused_at is None:
        return "never stopped"
    if verdict.reason is not Reason.SESSION_FROZEN:
        return f"stopped by {verdict.reason}, not frozen"
    by = label["frozen_by_call"]
    return "" if verdict.refused_at <= by else f"frozen at call {verdict.refused_at}, not by call {by}"


Judged = list[tuple[Transcript, Verdict]]


async def judge_all(transcripts: Iterable[Transcript], settings: Settings) -> Judged:
    """The verdicts on transcripts that are kept."""
    return [(each, await judge(read(each.path), settings)) for each in transcripts]


def of_kind(judged: Judged, wanted: str) -> tuple[Judged, int]:
    """The transcripts that are labelled so, and how many verdicts on them are right."""
    found = [(each, verdict) for each, verdict in judged if each.label["verdict"] == wanted]
    return found, sum(not fault(verdict, each.label) for each, verdict in found)


def table(judged: Judged) -> str:
    """The verdicts for a terminal: at which call a transcript was frozen, by which it had to be, and why."""
    lines = [f"{'transcript':<{_NAME_WIDTH}}  {'calls':>5}  {'at':>4}  {'by':>4}"]
    for wanted, what in _TITLES.items():
        found, right = of_kind(judged, wanted)
        lines += ["", f"{wanted}: {right} of {len(found)} {what}"]
        for each, verdict in found:
            lines += _row(each, verdict)
    return "\n".join(lines)


def _row(transcript: Transcript, verdict: Verdict) -> Iterator[str]:
    by, wrong = transcript.label.get("frozen_by_call", ""), fault(verdict, transcript.label)
    head = f"{transcript.name:<{_NAME_WIDTH}}  {verdict.calls:>5}  {verdict.refused_at or '':>4}  {by:>4}  "
    said = f"WRONG {wrong}" if wrong else verdict.evidence
    yield from textwrap.wrap(said, WIDTH, initial_indent=head, subsequent_indent=" " * len(head)) or [head.rstrip()]


def page(judged: Judged) -> str:
    """The verdicts as a page of the documentation."""
    runaways, stopped = of_kind(judged, "runaway")
    healthy, untouched = of_kind(judged, "healthy")
    return _PAGE.format(
        stopped=stopped,
        runaways=len(runaways),
        untouched=untouched,
        healthy=len(healthy),
        runaway_rows="\n".join(
            f"| `{each.name}` | {each.label['about']} | {each.label['repetition']} | {each.label['frozen_by_call']} |"
            f" {verdict.refused_at or 'never'} | {_cell(verdict.evidence)} |"
            for each, verdict in runaways
        ),
        healthy_rows="\n".join(
            f"| `{each.name}` | {each.label['about']} | {verdict.calls} |" for each, verdict in healthy
        ),
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_TITLES: Final = {
    "runaway": f"frozen by the beginning of their {REPETITIONS_MAX}th repetition",
    "healthy": "not touched",
}
_PAGE: Final = """\
# What the rules make of transcripts

Runaway agents are told from heavy use by rules, and rules can be wrong in two ways. So they are held to transcripts of both: of
agents that ran away, which must be frozen by the call that begins their 8th repetition, and of heavy use, which must not be touched.
They are in `tests/transcripts`; most are generated, with the pauses and the parallel calls that such agents have, and the tests
generate others with other random numbers; those of LangGraph and of the OpenAI Agents SDK were recorded at a gate. Each is replayed
by the production gate with the settings that it has by default. `python -m tests.transcripts` prints the verdicts anew, and
[`tokengate replay`](../how-to/tune-runaway-detection.md) those on your own.

This page is written by `python -m tests.transcripts page`, and a test holds it to what the gate does.

## Runaways: {stopped} of {runaways} frozen in time

The columns: what counts as one repetition, by which call the agent has to be frozen, at which it is, and what the gate says of it.

| Transcript | What the agent does | Repetition | By | At | Why |
|---|---|---|---|---|---|
{runaway_rows}

## Heavy use: {untouched} of {healthy} not touched

| Transcript | What is done | Calls |
|---|---|---|
{healthy_rows}

## What they do not see

- Two agents who say the same in other words each time.
- A conversation that grows by something new with every call: that is what work looks like. Its [budget](../how-to/set-budgets.md)
  ends it.
- A loop slower than a pause of eight seconds in the mean between an answer and the next call: that is what waiting looks like.
- Ten equal rows of a batch, one after the other: they look like a loop, and are stopped as one.
"""

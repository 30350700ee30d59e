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


async def table(transcripts: Iterable[Transcript], settings: Settings) -> list[str]:
    """The verdicts as lines: the transcript, at which of its calls it was frozen (and by which it had to be), and why."""
    judged = [(each, await judge(read(each.path), settings)) for each in transcripts]
    lines = [f"{'transcript':<{_NAME_WIDTH}}  {'calls':>5}  {'at':>4}  {'by':>4}  "]
    for title, wanted in (("Runaways", "runaway"), ("Healthy", "healthy")):
        of_kind = [(each, verdict) for each, verdict in judged if each.label["verdict"] == wanted]
        right = sum(not fault(verdict, each.label) for each, verdict in of_kind)
        what = f"frozen by their {REPETITIONS_MAX}th repetition" if wanted == "runaway" else "not touched"
        lines += ["", f"{title}: {right} of {len(of_kind)} {what}"]
        for each, verdict in of_kind:
            lines += _row(each, verdict)
    return lines


def _row(transcript: Transcript, verdict: Verdict) -> Iterator[str]:
    by = transcript.label.get("frozen_by_call", "")
    said = fault(verdict, transcript.label) or verdict.evidence
    mark = "WRONG " if fault(verdict, transcript.label) else ""
    head = f"{transcript.name:<{_NAME_WIDTH}}  {verdict.calls:>5}  {verdict.refused_at or '':>4}  {by:>4}  "
    wrapped = textwrap.wrap(mark + said, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))
    yield from wrapped or [head.rstrip()]

"""What the rules make of transcripts, at their default thresholds: which would be frozen, when, and why.

The calls go to the pure rules in the order of their times, with what is known of earlier ones at each instant. This holds
the rules, and not the gate, to the transcripts.
"""

import heapq
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from tests.support.inmemory import prices
from tests.transcripts.collection import REPETITIONS_MAX, Transcript, read
from tokengate.anomaly import UNDER_WAY_MS_MAX, Fate, History, Observed, Past, Rules
from tokengate.anomaly.marks import Marker
from tokengate.anomaly.rules import judge as judge_call
from tokengate.cli.replay import offline
from tokengate.pricing import cost
from tokengate.settings import Settings
from tokengate.transcript import STATUS_FAILED, Entry

WIDTH: Final = 120
_NAME_WIDTH: Final = 32
_CONVERSATIONS: Final = ("messages", "input", "prompt")
_LONG_AGO: Final = Past(Fate.ANSWERED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one transcript."""

    calls: int
    refused_at: int | None = None
    """The first call that would be refused, from 1; None: none would."""
    reason: str = ""
    """What the rules say that the agent did."""

    @property
    def evidence(self) -> str:
        """What it did, without the ids of its requests and what it spent."""
        return self.reason.partition("; first request")[0]


class Session:
    """What the rules are told of one transcript's calls as they come."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._marker = Marker()
        self._histories: dict[str, History] = defaultdict(History)
        self._spent: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._past: dict[str, Past] = {}
        self._ends: list[tuple[int, str, str, int, bool]] = []

    def call(self, number: int, entry: Entry, body: dict[str, Any], cost_nano: int) -> str:
        """Take the next call; gives why its session would be frozen, or nothing."""
        self._end(entry.at_ms)
        session, name = entry.session.id, f"call-{number}"
        conversation = next(member for member in _CONVERSATIONS if member in body)
        mark = self._marker.mark(body, conversation, len(orjson.dumps(body)))
        spent, ended = self._spent[session], self._ended[session]
        observed = Observed(name, entry.at_ms, entry.request.call.model, mark, spent, ended)
        judged = judge_call(self._histories[session], observed, self._rules, lambda of: self._known(of, entry.at_ms))
        self._histories[session] = judged.history
        if judged.freeze is not None:
            return judged.freeze.reason
        self._past[name] = Past(Fate.UNDER_WAY, entry.at_ms)
        heapq.heappush(self._ends, (entry.ended_ms, name, session, cost_nano, entry.status >= STATUS_FAILED))
        return ""

    def _end(self, now_ms: int) -> None:
        while self._ends and self._ends[0][0] <= now_ms:
            ended_ms, name, session, cost_nano, failed = heapq.heappop(self._ends)
            self._spent[session] += cost_nano
            self._ended[session] += 1
            fate = Fate.FAILED if failed else Fate.ANSWERED
            self._past[name] = Past(fate, self._past[name].at_ms, ended_ms, cost_nano)

    def _known(self, name: str, now_ms: int) -> Past:
        past = self._past.get(name, _LONG_AGO)
        hung = past.fate is Fate.UNDER_WAY and now_ms - past.at_ms > UNDER_WAY_MS_MAX
        return Past(Fate.ANSWERED, past.at_ms) if hung else past


def judge(text: bytes) -> Verdict:
    """Take a transcript through the rules, until they would freeze its session."""
    reader, _ = offline(Settings(), prices(None))
    session, lines = Session(Rules()), text.splitlines()
    for number, line in enumerate(lines, 1):
        entry = reader.read(line)
        if entry is None:
            raise ValueError(f"line {number}: there is no call in it")
        price = prices(None).lookup(entry.request.call.model, entry.section).price
        cost_nano = cost(price, entry.usage) if price is not None and entry.usage is not None else 0
        reason = session.call(number, entry, orjson.loads(line)["body"], cost_nano)
        if reason:
            return Verdict(len(lines), number, reason)
    return Verdict(len(lines))


def fault(verdict: Verdict, label: dict[str, Any]) -> str:
    """What is wrong with a verdict; empty if it is right."""
    if label["verdict"] == "healthy":
        return "" if verdict.refused_at is None else f"touched at call {verdict.refused_at}: {verdict.reason}"
    if verdict.refused_at is None:
        return "never stopped"
    by = label["frozen_by_call"]
    return "" if verdict.refused_at <= by else f"frozen at call {verdict.refused_at}, not by call {by}"


_TITLES: Final = {
    "runaway": f"frozen by the beginning of their {REPETITIONS_MAX}th repetition",
    "healthy": "not touched",
}

Judged = list[tuple[Transcript, Verdict]]


def judge_all(transcripts: Iterable[Transcript]) -> Judged:
    """The verdicts on transcripts that are kept."""
    return [(each, judge(read(each.path))) for each in transcripts]


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

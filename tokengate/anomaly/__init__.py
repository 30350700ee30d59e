"""Runaway agents: what a call looks like, what a session did lately, and when that is no longer work. No I/O, no clock.

`marks` makes a few short words of a call by which repetitions are told (`Mark`); `rules` decides over what a session
did lately (`History`) and the call that is asked for; `words` says it so that whoever is woken by it knows what the
agent did. It is the ledger that freezes: its script keeps the same history and decides by the same rules, and a test
holds the two to each other. docs/explanation/runaways.md explains the rules and why the thresholds are what they are.
"""

import struct
from enum import StrEnum
from typing import Final

from msgspec import Struct

from tokengate.domain import Mode

PERIOD_MAX: Final = 8
"""The longest cycle of calls, or of exchanges within a conversation, that is found."""

FAILURES_A_REPETITION: Final = 3
"""A call that fails is tried again by every client. Only so many failures of the same call are one repetition of it,"""

BACK_OFF_MS: Final = 250
"""if it waits at least this long before it tries again. The official clients wait 375 ms or more."""

UNDER_WAY_MS_MAX: Final = 5 * 60_000
"""A call that has not been answered for longer than this hides no others that are the same."""

TAILS_MAX: Final = 4
"""How many conversations of a session that repeat themselves are remembered."""

TAIL_REPEATS_MIN: Final = 3
"""How often a conversation has to repeat itself before that is remembered at all."""

GROWTH_BYTES_MIN: Final = 64 * 1024
"""Below this size a context may grow as it likes."""

WAVES: Final = (2, 8, 32, 128)
"""The numbers of calls at which it is looked whether calls multiply."""

WAVE_MS_MIN: Final = 500
WAVE_MS_MAX: Final = 60_000
"""From one of these numbers to the next it takes so long where each call waits for an answer and then makes more."""

WAVES_MIN: Final = 3
"""How many such waits there are where calls multiply; a plan that is carried out all at once has one or two."""

WAVE_LIKE: Final = 4
"""By what factor the waits may differ, and which part (1/WAVE_LIKE) of the calls must have been under way at once."""

SPEND_STEP_MS: Final = 15_000
SPEND_STEPS: Final = 4
"""Spending is looked at over the last minute, in steps of a quarter."""

MEAN_AFTER_MS: Final = 10 * 60_000
"""How long a session must have been spending before its mean is one."""

MEAN_OVER_MS: Final = 2 * 3_600_000
"""How far back a mean reaches; beyond, half of it is kept."""

HISTORY_TTL_MS: Final = 3_600_000
"""How long a session's history is remembered after its last call."""

SERIES_MS: Final = 24 * 3_600_000
"""A freeze that comes within this time after the end of the one before is a repetition of it."""


ROOT_LETTERS: Final = 4
"""How long the digest of a conversation's beginning is: it tells the few conversations of a session apart."""


class Rule(StrEnum):
    """The rules, by the names that they have in logs, events and metrics."""

    LOOP = "loop"
    """The same request again and again, or the same few in turn."""
    TOOL_LOOP = "tool_loop"
    """A conversation that says the same again and again, with tools or without."""
    GROWTH = "growth"
    """A context that grows by a factor with every call, or calls that multiply."""
    VELOCITY = "velocity"
    """Spending that is too fast."""
    RATE = "rate"
    """More requests than may be made in a time; they are refused, and nothing is frozen."""


class Rules(Struct, frozen=True, gc=False):
    """Modes and thresholds of everything that can freeze a session."""

    loops: Mode = Mode.ENFORCE
    loop_repeats: int = 8
    """The same request, or the beginning of the same round of requests, that is one too many."""
    tool_loops: Mode = Mode.ENFORCE
    tool_loop_repeats: int = 7
    """How often a conversation may not say the same in a row."""
    pause_ms: int = 8_000
    """Repetitions are a loop if the pause between an answer and the next request is not longer than this in the mean:
    somebody who asks the same every half minute is looking whether anything has changed."""
    growth: Mode = Mode.ENFORCE
    growth_calls: int = 8
    """Calls in a row of which each is larger than the one before by the factor."""
    growth_percent: int = 150
    """That factor, in percent."""
    velocity: Mode = Mode.ENFORCE
    velocity_max_nano: int | None = None
    """The most that a session may spend in a minute; None: no such bound."""
    velocity_factor: int = 20
    """The most, as a multiple of the session's own mean; 0: no such bound."""
    velocity_floor_nano: int = 5_000_000_000
    """A minute that costs less is never compared with the mean."""
    freeze_ms: int = 10 * 60_000
    """How long the first freeze lasts; each further one twice as long,"""
    freeze_ms_max: int = 24 * 3_600_000
    """and this at the most."""

    @property
    def calls_kept(self) -> int:
        """How many calls are remembered: a loop may have half as many others among its own."""
        return max(PERIOD_MAX, self.loop_repeats + self.loop_repeats // 2)

    @property
    def window_ms(self) -> int:
        """The pauses between the repetitions that are one too many, taken together, at the most."""
        return self.pause_ms * (self.loop_repeats - 1)

    @property
    def tool_window_ms(self) -> int:
        """The same within a conversation; the first repetitions are found there, and not seen."""
        return self.pause_ms * max(1, self.tool_loop_repeats - TAIL_REPEATS_MIN)

    @property
    def on(self) -> bool:
        """Whether any rule is."""
        return self.marking or self.velocity is not Mode.OFF

    @property
    def marking(self) -> bool:
        """Whether any rule that needs a call's mark is."""
        return not (self.loops is Mode.OFF and self.tool_loops is Mode.OFF and self.growth is Mode.OFF)

    def mode(self, rule: Rule) -> Mode:
        """What is done about a finding of a rule."""
        modes = {
            Rule.LOOP: self.loops,
            Rule.TOOL_LOOP: self.tool_loops,
            Rule.GROWTH: self.growth,
            Rule.VELOCITY: self.velocity,
        }
        return modes[rule]


NO_RULES: Final = Rules(loops=Mode.OFF, tool_loops=Mode.OFF, growth=Mode.OFF, velocity=Mode.OFF)


class Mark(Struct, frozen=True, gc=False):
    """A call in a few short words: equal words, equal calls. Nothing of what was said can be read from the digests."""

    call: str
    """The digest of everything that is asked: model, messages, tools, and how to answer."""
    root: str
    """The digest of how the conversation begins."""
    bytes: int
    """The size of the body."""
    tail: str = ""
    """The digest of what the conversation repeats, after a letter for what that is: `t` an exchange with tools at its
    end, `T` several in turn, `m` messages, `x` the end of its last text, `c` a large message anywhere; empty if nothing
    is repeated `TAIL_REPEATS_MIN` times."""
    repeats: int = 0
    """How often it stands there."""
    what: str = ""
    """What is repeated, in words, short: tools by name with the beginnings of their arguments."""


_MARK: Final = struct.Struct("<8s4sI")
_SIZE_MAX: Final = 2**32 - 1


def packed(mark: Mark) -> bytes:
    """A mark as the ledger's script takes it: call, root and size in their places, then a line of what is repeated."""
    line = f"{mark.tail} {mark.repeats} {mark.what}" if mark.tail else ""
    return _MARK.pack(mark.call.encode(), mark.root.encode(), min(mark.bytes, _SIZE_MAX)) + line.encode()


class Fate(StrEnum):
    """What has become of an earlier call."""

    UNDER_WAY = "under_way"
    """Not answered yet, and not for longer than `UNDER_WAY_MS_MAX`."""
    FAILED = "failed"
    """The provider refused it, or was not reached: nothing was charged."""
    ANSWERED = "answered"
    """Answered, in full or in part; or nothing is known of it any more."""


class Past(Struct, frozen=True, gc=False):
    """What is known of an earlier call."""

    fate: Fate
    at_ms: int = 0
    ended_ms: int = 0
    """0: a long time ago."""
    charged_nano: int = 0


class Observed(Struct, frozen=True, gc=False):
    """A call that would be admitted, at the instant at which that is decided."""

    request_id: str
    at_ms: int
    model: str
    mark: Mark | None
    """None for calls of which only the price is known."""
    spent_nano: int
    """What its session has spent until now, over all budgets."""
    ended: int
    """How many calls of its session have ended until now."""


class Seen(Struct, frozen=True, gc=False):
    """A call that was made."""

    mark: str
    request_id: str
    pause_ms: int
    """How long after the last answer to the same call it came; 0 if there was none."""


class Cycle(Struct, frozen=True, gc=False):
    """The same `period` calls, in the same order, again and again."""

    period: int
    matches: int
    """How many calls in a row have been the same as the one `period` before."""
    pauses_ms: int
    first_id: str
    since_ms: int
    spent_nano: int
    """What the session had spent when it began."""


class Tail(Struct, frozen=True, gc=False):
    """A conversation that repeats itself."""

    mark: str
    counted: int
    """Repetitions that were asked for under our eyes, those with which it was first seen included."""
    repeats: int
    """How often it repeated itself when it was last seen."""
    call: str
    """The mark of the last request,"""
    last_id: str
    """and its id."""
    pauses_ms: int
    first_id: str
    since_ms: int
    spent_nano: int


class Growth(Struct, frozen=True, gc=False):
    """A context that grows by the factor, call by call."""

    root: str
    calls: int
    """That which it begins with, and those that were larger by the factor."""
    bytes: int
    first_bytes: int = 0
    """The size before it first grew by the factor,"""
    first_id: str = ""
    """with which request it did,"""
    since_ms: int = 0
    """when,"""
    spent_nano: int = 0
    """and what had been spent by then."""


class Waves(Struct, frozen=True, gc=False):
    """Calls that may be multiplying."""

    calls: int
    peak: int
    """The most that were under way at once since the last number of `WAVES`."""
    last_ms: int
    """When that was reached."""
    waits: int
    """How often reaching the next one took as long as answers take,"""
    wait_ms_min: int
    """at the least"""
    wait_ms_max: int
    """and at the most."""
    first_id: str
    since_ms: int
    spent_nano: int


class Spent(Struct, frozen=True, gc=False):
    """What had been spent when a step of time began."""

    step: int
    nano: int
    request_id: str


class History(Struct, frozen=True, gc=False):
    """What a session did lately: bounded, whatever it does. Empty after a freeze: old evidence is no evidence."""

    calls: tuple[Seen, ...] = ()
    failed: str = ""
    """The mark of the call that failed last,"""
    failures: int = 0
    """and how often it did since it was answered."""
    cycle: Cycle | None = None
    tails: tuple[Tail, ...] = ()
    growth: Growth | None = None
    waves: Waves | None = None
    started: int = 0
    ended_before: int = 0
    """Calls that were made since this was begun, and those that had ended by then: the difference is under way."""
    spent: tuple[Spent, ...] = ()
    mean_from_ms: int = 0
    mean_from_nano: int = 0
    shadow: Rule | None = None
    shadow_until_ms: int = 0
    """Until when a rule in shadow mode would have kept the session frozen."""


class Finding(Struct, frozen=True, gc=False):
    """What a rule found, and the evidence."""

    rule: Rule
    reason: str
    first_id: str
    last_id: str


class Judgement(Struct, frozen=True, gc=False):
    """What is made of a call."""

    history: History
    freeze: Finding | None = None
    """The session is frozen, and the call refused."""
    shadow: Rule | None = None
    """The call would have been refused, were this rule enforced."""
    reported: Finding | None = None
    """A rule in shadow mode has found something new."""

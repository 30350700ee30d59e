"""What is one too many: named cases, each with the verdict and the reason as it is told."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tokengate.anomaly import (
    NO_RULES,
    Fate,
    Finding,
    History,
    Judgement,
    Mark,
    Observed,
    Past,
    Rule,
    Rules,
    words,
)
from tokengate.anomaly.rules import judge
from tokengate.anomaly.spending import freeze_ms, is_repetition, take
from tokengate.domain import Mode, Rate

START_MS = 1_790_000_000_000
CENT = 10_000_000


@dataclass
class Session:
    """A session that makes calls one after the other, unless told otherwise, of a cent each."""

    rules: Rules = field(default_factory=Rules)
    history: History = field(default_factory=History)
    now_ms: int = START_MS
    spent: int = 0
    ended: int = 0
    number: int = 0
    pasts: dict[str, Past] = field(default_factory=dict)
    last: Judgement = field(default_factory=lambda: Judgement(History()))

    def call(
        self,
        mark: str | Mark = "a",
        *,
        pause_ms: int = 200,
        took_ms: int = 1000,
        cost: int = CENT,
        fate: Fate = Fate.ANSWERED,
        waits: bool = True,
    ) -> Finding | None:
        """Ask, and (`waits`) be answered before anything else happens."""
        self.now_ms += pause_ms
        self.number += 1
        name = f"tg-{self.number}"
        if isinstance(mark, str):
            mark = Mark(mark, "root", 100)
        observed = Observed(name, self.now_ms, "gpt-4o", mark, self.spent, self.ended)
        self.last = judge(self.history, observed, self.rules, lambda asked: self.pasts.get(asked, Past(Fate.ANSWERED)))
        self.history = self.last.history
        if self.last.freeze is None:
            charged = cost if fate is Fate.ANSWERED else 0
            self.pasts[name] = Past(fate, self.now_ms, self.now_ms + took_ms, charged)
            if waits:
                self.now_ms += took_ms
                self.spent += charged
                self.ended += 1
        return self.last.freeze

    def calls(self, marks: Iterable[str | Mark], **how: Any) -> Finding | None:
        """Many, until one is refused."""
        for mark in marks:
            if found := self.call(mark, **how):
                return found
        return None

    def end_all(self) -> None:
        """Whatever is under way is answered now."""
        for name, past in self.pasts.items():
            if past.fate is Fate.UNDER_WAY:
                self.pasts[name] = Past(Fate.ANSWERED, past.at_ms, self.now_ms, CENT)
                self.ended += 1


def tail(call: str, repeats: int, of: str = "tX", what: str = "called the tool search('x')") -> Mark:
    return Mark(call, "root", 100, of, repeats, what)


# --- the same request ---


def test_the_eighth_same_request_in_a_row_is_one_too_many() -> None:
    session = Session()
    assert session.calls(["a"] * 7) is None
    found = session.call("a")
    assert found == Finding(
        Rule.LOOP,
        "sent the same request to gpt-4o 8 times in a row; first request tg-1, last tg-8; spent $0.07 in 8s",
        "tg-1",
        "tg-8",
    )
    assert session.history == History()


def test_others_among_them_up_to_a_third_do_not_hide_a_loop() -> None:
    found = Session().calls(["a", "a", "a", "w1", "a", "a", "a", "w2", "a", "a"])
    assert found is not None
    assert (found.first_id, found.last_id) == ("tg-1", "tg-10")
    assert Session().calls([each for number in range(40) for each in ("a", f"w{number}")]) is None


def test_one_who_asks_every_half_minute_is_looking_whether_anything_has_changed() -> None:
    assert Session().calls(["a"] * 100, pause_ms=30_000) is None
    assert Session().calls(["a"] * 100, pause_ms=60_000, took_ms=50_000) is None


def test_what_counts_is_the_pause_and_not_how_long_an_answer_takes() -> None:
    assert Session().calls(["a"] * 8, pause_ms=500, took_ms=55_000) is not None


def test_retries_with_back_off_of_answers_that_nobody_can_read() -> None:
    session = Session()
    found = [session.call("a", pause_ms=min(8000, 500 * 2**turn)) for turn in range(8)]
    assert found[7] is not None
    assert "8 times in a row" in found[7].reason
    assert found[:7] == [None] * 7


def test_a_slow_beginning_does_not_hide_a_fast_loop() -> None:
    session = Session()
    assert session.calls(["a"] * 20, pause_ms=60_000) is None
    assert session.calls(["a"] * 7) is not None


def test_samples_that_are_asked_for_at_once_are_no_loop() -> None:
    session = Session()
    assert session.calls(["a"] * 100, fate=Fate.UNDER_WAY, waits=False) is None
    session.end_all()
    assert session.calls(["a"] * 5) is None


def test_a_loop_of_many_at_once_is_one_when_they_were_answered_eight_times() -> None:
    session = Session()
    for _ in range(7):
        assert session.calls(["a"] * 10, fate=Fate.UNDER_WAY, waits=False, pause_ms=0) is None
        session.now_ms += 2000
        session.end_all()
    assert session.call("a") is not None


def test_a_client_that_tries_again_after_failures_is_no_loop() -> None:
    session = Session()
    assert session.calls(["a"] * 20, fate=Fate.FAILED, pause_ms=500) is None
    assert session.call("a", pause_ms=500) is None
    assert session.calls([f"b{n // 5}" for n in range(40)], fate=Fate.FAILED, pause_ms=2000) is None


def test_a_storm_of_retries_is_one_after_three_times_as_many() -> None:
    session = Session()
    refused = [session.call("a", fate=Fate.FAILED, pause_ms=500) is not None for _ in range(22)]
    assert refused == [False] * 21 + [True]
    assert session.last.freeze is not None
    assert "spent $0.00" in session.last.freeze.reason


def test_retries_without_any_pause_count_like_answers() -> None:
    assert Session().calls(["a"] * 8, fate=Fate.FAILED, pause_ms=10) is not None


def test_an_answer_ends_a_series_of_failures() -> None:
    session = Session()
    for _ in range(6):
        assert session.calls(["a"] * 2, fate=Fate.FAILED, pause_ms=500) is None
        assert session.call("b") is None


def test_what_nothing_is_known_of_any_more_was_a_long_time_ago() -> None:
    session = Session()
    for _ in range(30):
        assert session.call("a") is None
        session.pasts.clear()


# --- the same few requests in turn ---


@pytest.mark.parametrize("period", range(2, 9))
def test_a_cycle_is_found_when_its_eighth_round_begins(period: int) -> None:
    session, cycle = Session(), "abcdefgh"[:period]
    assert session.calls(cycle * 7) is None
    found = session.call("a")
    assert found is not None
    assert (found.rule, found.first_id, found.last_id) == (Rule.LOOP, "tg-1", f"tg-{7 * period + 1}")
    assert found.reason.startswith(
        f"sent the same {period} requests in turn, now for the 8th time; first request tg-1,"
    )
    # Of the first round only its first request is known to have cost something.
    assert f"spent ${0.06 * period + 0.01:.2f}" in found.reason


def test_a_longer_cycle_is_none() -> None:
    assert Session().calls("abcdefghi" * 20) is None


def test_the_same_requests_in_another_order_are_no_cycle() -> None:
    orders = ("abcd", "acbd", "bdca", "dcab", "badc")
    assert Session().calls([each for n in range(50) for each in orders[n % 5] + f"{n}"]) is None


def test_a_report_by_the_hour_is_no_cycle() -> None:
    session = Session()
    for _ in range(24):
        assert session.calls("abcdef") is None
        session.now_ms += 3_600_000


def test_a_new_request_ends_a_cycle() -> None:
    session = Session()
    for number in range(10):
        assert session.calls([*"abab", f"new{number}"]) is None


# --- conversations ---


def test_an_exchange_that_stands_there_seven_times() -> None:
    session = Session()
    assert session.calls([Mark(f"c{n}", "root", 100) for n in range(3)]) is None
    assert session.calls([tail(f"c{n}", n) for n in range(3, 7)]) is None
    found = session.call(tail("c7", 7))
    assert found == Finding(
        Rule.TOOL_LOOP,
        "called the tool search('x') 7 times in a row with the same result; "
        "first request tg-4, last tg-8; spent $0.04 in 4s",
        "tg-4",
        "tg-8",
    )


@pytest.mark.parametrize(
    ("kind", "what", "told"),
    [
        ("T", "called the tools a(), b()", "called the tools a(), b() 7 times in turn with the same results;"),
        ("m", "repeated the last 2 messages", "repeated the last 2 messages 7 times in a row;"),
        ("x", "ended a prompt with the same 99 characters", "ended a prompt with the same 99 characters 7 times in a"),
        ("c", "sent the same 4000 characters", "sent the same 4000 characters 7 times in one conversation;"),
    ],
)
def test_every_way_to_go_in_circles_is_told(kind: str, what: str, told: str) -> None:
    found = Session().calls([tail(f"c{n}", n, f"{kind}X", what) for n in range(3, 8)])
    assert found is not None
    assert found.reason.startswith(told)


def test_only_what_is_added_under_our_eyes_is_evidence() -> None:
    session = Session()
    assert session.call(tail("c", 500)) is None
    assert session.calls([tail(f"c{n}", n) for n in range(501, 504)]) is None
    assert session.call(tail("c504", 504)) is not None
    # Frozen and lifted: the conversation is as long as before, and what is in it is known.
    assert session.calls([tail(f"c{n}", n) for n in range(505, 509)]) is None
    assert session.call(tail("c509", 509)) is not None


def test_a_window_that_slides_shows_the_same_request_again() -> None:
    assert Session().calls([tail("c", 3)] * 5) is not None


def test_the_same_tail_of_other_conversations_is_no_repetition() -> None:
    assert Session().calls([tail(f"c{n}", 3) for n in range(40)]) is None


def test_polling_with_a_pause_is_no_loop() -> None:
    assert Session().calls([tail(f"c{n}", n) for n in range(3, 60)], pause_ms=30_000) is None


def test_conversations_that_are_stuck_side_by_side_do_not_hide_each_other() -> None:
    session = Session()
    found = session.calls([tail(f"{of}{n}", n, of) for n in range(3, 8) for of in ("tX", "tY", "mZ")])
    assert found is not None
    assert found.last_id == "tg-13"


def test_a_failed_request_is_tried_again_without_counting() -> None:
    session = Session()
    assert session.calls([tail("c5", 5)] * 10, fate=Fate.FAILED, pause_ms=500) is None


# --- growth ---


def test_a_context_that_is_fed_with_itself() -> None:
    session = Session()
    sizes = [1000 * 2**n for n in range(8)]
    assert session.calls([Mark(f"c{n}", "root", size) for n, size in enumerate(sizes[:-1])]) is None
    found = session.call(Mark("c8", "root", sizes[-1]))
    assert found is not None
    assert found.reason == (
        "sent a context that grew 1.5-fold or more with each of 7 calls, from 1.0 KB to 125.0 KB; "
        "first request tg-2, last tg-8; spent $0.06 in 7s"
    )


def test_reading_one_file_after_the_other_is_no_growth_without_end() -> None:
    assert Session().calls([Mark(f"c{n}", "root", 2000 + 30_000 * n) for n in range(60)]) is None


def test_a_small_context_may_grow_as_it_likes() -> None:
    session = Session()
    assert session.calls([Mark(f"c{n}", "root", 100 * 3**n // 2**n) for n in range(12)]) is None
    assert session.calls([Mark(f"c{n}", "root", 100 * 3**n // 2**n) for n in range(12, 17)]) is not None


def test_other_conversations_and_retries_in_between() -> None:
    sizes = [1000 * 2**n for n in range(12)]
    assert Session().calls([Mark(f"{n}{of}", of, size) for n, size in enumerate(sizes) for of in "ab"]) is None
    retried = [Mark(f"{n}", "root", size) for n, size in enumerate(sizes) for _ in range(2)]
    assert Session().calls(retried) is not None


def tree(session: Session, branches: int, wait_ms: int, calls_max: int = 400) -> Finding | None:
    """Every call makes more calls when it is answered."""
    calls, number = 1, 0
    while calls < calls_max:
        for _ in range(calls):
            number += 1
            found = session.call(f"task {number}", pause_ms=3, fate=Fate.UNDER_WAY, waits=False)
            if found:
                return found
        session.now_ms += wait_ms
        session.end_all()
        calls *= branches
    return None


@pytest.mark.parametrize("branches", [2, 3, 4, 5, 8, 10])
@pytest.mark.parametrize("wait_ms", [1000, 10_000, 20_000])
def test_calls_that_multiply(branches: int, wait_ms: int) -> None:
    found = tree(Session(), branches, wait_ms, calls_max=1100)
    assert found is not None
    assert found.rule is Rule.GROWTH
    assert found.reason.startswith(
        "made calls that multiply: 128 in a few waves, each larger than the one before; first request tg-1, last tg-128;"
    )


def test_a_plan_that_is_carried_out_all_at_once_does_not_multiply() -> None:
    session = Session()
    assert session.calls(["plan"]) is None
    assert session.calls([f"{n}" for n in range(12)], fate=Fate.UNDER_WAY, waits=False, pause_ms=1) is None
    session.now_ms += 3000
    session.end_all()
    assert session.calls([f"part {n}" for n in range(1000)], fate=Fate.UNDER_WAY, waits=False, pause_ms=1) is None


def test_one_after_the_other_is_a_line_and_no_tree() -> None:
    assert Session().calls([f"{n}" for n in range(2000)]) is None


# --- spending ---


def test_more_in_a_minute_than_is_allowed() -> None:
    session = Session(Rules(velocity_max_nano=50 * CENT))
    found = session.calls([f"{n}" for n in range(60)], pause_ms=10, took_ms=500)
    assert found is not None
    assert found.rule is Rule.VELOCITY
    assert found.reason == ("spent $0.51 in the last minute, and may spend $0.50; first request tg-1, last tg-52")


def test_less_in_each_minute_is_never_too_much() -> None:
    session = Session(Rules(velocity_max_nano=50 * CENT))
    assert session.calls([f"{n}" for n in range(500)], pause_ms=300) is None


def test_far_more_than_the_sessions_own_mean() -> None:
    session = Session()
    assert session.calls([f"{n}" for n in range(40)], pause_ms=59_000) is None
    found = session.calls([f"dear {n}" for n in range(10)], cost=100 * CENT)
    assert found is not None
    assert found.reason == (
        "spent $5.01 in the last minute, after $0.01 a minute in the 38m56s before; first request tg-40, last tg-46"
    )


@pytest.mark.parametrize(
    ("before", "pause_ms", "cost", "why"),
    [
        (5, 59_000, 100 * CENT, "it has no mean yet"),
        (40, 59_000, 40 * CENT, "it is not dear"),
        (40, 1000, 100 * CENT, "its mean is not far below"),
    ],
)
def test_spending_that_is_not_unusual(before: int, pause_ms: int, cost: int, why: str) -> None:
    session = Session()
    assert session.calls([f"{n}" for n in range(before)], pause_ms=pause_ms, cost=60 * CENT) is None
    assert session.calls([f"more {n}" for n in range(10)], cost=cost) is None, why


def test_a_mean_forgets() -> None:
    session = Session()
    assert session.calls([f"dear {n}" for n in range(60)], pause_ms=9000, cost=100 * CENT) is None
    assert session.calls([f"{n}" for n in range(1500)], pause_ms=59_000, cost=0) is None
    assert session.calls([f"dear again {n}" for n in range(10)], cost=100 * CENT) is not None


# --- modes ---


def test_a_rule_that_is_off_finds_nothing_and_remembers_nothing() -> None:
    session = Session(NO_RULES)
    assert not NO_RULES.on
    assert session.calls([tail("a", n) for n in range(40)]) is None
    assert session.history == History()


def test_a_shadow_reports_once_and_marks_every_call_that_would_have_been_refused() -> None:
    session = Session(Rules(loops=Mode.SHADOW, freeze_ms=60_000))
    seen = []
    for _ in range(80):
        assert session.call("a") is None
        seen.append((session.last.shadow, session.last.reported is not None))
    assert seen[:7] == [(None, False)] * 7
    assert seen[7] == (Rule.LOOP, True)
    assert [reported for _, reported in seen].count(True) == 2
    assert {shadow for shadow, _ in seen[8:]} == {Rule.LOOP}


def test_what_is_enforced_goes_before_what_is_a_shadow() -> None:
    session = Session(Rules(loops=Mode.SHADOW))
    found = session.calls([tail("a", 3)] * 20)
    assert found is not None
    assert found.rule is Rule.TOOL_LOOP


def test_a_call_without_a_mark_is_only_counted_and_paid_for() -> None:
    rules = Rules(velocity_max_nano=CENT)
    now = START_MS
    history = History()
    for number in range(3):
        observed = Observed(f"tg-{number}", now, "m", None, number * CENT, number)
        verdict = judge(history, observed, rules, lambda _: Past(Fate.ANSWERED))
        history = verdict.history
    assert verdict.freeze is not None
    assert verdict.freeze.rule is Rule.VELOCITY


def test_a_history_is_bounded() -> None:
    session = Session(Rules(loops=Mode.SHADOW, tool_loops=Mode.SHADOW, growth=Mode.SHADOW, velocity=Mode.SHADOW))
    for number in range(300):
        session.call(tail(f"c{number % 70}", 3 + number, f"t{number % 9}"), pause_ms=number * 10)
        assert len(session.history.calls) <= session.rules.calls_kept == 12
        assert len(session.history.tails) <= 4
        assert len(session.history.spent) <= 4


# --- rates and freezes ---


def test_a_burst_and_then_one_for_each_interval() -> None:
    rate, now, full_at = Rate(60, 60_000, burst=3), START_MS, 0
    waits = []
    for _ in range(5):
        full_at, wait_ms = take(rate, full_at, now)
        waits.append(wait_ms)
    assert waits == [0, 0, 0, 1000, 1000]
    assert take(rate, full_at, now + 999)[1] == 1
    full_at, wait_ms = take(rate, full_at, now + 1000)
    assert wait_ms == 0
    assert take(rate, full_at, now + 1000)[1] == 1000


def test_asking_in_vain_prolongs_nothing() -> None:
    rate, now = Rate(1, 10_000, burst=1), START_MS
    full_at, _ = take(rate, 0, now)
    for ms in range(0, 10_000, 100):
        assert take(rate, full_at, now + ms) == (full_at, 10_000 - ms)
    assert take(rate, full_at, now + 10_000)[1] == 0


def test_after_a_pause_a_whole_burst_is_there_again_and_no_more() -> None:
    rate, full_at = Rate(10, 1000, burst=10), 0
    for _ in range(10):
        full_at, wait_ms = take(rate, full_at, START_MS)
        assert wait_ms == 0
    later = START_MS + 3_600_000
    for _ in range(10):
        full_at, wait_ms = take(rate, full_at, later)
        assert wait_ms == 0
    assert take(rate, full_at, later)[1] == 100


def test_a_freeze_lasts_twice_as_long_each_time_up_to_the_longest() -> None:
    rules = Rules(freeze_ms=600_000, freeze_ms_max=86_400_000)
    assert [freeze_ms(rules, n) // 60_000 for n in range(10)] == [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]
    assert freeze_ms(rules, 10**6) == 86_400_000
    assert is_repetition(START_MS, START_MS + 86_400_000)
    assert not is_repetition(START_MS, START_MS + 86_400_001)
    assert not is_repetition(None, START_MS)


# --- words ---


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (-5, "$0.00"),
        (450_000, "$0.000450"),
        (CENT, "$0.01"),
        (4_204_000_000, "$4.20"),
        (10**12, "$1000.00"),
    ],
)
def test_money_for_people(nano: int, text: str) -> None:
    assert words.dollars(nano) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(-1, "0s"), (999, "0s"), (59_999, "59s"), (72_000, "1m12s"), (3_599_999, "59m59s"), (7_500_000, "2h05m")],
)
def test_durations_for_people(ms: int, text: str) -> None:
    assert words.duration(ms) == text


def test_numbers_for_people() -> None:
    told = [words.ordinal(n) for n in (1, 2, 3, 4, 8, 11, 12, 13, 21, 22, 101, 111)]
    assert told == ["1st", "2nd", "3rd", "4th", "8th", "11th", "12th", "13th", "21st", "22nd", "101st", "111th"]

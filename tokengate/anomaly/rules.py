"""What is too much: over what a session did lately and the call that is asked for. No I/O, no clock.

`judge` is the whole of it. It takes note of a call that is about to be admitted and says whether it is one too many;
`judge.lua` does the same within the reservation. A call that is refused leaves no trace, so that asking again prolongs
nothing.
"""

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from tokengate.anomaly import (
    BACK_OFF_MS,
    FAILURES_A_REPETITION,
    PERIOD_MAX,
    TAIL_REPEATS_MIN,
    TAILS_MAX,
    Cycle,
    Fate,
    Finding,
    History,
    Judgement,
    Observed,
    Past,
    Rule,
    Rules,
    Seen,
    Tail,
    words,
)
from tokengate.anomaly.spending import growing, multiplying, racing
from tokengate.domain import Mode

PastOf = Callable[[str], Past]
"""What has become of an earlier call, by its id."""


def judge(history: History, call: Observed, rules: Rules, past_of: PastOf) -> Judgement:
    """Take note of a call, and say whether it is one too many.

    Args:
        history: what the session did lately.
        call: the call, which every budget on its path would admit.
        rules: modes and thresholds.
        past_of: is asked about earlier calls that were the same.

    Returns:
        The history with the call in it; without anything, if the session is frozen.
    """
    findings: list[Finding] = []
    if rules.loops is not Mode.OFF and call.mark is not None:
        history, found = looping(history, call, rules, past_of)
        findings += found
    if rules.tool_loops is not Mode.OFF and call.mark is not None and call.mark.tail:
        history, found = circling(history, call, rules, past_of)
        findings += found
    if rules.growth is not Mode.OFF:
        for look in (growing, multiplying):
            history, found = look(history, call, rules)
            findings += found
    if rules.velocity is not Mode.OFF:
        history, found = racing(history, call, rules)
        findings += found
    for finding in findings:
        if rules.mode(finding.rule) is Mode.ENFORCE:
            return Judgement(History(), freeze=finding)
    under_shadow = call.at_ms < history.shadow_until_ms
    if findings and not under_shadow:
        rule = findings[0].rule
        history = replace(history, shadow=rule, shadow_until_ms=call.at_ms + rules.freeze_ms)
        return Judgement(history, shadow=rule, reported=findings[0])
    return Judgement(history, shadow=history.shadow if under_shadow else None)


# --- the same request again, or the same few in turn ---


def looping(history: History, call: Observed, rules: Rules, past_of: PastOf) -> tuple[History, list[Finding]]:
    """The same request again and again, with few others among them, or the same few in turn.

    A loop waits for each answer before it asks again. So a call that is the same as one still under way is one of many
    samples and does not count; and of those that are the same as one that failed only some do, as they are retries.
    """
    mark, calls = _mark(call), history.calls
    back = next((back for back in range(1, len(calls) + 1) if calls[-back].mark == mark), 0)
    if not back:
        seen = (*calls, Seen(mark, call.request_id, 0))[-rules.calls_kept :]
        return replace(history, calls=seen, cycle=None), []
    past = past_of(calls[-back].request_id)
    if past.fate is Fate.UNDER_WAY:
        return history, []
    if past.fate is Fate.FAILED:
        failures = history.failures + 1 if history.failed == mark else 1
        history = replace(history, failed=mark, failures=failures)
        if failures % FAILURES_A_REPETITION and call.at_ms - past.ended_ms >= BACK_OFF_MS:
            retried = (
                *calls[:-back],
                replace(calls[-back], request_id=call.request_id),
                *calls[len(calls) - back + 1 :],
            )
            return replace(history, calls=retried), []
    elif history.failed == mark:
        history = replace(history, failed="", failures=0)
    seen = (*calls, Seen(mark, call.request_id, max(0, call.at_ms - past.ended_ms)))[-rules.calls_kept :]
    cycle = _cycle(history, call, rules, back, past, past_of)
    history = replace(history, calls=seen, cycle=cycle)
    return history, [*_same(seen, call, rules, past_of), *_in_turn(cycle, call, rules)]


def _mark(call: Observed) -> str:
    return call.mark.call if call.mark is not None else ""


def _same(seen: tuple[Seen, ...], call: Observed, rules: Rules, past_of: PastOf) -> Iterator[Finding]:
    """The same request again and again, among the calls that are remembered."""
    same = [each for each in seen if each.mark == seen[-1].mark][-rules.loop_repeats :]
    if len(same) < rules.loop_repeats or sum(each.pause_ms for each in same[1:]) > rules.window_ms:
        return
    pasts = [past_of(each.request_id) for each in same[:-1]]
    spent, first = sum(past.charged_nano for past in pasts), same[0].request_id
    reason = words.loop(len(same), first, pasts[0].at_ms or call.at_ms, spent, call)
    yield Finding(Rule.LOOP, reason, first, call.request_id)


def _cycle(history: History, call: Observed, rules: Rules, back: int, past: Past, past_of: PastOf) -> Cycle | None:
    """The cycle that a call continues, or begins by being the same as the one `back` before."""
    cycle, calls = history.cycle, history.calls
    if cycle is not None and calls[-cycle.period].mark == _mark(call):
        pause_ms = max(0, call.at_ms - past_of(calls[-1].request_id).ended_ms)
        if cycle.pauses_ms + pause_ms <= rules.window_ms:
            return replace(cycle, matches=cycle.matches + 1, pauses_ms=cycle.pauses_ms + pause_ms)
    if not 1 < back <= PERIOD_MAX:
        return None
    first = calls[-back].request_id
    return Cycle(back, 1, 0, first, past.at_ms or call.at_ms, call.spent_nano - past.charged_nano)


def _in_turn(cycle: Cycle | None, call: Observed, rules: Rules) -> Iterator[Finding]:
    """The same few requests in turn: found when a round too many begins."""
    if cycle is None or (cycle.matches - 1) % cycle.period:
        return
    rounds = (cycle.matches - 1) // cycle.period + 2
    if rounds >= rules.loop_repeats:
        yield Finding(Rule.LOOP, words.cycle(cycle, rounds, call), cycle.first_id, call.request_id)


# --- a conversation that says the same again and again ---


def circling(history: History, call: Observed, rules: Rules, past_of: PastOf) -> tuple[History, list[Finding]]:
    """A conversation that repeats itself more and more.

    How often it does is seen in each request. Only what is added under our eyes counts, and only if it comes in time:
    what was there when the conversation was first seen, or seen again after a freeze, is no evidence.
    """
    mark = call.mark
    if mark is None:
        return history, []
    known = next((tail for tail in history.tails if tail.mark == mark.tail), None)
    if known is None or mark.repeats * 2 < known.repeats:
        tail = _first_tail(call)
    else:
        past = past_of(known.last_id)
        if past.fate is Fate.UNDER_WAY:
            return history, []
        pauses_ms = known.pauses_ms + max(0, call.at_ms - past.ended_ms)
        repeated = mark.repeats > known.repeats or mark.call == known.call
        if past.fate is Fate.FAILED:
            tail = replace(known, last_id=call.request_id)
        elif pauses_ms > rules.tool_window_ms:
            tail = _first_tail(call)
        else:
            tail = replace(
                known,
                counted=known.counted + repeated,
                repeats=max(mark.repeats, known.repeats),
                call=mark.call,
                last_id=call.request_id,
                pauses_ms=pauses_ms,
            )
    others = tuple(each for each in history.tails if each.mark != mark.tail)
    history = replace(history, tails=(*others, tail)[-TAILS_MAX:])
    if tail.counted < rules.tool_loop_repeats:
        return history, []
    return history, [Finding(Rule.TOOL_LOOP, words.tool_loop(tail, mark.what, call), tail.first_id, call.request_id)]


def _first_tail(call: Observed) -> Tail:
    mark = call.mark
    if mark is None:
        raise ValueError("a call without a mark repeats nothing")
    now, spent, name = call.at_ms, call.spent_nano, call.request_id
    return Tail(mark.tail, TAIL_REPEATS_MIN, mark.repeats, mark.call, name, 0, name, now, spent)

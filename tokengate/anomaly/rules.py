"""What is too much: over what a session did lately and the call that is asked for. No I/O, no clock.

`judge` is the whole of it. It takes note of a call that is about to be admitted and says whether it is one too many;
`watch.lua` does the same within the reservation. A call that is refused leaves no trace, so that asking again prolongs
nothing.
"""

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from tokengate.anomaly import (
    GROWTH_BYTES_MIN,
    MEAN_AFTER_MS,
    MEAN_OVER_MS,
    PERIOD_MAX,
    SERIES_MS,
    SPEND_STEP_MS,
    SPEND_STEPS,
    TAILS_MAX,
    VELOCITY_SHARE,
    Fate,
    Finding,
    Growth,
    History,
    Judgement,
    Mode,
    Observed,
    Rate,
    Rule,
    Rules,
    Run,
    Spent,
    Tail,
    words,
)

_MINUTE_MS: Final = 60_000

FateOf = Callable[[str], Fate]
"""What has become of an earlier call, by its id."""


def judge(history: History, call: Observed, rules: Rules, fate: FateOf) -> Judgement:
    """Take note of a call, and say whether it is one too many.

    Args:
        history: what the session did lately.
        call: the call, which every budget on its path would admit.
        rules: modes and thresholds.
        fate: is asked about an earlier call that was the same.

    Returns:
        The history with the call in it; without anything, if the session is frozen.
    """
    findings: list[Finding] = []
    if rules.loops is not Mode.OFF:
        history, found = looping(history, call, rules, fate)
        findings += found
    if rules.tool_loops is not Mode.OFF:
        history, found = circling(history, call, rules)
        findings += found
    if rules.growth is not Mode.OFF:
        history, found = growing(history, call, rules)
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


def freeze_ms(rules: Rules, freezes: int) -> int:
    """How long a freeze lasts that comes after so many others."""
    return min(rules.freeze_ms_max, rules.freeze_ms << min(freezes, 32))


def is_repetition(frozen_until_ms: int | None, now_ms: int) -> bool:
    """Whether a freeze comes so soon after the one before that it lasts longer."""
    return frozen_until_ms is not None and now_ms - frozen_until_ms <= SERIES_MS


def take(rate: Rate, full_at_us: int, now_ms: int) -> tuple[int, int]:
    """Whether one more request may come, by the generic cell rate algorithm.

    Args:
        rate: so many in a time.
        full_at_us: when everything that was used will have come back (microseconds since the epoch); 0 at first.
        now_ms: the instant.

    Returns:
        The new `full_at_us`, and 0; or the one given, and after how many milliseconds one more may come. Asking in vain
        changes nothing, so it prolongs nothing.
    """
    now_us, interval_us = now_ms * 1000, rate.interval_us
    full_at_us = max(full_at_us, now_us)
    early_us = full_at_us - now_us - (rate.burst - 1) * interval_us
    if early_us > 0:
        return full_at_us, -(-early_us // 1000)
    return full_at_us + interval_us, 0


# --- the same request again, or the same few in turn ---


def looping(history: History, call: Observed, rules: Rules, fate: FateOf) -> tuple[History, list[Finding]]:
    """The same request again and again, or the same few in turn.

    A loop waits for each answer before it asks again. So a call that is the same as one still under way is one of many
    samples, and a call that is the same as one that failed is its retry: neither counts.
    """
    if call.mark is None:
        return history, []
    mark, calls = call.mark.call, history.calls
    back = next((back for back in range(1, len(calls) + 1) if calls[-back][0] == mark), 0)
    if back:
        became = fate(calls[-back][1])
        if became is Fate.UNDER_WAY:
            return history, []
        if became is Fate.FAILED:
            retried = list(calls)
            retried[-back] = (mark, call.request_id)
            return replace(history, calls=tuple(retried)), []
    run = _run(history, call, mark, back, rules)
    now = call.at_ms
    kept = (*calls, (mark, call.request_id))[-PERIOD_MAX:]
    history = replace(history, calls=kept, last_ms=now, last_nano=call.spent_nano, run=run)
    if run is None or (run.matches - 1) % run.period or len(run.rounds_ms) < rules.loop_repeats:
        return history, []
    if now - run.rounds_ms[0] > rules.loop_window_ms:
        return history, []
    rounds = (run.matches - 1) // run.period + 2
    return history, [Finding(Rule.LOOP, words.loop(run, rounds, call), run.first_id, call.request_id)]


def _run(history: History, call: Observed, mark: str, back: int, rules: Rules) -> Run | None:
    """The run that a call continues, or begins by being the same as the one `back` before; None if it is new (0)."""
    run, calls = history.run, history.calls
    if run is not None and run.period <= len(calls) and calls[-run.period][0] == mark:
        matches, rounds = run.matches + 1, run.rounds_ms
        if (matches - 1) % run.period == 0:
            rounds = (*rounds, call.at_ms)[-rules.loop_repeats :]
        return replace(run, matches=matches, rounds_ms=rounds)
    if not back:
        return None
    # When the first of the calls came is not remembered; for a run of one it is when the last came.
    first = calls[-back][1]
    return Run(back, 1, first, history.last_ms, history.last_nano, (history.last_ms, call.at_ms))


# --- the same exchange again within a growing conversation ---


def circling(history: History, call: Observed, rules: Rules) -> tuple[History, list[Finding]]:
    """A conversation whose end repeats itself more and more.

    How often it does is seen in each request. Only what is added under our eyes counts, and only if it comes in time:
    what was there when the conversation was first seen, or seen again after a freeze, is no evidence.
    """
    mark, now = call.mark, call.at_ms
    if mark is None or not mark.tail:
        return history, []
    repeats = mark.repeats
    known = next((tail for tail in history.tails if tail.mark == mark.tail), None)
    if known is None or repeats * 2 < known.repeats or now - known.since_ms > rules.tool_loop_window_ms:
        tail = Tail(mark.tail, max(0, repeats - 3), repeats, call.request_id, now, call.spent_nano)
    else:
        tail = replace(known, repeats=max(repeats, known.repeats))
    others = tuple(each for each in history.tails if each.mark != mark.tail)
    history = replace(history, tails=(*others, tail)[-TAILS_MAX:])
    counted = repeats - tail.before
    if counted < rules.tool_loop_repeats:
        return history, []
    reason = words.tool_loop(tail, counted, mark.what, call)
    return history, [Finding(Rule.TOOL_LOOP, reason, tail.first_id, call.request_id)]


# --- a context without end ---


def growing(history: History, call: Observed, rules: Rules) -> tuple[History, list[Finding]]:
    """A conversation of which every request is larger than the one before by a factor, and large by now.

    Contexts grow: by what is read and said, which is a smaller part of them each time. One that grows by a factor is
    fed with itself.
    """
    if call.mark is None:
        return history, []
    root, grown = call.mark.root, history.growth
    if grown is not None and grown.root == root and call.mark.bytes == grown.bytes:
        return history, []
    if grown is not None and grown.root == root and call.mark.bytes * 100 >= grown.bytes * rules.growth_percent:
        grown = replace(grown, calls=grown.calls + 1, bytes=call.mark.bytes)
    else:
        size = call.mark.bytes
        grown = Growth(root, 1, size, size, call.request_id, call.at_ms, call.spent_nano)
    history = replace(history, growth=grown)
    if grown.calls < rules.growth_calls or grown.bytes < GROWTH_BYTES_MIN:
        return history, []
    reason = words.growth(grown, rules.growth_percent, call)
    return history, [Finding(Rule.GROWTH, reason, grown.first_id, call.request_id)]


# --- spending ---


def racing(history: History, call: Observed, rules: Rules) -> tuple[History, list[Finding]]:
    """Spending in the last minute above a bound, or far above the session's own mean and a good part of its cap."""
    now, spent = call.at_ms, call.spent_nano
    step = now // SPEND_STEP_MS
    steps = tuple(each for each in history.spent if step - SPEND_STEPS < each.step <= step)
    if not steps or steps[-1].step < step:
        steps = (*steps, Spent(step, spent, call.request_id))
    if not history.mean_from_ms:
        history = replace(history, mean_from_ms=now, mean_from_nano=spent)
    first = steps[0]
    minute = spent - first.nano
    before_ms = first.step * SPEND_STEP_MS - history.mean_from_ms
    before = first.nano - history.mean_from_nano
    if before_ms > MEAN_OVER_MS:
        # Older spending counts for less: half the time, and half of what was spent in it.
        half_ms = before_ms // 2
        history = replace(
            history, mean_from_ms=history.mean_from_ms + half_ms, mean_from_nano=history.mean_from_nano + before // 2
        )
    history = replace(history, spent=steps)
    bound = rules.velocity_max_nano
    if bound is not None and minute > bound:
        reason = words.too_fast(minute, bound, first.request_id, call)
    elif (
        rules.velocity_factor
        and before_ms >= MEAN_AFTER_MS
        and minute * VELOCITY_SHARE >= call.cap_nano
        # In floating point, as the script has nothing else.
        and float(minute) * before_ms >= float(rules.velocity_factor * before) * _MINUTE_MS
    ):
        reason = words.unusual(minute, before, before_ms, first.request_id, call)
    else:
        return history, []
    return history, [Finding(Rule.VELOCITY, reason, first.request_id, call.request_id)]

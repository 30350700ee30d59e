"""What grows without end: the size of a context, the number of calls, the money spent in a minute. No I/O, no clock.

Each of the three takes note of a call and gives what it found; `rules.judge` asks them.
"""

from typing import Final

from msgspec.structs import replace

from tokengate.anomaly import (
    GROWTH_BYTES_MIN,
    MEAN_AFTER_MS,
    MEAN_OVER_MS,
    SERIES_MS,
    SPEND_STEP_MS,
    SPEND_STEPS,
    WAVE_LIKE,
    WAVE_MS_MAX,
    WAVE_MS_MIN,
    WAVES,
    WAVES_MIN,
    Finding,
    Growth,
    History,
    Observed,
    Rule,
    Rules,
    Spent,
    Waves,
    words,
)
from tokengate.domain import Rate

Found = tuple[History, list[Finding]]

_MINUTE_MS: Final = 60_000
_DOUBLINGS_MAX: Final = 32


def growing(history: History, call: Observed, rules: Rules) -> Found:
    """A conversation of which every request is larger than the one before by a factor, and large by now.

    Contexts grow: by what is read and said, which is a smaller part of them each time. One that grows by a factor is
    fed with itself.
    """
    if call.mark is None:
        return history, []
    root, size, grown = call.mark.root, call.mark.bytes, history.growth
    if grown is not None and grown.root == root and size == grown.bytes:
        return history, []
    if grown is not None and grown.root == root and size * 100 >= grown.bytes * rules.growth_percent:
        if grown.calls == 1:
            name, now, spent = call.request_id, call.at_ms, call.spent_nano
            grown = replace(grown, first_bytes=grown.bytes, first_id=name, since_ms=now, spent_nano=spent)
        grown = replace(grown, calls=grown.calls + 1, bytes=size)
    else:
        grown = Growth(root, 1, size)
    history = replace(history, growth=grown)
    if grown.calls < rules.growth_calls or grown.bytes < GROWTH_BYTES_MIN:
        return history, []
    reason = words.growth(grown, rules.growth_percent, call)
    return history, [Finding(Rule.GROWTH, reason, grown.first_id, call.request_id)]


def multiplying(history: History, call: Observed, _rules: Rules) -> Found:
    """Calls of which each, when it is answered, makes more calls: agents that start agents that start agents.

    A batch is begun all at once, or goes on at the pace of its workers. Where calls multiply, it takes about as long
    from two of them to eight as from eight to 32 and from 32 to 128, and a good part of them is under way at once.
    """
    if not history.started:
        history = replace(history, ended_before=call.ended)
    history = replace(history, started=history.started + 1)
    under_way = history.started - (call.ended - history.ended_before)
    waves, now = history.waves, call.at_ms
    if waves is None or now - waves.last_ms > WAVE_MS_MAX or waves.calls >= WAVES[-1]:
        return replace(history, waves=_first_wave(call, under_way)), []
    waves = replace(waves, calls=waves.calls + 1, peak=max(waves.peak, under_way))
    if waves.calls in WAVES:
        wait_ms = now - waves.last_ms
        if wait_ms >= WAVE_MS_MIN:
            least = min(waves.wait_ms_min, wait_ms) if waves.waits else wait_ms
            most = max(waves.wait_ms_max, wait_ms)
            waves = replace(waves, waits=waves.waits + 1, wait_ms_min=least, wait_ms_max=most)
        alike = waves.wait_ms_max <= WAVE_LIKE * waves.wait_ms_min and waves.peak * WAVE_LIKE >= waves.calls
        if not alike:
            return replace(history, waves=_first_wave(call, under_way)), []
        waves = replace(waves, last_ms=now, peak=under_way)
    history = replace(history, waves=waves)
    if waves.calls < WAVES[-1] or waves.waits < WAVES_MIN:
        return history, []
    return history, [Finding(Rule.GROWTH, words.waves(waves, call), waves.first_id, call.request_id)]


def _first_wave(call: Observed, under_way: int) -> Waves:
    return Waves(1, under_way, call.at_ms, 0, 0, 0, call.request_id, call.at_ms, call.spent_nano)


def racing(history: History, call: Observed, rules: Rules) -> Found:
    """Spending in the last minute above a bound, or dear and far above the session's own mean."""
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
        from_ms, from_nano = history.mean_from_ms + before_ms // 2, history.mean_from_nano + before // 2
        history = replace(history, mean_from_ms=from_ms, mean_from_nano=from_nano)
    history = replace(history, spent=steps)
    bound = rules.velocity_max_nano
    if bound is not None and minute > bound:
        reason = words.too_fast(minute, bound, first.request_id, call)
    elif (
        rules.velocity_factor
        and before_ms >= MEAN_AFTER_MS
        and minute >= rules.velocity_floor_nano
        # In floating point, as the script has nothing else.
        and float(minute) * before_ms >= float(rules.velocity_factor * before) * _MINUTE_MS
    ):
        reason = words.unusual(minute, before, before_ms, first.request_id, call)
    else:
        return history, []
    return history, [Finding(Rule.VELOCITY, reason, first.request_id, call.request_id)]


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
    now_us = now_ms * 1000
    start_us = max(full_at_us, now_us)
    early_us = start_us - now_us - rate.tolerance_us
    if early_us > 0:
        return full_at_us, -(-early_us // 1000)
    return start_us + rate.interval_us, 0


def freeze_ms(rules: Rules, freezes: int) -> int:
    """How long a freeze lasts that comes after so many others."""
    return min(rules.freeze_ms_max, rules.freeze_ms << min(freezes, _DOUBLINGS_MAX))


def is_repetition(frozen_until_ms: int | None, now_ms: int) -> bool:
    """Whether a freeze comes so soon after the one before that it lasts longer."""
    return frozen_until_ms is not None and now_ms - frozen_until_ms <= SERIES_MS

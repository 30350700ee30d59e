"""The rules' numbers, by the names that they have in the ledger's script.

They are written into the text of the script, so that no call carries them, and none pays for a rule that is off.
"""

from typing import Final

from tokengate.anomaly import (
    BACK_OFF_MS,
    FAILURES_A_REPETITION,
    GROWTH_BYTES_MIN,
    HISTORY_TTL_MS,
    MEAN_AFTER_MS,
    MEAN_OVER_MS,
    PERIOD_MAX,
    SERIES_MS,
    SPEND_STEP_MS,
    SPEND_STEPS,
    TAIL_REPEATS_MIN,
    TAILS_MAX,
    UNDER_WAY_MS_MAX,
    WAVE_LIKE,
    WAVE_MS_MAX,
    WAVE_MS_MIN,
    WAVES,
    WAVES_MIN,
    Rules,
)
from tokengate.domain import Mode
from tokengate.money import AMOUNT_NANO_MAX

_STRICTNESS: Final = {Mode.OFF: 0, Mode.SHADOW: 1, Mode.ENFORCE: 2}
_HISTORY_VERSION: Final = 2
_NUMBERS: Final = "HBBBBBI6I7I4I3I4"
"""The numbers that the packed field of a history begins with (judge.lua)."""


def constants(rules: Rules) -> dict[str, int | str]:
    """Every constant that the script knows by name; `RULES_ON` is 0 if all rules are off."""
    return {
        "RULES_ON": int(rules.on),
        "KEYS_BEFORE": 3 if rules.on else 2,
        "SHADOWS": int(Mode.SHADOW in {rules.loops, rules.tool_loops, rules.growth, rules.velocity}),
        "LOOPS": _STRICTNESS[rules.loops],
        "LOOP_REPEATS": rules.loop_repeats,
        "LOOP_WINDOW_MS": rules.window_ms,
        "CALLS_KEPT": rules.calls_kept,
        "PERIOD_MAX": PERIOD_MAX,
        "FAILURES_A_REPETITION": FAILURES_A_REPETITION,
        "BACK_OFF_MS": BACK_OFF_MS,
        "UNDER_WAY_MS_MAX": UNDER_WAY_MS_MAX,
        "TOOL_LOOPS": _STRICTNESS[rules.tool_loops],
        "TOOL_LOOP_REPEATS": rules.tool_loop_repeats,
        "TOOL_WINDOW_MS": rules.tool_window_ms,
        "TAILS_MAX": TAILS_MAX,
        "TAIL_REPEATS_MIN": TAIL_REPEATS_MIN,
        "GROWTH": _STRICTNESS[rules.growth],
        "GROWTH_CALLS": rules.growth_calls,
        "GROWTH_PERCENT": rules.growth_percent,
        "GROWTH_BYTES_MIN": GROWTH_BYTES_MIN,
        **{f"WAVES_{number}": calls for number, calls in enumerate(WAVES, 1)},
        "WAVES_MIN": WAVES_MIN,
        "WAVE_MS_MIN": WAVE_MS_MIN,
        "WAVE_MS_MAX": WAVE_MS_MAX,
        "WAVE_LIKE": WAVE_LIKE,
        "VELOCITY": _STRICTNESS[rules.velocity],
        "VELOCITY_MAX": -1 if rules.velocity_max_nano is None else rules.velocity_max_nano,
        "VELOCITY_LOOK": _velocity_look(rules),
        "VELOCITY_FACTOR": rules.velocity_factor,
        "VELOCITY_FLOOR": rules.velocity_floor_nano,
        "SPEND_STEP_MS": SPEND_STEP_MS,
        "SPEND_STEPS": SPEND_STEPS,
        "MEAN_AFTER_MS": MEAN_AFTER_MS,
        "MEAN_OVER_MS": MEAN_OVER_MS,
        "FREEZE_MS": rules.freeze_ms,
        "FREEZE_MS_MAX": rules.freeze_ms_max,
        "SERIES_MS": SERIES_MS,
        "HISTORY_TTL_MS": HISTORY_TTL_MS,
        "HISTORY_KIND": 1000 * _HISTORY_VERSION + rules.calls_kept,
        "HISTORY_FORMAT": f"<{_NUMBERS}c4c2c{2 * rules.calls_kept - 2}",
        "HISTORY_WRITTEN": f"<{_NUMBERS}c4c{2 * rules.calls_kept - 2}c2",
    }


def _velocity_look(rules: Rules) -> int:
    """What a minute must cost more than (nano-USD) before it has to be looked at."""
    bounds = [AMOUNT_NANO_MAX]
    if rules.velocity_max_nano is not None:
        bounds.append(rules.velocity_max_nano)
    if rules.velocity_factor:
        bounds.append(rules.velocity_floor_nano - 1)
    return min(bounds)

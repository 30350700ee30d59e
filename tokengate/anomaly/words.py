"""What a rule found, in words for whoever is woken by it. `judge.lua` says the same, word for word."""

from typing import Final

from tokengate.anomaly import Cycle, Growth, Observed, Tail, Waves

_CENT_NANO: Final = 10_000_000
_NANO: Final = 1e9
_KB: Final = 1024
_MINUTE_MS: Final = 60_000
_HOW: Final = {
    "t": "in a row with the same result",
    "T": "in turn with the same results",
    "m": "in a row",
    "x": "in a row",
    "c": "in one conversation",
}
_ENDINGS: Final = {1: "st", 2: "nd", 3: "rd"}


def loop(repeats: int, first_id: str, since_ms: int, spent_nano: int, call: Observed) -> str:
    """For the same request again and again; `spent_nano` is what all of them cost."""
    what = f"sent the same request to {call.model} {repeats} times in a row"
    return f"{what}{_requests(first_id, call)}; spent {dollars(spent_nano)} in {duration(call.at_ms - since_ms)}"


def cycle(found: Cycle, rounds: int, call: Observed) -> str:
    """For the same few requests in turn."""
    what = f"sent the same {found.period} requests in turn, now for the {ordinal(rounds)} time"
    return what + _evidence(found, call)


def tool_loop(found: Tail, what: str, call: Observed) -> str:
    """For a conversation that repeats itself."""
    return f"{what} {found.counted} times {_HOW[found.mark[0]]}{_evidence(found, call)}"


def growth(found: Growth, percent: int, call: Observed) -> str:
    """For a context that grows by a factor with every call."""
    what = f"sent a context that grew {percent / 100:.1f}-fold or more with each of {found.calls - 1} calls, "
    return f"{what}from {size(found.first_bytes)} to {size(found.bytes)}{_evidence(found, call)}"


def waves(found: Waves, call: Observed) -> str:
    """For calls that multiply."""
    what = f"made calls that multiply: {found.calls} in a few waves, each larger than the one before"
    return what + _evidence(found, call)


def too_fast(minute_nano: int, max_nano: int, first_id: str, call: Observed) -> str:
    """For spending that is above the bound."""
    what = f"spent {dollars(minute_nano)} in the last minute, and may spend {dollars(max_nano)}"
    return what + _requests(first_id, call)


def unusual(minute_nano: int, mean_nano: int, mean_ms: int, first_id: str, call: Observed) -> str:
    """For spending that is unlike the session's own; `mean_nano` is what it spent in `mean_ms`."""
    a_minute = dollars(mean_nano / (mean_ms / _MINUTE_MS))
    what = (
        f"spent {dollars(minute_nano)} in the last minute, after {a_minute} a minute in the {duration(mean_ms)} before"
    )
    return what + _requests(first_id, call)


def dollars(nano: float) -> str:
    """`$0.42`; below a cent with six decimals."""
    return f"${nano / _NANO:.6f}" if 0 < nano < _CENT_NANO else f"${max(0, nano) / _NANO:.2f}"


def duration(ms: int) -> str:
    """`12s`, `1m12s`, `2h05m`."""
    seconds = max(0, ms) // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


def size(count: int) -> str:
    """`1.5 KB`."""
    return f"{count / _KB:.1f} KB"


def ordinal(number: int) -> str:
    """`2nd`, `8th`."""
    if number % 100 in {11, 12, 13}:
        return f"{number}th"
    return f"{number}{_ENDINGS.get(number % 10, 'th')}"


def _evidence(found: Cycle | Tail | Growth | Waves, call: Observed) -> str:
    spent = dollars(call.spent_nano - found.spent_nano)
    return f"{_requests(found.first_id, call)}; spent {spent} in {duration(call.at_ms - found.since_ms)}"


def _requests(first_id: str, call: Observed) -> str:
    return f"; first request {first_id}, last {call.request_id}"

"""What a rule found, in words for whoever is woken by it. `watch.lua` says the same, word for word."""

from typing import Final

from tokengate.anomaly import Growth, Observed, Run, Tail

_CENT_NANO: Final = 10_000_000
_NANO: Final = 1e9
_KB: Final = 1024
_ENDINGS: Final = {1: "st", 2: "nd", 3: "rd"}


def loop(run: Run, rounds: int, call: Observed) -> str:
    """For the same request again and again, or the same few in turn."""
    if run.period == 1:
        what = f"sent the same request to {call.model} {rounds} times in a row"
    else:
        what = f"sent the same {run.period} requests in turn, now for the {ordinal(rounds)} time"
    return what + _evidence(run.first_id, run.since_ms, run.spent_nano, call)


def tool_loop(tail: Tail, repeats: int, what: str, call: Observed) -> str:
    """For a conversation that repeats the same exchange."""
    how = {"t": " in a row with the same result", "T": " in turn with the same results", "m": " in a row"}
    evidence = _evidence(tail.first_id, tail.since_ms, tail.spent_nano, call)
    return f"{what} {repeats} times{how[tail.mark[0]]}{evidence}"


def growth(grown: Growth, percent: int, call: Observed) -> str:
    """For a context that grows by a factor with every call."""
    what = f"sent a context that grew {percent / 100:.1f}-fold or more with each of {grown.calls} calls, "
    what += f"from {size(grown.first_bytes)} to {size(grown.bytes)}"
    return what + _evidence(grown.first_id, grown.since_ms, grown.spent_nano, call)


def too_fast(minute_nano: int, max_nano: int, first_id: str, call: Observed) -> str:
    """For spending that is above the bound."""
    what = f"spent {dollars(minute_nano)} in the last minute, and may spend {dollars(max_nano)}"
    return what + _requests(first_id, call)


def unusual(minute_nano: int, mean_nano: int, mean_ms: int, first_id: str, call: Observed) -> str:
    """For spending that is unlike the session's own; `mean_nano` is what it spent in `mean_ms`."""
    a_minute = mean_nano / (mean_ms / 60_000)
    what = f"spent {dollars(minute_nano)} in the last minute, after {dollars(a_minute)} a minute "
    return f"{what}in the {duration(mean_ms)} before{_requests(first_id, call)}"


def dollars(nano: float) -> str:
    """`$0.42`; below a cent with six decimals."""
    return f"${nano / _NANO:.2f}" if nano >= _CENT_NANO else f"${max(0, nano) / _NANO:.6f}"


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


def _evidence(first_id: str, since_ms: int, spent_nano: int, call: Observed) -> str:
    spent = dollars(call.spent_nano - spent_nano)
    return f"{_requests(first_id, call)}; spent {spent} in {duration(call.at_ms - since_ms)}"


def _requests(first_id: str, call: Observed) -> str:
    return f"; first request {first_id}, last {call.request_id}"

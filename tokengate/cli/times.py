"""Lengths of time and instants, as people write them at a prompt. Without a zone it is UTC, as in all that is kept."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Final

_UNITS_S: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_PART = re.compile(r"(\d{1,6})(s|min|m|h|d|w)", re.ASCII)


class TimeError(ValueError):
    """What was written is no time; the message says how one is written."""


def parse_length_ms(text: str) -> int:
    """Read `30s`, `15m`, `1h`, `1h30m`, `2d`, `1w` as milliseconds.

    Raises:
        TimeError: it is none of these, or nothing.
    """
    compact = text.strip().replace(" ", "")
    parts = _PART.findall(compact)
    seconds = sum(int(number) * _UNITS_S[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != compact or seconds == 0:
        raise TimeError(f"{text!r} is no length of time: write it like 30s, 15m, 1h30m, 2d or 1w")
    return seconds * 1000


def parse_instant_ms(text: str, now_ms: int | None = None) -> int:
    """Read an instant: `2026-11-23`, `2026-11-23T18:00`, `today`, `yesterday`, `month`, `now`, or a length ago (`24h`).

    Raises:
        TimeError: it is none of these.
    """
    now = datetime.fromtimestamp((now_ms or time.time_ns() // 1_000_000) / 1000, UTC)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {
        "now": now,
        "today": today,
        "yesterday": today - timedelta(days=1),
        "month": today.replace(day=1),
    }
    word = text.strip().lower()
    if word in named:
        return _ms(named[word])
    try:
        return _ms(now) - parse_length_ms(word)
    except TimeError:
        pass
    try:
        given = datetime.fromisoformat(text.strip())
        return _ms(given if given.tzinfo is not None else given.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise TimeError(
            f"{text!r} is no instant: write it like 2026-11-23, 2026-11-23T18:00, today, yesterday, month, or 24h (ago)"
        ) from None


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)

"""The books of the simulated provider: what it was asked, what it generated, and what it would bill.

Every name that a caller can invent is bounded. Nothing is estimated here: the numbers are what was really generated,
or what was reported if that is more, because a provider bills what it reports.
"""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

USERS_MAX: Final = 1024
"""How many values of `user` are kept apart; the others share one row."""
MODELS_MAX: Final = 256
"""How many models are kept apart; the others share one row."""
DISCONNECTS_KEPT: Final = 1000
"""How many of the latest disconnects are kept with their times."""
REQUESTS_KEPT: Final = 64
"""How many of the latest requests are kept as they came."""
BODY_BYTES_KEPT: Final = 65_536
"""How much of the body of a kept request is kept."""

OTHERS: Final = "(others)"


@dataclass(slots=True)
class Tally:
    """Counts for everything, for one model, or for one user."""

    received: int = 0
    answered: int = 0
    """Sent in full."""
    refused: int = 0
    """Answered with an error; nothing is billed."""
    cut: int = 0
    """Begun and not finished, by the client or by a fault; what was generated is billed."""
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Seen:
    """A request as it came in."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: str


@dataclass(slots=True)
class Entry:
    """One request being served; `Books.close` posts it."""

    tallies: list[Tally] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0


class Books:
    """What happened since the start, or since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything; requests under way are posted to the books they were opened in."""
        self._total = Tally()
        self._models: dict[str, Tally] = {}
        self._users: dict[str, Tally] = {}
        self._disconnects = 0
        self._since_write_ms: deque[float] = deque(maxlen=DISCONNECTS_KEPT)
        self._requests: deque[Seen] = deque(maxlen=REQUESTS_KEPT)
        self._concurrent = 0
        self._concurrent_max = 0

    def saw(self, scope: Mapping[str, Any], body: bytes) -> None:
        """Keep a request as it came."""
        query = scope["query_string"].decode("latin-1")
        target = scope["path"] + (f"?{query}" if query else "")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        self._requests.append(Seen(scope["method"], target, headers, body[:BODY_BYTES_KEPT].decode(errors="replace")))

    def open(self, model: str, user: str) -> Entry:
        """A request for tokens has come in."""
        entry = Entry([self._total, _row(self._models, model, MODELS_MAX)])
        if user:
            entry.tallies.append(_row(self._users, user, USERS_MAX))
        for tally in entry.tallies:
            tally.received += 1
        self._concurrent += 1
        self._concurrent_max = max(self._concurrent_max, self._concurrent)
        return entry

    def close(self, entry: Entry, end: str) -> None:
        """The request ended: `answered`, `refused` or `cut`."""
        self._concurrent = max(0, self._concurrent - 1)
        for tally in entry.tallies:
            setattr(tally, end, getattr(tally, end) + 1)
            if end != "refused":
                tally.input_tokens += entry.input_tokens
                tally.output_tokens += entry.output_tokens

    def disconnected(self, last_write: float | None) -> None:
        """A client left before its answer was complete; `last_write` is `time.monotonic()` of the last bytes sent."""
        self._disconnects += 1
        if last_write is not None:
            self._since_write_ms.append(round((time.monotonic() - last_write) * 1000, 3))

    def as_json(self) -> dict[str, Any]:
        """The books as a value for JSON."""
        return {
            "total": asdict(self._total),
            "models": {name: asdict(tally) for name, tally in self._models.items()},
            "users": {name: asdict(tally) for name, tally in self._users.items()},
            "disconnects": {"count": self._disconnects, "since_last_write_ms": list(self._since_write_ms)},
            "concurrent": self._concurrent,
            "concurrent_max": self._concurrent_max,
        }

    def requests_as_json(self) -> list[dict[str, Any]]:
        """The latest requests, oldest first."""
        return [asdict(seen) for seen in self._requests]


def _row(rows: dict[str, Tally], name: str, rows_max: int) -> Tally:
    if name not in rows and len(rows) >= rows_max:
        name = OTHERS
    return rows.setdefault(name, Tally())

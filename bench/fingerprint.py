"""What it costs to tell a call by a fingerprint: processor time for requests of 100 KB, as agents send them.

Each is fingerprinted as a gate does that has or has not seen its beginning. No server takes part.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import orjson

from bench.figures import Figure, at_most
from tokengate.anomaly.marks import Marker

SIZE: Final = 100 * 1024
ROUNDS: Final = 40
TARGET_MS: Final = 1.0

_WORDS: Final = (  # noqa: SIM905 - words, not a list of strings
    "which of the orders were late and why does the invoice of the supplier name a date that nobody has set while "
    "the table of regions gives no reason for it and the report goes on as if it had"
).split()

Messages = list[dict[str, Any]]
Make = Callable[[random.Random], Messages]


def _prose(random_: random.Random, size: int) -> str:
    said: list[str] = []
    while size > 0:
        said.append(random_.choice(_WORDS))
        size -= len(said[-1]) + 1
    return " ".join(said)


def _id(random_: random.Random) -> str:
    text = f"{random_.getrandbits(128):032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def _records(random_: random.Random, size: int) -> str:
    """What a tool gives that reads a table: an id, times and figures in every row."""
    rows: list[dict[str, Any]] = []
    while size > 0:
        rows.append(
            {
                "id": _id(random_),
                "created_at": f"2026-03-{random_.randint(10, 28)}T0{random_.randint(0, 9)}:31:07.123Z",
                "amount": random_.randint(100, 10**6) / 100,
                "status": random_.choice(("open", "paid", "late")),
                "trace_id": f"{random_.getrandbits(64):016x}",
                "note": _prose(random_, 40),
            }
        )
        size -= len(orjson.dumps(rows[-1])) + 1
    return orjson.dumps(rows).decode()


def _exchange(random_: random.Random, number: int, size: int) -> Messages:
    """A call of a tool, and so much of what it gave."""
    function = {"name": "query", "arguments": f'{{"region": {number}, "since": "2026-03-01"}}'}
    called = {"id": f"call_{number}", "type": "function", "function": function}
    gave = {"role": "tool", "tool_call_id": f"call_{number}", "content": _records(random_, size)}
    return [{"role": "assistant", "content": None, "tool_calls": [called]}, gave]


def _talk(random_: random.Random, turns: int, size: int) -> Messages:
    roles = ("user", "assistant")
    return [{"role": roles[turn % 2], "content": _prose(random_, size // turns)} for turn in range(turns)]


def _beginning() -> Messages:
    return [{"role": "system", "content": "You answer questions about orders."}]


def _dense(random_: random.Random, parts: int) -> Messages:
    return [*_beginning(), *(each for n in range(parts) for each in _exchange(random_, n, SIZE // parts))]


def _marked(marker: Marker, messages: Messages) -> float:
    """The processor time of one fingerprint, in milliseconds; the body is parsed anew, as it would be."""
    body = orjson.dumps({"model": "gpt-4o", "messages": messages, "temperature": 0.2})
    document = orjson.loads(body)
    began = time.process_time_ns()
    marker.mark(document, "messages", len(body))
    return (time.process_time_ns() - began) / 1e6


def _unseen(make: Make) -> Iterator[float]:
    for seed in range(ROUNDS):
        yield _marked(Marker(), make(random.Random(seed)))


def _seen_before(make: Make, grow: Make) -> Iterator[float]:
    """A conversation whose beginning this gate has seen, and an exchange that it has not."""
    for seed in range(ROUNDS):
        random_, marker = random.Random(seed), Marker()
        messages = make(random_)
        _marked(marker, messages)
        yield _marked(marker, [*messages, *grow(random_)])


def run() -> list[Figure]:
    """Medians over different bodies."""
    kinds: dict[str, Iterator[float]] = {
        "an agent's next call: 100 KB of tools' JSON seen before, 2 KB new": _seen_before(
            lambda random_: _dense(random_, 50), lambda random_: _exchange(random_, 99, 2048)
        ),
        "  with 8 KB new": _seen_before(
            lambda random_: _dense(random_, 50), lambda random_: _exchange(random_, 99, 8192)
        ),
        "a talk's next call: 100 KB of prose seen before, 1 KB new": _seen_before(
            lambda random_: _talk(random_, 61, SIZE), lambda random_: _talk(random_, 2, 1024)
        ),
        "a talk of 100 KB, 60 turns, all new": _unseen(lambda random_: _talk(random_, 61, SIZE)),
        "one message of 100 KB, new": _unseen(lambda random_: [{"role": "user", "content": _prose(random_, SIZE)}]),
        "100 KB of tools' JSON in one result, new": _unseen(lambda random_: _dense(random_, 1)),
        "100 KB of tools' JSON in 7 results, all new": _unseen(lambda random_: _dense(random_, 7)),
        "100 KB of tools' JSON in 50 results, all new": _unseen(lambda random_: _dense(random_, 50)),
    }
    return [at_most(name, statistics.median(taken), "ms", TARGET_MS) for name, taken in kinds.items()]

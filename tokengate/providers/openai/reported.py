"""A cost that the provider itself reports: `usage.cost` in USD, as OpenRouter writes it, and when it is believed.

By https://openrouter.ai/docs/use-cases/usage-accounting it is what the account is charged for the call, in every answer
and in the last event of a stream that has usage. Where the caller's own key for the model's provider was used
(`is_byok`), it is OpenRouter's share alone, so that the price table says what the call cost. The number is read from
the answer's bytes as a decimal and is never a float.
"""

from decimal import Decimal
from typing import Final

from msgspec import MsgspecError, Struct
from msgspec.json import Decoder
from msgspec.structs import replace

from tokengate.money import reported_nano
from tokengate.providers import Meter, Reading

TAIL_BYTES: Final = 256 * 1024
"""How much of an answer's end is kept to look for the cost: a whole document, or the last events of a stream."""

_DATA: Final = b"data:"
_COST: Final = b'"cost"'


class _Costs(Struct, gc=False):
    cost: Decimal | None = None
    is_byok: bool | None = None


class _Response(Struct, gc=False):
    usage: _Costs | None = None


class _Answer(Struct, gc=False):
    usage: _Costs | None = None
    response: _Response | None = None
    """Within the last event of a streamed response."""


_decode: Final = Decoder(_Answer).decode


class CostMeter:
    """A meter that also looks for the cost; what passes, and what else is learnt, is up to the meter within."""

    __slots__ = ("_meter", "_tail")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._tail = bytearray()

    def feed(self, chunk: bytes) -> bytes:
        self._tail += chunk
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        return self._meter.feed(chunk)

    def finish(self) -> bytes:
        return self._meter.finish()

    def reading(self) -> Reading:
        reading = self._meter.reading()
        if reading.usage is None:
            return reading
        nano = reported_cost(bytes(self._tail))
        return reading if nano is None else replace(reading, usage=replace(reading.usage, cost_nano=nano))


def reported_cost(answer: bytes) -> int | None:
    """The cost in a document, or in the last event of a stream that has one, in nano-USD, rounded up.

    None if none is there that can be believed: the price table says what it cost then.
    """
    if answer.lstrip().startswith(b"{"):
        return _cost_in(answer)
    for line in reversed(answer.splitlines()):
        if line.startswith(_DATA) and _COST in line:
            nano = _cost_in(line.removeprefix(_DATA))
            if nano is not None:
                return nano
    return None


def _cost_in(document: bytes) -> int | None:
    try:
        answer = _decode(document)
    except (MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    usage = answer.usage if answer.response is None else answer.response.usage
    if usage is None or usage.cost is None or usage.is_byok:
        return None
    return reported_nano(usage.cost)

"""A request whose output no cap can bound: images, speech, transcripts. It passes as it came."""

from collections.abc import Callable

from tokengate.domain import Call
from tokengate.providers import Asked, Count, Meter, Quirks
from tokengate.providers.meters import UnmeteredBody
from tokengate.providers.openai.reported import CostMeter


class UncappedRequest:
    """A parsed request of any of these endpoints."""

    __slots__ = ("_body", "_cost_reported", "_meter", "call")

    def __init__(self, call: Call, body: bytes, meter: Callable[[str], Meter], *, cost_reported: bool = False) -> None:
        self.call = call
        self._body = body
        self._meter = meter
        """Makes one for an answer of the content type it is given."""
        self._cost_reported = cost_reported

    def count_input(self, count: Count) -> int:  # noqa: ARG002 - its text is short beside what it generates
        return self.call.input_tokens_max

    def suited(self, quirks: Quirks) -> "UncappedRequest":
        return UncappedRequest(self.call, self._body, self._meter, cost_reported=quirks.cost_reported)

    def body(self, output_cap_tokens: int | None) -> bytes:  # noqa: ARG002 - nothing in it could say so
        return self._body

    def asked(self) -> Asked | None:
        """Nothing: each image of a prompt is another one, and a file that is heard is not looked into."""
        return None

    def meter(self, status: int, content_type: str) -> Meter:
        if not 200 <= status < 300:
            return UnmeteredBody()
        found = self._meter(content_type)
        return CostMeter(found) if self._cost_reported else found

"""What can be asked of the simulated provider: its options, its faults, and the directives of a single request.

Values and their validation only; nothing here knows HTTP.
"""

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Final

DELAY_MS_MAX: Final = 600_000
"""No delay, asked for by an option or by a request, is longer than this."""

TOKENS_MAX: Final = 10_000_000
"""No number of tokens, asked for by an option or by a request, is larger than this."""

MEGABYTES_MAX: Final = 256
"""The largest `huge_answer`."""

DIRECTIVES_MAX: Final = 8
"""How many directives one request may carry."""


class CapRule(StrEnum):
    """Which output cap holds when a chat request carries both `max_completion_tokens` and `max_tokens`."""

    COMPLETION = "completion"
    """`max_completion_tokens`."""
    LARGER = "larger"
    """The larger one: the worst case for whoever pays."""
    REFUSE = "refuse"
    """Neither: 400, as api.openai.com answers."""


class FaultKind(StrEnum):
    """How the provider misbehaves. What the argument means, and its default, is in `FAULT_ARGUMENTS`."""

    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    BAD_REQUEST = "bad_request"
    ERROR_AS_EVENTS = "error_as_events"
    SLOW_HEADERS = "slow_headers"
    HANG_BEFORE_HEADERS = "hang_before_headers"
    HANG_MIDWAY = "hang_midway"
    RESET_BEFORE_HEADERS = "reset_before_headers"
    RESET_MIDWAY = "reset_midway"
    ERROR_MIDWAY = "error_midway"
    TRUNCATED_JSON = "truncated_json"
    NO_USAGE = "no_usage"
    NULL_USAGE = "null_usage"
    ZERO_USAGE = "zero_usage"
    HUGE_USAGE = "huge_usage"
    NEGATIVE_USAGE = "negative_usage"
    TEXT_USAGE = "text_usage"
    CUMULATIVE_USAGE = "cumulative_usage"
    ZERO_USAGE_ON_CHUNKS = "zero_usage_on_chunks"
    USAGE_ON_FINISH = "usage_on_finish"
    GZIP = "gzip"
    CONTENT_TYPE = "content_type"
    NO_CONTENT_TYPE = "no_content_type"
    NO_DONE = "no_done"
    GARBAGE_AFTER_DONE = "garbage_after_done"
    HUGE_ANSWER = "huge_answer"
    OTHER_MODEL = "other_model"
    JSON_FOR_STREAM = "json_for_stream"


FAULT_ARGUMENTS: Final[dict[FaultKind, tuple[str, str]]] = {
    FaultKind.RATE_LIMITED: ("seconds of Retry-After", "1"),
    FaultKind.SERVER_ERROR: ("status, 500 to 599", "500"),
    FaultKind.SLOW_HEADERS: ("milliseconds", "1000"),
    FaultKind.HANG_MIDWAY: ("chunks sent before", "3"),
    FaultKind.RESET_MIDWAY: ("chunks sent before", "3"),
    FaultKind.ERROR_MIDWAY: ("chunks sent before", "3"),
    FaultKind.HUGE_USAGE: ("tokens reported", "1000000"),
    FaultKind.HUGE_ANSWER: ("megabytes", "8"),
    FaultKind.CONTENT_TYPE: ("the type", "text/plain"),
    FaultKind.OTHER_MODEL: ("the name", "gpt-4o-2024-08-06"),
}
"""The faults that take an argument: what it is, and its default."""

_NUMBERS: Final = {
    FaultKind.RATE_LIMITED: (0, DELAY_MS_MAX // 1000),
    FaultKind.SERVER_ERROR: (500, 599),
    FaultKind.SLOW_HEADERS: (0, DELAY_MS_MAX),
    FaultKind.HANG_MIDWAY: (0, TOKENS_MAX),
    FaultKind.RESET_MIDWAY: (0, TOKENS_MAX),
    FaultKind.ERROR_MIDWAY: (0, TOKENS_MAX),
    FaultKind.HUGE_USAGE: (1, TOKENS_MAX),
    FaultKind.HUGE_ANSWER: (1, MEGABYTES_MAX),
}


class OptionError(ValueError):
    """An option, a fault or a directive that does not exist or is out of range; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of misbehaviour with its argument."""

    kind: FaultKind
    argument: str = ""

    @property
    def number(self) -> int:
        """The argument of a fault whose argument is a number."""
        return int(self.argument)

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Read `KIND` or `KIND:ARGUMENT`.

        Raises:
            OptionError: no such kind, or an argument that is out of range or not taken.
        """
        name, _, argument = text.strip().partition(":")
        try:
            kind = FaultKind(name)
        except ValueError:
            raise OptionError(f"no fault {name!r}; there are {', '.join(FaultKind)}") from None
        if kind not in FAULT_ARGUMENTS:
            if argument:
                raise OptionError(f"the fault {name} takes no argument")
            return cls(kind)
        argument = argument or FAULT_ARGUMENTS[kind][1]
        if kind in _NUMBERS:
            argument = str(_whole(name, argument, *_NUMBERS[kind]))
        return cls(kind, argument)


def _whole(name: str, text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
        raise OptionError(f"{name}: {text!r} is not a whole number from {low} to {high}")
    return int(text)


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """How the simulated provider answers.

    Raises:
        OptionError: a value is out of range.
    """

    seed: int = 0
    """What the output lengths, the words and the faulty requests are drawn from."""
    output_tokens: int | None = None
    """Every answer's length in tokens; None: log-normal."""
    output_tokens_median: float = 150.0
    output_tokens_sigma: float = 0.8
    output_tokens_max: int = 4096
    """The longest answer of the model itself, in tokens, whatever the request allows."""
    input_tokens: int | None = None
    """What every request is billed as; None: counted."""
    reasoning_tokens: int = 0
    """Tokens that are billed as output before the first visible one, and never shown."""
    cached_tokens: int = 0
    """How many of the input tokens are reported as read from the cache, at the most."""
    ttft_ms: float = 0.0
    """Milliseconds from the request to the first token."""
    tokens_per_second: float = 0.0
    """How fast an answer is generated; 0: at once."""
    cap_rule: CapRule = CapRule.COMPLETION
    loop_tools: bool = False
    """Keep calling tools, whatever they return: an agent that never comes to an end."""
    fault: Fault | None = None
    fault_rate: float = 1.0
    """The share of requests that get `fault`, from 0 to 1."""
    api_key: str | None = None
    """The only key that is let in; None: anybody is."""
    models: tuple[str, ...] = ("gpt-4o-mini", "gpt-4o", "gpt-5", "gpt-3.5-turbo-instruct", "text-embedding-3-small")
    """What `GET /v1/models` lists; requests may name any other model too."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "output_tokens": (0, TOKENS_MAX),
            "output_tokens_median": (1, TOKENS_MAX),
            "output_tokens_sigma": (0, 5),
            "output_tokens_max": (1, TOKENS_MAX),
            "input_tokens": (0, TOKENS_MAX),
            "reasoning_tokens": (0, TOKENS_MAX),
            "cached_tokens": (0, TOKENS_MAX),
            "ttft_ms": (0, DELAY_MS_MAX),
            "tokens_per_second": (0, 1_000_000),
            "fault_rate": (0, 1),
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ranges or value is None:
                continue
            low, high = ranges[field.name]
            if not (math.isfinite(value) and low <= value <= high):
                raise OptionError(f"{field.name}: {value} is not from {low:,} to {high:,}")


@dataclass(frozen=True, slots=True)
class Directives:
    """What one request asks of the provider: the options as it wants them, and its own fault."""

    options: SimulateOptions
    fault: Fault | None


_OVERRIDES: Final = {
    "input_tokens": (0, TOKENS_MAX),
    "output_tokens": (0, TOKENS_MAX),
    "reasoning_tokens": (0, TOKENS_MAX),
    "cached_tokens": (0, TOKENS_MAX),
    "ttft_ms": (0, DELAY_MS_MAX),
    "tokens_per_second": (0, 1_000_000),
}


def parse_directives(text: str, options: SimulateOptions) -> Directives:
    """Read the directives of a request, separated by commas: one fault, and options as `NAME:NUMBER`.

    For example `no_usage,output_tokens:50`.

    Raises:
        OptionError: a directive is unknown or out of range, there are two faults, or more than `DIRECTIVES_MAX`.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > DIRECTIVES_MAX:
        raise OptionError(f"more than {DIRECTIVES_MAX} directives")
    fault: Fault | None = None
    numbers: dict[str, int] = {}
    for part in parts:
        name, _, argument = part.partition(":")
        if name in _OVERRIDES:
            numbers[name] = _whole(name, argument, *_OVERRIDES[name])
        elif fault is None:
            fault = Fault.parse(part)
        else:
            raise OptionError(f"two faults, {fault.kind} and {name}: a request has one")
    return Directives(replace(options, **numbers) if numbers else options, fault)  # type: ignore[arg-type]

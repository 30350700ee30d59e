"""The vocabulary of TokenGate: frozen values that the other modules pass to each other. No I/O, no logic beyond names.

They are msgspec structs, not dataclasses: a call makes a dozen of them, and a frozen dataclass costs eighteen times as
much to make (docs/adr/0007).

Amounts are `int` nano-USD (`_nano`), counts are tokens (`_tokens`), times are milliseconds since the epoch (`_ms`).
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

DEFAULT_TENANT: Final = "default"

NAME_CHARACTERS_MAX: Final = 128
NAME_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,127}"
"""What the name of a session, an agent or a tenant may be: it travels into keys, headers, logs and pages."""

TOKEN_CHARACTERS_MIN: Final = 16
"""Of an administrator's token: what has fewer could be guessed."""
TOKEN_CHARACTERS_MAX: Final = 512


class Session(Struct, frozen=True, gc=False):
    """Who is calling: a session, which the caller may choose unless it is pinned, of an agent within a tenant."""

    id: str
    tenant: str = DEFAULT_TENANT
    agent: str = ""


class Usage(Struct, frozen=True, gc=False):
    """What one call used, as the provider reported it.

    The classes nest: `input_tokens` counts every input token, so `cache_read_tokens`, `cache_write_tokens`,
    `input_audio_tokens` and `input_image_tokens` are parts of it; `output_tokens` counts every output token, of which
    `reasoning_tokens`, `output_audio_tokens` and `output_image_tokens` are parts. Providers that report them side by
    side are normalised by their parser.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    """The part of `cache_write_tokens` with the longer time to live (Anthropic: one hour), which costs more."""
    input_audio_tokens: int = 0
    input_image_tokens: int = 0
    output_audio_tokens: int = 0
    reasoning_tokens: int = 0
    model: str = ""
    """The model that the provider says answered; empty if it did not say."""
    service_tier: str = ""
    """The service tier that the provider says it used; empty if it did not say."""
    calls: tuple[tuple[str, int], ...] = ()
    """What is billed by the piece, as (name, count): calls such as `(("web_search", 2),)`, or the seconds or characters
    of a model that is billed by those."""
    cost_nano: int | None = None
    """What the provider says that it charged, from an upstream whose word is taken for it; it goes before any price."""
    output_image_tokens: int = 0


class Call(Struct, frozen=True, gc=False):
    """A request for tokens, as parsed from a body: everything a quote needs, nothing a provider's dialect needs."""

    model: str
    stream: bool
    input_tokens_max: int
    """An upper bound on the billed input tokens that costs nothing to know: every token is at least one byte."""
    text_bytes: int
    """How many of `input_tokens_max` come from text, and would be fewer if counted exactly."""
    output_tokens_asked: int | None
    """The output cap that the caller set for one answer, in tokens; None if it set none."""
    output_cap_formal: bool = False
    """The cap was set because the API wants one of every call, and is so large that it says little: a smaller one may
    be written as if there were none."""
    context_windows: int = 0
    """How many whole context windows of input may be billed on top of `input_tokens_max`: a document whose pages nobody
    has counted, and each time that the provider runs the model again on what it has found."""
    output_tokens_beside: int = 0
    """Tokens of one answer that may be billed as output whatever its cap says."""
    answers: int = 1
    """How many answers are generated and billed (`n` or `best_of`, times the number of prompts)."""
    produces_output: bool = True
    """False for calls whose output no cap can bound: embeddings, which have none, and what `output_tokens_fixed` is."""
    output_tokens_fixed: int = 0
    """The most tokens that are billed as output, all answers together, where nothing in the request caps them: images,
    speech, transcripts."""
    pieces: tuple[tuple[str, int], ...] = ()
    """What the call has at the most of that which some models are billed by instead of tokens, as (name, count): the
    `second` of sound, the `character` of text."""
    input_audio: bool = False
    input_images: bool = False
    output_audio: bool = False
    output_images: bool = False
    service_tier: str = ""
    tiers_unasked: tuple[str, ...] = ()
    """Service tiers that it may be billed by although it does not ask for them: what its account is set to decides.
    They are held for where the model has prices for them."""
    fees: tuple[tuple[str, int], ...] = ()
    """Separately billed calls that the request allows, as (fee name, the largest count)."""


class Quote(Struct, frozen=True, gc=False):
    """Bounds on the price of a call. `floor_nano <= need_nano <= want_nano`."""

    floor_nano: int
    """What buys the least answer worth having."""
    need_nano: int
    """What buys a typical answer (a rolling 95th percentile of the model's output)."""
    want_nano: int
    """The most that the call can cost as it will be sent."""
    input_nano: int
    """The part of all three that pays for the input and for fees."""
    output_token_price: int
    """Nano-USD per million output tokens, times the number of answers: what one more token of cap costs."""
    output_tokens_max: int
    """The output cap, in tokens an answer, that `want_nano` pays for."""
    cappable: bool
    """Whether a grant below `want_nano` may be made safe by writing an output cap into the request."""


class Period(StrEnum):
    """How often a budget starts anew."""

    NONE = "none"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Scope(Struct, frozen=True, gc=False):
    """What a budget belongs to: a `kind` (session, agent or tenant) and a name, within a tenant."""

    tenant: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Mode(StrEnum):
    """What is done about what a rule finds."""

    OFF = "off"
    SHADOW = "shadow"
    """It is logged, counted and reported, and nothing else."""
    ENFORCE = "enforce"


class Rate(Struct, frozen=True, gc=False):
    """So many requests in a time, of which `burst` may come at once."""

    requests: int
    per_ms: int
    burst: int
    mode: Mode = Mode.ENFORCE

    @property
    def interval_us(self) -> int:
        """The time after which one more may come, in microseconds, rounded up."""
        return -(-self.per_ms * 1000 // self.requests)

    @property
    def tolerance_us(self) -> int:
        """How much before its time a request may come."""
        return (self.burst - 1) * self.interval_us


class Limit(Struct, frozen=True, gc=False):
    """A budget on the path of a call: at no instant may `spent + held` of the scope exceed the cap."""

    scope: Scope
    cap_default_nano: int
    """The cap while nobody has set another one for this scope."""
    period: Period = Period.NONE
    timezone: str = "UTC"
    rate: Rate | None = None
    """How many calls may be made in a time; None: as many as the budget pays for."""


class Reason(StrEnum):
    """Why a call was refused. The values are stable: they appear in logs, metrics and error bodies."""

    BUDGET_EXCEEDED = "budget_exceeded"
    BUDGET_BUSY = "budget_busy"
    BUDGET_INVALID = "budget_invalid"
    SESSIONS_FULL = "sessions_full"
    RATE_LIMITED = "rate_limited"
    SESSION_FROZEN = "session_frozen"
    SESSION_MISSING = "session_missing"
    SESSION_INVALID = "session_invalid"
    BODY_INVALID = "body_invalid"
    BODY_TOO_LARGE = "body_too_large"
    HEADERS_TOO_LARGE = "headers_too_large"
    MODEL_NOT_PRICED = "model_not_priced"
    ENDPOINT_NOT_METERED = "endpoint_not_metered"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONCURRENCY_EXCEEDED = "concurrency_exceeded"
    STORE_UNAVAILABLE = "store_unavailable"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal_error"


class Standing(Struct, frozen=True, gc=False):
    """How a scope stood at one instant of the store."""

    scope: Scope
    cap_nano: int
    spent_nano: int
    held_nano: int
    resets_at_ms: int | None = None

    @property
    def remaining_nano(self) -> int:
        """What is neither spent nor held; at least 0."""
        return max(0, self.cap_nano - self.spent_nano - self.held_nano)


class Refusal(Struct, frozen=True, gc=False):
    """A call that is not forwarded: why, in words for the caller, and the figures behind it."""

    reason: Reason
    message: str
    param: str | None = None
    """Where in the request the fault is, if it is in the request."""
    retry_after_s: int | None = None
    """A true number of whole seconds after which a retry may succeed; None if a retry is pointless."""
    standing: Standing | None = None
    required_nano: int | None = None
    frozen_reason: str | None = None
    frozen_until_ms: int | None = None
    rule: str | None = None
    """The rule that it broke, if it was one."""
    expected_nano: int = 0
    """What the call would probably have cost: its input, and answers of its model's mean length."""
    waited_us: int = 0
    """How long the call stood in line before it was refused, in microseconds."""


class Ending(StrEnum):
    """How an admitted call came to its end, which decides what it is charged."""

    COMPLETE = "complete"
    """The provider reported what was used."""
    REJECTED = "rejected"
    """The provider refused it, or it never reached the provider: nothing is charged."""
    CUT = "cut"
    """The answer ended early or without usage: input plus what was seen, counted conservatively."""
    UNKNOWN = "unknown"
    """Nobody can say what the provider did: the whole hold is charged and flagged as assumed."""


class Trace(Struct, frozen=True, gc=False):
    """The place of a request in a distributed trace (https://www.w3.org/TR/trace-context/); ids are in hexadecimal."""

    trace_id: str
    span_id: str
    """Of the request's own span."""
    parent_span_id: str = ""
    """Of the caller's span; empty if the caller named none."""
    state: str = ""
    """The caller's `tracestate`, unread."""
    sampled: bool = False


class Outcome(Struct, frozen=True, gc=False):
    """One finished request, refused or forwarded: what the log line, the metrics and the spans are made of.

    Durations are in microseconds (`_us`); an instant is told by how long after `started_ms` it came.
    """

    request_id: str
    endpoint: str
    session: Session | None
    model: str
    """As it was asked for."""
    stream: bool
    status: int
    decision: str
    """`allowed` or `blocked`."""
    reason: Reason | None = None
    error: str | None = None
    ending: Ending | None = None
    estimated_nano: int | None = None
    held_nano: int | None = None
    actual_nano: int | None = None
    assumed: bool = False
    usage: Usage = Usage()
    started_ms: int = 0
    duration_us: int = 0
    overhead_us: int = 0
    """Of the duration, what the gate took: without the provider, the caller's sending, and standing in line."""
    first_byte_us: int | None = None
    """When the provider began to answer; for a stream, when the first piece of it came."""
    provider: str = ""
    """Whose endpoint it is; empty if it is none."""
    priced_model: str = ""
    """The model's name in the price table; empty if it has none."""
    saved_nano: int = 0
    """What the call would probably have cost, if it was refused for good."""
    waited_us: int = 0
    """How long it stood in line for a budget that others held."""
    code_class: str | None = None
    """How the provider failed, if it did: `4xx`, `429`, `5xx`, `timeout` or `unreachable`."""
    received_us: int = 0
    """When its body was read."""
    admitted_us: int | None = None
    """When the gate had decided."""
    dispatched_us: int | None = None
    """When it was forwarded."""
    answered_us: int | None = None
    """When the provider's answer, or as much of it as came, had been read."""
    trace: Trace | None = None
    method: str = ""
    path: str = ""
    """As it was asked for, up to a bound."""
    rule: str | None = None
    """The rule by which it was refused; of a call that was allowed, the one that would have refused it, were it
    enforced."""
    route: str = ""
    """The row of the endpoint table: a path that may end in `/*`; empty if there is none."""

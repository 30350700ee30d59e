"""Which limits apply to a call, and when their periods begin. Pure rules: no clock, no store.

A new kind of budget is a function here that yields one more `Limit`; the ledger checks whatever path it is given and
knows neither how many limits it has nor what they are called.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from tokengate.domain import Limit, Period, Quote, Rate, Scope, Session
from tokengate.money import AMOUNT_NANO_MAX

SHARE: Final = 4
"""A grant above a call's need is at most this fraction (1/SHARE) of the headroom: a fair share near the end."""

AMPLE: Final = 5
"""How many times what a typical answer costs a call asks to hold: then hardly one answer in a thousand is cut."""

PATIENCE_TENTHS: Final = 9
"""Over how much of the longest wait a call in line comes to ask for less, evenly, until it asks for the least."""

TYPICAL_OUTPUT_COLD_TOKENS: Final = 512
"""What a typical answer is taken to be, in tokens, while a model has too few answers to tell; at least."""

_TYPICAL_ANSWERS: Final = 256
_TYPICAL_ANSWERS_MIN: Final = 20
_TYPICAL_REFRESH: Final = 16
_TYPICAL_MODELS_MAX: Final = 256

_LIMITS_CACHED: Final = 4096
_WINDOWS_CACHED: Final = 64
_HOUR_MS: Final = 3_600_000


class Policy(Struct, frozen=True, gc=False, cache_hash=True):
    """The budgets that apply where nobody has set another: caps in nano-USD, None for no limit of that kind."""

    session_cap_nano: int
    session_period: Period = Period.NONE
    agent_cap_nano: int | None = None
    agent_period: Period = Period.NONE
    tenant_cap_nano: int | None = None
    tenant_period: Period = Period.NONE
    timezone: str = "UTC"
    session_rate: Rate | None = None
    agent_rate: Rate | None = None
    tenant_rate: Rate | None = None


@lru_cache(maxsize=_LIMITS_CACHED)
def limits(policy: Policy, session: Session) -> tuple[Limit, ...]:
    """The limits on a call's path, innermost first: session, then agent, then tenant."""
    path = [session_limit(policy, session)]
    if session.agent and (policy.agent_cap_nano is not None or policy.agent_rate is not None):
        scope, cap_nano = Scope(session.tenant, "agent", session.agent), policy.agent_cap_nano
        path.append(_limit(scope, cap_nano, policy.agent_period, policy, policy.agent_rate))
    if policy.tenant_cap_nano is not None or policy.tenant_rate is not None:
        scope, cap_nano = Scope(session.tenant, "tenant", session.tenant), policy.tenant_cap_nano
        path.append(_limit(scope, cap_nano, policy.tenant_period, policy, policy.tenant_rate))
    return tuple(path)


def _limit(scope: Scope, cap_nano: int | None, period: Period, policy: Policy, rate: Rate | None) -> Limit:
    """A limit; one that is there for its rate alone has a cap that nobody reaches."""
    return Limit(scope, AMOUNT_NANO_MAX if cap_nano is None else cap_nano, period, policy.timezone, rate)


def session_limit(policy: Policy, session: Session) -> Limit:
    """The limit of the session itself; every session has one."""
    scope = Scope(session.tenant, "session", session.id)
    return _limit(scope, policy.session_cap_nano, policy.session_period, policy, policy.session_rate)


def windows(limit: Limit, now_ms: int) -> tuple[int, ...]:
    """The boundaries, in ms since the epoch, of the periods before, at and after `now_ms`; empty without a period.

    Five boundaries bound four periods, so that a store whose clock differs from ours by less than a period still finds
    its own, wherever in an hour of UTC a time zone's hours begin.
    """
    if limit.period is Period.NONE:
        return ()
    return _windows(limit.period, limit.timezone, now_ms // _HOUR_MS)


@lru_cache(maxsize=_WINDOWS_CACHED)
def _windows(period: Period, timezone: str, hour: int) -> tuple[int, ...]:
    start = _start(period, timezone, hour * _HOUR_MS)
    before = _start(period, timezone, start - 1)
    after = _next(period, timezone, start)
    # A time zone's hour may begin within the hour of UTC that this is cached for: one more period covers it.
    later = _next(period, timezone, after)
    return (before, start, after, later, _next(period, timezone, later))


def window_start(boundaries: tuple[int, ...], now_ms: int) -> tuple[int, int] | None:
    """The period that holds `now_ms`, as (start, end) in ms; None if the boundaries do not reach it."""
    for start, end in pairwise(boundaries):
        if start <= now_ms < end:
            return start, end
    return None


def _start(period: Period, timezone: str, at_ms: int) -> int:
    local = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(timezone))
    if period is Period.HOUR:
        # By arithmetic, not by the wall clock: the hour that daylight saving repeats is two hours.
        return at_ms - (at_ms + _offset_ms(local)) % _HOUR_MS
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period is Period.WEEK:
        midnight -= timedelta(days=midnight.weekday())
    elif period is Period.MONTH:
        midnight = midnight.replace(day=1)
    return int(midnight.timestamp()) * 1000


def _next(period: Period, timezone: str, start_ms: int) -> int:
    if period is Period.HOUR:
        return start_ms + _HOUR_MS
    # Well into the next period, whatever daylight saving does, and short of the one after it.
    days = {Period.DAY: 1, Period.WEEK: 7, Period.MONTH: 31}[period]
    return _start(period, timezone, start_ms + days * 24 * _HOUR_MS + 12 * _HOUR_MS)


def _offset_ms(local: datetime) -> int:
    offset = local.utcoffset()
    return 0 if offset is None else int(offset.total_seconds()) * 1000


def ample_nano(bounds: Quote, waited_ms: int = 0, wait_ms_max: int = 1) -> int:
    """The least that a call asks to hold while others hold too, in nano-USD, after it has stood in line for a time.

    Ample room for its answer at first; less for one that has stood in line, so that it rather risks to be cut than to
    be refused. Never below the quote's `floor_nano` nor above its `want_nano`, which are one if no cap may be written.
    """
    patient_ms = PATIENCE_TENTHS * wait_ms_max
    left_ms = max(0, patient_ms - 10 * waited_ms)
    room_nano = (bounds.need_nano - bounds.floor_nano) * AMPLE * left_ms // patient_ms
    return min(bounds.want_nano, bounds.floor_nano + room_nano)


class _Answers(Struct, gc=False):
    """The last answers of one model."""

    tokens: list[int]
    seen: int = 0
    typical: int = TYPICAL_OUTPUT_COLD_TOKENS
    mean: int = TYPICAL_OUTPUT_COLD_TOKENS


class TypicalOutput:
    """A rolling 95th percentile of the output tokens of each model's answers. Bounded in models and in answers.

    Of many calls begun at once the shortest answers end first. So what the first answers say can only raise what is
    taken to be typical; it is lowered when as many have been seen as are remembered.
    """

    def __init__(self) -> None:
        self._models: dict[str, _Answers] = {}

    def of(self, model: str) -> int:
        """The typical output of one answer of a model, in tokens."""
        answers = self._models.get(model)
        return answers.typical if answers is not None else TYPICAL_OUTPUT_COLD_TOKENS

    def mean(self, model: str) -> int:
        """The mean output of one answer of a model, in tokens: what one more will probably have."""
        answers = self._models.get(model)
        return answers.mean if answers is not None else TYPICAL_OUTPUT_COLD_TOKENS

    def observe(self, model: str, output_tokens: int) -> None:
        """Take note of a complete answer; of one that a cap of ours has cut, of what it might have been."""
        answers = self._models.get(model)
        if answers is None:
            if len(self._models) >= _TYPICAL_MODELS_MAX:
                del self._models[next(iter(self._models))]
            answers = self._models[model] = _Answers([])
        tokens, seen = answers.tokens, answers.seen
        if seen < _TYPICAL_ANSWERS:
            tokens.append(output_tokens)
        else:
            tokens[seen % _TYPICAL_ANSWERS] = output_tokens
        answers.seen = seen = seen + 1
        if seen % _TYPICAL_REFRESH == 0 and seen >= _TYPICAL_ANSWERS_MIN:
            ordered = sorted(tokens)
            found = ordered[len(ordered) * 95 // 100]
            answers.mean = sum(ordered) // len(ordered)
            answers.typical = found if seen >= _TYPICAL_ANSWERS else max(found, TYPICAL_OUTPUT_COLD_TOKENS)

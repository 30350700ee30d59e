"""What is counted of every request, and of every command to the store, for whoever scrapes `/metrics`.

This is on every request's way, so it adds to plain cells (`counts`) and knows nothing of Prometheus: `exposition` makes
families of the cells when somebody asks. No label is ever something that a caller may choose freely: no session, no
user, no key. A model is named as the price table names it, `other` where it does not; of tenants, the first
`TENANTS_MAX` are told apart.
"""

import os
from bisect import bisect_left
from typing import Final

from msgspec import Struct

from tokengate.anomaly import Rule
from tokengate.domain import Mode, Outcome, Reason, Usage
from tokengate.telemetry.counts import Counts, Kind

TENANTS_MAX: Final = 64
"""Tenants that are told apart by one worker; all others are `OVERFLOW`."""

CALL_ROWS_MAX: Final = 512
"""Sets of tenant, provider and model that are told apart."""

TIME_ROWS_MAX: Final = 128
"""Sets of provider and model whose durations are told apart."""

OTHER: Final = "other"
"""The model of calls whose model has no price of its own, and of those beyond the bounds."""

OVERFLOW: Final = "_overflow"
"""The tenant of calls of all tenants beyond the bound; no tenant can be called so."""

NO_PROVIDER: Final = "none"
"""The provider of requests that were refused before an endpoint of one was found."""

OUTCOMES: Final = ("complete", "rejected", "cut", "unknown", "blocked", "passed", "left")
"""What became of a request: the endings of calls that were forwarded; refused by the gate; passed on free of charge;
or its caller left before anything was decided."""

TOKEN_TYPES: Final = ("input", "output", "cache_read", "cache_write", "reasoning")
"""They do not overlap: `input` was neither read from a cache nor written to one, `output` was no reasoning."""

CODE_CLASSES: Final = ("4xx", "429", "5xx", "timeout", "unreachable")
"""How a provider failed: its own answer (`4xx` without 429), none in time, or none at all."""

DURATION_US: Final = tuple(
    int(seconds * 1_000_000) for seconds in (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
)
FIRST_TOKEN_US: Final = tuple(
    int(seconds * 1_000_000) for seconds in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
)
SHORT_US: Final = (
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
)
"""Bounds for what should take less than a millisecond."""
WAIT_US: Final = tuple(int(seconds * 1_000_000) for seconds in (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))

# Cells of a row of CALLS.
TOKENS_AT: Final = len(OUTCOMES)
COST_AT: Final = TOKENS_AT + len(TOKEN_TYPES)
ASSUMED_AT: Final = COST_AT + 1
OVERRUN_AT: Final = COST_AT + 2
CALLS: Final = Kind(0, OVERRUN_AT + 1, CALL_ROWS_MAX, (OVERFLOW, OTHER, OTHER))
"""By tenant, provider and model."""

# A histogram is the count of each bucket, one for what is above them all, and the sum.
FIRST_TOKEN_AT: Final = len(DURATION_US) + 2
TIMES: Final = Kind(1, FIRST_TOKEN_AT + len(FIRST_TOKEN_US) + 2, TIME_ROWS_MAX, (OTHER, OTHER))
"""By provider and model."""

REFUSED_AT: Final = 0
SAVED_AT: Final = 1
REFUSALS: Final = Kind(2, 2, (TENANTS_MAX + 1) * len(Reason), (OVERFLOW, OTHER))
"""By tenant and reason."""

FAILURES: Final = Kind(3, 1, 64, (OTHER, OTHER))
"""By provider and class of code."""

STORE_FAILED_AT: Final = len(SHORT_US) + 2
JUDGE: Final = "judge"
"""The operation as which a failure of the rules for runaways is counted."""

STORE: Final = Kind(4, STORE_FAILED_AT + 1, 32, (OTHER,))
"""By operation."""

INFLIGHT_AT, STORE_DOWN_AT, DEGRADED_AT, RESTARTS_AT, PID_AT, CPU_BEFORE_AT = range(6)
"""Gauges; how often a worker here was replaced; its process, 0 while there is none; and what processor time, in
microseconds, those before it had used."""
OVERHEAD_AT: Final = 6
WAIT_AT: Final = OVERHEAD_AT + len(SHORT_US) + 2
TRACES_AT: Final = WAIT_AT + len(WAIT_US) + 2
TRACE_RESULTS: Final = ("exported", "failed", "dropped")
PROCESS: Final = Kind(5, TRACES_AT + len(TRACE_RESULTS), 1)
"""One row, without labels."""

RULED: Final = Kind(6, 1, (TENANTS_MAX + 1) * len(Rule) * 2, (OVERFLOW, OTHER, OTHER))
"""By tenant, rule and what is done about it."""

KINDS: Final = (CALLS, TIMES, REFUSALS, FAILURES, STORE, PROCESS, RULED)

_OUTCOME_AT: Final = {name: at for at, name in enumerate(OUTCOMES)}
_BLOCKED_AT, _PASSED_AT, _LEFT_AT = (_OUTCOME_AT[name] for name in ("blocked", "passed", "left"))
_OUTPUT_AT, _CACHE_READ_AT, _CACHE_WRITE_AT, _REASONING_AT = (
    TOKENS_AT + TOKEN_TYPES.index(name) for name in ("output", "cache_read", "cache_write", "reasoning")
)
_SHORT_SUM_AT: Final = len(SHORT_US) + 1
_CLIENT_CLOSED: Final = 499
_NO_NAME: Final = frozenset({"", "default"})


class Exemplar(Struct, frozen=True, gc=False):
    """One request that was counted in a bucket, and whose trace was kept."""

    trace_id: str
    value_us: int
    at_ms: int


def new_counts(*, shared: bool = False) -> Counts:
    """A region for one process; for one of several, to be made, `shared`, before they are forked."""
    counts = Counts(KINDS, shared=shared)
    counts.row(PROCESS, ())
    return counts


class Metrics:
    """Counts into a region; one per process. `tenant`: whose a request is of which nobody has found out whose it is."""

    def __init__(self, counts: Counts, tenant: str) -> None:
        counts.adopt()
        self._tenant_unless_known = tenant
        self.counts = counts
        self.exemplars: dict[int, Exemplar] = {}
        """By the cell of the bucket; this process's own."""
        self._cells = counts.cells
        self._calls, self._times, self._operations = (counts.index(kind) for kind in (CALLS, TIMES, STORE))
        self._process = counts.row(PROCESS, ())
        self._tenants = {labels[0] for labels, _ in counts.rows(CALLS)}
        # What whoever was here before has left unfinished is not in flight any more.
        for gauge in (INFLIGHT_AT, STORE_DOWN_AT, DEGRADED_AT):
            self._cells[self._process + gauge] = 0
        self._cells[self._process + PID_AT] = os.getpid()

    # --- requests ---

    def in_flight(self, calls: int) -> None:
        """So many requests are under way."""
        self._cells[self._process] = calls

    def record(self, outcome: Outcome) -> None:
        """Count a finished request."""
        cells, session, ending = self._cells, outcome.session, outcome.ending
        tenant = session.tenant if session is not None else self._tenant_unless_known
        provider, model = outcome.provider or NO_PROVIDER, outcome.priced_model
        at = self._calls.get((tenant, provider, model))
        if at is None:
            at = self._call_row(tenant, provider, model)
        if outcome.code_class is not None:
            cells[self.counts.row(FAILURES, (provider, outcome.code_class))] += 1
        if outcome.rule is not None:
            mode = Mode.ENFORCE if outcome.decision == "blocked" else Mode.SHADOW
            cells[self.counts.row(RULED, (self._tenant(tenant), outcome.rule, mode.value))] += 1
        if ending is None:
            cells[at + self._without_ending(outcome, tenant)] += 1
            return
        cells[at + _OUTCOME_AT[ending]] += 1
        cost, usage = outcome.actual_nano, outcome.usage
        if cost:
            cells[at + COST_AT] += cost
            if outcome.assumed:
                cells[at + ASSUMED_AT] += cost
            if outcome.held_nano is not None and cost > outcome.held_nano:
                cells[at + OVERRUN_AT] += cost - outcome.held_nano
        if usage.input_tokens or usage.output_tokens:
            self._count_tokens(at, usage)
        self._time(outcome, provider, model)

    def _count_tokens(self, at: int, usage: Usage) -> None:
        cells = self._cells
        if usage.input_tokens:
            cached, written = usage.cache_read_tokens, usage.cache_write_tokens
            if cached or written:
                cells[at + _CACHE_READ_AT] += cached
                cells[at + _CACHE_WRITE_AT] += written
            cells[at + TOKENS_AT] += max(0, usage.input_tokens - cached - written)
        if usage.output_tokens:
            reasoning = min(usage.reasoning_tokens, usage.output_tokens)
            if reasoning:
                cells[at + _REASONING_AT] += reasoning
            cells[at + _OUTPUT_AT] += usage.output_tokens - reasoning

    def _call_row(self, tenant: str, provider: str, model: str) -> int:
        if model in _NO_NAME:
            model = OTHER
        return self.counts.row(CALLS, (self._tenant(tenant), provider, model))

    def _tenant(self, tenant: str) -> str:
        known = self._tenants
        if tenant not in known:
            if len(known) >= TENANTS_MAX:
                return OVERFLOW
            known.add(tenant)
        return tenant

    def _without_ending(self, outcome: Outcome, tenant: str) -> int:
        """The cell of a request that was not forwarded and charged, within its row."""
        if outcome.decision == "blocked" and outcome.reason is not None:
            row = self.counts.row(REFUSALS, (self._tenant(tenant), outcome.reason.value))
            self._cells[row] += 1
            self._cells[row + SAVED_AT] += outcome.saved_nano
            self._time_here(outcome)
            return _BLOCKED_AT
        return _LEFT_AT if outcome.status == _CLIENT_CLOSED else _PASSED_AT

    def _time(self, outcome: Outcome, provider: str, model: str) -> None:
        cells, took_us = self._cells, outcome.duration_us
        row = self._times.get((provider, model))
        if row is None:
            row = self.counts.row(TIMES, (provider, OTHER if model in _NO_NAME else model))
        bucket = row + bisect_left(DURATION_US, took_us)
        cells[bucket] += 1
        cells[row + FIRST_TOKEN_AT - 1] += took_us
        self._keep(outcome, bucket, took_us, took_us)
        if outcome.stream and outcome.first_byte_us is not None:
            first_us = outcome.first_byte_us
            row += FIRST_TOKEN_AT
            bucket = row + bisect_left(FIRST_TOKEN_US, first_us)
            cells[bucket] += 1
            cells[row + len(FIRST_TOKEN_US) + 1] += first_us
            self._keep(outcome, bucket, first_us, first_us)
        self._time_here(outcome)

    def _time_here(self, outcome: Outcome) -> None:
        """What the gate itself took, and how long the call stood in line for a budget."""
        cells, overhead_us, row = self._cells, outcome.overhead_us, self._process + OVERHEAD_AT
        bucket = row + bisect_left(SHORT_US, overhead_us)
        cells[bucket] += 1
        cells[row + _SHORT_SUM_AT] += overhead_us
        self._keep(outcome, bucket, overhead_us, outcome.duration_us)
        if outcome.waited_us:
            row = self._process + WAIT_AT
            cells[row + bisect_left(WAIT_US, outcome.waited_us)] += 1
            cells[row + len(WAIT_US) + 1] += outcome.waited_us

    def _keep(self, outcome: Outcome, bucket: int, value_us: int, after_us: int) -> None:
        """Keep a request as the exemplar of a bucket, if its trace can be looked up."""
        trace = outcome.trace
        if trace is not None and trace.sampled:
            self.exemplars[bucket] = Exemplar(trace.trace_id, value_us, outcome.started_ms + after_us // 1000)

    # --- the store ---

    def answered(self, operation: str, took_us: int) -> None:
        """The store has answered a command, be it with an error."""
        cells, row = self._cells, self._operations.get((operation,))
        if row is None:
            row = self.counts.row(STORE, (operation,))
        cells[row + bisect_left(SHORT_US, took_us)] += 1
        cells[row + _SHORT_SUM_AT] += took_us
        cells[self._process + STORE_DOWN_AT] = 0

    def unanswered(self, operation: str) -> None:
        """The store has not answered, or not as a store should that is well."""
        self._cells[self.counts.row(STORE, (operation,)) + STORE_FAILED_AT] += 1
        self._cells[self._process + STORE_DOWN_AT] = 1

    def unjudged(self) -> None:
        """The rules failed over a call; the store itself is well."""
        self._cells[self.counts.row(STORE, (JUDGE,)) + STORE_FAILED_AT] += 1

    def degraded(self, away: bool) -> None:
        """Calls are (or are no longer) admitted without the store."""
        self._cells[self._process + DEGRADED_AT] = int(away)

    # --- traces ---

    def traced(self, result: str, requests: int) -> None:
        """What became of the spans of requests: one of `TRACE_RESULTS`."""
        self._cells[self._process + TRACES_AT + TRACE_RESULTS.index(result)] += requests


def ended(counts: Counts, cpu_us: int, *, replaced: bool) -> None:
    """A worker has ended, having used so much processor time: nothing is in flight there. For its supervisor."""
    row = counts.row(PROCESS, ())
    for gauge in (INFLIGHT_AT, STORE_DOWN_AT, DEGRADED_AT, PID_AT):
        counts.cells[row + gauge] = 0
    counts.cells[row + CPU_BEFORE_AT] += cpu_us
    counts.cells[row + RESTARTS_AT] += int(replaced)

"""The names of everything that the ledger keeps in Redis. One place, so that they can be read, granted and documented.

All keys of a tenant share the hash tag `{tenant}`, so that one script may touch them all on a Redis Cluster.
"""

from functools import lru_cache
from typing import Final

from tokengate.domain import Scope

PREFIX: Final = "tokengate"
_CACHED: Final = 4096

TENANTS: Final = f"{PREFIX}:tenants"
"""Sorted set: the tenants, by when a gate was last started for each (ms). The only key that is no tenant's."""


@lru_cache(maxsize=_CACHED)
def scope(of: Scope) -> str:
    """`tokengate:{default}:session:my-session`: the hash of a session, an agent or a tenant."""
    return f"{PREFIX}:{{{of.tenant}}}:{of.kind}:{of.name}"


@lru_cache(maxsize=_CACHED)
def scope_prefix(tenant: str, kind: str) -> str:
    """What the keys of a tenant's scopes of a kind begin with; the rest is the name."""
    return f"{PREFIX}:{{{tenant}}}:{kind}:"


def scope_of(key: str) -> Scope | None:
    """What a key belongs to; None if it is no scope's."""
    prefix, found, rest = key.partition(":{")
    tenant, closed, path = rest.partition("}:")
    kind, colon, name = path.partition(":")
    return Scope(tenant, kind, name) if prefix == PREFIX and found and closed and colon else None


@lru_cache(maxsize=_CACHED)
def hold_prefix(tenant: str) -> str:
    """What the keys of a tenant's holds begin with; the rest is the hold's id."""
    return f"{PREFIX}:{{{tenant}}}:hold:"


def recent(tenant: str, session_id: str) -> str:
    """Hash: what a session did lately, as far as the rules about runaways need it; it expires an hour later."""
    return f"{PREFIX}:{{{tenant}}}:recent:{session_id}"


def responses(tenant: str, session_id: str) -> str:
    """Sorted set: the ids of responses that a session made and the provider keeps, by when (ms); it expires."""
    return f"{PREFIX}:{{{tenant}}}:responses:{session_id}"


@lru_cache(maxsize=_CACHED)
def leases(tenant: str) -> str:
    """Sorted set: hold ids by the instant (ms) at which they expire."""
    return f"{PREFIX}:{{{tenant}}}:leases"


@lru_cache(maxsize=_CACHED)
def sessions(tenant: str) -> str:
    """Sorted set: session ids by last activity (ms)."""
    return f"{PREFIX}:{{{tenant}}}:sessions"


def index(tenant: str, kind: str, order: str = "", period_start_ms: int = 0) -> str:
    """Sorted set: the names of a kind (`session`, `agent`) by last activity (ms), or in another order.

    `names` (all alike, so in the order of their bytes), `frozen` (by when the freeze ends, ms or inf), `spent` (cents,
    followed in steps of 5%), `share` (spent of the budget, whole percent); those two anew in each period, if any.
    """
    suffix = f":{order}" if order else ""
    period = f":{period_start_ms}" if period_start_ms else ""
    return f"{PREFIX}:{{{tenant}}}:{kind}s{suffix}{period}"


def deleted(of: Scope) -> str:
    """What is left of a scope that was deleted, for a day: its next epoch."""
    return f"{PREFIX}:{{{of.tenant}}}:deleted:{of.kind}:{of.name}"


def usage(tenant: str, hour: int) -> str:
    """Hash: what was used in an hour (its number since the epoch), by model."""
    return f"{PREFIX}:{{{tenant}}}:usage:{hour}"


def usage_by_session(tenant: str, day: int) -> str:
    """Sorted set: what a day (its number since the epoch) cost, in nano-USD, by session; those that cost most."""
    return f"{PREFIX}:{{{tenant}}}:usage:sessions:{day}"


def usage_by_agent(tenant: str, day: int) -> str:
    """Hash: the same by agent."""
    return f"{PREFIX}:{{{tenant}}}:usage:agents:{day}"


def stats(tenant: str, hour: int) -> str:
    """Hash: what gates have counted in an hour (its number since the epoch), see `telemetry.rollup`."""
    return f"{PREFIX}:{{{tenant}}}:stats:{hour}"


@lru_cache(maxsize=_CACHED)
def events(tenant: str) -> str:
    """Capped stream: what happened that a person may want to know."""
    return f"{PREFIX}:{{{tenant}}}:events"


@lru_cache(maxsize=_CACHED)
def journals(tenant: str) -> str:
    """Hash: how far the journals of gates are posted that the store was away from, by journal."""
    return f"{PREFIX}:{{{tenant}}}:journals"


def reader(tenant: str, name: str) -> str:
    """Hash: how far the events were read for a purpose, and by whom now."""
    return f"{PREFIX}:{{{tenant}}}:reader:{name}"


def reader_ends(tenant: str, name: str) -> str:
    """Sorted set: the scopes whose freezes will end by themselves (ms), as far as a reader has told of them."""
    return f"{reader(tenant, name)}:ends"

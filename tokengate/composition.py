"""From settings to a ledger, and to what an administrator can do: the part of the composition that needs no data plane.

Commands start in a fraction of the time that a gate takes, because nothing of a gate is imported here.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tokengate.anomaly import Rules
from tokengate.budgets import Policy
from tokengate.domain import Mode, Rate
from tokengate.ledger import Watch, keys
from tokengate.ledger.link import Link
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import Settings

if TYPE_CHECKING:
    from tokengate.control.local import LocalControl
    from tokengate.ledger.dial import Place
    from tokengate.ledger.lists import Ask
    from tokengate.store import Store


def policy_of(settings: Settings) -> Policy:
    """The budgets that the settings give where nobody has set another."""
    return Policy(
        session_cap_nano=settings.default_budget,
        session_period=settings.default_budget_period,
        agent_cap_nano=settings.agent_budget,
        agent_period=settings.agent_budget_period,
        tenant_cap_nano=settings.tenant_budget,
        tenant_period=settings.tenant_budget_period,
        timezone=settings.budget_timezone,
        session_rate=_rate(settings.rate_limit, settings.rate_limit_mode),
        agent_rate=_rate(settings.agent_rate_limit, settings.agent_rate_limit_mode),
        tenant_rate=_rate(settings.tenant_rate_limit, settings.tenant_rate_limit_mode),
    )


def _rate(rate: Rate | None, mode: Mode) -> Rate | None:
    return None if rate is None or mode is Mode.OFF else replace(rate, mode=mode)


def rules_of(settings: Settings) -> Rules:
    """By what a session is found to run away, and what is done about it."""
    return Rules(
        loops=settings.loops,
        loop_repeats=settings.loop_repeats,
        tool_loops=settings.tool_loops,
        tool_loop_repeats=settings.tool_loop_repeats,
        pause_ms=settings.loop_pause_ms,
        growth=settings.growth,
        growth_calls=settings.growth_calls,
        growth_percent=settings.growth_percent,
        velocity=settings.velocity,
        velocity_max_nano=settings.velocity_max,
        velocity_factor=settings.velocity_factor,
        velocity_floor_nano=settings.velocity_floor,
        freeze_ms=settings.freeze_s * 1000,
        freeze_ms_max=settings.freeze_s_max * 1000,
    )


@asynccontextmanager
async def open_ledger(
    settings: Settings, store: "Place", owner: str, watch: Watch | None = None
) -> AsyncIterator[RedisLedger]:
    """The ledger of the settings' tenant, on an open store."""
    ledger = _ledger(settings, store, owner, keys.leases(settings.tenant), watch)
    try:
        yield ledger
    finally:
        await ledger.aclose()


def _ledger(settings: Settings, store: "Place", owner: str, key: str, watch: Watch | None = None) -> RedisLedger:
    """A ledger on the server that owns a key; the caller closes it."""
    return RedisLedger(
        Link(lambda: store.connect(key), settings.store_timeout_ms),
        owner=owner,
        lease_ms=settings.hold_lease_s * 1000,
        sessions_max=settings.sessions_max,
        retry_ms=settings.store_timeout_ms,
        watch=watch,
        thresholds=settings.alert_thresholds,
        rules=rules_of(settings),
    )


@asynccontextmanager
async def open_control(settings: Settings, store: "Place", owner: str) -> AsyncIterator["LocalControl"]:
    """What an administrator can do with the settings' tenant; on connections of its own, in nobody's way."""
    # A gate without an administrator's side does not load it.
    from tokengate.control.local import LocalControl  # noqa: PLC0415
    from tokengate.ledger.lists import RedisLists  # noqa: PLC0415
    from tokengate.ledger.reports import RedisReports  # noqa: PLC0415

    async with contextlib.AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger(settings, store, owner))
        elsewhere: dict[str, RedisLedger] = {}

        def ask_at(key: str) -> "Ask":
            if key == keys.leases(settings.tenant) or not _is_of_parts(store):
                return ledger.ask
            if key not in elsewhere:
                elsewhere[key] = _ledger(settings, store, owner, key)
                stack.push_async_callback(elsewhere[key].aclose)
            return elsewhere[key].ask

        lists, reports = RedisLists(ledger.ask, settings.tenant), RedisReports(ask_at, settings.tenant)
        yield LocalControl(ledger, lists, reports, policy_of(settings), settings.tenant)


def _is_of_parts(store: "Place") -> bool:
    """Whether another key may be on another server."""
    from tokengate.store import Cluster  # noqa: PLC0415 - redis-py comes with it, which most commands do without

    return isinstance(store, Cluster)


async def register(settings: Settings, store: "Store", now_ms: int) -> None:
    """Note that the settings' tenant is served here, for reports by tenant; if it cannot be noted, it is not."""
    from redis.exceptions import RedisError  # noqa: PLC0415 - a gate has it already

    with contextlib.suppress(RedisError, OSError):
        connection = await store.connect(keys.TENANTS)
        try:
            await connection.send_command("ZADD", keys.TENANTS, now_ms, settings.tenant)
            await connection.read_response()
        finally:
            await connection.disconnect()

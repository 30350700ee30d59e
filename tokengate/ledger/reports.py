"""Reports of a tenant, from the roll-ups, the events and the leases that the scripts keep: never KEYS, never SCAN.

Each answer is bounded, by the time that it is asked for and by the names that it tells apart.
"""

import contextlib
from collections.abc import Callable, Sequence

from tokengate.domain import Scope
from tokengate.ledger import LedgerError, keys
from tokengate.ledger.books import (
    EVENTS_LOOKED_AT_MAX,
    HOLDS_LOOKED_AT_MAX,
    TENANTS_MAX,
    TOP_MAX,
    Happening,
    Hour,
    Server,
    Under,
    Used,
)
from tokengate.ledger.link import Reply
from tokengate.ledger.lists import Ask
from tokengate.ledger.resp import command
from tokengate.ledger.state import fields_of
from tokengate.money import AmountError, parse_usd

_EVENTS_CHUNK = 500
_DAY = ("day", "day_from_nano", "total_nano")
_HOLD = ("grant", "session", "model", "at_ms", "owner")


class RedisReports:
    """See `Reports`."""

    def __init__(self, ask_at: Callable[[str], Ask], tenant: str) -> None:
        """Report on a tenant. `ask_at`: how to ask the server that owns a key; on a Cluster there are several."""
        self._ask_at = ask_at
        self._ask = ask_at(keys.leases(tenant))
        self._tenant = tenant

    async def tenants(self) -> list[str]:
        ask = self._ask_at(keys.TENANTS)
        [names] = await ask([command("ZREVRANGE", keys.TENANTS, 0, TENANTS_MAX - 1)])
        return list(dict.fromkeys([self._tenant, *(name.decode(errors="replace") for name in names)]))

    def of(self, tenant: str) -> "RedisReports":
        return self if tenant == self._tenant else RedisReports(self._ask_at, tenant)

    async def hours(self, first: int, last: int) -> list[Hour]:
        hours = range(first, last + 1)
        replies = await self._ask([command("HGETALL", keys.usage(self._tenant, hour)) for hour in hours])
        return [_hour(hour, reply) for hour, reply in zip(hours, replies, strict=True) if reply]

    async def counted(self, first: int, last: int) -> list[dict[str, int]]:
        replies = await self._ask(
            [command("HGETALL", keys.stats(self._tenant, hour)) for hour in range(first, last + 1)]
        )
        return [
            {name: value for name, text in fields_of(reply).items() if (value := _integer(text)) is not None}
            for reply in replies
        ]

    async def days(self, kind: str, first: int, last: int, name: str = "") -> list[tuple[int, list[tuple[str, int]]]]:
        days = range(first, last + 1)
        if kind == "agent":
            replies = await self._ask([command("HGETALL", keys.usage_by_agent(self._tenant, day)) for day in days])
            found = [{each: nano for each, nano in _scores(reply) if name in ("", each)} for reply in replies]
        elif name:
            scores = await self._ask(
                [command("ZSCORE", keys.usage_by_session(self._tenant, day), name) for day in days]
            )
            found = [{} if score is None else {name: int(score)} for score in scores]
            await self._make_exact(dict(zip(days, found, strict=True)), [name])
        else:
            commands = [
                command("ZREVRANGE", keys.usage_by_session(self._tenant, day), 0, TOP_MAX - 1, "WITHSCORES")
                for day in days
            ]
            found = [dict(_scores(reply)) for reply in await self._ask(commands)]
            told = dict.fromkeys(each for by_name in found for each in by_name)
            await self._make_exact(dict(zip(days, found, strict=True)), list(told))
        return [
            (day, sorted(names.items(), key=lambda each: (-each[1], each[0])))
            for day, names in zip(days, found, strict=True)
            if names
        ]

    async def _make_exact(self, found: dict[int, dict[str, int]], names: list[str]) -> None:
        """On its last day a session itself knows best what it has spent: the day's list hears of it in steps."""
        prefix = keys.scope_prefix(self._tenant, "session")
        replies = await self._ask([command("HMGET", prefix + name, *_DAY) for name in names])
        for name, reply in zip(names, replies, strict=True):
            day, start, total = (_integer((value or b"").decode(errors="replace")) for value in reply)
            if day in found and start is not None and total is not None:
                found[day][name] = total - start

    async def events(self, after: str, limit: int, scope: Scope | None) -> tuple[list[Happening], str]:
        key = keys.events(self._tenant)
        if after:
            count = limit if scope is None else EVENTS_LOOKED_AT_MAX
            [entries] = await self._ask([command("XRANGE", key, f"({after}", "+", "COUNT", count)])
            return self._about(scope, entries, limit, after)
        if scope is None:
            [entries] = await self._ask([command("XREVRANGE", key, "+", "-", "COUNT", limit)])
            return self._about(None, entries[::-1], limit, "")
        found: list[Happening] = []
        newest, end, looked_at = "", "+", 0
        while len(found) < limit and looked_at < EVENTS_LOOKED_AT_MAX:
            [entries] = await self._ask([command("XREVRANGE", key, end, "-", "COUNT", _EVENTS_CHUNK)])
            if not entries:
                break
            newest = newest or entries[0][0].decode()
            end, looked_at = f"({entries[-1][0].decode()}", looked_at + len(entries)
            found += [each for each in map(self._happening, entries) if each.scope == scope]
        return found[:limit][::-1], newest

    async def holds(self, session_id: str) -> tuple[list[Under], bool]:
        leases, complete = await self._leases()
        found = []
        for (hold_id, expires), (grant, session, model, at, owner) in zip(
            leases, await self._holds([hold_id for hold_id, _ in leases]), strict=True
        ):
            if session == session_id:
                found.append(Under(hold_id, model, _nano(grant), int(at or 0), expires, owner))
        return sorted(found, key=lambda each: each.at_ms), complete

    async def under_way(self) -> tuple[int, int | None]:
        leases, complete = await self._leases()
        if not complete:
            [count] = await self._ask([command("ZCARD", keys.leases(self._tenant))])
            return int(count), None
        return len(leases), sum(_nano(hold[0]) for hold in await self._holds([hold_id for hold_id, _ in leases]))

    async def server(self) -> Server:
        fields: dict[str, str] = {}
        # Managed servers forbid much.
        with contextlib.suppress(LedgerError):
            for reply in await self._ask([command("INFO", "server"), command("INFO", "memory")]):
                lines = reply.decode(errors="replace").splitlines()
                fields |= {name: value for name, _, value in (line.partition(":") for line in lines)}
        valkey = fields.get("valkey_version")
        version = (
            f"Valkey {valkey}" if valkey else f"Redis {fields['redis_version']}" if "redis_version" in fields else ""
        )
        return Server(
            version,
            _integer(fields.get("used_memory")),
            _integer(fields.get("maxmemory")) or None,
            fields.get("maxmemory_policy", "noeviction") != "noeviction",
        )

    async def _leases(self) -> tuple[list[tuple[str, int]], bool]:
        key = keys.leases(self._tenant)
        [reply] = await self._ask([command("ZRANGE", key, 0, HOLDS_LOOKED_AT_MAX, "WITHSCORES")])
        return _scores(reply)[:HOLDS_LOOKED_AT_MAX], len(reply) <= 2 * HOLDS_LOOKED_AT_MAX

    async def _holds(self, hold_ids: Sequence[str]) -> list[list[str]]:
        prefix = keys.hold_prefix(self._tenant)
        replies = await self._ask([command("HMGET", prefix + hold_id, *_HOLD) for hold_id in hold_ids])
        return [[(value or b"").decode(errors="replace") for value in reply] for reply in replies]

    def _about(
        self, scope: Scope | None, entries: Sequence[Reply], limit: int, after: str
    ) -> tuple[list[Happening], str]:
        """Those of some events, in ascending order, that are about a scope."""
        found: list[Happening] = []
        for entry in entries:
            happening = self._happening(entry)
            after = happening.id
            if scope is None or happening.scope == scope:
                found.append(happening)
                if len(found) == limit:
                    break
        return found, after

    def _happening(self, entry: Reply) -> Happening:
        fields = fields_of(entry[1])
        scope = keys.scope_of(fields["scope"]) if "scope" in fields else None
        if scope is None and "session" in fields:
            scope = Scope(self._tenant, "session", fields["session"])
        return Happening(entry[0].decode(), fields, scope)


def _hour(hour: int, reply: Sequence[bytes]) -> Hour:
    models: dict[str, Used] = {}
    for field, text in fields_of(reply).items():
        name, _, measure = field.rpartition(":")
        value = _integer(text)
        if value is not None and name and measure in Used.__struct_fields__:
            setattr(models.setdefault(name, Used()), measure, value)
    return Hour(hour, models)


def _scores(reply: Sequence[bytes]) -> list[tuple[str, int]]:
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return [(name.decode(errors="replace"), int(float(score))) for name, score in pairs]


def _integer(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def _nano(text: str) -> int:
    try:
        return parse_usd(text)
    except AmountError:
        return 0

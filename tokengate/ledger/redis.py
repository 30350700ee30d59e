"""The ledger on Redis 6.2+ or Valkey: each operation is one script, run atomically by the server.

The scripts (`*.lua`, each with its KEYS, ARGV and reply in its header) are sent by their digest and in full only
where the server does not have them. Every command may be repeated: holds are named by their caller, and a repeat is
answered with the first answer. So a command of unknown outcome is simply sent again, until `retry_ms` is over.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import hiredis

from tokengate.budgets import SHARE, window_start, windows
from tokengate.domain import Limit, Period, Scope, Standing
from tokengate.ledger import (
    EXPIRED_TTL_MS,
    RECORD_TTL_MS,
    RENEW_BATCH_MAX,
    SWEEP_BATCH_MAX,
    Ask,
    Kind,
    LedgerError,
    ScopeState,
    Settled,
    Settlement,
    StoreUnavailable,
    Verdict,
    keys,
)
from tokengate.ledger.link import LinkLost, Pipe, Reply
from tokengate.money import AmountError, format_usd, parse_usd

USAGE_TTL_S: Final = 400 * 24 * 3600
"""How long the hourly roll-ups are kept: a year and a month."""

_RETRY_PAUSES_S: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
_PASSING: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "NOREPLICAS")
"""Errors by which a server says that it is not (or no longer) the one to ask: connect anew and repeat."""

_FORBIDDEN: Final = ("NOPERM", "ERR unknown command")


class Script:
    """One Lua file, with the shared words before it."""

    def __init__(self, name: str) -> None:
        folder = Path(__file__).parent
        self.name = name
        self.text = (folder / "scope.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()


class RedisLedger:
    """See `Ledger`. `now_ms` is for tests: production lets the server's clock decide."""

    def __init__(self, link: Pipe, *, owner: str, lease_ms: int, sessions_max: int, retry_ms: int) -> None:
        self._link = link
        self._owner = owner
        self._lease_ms = lease_ms
        self._sessions_max = sessions_max
        self._retry_s = retry_ms / 1000
        self._reserve, self._settle, self._renew = Script("reserve"), Script("settle"), Script("renew")
        self._sweep, self._budget, self._reset = Script("sweep"), Script("budget"), Script("reset")
        self._digests_allowed = True
        self._skew_ms = 0
        self.now_ms: int = 0

    async def reserve(self, ask: Ask) -> Verdict:
        for _ in range(2):
            names, args = self._reserve_command(ask)
            reply = await self._run(self._reserve, names, args)
            if reply[0] != b"clock":
                return _verdict(ask, reply)
            self._skew_ms = reply[2] - _clock_ms()
        raise LedgerError("the store's clock does not stand still long enough to find the budget's period")

    def _reserve_command(self, ask: Ask) -> tuple[list[str], list[str | int]]:
        tenant = ask.session.tenant
        names = [keys.hold_prefix(tenant) + ask.hold_id, keys.leases(tenant), keys.sessions(tenant)]
        args: list[str | int] = [
            self.now_ms,
            ask.hold_id,
            self._owner,
            self._lease_ms,
            ask.floor_nano,
            ask.need_nano,
            ask.want_nano,
            SHARE,
            "1" if ask.exact else "0",
            ask.session.id,
            ask.model,
            self._sessions_max,
        ]
        for limit in ask.limits:
            names.append(keys.scope(limit.scope))
            args.append(_cap_text(limit.cap_default_nano))
            args.append("" if limit.period is Period.NONE else ",".join(map(str, self._windows(limit))))
        return names, args

    async def settle(self, settlement: Settlement) -> Settled:
        reply = await self._run(self._settle, *self._settle_command(settlement))
        return Settled(reply[0], reply[1] == 1)

    async def settle_all(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        if not self._digests_allowed:
            return list(settlements)
        digest = self._settle.digest
        replies = []
        for settlement in settlements:
            names, args = self._settle_command(settlement)
            replies.append(self._link.call("EVALSHA", digest, len(names), *names, *args))
        return [settlements[index] for index, reply in enumerate(replies) if not await _answered(reply)]

    def _settle_command(self, settlement: Settlement) -> tuple[list[str], list[str | int]]:
        tenant = settlement.session.tenant
        names = [
            keys.hold_prefix(tenant) + settlement.hold_id,
            keys.leases(tenant),
            keys.usage(tenant, self._now()),
            keys.events(tenant),
        ]
        names.extend([keys.scope(limit.scope) for limit in settlement.limits])
        args: list[str | int] = [
            self.now_ms,
            settlement.hold_id,
            settlement.cost_nano,
            "1" if settlement.assumed else "0",
            settlement.ending.value,
            settlement.model,
            settlement.usage.input_tokens,
            settlement.usage.output_tokens,
            RECORD_TTL_MS,
            USAGE_TTL_S,
        ]
        return names, args

    async def renew(self, tenant: str, hold_ids: Sequence[str]) -> list[str]:
        gone: list[str] = []
        for start in range(0, len(hold_ids), RENEW_BATCH_MAX):
            batch = hold_ids[start : start + RENEW_BATCH_MAX]
            reply = await self._run(self._renew, [keys.leases(tenant)], [self.now_ms, self._lease_ms, *batch])
            gone.extend(hold_id.decode() for hold_id in reply)
        return gone

    async def sweep(self, tenant: str) -> int:
        names = [keys.leases(tenant), keys.events(tenant), keys.usage(tenant, self._now())]
        args: list[str | int] = [self.now_ms, keys.hold_prefix(tenant), SWEEP_BATCH_MAX, EXPIRED_TTL_MS, USAGE_TTL_S]
        return int(await self._run(self._sweep, names, args))

    async def state(self, limit: Limit) -> ScopeState:
        reply = await self._command("HGETALL", keys.scope(limit.scope))
        fields = dict(
            zip((name.decode() for name in reply[::2]), (value.decode() for value in reply[1::2]), strict=True)
        )
        return _state(limit, fields, self._now())

    async def set_budget(self, scope: Scope, cap_nano: int | None) -> None:
        names = [keys.scope(scope), keys.sessions(scope.tenant), keys.events(scope.tenant)]
        cap = "" if cap_nano is None else str(cap_nano)
        await self._run(self._budget, names, [self.now_ms, cap, scope.name if scope.kind == "session" else ""])

    async def reset(self, scope: Scope) -> None:
        await self._run(self._reset, [keys.scope(scope), keys.events(scope.tenant)], [self.now_ms])

    async def ping(self) -> None:
        """Say whether the store answers.

        Raises:
            StoreUnavailable: it does not.
        """
        await self._command("PING")

    async def aclose(self) -> None:
        await self._link.aclose()

    def _now(self) -> int:
        return self.now_ms or _clock_ms() + self._skew_ms

    def _windows(self, limit: Limit) -> tuple[int, ...]:
        return windows(limit, self._now())

    async def _run(self, script: Script, names: Sequence[str], args: Sequence[str | int]) -> Reply:
        if self._digests_allowed:
            command = ("EVALSHA", script.digest, len(names), *names, *args)
            try:
                reply = await self._link.call(*command)
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
                return await self._again(_understand(reply, self._link), *command)
            except LinkLost as error:
                return await self._again(str(error), *command)
            except _MissingScript:
                pass
            except _Forbidden:
                self._digests_allowed = False
        return await self._command("EVAL", script.text, len(names), *names, *args)

    async def _command(self, *command: str | bytes | int) -> Reply:
        """Send until it is answered: every command here may be repeated."""
        try:
            reply = await self._link.call(*command)
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            why = _understand(reply, self._link)
        except LinkLost as error:
            why = str(error)
        return await self._again(why, *command)

    async def _again(self, why: str, *command: str | bytes | int) -> Reply:
        until = time.monotonic() + self._retry_s
        for attempt in range(1, 1_000_000):
            pause_s = _RETRY_PAUSES_S[min(attempt, len(_RETRY_PAUSES_S)) - 1]
            if time.monotonic() + pause_s >= until:
                break
            await asyncio.sleep(pause_s)
            try:
                reply = await self._link.call(*command)
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
                why = _understand(reply, self._link)
            except LinkLost as error:
                why = str(error)
        raise StoreUnavailable(why)


async def _answered(reply: asyncio.Future[Reply]) -> bool:
    """Whether a command was carried out, as far as is known."""
    try:
        return not isinstance(await reply, hiredis.ReplyError)
    except LinkLost:
        return False


class _MissingScript(LedgerError):
    """The server does not have the script of that digest (NOSCRIPT)."""


class _Forbidden(LedgerError):
    """The server does not let us run scripts by digest (some managed ones, and some ACLs)."""


def _understand(error: hiredis.ReplyError, link: Pipe) -> str:
    """Why a command is worth repeating; raises if it is not."""
    text = str(error)
    if text.startswith("NOSCRIPT"):
        raise _MissingScript(text)
    if text.startswith(_PASSING):
        link.drop(text)
        return text
    if text.startswith(_FORBIDDEN):
        raise _Forbidden(text)
    # OOM, MISCONF, WRONGTYPE, an error in a script: repeating it would change nothing.
    raise StoreUnavailable(text)


@lru_cache(maxsize=64)
def _cap_text(cap_nano: int) -> str:
    return format_usd(cap_nano, 9)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _verdict(ask: Ask, reply: Reply) -> Verdict:
    verdict, grant, now, index, cap, spent, held, resets_at, until, detail = reply
    standing = Standing(ask.limits[index - 1].scope, cap, spent, held, resets_at or None)
    if verdict == b"held":
        return Verdict(Kind.HELD, grant, now, standing)
    kind = Kind(verdict.decode())
    return Verdict(
        kind,
        grant,
        now,
        standing,
        frozen_reason=detail.decode(errors="replace") if kind is Kind.FROZEN else None,
        frozen_until_ms=until or None,
        invalid=detail.decode(errors="replace") if kind is Kind.INVALID else None,
    )


def _state(limit: Limit, fields: dict[str, str], now_ms: int) -> ScopeState:
    budget, default = fields.get("budget"), format_usd(limit.cap_default_nano, 9)
    follows = budget is None or budget == fields.get("budget_default")
    spent, held = _nano(fields, "spent"), _nano(fields, "held")
    epoch, resets_at = int(fields.get("epoch", 0)), None
    window = window_start(windows(limit, now_ms), now_ms)
    if window is not None:
        resets_at = window[1]
        if window[0] > int(fields.get("period_start_ms", window[0])):
            # The period has ended, and no call has come since to roll it in the store.
            spent, held, epoch = 0, 0, epoch + 1
    until = int(fields["frozen_until_ms"]) if fields.get("frozen_until_ms") else None
    return ScopeState(
        scope=limit.scope,
        known=bool(fields),
        cap_nano=_amount(default if follows or budget is None else budget),
        cap_is_default=follows,
        spent_nano=spent,
        held_nano=held,
        epoch=epoch,
        resets_at_ms=resets_at,
        assumed_nano=_nano(fields, "assumed"),
        overrun_nano=_nano(fields, "overrun"),
        total_nano=int(fields.get("total_nano", 0)),
        requests=int(fields.get("requests", 0)),
        blocked=int(fields.get("blocked", 0)),
        created_ms=int(fields["created_ms"]) if "created_ms" in fields else None,
        last_active_ms=int(fields["last_active_ms"]) if "last_active_ms" in fields else None,
        frozen=fields.get("frozen") == "1" and (until is None or now_ms < until),
        frozen_reason=fields.get("frozen_reason"),
        frozen_until_ms=until,
    )


def _nano(fields: dict[str, str], name: str) -> int:
    return _amount(fields.get(name, "0"))


def _amount(text: str) -> int:
    try:
        return parse_usd(text)
    except AmountError as error:
        raise LedgerError(f"the store holds an amount that is none: {error}") from None

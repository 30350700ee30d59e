"""The ledger on Redis 6.2+ or Valkey: each operation is one script, run atomically by the server.

The scripts (`*.lua`, each with its KEYS, ARGV and reply in its header) are sent by their digest and in full only
where the server does not have them. Every command may be repeated: holds are named by their caller, and a repeat is
answered with the first answer. So a command of unknown outcome is simply sent again, until `retry_ms` is over.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

import hiredis
from msgspec import Struct

from tokengate.anomaly import NO_RULES, Rule, Rules, packed
from tokengate.anomaly.constants import constants
from tokengate.budgets import SHARE, windows
from tokengate.domain import Ending, Limit, Mode, Period, Scope, Session, Standing
from tokengate.ledger import (
    BY_CHARS_MAX,
    EXPIRED_TTL_MS,
    REASON_CHARS_MAX,
    RECORD_TTL_MS,
    RENEW_BATCH_MAX,
    SWEEP_BATCH_MAX,
    Ask,
    Kind,
    LedgerError,
    Replayed,
    ScopeState,
    Settled,
    Settlement,
    StoreUnavailable,
    Then,
    Verdict,
    Watch,
    keys,
)
from tokengate.ledger.link import LinkLost, Pipe, Reply
from tokengate.ledger.resp import Part, Parts, bulk, command, parts
from tokengate.ledger.state import fields_of, read
from tokengate.money import format_usd

ASKED_MAX: Final = 500
"""How many commands that only read are sent together: what is on its way must not keep a reservation waiting."""

LISTING: Final = ("lists",)
"""The words of a script that moves a scope in the lists by spending."""

CHARGING: Final = ("lists", "post")
"""The words of a script that charges."""

FREEZING: Final = ("freezing",)
"""The words of a script that freezes."""

JUDGING: Final = ("freezing", "suspect", "judge")
"""The words of a reservation where rules look for runaways."""

FAULT_TOLD_S: Final = 60.0
"""How often at most it is logged that the rules failed: every call of a session may hit the same fault."""

PATHS_CACHED: Final = 4096
"""Sessions whose commands are kept half packed."""

_HOUR_MS: Final = 3_600_000
_HELD: Final = Kind.HELD
_NO_PERIOD: Final = Period.NONE
_NO_BOUNDARIES: Final = ("",)
_RETRY_PAUSES_S: Final = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
_PASSING: Final = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "NOREPLICAS")
"""Errors by which a server says that it is not (or no longer) the one to ask: connect anew and repeat."""

_CONSTANT: Final = re.compile(rb"\b[A-Z][A-Z0-9_]+\b")
_FORBIDDEN: Final = ("NOPERM", "ERR unknown command")


class Script:
    """One Lua file, with the shared words before it, and another file as a function of its name where it needs one.

    `words` are further files of shared words: what a script does not need it does not make, with every call.
    """

    def __init__(
        self,
        name: str,
        function: str = "",
        *,
        words: Sequence[str] = (),
        thresholds: Sequence[int] = (),
        constants: Mapping[str, int | str] = MappingProxyType({}),
    ) -> None:
        folder = Path(__file__).parent
        self.name = name
        # A constant of the text, not an argument: no call pays for it.
        self.text = b"local THRESHOLDS = {%b}\n" % ",".join(map(str, thresholds)).encode()
        self.text += b"".join((folder / f"{each}.lua").read_bytes() for each in ("scope", *words))
        if function:
            self.text += b"local function %b()\n%bend\n" % (
                function.encode(),
                (folder / f"{function}.lua").read_bytes(),
            )
        self.text += (folder / f"{name}.lua").read_bytes()
        if constants:
            self.text = _CONSTANT.sub(lambda found: _written(found[0], constants), self.text)
        digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        self._by_digest, self._in_full = bulk("EVALSHA", digest), bulk("EVAL", self.text)
        self._heads: dict[int, bytes] = {}

    def by_digest(self, given: Parts) -> bytes:
        """The command that runs it where the server has it."""
        head = self._heads.get(given.count)
        if head is None:
            head = self._heads[given.count] = b"*%d\r\n%b" % (given.count + 2, self._by_digest)
        return head + given.packed

    def in_full(self, given: Parts) -> bytes:
        """The command that runs it anywhere, and leaves it there."""
        return b"*%d\r\n%b%b" % (given.count + 2, self._in_full, given.packed)


def _written(name: bytes, constants: Mapping[str, int | str]) -> bytes:
    """A constant as its value, if it is one of those that are given."""
    value = constants.get(name.decode())
    if value is None:
        return name
    return b"'%b'" % value.encode() if isinstance(value, str) else b"%d" % value


class RedisLedger:
    """See `Ledger` and `Tallies`. `now_ms` is for tests: production lets the server's clock decide.

    `thresholds` are the percentages of a budget that are told of, ascending: an event each, once an epoch.
    """

    def __init__(
        self,
        link: Pipe,
        *,
        owner: str,
        lease_ms: int,
        sessions_max: int,
        retry_ms: int,
        watch: Watch | None = None,
        thresholds: tuple[int, ...] = (),
        rules: Rules = NO_RULES,
    ) -> None:
        self._link = link
        self._watch = watch
        self._owner = owner
        self._lease_ms = lease_ms
        self._sessions_max = sessions_max
        self._retry_s = retry_ms / 1000
        script = partial(Script, thresholds=thresholds)
        self._judging = rules.on
        words = JUDGING if rules.on else ()
        self._reserve, self._renew = script("reserve", words=words, constants=constants(rules)), script("renew")
        self._settle, self._sweep = script("settle", words=CHARGING), script("sweep", words=CHARGING)
        self._journal = script("journal", "settle", words=CHARGING)
        self._freeze, self._budget = script("freeze", words=FREEZING), script("budget", words=LISTING)
        self._reset, self._delete = script("reset", words=LISTING), script("delete", words=LISTING)
        self._tally = script("tally")
        self._digests_allowed = True
        self._skew_ms = 0
        self._fault_told_s = -FAULT_TOLD_S
        self._path = lru_cache(maxsize=PATHS_CACHED)(self._make_path)
        self.now_ms: int = 0

    async def reserve(self, ask: Ask) -> Verdict:
        for _ in range(2):
            reply = await self._run(self._reserve, self._reserve_parts(ask))
            if reply[0] == b"held":
                if reply[9]:
                    self._unjudged(ask, reply[9])
                return _verdict(ask, reply)
            if reply[0] != b"clock":
                return _verdict(ask, reply)
            self._skew_ms = reply[2] - _clock_ms()
        raise LedgerError("the store's clock does not stand still long enough to find the budget's period")

    def _unjudged(self, ask: Ask, fault: bytes) -> None:
        """The rules failed over a call that is held all the same: whoever relies on them has to hear of it."""
        if self._watch is not None:
            self._watch.unjudged()
        now_s = time.monotonic()
        if now_s - self._fault_told_s >= FAULT_TOLD_S:
            self._fault_told_s = now_s
            import structlog  # noqa: PLC0415 - a command, which uses this ledger too, does not wait for it to be loaded

            structlog.get_logger().error(
                "the rules for runaways failed; budgets alone admit calls that hit this",
                session_id=ask.session.id,
                request_id=ask.hold_id,
                error=fault.decode(errors="replace"),
            )

    def _reserve_parts(self, ask: Ask) -> Parts:
        limits = ask.limits
        path = self._path(limits, self._boundaries(limits), ask.session.id, ask.exact, ask.model, self.now_ms)
        given = path.of(ask.hold_id, f"{ask.floor_nano} {ask.need_nano} {ask.want_nano}")
        if not self._judging:
            return given
        return Parts(given.count + 1, given.packed + bulk(b"" if ask.mark is None else packed(ask.mark)))

    def _make_path(
        self,
        limits: tuple[Limit, ...],
        boundaries: tuple[str, ...],
        session_id: str,
        exact: bool,
        model: str,
        now_ms: int,
    ) -> "_Path":
        tenant = limits[0].scope.tenant
        names = [keys.leases(tenant), keys.sessions(tenant)]
        if self._judging:
            names.append(keys.recent(tenant, session_id))
        names += [keys.scope(limit.scope) for limit in limits]
        arguments: list[str | int] = [now_ms, "1" if exact else "0", model, self._owner, self._lease_ms, SHARE]
        arguments += [session_id, self._sessions_max, _rates(limits)]
        for limit, text in zip(limits, boundaries, strict=True):
            arguments += [format_usd(limit.cap_default_nano, 9), text]
        return _path(tenant, names, arguments)

    def _boundaries(self, limits: tuple[Limit, ...]) -> tuple[str, ...]:
        if len(limits) == 1 and limits[0].period is _NO_PERIOD:
            return _NO_BOUNDARIES
        now_ms = self._now()
        return tuple(",".join(map(str, windows(limit, now_ms))) for limit in limits)

    async def settle(self, settlement: Settlement) -> Settled:
        reply = await self._run(self._settle, self._settle_parts(settlement))
        return Settled(reply[0], reply[1] == 1)

    def settle_soon(self, settlement: Settlement, then: Then) -> None:
        if not self._digests_allowed:
            then(settlement, False)
            return
        sent = self._settle.by_digest(self._settle_parts(settlement))
        self._link.tell(sent, _Told(settlement, then) if self._watch is None else _Timed(settlement, then, self._watch))

    def _settle_parts(self, settlement: Settlement) -> Parts:
        usage = settlement.usage
        path = _settle_path(
            settlement.limits,
            self._now() // _HOUR_MS,
            settlement.assumed,
            settlement.ending,
            settlement.model,
            settlement.session,
            self.now_ms,
        )
        return path.of(settlement.hold_id, f"{settlement.cost_nano} {usage.input_tokens} {usage.output_tokens}")

    async def resume(self, tenant: str, journal: str) -> int:
        """Say that a journal is to be posted; gives the number of its last line that has been, 0 for none."""
        name = keys.journals(tenant)
        await self._command(command("HSETNX", name, journal, 0))
        return int(await self._command(command("HGET", name, journal)) or 0)

    async def replay(self, settlement: Settlement, journal: str, line: int, *, known: bool) -> Replayed:
        """Post a line of a journal: once, whenever it is said. `known`: only if the store still knows the hold."""
        tenant, usage = settlement.limits[0].scope.tenant, settlement.usage
        names = _settled(tenant, self._now() // _HOUR_MS)
        names += [keys.scope(limit.scope) for limit in settlement.limits]
        names += [keys.hold_prefix(tenant) + settlement.hold_id, keys.journals(tenant)]
        given: list[Part] = [f"{settlement.cost_nano} {usage.input_tokens} {usage.output_tokens}", self.now_ms]
        given += ["1" if settlement.assumed else "0", settlement.ending, settlement.model, RECORD_TTL_MS]
        given += [settlement.session.agent, journal, line, "1" if known else "0"]
        reply = await self._run(self._journal, parts(len(names), *names, *given))
        return Replayed(reply[1])

    async def forget(self, tenant: str, journal: str) -> None:
        """A journal that is no more needs no number."""
        await self._command(command("HDEL", keys.journals(tenant), journal))

    async def renew(self, tenant: str, hold_ids: Sequence[str]) -> list[str]:
        gone: list[str] = []
        for start in range(0, len(hold_ids), RENEW_BATCH_MAX):
            batch = hold_ids[start : start + RENEW_BATCH_MAX]
            given = parts(1, keys.leases(tenant), self.now_ms, self._lease_ms, *batch)
            gone.extend(hold_id.decode() for hold_id in await self._run(self._renew, given))
        return gone

    async def sweep(self, tenant: str) -> int:
        names = _settled(tenant, self._now() // _HOUR_MS)
        given = (self.now_ms, keys.hold_prefix(tenant), SWEEP_BATCH_MAX, EXPIRED_TTL_MS)
        return int(await self._run(self._sweep, parts(len(names), *names, *given)))

    async def state(self, limit: Limit) -> ScopeState:
        reply = await self._command(command("HGETALL", keys.scope(limit.scope)))
        reading = read(limit, fields_of(reply), self._now())
        if reading.fault:
            raise LedgerError(f"the store holds an amount of the {limit.scope} that is none: {reading.fault}")
        return reading.state

    async def ask(self, commands: Sequence[bytes]) -> list[Reply]:
        """Send commands that only read, together; gives their replies.

        Raises:
            LedgerError: one of them is not answered, or is refused.
        """
        replies: list[Reply] = []
        for start in range(0, len(commands), ASKED_MAX):
            batch = commands[start : start + ASKED_MAX]
            heard = await asyncio.gather(*map(self._link.call, batch), return_exceptions=True)
            for sent, reply in zip(batch, heard, strict=True):
                replies.append(await self._understood(sent, reply))
        return replies

    async def _understood(self, sent: bytes, reply: Reply) -> Reply:
        if isinstance(reply, LinkLost):
            return await self._again(str(reply), sent)
        if isinstance(reply, hiredis.ReplyError):
            return await self._again(_understand(reply, self._link), sent)
        return reply

    async def set_budget(self, scope: Scope, cap_nano: int | None, *, by: str = "") -> None:
        cap = "" if cap_nano is None else str(cap_nano)
        await self._run(self._budget, parts(2, *self._changed(scope), cap, by[:BY_CHARS_MAX]))

    async def reset(self, scope: Scope, *, by: str = "") -> None:
        await self._run(self._reset, parts(2, *self._changed(scope), by[:BY_CHARS_MAX]))

    async def freeze(self, scope: Scope, *, reason: str, for_ms: int | None, by: str) -> bool:
        return await self._set_frozen(scope, "1", "" if for_ms is None else for_ms, reason[:REASON_CHARS_MAX], by)

    async def unfreeze(self, scope: Scope, *, by: str) -> bool:
        return await self._set_frozen(scope, "0", "", "", by)

    async def _set_frozen(self, scope: Scope, frozen: str, for_ms: int | str, reason: str, by: str) -> bool:
        given = parts(2, *self._changed(scope), frozen, for_ms, reason, by[:BY_CHARS_MAX])
        return bool(await self._run(self._freeze, given))

    async def delete(self, scope: Scope, *, by: str = "") -> bool:
        given = parts(2, *self._changed(scope), by[:BY_CHARS_MAX], EXPIRED_TTL_MS)
        return await self._run(self._delete, given) is not None

    def _changed(self, scope: Scope) -> tuple[str, str, int]:
        """What every change by a person begins with: the scope, the events, the clock."""
        return keys.scope(scope), keys.events(scope.tenant), self.now_ms

    async def tally(self, tenant: str, sums: Mapping[str, int]) -> None:
        given: list[Part] = [part for pair in sums.items() for part in pair]
        await self._run(self._tally, parts(1, keys.stats(tenant, self._now() // _HOUR_MS), *given))

    async def tallies(self, tenant: str, hours: Sequence[int]) -> list[dict[str, int]]:
        # Gathered, so that they leave in one write.
        replies = await asyncio.gather(*(self._command(command("HGETALL", keys.stats(tenant, hour))) for hour in hours))
        return [_sums(reply) for reply in replies]

    async def ping(self) -> None:
        """Say whether the store answers.

        Raises:
            StoreUnavailable: it does not.
        """
        await self._command(command("PING"))

    async def aclose(self) -> None:
        await self._link.aclose()

    def _now(self) -> int:
        return self.now_ms or _clock_ms() + self._skew_ms

    async def run(self, script: Script, given: Parts) -> Reply:
        """Run a script that lives beside the ledger's own, with the same patience.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return await self._run(script, given)

    async def _run(self, script: Script, given: Parts) -> Reply:
        began_ns = time.perf_counter_ns()
        try:
            if self._digests_allowed:
                sent = script.by_digest(given)
                try:
                    reply = await self._link.call(sent)
                except LinkLost as error:
                    reply = error
                if isinstance(reply, (hiredis.ReplyError, LinkLost)):
                    reply = await self._recover(script, given, sent, reply)
            else:
                reply = await self._command(script.in_full(given))
        except StoreUnavailable:
            if self._watch is not None:
                self._watch.unanswered(script.name)
            raise
        if self._watch is not None:
            self._watch.answered(script.name, (time.perf_counter_ns() - began_ns) // 1000)
        return reply

    async def _recover(self, script: Script, given: Parts, sent: bytes, fault: hiredis.ReplyError | LinkLost) -> Reply:
        """Send it again; in full, if the server does not have the script or may not be asked by digest."""
        try:
            # The server that is back after a lost connection may have forgotten the script, too.
            why = str(fault) if isinstance(fault, LinkLost) else _understand(fault, self._link)
            return await self._again(why, sent)
        except _MissingScript:
            pass
        except _Forbidden:
            self._digests_allowed = False
        return await self._command(script.in_full(given))

    async def _command(self, sent: bytes) -> Reply:
        """Send until it is answered: every command here may be repeated."""
        try:
            reply = await self._link.call(sent)
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            why = _understand(reply, self._link)
        except LinkLost as error:
            why = str(error)
        return await self._again(why, sent)

    async def _again(self, why: str, sent: bytes) -> Reply:
        until = time.monotonic() + self._retry_s
        attempt = 0
        while True:
            pause_s = _RETRY_PAUSES_S[min(attempt, len(_RETRY_PAUSES_S) - 1)]
            if time.monotonic() + pause_s >= until:
                raise StoreUnavailable(why)
            await asyncio.sleep(pause_s)
            attempt += 1
            try:
                reply = await self._link.call(sent)
                if not isinstance(reply, hiredis.ReplyError):
                    return reply
                why = _understand(reply, self._link)
            except LinkLost as error:
                why = str(error)


class _Path(Struct, frozen=True, gc=False):
    """What is the same in all reservations (or settlements) of a session: all but the hold and its amounts."""

    count: int
    """Of all arguments."""
    keys: bytes
    """How many keys there are, and all of them but the last, the hold's."""
    hold_prefix: str
    arguments: bytes
    """All but the first."""

    def of(self, hold_id: str, amounts: str) -> Parts:
        """The arguments of one."""
        return Parts(self.count, self.keys + bulk(self.hold_prefix + hold_id, amounts) + self.arguments)


def _path(tenant: str, names: list[str], arguments: Sequence[str | int]) -> _Path:
    count = 1 + len(names) + 2 + len(arguments)
    return _Path(count, bulk(len(names) + 1, *names), keys.hold_prefix(tenant), bulk(*arguments))


@lru_cache(maxsize=PATHS_CACHED)
def _settle_path(
    limits: tuple[Limit, ...], hour: int, assumed: bool, ending: Ending, model: str, session: Session, now_ms: int
) -> _Path:
    tenant = limits[0].scope.tenant
    names = [*_settled(tenant, hour), *(keys.scope(limit.scope) for limit in limits)]
    given = (now_ms, "1" if assumed else "0", ending, model, RECORD_TTL_MS, session.agent)
    return _path(tenant, names, given)


def _settled(tenant: str, hour: int) -> list[str]:
    """What is written beside the scopes whenever something is charged."""
    by_agent = keys.usage_by_agent(tenant, hour // 24)
    return [keys.leases(tenant), keys.events(tenant), keys.usage(tenant, hour), by_agent]


class _Told:
    """Waits for the reply to a settlement in the place of a future: without a task, a wake-up or a turn of the loop."""

    __slots__ = ("_settlement", "_then")

    def __init__(self, settlement: Settlement, then: Then) -> None:
        self._settlement = settlement
        self._then = then

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        self._then(self._settlement, not isinstance(reply, hiredis.ReplyError))

    def set_exception(self, _: BaseException) -> None:
        self._then(self._settlement, False)


class _Timed(_Told):
    """The same, with a watch on how long it takes."""

    __slots__ = ("_began_ns", "_watch")

    def __init__(self, settlement: Settlement, then: Then, watch: Watch) -> None:
        self._settlement, self._then, self._watch = settlement, then, watch
        self._began_ns = time.perf_counter_ns()

    def set_result(self, reply: Reply) -> None:
        known = not isinstance(reply, hiredis.ReplyError)
        if known:
            # Else it comes again, by another way, and is watched there.
            self._watch.answered("settle", (time.perf_counter_ns() - self._began_ns) // 1000)
        self._then(self._settlement, known)

    def set_exception(self, error: BaseException) -> None:
        self._watch.unanswered("settle")
        super().set_exception(error)


def _rates(limits: tuple[Limit, ...]) -> str:
    """What the script is told of the rates on a path; nothing if there are none."""
    if all(limit.rate is None or limit.rate.mode is Mode.OFF for limit in limits):
        return ""
    return " ".join(
        "-" if rate is None or rate.mode is Mode.OFF else f"{rate.interval_us}:{rate.tolerance_us}:{rate.mode}"
        for rate in (limit.rate for limit in limits)
    )


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
    if "WRONGTYPE" in text:
        # One key has been made something else by somebody: the store itself is well.
        raise LedgerError(text)
    # OOM, MISCONF, an error in a script: repeating it at once would change nothing.
    raise StoreUnavailable(text)


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _verdict(ask: Ask, reply: Reply) -> Verdict:
    verdict, grant, now, index, cap, spent, held, resets_at, until, detail, rule = reply
    standing = Standing(ask.limits[index - 1].scope, cap, spent, held, resets_at or None)
    if verdict == b"held":
        return Verdict(_HELD, grant, now, standing, rule=_rule(rule) if rule else None)
    kind = Kind(verdict.decode())
    return Verdict(
        kind,
        grant,
        now,
        standing,
        frozen_reason=detail.decode(errors="replace") if kind is Kind.FROZEN else None,
        frozen_until_ms=(until or None) if kind is Kind.FROZEN else None,
        invalid=detail.decode(errors="replace") if kind is Kind.INVALID else None,
        rule=_rule(rule),
        retry_after_ms=until if kind is Kind.LIMITED else 0,
    )


def _rule(name: bytes) -> Rule | None:
    """A rule by its name; a person may have written another word where the one that froze a session stands."""
    try:
        return Rule(name.decode(errors="replace"))
    except ValueError:
        return None


def _sums(reply: Reply) -> dict[str, int]:
    """The numbers of a hash; what a person may have put there that is none is passed over."""
    pairs = zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(errors="replace"): int(value) for name, value in pairs if value.lstrip(b"-").isdigit()}

"""Lists of sessions and agents, from the indexes that the scripts keep: never KEYS, never SCAN.

An index is a sorted set, so a page of it takes as long anywhere among a million as among ten. Where a condition is
met by few, those are fetched and sorted here; where by many, the index that has the order is walked and each name is
looked at, up to a bound a page. Positions count along what is walked, so that the next page goes on where this one
stopped.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import Struct

from tokengate.domain import Limit
from tokengate.ledger import keys
from tokengate.ledger.books import LOOKED_AT_MAX, SORTED_MAX, Find, Found, Order
from tokengate.ledger.link import Reply
from tokengate.ledger.resp import Part, command
from tokengate.ledger.state import Reading, fields_of, read

ALIKE_MAX: Final = 3
ALIKE_MIN: Final = 0.7
"""How much alike two names are at the least, as difflib measures it."""

ALIKE_LOOKED_AT_MAX: Final = 500
"""How many names are compared from each of three places where a like one might stand."""

_CHUNK: Final = 1000
_NEARLY: Final = 0.05

Ask = Callable[[Sequence[bytes]], Awaitable[list[Reply]]]
"""Sends commands together, and gives their replies."""


class _Segment(Struct, frozen=True):
    """A part of an index: ranks from `low` on, short of `high`, in one direction."""

    key: str
    low: int
    high: int
    descending: bool
    without: str = ""
    """Leaving out what is in this other index."""
    meets: str = ""
    """The condition that all of it meets: `frozen`, `over`, or none."""

    def __len__(self) -> int:
        return self.high - self.low

    def range(self, start: int, count: int) -> bytes:
        """The command for some of it; positions count from where it begins in its direction."""
        if self.descending:
            total_end = self.high - start
            return command("ZRANGE", self.key, max(self.low, total_end - count), total_end - 1)
        return command("ZRANGE", self.key, self.low + start, min(self.high, self.low + start + count) - 1)


class RedisLists:
    """See `Lists`."""

    def __init__(self, ask: Ask, tenant: str) -> None:
        self._ask = ask
        self._tenant = tenant

    async def now_ms(self) -> int:
        [(seconds, micros)] = await self._ask([command("TIME")])
        return int(seconds) * 1000 + int(micros) // 1000

    async def read(self, limits: Sequence[Limit], names: Sequence[bytes] = ()) -> list[Reading]:
        wanted: Sequence[bytes] = names or [limit.scope.name.encode() for limit in limits]
        commands = [command("TIME")]
        for limit, name in zip(limits, wanted, strict=True):
            prefix = keys.scope_prefix(self._tenant, limit.scope.kind)
            commands.append(command("HGETALL", prefix.encode() + name))
        (seconds, micros), *replies = await self._ask(commands)
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        return [read(limit, fields_of(reply), now_ms) for limit, reply in zip(limits, replies, strict=True)]

    async def find(self, find: Find) -> Found:
        [of] = await self._ask([command("ZCARD", self._index(find, Order.ACTIVITY))])
        narrow = await self._narrowest(find)
        if narrow is None and not find.text and (find.order in (Order.ACTIVITY, Order.NAMES) or of > SORTED_MAX):
            return await self._walk(find, await self._segments(find, of), of, of)
        if narrow is None and of <= SORTED_MAX:
            narrow = _Segment(self._index(find, Order.ACTIVITY), 0, of, descending=True)
        if narrow is not None and len(narrow) <= SORTED_MAX:
            return await self._sorted(find, narrow, of)
        if narrow is not None and narrow.key == self._index(find, find.order):
            only = [bool(find.text), find.frozen, bool(find.over_percent)].count(True) == 1
            return await self._walk(find, [narrow], of, len(narrow) if only else None)
        return await self._walk(find, await self._segments(find, of), of, None)

    async def count_frozen(self, kind: str, now_ms: int) -> int:
        [count] = await self._ask([command("ZCOUNT", keys.index(self._tenant, kind, "frozen"), f"({now_ms}", "+inf")])
        return int(count)

    async def count_over(self, kind: str, percents: Sequence[int], period_start_ms: int) -> list[int]:
        key = keys.index(self._tenant, kind, Order.SHARE, period_start_ms)
        counts = await self._ask([command("ZCOUNT", key, percent, "+inf") for percent in percents])
        return [int(count) for count in counts]

    async def alike(self, kind: str, name: str) -> list[str]:
        import difflib  # noqa: PLC0415 - seldom needed

        names, given = keys.index(self._tenant, kind, Order.NAMES), name.encode(errors="replace")
        commands = [command("ZREVRANGE", keys.index(self._tenant, kind), 0, ALIKE_LOOKED_AT_MAX - 1)]
        for beginning in dict.fromkeys((given[:3], given[:1])):
            bounds: tuple[Part, ...] = (b"[" + beginning, b"[" + beginning + b"\xff")
            commands.append(command("ZRANGEBYLEX", names, *bounds, "LIMIT", 0, ALIKE_LOOKED_AT_MAX))
        replies = await self._ask(commands)
        found = {each.decode(errors="replace") for reply in replies for each in reply} - {name}
        by_folded = {each.casefold(): each for each in sorted(found)}
        close = difflib.get_close_matches(name.casefold(), by_folded, n=ALIKE_MAX, cutoff=ALIKE_MIN)
        alike = [difflib.SequenceMatcher(None, each, name.casefold()).ratio() for each in close]
        # The likeliest, and others only if they are nearly as likely: `job-1` is not what `jbo-2` should be.
        return [by_folded[each] for each, ratio in zip(close, alike, strict=True) if ratio >= alike[0] - _NEARLY]

    # --- the parts of a search ---

    def _index(self, find: Find, order: Order | str) -> str:
        period = find.period_start_ms if order in (Order.SPENT, Order.SHARE) else 0
        return keys.index(self._tenant, find.kind, order, period)

    async def _narrowest(self, find: Find) -> _Segment | None:
        """The part of an index that a condition leaves, of the conditions that one knows of: the shortest."""
        kept: list[tuple[str, str]] = []
        commands = []
        if find.frozen:
            key = self._index(find, "frozen")
            kept.append((key, "frozen"))
            commands += [command("ZCARD", key), command("ZCOUNT", key, f"({find.now_ms}", "+inf")]
        if find.over_percent:
            key = self._index(find, Order.SHARE)
            kept.append((key, "over"))
            commands += [command("ZCARD", key), command("ZCOUNT", key, find.over_percent, "+inf")]
        if find.text.endswith("*"):
            key, beginning = self._index(find, Order.NAMES), find.text[:-1].encode()
            kept.append((key, ""))
            # What begins with it stands together; no name has a byte above 0xfe.
            commands += [
                command("ZLEXCOUNT", key, "-", b"(" + beginning + b"\xff"),
                command("ZLEXCOUNT", key, b"[" + beginning, b"(" + beginning + b"\xff"),
            ]
        if not commands:
            return None
        replies = await self._ask(commands)
        # In each index they end where the first count says, and are as many as the second.
        return min(
            (
                _Segment(key, end - count, end, find.descending, meets=condition)
                for (key, condition), end, count in zip(kept, replies[::2], replies[1::2], strict=True)
            ),
            key=len,
        )

    async def _segments(self, find: Find, of: int) -> list[_Segment]:
        """All names in the order that is asked for: those that an index of spending has not heard of come last."""
        key = self._index(find, find.order)
        if find.order in (Order.ACTIVITY, Order.NAMES):
            return [_Segment(key, 0, of, find.descending)]
        [listed] = await self._ask([command("ZCARD", key)])
        segments = [_Segment(key, 0, listed, find.descending)]
        if listed < of and not find.over_percent:
            others = self._index(find, Order.ACTIVITY)
            segments.append(_Segment(others, 0, of, descending=True, without=key if listed else ""))
        return segments

    async def _sorted(self, find: Find, narrow: _Segment, of: int) -> Found:
        """Few enough to fetch them all: exactly sorted, exactly counted."""
        [names] = await self._ask([narrow.range(0, len(narrow))])
        kept = await self._meet(find, narrow, names)
        if find.order is Order.NAMES:
            kept.sort(reverse=find.descending)
        elif kept:
            [scores] = await self._ask([command("ZMSCORE", self._index(find, find.order), *kept)])
            nothing = -math.inf if find.descending else math.inf
            ranks = {name: nothing if score is None else float(score) for name, score in zip(kept, scores, strict=True)}
            kept.sort(key=lambda name: (ranks[name], name), reverse=find.descending)
        page = kept[find.offset : find.offset + find.limit]
        end = find.offset + find.limit
        return Found(page, len(kept), of, end if end < len(kept) else None, len(names))

    async def _walk(self, find: Find, segments: list[_Segment], of: int, total: int | None) -> Found:
        """Along an index (and perhaps another after it), looking at each name if there is a condition."""
        kept: list[bytes] = []
        position, passed, looked_at = find.offset, 0, 0
        for segment in segments:
            whole = not segment.without and total is not None
            while passed <= position < passed + len(segment) and len(kept) < find.limit:
                if looked_at >= LOOKED_AT_MAX:
                    return Found(kept, total, of, position, looked_at)
                count = find.limit - len(kept) if whole else _CHUNK
                [names] = await self._ask([segment.range(position - passed, count)])
                if segment.descending:
                    names.reverse()
                met = names if whole else await self._meet(find, segment, names)
                last = met[min(len(met), find.limit - len(kept)) - 1] if met else None
                full = len(kept) + len(met) >= find.limit
                kept += met[: find.limit - len(kept)]
                looked = names.index(last) + 1 if full and last is not None else len(names)
                looked_at += looked
                position += looked
                if not names:
                    # It has become shorter meanwhile.
                    position = passed + len(segment)
            passed += len(segment)
        return Found(kept, total, of, position if position < passed else None, looked_at)

    async def _meet(self, find: Find, segment: _Segment, names: list[bytes]) -> list[bytes]:
        """Those names that meet every condition, but for the one that the segment stands for."""
        if not names:
            return []
        commands: list[bytes] = []
        conditions: list[Callable[[Reply], bool]] = []
        frozen, share = self._index(find, "frozen"), self._index(find, Order.SHARE)
        if find.frozen and segment.meets != "frozen":
            commands.append(command("ZMSCORE", frozen, *names))
            conditions.append(lambda score: score is not None and float(score) > find.now_ms)
        if find.over_percent and segment.meets != "over":
            commands.append(command("ZMSCORE", share, *names))
            conditions.append(lambda score: score is not None and float(score) >= find.over_percent)
        if segment.without:
            commands.append(command("ZMSCORE", segment.without, *names))
            conditions.append(lambda score: score is None)
        kept = [_contains(find.text, name) for name in names]
        for condition, scores in zip(conditions, await self._ask(commands) if commands else [], strict=True):
            kept = [before and condition(score) for before, score in zip(kept, scores, strict=True)]
        return [name for name, keep in zip(names, kept, strict=True) if keep]


def _contains(text: str, name: bytes) -> bool:
    if not text:
        return True
    if text.endswith("*"):
        return name.startswith(text[:-1].encode())
    return text.casefold() in name.decode(errors="replace").casefold()

"""The events that the scripts write down, read in order by one gate at a time.

The stream `events` is there for people anyway. Whoever wants to tell of what happens asks for what has not been told
yet: the store gives it to whoever has the lease of that reader, or gives the lease to whoever asks when it has run out
(docs/adr/0020). So an event is told once, or, if its teller dies between telling and noting it, twice; never in the
wrong order.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from tokengate.ledger import keys
from tokengate.ledger.link import Reply
from tokengate.ledger.redis import Script
from tokengate.ledger.resp import Part, Parts, parts

LEASE_MS: Final = 30_000
"""How long a reader is held without being renewed: longer than telling one event may take."""

ENDED: Final = "ended"
"""A kind of event that nobody writes: a freeze has ended by itself. Its fields are `scope` and `until`."""

BATCH_MAX: Final = 100
"""How many events are read at a time; most of them concern nobody."""

QUIET_MS: Final = 60_000
"""Within this time it is told once, by one gate, that the store is back."""


class Event(Struct, frozen=True):
    """One entry of the stream."""

    id: str
    at_ms: int
    kind: str
    fields: dict[str, str]


class Taken(Struct, frozen=True):
    """The answer to `take`."""

    mine: bool
    """Whether the lease is ours; if not, there are no events."""
    may_tell_back: bool
    """Whether it is for us to tell that the store is back."""
    events: list[Event]


Ends = Sequence[tuple[str, int | None]]
"""Keys of scopes, and when their freezes end (ms); None: that is over."""


class Feed(Protocol):
    """What a teller needs."""

    async def take(self, told: str, *, back: bool = False, ends: Ends = ()) -> Taken:
        """Note how far it was told, keep or get the lease, and read on. `back`: the store had been lost.

        A freeze of which the end is noted in `ends` comes as an event of the kind `ENDED` when it has ended, and
        whenever asked until that is noted too.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        ...

    async def release(self, told: str) -> None:
        """Note how far it was told, and let the lease go."""
        ...


class EventFeed:
    """The events of a tenant, for one purpose."""

    def __init__(
        self,
        run: Callable[[Script, Parts], Awaitable[Reply]],
        *,
        tenant: str,
        reader: str,
        owner: str,
        lease_ms: int = LEASE_MS,
    ) -> None:
        """Nothing is read yet.

        Args:
            run: sends a script to the store: `RedisLedger.run`.
            tenant: whose events.
            reader: the purpose; gates with the same one share the reading.
            owner: who we are; no two processes are the same.
            lease_ms: see `LEASE_MS`.
        """
        self._run = run
        self._keys = (keys.events(tenant), keys.reader(tenant, reader), keys.reader_ends(tenant, reader))
        self._owner = owner
        self._lease_ms = lease_ms
        self._script = Script("take")
        self.now_ms = 0
        """For tests: production lets the server's clock decide."""

    async def take(self, told: str, *, back: bool = False, ends: Ends = ()) -> Taken:
        reply = await self._ask(self._lease_ms, told, QUIET_MS if back else 0, ends)
        return Taken(reply[0] == 1, reply[1] == 1, [_event(entry) for entry in reply[2:]])

    async def release(self, told: str) -> None:
        await self._ask(0, told, 0)

    async def _ask(self, lease_ms: int, told: str, quiet_ms: int, ends: Ends = ()) -> Reply:
        given: list[Part] = [self.now_ms, self._owner, lease_ms, told, BATCH_MAX, quiet_ms]
        for key, end_ms in ends:
            given += [key, "" if end_ms is None else end_ms]
        return await self._run(self._script, parts(len(self._keys), *self._keys, *given))


def _event(entry: list[Reply]) -> Event:
    words = [word.decode(errors="replace") for word in entry[1]]
    if not entry[0]:
        scope, until = words
        return Event(f"{ENDED}-{until}-{scope}", int(until), ENDED, {"scope": scope, "until": until})
    fields = dict(zip(words[::2], words[1::2], strict=True))
    at_ms, kind = fields.pop("at_ms", ""), fields.pop("kind", "")
    identity: str = entry[0].decode()
    return Event(identity, int(at_ms) if at_ms.isdigit() else int(identity.partition("-")[0]), kind, fields)

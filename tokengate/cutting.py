"""Streams in flight of sessions that are frozen are ended: a freeze refuses calls, and these are calls already.

A gate asks the store how the sessions stand that it is streaming to (with their agents and tenants, where these have
limits), all at once and every `FREEZE_SEEN_WITHIN_S`. So a freeze is heard of whoever made it, on whichever gate. While
there are no streams nothing is asked, and without FREEZE_CUTS_STREAMS nothing here is made. It never ends a stream
itself: whoever is sending it does, in words that its caller understands.
"""

import asyncio
from typing import Final, Protocol

import structlog

from tokengate.domain import Limit, Refusal
from tokengate.ledger import Ledger, LedgerError
from tokengate.refusals import frozen

FREEZE_SEEN_WITHIN_S: Final = 2.0
"""How long after a freeze its streams are ended, at the most, but for the time that the store takes to answer."""

ASKED_AT_ONCE_MAX: Final = 500
"""How many scopes the store is asked about at the same time; each is one short command."""

log = structlog.get_logger()


class Cuttable(Protocol):
    """A stream in flight."""

    def cut(self, refusal: Refusal) -> None:
        """End it in these words; nothing happens if it has ended, or has not begun."""
        ...


class Streams:
    """The streams that a gate is sending, by the limits on their paths. Bounded by CONCURRENCY_MAX."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._of: dict[Limit, set[Cuttable]] = {}

    def begin(self, path: tuple[Limit, ...], stream: Cuttable) -> None:
        """A stream may come."""
        for limit in path:
            self._of.setdefault(limit, set()).add(stream)

    def end(self, path: tuple[Limit, ...], stream: Cuttable) -> None:
        """It has ended, or none has come."""
        for limit in path:
            streams = self._of[limit]
            streams.discard(stream)
            if not streams:
                del self._of[limit]

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(FREEZE_SEEN_WITHIN_S)
            try:
                await self.look()
            except LedgerError as error:
                log.warning("nobody can say which sessions are frozen", error=str(error), scopes=len(self._of))

    async def look(self) -> None:
        """End the streams of what is frozen.

        Raises:
            LedgerError: the store did not answer.
        """
        limits = list(self._of)
        for begin in range(0, len(limits), ASKED_AT_ONCE_MAX):
            asked = limits[begin : begin + ASKED_AT_ONCE_MAX]
            for limit, state in zip(asked, await asyncio.gather(*map(self._ledger.state, asked)), strict=True):
                if not state.frozen:
                    continue
                refusal = frozen(limit.scope, state.frozen_reason, state.frozen_until_ms, rule=state.frozen_rule)
                for stream in tuple(self._of.get(limit, ())):
                    stream.cut(refusal)

"""Whose an answer is that the provider keeps: the ids of the responses that a session made through a gate.

A provider keeps responses for all who have its key, and the callers of a gate share one key. So what is kept is shown,
cancelled and deleted only for the session that made it. A session's ids are a sorted set that is bounded in number and
in time; nothing of what the answers say is kept here.
"""

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from tokengate.domain import Session
from tokengate.ledger import LedgerError, keys
from tokengate.ledger.link import Reply
from tokengate.ledger.resp import command

KEPT_MAX: Final = 1_000
"""The newest responses of a session that are its own; older ones can no longer be asked for."""
KEPT_TTL_S: Final = 30 * 86_400
"""From a session's last: as long as OpenAI keeps a response (https://developers.openai.com/api/docs/guides/your-data)."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)

log = structlog.get_logger()


class KeptResponses:
    """See `Kept`. `ask` sends commands, each of which may be repeated, and gives their replies."""

    def __init__(self, ask: Callable[[Sequence[bytes]], Awaitable[list[Reply]]]) -> None:
        self._ask = ask

    async def remember(self, session: Session, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            return
        key = keys.responses(session.tenant, session.id)
        added = command("ZADD", key, time.time_ns() // 1_000_000, name)
        try:
            _, _, number = await self._ask([added, command("EXPIRE", key, KEPT_TTL_S), command("ZCARD", key)])
            if int(number) > KEPT_MAX:
                await self._ask([command("ZPOPMIN", key, int(number) - KEPT_MAX)])
        except LedgerError as error:
            log.warning("it is not noted whose a response is", session_id=session.id, error=str(error))

    async def made(self, session: Session, name: str) -> bool:
        if _NAME.fullmatch(name) is None:
            return False
        [score] = await self._ask([command("ZSCORE", keys.responses(session.tenant, session.id), name)])
        return score is not None

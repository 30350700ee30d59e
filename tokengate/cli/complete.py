"""What the shell completes: the ids of sessions that there are.

Only where they can be had at once: from a store or a gate that is named. Nothing is started, and nothing is said.
"""

import asyncio
import contextlib
import io
import os
from typing import Final

from tokengate.cli.reach import SERVER

COMPLETED_MAX: Final = 50
COMPLETE_TIMEOUT_S: Final = 2.0


def names(incomplete: str) -> list[str]:
    """The ids that begin so."""
    if not os.environ.get("REDIS_URL") and not os.environ.get(SERVER):
        return []
    found: list[str] = []
    # Whatever goes wrong, a shell that completes has no place to say it.
    with contextlib.suppress(Exception, SystemExit), contextlib.redirect_stderr(io.StringIO()):
        found = asyncio.run(asyncio.wait_for(_names(incomplete), COMPLETE_TIMEOUT_S))
    return found


async def _names(incomplete: str) -> list[str]:
    from tokengate.cli.reach import opened
    from tokengate.control.words import Query, Sort

    async with opened(os.environ.get(SERVER) or None, None) as control:
        query = Query(text=f"{incomplete}*", sort=Sort.NAME, descending=False, limit=COMPLETED_MAX)
        return [row.name for row in (await control.sessions(query)).rows if row.name.isprintable()]

"""An administrator's side on a real store, both ways: over the ledger, and over the admin API of a console on it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx
import redis

from tokengate.api import Access, create_console
from tokengate.budgets import Policy, limits
from tokengate.composition import open_control, open_ledger, policy_of
from tokengate.control import Control
from tokengate.control.remote import RemoteControl
from tokengate.control.words import EventQuery, Query
from tokengate.domain import Ending, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import load
from tokengate.store import open_store

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
USD: Final = 1_000_000_000
CENT: Final = USD // 100
ADMIN: Final = "the-admins-token-of-the-tests"
READER: Final = "the-readers-token-of-the-tests"


class Place(Protocol):
    """A store to be at: by URL, and (to look behind the scenes) by the client of the server that has the tenant."""

    @property
    def url(self) -> str: ...

    def client(self) -> "redis.Redis": ...


@dataclass
class Desk:
    """A control, and the gate beside it whose calls it sees."""

    control: Control
    ledger: RedisLedger
    policy: Policy
    redis: "redis.Redis"
    calls: int = 0

    async def hold(self, session: str, nano: int, *, agent: str = "", model: str = "gpt-4o") -> str:
        """A call under way; gives its id."""
        self.calls += 1
        hold_id, of = f"call-{self.calls}", Session(session, agent=agent)
        ask = Ask(hold_id, of, limits(self.policy, of), nano, nano, nano, True, model)
        assert (await self.ledger.reserve(ask)).kind is Kind.HELD
        return hold_id

    async def spend(self, session: str, nano: int, *, agent: str = "", model: str = "gpt-4o") -> None:
        """A call that was made."""
        hold_id, of = await self.hold(session, nano, agent=agent, model=model), Session(session, agent=agent)
        usage = Usage(input_tokens=100, output_tokens=10)
        await self.ledger.settle(
            Settlement(hold_id, of, limits(self.policy, of), nano, False, Ending.COMPLETE, model, usage)
        )

    async def refused(self, session: str) -> bool:
        """Whether a call of nothing is refused."""
        of = Session(session)
        self.calls += 1
        verdict = await self.ledger.reserve(
            Ask(f"call-{self.calls}", of, limits(self.policy, of), 0, 0, 0, True, "gpt-4o")
        )
        return verdict.kind is not Kind.HELD


@asynccontextmanager
async def desk(store: Place, way: str, token: str = ADMIN, **settings: str) -> AsyncIterator[Desk]:
    """`way`: `local` or `remote`; settings by the names of their variables."""
    loaded = load({"REDIS_URL": store.url, **settings}, None).settings
    async with AsyncExitStack() as stack:
        opened = await open_store(loaded)
        stack.push_async_callback(opened.aclose)
        ledger = await stack.enter_async_context(open_ledger(loaded, opened, "gate-1:1:abc"))
        control: Control = await stack.enter_async_context(open_control(loaded, opened, "console"))
        if way == "remote":
            console: Any = create_console(control, Access(ADMIN, READER), tenant=loaded.tenant)
            transport = httpx.ASGITransport(app=console, client=("127.0.0.1", 1))
            control = await stack.enter_async_context(
                RemoteControl("http://127.0.0.1:8000", token, transport=transport)
            )
        yield Desk(control, ledger, policy_of(loaded), stack.enter_context(store.client()))


Open = Callable[..., AbstractAsyncContextManager[Desk]]
"""`desk` with the way already chosen."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def names(at: Desk, **query: object) -> list[str]:
    return [row.name for row in (await at.control.sessions(Query(**query))).rows]  # type: ignore[arg-type]


async def events(at: Desk, **query: object) -> list:  # type: ignore[type-arg]
    return (await at.control.events(EventQuery(**query))).events  # type: ignore[arg-type]

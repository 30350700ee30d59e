"""The small endpoints that every role has: is it alive, can it serve, and how does a session stand. Raw ASGI, no keys.

`/livez` says that the process turns; `/readyz` that it takes requests (also while the store is away: a sidecar that
fails its readiness takes its whole pod down with it); `/health` tells people and monitors everything, with 503 if
degraded.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson

from tokengate import __version__
from tokengate.budgets import Policy, limits
from tokengate.domain import Refusal, Session
from tokengate.inbound import ASGIScope, Inbound, Receive, Send
from tokengate.ledger import Ledger, LedgerError, ScopeState
from tokengate.money import AMOUNT_NANO_MAX, usd_number
from tokengate.providers import STATUS, Dialect
from tokengate.session import Identity
from tokengate.telemetry import timestamp

STORE_CHECK_TIMEOUT_S: Final = 1.0

Ping = Callable[[], Awaitable[None]]
Outage = Callable[[], dict[str, Any]]
"""Gives what there is to know about a store that is away: `on_store_failure`, `away`, perhaps `allowance`."""


class Status:
    """See the module."""

    PROCESS_PATHS: Final = frozenset({"/livez", "/readyz", "/health"})
    """What is about the process alone, and may be served where calls are not."""
    PATHS: Final = PROCESS_PATHS | {"/tokengate/budget"}

    def __init__(
        self,
        *,
        ledger: Ledger,
        ping: Ping,
        policy: Policy,
        identity: Identity,
        dialect: Dialect,
        role: str,
        outage: Outage,
    ) -> None:
        self._ledger = ledger
        self._ping = ping
        self._policy = policy
        self._identity = identity
        self._dialect = dialect
        self._role = role
        self._outage = outage
        self.draining = False
        """Set when the server has begun to stop: it serves what it has, and wants no more."""

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one of `PATHS`."""
        if scope["method"] not in ("GET", "HEAD"):
            return await _reply(send, 405, {"error": {"message": "use GET"}})
        path = scope["path"]
        if path == "/livez":
            return await _reply(send, 200, {"status": "ok"})
        if path == "/readyz":
            return await _reply(send, 503 if self.draining else 200, {"status": "draining" if self.draining else "ok"})
        if path == "/health":
            return await self._health(send)
        return await self._budget(Inbound(scope), send)

    async def _health(self, send: Send) -> None:
        store = "ok"
        try:
            async with asyncio.timeout(STORE_CHECK_TIMEOUT_S):
                await self._ping()
        except (LedgerError, TimeoutError):
            store = "unavailable"
        outage = self._outage()
        if outage.pop("away"):
            # It may answer already; calls go there again when it has been told what it missed.
            store = "unavailable"
        degraded = store != "ok" or self.draining
        await _reply(
            send,
            503 if degraded else 200,
            {
                "status": "draining" if self.draining else "degraded" if degraded else "ok",
                "store": store,
                "version": __version__,
                "role": self._role,
                **outage,
            },
        )

    async def _budget(self, inbound: Inbound, send: Send) -> None:
        """A session's own budgets, so that an agent can pace itself."""
        session = self._identity.identify(inbound.session, inbound.query)
        if isinstance(session, Refusal):
            body = self._dialect.error(session, "")
            return await _send(send, STATUS[session.reason], body)
        try:
            await _reply(send, 200, await self._standing(session))
        except LedgerError:
            await _reply(
                send, 503, {"error": {"message": "The budget store cannot be reached.", "type": "store_unavailable"}}
            )
        return None

    async def _standing(self, session: Session) -> dict[str, Any]:
        states = [await self._ledger.state(limit) for limit in limits(self._policy, session)]
        # An agent or a tenant that is limited in its rate alone has no budget to pace itself by.
        states = [states[0], *(state for state in states[1:] if state.cap_nano < AMOUNT_NANO_MAX)]
        return {"session_id": session.id, **budget(states[0]), "limits": [budget(state) for state in states]}


def budget(state: ScopeState) -> dict[str, Any]:
    """A scope's figures as the public interface shows them: USD as JSON numbers."""
    return {
        "scope": state.scope.kind,
        "name": state.scope.name,
        "budget": usd_number(state.cap_nano),
        "spent": usd_number(state.spent_nano),
        "held": usd_number(state.held_nano),
        "remaining": usd_number(state.remaining_nano),
        "resets_at": timestamp(state.resets_at_ms) if state.resets_at_ms is not None else None,
        "frozen": state.frozen,
    }


async def not_found(send: Send) -> None:
    """Answer that there is no such endpoint here."""
    await _reply(send, 404, {"error": {"message": "There is no such endpoint on this port."}})


async def _reply(send: Send, status: int, fields: dict[str, Any]) -> None:
    await _send(send, status, orjson.dumps(fields))


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

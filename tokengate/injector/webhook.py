"""The injector as a server: the API server's questions over TLS; health and metrics for the cluster on another port.

Raw ASGI. It never calls out, holds no key but its certificate's, and answers a question from the question and the
policy alone, so that any number of it can run side by side.
"""

import asyncio
import time
from typing import Any, Final

import orjson
import structlog

from tokengate import __version__
from tokengate.inbound import ASGIScope, Receive, Send
from tokengate.injector.metrics import CONTENT_TYPE, Metrics
from tokengate.injector.patch import Result
from tokengate.injector.policy import Policy
from tokengate.injector.review import MalformedReview, Reviewed, review

PATH: Final = "/inject"

BODY_BYTES_MAX: Final = 8 * 1024 * 1024
"""An object has at most 1.5 MiB in etcd, as JSON somewhat more, and a question may hold two of them."""
BODY_TIMEOUT_S: Final = 5
"""How long a question may take to arrive; the API server itself waits for an answer for 30 s at most."""

log = structlog.get_logger()


class State:
    """What both ports know: the policy in force, and whether this process takes questions."""

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.certified = False
        self.draining = False

    @property
    def ready(self) -> bool:
        return self.policy is not None and self.certified and not self.draining


class Webhook:
    """The TLS port: `POST /inject`."""

    def __init__(self, state: State, metrics: Metrics) -> None:
        self._state = state
        self._metrics = metrics

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        status, body = await self._answer(scope, receive)
        if status != 200:
            self._metrics.invalid(status)
            log.warning("request", status=status, path=scope["path"][:128], error=body.decode())
        await _send(send, status, body, "application/json" if status == 200 else "text/plain; charset=utf-8")

    async def _answer(self, scope: ASGIScope, receive: Receive) -> tuple[int, bytes]:
        policy = self._state.policy
        if scope["path"] != PATH:
            return 404, b"there is only " + PATH.encode()
        if scope["method"] != "POST":
            return 405, b"use POST"
        if dict(scope["headers"]).get(b"content-type", b"").partition(b";")[0].strip() != b"application/json":
            return 415, b"send application/json"
        if policy is None:
            return 503, b"there is no policy yet"
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _body(receive)
        except TimeoutError:
            return 408, b"the body did not arrive in %d s" % BODY_TIMEOUT_S
        if body is None:
            return 413, b"the body is larger than %d bytes" % BODY_BYTES_MAX
        started = time.perf_counter()
        try:
            reviewed = review(body, policy)
        except MalformedReview as error:
            return 400, str(error).encode()
        seconds = time.perf_counter() - started
        self._metrics.reviewed(reviewed.decision, seconds, dry_run=reviewed.request.dry_run)
        _log(reviewed, seconds)
        return 200, reviewed.answer


class Monitor:
    """The other port: health and metrics, in plain HTTP, for whoever may reach the pod."""

    def __init__(self, state: State, metrics: Metrics) -> None:
        self._state = state
        self._metrics = metrics

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["type"] != "http":
            return
        if scope["path"] == "/metrics":
            await _send(send, 200, self._metrics.exposition(), CONTENT_TYPE)
        elif scope["path"] == "/livez":
            await _send_json(send, 200, {"status": "ok"})
        elif scope["path"] in ("/readyz", "/health"):
            state = self._state
            status = "draining" if state.draining else "ok" if state.ready else "starting"
            fields = {"status": status, "policy": state.policy is not None, "certificate": state.certified}
            await _send_json(send, 200 if state.ready else 503, fields | {"version": __version__, "role": "injector"})
        else:
            await _send_json(send, 404, {"status": "there is no such endpoint on this port"})


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if it is too large. Of a caller that left, what came: it will be no question."""
    pieces, size = [], 0
    while True:
        message = await receive()
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > BODY_BYTES_MAX:
            return None
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def _log(reviewed: Reviewed, seconds: float) -> None:
    request, decision = reviewed.request, reviewed.decision
    fields: dict[str, Any] = {
        "uid": request.uid,
        "namespace": request.namespace,
        "pod": request.name or (request.object or {}).get("metadata", {}).get("generateName", ""),
        "agent": decision.agent,
        "result": decision.result,
        "reason": decision.reason,
        "operations": len(decision.operations),
        "dry_run": request.dry_run,
        "duration_ms": round(seconds * 1000, 3),
    }
    if decision.messages:
        fields["messages"] = decision.messages
    if decision.warnings:
        fields["warnings"] = decision.warnings
    write = log.warning if decision.result is Result.REFUSED else log.info
    write("review", **{name: value for name, value in fields.items() if value != ""})


async def _send_json(send: Send, status: int, fields: dict[str, Any]) -> None:
    await _send(send, status, orjson.dumps(fields), "application/json")


async def _send(send: Send, status: int, body: bytes, content_type: str) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

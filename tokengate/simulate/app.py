"""The simulated provider as an ASGI application: who is answered what, when, and with which fault.

Routes, pacing and misbehaviour are here; what an answer says is `answers`, how it looks is `frames`, what it cost goes
to `books`.
"""

import asyncio
from random import Random
from typing import Any, Final

import orjson
import uvicorn

from tokengate.simulate import answers, frames, media
from tokengate.simulate.answers import Plan, Refused
from tokengate.simulate.books import Books, Entry
from tokengate.simulate.options import Directives, Fault, FaultKind, OptionError, SimulateOptions, parse_directives
from tokengate.simulate.text import Count, count_runs
from tokengate.simulate.wire import ASGIApp, BodyTooLarge, Broken, ClientGone, Exchange, Receive, Scope, Send

FAULT_HEADER: Final = b"x-simulate-fault"
FAULT_IN_MODEL: Final = "simulate:"
"""What follows this in a model's name is read as directives, so that `ft:gpt-4o-mini:simulate:no_usage` is a model."""

BACKLOG: Final = 1024
_UNREADABLE: Final = "(unreadable)"
_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
_MIDWAY: Final = frozenset({FaultKind.HANG_MIDWAY, FaultKind.RESET_MIDWAY, FaultKind.ERROR_MIDWAY})
_PLANNERS: Final = {"/v1/chat/completions": answers.plan_chat, "/v1/completions": answers.plan_text}


class SimulatedProvider:
    """The application; it holds the books and the random numbers, and nothing of a request after its answer."""

    def __init__(self, options: SimulateOptions, count: Count) -> None:
        self._options = options
        self._count = count
        self._random = Random(options.seed)  # noqa: S311 - a simulation is to be repeatable, not secret
        self._books = Books()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            exchange = Exchange(receive, send)
            try:
                await self._serve(scope, exchange)
            except ClientGone:
                return
            finally:
                await exchange.close()

    async def _serve(self, scope: Scope, exchange: Exchange) -> None:
        try:
            raw = await exchange.body()
        except BodyTooLarge:
            await _refuse(exchange, Refused("The request is too large.", status=413))
            return
        method, path = scope["method"], scope["path"]
        if path.startswith("/simulate/"):
            await self._control(exchange, method, path)
            return
        self._books.saw(scope, raw)
        try:
            self._let_in(scope)
            if method == "POST" and (path in _PLANNERS or path == "/v1/embeddings"):
                await self._answer(scope, exchange, answers.read_body(raw))
            elif method == "POST" and path in media.PATHS:
                await self._answer_media(scope, exchange, media.read(raw, dict(scope["headers"])))
            else:
                await exchange.respond(200, _JSON, self._model(method, path))
        except Refused as refused:
            if method == "POST":
                self._books.close(self._books.open(_UNREADABLE, ""), "refused")
            await _refuse(exchange, refused)

    async def _control(self, exchange: Exchange, method: str, path: str) -> None:
        value: Any
        match method, path:
            case "GET", "/simulate/books":
                value = self._books.as_json()
            case "GET", "/simulate/requests":
                value = self._books.requests_as_json()
            case "POST", "/simulate/reset":
                self._books.reset()
                value = {"reset": True}
            case _:
                await _refuse(exchange, Refused(f"No {method} {path} here", status=404))
                return
        await exchange.respond(200, _JSON, orjson.dumps(value))

    def _let_in(self, scope: Scope) -> None:
        key = self._options.api_key
        if key is not None and dict(scope["headers"]).get(b"authorization") != f"Bearer {key}".encode():
            raise Refused("Incorrect API key provided.", code="invalid_api_key", status=401)

    def _model(self, method: str, path: str) -> bytes:
        name = path.removeprefix("/v1/models/")
        if method == "GET" and path == "/v1/models":
            return frames.models(self._options.models)
        if method == "GET" and name != path:
            if name in self._options.models:
                return orjson.dumps(frames.model(name))
            raise Refused(f"The model '{name}' does not exist", "model", "model_not_found", 404)
        raise Refused(f"Invalid URL ({method} {path})", status=404)

    def _directives(self, scope: Scope, body: dict[str, Any]) -> Directives:
        metadata = body.get("metadata")
        asked = [
            dict(scope["headers"]).get(FAULT_HEADER, b"").decode("latin-1"),
            str(metadata.get("simulate", "")) if isinstance(metadata, dict) else "",
            body["model"].partition(FAULT_IN_MODEL)[2],
        ]
        try:
            directives = parse_directives(",".join(filter(None, asked)), self._options)
        except OptionError as error:
            raise Refused(f"x-simulate-fault: {error}", "x-simulate-fault") from None
        fault = self._options.fault
        if directives.fault is None and fault is not None and self._random.random() < self._options.fault_rate:
            return Directives(directives.options, fault)
        return directives

    async def _answer(self, scope: Scope, exchange: Exchange, body: dict[str, Any]) -> None:
        """Answer a request for tokens, and post to the books how that ended."""
        entry = self._books.open(body["model"], str(body.get("user") or ""))
        end = "cut"
        try:
            directives = self._directives(scope, body)
            if scope["path"] in _PLANNERS:
                plan = _PLANNERS[scope["path"]](body, directives.options, self._random, self._count)
                whole = await self._generate(exchange, plan, directives, entry)
            else:
                vectors = answers.plan_embeddings(body, directives.options, self._count)
                whole = await self._embed(exchange, vectors, directives, entry)
            end = "answered" if whole else "cut"
        except Refused as refused:
            end = "refused"
            await _refuse(exchange, refused)
        except Broken:
            raise
        except ClientGone:
            self._books.disconnected(exchange.last_write)
            raise
        finally:
            self._books.close(entry, end)

    async def _answer_media(self, scope: Scope, exchange: Exchange, asked: media.Asked) -> None:
        """Answer a request for images or sound, and post to the books how that ended."""
        entry = self._books.open(asked.fields["model"], str(asked.fields.get("user") or ""))
        end = "cut"
        try:
            directives = self._directives(scope, asked.fields)
            options, fault = directives.options, directives.fault
            _refuse_by_fault(fault)
            kind = fault.kind if fault else None
            answer = media.answer(scope["path"], asked, options, self._random, self._count, kind)
            entry.input_tokens, entry.output_tokens = answer.input_tokens, answer.output_tokens
            await _delay_headers(exchange, fault)
            await exchange.pause(options.ttft_ms / 1000)
            if await _send_pieces(exchange, answer, fault, options):
                end = "answered"
        except Refused as refused:
            end = "refused"
            await _refuse(exchange, refused)
        except Broken:
            raise
        except ClientGone:
            self._books.disconnected(exchange.last_write)
            raise
        finally:
            self._books.close(entry, end)

    async def _generate(self, exchange: Exchange, plan: Plan, directives: Directives, entry: Entry) -> bool:
        """Send a planned answer; False if it was left unfinished."""
        options, fault = directives.options, directives.fault
        kind = fault.kind if fault else None
        if fault is not None and fault.kind is FaultKind.HUGE_ANSWER:
            plan = answers.enlarge(plan, fault.number, self._random)
        _refuse_by_fault(fault)
        entry.input_tokens = plan.input_tokens
        if plan.stream and kind is not FaultKind.JSON_FOR_STREAM:
            await _delay_headers(exchange, fault)
            whole = await _stream(exchange, plan, fault, options, entry)
        else:
            # Nobody cancels an answer that is not streamed: it is generated to its end, and billed, even if its
            # reader has left.
            entry.output_tokens = plan.output_tokens
            await _delay_headers(exchange, fault)
            await exchange.pause(_seconds(options, plan.output_tokens))
            whole = await _send_whole(exchange, frames.whole(plan, fault), fault)
        if fault is not None and fault.kind is FaultKind.HUGE_USAGE:
            entry.output_tokens = max(entry.output_tokens, fault.number)
        return whole

    async def _embed(
        self, exchange: Exchange, plan: answers.EmbeddingPlan, directives: Directives, entry: Entry
    ) -> bool:
        fault = directives.fault
        _refuse_by_fault(fault)
        entry.input_tokens = plan.input_tokens
        if fault is not None and fault.kind is FaultKind.HUGE_USAGE:
            entry.input_tokens = max(plan.input_tokens, fault.number)
        await _delay_headers(exchange, fault)
        await exchange.pause(directives.options.ttft_ms / 1000)
        return await _send_whole(exchange, frames.embeddings(plan, fault), fault)


def _seconds(options: SimulateOptions, tokens: int) -> float:
    """How long after its request an answer has `tokens` tokens."""
    generating = tokens / options.tokens_per_second if options.tokens_per_second else 0.0
    return options.ttft_ms / 1000 + generating


def _refuse_by_fault(fault: Fault | None) -> None:
    match fault:
        case Fault(FaultKind.RATE_LIMITED):
            message = f"Rate limit reached. Please try again in {fault.number}s."
            raise Refused(message, code="rate_limit_exceeded", status=429, retry_after_s=fault.number)
        case Fault(FaultKind.SERVER_ERROR | FaultKind.ERROR_AS_EVENTS):
            status = fault.number if fault.argument else 500
            raise Refused("The server had an error while processing your request.", status=status, code=fault.kind)
        case Fault(FaultKind.BAD_REQUEST):
            raise Refused("The request was simulated to be bad.", param="messages", code="invalid_value")
        case _:
            return


async def _delay_headers(exchange: Exchange, fault: Fault | None) -> None:
    match fault:
        case Fault(FaultKind.SLOW_HEADERS):
            await exchange.pause(fault.number / 1000)
        case Fault(FaultKind.HANG_BEFORE_HEADERS):
            await exchange.hang()
        case Fault(FaultKind.RESET_BEFORE_HEADERS):
            await exchange.reset()
        case _:
            return


def _headers(normal: dict[str, str], fault: Fault | None) -> dict[str, str]:
    match fault:
        case Fault(FaultKind.CONTENT_TYPE):
            return normal | {"content-type": fault.argument}
        case Fault(FaultKind.NO_CONTENT_TYPE):
            return {name: value for name, value in normal.items() if name != "content-type"}
        case _:
            return normal


async def _refuse(exchange: Exchange, refused: Refused) -> None:
    body = frames.error(refused)
    headers = _JSON
    if refused.retry_after_s is not None:
        headers = headers | {"retry-after": str(refused.retry_after_s)}
    if refused.code == FaultKind.ERROR_AS_EVENTS:
        headers, body = _EVENTS, b"data: " + body + b"\n\n"
    await exchange.respond(refused.status, headers, body)


async def _break(exchange: Exchange, fault: Fault) -> None:
    """Stop in the midst of an answer."""
    if fault.kind is FaultKind.HANG_MIDWAY:
        await exchange.hang()
    await exchange.reset()


async def _send_whole(exchange: Exchange, data: bytes, fault: Fault | None, normal: dict[str, str] = _JSON) -> bool:
    headers = _headers(normal, fault)
    kind = fault.kind if fault else None
    if fault is not None and kind in _MIDWAY:
        await exchange.start(200, headers | {"content-length": str(len(data))})
        await exchange.write(data[: len(data) // 2])
        await _break(exchange, fault)
    elif kind is FaultKind.TRUNCATED_JSON:
        await exchange.respond(200, headers, data[: len(data) // 2])
        return False
    elif kind is FaultKind.GZIP:
        await exchange.start(200, headers, gzip=True)
        await exchange.end(data)
    else:
        await exchange.respond(200, headers, data)
    return True


async def _stream(exchange: Exchange, plan: Plan, fault: Fault | None, options: SimulateOptions, entry: Entry) -> bool:
    loop = asyncio.get_running_loop()
    started = loop.time()
    kind = fault.kind if fault else None
    breaks_at = fault.number if fault is not None and kind in _MIDWAY else None
    await exchange.pause(options.ttft_ms / 1000)
    await exchange.start(200, _headers(_EVENTS, fault), gzip=kind is FaultKind.GZIP)
    for position, chunk in enumerate(frames.chunks(plan, fault)):
        if fault is not None and position == breaks_at:
            if kind is FaultKind.ERROR_MIDWAY:
                await exchange.end(b"data: " + frames.error(Refused("The server had an error.", status=500)) + b"\n\n")
                return False
            await _break(exchange, fault)
        await exchange.pause(started + _seconds(options, entry.output_tokens + chunk.tokens) - loop.time())
        if kind is FaultKind.TRUNCATED_JSON and chunk.tokens:
            await exchange.end(chunk.data[: len(chunk.data) // 2])
            return False
        await exchange.write(chunk.data)
        entry.output_tokens += chunk.tokens
    match kind:
        case FaultKind.NO_DONE:
            await exchange.end()
        case FaultKind.GARBAGE_AFTER_DONE:
            await exchange.end(frames.DONE + b'data: {"not": "for you"}\n\nnonsense\n\n')
        case _:
            await exchange.end(frames.DONE)
    return True


async def _send_pieces(exchange: Exchange, answer: media.Answer, fault: Fault | None, options: SimulateOptions) -> bool:
    """Send images or sound, a piece at a time if it is streamed; with `tokens_per_second` a piece counts as one."""
    if not answer.streamed:
        return await _send_whole(exchange, b"".join(answer.pieces), fault, answer.headers)
    kind = fault.kind if fault else None
    await exchange.start(200, _headers(answer.headers, fault), gzip=kind is FaultKind.GZIP)
    for position, piece in enumerate(answer.pieces):
        if fault is not None and kind in _MIDWAY and position == fault.number:
            await _break(exchange, fault)
        if options.tokens_per_second:
            await exchange.pause(1 / options.tokens_per_second)
        await exchange.write(piece)
    await exchange.end()
    return True


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def create_app(options: SimulateOptions | None = None, count: Count = count_runs) -> ASGIApp:
    """The simulated provider as an ASGI application.

    Args:
        options: how it answers.
        count: how many tokens a text is billed as; the default never exceeds what cl100k_base and o200k_base give.
    """
    return SimulatedProvider(options or SimulateOptions(), count)


def run(options: SimulateOptions, host: str, port: int) -> None:
    """Serve the simulated provider until a signal ends it."""
    app: Any = create_app(options)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, backlog=BACKLOG)

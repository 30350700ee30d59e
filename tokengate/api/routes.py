"""The routes of the admin API, each one method of `Control`: bodies and parameters in, words out, faults in one shape.

FastAPI finds the route; bodies are read by the words themselves, which are the same in the command line. Who asks is
settled before (`guard`), and who it was is written into every change.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tokengate import __version__
from tokengate.api import document
from tokengate.api.access import SESSION_S, Access, Brake, Principal
from tokengate.api.guard import CALLER, HEADERS, LOGIN, LOGOUT, ROOT, STATUS, Caller
from tokengate.api.words import Login, Standing
from tokengate.control import Control, Denied, Invalid, Unavailable, Unknown
from tokengate.control.encoding import convert, decode, encode
from tokengate.control.words import (
    BY_CHARACTERS_MAX,
    BudgetChange,
    Change,
    EventQuery,
    Fault,
    FaultAnswer,
    FreezeChange,
    Kind,
    Query,
    SpendQuery,
)
from tokengate.money import AmountError, parse_usd

T = TypeVar("T")

_HEADERS: Final = {name.decode(): value.decode() for name, value in HEADERS}
_JSON: Final = "application/json"

log = structlog.get_logger()


class Routes:
    """The handlers. Their docstrings are the descriptions in the OpenAPI document."""

    def __init__(
        self,
        control: Control,
        access: Access,
        brake: Brake,
        *,
        tenant: str,
        clock_s: Callable[[], float],
    ) -> None:
        self._control = control
        self._access = access
        self._brake = brake
        self._tenant = tenant
        self._clock_s = clock_s

    # --- who asks ---

    async def login(self, request: Request) -> Response:
        """Exchange a token for a session of the page: a cookie that scripts cannot read, for twelve hours."""
        caller = _caller(request)
        principal = self._access.by_token((await _body(request, Login)).token)
        if principal is None:
            self._brake.count(caller.address, self._clock_s())
            log.warning("a wrong token was shown", address=caller.address)
            return _fault("unauthorized", "This is not the token.")
        log.info("logged in", who=principal.name, address=caller.address)
        response = _answer(self._standing(principal))
        cookie = self._access.open_session(principal, int(self._clock_s()))
        response.set_cookie(
            self._access.cookie, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=caller.secure
        )
        return response

    async def logout(self, request: Request) -> Response:
        """End the session of the page."""
        caller = _caller(request)
        if caller.cookie:
            self._access.end_session(caller.cookie)
        response = Response(status_code=204, headers=_HEADERS)
        response.delete_cookie(self._access.cookie, httponly=True, samesite="strict", secure=caller.secure)
        return response

    async def access(self, request: Request) -> Response:
        """Say who asks, what they may do, and whom they have asked."""
        principal = _caller(request).principal
        if principal is None:
            return _fault("unauthorized", "Nobody is logged in.")
        return _answer(self._standing(principal))

    def _standing(self, principal: Principal) -> Standing:
        return Standing(name=principal.name, role=principal.role, tenant=self._tenant, version=__version__)

    # --- what there is to see ---

    async def stats(self, _: Request) -> Response:
        """The whole tenant at a glance."""
        return _answer(await self._control.stats())

    async def sessions(self, request: Request) -> Response:
        """List sessions, or agents. A page takes as long among a million as among ten, whatever the order."""
        return _answer(await self._control.sessions(_parameters(request, Query)))

    async def spend(self, request: Request) -> Response:
        """What was spent, by what, over time."""
        return _answer(await self._control.spend(_parameters(request, SpendQuery)))

    async def events(self, request: Request) -> Response:
        """What happened. To follow, ask again with `after` as the `last_id` of the answer."""
        return _answer(await self._control.events(_parameters(request, EventQuery)))

    async def detail(self, kind: Kind, name: str) -> Response:
        """Everything about one account."""
        return _answer(await self._control.detail(kind, name))

    async def account(self, kind: Kind, name: str) -> Response:
        """How an account stands. One that nobody has named yet stands at its start, and is not made."""
        return _answer(await self._control.account(kind, name))

    # --- what can be done ---

    async def set_budget(self, request: Request, kind: Kind, name: str) -> Response:
        """Give an account a budget of its own, or (null) let it follow the default again. It need not exist yet."""
        change = await _body(request, BudgetChange)
        budget_nano = None if change.budget_usd is None else parse_usd(change.budget_usd)
        return _answer(await self._control.set_budget(kind, name, budget_nano, by=_by(request, change.by)))

    async def freeze(self, request: Request, kind: Kind, name: str) -> Response:
        """Refuse every call of an account from now on: for a time, or until it is lifted."""
        change = await _body(request, FreezeChange)
        by = _by(request, change.by)
        reason, for_ms, new = change.reason, change.for_ms, change.new
        return _answer(await self._control.freeze(kind, name, reason=reason, for_ms=for_ms, by=by, new=new))

    async def unfreeze(self, request: Request, kind: Kind, name: str) -> Response:
        """Lift a freeze. An account that is not frozen is left as it is."""
        change = await _body(request, Change)
        return _answer(await self._control.unfreeze(kind, name, by=_by(request, change.by)))

    async def reset(self, request: Request, kind: Kind, name: str) -> Response:
        """Start anew with nothing spent and nothing held. Calls under way are charged to what was before."""
        change = await _body(request, Change)
        return _answer(await self._control.reset(kind, name, by=_by(request, change.by)))

    async def delete(self, request: Request, kind: Kind, name: str) -> Response:
        """Forget an account. Should it be named again, it starts with the default budget, and nothing spent."""
        change = await _body(request, Change)
        await self._control.delete(kind, name, by=_by(request, change.by))
        return Response(status_code=204, headers=_HEADERS)


def create_api(routes: Routes) -> FastAPI:
    """The FastAPI application of the routes; it has no pages of its own, which would load from other hosts."""
    api = FastAPI(
        title="TokenGate admin API",
        version=__version__,
        openapi_url=f"{ROOT}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    # A name is whatever somebody has put into the store, a slash too.
    one = f"{ROOT}/{{kind}}/{{name:path}}"
    for method, path, handler in (
        ("POST", LOGIN, routes.login),
        ("POST", LOGOUT, routes.logout),
        ("GET", f"{ROOT}/access", routes.access),
        ("GET", f"{ROOT}/stats", routes.stats),
        ("GET", f"{ROOT}/sessions", routes.sessions),
        ("GET", f"{ROOT}/spend", routes.spend),
        ("GET", f"{ROOT}/events", routes.events),
        ("GET", f"{one}/budget", routes.account),
        ("POST", f"{one}/budget", routes.set_budget),
        ("POST", f"{one}/freeze", routes.freeze),
        ("POST", f"{one}/unfreeze", routes.unfreeze),
        ("POST", f"{one}/reset", routes.reset),
        ("GET", one, routes.detail),
        ("DELETE", one, routes.delete),
    ):
        api.add_api_route(path, handler, methods=[method], **document.operation(handler.__name__))
    api.add_exception_handler(Unknown, _on_unknown)
    api.add_exception_handler(Invalid, _on_invalid)
    api.add_exception_handler(AmountError, _on_invalid)
    api.add_exception_handler(Unavailable, _on_unavailable)
    api.add_exception_handler(Denied, _on_unavailable)
    api.add_exception_handler(RequestValidationError, _on_no_route)
    api.add_exception_handler(HTTPException, _on_no_route)
    api.add_exception_handler(Exception, _on_failure)
    api.openapi = lambda: document.describe(api)  # type: ignore[method-assign]
    return api


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


def _by(request: Request, claimed: str) -> str:
    """Who makes a change: whose token it is and where it came from, which are known, and what they call themselves."""
    caller = _caller(request)
    known = f"{caller.principal.name if caller.principal else 'nobody'} from {caller.address}"
    said = "".join(each if each.isprintable() else "?" for each in claimed)
    return (f"{said}, {known}" if 0 < len(said) <= BY_CHARACTERS_MAX - len(known) - 2 else known)[:BY_CHARACTERS_MAX]


def _parameters(request: Request, kind: type[T]) -> T:
    given = request.query_params.multi_items()
    known = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]
    names = [name for name, _ in given]
    for name in names:
        if name not in known:
            raise Invalid(f"there is no parameter {name[:100]!r}; there are: {', '.join(sorted(known))}")
        if names.count(name) > 1:
            raise Invalid(f"the parameter {name} is given more than once")
    try:
        word = convert(dict(given), kind)
    except msgspec.ValidationError as error:
        raise Invalid(_fault_of(error)) from None
    for name in names:
        if getattr(word, name) is None:
            raise Invalid(f"the parameter {name} cannot be null: leave it out")
    return word


async def _body(request: Request, kind: type[T]) -> T:
    try:
        return decode(await request.body() or b"{}", kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(_fault_of(error)) from None


def _fault_of(error: Exception) -> str:
    return f"{error}".replace("`$.", "`").replace("`$`", "the body")


def _answer(word: object) -> Response:
    return Response(encode(word), media_type=_JSON, headers=_HEADERS)


def _fault(type_: str, message: str, similar: list[str] | None = None) -> Response:
    fault = FaultAnswer(error=Fault(type=type_, message=message, similar=similar or []))
    return Response(encode(fault), status_code=STATUS[type_], media_type=_JSON, headers=_HEADERS)


async def _on_unknown(_: Request, error: Exception) -> Response:
    return _fault("not_found", str(error), error.similar if isinstance(error, Unknown) else [])


async def _on_invalid(_: Request, error: Exception) -> Response:
    return _fault("invalid", str(error))


async def _on_unavailable(_: Request, error: Exception) -> Response:
    return _fault("unavailable", str(error))


async def _on_no_route(request: Request, error: Exception) -> Response:
    """There is no such path, or not with this method; also for a kind that there is none of."""
    path = request.scope["path"]
    if isinstance(error, HTTPException) and error.status_code == STATUS["method_not_allowed"]:
        # The router names the methods of the first route that has the path; there may be others.
        found = [each for each in request.app.routes if isinstance(each, APIRoute) and each.path_regex.match(path)]
        methods = {method for route in found if route.path == found[0].path for method in route.methods or ()}
        response = _fault("method_not_allowed", f"{request.method} is not for this path.")
        response.headers["allow"] = ", ".join(sorted(methods))
        return response
    return _fault("not_found", "There is no such path in the admin API.")


async def _on_failure(_request: Request, _error: Exception) -> Response:
    return _fault("internal", "The console failed; its log says why.")

"""The OpenAPI document: what FastAPI knows of the routes, with the words that go in and out, and who may ask.

What the words say of themselves, in their docstrings and in those below their fields, is what the document says.
"""

import ast
import inspect
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec import Struct

from tokengate.api import words as own_words
from tokengate.api.guard import STATUS
from tokengate.api.words import Login, Standing
from tokengate.control import words
from tokengate.control.encoding import schemas
from tokengate.control.words import (
    Account,
    BudgetChange,
    Change,
    Detail,
    EventPage,
    EventQuery,
    FaultAnswer,
    FreezeChange,
    Page,
    Query,
    Spend,
    SpendQuery,
    Stats,
)
from tokengate.money import AMOUNT_NANO_MAX, format_usd

_JSON: Final = "application/json"
_SCHEMA: Final = "#/components/schemas/"

DESCRIPTION: Final = """\
What an administrator can see and do. Amounts are strings of USD, exact to nine decimals; instants (`_ms`) are
milliseconds since the epoch. Every answer that is not a success is a `FaultAnswer`. Show the token as
`Authorization: Bearer TOKEN`: `ADMIN_TOKEN` for everything, `ADMIN_READ_TOKEN` to look. A change by the page's cookie
must come from the page itself."""

AMOUNT: Final = r"^\s*\$?\d{1,16}(\.\d{1,9})?\s*$"
"""The shape of an amount as people write it; its bound is told in words."""

_ALWAYS: Final = ("unauthorized", "forbidden", "too_large", "too_many_attempts", "internal")


class Operation(Struct, frozen=True):
    """What goes in and out of a route."""

    summary: str
    answer: type[Struct] | None = None
    """None: nothing (204)."""
    body: type[Struct] | None = None
    body_needed: bool = True
    parameters: type[Struct] | None = None
    faults: tuple[str, ...] = ("unavailable",)
    open: bool = False
    """It takes no token."""


_CHANGE: Final = ("invalid", "not_found", "unavailable")

OPERATIONS: Final = {
    "login": Operation("Log in", Standing, Login, faults=("invalid",), open=True),
    "logout": Operation("Log out", faults=()),
    "access": Operation("Who asks", Standing, faults=()),
    "stats": Operation("Statistics", Stats),
    "sessions": Operation("List sessions or agents", Page, parameters=Query, faults=("invalid", "unavailable")),
    "spend": Operation("Spending", Spend, parameters=SpendQuery, faults=("invalid", "unavailable")),
    "events": Operation("Events", EventPage, parameters=EventQuery, faults=("invalid", "unavailable")),
    "detail": Operation("Show an account", Detail, faults=_CHANGE),
    "account": Operation("How an account stands", Account, faults=_CHANGE),
    "set_budget": Operation("Set a budget", Account, BudgetChange, faults=_CHANGE),
    "freeze": Operation("Freeze", Account, FreezeChange, faults=_CHANGE),
    "unfreeze": Operation("Unfreeze", Account, Change, body_needed=False, faults=_CHANGE),
    "reset": Operation("Reset", Account, Change, body_needed=False, faults=_CHANGE),
    "delete": Operation("Delete", None, Change, body_needed=False, faults=_CHANGE),
}
"""By the names of the handlers."""

_WORDS: Final = (
    Account,
    BudgetChange,
    Change,
    Detail,
    EventPage,
    FaultAnswer,
    FreezeChange,
    Login,
    Page,
    Spend,
    Standing,
    Stats,
)


def operation(name: str) -> dict[str, Any]:
    """What FastAPI is told of a route, for `add_api_route`."""
    return {"operation_id": name, "summary": OPERATIONS[name].summary, "response_model": None}


def describe(api: FastAPI) -> dict[str, Any]:
    """The document."""
    if api.openapi_schema is None:
        document = get_openapi(title=api.title, version=api.version, description=DESCRIPTION, routes=api.routes)
        for path in document["paths"].values():
            for made in path.values():
                _complete(made, OPERATIONS[made["operationId"]])
        document["components"] = {
            "schemas": _components(),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "ADMIN_TOKEN"}},
        }
        api.openapi_schema = document
    return api.openapi_schema


def _complete(made: dict[str, Any], known: Operation) -> None:
    made["security"] = [] if known.open else [{"token": []}]
    if known.parameters is not None:
        made["parameters"] = [*made.get("parameters", []), *_parameters(known.parameters)]
    if known.body is not None:
        schema = {"$ref": f"{_SCHEMA}{known.body.__name__}"}
        made["requestBody"] = {"required": known.body_needed, "content": {_JSON: {"schema": schema}}}
    if known.answer is None:
        made["responses"] = {"204": {"description": "Done."}}
    else:
        schema = {"$ref": f"{_SCHEMA}{known.answer.__name__}"}
        made["responses"] = {"200": {"description": "Done.", "content": {_JSON: {"schema": schema}}}}
    fault = {_JSON: {"schema": {"$ref": f"{_SCHEMA}FaultAnswer"}}}
    for type_ in sorted((*known.faults, *_ALWAYS), key=STATUS.__getitem__):
        made["responses"][str(STATUS[type_])] = {"description": f"`{type_}`", "content": fault}


def _parameters(kind: type[Struct]) -> list[dict[str, Any]]:
    (_, components) = schemas([kind])
    schema = _documented(components)[kind.__name__]
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": _inlined(each, components)}
        for name, each in schema["properties"].items()
    ]


def _inlined(schema: object, components: dict[str, Any]) -> object:
    """A schema without references: those of parameters are small, and no components of the document."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(components[schema["$ref"].removeprefix(_SCHEMA)], components)
        # A text cannot be null: where a word may be None, the parameter is left out.
        if "anyOf" in schema:
            left = [each for each in schema["anyOf"] if each != {"type": "null"}]
            rest = {name: each for name, each in schema.items() if name not in ("anyOf", "default")}
            return _inlined(left[0] | rest, components)
        return {name: _inlined(each, components) for name, each in schema.items()}
    return schema


def _components() -> dict[str, Any]:
    (_, components) = schemas(list(_WORDS))
    amount = {"type": "string", "maxLength": 32, "pattern": AMOUNT, "examples": ["25", "25.00", "$25"]}
    components["BudgetChange"]["properties"]["budget_usd"] = {
        "anyOf": [amount, {"type": "null"}],
        "description": f"The budget, up to {format_usd(AMOUNT_NANO_MAX)}; null: follow the default again.",
    }
    return _documented(components)


def _documented(components: dict[str, Any]) -> dict[str, Any]:
    for name, schema in components.items():
        for field, text in _field_docstrings().get(name, {}).items():
            for key in (field, f"{field.removesuffix('_nano')}_usd"):
                if key in schema.get("properties", {}):
                    schema["properties"][key].setdefault("description", text)
    return components


@lru_cache(maxsize=1)
def _field_docstrings() -> dict[str, dict[str, str]]:
    """The texts below the fields of the words, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for module in (words, own_words):
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                found[node.name] = dict(_texts(node.body))
    return found


def _texts(body: list[ast.stmt]) -> list[tuple[str, str]]:
    made = []
    for before, after in pairwise(body):
        match before, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                made.append((name, inspect.cleandoc(text)))
    return made

"""The admin API held against its own document: whatever is sent, it answers as it says that it does, and never with 500."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings

from tests.support.admin import ADMIN, READER, MemoryControl, account, desk
from tests.support.gate import WAIT_S_MAX
from tokengate.api import Access
from tokengate.api.access import Brake
from tokengate.api.document import OPERATIONS, describe
from tokengate.api.guard import STATUS
from tokengate.api.routes import Routes, create_api
from tokengate.control.words import Kind

EXAMPLES = 60
DIGITS_SURE = 7


def _document() -> dict[str, Any]:
    access = Access(ADMIN, READER)
    routes = Routes(MemoryControl(), access, Brake(), tenant="default", clock_s=lambda: 0.0)
    return describe(create_api(routes))


class _Server(threading.Thread):
    """A console in a loop and a thread of its own: schemathesis waits for its answers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.url = ""
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.end = asyncio.Event()

    def run(self) -> None:
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        control = MemoryControl()
        control.put(account("mine", spent=7.5), account("team", kind=Kind.AGENT))
        async with desk(control) as at:
            self.url = at.url
            self.ready.set()
            await self.end.wait()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = _Server()
    server.start()
    assert server.ready.wait(WAIT_S_MAX)
    yield server.url
    server.loop.call_soon_threadsafe(server.end.set)
    server.join(WAIT_S_MAX)


DOCUMENT = _document()
REFERENCE = (Path(__file__).parent.parent / "docs" / "reference" / "admin-api.md").read_text()


def rows(header: str) -> list[list[str]]:
    """The rows of the table of the reference below this header."""
    lines = REFERENCE[REFERENCE.index(header) :].splitlines()[2:]
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


class TestReference:
    def test_it_has_every_operation_with_its_words(self) -> None:
        listed = {}
        for endpoint, summary, takes, gives in rows("| Endpoint |"):
            method, path = endpoint.strip("`").split()
            path = path.replace("KIND", "{kind}").replace("NAME", "{name}")
            listed[method, path] = (summary, takes.removesuffix(", or nothing").strip("`"), gives.strip("`"))
        described = {}
        for path, methods in DOCUMENT["paths"].items():
            for method, made in methods.items():
                known = OPERATIONS[made["operationId"]]
                words = [each.__name__ if each else "" for each in (known.body or known.parameters, known.answer)]
                described[method.upper(), path] = (known.summary, *words)
        assert listed == described

    def test_it_has_every_fault_with_its_status(self) -> None:
        listed = {type_.strip("`"): int(status) for type_, status, _ in rows("| `type` |")}
        assert listed == STATUS


schema = schemathesis.openapi.from_dict(DOCUMENT)


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_it_answers_as_its_document_says(case: "schemathesis.Case[Any]", url: str) -> None:
    if isinstance(case.body, dict):
        # To a schema 1.0 is an integer; to the API it is not.
        assume(not isinstance(case.body.get("for_ms"), float))
    if isinstance(case.body, dict) and case.path.endswith("/budget"):
        # That there is a largest amount cannot be said in a schema.
        assume(len(str(case.body.get("budget_usd"))) < DIGITS_SURE)
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {ADMIN}"})

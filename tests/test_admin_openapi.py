"""The admin API held against its own document: whatever is sent, it answers as it says that it does, and never with 500."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, settings

from tests.support.admin import ADMIN, READER, MemoryControl, account, desk
from tests.support.gate import WAIT_S_MAX
from tokengate.api import Access
from tokengate.api.access import Brake
from tokengate.api.document import describe
from tokengate.api.routes import Routes, create_api
from tokengate.control.words import Kind

EXAMPLES = 60
DIGITS_SURE = 7


def _document() -> dict[str, object]:
    access = Access(ADMIN, READER)
    routes = Routes(MemoryControl(), access, Brake(), tenant="default", gate=None, clock_s=lambda: 0.0)
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


schema = schemathesis.openapi.from_dict(_document())


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_it_answers_as_its_document_says(case: "schemathesis.Case[Any]", url: str) -> None:
    if isinstance(case.body, dict) and case.path.endswith("/budget"):
        # That there is a largest amount cannot be said in a schema.
        assume(len(str(case.body.get("budget_usd"))) < DIGITS_SURE)
    case.call_and_validate(base_url=url, headers={"Authorization": f"Bearer {ADMIN}"})

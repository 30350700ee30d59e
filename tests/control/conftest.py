"""A desk on a real store, both ways."""

from collections.abc import AsyncIterator

import pytest

from tests.control.desk import Desk, Open, desk
from tests.support.redis_server import Server


@pytest.fixture(params=["local", "remote"])
def opened(request: pytest.FixtureRequest, store: Server) -> Open:
    return lambda **settings: desk(store, request.param, **settings)


@pytest.fixture
async def at(opened: Open) -> AsyncIterator[Desk]:
    async with opened(AGENT_BUDGET="100", TENANT_BUDGET="1000") as there:
        yield there

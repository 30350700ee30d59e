"""What tests of the whole share: one Redis server for all, empty for each."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import redis
import uvloop

from tests.support.away import Away, away_server
from tests.support.redis_server import Server, redis_server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.fixture
def store(shared_redis: Server) -> Server:
    """A server that holds nothing yet."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def away() -> Iterator[Away]:
    """A server of the test's own, which it may take away."""
    with away_server() as running:
        yield running


@pytest.fixture
def redis_cli(store: Server) -> Iterator["redis.Redis"]:
    """The store as a person sees it."""
    with store.client() as client:
        yield client


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of production."""
    return {"uvloop": uvloop.new_event_loop}

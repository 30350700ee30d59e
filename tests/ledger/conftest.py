from collections.abc import Iterator

import pytest

from tests.support.redis_server import Server, redis_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running

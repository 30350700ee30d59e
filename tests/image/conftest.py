"""The engine and the image, one for all tests."""

from typing import Final

import pytest

from tests.image.engine import Engine
from tokengate import __version__

TAG: Final = "localhost/tokengate:test"


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine.opened()


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    return engine.build(TAG, VERSION=__version__, REVISION="0123456", CREATED="2026-01-02T03:04:05Z")

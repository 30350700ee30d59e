"""What a command loads before it answers: somebody waits at a prompt, and every package is felt there."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.admin import ADMIN, desk
from tests.support.gate import ROOT
from tests.support.redis_server import Server

PROGRAM = """
import sys
sys.argv = ["tokengate", *sys.argv[1:]]
from tokengate.__main__ import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""

HEAVY = frozenset(
    {"fastapi", "httpx", "opentelemetry", "redis", "rich", "starlette", "structlog", "tiktoken", "uvicorn"}
)
"""Packages that take a tenth of a second together, or alone."""

OURS = frozenset({"alerts", "api", "app", "console", "dashboard", "gate", "injector", "pricing", "providers", "proxy", "server", "store", "telemetry", "tokens"})  # fmt: skip
"""What no command about sessions needs of us."""


def loaded(folder: Path, *arguments: str, **environ: str) -> tuple[set[str], set[str]]:
    """Which packages, and which modules of ours, a command has loaded when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True, text=True, check=True, cwd=folder, env={"HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}, timeout=60,
    )  # fmt: skip
    names = done.stderr.splitlines()[-1].split()
    ours = {name.split(".")[1] for name in names if name.startswith("tokengate.")}
    return {name.partition(".")[0] for name in names}, ours


@pytest.fixture(autouse=True)
def _a_session(store: Server) -> None:
    with store.client() as client:
        client.hset("tokengate:{default}:session:mine", mapping={"budget": "5"})
        client.zadd("tokengate:{default}:sessions", {"mine": 1_700_000_000_000})


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (("--version",), ()),
        (("get-budget", "mine"), ()),
        (("set-budget", "mine", "5"), ()),
        (("freeze-session", "mine", "--reason", "test"), ()),
        (("unfreeze-session", "mine"), ()),
        (("events",), ()),
        (("show-session", "mine", "--json"), ()),
        (("list-sessions", "--json"), ()),
        (("list-sessions",), ("rich",)),
        (("spend",), ()),
        (("show-session", "mine"), ("rich",)),
    ],
)
def test_a_command_loads_what_it_needs(
    tmp_path: Path, store: Server, arguments: Sequence[str], needed: Sequence[str]
) -> None:
    packages, ours = loaded(tmp_path, *arguments, REDIS_URL=store.url)
    assert "typer" in packages
    assert packages & HEAVY == set(needed)
    assert ours & OURS == set()


async def test_asking_a_gate_needs_no_store(tmp_path: Path) -> None:
    async with desk() as at:
        packages, ours = await asyncio.to_thread(
            loaded, tmp_path, "list-sessions", "--json", TOKENGATE_SERVER=at.url, ADMIN_TOKEN=ADMIN
        )
    assert packages & (HEAVY | {"hiredis", "pydantic_settings", "pygments"}) == {"httpx"}
    assert ours & (OURS | {"ledger", "settings"}) == set()


def test_a_url_that_is_not_plain_is_read_by_redis_py_without_what_it_would_take_along(
    tmp_path: Path, store: Server
) -> None:
    packages, _ = loaded(tmp_path, "get-budget", "mine", REDIS_URL=f"{store.url}?db=0")
    assert packages & HEAVY == {"redis"}

"""`tokengate doctor`: each thing that can be wrong is found, said in words, and fails the command if it must."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support import certificates
from tests.support.gate import ROOT
from tests.support.redis_server import Server, redis_server
from tests.support.servers import free_port
from tokengate.cli.doctor import Check, Mark, _eviction, _persistence, _version, as_table

Found = dict[str, tuple[str, str]]


@pytest.fixture
def listening() -> Iterator[str]:
    """A provider that takes connections, and would notice a request."""
    import socket

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        server.setblocking(False)
        try:
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.settimeout(5)
                    assert connection.recv(1) == b"", "a request was sent"
        except BlockingIOError:
            pass


def doctor(*arguments: str, **settings: object) -> "subprocess.CompletedProcess[str]":
    environ = {name.upper(): str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:
        return subprocess.run(
            [sys.executable, "-m", "tokengate", "doctor", *arguments],
            env={"PATH": os.environ["PATH"], "HOME": folder, "PYTHONPATH": str(ROOT), "COLUMNS": "80"} | environ,
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip


def found(**settings: object) -> tuple[int, Found]:
    ran = doctor("--json", **settings)
    rows: list[dict[str, str]] = json.loads(ran.stdout)
    return ran.returncode, {row["check"]: (row["mark"], row["finding"]) for row in rows}


def test_a_good_place_for_a_gate(listening: str) -> None:
    with redis_server("--appendonly", "yes") as server:
        ran = doctor(redis_url=server.url, openai_base_url=listening)
        with server.client() as client:
            assert client.keys("*") == []
    assert ran.returncode == 0, ran.stdout
    rows = [line.split(maxsplit=2) for line in ran.stdout.splitlines() if not line.startswith(" ")]
    assert [row[0] for row in rows][:3] == ["settings", "store", "version"]
    assert {row[1] for row in rows} == {"ok"}
    assert max(map(len, ran.stdout.splitlines())) <= 80
    assert len(rows) == 10


def test_the_reference_lists_every_check(listening: str) -> None:
    with redis_server() as server:
        _, checks = found(redis_url=server.url, openai_base_url=listening)
    text = (ROOT / "docs" / "reference" / "cli.md").read_text().partition("## `tokengate doctor`")[2]
    table = text.partition("\n## ")[0]
    assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(checks)
    assert checks["persistence"][0] == "warning"


def test_settings_that_cannot_be_used() -> None:
    code, checks = found(default_budget="much", port="x")
    assert (code, list(checks)) == (1, ["settings"])
    assert checks["settings"][0] == "failed"


def test_nothing_there() -> None:
    port = free_port()
    code, checks = found(redis_url=f"redis://127.0.0.1:{port}", openai_base_url=f"http://127.0.0.1:{port}/v1")
    assert code == 1
    assert checks["store"][0] == checks["provider"][0] == "failed"
    assert "version" not in checks
    assert checks["prices"][0] == "ok"


def test_a_wrong_password_is_not_repeated(listening: str) -> None:
    with redis_server() as server, server.client() as client:
        client.config_set("requirepass", "right")
        ran = doctor(redis_url=f"unix://:wr0ng@{server.socket}", openai_base_url=listening)
        assert ran.returncode == 1
        assert "refuses our credentials" in " ".join(ran.stdout.split())
        assert "wr0ng" not in ran.stdout + ran.stderr
        client.config_set("requirepass", "")


def test_a_store_that_evicts_and_forbids(store: Server, redis_cli: "redis.Redis", listening: str) -> None:
    redis_cli.config_set("maxmemory-policy", "allkeys-lru")
    redis_cli.config_set("maxmemory", "100mb")
    redis_cli.execute_command("ACL", "SETUSER", "half", "on", ">secret", "~*", "+@all", "-evalsha")
    redis_cli.execute_command("ACL", "SETUSER", "none", "on", ">secret", "~*", "+@all", "-evalsha", "-eval", "-time")
    try:
        code, checks = found(redis_url=f"unix://half:secret@{store.socket}", openai_base_url=listening)
        assert (code, checks["eviction"][0]) == (1, "failed")
        assert checks["scripts"][0] == "ok"
        assert "in full" in checks["scripts"][1]
        code, checks = found(redis_url=f"unix://none:secret@{store.socket}", openai_base_url=listening)
        assert checks["scripts"][0] == checks["clock"][0] == "failed"
    finally:
        redis_cli.config_set("maxmemory-policy", "noeviction")
        redis_cli.config_set("maxmemory", 0)
        redis_cli.execute_command("ACL", "DELUSER", "half", "none")


def test_journals_prices_and_directories(store: Server, listening: str, tmp_path: Path) -> None:
    (tmp_path / "prices.json").write_text('{"version": 1, "sections": {"openai": {"models": {"m": {"input": -1}}}}}')
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "left.journal").write_text("{}\n")
    given: dict[str, Any] = {"redis_url": store.url, "openai_base_url": listening, "on_store_failure": "allowance"}
    code, checks = found(data_dir=tmp_path, pricing_file=tmp_path / "prices.json", **given)
    assert (code, checks["journal"][0], checks["prices"][0]) == (1, "warning", "failed")
    (tmp_path / "file").write_text("")
    code, checks = found(data_dir=tmp_path / "file", **given)
    assert (code, checks["journal"][0]) == (1, "failed")


async def test_a_provider_whose_certificate_is_not_trusted(store: Server, tmp_path: Path) -> None:
    import ssl

    from tests.support.servers import Conversation, raw_server

    async def quiet(conversation: Conversation) -> None:
        await conversation.gone()

    made = certificates.make(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.certificate, made.key)
    async with raw_server(quiet, tls) as server:
        given = {"redis_url": store.url, "openai_base_url": f"{server.url}/v1"}
        code, checks = await asyncio.to_thread(lambda: found(**given))
        assert (code, checks["provider"][0]) == (1, "failed")
        assert "certificate" in checks["provider"][1]
        code, checks = await asyncio.to_thread(lambda: found(upstream_ca_file=made.authority, **given))
        assert (code, checks["provider"][0]) == (0, "ok")
        assert server.requests == []


@pytest.mark.parametrize(
    ("check", "mark"),
    [
        (_version({"redis_version": "7.0.15"}), Mark.OK),
        (_version({"redis_version": "7.2.4", "valkey_version": "8.1.0"}), Mark.OK),
        (_version({}), Mark.WARNING),
        (_eviction({}), Mark.WARNING),
        (_eviction({"maxmemory_policy": "allkeys-lru"}), Mark.WARNING),
        (_eviction({"maxmemory_policy": "noeviction", "used_memory": "95", "maxmemory": "100"}), Mark.WARNING),
        (_eviction({"maxmemory_policy": "noeviction", "used_memory": "100", "maxmemory": "100"}), Mark.FAILED),
        (_persistence({}), Mark.WARNING),
        (_persistence({"aof_enabled": "1", "aof_last_write_status": "err"}), Mark.FAILED),
        (_persistence({"aof_enabled": "1", "aof_last_write_status": "ok"}), Mark.OK),
    ],
)
def test_what_a_server_tells(check: Check, mark: Mark) -> None:
    assert check.mark is mark


def test_long_findings_are_wrapped_beside_the_names() -> None:
    table = as_table([Check("store", Mark.FAILED, "word " * 40), Check("provider", Mark.OK, "fine")])
    assert max(map(len, table.splitlines())) <= 80
    assert table.splitlines()[1].startswith(" " * 19 + "word")

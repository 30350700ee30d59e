"""The rights that users of Redis need: all that a gate does is allowed to its user, and nothing else is.

The list is derived from the scripts and the commands in the code, and proven on a real server.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import redis
from typer.testing import CliRunner

from tests.support.charts import CHARTS, Chart, of_kind, one, templates
from tests.support.gate import until
from tests.support.redis_server import Server
from tests.support.scene import scene
from tests.support.servers import free_port
from tokengate import cli
from tokengate.budgets import Policy, limits
from tokengate.composition import open_ledger
from tokengate.domain import Ending, Scope, Session, Usage
from tokengate.ledger import Ask, Kind, Settlement
from tokengate.ledger.redis import RedisLedger
from tokengate.settings import Settings, load
from tokengate.store import open_store

ROOT: Final = Path(__file__).parent.parent
RIGHTS: Final = {
    name: (CHARTS / "tokengate" / "files" / "acl" / f"{name}.txt").read_text().strip() for name in ("sidecar", "admin")
}
PASSWORD: Final = "secret"
USD: Final = 1_000_000_000
ALICE: Final = Session("alice", agent="crawler")
PATH: Final = limits(Policy(10 * USD, agent_cap_nano=20 * USD), ALICE)


ADMINISTRATORS: Final = {"budget", "delete", "reset"}
"""Scripts that no gate runs: they change budgets, and are for the commands and the console."""


def derived() -> set[str]:
    """The commands that a gate's code and scripts say, and those with which redis-py begins a connection."""
    found = {"eval", "evalsha", "select", "client|setname"}
    for script in (ROOT / "tokengate" / "ledger").glob("*.lua"):
        if script.stem not in ADMINISTRATORS:
            found |= {name.lower() for name in re.findall(r"redis\.p?call\('([A-Z]+)'", script.read_text())}
    listing = "import sys, tokengate.server; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('tokengate.l')))"
    loaded = subprocess.run([sys.executable, "-c", listing], cwd=ROOT, capture_output=True, text=True, check=True)
    for module in loaded.stdout.split():
        found |= {name.lower() for name in re.findall(r"""\bcommand\(\s*"([A-Z]+)\"""", Path(module).read_text())}
    return found


def granted(name: str) -> set[str]:
    return {word[1:] for word in RIGHTS[name].split() if word.startswith("+")}


@pytest.fixture
def users(store: Server) -> Iterator["redis.Redis"]:
    """The server's own administrator, after the users were made by the rights that are shipped."""
    with store.client() as client:
        client.execute_command("ACL", "LOG", "RESET")
        for name, rights in RIGHTS.items():
            client.execute_command(
                "ACL", "SETUSER", f"tokengate-{name}", "reset", "on", f">{PASSWORD}", *rights.split()
            )
        yield client
        for name in RIGHTS:
            client.execute_command("ACL", "DELUSER", f"tokengate-{name}")


def url(store: Server, name: str) -> str:
    return f"unix://tokengate-{name}:{PASSWORD}@{store.socket}"


def acting(store: Server, name: str) -> "redis.Redis":
    return redis.Redis(
        unix_socket_path=store.socket, username=f"tokengate-{name}", password=PASSWORD, decode_responses=True
    )


def denied(users: "redis.Redis") -> set[str]:
    """What the server has refused to anybody since the users were made."""
    entries: list[dict[str, Any]] = users.acl_log(128)
    return {str(each["object"]) for each in entries}


@pytest.fixture
async def ledger(users: "redis.Redis", store: Server) -> AsyncIterator[RedisLedger]:
    """A gate's ledger, as the sidecars' user."""
    settings: Settings = load({"REDIS_URL": url(store, "sidecar")}, None).settings
    opened = await open_store(settings)
    async with open_ledger(settings, opened, owner="gate") as running:
        yield running
    await opened.aclose()


def ask(hold_id: str) -> Ask:
    return Ask(hold_id, ALICE, PATH, USD, USD, USD, True, "gpt-4o")


def settlement(hold_id: str) -> Settlement:
    return Settlement(hold_id, ALICE, PATH, 2 * USD, False, Ending.COMPLETE, "gpt-4o", Usage(3, 4))


def test_they_are_documented_as_they_are_shipped() -> None:
    page = (ROOT / "docs" / "how-to" / "redis-users.md").read_text()
    for name, rights in RIGHTS.items():
        assert f"ACL SETUSER tokengate-{name} on >PASSWORD {rights}\n" in page


async def test_the_trial_redis_starts_as_the_chart_says_and_knows_its_users(tmp_path: Path) -> None:
    chart = Chart()
    rendered = chart.case("trial")
    chart.close()
    (tmp_path / "users.acl").write_text(one(rendered, "Secret", "-redis-trial")["stringData"]["users.acl"])
    (container,) = templates(one(rendered, "StatefulSet"))[0]["spec"]["containers"]
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    port = free_port()
    # Where they are is the container's own.
    options |= {
        "--port": str(port),
        "--bind": "127.0.0.1",
        "--dir": str(tmp_path),
        "--aclfile": f"{tmp_path}/users.acl",
    }
    command = [shutil.which("redis-server") or "valkey-server", *(word for pair in options.items() for word in pair)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            await until(lambda: listens(port))
            for secret in of_kind(rendered, "Secret", "tokengate-redis-admin") + of_kind(
                rendered, "Secret", "tokengate-redis"
            ):
                place = urlsplit(secret["stringData"]["REDIS_URL"])
                with redis.Redis(port=port, username=place.username, password=place.password) as user:
                    assert user.ping()
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        user.flushall()
            with redis.Redis(port=port) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
                nobody.ping()
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class TestTheSidecarsUser:
    def test_it_has_what_the_code_says_and_no_more(self) -> None:
        # Not equal? Change charts/tokengate/files/acl/sidecar.txt, and docs/how-to/redis-users.md with it.
        assert granted("sidecar") == derived()
        assert re.match(r"~tokengate:\* resetchannels -@all \+", RIGHTS["sidecar"])

    async def test_all_that_a_ledger_does(self, ledger: RedisLedger, users: "redis.Redis") -> None:
        assert (await ledger.reserve(ask("one"))).kind is Kind.HELD
        assert await ledger.renew("default", ["one", "gone"]) == ["gone"]
        assert (await ledger.settle(settlement("one"))).charged_nano == 2 * USD
        await ledger.reserve(ask("two"))
        users.zadd("tokengate:{default}:leases", {"two": 1})
        assert await ledger.sweep("default") == 1
        assert await ledger.resume("default", "journal") == 0
        await ledger.replay(settlement("three"), "journal", 1, known=False)
        await ledger.forget("default", "journal")
        scope = Scope("default", "session", "alice")
        await ledger.freeze(scope, reason="why", for_ms=None, by="gate")
        assert (await ledger.reserve(ask("four"))).kind is Kind.FROZEN
        assert await ledger.unfreeze(scope, by="gate")
        await ledger.tally("default", {"blocked": 1})
        assert (await ledger.state(PATH[0])).spent_nano == 5 * USD
        await ledger.ping()
        assert denied(users) == set()

    async def test_all_that_a_gate_does(self, users: "redis.Redis", store: Server) -> None:
        async with scene(
            url(store, "sidecar"), agent="crawler", agent_budget="20.00", tenant_budget="50", tenant_budget_period="day"
        ) as played:
            whole = await played.http.post(
                "/v1/chat/completions",
                headers={"x-session-id": "alice"},
                json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
            )
            assert whole.status_code == 200
            shown = await played.http.get("/tokengate/budget", headers={"x-session-id": "alice"})
            assert shown.json()["budget"] == 10
            assert (await played.http.get("/health")).status_code == 200
        # It looks how the server is set up when it starts, and does without where it may not.
        assert denied(users) <= {"info"}

    FORBIDDEN: Final = [
        "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0", "CONFIG GET *", "CONFIG SET maxmemory 1", "SHUTDOWN", "INFO",
        "DEL tokengate:{default}:session:alice", "UNLINK tokengate:{default}:session:alice",
        "RENAME tokengate:{default}:session:alice tokengate:{default}:x", "SET tokengate:{default}:x 1",
        "EXPIREAT tokengate:{default}:session:alice 1", "DUMP tokengate:{default}:session:alice",
        "XREAD STREAMS tokengate:{default}:events 0", "XTRIM tokengate:{default}:events MAXLEN 0", "MONITOR", "CLIENT LIST",
        "CLIENT KILL TYPE normal", "ACL LIST", "ACL SETUSER tokengate-sidecar allkeys", "SCRIPT FLUSH", "SCRIPT KILL",
        "FUNCTION FLUSH", "REPLICAOF NO ONE", "SUBSCRIBE any", "PUBLISH any any", "MIGRATE h 1 k 0 1", "SAVE", "SWAPDB 0 1",
    ]  # fmt: skip

    @pytest.mark.parametrize("words", FORBIDDEN)
    def test_nothing_else(self, users: "redis.Redis", store: Server, words: str) -> None:
        with acting(store, "sidecar") as gate, pytest.raises(redis.exceptions.NoPermissionError):
            gate.execute_command(*words.split())

    def test_no_other_keys_directly_or_by_a_script(self, users: "redis.Redis", store: Server) -> None:
        users.hset("others:session", "budget", "1")
        with acting(store, "sidecar") as gate:
            for words in (
                ("HGET", "others:session", "budget"),
                ("HSET", "tokengates:session", "budget", "2"),
                ("EVAL", "return redis.call('HGET', KEYS[1], 'budget')", 1, "others:session"),
                ("EVAL", "return redis.call('HGET', 'others:session', 'budget')", 0),
                ("EVAL", "return redis.call('DEL', KEYS[1])", 1, "tokengate:{default}:session:alice"),
            ):
                with pytest.raises(
                    redis.exceptions.RedisError,
                    match=r"(?i)permission|NOPERM|can't (run this command|access at least one of the keys)",
                ):
                    gate.execute_command(*words)
        assert users.hget("others:session", "budget") == "1"

    def test_a_user_of_one_tenant_sees_no_other(self, users: "redis.Redis", store: Server) -> None:
        rights = RIGHTS["sidecar"].replace("~tokengate:*", "~tokengate:{team-a}:*")
        users.execute_command("ACL", "SETUSER", "tokengate-sidecar", "reset", "on", f">{PASSWORD}", *rights.split())
        with acting(store, "sidecar") as gate:
            gate.hset("tokengate:{team-a}:session:alice", "budget", "1")
            with pytest.raises(redis.exceptions.NoPermissionError):
                gate.hget("tokengate:{team-b}:session:alice", "budget")


class TestTheAdministratorsUser:
    def test_commands_and_the_doctor_work(
        self, users: "redis.Redis", store: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        environ = {"REDIS_URL": url(store, "admin"), "OPENAI_BASE_URL": f"http://127.0.0.1:{free_port()}/v1"}
        for words in (["set-budget", "alice", "25.00"], ["get-budget", "alice", "--json"]):
            done = CliRunner(env=environ).invoke(cli.app, words)
            assert done.exit_code == 0, done.output
        examined = CliRunner(env=environ).invoke(cli.app, ["doctor", "--json"])
        marks = {each["check"]: each["mark"] for each in json.loads(examined.stdout)}
        assert {marks[name] for name in ("store", "version", "clock", "scripts", "eviction")} == {"ok"}
        assert denied(users) == set()

    FORBIDDEN: Final = [
        "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "SHUTDOWN", "ACL LIST", "SCRIPT FLUSH", "MONITOR",
        "CLIENT KILL TYPE normal", "REPLICAOF NO ONE", "SWAPDB 0 1", "FUNCTION FLUSH", "SAVE", "HGETALL others:session",
    ]  # fmt: skip

    @pytest.mark.parametrize("words", FORBIDDEN)
    def test_but_not_what_would_harm_the_server_or_others(
        self, users: "redis.Redis", store: Server, words: str
    ) -> None:
        with acting(store, "admin") as person, pytest.raises(redis.exceptions.NoPermissionError):
            person.execute_command(*words.split())

    def test_it_may_delete_and_list_what_is_ours(self, users: "redis.Redis", store: Server) -> None:
        users.hset("tokengate:{default}:session:alice", "budget", "1")
        users.zadd("tokengate:{default}:sessions", {"alice": 1})
        with acting(store, "admin") as person:
            assert person.zrevrange("tokengate:{default}:sessions", 0, 9) == ["alice"]
            assert person.hgetall("tokengate:{default}:session:alice") == {"budget": "1"}
            assert person.delete("tokengate:{default}:session:alice") == 1
            assert person.xrevrange("tokengate:{default}:events", count=10) == []

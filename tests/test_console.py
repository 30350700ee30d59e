"""Where administrators are served: beside the calls, on a port of their own, alone, or not at all; over a real store."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import redis

from tests.support.admin import ADMIN, READER
from tests.support.browser import chromium
from tests.support.gate import ROOT, Process, gate_processes, simulated
from tests.support.hashes import key
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, client, fixed, headers, scene
from tests.support.servers import free_port
from tokengate.api import LOOPBACK_NAMES, PATHS
from tokengate.app import ADMIN_PATHS
from tokengate.console import hosts_of
from tokengate.settings import load

STATS = "/api/dashboard/stats"
BEARER = {"authorization": f"Bearer {ADMIN}"}
NOWHERE = "http://127.0.0.1:9/v1"


@asynccontextmanager
async def served(role: str, store: Server, **settings: Any) -> AsyncIterator[tuple[Process, httpx.AsyncClient]]:
    """A process with this role, and a client of its port."""
    async with gate_processes(1, NOWHERE, store.url, role, **settings) as [running], client(running.url) as http:
        yield running, http


class TestWhereItIs:
    async def test_beside_the_calls(self, store: Server) -> None:
        async with scene(store.url, admin_token=ADMIN, admin_read_token=READER) as at:
            assert (await at.ask("mine")).status_code == 200
            await at.gate.idle()
            page = await at.http.get("/dashboard")
            assert "Log in" in page.text
            stats = await at.http.get(STATS, headers={"authorization": f"Bearer {READER}"})
            assert stats.json()["sessions"] == 1
            assert stats.json()["requests_today"] == 1

    async def test_on_a_port_of_its_own_and_then_nowhere_else(self, store: Server) -> None:
        port = free_port()
        async with (
            served("all", store, admin_token=ADMIN, admin_port=port) as (_, http),
            client(f"http://127.0.0.1:{port}") as apart,
        ):
            assert (await apart.get(STATS, headers=BEARER)).status_code == 200
            assert (await apart.get("/dashboard")).status_code == 200
            assert (await apart.get("/readyz")).status_code == 200
            assert (await apart.post(CHAT, content=chat(), headers=headers("mine"))).status_code == 404
            for path in (STATS, "/dashboard", "/api/dashboard/login"):
                answer = await http.get(path, headers=BEARER)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "endpoint_not_metered")

    async def test_in_a_sidecar_nowhere(self, store: Server) -> None:
        port = free_port()
        async with served("sidecar", store, admin_token=ADMIN, admin_port=port) as (running, http):
            for path in (STATS, "/dashboard", "/api/dashboard/login", "/api/dashboard/openapi.json"):
                for given in ({}, BEARER):
                    assert (await http.get(path, headers=given)).status_code == 404
            with pytest.raises(httpx.ConnectError):
                await http.get(f"http://127.0.0.1:{port}{STATS}")
            [said] = running.said("serving")
            assert "dashboard" not in said

    def test_a_sidecar_does_not_even_load_it(self, store: Server) -> None:
        program = """
import asyncio, sys
from tokengate.app import open_app
from tokengate.server import main
from tokengate.settings import load
async def run():
    async with open_app(load({"REDIS_URL": sys.argv[1]}, None).settings, "sidecar", "test"):
        print(*sorted(sys.modules))
asyncio.run(run())
"""
        done = subprocess.run(
            [sys.executable, "-c", program, store.url], capture_output=True, text=True, check=True, cwd=ROOT
        )
        loaded = set(done.stdout.split())
        assert "tokengate.proxy" in loaded
        assert not [name for name in loaded if name.startswith(("fastapi", "starlette", "tokengate.api", "tokengate.dashboard", "tokengate.console", "tokengate.control", "typer"))]  # fmt: skip

    async def test_alone_without_a_providers_key_and_without_calls(self, store: Server) -> None:
        async with served("console", store, admin_token=ADMIN, openai_api_key="") as (running, http):
            assert (await http.get(STATS, headers=BEARER)).status_code == 200
            assert (await http.get("/dashboard")).status_code == 200
            assert (await http.get("/health")).json() == {
                "status": "ok",
                "store": "ok",
                "version": "0.1.0",
                "role": "console",
            }
            for path in (CHAT, "/v1/models", "/tokengate/budget", "/"):
                assert (await http.get(path)).status_code == 404
            [said] = running.said("serving")
            assert said["dashboard"] == f"{running.url}/dashboard"
            assert "provider" not in said
            running.signal(1)
            assert (await http.get("/livez")).status_code == 200
            running.signal(15)
            assert await running.ended() == 0

    async def test_a_console_is_where_host_and_port_say(self, store: Server) -> None:
        apart = {"admin_port": free_port(), "admin_host": "127.0.0.2"}
        async with served("console", store, admin_token=ADMIN, **apart) as (running, http):
            assert (await http.get(STATS, headers=BEARER)).status_code == 200
            assert running.said("serving")[0]["dashboard"] == f"{running.url}/dashboard"

    def test_an_address_without_a_port_of_its_own_is_a_fault(self, store: Server) -> None:
        environ = {"REDIS_URL": store.url, "PORT": str(free_port()), "ADMIN_HOST": "127.0.0.1"}
        command = [sys.executable, "-m", "tokengate", "serve"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ)
        assert done.returncode == 2
        assert "ADMIN_HOST=127.0.0.1: allowed is only together with ADMIN_PORT" in done.stderr

    def test_the_paths_are_told_apart_by_the_same_names(self) -> None:
        assert ADMIN_PATHS == PATHS

    @pytest.mark.parametrize(
        ("settings", "hosts"),
        [
            ({}, LOOPBACK_NAMES),
            ({"HOST": "127.0.0.2"}, LOOPBACK_NAMES | {"127.0.0.2"}),
            ({"HOST": "0.0.0.0"}, None),
            ({"HOST": "0.0.0.0", "ADMIN_HOST": "localhost", "ADMIN_PORT": "9000"}, LOOPBACK_NAMES),
            ({"ADMIN_ALLOWED_HOSTS": "gate.example"}, LOOPBACK_NAMES | {"gate.example"}),
            ({"HOST": "10.0.0.7", "ADMIN_ALLOWED_HOSTS": "gate.example,10.0.0.7"}, {"gate.example", "10.0.0.7"}),
            ({"ADMIN_ALLOWED_HOSTS": "*"}, None),
        ],
    )
    def test_by_which_names_it_is_asked(self, settings: dict[str, str], hosts: frozenset[str] | None) -> None:
        assert hosts_of(load(settings, None).settings) == hosts


class TestTokens:
    @pytest.mark.parametrize("role", ["all", "console"])
    async def test_where_none_is_set_one_is_made_and_printed_once(self, store: Server, role: str) -> None:
        async with served(role, store) as (running, http):
            text = running.output.read_text()
            [address] = [line.strip() for line in text.splitlines() if "#token=" in line]
            url, token = address.split("#token=")
            assert url == f"{running.url}/dashboard"
            assert len(token) == 43
            assert text.count(token) == 1
            assert (await http.get(STATS, headers={"authorization": f"Bearer {token}"})).status_code == 200

    async def test_one_that_is_set_is_not_printed(self, store: Server) -> None:
        async with served("all", store, admin_token=ADMIN, admin_read_token=READER) as (running, http):
            assert (await http.get(STATS, headers=BEARER)).status_code == 200
            text = running.output.read_text()
            assert "#token" not in text
            assert ADMIN not in text
            assert READER not in text

    async def test_workers_have_the_same_one_and_know_the_same_sessions(self, store: Server) -> None:
        async with served("all", store, workers=2) as (running, _):
            [address] = [line.strip() for line in running.output.read_text().splitlines() if "#token=" in line]
            async with client(running.url) as http:
                cookies = (await http.post("/api/dashboard/login", json={"token": address.split("=")[1]})).cookies
            for _ in range(12):
                # Each connection comes to whichever worker it may.
                async with client(running.url) as http:
                    http.cookies = cookies
                    assert (await http.get("/api/dashboard/access")).status_code == 200

    @pytest.mark.parametrize("role", ["all", "console"])
    def test_two_that_are_one_are_refused_at_the_start(self, store: Server, role: str) -> None:
        environ = {"REDIS_URL": store.url, "PORT": str(free_port()), "ADMIN_TOKEN": ADMIN, "ADMIN_READ_TOKEN": ADMIN}
        command = [sys.executable, "-m", "tokengate", "serve", "--role", role]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environ)
        assert done.returncode == 1
        assert "ADMIN_TOKEN and ADMIN_READ_TOKEN are the same" in done.stderr
        assert ADMIN not in done.stdout + done.stderr


class TestWhatItDoes:
    """What is done here is what the next call meets."""

    async def test_a_frozen_session_is_refused_and_set_free(self, store: Server) -> None:
        async with scene(store.url, admin_token=ADMIN) as at:
            assert (await at.ask("mine")).status_code == 200
            await at.gate.idle()

            async def post(action: str, **body: Any) -> Any:
                answer = await at.http.post(f"/api/dashboard/session/mine/{action}", json=body, headers=BEARER)
                assert answer.status_code == 200, answer.text
                return answer.json()

            assert (await post("freeze", reason="It loops"))["frozen"] is True
            refused = await at.ask("mine")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "session_frozen")
            assert "It loops" in refused.json()["error"]["message"]
            assert (await post("unfreeze", by="alice"))["frozen"] is False
            assert (await at.ask("mine")).status_code == 200
            events = (await at.http.get("/api/dashboard/events", headers=BEARER)).json()["events"]
            assert [(event["kind"], event["by"]) for event in events] == [
                ("freeze", "admin from 127.0.0.1"), ("unfreeze", "alice, admin from 127.0.0.1"),
            ]  # fmt: skip

    async def test_a_budget_is_obeyed_and_a_reset_starts_anew(self, store: Server, redis_cli: "redis.Redis") -> None:
        call = fixed()
        async with scene(store.url, admin_token=ADMIN) as at:
            path = "/api/dashboard/session/mine"
            given = {"budget_usd": call.budget(1)}
            assert (await at.http.post(f"{path}/budget", json=given, headers=BEARER)).status_code == 200
            statuses = [(await at.post(call.body, "mine", call.simulate)).status_code]
            await at.gate.idle()
            statuses.append((await at.post(call.body, "mine", call.simulate)).status_code)
            assert (await at.http.post(f"{path}/reset", headers=BEARER)).status_code == 200
            statuses.append((await at.post(call.body, "mine", call.simulate)).status_code)
            await at.gate.idle()
            assert statuses == [200, 429, 200]
            assert redis_cli.hget(key("mine"), "epoch") == "1"

    async def test_what_is_no_name_is_said_to_be_none(self, store: Server) -> None:
        async with scene(store.url, admin_token=ADMIN) as at:
            for name in ("%3Cscript%3E", "a%2Fb", "%00", "x" * 129):
                for method, path in (("GET", ""), ("POST", "/reset"), ("DELETE", "")):
                    answer = await at.http.request(method, f"/api/dashboard/session/{name}{path}", headers=BEARER)
                    assert answer.status_code in (400, 404), (method, path, answer.text)
                    assert answer.json()["error"]["type"] in ("invalid", "not_found")

    async def test_a_store_that_is_lost_is_said_to_be(self, store: Server, redis_cli: "redis.Redis") -> None:
        async with scene(store.url, admin_token=ADMIN, store_timeout_ms=200) as at:
            assert (await at.http.get(STATS, headers=BEARER)).status_code == 200
            redis_cli.execute_command("CLIENT", "PAUSE", 3000, "ALL")
            answer = await at.http.get(STATS, headers=BEARER)
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "unavailable")


class TestInABrowser:
    async def test_the_night_call_from_the_printed_address_to_the_next_call(self, store: Server) -> None:
        """An agent is frozen: somebody opens the address that was printed, sees why, and sets it free."""
        async with (
            simulated() as provider,
            gate_processes(1, provider.base_url, store.url, "all") as [running],
            client(running.url) as http,
            chromium() as browser,
        ):
            assert (await http.post(CHAT, content=chat(), headers=headers("night-agent"))).status_code == 200
            [address] = [line.strip() for line in running.output.read_text().splitlines() if "#token=" in line]
            given = {"authorization": f"Bearer {address.split('=')[1]}"}
            path = "/api/dashboard/session/night-agent/freeze"
            frozen = await http.post(path, json={"reason": "The same call 8 times"}, headers=given)
            assert frozen.status_code == 200, frozen.text
            assert (await http.post(CHAT, content=chat(), headers=headers("night-agent"))).status_code == 403
            page = await browser.new_page()
            wrong: list[str] = []
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
            await page.goto(address)
            card = page.locator("#frozen-list li").filter(has_text="night-agent")
            await card.get_by_text("The same call 8 times").first.wait_for()
            await card.get_by_role("button", name="Unfreeze").click()
            await page.locator("dialog").get_by_role("button", name="Unfreeze").click()
            await card.wait_for(state="detached")
            assert wrong == []
            assert (await http.post(CHAT, content=chat(), headers=headers("night-agent"))).status_code == 200

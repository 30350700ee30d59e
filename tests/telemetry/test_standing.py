"""What the console tells of what all gates share: budgets and their nearness, freezes, holds, and whether there is a store."""

import asyncio
import subprocess

import pytest
import redis

from tests.support.admin import ADMIN
from tests.support.away import Away
from tests.support.gate import gate, gate_processes, simulated, until
from tests.support.prometheus import binary
from tests.support.redis_server import Server
from tests.support.samples import OPENMETRICS, scrape
from tests.support.scene import CHAT, client, fixed, headers
from tests.support.servers import free_port
from tokengate.telemetry.standing import AGENTS_MAX, FAMILIES, Reading, Standing, StandingExposition

NOWHERE = "http://127.0.0.1:9/v1"
BEARER = {"authorization": f"Bearer {ADMIN}"}


def promtool_says(text: str) -> tuple[int, str, str]:
    command = [binary("promtool"), "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return checked.returncode, checked.stdout, checked.stderr


async def test_it_tells_what_gates_have_done(store: Server) -> None:
    call = fixed()
    budgets = {"default_budget": call.budget(2), "agent_budget": call.budget(10), "tenant_budget": call.budget(100)}
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, agent="crawler", **budgets) as running,
        gate_processes(1, NOWHERE, store.url, "console", admin_token=ADMIN, **budgets) as [console],
        client(running.url) as http,
        client(console.url) as admin,
    ):
        for session in ("full", "full", "half", "frozen"):
            answer = await http.post(CHAT, content=call.body, headers=headers(session, call.simulate))
            assert answer.status_code == 200
        hanging = asyncio.create_task(
            http.post(CHAT, content=call.body, headers=headers("slow", "hang_before_headers"))
        )
        await until(lambda: provider.received == 5)
        change = {"reason": "of the test"}
        frozen = await admin.post("/api/dashboard/session/frozen/freeze", json=change, headers=BEARER)
        assert frozen.status_code == 200
        found = await scrape(admin)
        openmetrics = await scrape(admin, accept=OPENMETRICS)
        plain = (await admin.get("/metrics")).text
        hanging.cancel()
        await running.idle()
    for kind, name, calls in (("tenant", "default", 100), ("agent", "crawler", 10)):
        own = {"tenant": "default", "kind": kind, "name": name}
        assert found.value("budget_usd", **own) == pytest.approx(calls * call.cost_nano / 1e9)
        assert found.value("budget_spent_usd", **own) == pytest.approx(4 * call.cost_nano / 1e9)
        assert found.value("budget_held_usd", **own) == pytest.approx(call.cost_nano / 1e9)
    assert found.value("held_usd") == pytest.approx(call.cost_nano / 1e9)
    assert found.value("holds") == 1
    assert found.value("sessions") == 4
    assert found.by("sessions_near_budget", "percent") == {"50": 3, "80": 1, "95": 1, "100": 1}
    assert found.by("frozen", "kind") == {"session": 1, "agent": 0, "tenant": 0}
    assert found.value("store_up") == 1
    assert found.value("store_memory_bytes") > 0
    assert found.value("build_info", role="console") == 1
    assert found.families["process_resident_memory_bytes"].samples[0].value > 0
    # Sums over gates would count these once for each: only the console has them, and no session is named.
    assert set(found.families) == set(openmetrics.families) | {"process_cpu_seconds"}
    assert "full" not in plain
    assert promtool_says(plain) == (0, "", "")


async def test_sidecars_do_not_tell_it(store: Server) -> None:
    settings = {"admin_token": ADMIN, "agent": "crawler", "agent_budget": "1"}
    async with gate_processes(1, NOWHERE, store.url, "sidecar", **settings) as [running], client(running.url) as http:
        found = await scrape(http)
    assert found.value("build_info", role="sidecar") == 1
    assert not {family.name for family in FAMILIES.values()} & set(found.families)


async def test_a_gate_with_a_console_tells_both(store: Server) -> None:
    """So that one process, as under compose, has all there is."""
    call = fixed()
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, admin_token=ADMIN, tenant_budget=call.budget(4)) as running,
        client(running.url) as http,
    ):
        await http.post(CHAT, content=call.body, headers=headers("s", call.simulate))
        await running.idle()
        found = await scrape(http)
        plain = (await http.get("/metrics")).text
    assert found.value("requests_total") == 1
    assert found.value("budget_spent_usd", kind="tenant") == pytest.approx(call.cost_nano / 1e9)
    assert found.value("sessions") == 1
    assert promtool_says(plain) == (0, "", "")


async def test_a_new_period_begins_with_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    """What was near its budget yesterday is not today; the lists of a period are its own."""
    call = fixed()
    daily = {"default_budget": call.budget(2), "default_budget_period": "day"}
    async with (
        simulated() as provider,
        gate(provider.base_url, store.url, admin_token=ADMIN, **daily) as running,
        client(running.url) as http,
    ):
        await http.post(CHAT, content=call.body, headers=headers("s", call.simulate))
        await running.idle()
        today = (await scrape(http)).by("sessions_near_budget", "percent")
        [key] = redis_cli.scan_iter("*:sessions:share:*")
        start_ms = int(key.rpartition(":")[2])
        redis_cli.rename(key, f"{key.rpartition(':')[0]}:{start_ms - 86_400_000}")
        tomorrow = (await scrape(http)).by("sessions_near_budget", "percent")
    assert today == {"50": 1, "80": 0, "95": 0, "100": 0}
    assert tomorrow == {"50": 0, "80": 0, "95": 0, "100": 0}


async def test_without_a_store_it_says_so(away: Away) -> None:
    async with (
        gate_processes(1, NOWHERE, away.url, "console", admin_token=ADMIN, store_timeout_ms=100) as [console],
        client(console.url) as admin,
    ):
        assert (await scrape(admin)).value("store_up") == 1
        away.leave()
        lost = await scrape(admin)
        away.come_back()
        back = await scrape(admin)
    assert lost.value("store_up") == 0
    assert lost.of("sessions") == []
    assert back.value("store_up") == 1
    assert back.value("sessions") == 0


async def test_on_the_status_port_it_is_there_alone(store: Server) -> None:
    port = free_port()
    async with (
        gate_processes(1, NOWHERE, store.url, "console", admin_token=ADMIN, status_port=port) as [console],
        client(console.url) as admin,
        client(f"http://127.0.0.1:{port}") as monitor,
    ):
        assert (await scrape(monitor)).value("store_up") == 1
        assert (await admin.get("/metrics")).status_code == 404


async def test_agents_that_somebody_invents_have_a_bound(store: Server, redis_cli: "redis.Redis") -> None:
    call = fixed()
    async with simulated() as provider:
        for number in range(3):
            async with (
                gate(provider.base_url, store.url, agent=f"agent-{number}", agent_budget=call.budget(10)) as running,
                client(running.url) as http,
            ):
                await http.post(CHAT, content=call.body, headers=headers("s", call.simulate))
    pipeline = redis_cli.pipeline()
    for number in range(AGENTS_MAX * 2):
        pipeline.hset(f"tokengate:{{default}}:agent:made-up-{number}", mapping={"spent": "0.000000001"})
        for index in ("agents", "agents:names", "agents:share", "agents:spent"):
            pipeline.zadd(f"tokengate:{{default}}:{index}", {f"made-up-{number}": 1})
    pipeline.execute()
    async with (
        gate_processes(1, NOWHERE, store.url, "console", admin_token=ADMIN, agent_budget=call.budget(10)) as [console],
        client(console.url) as admin,
    ):
        found = await scrape(admin)
    assert len(found.of("budget_usd", kind="agent")) == AGENTS_MAX
    assert {"agent-0", "agent-1", "agent-2"} <= set(found.by("budget_usd", "name"))


async def test_names_that_no_agent_can_have_are_told_all_the_same(store: Server, redis_cli: "redis.Redis") -> None:
    """A person may put anything into the store: two of these look alike as text, one is endless."""
    for name in (b"\xfe", b"\xff", b'"\n{}', b"long" * 100):
        for index in (b"agents", b"agents:names", b"agents:share"):
            redis_cli.zadd(b"tokengate:{default}:" + index, {name: 7})
        redis_cli.hset(b"tokengate:{default}:agent:" + name, mapping={"spent": "0.5"})
    async with (
        gate_processes(1, NOWHERE, store.url, "console", admin_token=ADMIN, agent_budget="1") as [console],
        client(console.url) as admin,
    ):
        found = await scrape(admin)
        plain = (await admin.get("/metrics")).text
    assert found.by("budget_spent_usd", "name") == {"\ufffd": 0.5, '"\n{}': 0.5, "long" * 100: 0.5}
    assert promtool_says(plain) == (0, "", "")


async def test_a_store_that_does_not_answer_does_not_hold_up_a_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokengate.telemetry.standing.READ_S_MAX", 0.01)
    asked = 0

    async def read() -> Standing:
        nonlocal asked
        asked += 1
        await asyncio.Event().wait()
        raise AssertionError

    exposition = StandingExposition(Reading(read), "1")
    texts = await asyncio.gather(*(exposition.render("") for _ in range(3)))
    assert all(b"tokengate_store_up 0.0\n" in text for _, text in texts)
    assert asked == 1
    await exposition.render("")
    assert asked == 2


async def test_a_scrape_that_is_given_up_leaves_the_answer_to_the_others() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        begun.set()
        await go_on.wait()

    reading = Reading(read)
    first, second = (asyncio.create_task(reading()) for _ in range(2))
    await begun.wait()
    first.cancel()
    go_on.set()
    assert await second is None

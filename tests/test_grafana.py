"""The dashboards and the rules: they are what the code says, and Prometheus has an answer to all they ask."""

import asyncio
import itertools
import json
import math
import re
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from grafana.__main__ import FOLDER, rendered
from tests.injector.test_webhook import question
from tests.support.admin import ADMIN
from tests.support.charts import Chart, of_kind, one
from tests.support.gate import Process, Provider, gate_processes, simulated
from tests.support.golden_pods import GoldenPod
from tests.support.injectors import Injector, injector, until
from tests.support.prometheus import Prometheus, binary, prometheus
from tests.support.redis_server import Server, redis_server, start, stop
from tests.support.scene import CHAT, Fixed, chat, client, fixed, headers
from tokengate.injector.certificates import issue
from tokengate.injector.metrics import Metrics as InjectorMetrics
from tokengate.telemetry import standing
from tokengate.telemetry.exposition import FAMILIES

ROOT: Final = Path(__file__).parent.parent
RULES: Final = ROOT / "prometheus" / "tokengate.rules.yaml"
RULE_TESTS: Final = ROOT / "prometheus" / "tokengate.test.yaml"
BOARDS: Final[dict[str, dict[str, Any]]] = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
CALL: Final = fixed()
NUMBERS: Final = itertools.count()
REPEATS: Final = 40
"""How often one call is made, that it be a loop: those that are made before the last one is settled do not count."""
STORE: Final = ("--appendonly", "yes", "--maxmemory", "1gb")


def injector_metrics() -> set[str]:
    """The names of what an injector tells."""
    lines = InjectorMetrics().exposition().decode().splitlines()
    told = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    # When a histogram began to count is prometheus-client's own.
    return {name for name in told if not name.endswith("_created")}


ALL: Final = {family.name for each in (FAMILIES, standing.FAMILIES) for family in each.values()} | injector_metrics()

# What Grafana puts in the place of its own variables.
VARIABLES: Final = {
    "$__rate_interval": "10s",
    "$__range_s": "300",
    "$__range": "5m",
    "$tenant": ".*",
    "$agent": ".*",
    "$provider": ".*",
    "$model": ".*",
    "$job": ".*",
    "$instance": ".*",
}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield name, panel


PANELS: Final = list(panels())
names = pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=lambda each: each if isinstance(each, str) else each["title"]
)


class TestDashboards:
    def test_they_are_what_the_code_makes(self) -> None:
        assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == rendered()

    def test_their_links_and_names_stay(self) -> None:
        assert {name: board["uid"] for name, board in BOARDS.items()} == {
            "overview": "tokengate-overview",
            "agents": "tokengate-agents",
            "operations": "tokengate-operations",
        }
        for board in BOARDS.values():
            assert [link["url"] for link in board["links"] if link["type"] == "link"] == ["${gate}/dashboard"]
            assert board["templating"]["list"][0]["name"] == "datasource"
            numbers = [panel["id"] for panel in board["panels"]]
            assert numbers == list(range(1, len(numbers) + 1))

    @names
    def test_every_panel_explains_itself(self, name: str, panel: dict[str, Any]) -> None:
        assert len(panel["description"]) > 10
        assert panel["datasource"]["uid"] == "${datasource}"
        unit = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert unit["unit"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            # A sum or a count of all there is has one series, whatever it is made of.
            single = target["expr"].startswith(("sum (", "count("))
            if len(panel["targets"]) > 1 or (" by (" in target["expr"].partition("le")[0] and not single):
                assert target["legendFormat"]

    @names
    def test_every_panel_lies_within_the_grid_and_upon_no_other(self, name: str, panel: dict[str, Any]) -> None:
        taken = panel["gridPos"]
        assert taken["x"] + taken["w"] <= 24
        for other in BOARDS[name]["panels"]:
            place = other["gridPos"]
            apart = (
                place["x"] >= taken["x"] + taken["w"]
                or taken["x"] >= place["x"] + place["w"]
                or place["y"] >= taken["y"] + taken["h"]
                or taken["y"] >= place["y"] + place["h"]
            )
            assert other is panel or apart

    def test_every_metric_that_is_asked_for_exists(self) -> None:
        asked = {
            re.sub(r"_(bucket|count|sum)$", "", metric)
            for _, panel in PANELS
            for target in panel["targets"]
            for metric in re.findall(r"\btokengate_\w+", target["expr"])
        }
        assert asked <= ALL

    def test_every_metric_is_shown(self) -> None:
        """What nobody looks at, nobody needs."""
        text = "".join(target["expr"] for _, panel in PANELS for target in panel["targets"])
        by_rules = RULES.read_text()
        unseen = {name for name in ALL if name not in text + by_rules}
        assert unseen == set()


class TestProvisioning:
    def test_grafana_finds_the_dashboards_and_prometheus(self) -> None:
        folder = ROOT / "grafana" / "provisioning"
        (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())["datasources"]
        assert (source["type"], source["isDefault"]) == ("prometheus", True)
        (provider,) = yaml.safe_load((folder / "dashboards" / "tokengate.yaml").read_text())["providers"]
        assert provider["options"]["path"] == "/etc/grafana/dashboards"


class TestRules:
    ALERTS: Final = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule
    ]

    def test_promtool_understands_and_tests_them(self) -> None:
        for command in (["check", "rules", str(RULES)], ["test", "rules", str(RULE_TESTS)]):
            done = subprocess.run([binary("promtool"), *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_each_alert_has_a_test_that_it_fires_and_one_that_it_does_not(self) -> None:
        tests = [
            (case["alertname"], bool(case.get("exp_alerts")))
            for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]
            for case in test.get("alert_rule_test", ())
        ]
        for rule in self.ALERTS:
            assert {(rule["alert"], True), (rule["alert"], False)} <= set(tests)

    def test_each_alert_has_words_a_severity_and_a_runbook(self) -> None:
        sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
        assert sorted(sections) == sorted(rule["alert"] for rule in self.ALERTS)
        for rule in self.ALERTS:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert {"summary", "description"} < set(rule["annotations"])
            assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"

    def test_each_runbook_says_what_it_means_what_to_do_and_how_to_see(self) -> None:
        text = (ROOT / "docs" / "runbooks.md").read_text()
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            for part in ("**Means**", "**Look**", "**Do**"):
                assert part in section, section.splitlines()[0]


def test_the_chart_installs_the_same_rules_and_dashboards() -> None:
    chart = Chart()
    manifests = chart.case("monitoring")
    chart.close()
    assert one(manifests, "PrometheusRule")["spec"] == yaml.safe_load(RULES.read_text())
    found = [
        each["data"] for each in of_kind(manifests, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]
    ]
    assert {name: json.loads(text) for data in found for name, text in data.items()} == {
        f"{name}.json": board for name, board in BOARDS.items()
    }


# --- a real run ---


@asynccontextmanager
async def gates(provider: Provider, server: Server) -> AsyncIterator[list[Process]]:
    """One that refuses while the store is away, and one that goes on without it."""
    common: dict[str, Any] = {
        "alert_thresholds": "none", "upstream_read_timeout_s": 1, "store_timeout_ms": 200, "hold_lease_s": 5,
        "default_budget": CALL.budget(1000), "log_level": "ERROR", "busy_wait_ms": 1000,
        # Nothing is refused because of these: they are there to be told.
        "agent_budget": "0.5", "tenant_budget": "100", "loops": "enforce",
    }  # fmt: skip
    async with (
        gate_processes(1, provider.base_url, server.url, agent="crawler", **common) as closed,
        gate_processes(1, provider.base_url, server.url, agent="writer", on_store_failure="open", **common) as going_on,
        gate_processes(1, provider.base_url, server.url, "console", admin_token=ADMIN, **common) as console,
    ):
        yield [*closed, *going_on, *console]


@contextmanager
def webhook() -> Iterator[tuple[Injector, Callable[[], None]]]:
    """An injector, and what asks it about a pod that gets a gate, one that does not, one that must not, and nonsense."""
    with tempfile.TemporaryDirectory(prefix="tgi", dir="/tmp") as place:
        folder = Path(place)
        issued = issue(["localhost"], 365, datetime.now(UTC))
        for name, content in (("tls.crt", issued.certificate), ("tls.key", issued.key), ("ca.crt", issued.authorities)):
            (folder / name).write_bytes(content)
        trusted = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        with (
            injector(folder) as running,
            httpx.Client(base_url=f"https://localhost:{running.port}", verify=trusted, trust_env=False) as http,
        ):
            until(running.ready)
            refused = GoldenPod("host-network").pod

            def ask() -> None:
                for given in (question(), question(namespace="kube-system"), question(pod=refused), {}):
                    http.post("/inject", json=given)

            ask()
            yield running, ask


async def traffic(gate: Process, http: httpx.AsyncClient) -> None:
    """A call of every kind there is."""
    streamed = fixed(stream=True)

    async def post(body: bytes, session: str = "", simulate: str = CALL.simulate, path: str = CHAT) -> int:
        # A session of its own, or the same body would be a loop.
        said = headers(session or f"call-{next(NUMBERS)}", simulate)
        return (await http.post(f"{gate.url}{path}", content=body, headers=said)).status_code

    assert await post(CALL.body) == 200
    assert await post(streamed.body, simulate=streamed.simulate) == 200
    assert await post(chat(model="gpt-4o", max_tokens=20), simulate="output_tokens:20") == 200
    assert await post(CALL.body, simulate="no_usage,output_tokens:20") == 200
    assert await post(CALL.body, simulate="huge_usage:1000") == 200
    assert await post(CALL.body, "strange session!") == 400
    assert await post(b"{", simulate="") == 400
    assert await post(chat(model="nobody-has-heard-of-it"), simulate="") == 400
    assert await post(b"{}", simulate="", path="/v1/threads") == 404
    assert await post(CALL.body, simulate="rate_limited") == 429
    assert await post(CALL.body, simulate="server_error") == 500
    assert await post(CALL.body, simulate="bad_request") == 400
    assert await post(CALL.body, simulate="reset_before_headers") == 502
    assert await post(CALL.body, simulate="hang_before_headers") == 504
    looping = f"loop-{next(NUMBERS)}"
    answers = [await post(CALL.body, looping) for _ in range(REPEATS)]
    assert answers[-1] == 403
    listed = await http.get(f"{gate.url}/v1/models", headers=headers("alice"))
    assert listed.status_code == 200


async def wait_in_line(gate: Process, http: httpx.AsyncClient, call: Fixed, store: Any) -> None:
    """Two calls at once on what pays for one: one waits until the other has ended. Then the budget is used up."""
    session = f"narrow-{gate.process.pid}"
    store.hset(f"tokengate:{{default}}:session:{session}", "budget", call.budget(1))
    said = headers(session, f"{call.simulate},ttft_ms:400")
    both = [asyncio.create_task(http.post(f"{gate.url}{CHAT}", content=call.body, headers=said)) for _ in range(2)]
    assert {answer.status_code for answer in await asyncio.gather(*both)} == {200, 429}
    frozen = f"frozen-{gate.process.pid}"
    store.hset(f"tokengate:{{default}}:session:{frozen}", mapping={"frozen": "1", "frozen_reason": "a loop"})
    answer = await http.post(f"{gate.url}{CHAT}", content=call.body, headers=headers(frozen))
    assert answer.status_code == 403


def hurried(rules: str) -> str:
    """The rules, for somebody who has seconds, not minutes."""
    rules = re.sub(r"\bfor: \d+m$", "for: 2s", rules, flags=re.MULTILINE)
    return re.sub(r"\binterval: \w+$", "interval: 1s", rules, flags=re.MULTILINE)


async def unanswered(answering: Prometheus, since_s: float) -> list[str]:
    """The panels that have no data."""
    found = []
    for name, panel in PANELS:
        for target in panel["targets"]:
            expr = target["expr"]
            for variable, value in VARIABLES.items():
                expr = expr.replace(variable, value)
            if target.get("instant"):
                series = await answering.ask(expr)
            else:
                series = await answering.ask_range(expr, since_s, time.time())
            shown = [float(value) for each in series for _, value in each.get("values") or [each["value"]]]
            if not any(map(math.isfinite, shown)):
                found.append(f"{name}: {panel['title']}: {expr}")
    return found


@pytest.mark.timeout(180)
async def test_every_panel_has_data_and_the_right_alerts_fire() -> None:
    began_s = time.time()
    async with simulated() as provider, client() as http:
        with redis_server(*STORE) as server, webhook() as (injecting, ask):
            async with gates(provider, server) as (*running, console):
                targets = [each.url.removeprefix("http://") for each in (*running, console)]
                targets.append(f"127.0.0.1:{injecting.status_port}")
                async with prometheus(targets, hurried(RULES.read_text())) as answering:
                    await answering.until("count(tokengate_build_info) == 3 and count(tokengate_injector_info) == 1")
                    ask()
                    with server.client() as store:
                        for each in running:
                            await traffic(each, http)
                            await wait_in_line(each, http, CALL, store)
                    stop(server)
                    refused, admitted = [
                        await http.post(f"{each.url}{CHAT}", content=CALL.body, headers=headers("alice", CALL.simulate))
                        for each in running
                    ]
                    assert (refused.status_code, admitted.status_code) == (503, 200)
                    await answering.until('ALERTS{alertname="TokenGateStoreDown", alertstate="firing"}')
                    await answering.until('ALERTS{alertname="TokenGateFailOpenActive", alertstate="firing"}')
                    again = start(server.folder, *STORE)
                    try:
                        await answering.until("sum(tokengate_degraded) == 0 and min(tokengate_store_up) == 1")
                        for each in running:
                            await traffic(each, http)
                        await answering.until("sum(tokengate_saved_usd_total) > 0")
                        assert await answering.firing() >= {
                            "TokenGateBudgetExhausted",
                            "TokenGateUnpricedModel",
                            "TokenGateRunawayAgent",
                            "TokenGateBilledBeyondHold",
                        }
                        assert await unanswered(answering, began_s) == []
                    finally:
                        stop(again)

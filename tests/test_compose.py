"""docker-compose.yml: what it says is valid, hardened and complete, and its parts do what they are there for."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import yaml

from tests.support.gate import gate_processes, simulated, until
from tests.support.prometheus import binary
from tests.support.redis_server import Server
from tests.support.servers import free_port
from tokengate.settings import NAMES

ROOT: Final = Path(__file__).parent.parent
FILE: Final = ROOT / "docker-compose.yml"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load(FILE.read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
PASSWORD: Final = "a password; with 'quotes'?".replace("'", "")
each_service = pytest.mark.parametrize("name", SERVICES)


def interpolated(text: str, **variables: str) -> str:
    """A text as compose fills it in."""

    def value(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1]) or found[2] or ""

    return re.sub(r"\$\$|\$\{([A-Z_]+)(?::-([^}]*))?\}", value, text)


class TestFile:
    def test_compose_understands_it(self) -> None:
        command = shutil.which("docker-compose")
        assert command is not None, "install docker-compose (apt) to run the tests"
        for profiles in ((), ("--profile", "demo", "--profile", "observability")):
            done = subprocess.run(
                [command, "--project-directory", str(ROOT), "--file", str(FILE), *profiles, "config", "--quiet"],
                capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "HOME": "/tmp"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr

    def test_by_default_there_is_the_gate_and_its_store(self) -> None:
        assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"tokengate", "redis"}
        assert {profile for service in SERVICES.values() for profile in service.get("profiles", ())} == {
            "demo",
            "observability",
        }

    @each_service
    def test_every_service_is_hardened(self, name: str) -> None:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
        assert service["deploy"]["resources"]["limits"]["memory"]
        assert "privileged" not in service
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")

    @each_service
    def test_every_image_has_a_version(self, name: str) -> None:
        image = SERVICES[name]["image"]
        if image.startswith("tokengate:"):
            assert SERVICES[name]["build"] == "."
        else:
            assert re.search(r":v?\d+\.\d+\.\d+(-alpine)?$", image)

    @each_service
    def test_nothing_is_open_beyond_this_machine(self, name: str) -> None:
        for port in SERVICES[name].get("ports", ()):
            assert interpolated(port).startswith("127.0.0.1:")
        assert "ports" not in SERVICES["redis"]

    @each_service
    def test_what_is_mounted_exists_and_cannot_be_changed(self, name: str) -> None:
        for volume in SERVICES[name].get("volumes", ()):
            source, _, options = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).exists()
                assert options.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]

    def test_every_setting_of_dot_env_reaches_the_gate(self) -> None:
        given = SERVICES["tokengate"]["environment"]
        inside = {"HOST", "PORT", "STATUS_PORT", "ADMIN_HOST", "ADMIN_PORT", "DATA_DIR"}
        for name in sorted({name.upper() for name in NAMES} - inside - {"REDIS_URL"}):
            assert given.get(name) == f"${{{name}:-}}", f"add {name} to x-settings in docker-compose.yml"
        assert not inside & set(given)

    def test_the_demonstration_never_takes_a_key(self) -> None:
        for name in ("demo-gate", "agent", "provider"):
            assert "OPENAI_API_KEY" not in SERVICES[name].get("environment", {})
        assert SERVICES["demo-gate"]["environment"]["OPENAI_BASE_URL"] == "http://provider:8001/v1"


class TestStore:
    def test_it_writes_everything_down_evicts_nothing_and_wants_the_password(self) -> None:
        """The service's own command, with a server of this machine."""
        shell, option, script = SERVICES["redis"]["command"]
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as place:
            here = interpolated(script).replace("--dir /data", f"--dir {place} --port {port}")
            process = subprocess.Popen(
                [shell, option, here],
                stdout=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "REDISCLI_AUTH": PASSWORD},
            )
            try:
                with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:
                    _answers(client)
                    found: Any = client.config_get("append*", "maxmemory-policy")
                    assert found["appendonly"] == "yes"
                    assert found["maxmemory-policy"] == "noeviction"
                with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
                    stranger.ping()
                command_line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                # It is the process that was started itself: who tells that one to stop tells Redis.
                assert command_line.startswith(b"redis-server")
                assert PASSWORD.encode() not in command_line
            finally:
                process.terminate()
                assert process.wait(10) == 0


def _answers(client: "redis.Redis") -> None:
    for _ in range(200):
        try:
            client.ping()
        except redis.exceptions.ConnectionError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the server did not answer")


def test_prometheus_understands_its_configuration(tmp_path: Path) -> None:
    text = (ROOT / "compose" / "prometheus.yaml").read_text()
    (tmp_path / "prometheus.yaml").write_text(text.replace("/etc/prometheus/", f"{ROOT}/prometheus/"))
    done = subprocess.run(
        [binary("promtool"), "check", "config", str(tmp_path / "prometheus.yaml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mounted = {volume.split(":")[1] for volume in SERVICES["prometheus"]["volumes"]}
    assert set(yaml.safe_load(text)["rule_files"]) <= mounted
    (scrape,) = yaml.safe_load(text)["scrape_configs"]
    assert set(scrape["dns_sd_configs"][0]["names"]) <= set(SERVICES)


async def test_the_agent_asks_until_it_is_stopped_and_begins_anew(store: Server, tmp_path: Path) -> None:
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, default_budget="0.02") as (gate,),
    ):
        output = tmp_path / "output"
        with output.open("w") as file:
            environ = {"OPENAI_BASE_URL": gate.base_url, "PAUSE_S": "0", "TMPDIR": str(tmp_path)}
            process = subprocess.Popen([sys.executable, ROOT / "compose" / "agent.py"], stdout=file, env=environ)
        try:
            await until(lambda: len({line.split()[0] for line in output.read_text().splitlines()}) >= 2)
        finally:
            process.terminate()
            process.wait(10)
        lines = output.read_text().splitlines()
        first = [line for line in lines if line.split()[0] == lines[0].split()[0]]
        assert " 200 " in first[0]
        assert " 429 Budget exceeded." in first[-1]
        assert (tmp_path / "asked").exists()


def test_grafana_is_given_what_its_provisioning_asks_for() -> None:
    text = (ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text()
    asked = set(re.findall(r"(?<!\$)\$([A-Z_]+)", text))
    given = SERVICES["grafana"]["environment"]
    assert asked <= set(given)
    home = given["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads((ROOT / "grafana" / "dashboards" / Path(home).name).read_text())["uid"] == "tokengate-overview"

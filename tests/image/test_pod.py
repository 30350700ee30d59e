"""A pod as the library chart renders it, run by podman: its agent reaches the provider through the gate, and not otherwise.

The pod has a network of its own, joined by one cable (a veth pair) to another one that this test makes, where Redis and a
simulated provider listen on an address that exists for documentation (RFC 5737). Neither has a way out.

podman 4.3 plays less of Kubernetes than a cluster does, so `played` changes what it cannot: native sidecars become the
legacy form, projected volumes directories, the namespace's name a value, and probes and ports are left out.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import pytest
import yaml

from tests.image.engine import Engine
from tests.support.charts import copied
from tests.support.gate import ROOT, until
from tests.support.kubernetes import Manifest
from tokengate import __version__

pytestmark = pytest.mark.timeout(1800)

INSIDE, OUTSIDE = "192.0.2.1", "192.0.2.2"
PROVIDER_PORT, REDIS_PORT = 9000, 6379
REMOVALS_MAX = 20
NETWORK: Final = f"tgtest{os.getpid()}"
AGENT_USER: Final = 1000

TEMPLATE: Final = """
apiVersion: v1
kind: Pod
metadata:
  name: agent
  labels:
    {{- include "tokengate.labels" . | nindent 4 }}
  annotations:
    {{- include "tokengate.annotations" (dict "agent" "my-agent") | nindent 4 }}
spec:
  initContainers:
    {{- include "tokengate.egress" (dict "policy" .Values.tokengate) | nindent 4 }}
  containers:
    {{- include "tokengate.container" (dict "policy" .Values.tokengate) | nindent 4 }}
    - name: agent
      image: {{ .Values.tokengate.image }}
      command: [python, -c, "import signal; signal.pause()"]
      securityContext:
        runAsUser: {{ .Values.user }}
        allowPrivilegeEscalation: false
        capabilities: {drop: [ALL]}
      env:
        {{- include "tokengate.agentEnv" (dict "policy" .Values.tokengate) | nindent 8 }}
  volumes:
    {{- include "tokengate.volumes" (dict "policy" .Values.tokengate) | nindent 4 }}
"""

ASK: Final = """
import json, os, sys, urllib.request
body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}
headers = {"content-type": "application/json", "authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
try:
    with urllib.request.urlopen(urllib.request.Request(
        (sys.argv[1] or os.environ["OPENAI_BASE_URL"]) + "/chat/completions", json.dumps(body).encode(), headers
    ), timeout=20) as answer:
        print(json.dumps({"status": answer.status, "remaining": answer.headers.get("x-tokengate-remaining-usd")}))
except OSError as error:
    print(json.dumps({"error": str(error)}))
"""


def rendered(folder: Path, image: str) -> Manifest:
    own = folder / "charts" / "own"
    (own / "templates").mkdir(parents=True)
    depends = {"name": "tokengate-lib", "version": __version__, "repository": "file://../tokengate-lib"}
    described = {"apiVersion": "v2", "name": "own", "version": "1.0.0", "dependencies": [depends]}
    (own / "Chart.yaml").write_text(yaml.safe_dump(described))
    (own / "templates" / "pod.yaml").write_text(TEMPLATE)
    policy = {
        "form": "legacy",
        "image": image,
        "imagePullPolicy": "Never",
        "settings": {"OPENAI_BASE_URL": f"http://{OUTSIDE}:{PROVIDER_PORT}/v1", "DEFAULT_BUDGET": "1.00"},
    }
    with helm_python.Chart.load(str(copied(folder, "own"))) as chart:
        texts = chart.render({"tokengate": policy, "user": AGENT_USER}, name="own", namespace="agents")
    pod: Manifest = yaml.safe_load(texts["own/templates/pod.yaml"])
    return pod


def played(pod: Manifest, secrets: Path) -> Manifest:
    """The same for podman; see the module."""
    for volume in pod["spec"]["volumes"]:
        if volume.pop("projected", None):
            volume["hostPath"] = {"path": str(secrets), "type": "Directory"}
    for container in [*pod["spec"]["initContainers"], *pod["spec"]["containers"]]:
        for name in ("ports", "startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(name, None)
        for variable in container.get("env", []):
            if variable.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath") == "metadata.namespace":
                variable.pop("valueFrom")
                variable["value"] = "agents"
    # Else podman would remove an init container while it is still running.
    pod["metadata"]["annotations"]["io.podman.annotations.init.container.type"] = "always"
    return pod


@pytest.fixture
def outside() -> Iterator[str]:
    """The network with Redis and the provider; gives the name of the cable's other end."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})

    ip("netns", "add", NETWORK)
    processes = []
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        try:
            ip("-n", NETWORK, "link", "add", "outer", "type", "veth", "peer", "name", "inner")
            ip("-n", NETWORK, "addr", "add", f"{OUTSIDE}/30", "dev", "outer")
            ip("-n", NETWORK, "link", "set", "outer", "up")
            within = ["ip", "netns", "exec", NETWORK]
            redis = [
                "redis-server",
                "--bind",
                OUTSIDE,
                "--port",
                str(REDIS_PORT),
                "--save",
                "",
                "--protected-mode",
                "no",
            ]
            simulated = ["-m", "tokengate", "simulate", "--host", OUTSIDE, "--port", str(PROVIDER_PORT)]
            for command in ([*redis, "--dir", folder], [sys.executable, *simulated]):
                process = subprocess.Popen([*within, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
                processes.append(process)
            yield "inner"
        finally:
            for process in processes:
                process.terminate()
                process.wait(timeout=20)
            ip("netns", "del", NETWORK)


class Pod:
    """The pod that podman plays, joined to the outside."""

    def __init__(self, engine: Engine, inner: str) -> None:
        self._engine = engine
        main = engine.podman("inspect", "--format={{.State.Pid}}", "agent-tokengate").strip()
        environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        for words in (
            ["ip", "-n", NETWORK, "link", "set", inner, "netns", main],
            ["nsenter", "--target", main, "--net", "ip", "addr", "add", f"{INSIDE}/30", "dev", inner],
            ["nsenter", "--target", main, "--net", "ip", "link", "set", inner, "up"],
        ):
            subprocess.run(words, check=True, env=environ)

    def agent(self, *words: str) -> str:
        return self._engine.podman("exec", "agent-agent", "python", *words)

    def ask(self, base_url: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.agent("-c", ASK, base_url))
        return found

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._engine.podman("logs", "agent-tokengate").splitlines()]


def remove(engine: Engine) -> None:
    """Remove the pod, and wait until its name is free: podman may need more than one try."""
    for _ in range(REMOVALS_MAX):
        engine.podman("pod", "rm", "--force", "--time=0", "agent", check=False)
        if "agent" not in engine.podman("pod", "ls", "--format={{.Name}}").split():
            return
        time.sleep(1)
    raise TimeoutError("the pod cannot be removed")


@pytest.fixture
def pod(engine: Engine, image: str, outside: str, tmp_path: Path) -> Iterator[Pod]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "OPENAI_API_KEY").write_text("sk-the-providers-own")
    (secrets / "REDIS_URL").write_text(f"redis://{OUTSIDE}:{REDIS_PORT}")
    for path in (secrets, *secrets.iterdir()):
        path.chmod(path.stat().st_mode | 0o055 & (0o055 if path.is_dir() else 0o044))
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(yaml.safe_dump(played(rendered(tmp_path, image), secrets)))
    remove(engine)  # what a run that was killed has left
    try:
        engine.podman("play", "kube", "--network=none", str(manifest))
        yield Pod(engine, outside)
    finally:
        remove(engine)


async def test_the_agent_reaches_the_provider_through_the_gate_and_not_otherwise(pod: Pod) -> None:
    await until(lambda: "status" in pod.ask())
    answer = pod.ask()
    assert answer["status"] == 200
    assert 0 < float(answer["remaining"]) < 1
    assert "error" in pod.ask(f"http://{OUTSIDE}:{PROVIDER_PORT}/v1")
    refused = pod.agent("-c", f"import socket; print(socket.socket().connect_ex(('{OUTSIDE}', {REDIS_PORT})) != 0)")
    assert refused.strip() == "True"


async def test_the_agent_is_who_the_pod_says_and_sees_no_key(pod: Pod) -> None:
    await until(lambda: "status" in pod.ask())
    line = next(each for each in reversed(pod.log()) if each["event"] == "request")
    assert (line["tenant"], line["agent"], line["session_id"]) == ("agents", "my-agent", "agent")
    seen = pod.agent("-c", "import os; print(os.path.exists('/etc/tokengate/secrets'), *os.environ.values())")
    assert seen.startswith("False")
    assert "sk-" not in seen
    assert pod.agent("-c", f"import os; print(os.getuid() == {AGENT_USER})").strip() == "True"

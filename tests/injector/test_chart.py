"""The chart, installed by Helm, and what is in it started as it says: then a pod is created, and it has its gate."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Config

from tests.injector.conftest import Kubectl, kubectl_for
from tests.injector.test_manifests import workload
from tests.support.api_server import WEBHOOKS, ApiServer, api_server
from tests.support.charts import NAMESPACE, RELEASE, case, copied
from tests.support.injectors import ROOT, WAIT_S_MAX, Injector, injector, until

NAME = f"{RELEASE}-tokengate"
BASE = f"/namespaces/{NAMESPACE}"


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


class Node:
    """A machine that runs what the chart wants to be run: by the arguments of its containers, with what they mount."""

    def __init__(self, api: ApiServer, folder: Path) -> None:
        self._api = api
        self._folder = folder
        self._account = api.service_account(folder / "account", NAMESPACE)

    def job(self, name: str) -> str:
        """Run a job to its end; gives what it said."""
        [container] = self._api.get(f"/apis/batch/v1{BASE}/jobs/{name}")["spec"]["template"]["spec"]["containers"]
        done = subprocess.run(
            [sys.executable, "-m", "tokengate", *container["args"], "--service-account", str(self._account)],
            env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self._api.port), "PATH": os.environ["PATH"]},
            cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S_MAX, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def deployment(self, name: str, stack: ExitStack) -> Injector:
        """Run the injector's pod; its Service leads there."""
        spec = self._api.get(f"/apis/apps/v1{BASE}/deployments/{name}")["spec"]["template"]["spec"]
        [container] = spec["containers"]
        mounted = {mount["mountPath"]: self._mounted(spec, mount["name"]) for mount in container["volumeMounts"]}
        command, *words = container["args"]
        assert command == "injector"
        options = dict(word.split("=", 1) for word in words)
        ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
        assert (options.pop("--port"), options.pop("--status-port")) == (ports["https"], ports["tg-metrics"])
        certificates = mounted[options.pop("--certificates")]
        policy = Path(options.pop("--policy"))
        given = [f"{name}={value}" for name, value in options.items() if name != "--host"]
        running = stack.enter_context(
            injector(certificates, "--policy", str(mounted[str(policy.parent)] / policy.name), *given)
        )
        until(running.ready)
        self._api.services[f"{name}.{NAMESPACE}.svc"] = [running.port]
        return running

    def _mounted(self, spec: dict[str, Any], name: str) -> Path:
        [volume] = [each for each in spec["volumes"] if each["name"] == name]
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        files: dict[str, bytes] = {}
        if "configMap" in volume:
            data = self._api.get(f"/api/v1{BASE}/configmaps/{volume['configMap']['name']}")["data"]
            files = {key: value.encode() for key, value in data.items()}
        elif "secret" in volume:
            data = self._api.get(f"/api/v1{BASE}/secrets/{volume['secret']['secretName']}")["data"]
            files = {key: base64.b64decode(value) for key, value in data.items()}
        for key, content in files.items():
            (folder / key).write_bytes(content)
        return folder


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server(tmp_path / "api") as running:
        for each in (namespace(NAMESPACE), namespace("agents", **{"tokengate.io/inject": "enabled"})):
            running.put(each)
        yield running


@pytest.fixture
def kubectl(api: ApiServer, tmp_path: Path) -> Kubectl:
    return kubectl_for(api.kubeconfig(tmp_path))


@pytest.mark.parametrize("values", ["default", "egress-drop", "legacy"])
def test_installed_it_gates_pods_and_an_upgrade_changes_nothing_of_that(
    api: ApiServer, kubectl: Kubectl, tmp_path: Path, values: str
) -> None:
    chart = copied(tmp_path / "chart")
    node = Node(api, tmp_path)
    with ExitStack() as stack:
        helm = stack.enter_context(
            Config(kubeconfig_path=str(tmp_path / "kubeconfig"), namespace=NAMESPACE, storage_driver="memory")
        )
        assert helm.install(str(chart), RELEASE, case(values))["status"] == "deployed"
        told = node.job(f"{NAME}-certificates-1")
        assert told == f"a certificate was made, because there is none that can be read; 2 changes of {NAME}-injector\n"
        node.deployment(f"{NAME}-injector", stack)

        manifest = yaml.safe_load(workload("Deployment"))
        safe = {"runAsUser": 1000, "allowPrivilegeEscalation": False}
        manifest["spec"]["template"]["spec"]["containers"][0]["securityContext"] = safe
        text = yaml.safe_dump(manifest)
        assert kubectl("apply", "-f", "-", given_input=text).returncode == 0
        [pod] = api.pods()
        place = "containers" if values == "legacy" else "initContainers"
        names = [each["name"] for each in pod["spec"][place]]
        assert names[: 2 if values == "egress-drop" else 1] == (
            ["tokengate-egress", "tokengate"] if values == "egress-drop" else ["tokengate"]
        )

        bundles = [hook["clientConfig"]["caBundle"] for hook in api.get(f"{WEBHOOKS}/{NAME}-injector")["webhooks"]]
        assert helm.upgrade(str(chart), RELEASE, case(values))["status"] == "deployed"
        after = [hook["clientConfig"].get("caBundle") for hook in api.get(f"{WEBHOOKS}/{NAME}-injector")["webhooks"]]
        # Whoever writes a list of webhooks writes all of each: an API server then forgets what was told, and the job tells it.
        said = node.job(f"{NAME}-certificates-2")
        assert said.startswith("the certificate will do; ")
        told_again = [hook["clientConfig"]["caBundle"] for hook in api.get(f"{WEBHOOKS}/{NAME}-injector")["webhooks"]]
        assert told_again == bundles
        assert after in (bundles, [None, None])
        done = kubectl("run", "another", "--image=agent", "--overrides", _overrides(safe))
        assert done.returncode == 0, done.stderr


def _overrides(security: dict[str, Any]) -> str:
    containers = [{"name": "another", "image": "agent", "securityContext": security}]
    return json.dumps({"apiVersion": "v1", "spec": {"containers": containers}})

"""The injector as a cluster sees it: real kubectl and real Helm, an API server that really asks it over TLS."""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Config, HelmError
from prometheus_client.parser import text_string_to_metric_families

from tests.injector.conftest import Cluster
from tests.injector.test_manifests import workload
from tests.support.golden_pods import GoldenPod
from tests.support.injectors import NAMESPACE, ROOT, SERVICE, webhook_configuration
from tests.support.kubernetes import VERSIONS, validate
from tests.test_sidecar_container import GOLDEN
from tokengate.injector.certificates import issue, service_names

BARE = (Path(__file__).parent.parent / "golden" / "pods" / "bare.in.yaml").read_text()


def changed(text: str, spec: dict[str, Any] | None = None, **metadata: Any) -> str:
    pod = yaml.safe_load(text)
    pod["spec"] |= spec or {}
    pod["metadata"] |= metadata
    return yaml.safe_dump(pod)


def first(pod: dict[str, Any]) -> dict[str, Any]:
    """The first init container, without what the API server fills in."""
    found: dict[str, Any] = pod["spec"]["initContainers"][0]
    return found


class TestKubectl:
    def test_apply(self, cluster: Cluster) -> None:
        done = cluster.kubectl("apply", "-f", "-", given_input=BARE)
        assert (done.returncode, done.stdout, done.stderr) == (0, "pod/agent created\n", "")
        [pod] = cluster.api.pods()
        assert first(pod) == GOLDEN["container"]
        assert pod["spec"]["containers"][0]["env"] == GOLDEN["agentEnv"]
        assert pod["metadata"]["annotations"]["tokengate.io/agent"] == "agent"
        validate(pod, (VERSIONS[-1],))

    def test_a_dry_run_shows_it_and_leaves_nothing(self, cluster: Cluster) -> None:
        series = 'tokengate_injector_reviews_total{dry_run="true",reason="",result="patched"}'
        before = cluster.injector.metric(series)
        done = cluster.kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", given_input=BARE)
        assert done.returncode == 0, done.stderr
        assert first(json.loads(done.stdout)) == GOLDEN["container"]
        assert cluster.api.pods() == []
        assert cluster.injector.metric(series) == before + 1

    def test_a_refusal_is_read_by_whoever_applied(self, cluster: Cluster) -> None:
        done = cluster.kubectl("apply", "-f", "-", given_input=changed(BARE, {"hostNetwork": True, "hostPID": True}))
        assert done.returncode == 1
        assert (
            'admission webhook "namespace.inject.tokengate.io" denied the request: TokenGate: hostNetwork is set: every'
            " process of the node could use the gate on 127.0.0.1:15800. Remove it. hostPID is set: the agent could read"
            " the gate's keys from its memory. Remove it."
        ) in done.stderr
        assert cluster.api.pods() == []

    def test_what_was_replaced_is_a_warning(self, cluster: Cluster) -> None:
        environment = [{"name": "OPENAI_API_KEY", "value": "sk-of-its-own"}]
        spec = {"containers": [{"name": "agent", "image": "agent", "env": environment}]}
        done = cluster.kubectl("apply", "-f", "-", given_input=changed(BARE, spec))
        assert done.returncode == 0
        assert (
            "Warning: container agent: OPENAI_API_KEY was replaced, so that calls go through the gate\n" in done.stderr
        )
        assert "sk-of-its-own" not in json.dumps(cluster.api.pods()[0]["spec"])

    @pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob"])
    def test_the_pods_of_workloads_are_their_agents(self, cluster: Cluster, kind: str) -> None:
        done = cluster.kubectl("apply", "-f", "-", given_input=yaml.safe_dump(yaml.safe_load(workload(kind))))
        assert done.returncode == 0, done.stderr
        [pod] = cluster.api.pods()
        assert first(pod) == GOLDEN["container"]
        assert pod["metadata"]["annotations"]["tokengate.io/agent"] == "a-workload"

    def test_what_was_injected_before_is_left_as_it_is(self, cluster: Cluster) -> None:
        series = 'tokengate_injector_reviews_total{dry_run="false",reason="",result="unchanged"}'
        before = cluster.injector.metric(series)
        golden = GoldenPod("bare")
        done = cluster.kubectl("apply", "-f", "-", given_input=golden.outcome()[1])
        assert (done.returncode, done.stderr) == (0, "")
        assert first(cluster.api.pods()[0]) == GOLDEN["container"]
        assert cluster.injector.metric(series) == before + 1

    @pytest.mark.parametrize(
        ("namespace", "label", "gated"),
        [
            ("agents", None, True),
            ("agents", "false", False),
            ("elsewhere", None, False),
            ("elsewhere", "enabled", True),
            ("elsewhere", "true", True),
            (NAMESPACE, None, False),
        ],
    )
    def test_labels_decide(self, cluster: Cluster, namespace: str, label: str | None, gated: bool) -> None:
        labels = {"tokengate.io/inject": label} if label else {}
        name = f"agent-{label}"
        text = changed(BARE, namespace=namespace, labels=labels, name=name)
        done = cluster.kubectl("apply", "-f", "-", given_input=text)
        assert done.returncode == 0, done.stderr
        pod = cluster.api.objects.pop(f"/api/v1/namespaces/{namespace}/pods/{name}")
        assert ("initContainers" in pod["spec"]) == gated

    def test_run(self, cluster: Cluster) -> None:
        done = cluster.kubectl("run", "tried", "--image=agent", "--restart=Never", "--env=OPENAI_API_KEY=sk-1")
        assert done.returncode == 0, done.stderr
        [pod] = cluster.api.pods()
        assert first(pod) == GOLDEN["container"]
        assert {"name": "OPENAI_API_KEY", "value": "dummy-key"} in pod["spec"]["containers"][0]["env"]


class TestHelm:
    def test_install_and_upgrade(self, cluster: Cluster, tmp_path: Path) -> None:
        chart = tmp_path / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: agent\nversion: 0.1.0\n")
        deployment = yaml.safe_load(workload("Deployment"))
        deployment["metadata"]["name"] = "{{ .Release.Name }}"
        deployment["spec"]["template"]["spec"]["hostNetwork"] = "HOST"
        text = yaml.safe_dump(deployment).replace("HOST", "{{ .Values.host }}")
        (chart / "templates" / "deployment.yaml").write_text(text)
        pod = yaml.safe_load(BARE)
        del pod["metadata"]["namespace"]
        pod["metadata"]["name"] = "{{ .Release.Name }}-{{ .Release.Revision }}"
        (chart / "templates" / "pod.yaml").write_text(yaml.safe_dump(pod))
        with Config(kubeconfig_path=str(cluster.kubeconfig), namespace="agents", storage_driver="memory") as helm:
            release = helm.install(str(chart), "writer", {"host": False})
            assert release["status"] == "deployed", release
            agents = {pod["metadata"]["annotations"]["tokengate.io/agent"] for pod in cluster.api.pods()}
            assert agents == {"writer", "writer-1"}
            assert all(first(pod) == GOLDEN["container"] for pod in cluster.api.pods())
            helm.upgrade(str(chart), "writer", {"host": False})
            assert "writer-2" in {pod["metadata"]["name"] for pod in cluster.api.pods()}

    def test_a_refusal_fails_the_installation_in_words(self, cluster: Cluster, tmp_path: Path) -> None:
        (tmp_path / "templates").mkdir()
        (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: agent\nversion: 0.1.0\n")
        (tmp_path / "templates" / "pod.yaml").write_text(changed(BARE, {"shareProcessNamespace": True}))
        with (
            Config(kubeconfig_path=str(cluster.kubeconfig), namespace="agents", storage_driver="memory") as helm,
            pytest.raises(
                HelmError, match="shareProcessNamespace is set: the agent could read the gate's keys by /proc"
            ),
        ):
            helm.install(str(tmp_path), "writer")


class TestHowTo:
    PAGE = (ROOT / "docs" / "how-to" / "inject.md").read_text()
    COMMANDS = tuple(
        line
        for block in re.findall(r"^```(?:ba)?sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    )

    @pytest.fixture
    def tools(self, cluster: Cluster, tmp_path: Path) -> dict[str, str]:
        """What the page's reader has: its files, our command, kubectl, and a Helm that prints its chart's manifest."""
        place = tmp_path / "bin"
        place.mkdir()
        for name, script in {
            "tokengate": f'exec {sys.executable} -m tokengate "$@"',
            "helm": '[ "$1" = template ] && exec cat agent.yaml; exit 1',
        }.items():
            (place / name).write_text(f"#!/bin/sh\n{script}\n")
            (place / name).chmod(0o755)
        (tmp_path / "agent.yaml").write_text(BARE)
        (tmp_path / "policy.yaml").write_text("session: strict")
        (tmp_path / "openai.key").write_text("sk-1")
        path = f"{place}:{os.environ['PATH']}"
        return {"PATH": path, "KUBECONFIG": str(cluster.kubeconfig), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def test_its_commands_run(self, cluster: Cluster, tools: dict[str, str], tmp_path: Path) -> None:
        cluster.kubectl("apply", "-f", "-", given_input=yaml.safe_dump(yaml.safe_load(workload("Deployment"))))
        del cluster.api.get("/api/v1/namespaces/agents")["metadata"]["labels"]["tokengate.io/inject"]
        ran = []
        for line in self.COMMANDS:
            cluster.api.objects.pop("/api/v1/namespaces/agents/pods/agent", None)
            if line.startswith("helm install"):
                continue  # test_chart.py does that, with the real one
            if " create secret " in line:
                line += " --dry-run=client -o yaml | kubectl apply -f -"  # noqa: PLW2901 - else it is sent in protobuf
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", line],
                env=tools,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, (line, done.stderr)
            ran.append(done.stdout)
        assert len(ran) >= 9
        assert sum("tokengate.io/agent" in said for said in ran) == 3
        keys = cluster.api.get("/api/v1/namespaces/agents/secrets/tokengate-provider-keys")
        assert base64.b64decode(keys["data"]["OPENAI_API_KEY"]) == b"sk-1"
        assert "REDIS_URL" in cluster.api.get("/api/v1/namespaces/agents/secrets/tokengate-redis")["data"]


class Mesh(BaseHTTPRequestHandler):
    """Another webhook: puts a container of its own first, and loses what it does not know, `restartPolicy` of a container."""

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        spec = request["object"]["spec"]
        known = [
            {name: each[name] for name in each if name != "restartPolicy"} for each in spec.get("initContainers", ())
        ]
        patch = [
            {"op": "add", "path": "/spec/initContainers", "value": [{"name": "mesh", "image": "mesh"}, *known]},
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "late"}},
        ]
        response = {
            "uid": request["uid"], "allowed": True, "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }  # fmt: skip
        body = json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class TestOtherWebhooks:
    @pytest.fixture
    def mesh(self, cluster: Cluster, tmp_path: Path) -> Iterator[None]:
        """It is asked after the injector."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), Mesh)
        issued = issue(service_names("mesh", "mesh"), 1, datetime.now(UTC))
        (tmp_path / "pair.pem").write_bytes(issued.certificate + issued.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "pair.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        configuration = webhook_configuration()
        configuration["metadata"]["name"] = "z-mesh"
        hook = configuration["webhooks"][0]
        bundle = base64.b64encode(issued.authorities).decode()
        hook["clientConfig"] = {"service": {"name": "mesh", "namespace": "mesh"}, "caBundle": bundle}
        hook["name"], hook["reinvocationPolicy"] = "mesh.example.com", "Never"
        configuration["webhooks"] = [hook]
        cluster.api.services["mesh.mesh.svc"] = [server.server_address[1]]
        cluster.api.put(configuration)
        yield
        del cluster.api.objects["/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/z-mesh"]
        server.shutdown()
        thread.join()
        server.server_close()

    @pytest.mark.usefixtures("mesh")
    def test_what_another_one_breaks_is_mended(self, cluster: Cluster) -> None:
        done = cluster.kubectl("apply", "-f", "-", given_input=BARE)
        assert done.returncode == 0, done.stderr
        [pod] = cluster.api.pods()
        assert [each["name"] for each in pod["spec"]["initContainers"]] == ["mesh", "tokengate"]
        assert pod["spec"]["initContainers"][1]["restartPolicy"] == "Always"
        for each in (*pod["spec"]["containers"], pod["spec"]["initContainers"][0]):
            assert each["env"] == GOLDEN["agentEnv"]
        assert len(cluster.api.reviews) == 3


class TestFailure:
    def test_a_webhook_that_is_away_stops_pods_or_does_not_as_it_was_said(self, cluster: Cluster) -> None:
        ports = cluster.api.services[f"{SERVICE}.{NAMESPACE}.svc"]
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{SERVICE}"
        hooks = cluster.api.objects[path]["webhooks"]
        cluster.api.services[f"{SERVICE}.{NAMESPACE}.svc"] = [1]
        try:
            done = cluster.kubectl("apply", "-f", "-", given_input=BARE)
            assert done.returncode == 1
            assert 'failed calling webhook "namespace.inject.tokengate.io"' in done.stderr
            assert cluster.api.pods() == []
            for hook in hooks:
                hook["failurePolicy"] = "Ignore"
            assert cluster.kubectl("apply", "-f", "-", given_input=BARE).returncode == 0
            assert "initContainers" not in cluster.api.pods()[0]["spec"]
        finally:
            cluster.api.services[f"{SERVICE}.{NAMESPACE}.svc"] = ports
            for hook in hooks:
                hook["failurePolicy"] = "Fail"

    def test_its_metrics_are_what_prometheus_reads(self, cluster: Cluster) -> None:
        cluster.kubectl("apply", "-f", "-", given_input=changed(BARE, {"hostPID": True}))
        families = {
            family.name: family for family in text_string_to_metric_families(cluster.injector.status("/metrics").text)
        }
        [expiry] = families["tokengate_injector_certificate_expiry_timestamp_seconds"].samples
        assert expiry.value > 1_800_000_000
        refused = [
            sample for sample in families["tokengate_injector_reviews"].samples
            if sample.labels == {"result": "refused", "reason": "host_pid", "dry_run": "false"}
        ]  # fmt: skip
        assert {sample.name for sample in refused} >= {"tokengate_injector_reviews_total"}
        assert families["tokengate_injector_info"].samples[0].labels["version"]

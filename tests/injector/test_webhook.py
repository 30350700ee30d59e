"""The webhook's two ports: what it is asked, what it refuses to be asked, and how it comes and goes."""

import base64
import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.injector.conftest import Cluster
from tests.support.golden_pods import GOLDEN_PODS, GoldenPod
from tests.support.injectors import ROOT, injector, until
from tests.support.servers import free_port
from tokengate.injector.certificates import issue
from tokengate.injector.patch import Result, Skip
from tokengate.injector.policy import parse
from tokengate.injector.review import MESSAGE_CHARACTERS_MAX, MalformedReview, review
from tokengate.injector.webhook import BODY_BYTES_MAX

POLICY = parse(b"")
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"


def question(pod: Any = None, **more: Any) -> dict[str, Any]:
    """As the documentation of Kubernetes shows one; see `tokengate.injector.review`."""
    request = {
        "uid": UID,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "name": "agent",
        "namespace": "agents",
        "operation": "CREATE",
        "userInfo": {
            "username": "admin",
            "uid": "014fbff9a07c",
            "groups": ["system:authenticated"],
            "extra": {"k": ["v"]},
        },
        "object": GoldenPod("bare").pod if pod is None else pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        **more,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def answered(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(review(json.dumps(question(**more)).encode(), POLICY).answer)
    return found


class TestReview:
    def test_an_answer_has_the_questions_uid_and_a_patch(self) -> None:
        answer = answered()
        assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
        response = answer["response"]
        assert (response["uid"], response["allowed"], response["patchType"]) == (UID, True, "JSONPatch")
        paths = [operation["path"] for operation in json.loads(base64.b64decode(response["patch"]))]
        # Indices move when the gate is put first, so everything that names one comes before; parents come first of all.
        assert paths.index("/spec/containers/0/env") < paths.index("/spec/containers/0/env/-")
        assert paths.index("/spec/containers/0/env/-") < paths.index("/spec/initContainers")
        assert paths.index("/spec/initContainers") < paths.index("/spec/initContainers/0")
        assert response["auditAnnotations"] == {"result": "patched", "config-hash": POLICY.config_hash()}

    def test_nothing_to_do_is_no_patch(self) -> None:
        golden = GoldenPod("bare")
        response = answered(pod=golden.patched(golden.decide()))["response"]
        assert response.keys() == {"uid", "allowed", "auditAnnotations"}

    def test_a_refusal_has_its_reasons_and_they_have_an_end(self) -> None:
        response = answered(pod=GoldenPod("host-network").pod)["response"]
        assert response["allowed"] is False
        assert response["status"]["code"] == 403
        assert response["status"]["message"].startswith("TokenGate: hostNetwork is set")
        assert response["auditAnnotations"]["reason"] == "host_network"
        pod = GoldenPod("bare").pod
        pod["spec"]["containers"] = [
            {"name": f"c{index}", "image": "i", "securityContext": {"runAsUser": 65532}} for index in range(500)
        ]
        assert len(answered(pod=pod)["response"]["status"]["message"]) == MESSAGE_CHARACTERS_MAX

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({"operation": "UPDATE"}, Skip.NOT_CREATED),
            ({"operation": "UPDATE", "subResource": "status"}, Skip.NOT_CREATED),
            ({"operation": "CREATE", "subResource": "binding"}, Skip.NOT_CREATED),
            ({"operation": "DELETE", "object": None}, Skip.NOT_A_POD),
            ({"kind": {"group": "", "version": "v1", "kind": "Service"}}, Skip.NOT_A_POD),
            ({"kind": {"group": "metrics.k8s.io", "version": "v1", "kind": "Pod"}}, Skip.NOT_A_POD),
            ({"namespace": "kube-system"}, Skip.SYSTEM_NAMESPACE),
        ],
    )
    def test_what_is_not_for_it_is_let_through(self, more: dict[str, Any], reason: Skip) -> None:
        response = answered(**more)["response"]
        assert response["allowed"] is True
        assert "patch" not in response
        assert response["auditAnnotations"]["reason"] == reason

    def test_an_ephemeral_container_may_not_reach_into_the_gate(self) -> None:
        golden = GoldenPod("bare")
        pod = golden.patched(golden.decide())
        pod["spec"]["ephemeralContainers"] = [{"name": "d", "image": "d", "targetContainerName": "tokengate"}]
        response = answered(pod=pod, operation="UPDATE", subResource="ephemeralcontainers")["response"]
        assert response["allowed"] is False
        assert "container d targets tokengate" in response["status"]["message"]

    def test_a_pod_that_cannot_be_read_is_refused(self) -> None:
        response = answered(pod={"spec": {"containers": [{"name": 1}]}})["response"]
        assert response["allowed"] is False
        assert "Expected `str`, got `int`" in response["status"]["message"]

    @pytest.mark.parametrize(
        "body",
        [
            b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000,
            b'{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}',
            json.dumps(question() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
            json.dumps(question() | {"kind": "Pod"}).encode(),
            json.dumps(question(uid="")).encode(),
            json.dumps(question(uid="x" * 129)).encode(),
        ],
    )  # fmt: skip
    def test_what_is_no_question_is_told(self, body: bytes) -> None:
        with pytest.raises(MalformedReview):
            review(body, POLICY)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["spec", "metadata", "containers", "initContainers", "env", "name", "volumes", "labels", "value"]),
                inner,
                max_size=4,
            ),
            max_leaves=20,
        )
    )  # fmt: skip
    def test_nothing_that_a_pod_could_be_is_too_much(self, pod: Any) -> None:
        try:
            reviewed = review(json.dumps(question(pod=pod)).encode(), POLICY)
        except MalformedReview:
            return
        assert reviewed.decision.result in (Result.REFUSED, Result.SKIPPED, Result.PATCHED)
        json.loads(reviewed.answer)


class TestPort:
    @pytest.fixture
    def http(self, cluster: Cluster) -> Iterator[httpx.Client]:
        context = ssl.create_default_context(cafile=str(cluster.mounted / "ca.crt"))
        context.check_hostname = False
        base = f"https://127.0.0.1:{cluster.injector.port}"
        with httpx.Client(verify=context, base_url=base, timeout=30, trust_env=False) as client:
            yield client

    def test_it_answers_on_a_connection_that_is_kept(self, http: httpx.Client) -> None:
        for _ in range(3):
            answer = http.post("/inject?timeout=10s", json=question())
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json()["response"]["uid"] == UID
            assert answer.http_version == "HTTP/1.1"

    @pytest.mark.parametrize(
        ("method", "path", "headers", "content", "status"),
        [
            ("POST", "/", {}, b"{}", 404),
            ("GET", "/metrics", {}, b"", 404),
            ("GET", "/inject", {}, b"", 405),
            ("POST", "/inject", {"content-type": "text/plain"}, b"{}", 415),
            ("POST", "/inject", {}, b"{}", 400),
            ("POST", "/inject", {}, b" " * (BODY_BYTES_MAX + 1), 413),
        ],
    )
    def test_what_it_is_not_for_is_refused_and_counted(
        self,
        cluster: Cluster,
        http: httpx.Client,
        method: str,
        path: str,
        headers: dict[str, str],
        content: bytes,
        status: int,
    ) -> None:
        series = f'tokengate_injector_invalid_requests_total{{status="{status}"}}'
        before = cluster.injector.metric(series)
        answer = http.request(method, path, content=content, headers={"content-type": "application/json"} | headers)
        assert answer.status_code == status
        assert answer.text
        assert cluster.injector.metric(series) == before + 1

    def test_a_body_that_does_not_come_ends(self, cluster: Cluster) -> None:
        context = ssl.create_default_context(cafile=str(cluster.mounted / "ca.crt"))
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", cluster.injector.port), timeout=30) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(
                b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
            )
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")

    def test_it_speaks_tls_1_3_and_nothing_older(self, cluster: Cluster) -> None:
        context = ssl.create_default_context(cafile=str(cluster.mounted / "ca.crt"))
        context.check_hostname = False
        with (
            socket.create_connection(("127.0.0.1", cluster.injector.port), timeout=30) as plain,
            context.wrap_socket(plain) as connection,
        ):
            assert connection.version() == "TLSv1.3"
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", cluster.injector.port), timeout=30) as plain,
            pytest.raises(ssl.SSLError),
        ):
            context.wrap_socket(plain)

    def test_the_other_port_tells_and_takes_nothing(self, cluster: Cluster) -> None:
        assert cluster.injector.status("/livez").json() == {"status": "ok"}
        health = cluster.injector.status("/health").json()
        assert (health["status"], health["role"], health["policy"], health["certificate"]) == (
            "ok",
            "injector",
            True,
            True,
        )
        assert cluster.injector.status("/inject").status_code == 404


def pair(folder: Path) -> Path:
    """A directory as `--certificates` wants it."""
    folder.mkdir()
    issued = issue(["x"], 30, datetime.now(UTC))
    (folder / "tls.crt").write_bytes(issued.certificate)
    (folder / "tls.key").write_bytes(issued.key)
    (folder / "ca.crt").write_bytes(issued.authorities)
    return folder


def post(port: int) -> dict[str, Any]:
    answer = httpx.post(f"https://127.0.0.1:{port}/inject", json=question(), verify=False, timeout=30, trust_env=False)
    found: dict[str, Any] = answer.json()["response"]
    return found


class TestProcess:
    def test_it_is_ready_once_it_has_a_certificate(self, tmp_path: Path) -> None:
        with injector(tmp_path / "tls") as running:
            until(lambda: _answers(running.status_port))
            failed = 'tokengate_injector_reloads_total{outcome="failed",what="certificate"}'
            assert running.metric(failed) == 1
            health = running.status("/readyz")
            assert (health.status_code, health.json()["status"]) == (503, "starting")
            pair(tmp_path / "tls")
            until(running.ready)
            assert post(running.port)["allowed"]
            log = [json.loads(line) for line in running.stop().splitlines()]
        events = [line["event"] for line in log]
        assert events == ["cannot be used", "read", "serving", "read", "review", "stopped"]
        assert "No such file or directory" in next(line for line in log if line["event"] == "cannot be used")["error"]
        line = next(line for line in log if line["event"] == "review")
        assert (line["uid"], line["namespace"], line["pod"], line["agent"]) == (UID, "agents", "agent", "agent")
        assert (line["result"], line["dry_run"], line["level"]) == ("patched", False, "info")

    def test_a_policy_that_changes_is_used_and_a_faulty_one_is_not(self, tmp_path: Path) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text("port: 9001")
        done = 'tokengate_injector_reloads_total{outcome="done",what="policy"}'
        failed = 'tokengate_injector_reloads_total{outcome="failed",what="policy"}'
        with injector(pair(tmp_path / "tls"), "--policy", str(policy)) as running:
            until(running.ready)
            first = post(running.port)["auditAnnotations"]["config-hash"]
            assert first == parse(b"port: 9001").config_hash()
            policy.write_text("prot: 9002")
            until(lambda: running.metric(failed) == 1)
            assert post(running.port)["auditAnnotations"]["config-hash"] == first
            policy.write_text("port: 9002")
            until(lambda: running.metric(done) == 2)
            second = post(running.port)["auditAnnotations"]["config-hash"]
            assert second == parse(b"port: 9002").config_hash()
            assert f'config_hash="{second}"' in running.status("/metrics").text
            assert f'config_hash="{first}"' not in running.status("/metrics").text

    def test_told_to_stop_it_answers_on_for_a_while(self, tmp_path: Path) -> None:
        with injector(pair(tmp_path / "tls"), drain_s=300) as running:
            until(running.ready)
            running.process.send_signal(signal.SIGTERM)
            until(lambda: running.status("/readyz").json()["status"] == "draining")
            assert post(running.port)["allowed"]
            assert running.status("/livez").status_code == 200
            # A second signal does not wait for the 300 seconds.
            assert running.stop().splitlines()[-1].startswith('{"event":"stopped"')

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["--policy", "none.yaml"], 2, "tokengate: none.yaml: No such file or directory"),
            (["--policy", "faulty.yaml"], 2, "tokengate: faulty.yaml: Object contains unknown field `prot`"),
            (["--log-level", "loud"], 2, "tokengate: --log-level loud: allowed is DEBUG, INFO, WARNING or ERROR"),
            (["--port", "PORT", "--status-port", "PORT"], 1, "cannot listen on *:"),
        ],
    )
    def test_what_it_cannot_start_with_it_says(
        self, tmp_path: Path, arguments: list[str], code: int, said: str
    ) -> None:
        (tmp_path / "faulty.yaml").write_text("prot: 1")
        port = str(free_port())
        words = [port if word == "PORT" else word for word in arguments]
        ran = subprocess.run(
            [sys.executable, "-m", "tokengate", "injector", *words],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (ran.returncode, "Traceback" in ran.stderr) == (code, False)
        assert said in ran.stderr


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/livez", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_a_question_about_each_golden_pod_is_answered_as_it_is_decided() -> None:
    for golden in GOLDEN_PODS:
        if golden.policy == POLICY:
            decision = golden.decide()
            response = answered(pod=golden.pod, namespace=golden.pod["metadata"]["namespace"])["response"]
            assert response["allowed"] == (decision.result is not Result.REFUSED)
            if decision.operations:
                assert msgspec.json.decode(base64.b64decode(response["patch"])) == list(decision.operations)

"""The injector as a process, with the files that a kubelet would give it, in front of an API server of our own."""

import base64
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.api_server import WEBHOOKS, ApiServer
from tests.support.servers import free_port

NAMESPACE: Final = "tokengate"
SERVICE: Final = "tokengate-injector"
SECRET: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SERVICE}-tls"
ROOT: Final = Path(__file__).parent.parent.parent
WAIT_S_MAX: Final = 30.0
POLL_S: Final = 0.02


def until(happened: Any) -> None:
    """Wait for what another process does."""
    ends = time.monotonic() + WAIT_S_MAX
    while not happened():
        if time.monotonic() > ends:
            raise TimeoutError("it did not happen")
        time.sleep(POLL_S)


def webhook_configuration(failure_policy: str = "Fail") -> dict[str, Any]:
    """One webhook for labelled namespaces, one for labelled pods elsewhere; whom to believe is not said yet."""
    rules = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced"},
    ]  # fmt: skip
    common = {
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": {"name": SERVICE, "namespace": NAMESPACE, "path": "/inject", "port": 443}},
        "rules": rules,
        "failurePolicy": failure_policy,
        "reinvocationPolicy": "IfNeeded",
        "sideEffects": "None",
        "timeoutSeconds": 5,
    }
    label = "tokengate.io/inject"
    in_namespace = {"matchExpressions": [{"key": label, "operator": "In", "values": ["enabled"]}]}
    elsewhere = {"matchExpressions": [{"key": label, "operator": "NotIn", "values": ["enabled"]}]}
    asked = {"matchExpressions": [{"key": label, "operator": "In", "values": ["true", "enabled"]}]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": SERVICE},
        "webhooks": [
            {"name": "namespace.inject.tokengate.io", "namespaceSelector": in_namespace, **common},
            {"name": "pod.inject.tokengate.io", "namespaceSelector": elsewhere, "objectSelector": asked, **common},
        ],
    }


def furnish(api: ApiServer) -> None:
    """The namespaces and the webhooks, as the chart makes them."""
    for name, labels in {"agents": {"tokengate.io/inject": "enabled"}, "elsewhere": {}, NAMESPACE: {}}.items():
        api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    api.put(webhook_configuration())


def certs(api: ApiServer, service_account: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tokengate injector certs`, as a job runs it."""
    return subprocess.run(
        [sys.executable, "-m", "tokengate", "injector", "certs", "--service-account", str(service_account), *arguments],
        env={"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port), "PATH": os.environ["PATH"]},
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S_MAX, check=False,
    )  # fmt: skip


def authorities(api: ApiServer) -> list[str]:
    """What each webhook's `caBundle` holds."""
    hooks = api.objects[f"{WEBHOOKS}/{SERVICE}"]["webhooks"]
    return [base64.b64decode(each["clientConfig"].get("caBundle", "")).decode() for each in hooks]


def mount(api: ApiServer, folder: Path) -> Path:
    """Put the Secret into a directory as a kubelet does: all of its files change at one moment."""
    folder.mkdir(exist_ok=True)
    data = api.objects[SECRET]["data"]
    versions = len(list(folder.glob("..20*")))
    fresh = folder / f"..2026_{versions}"
    fresh.mkdir()
    for name, value in data.items():
        (fresh / name).write_bytes(base64.b64decode(value))
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    pointer = folder / "..data_tmp"
    pointer.symlink_to(fresh.name)
    pointer.replace(folder / "..data")
    return folder


@dataclass
class Injector:
    port: int
    status_port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    def status(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.status_port}{path}", timeout=WAIT_S_MAX, trust_env=False)

    def ready(self) -> bool:
        assert self.process.poll() is None, "it has ended"
        try:
            return self.status("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, line: str) -> float:
        """The value of a series, as it is written before it; 0 if there is none."""
        for each in self.status("/metrics").text.splitlines():
            if each.startswith(f"{line} "):
                return float(each.rpartition(" ")[2])
        return 0.0

    def stop(self) -> str:
        """End it in order; gives its log."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=WAIT_S_MAX)
        said = self.log.read_text()
        assert code == 0, said
        return said


@contextlib.contextmanager
def injector(certificates: Path, *arguments: str, drain_s: float = 0) -> Iterator[Injector]:
    ports = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "tokengate", "injector", "--certificates", str(certificates), "--host", "127.0.0.1"),
        *("--port", str(ports[0]), "--status-port", str(ports[1]), "--drain-s", str(drain_s), *arguments),
    ]
    with tempfile.NamedTemporaryFile(prefix="injector-", suffix=".log") as log:
        # Not a pipe: nobody would read it, and it would be full one day.
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            yield Injector(*ports, process, Path(log.name))
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=WAIT_S_MAX)

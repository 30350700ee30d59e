"""A cluster with an injector in it, one for all tests of a module that need no other; and kubectl for it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.api_server import ApiServer, api_server
from tests.support.injectors import NAMESPACE, SERVICE, Injector, certs, furnish, injector, mount, until

Kubectl = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass
class Cluster:
    api: ApiServer
    injector: Injector
    kubectl: Kubectl
    kubeconfig: Path
    service_account: Path
    mounted: Path


def kubectl_for(kubeconfig: Path) -> Kubectl:
    """kubectl as a person has it: its words as arguments, manifests on standard input."""

    def run(*arguments: str, given_input: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["kubectl", "--cache-dir", str(kubeconfig.parent / "cache"), *arguments],
            input=given_input, capture_output=True, text=True, timeout=60, check=False,
            env={"KUBECONFIG": str(kubeconfig), "PATH": os.environ["PATH"], "HOME": str(kubeconfig.parent)},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with api_server(folder / "api") as api:
        furnish(api)
        account = api.service_account(folder / "account", NAMESPACE)
        made = certs(api, account)
        assert made.returncode == 0, made.stderr
        mounted = mount(api, folder / "tls")
        kubeconfig = api.kubeconfig(folder)
        with injector(mounted) as running:
            api.services[f"{SERVICE}.{NAMESPACE}.svc"] = [running.port]
            until(running.ready)
            yield Cluster(api, running, kubectl_for(kubeconfig), kubeconfig, account, mounted)


@pytest.fixture
def cluster(a_cluster: Cluster) -> Cluster:
    """The cluster, with nothing of another test in it."""
    for path in list(a_cluster.api.objects):
        if "/namespaces/agents/" in path or "/namespaces/elsewhere/" in path:
            del a_cluster.api.objects[path]
    a_cluster.api.get("/api/v1/namespaces/agents")["metadata"]["labels"]["tokengate.io/inject"] = "enabled"
    a_cluster.api.reviews.clear()
    return a_cluster

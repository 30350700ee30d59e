"""The kustomize base and overlays, built by the real kustomize (in kubectl): valid, restricted, and equal to the charts."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.charts import CHARTS, containers, of_kind, one, templates
from tests.support.kubectl import kubectl
from tests.support.kubernetes import Manifest, restricted_faults, validate

ROOT: Final = Path(__file__).parent.parent
OVERLAYS: Final = sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir())
GOLDEN: Final[Manifest] = yaml.safe_load((Path(__file__).parent / "golden" / "sidecar-container.yaml").read_text())


def built(path: Path) -> list[Manifest]:
    done = kubectl("kustomize", str(path))
    assert done.returncode == 0, done.stderr
    # Deprecated fields are warned of.
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return built(ROOT / "k8s" / "overlays" / request.param)


class TestEveryOverlay:
    def test_kubernetes_takes_it(self, overlay: list[Manifest]) -> None:
        for manifest in overlay:
            old = manifest["kind"].startswith("ValidatingAdmissionPolicy")
            validate(manifest, tuple(f"1.{minor}" for minor in range(30 if old else 29, 38)))

    def test_it_needs_no_more_than_restricted(self, overlay: list[Manifest]) -> None:
        for manifest in overlay:
            for pod in templates(manifest):
                for container in containers(pod):
                    assert list(restricted_faults(container, pod["spec"]["securityContext"])) == []

    def test_names_are_there_once(self, overlay: list[Manifest]) -> None:
        places = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in overlay]
        assert len(set(places)) == len(places)


def test_the_bases_are_the_charts() -> None:
    command = [sys.executable, str(CHARTS / "manifests.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "kind"), [("sidecar-deployment", "Deployment"), ("sidecar-job", "Job")])
def test_a_gated_workload_has_the_golden_sidecar(name: str, kind: str) -> None:
    (pod,) = templates(one(built(ROOT / "k8s" / "overlays" / name), kind))
    sidecar, *others = pod["spec"]["initContainers"]
    extra = [variable for variable in sidecar["env"] if variable not in GOLDEN["container"]["env"]]
    sidecar["env"] = [variable for variable in sidecar["env"] if variable not in extra]
    assert sidecar == GOLDEN["container"]
    assert [each["name"] for each in extra] == (["DEFAULT_BUDGET_PERIOD"] if kind == "Job" else [])
    assert others == []
    assert pod["spec"]["volumes"] == GOLDEN["volumes"]
    (agent,) = pod["spec"]["containers"]
    assert agent["env"] == GOLDEN["agentEnv"]
    assert GOLDEN["labels"].items() <= pod["metadata"]["labels"].items()
    assert pod["metadata"]["annotations"].keys() == GOLDEN["annotations"].keys()


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job", "CronJob"])
def test_the_component_knows_every_kind_of_workload(kind: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "k8s" / "components", tmp_path / "components")
    spec: Manifest = {"containers": [{"name": "agent", "image": "a", "env": [{"name": "MINE", "value": "kept"}]}]}
    spec["initContainers"] = [{"name": "setup", "image": "s"}]
    template: Manifest = {"metadata": {"annotations": {"tokengate.io/agent": "a"}}, "spec": spec}
    body: Manifest = {"template": template}
    if kind == "CronJob":
        body = {"schedule": "@daily", "jobTemplate": {"spec": body}}
    version = "batch/v1" if kind.endswith("Job") else "apps/v1"
    own: Manifest = {"apiVersion": version, "kind": kind, "spec": body}
    own["metadata"] = {"name": "mine", "labels": {"tokengate.io/gate": "sidecar"}}
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own.yaml").write_text(yaml.safe_dump(own))
    said = {"resources": ["own.yaml"], "components": ["../components/sidecar"]}
    (tmp_path / "own" / "kustomization.yaml").write_text(yaml.safe_dump(said))
    (pod,) = templates(one(built(tmp_path / "own"), kind))
    assert [each["name"] for each in pod["spec"]["initContainers"]] == ["tokengate", "setup"]
    assert {"name": "MINE", "value": "kept"} in pod["spec"]["containers"][0]["env"]


def test_a_report_is_not_suspended() -> None:
    spec = one(built(ROOT / "k8s" / "overlays" / "report-cronjob"), "CronJob")["spec"]
    assert (spec["suspend"], spec["schedule"]) == (False, "0 7 * * 1-5")


def test_the_injectors_policy_is_one() -> None:
    from tokengate.injector.policy import parse

    rendered = built(ROOT / "k8s" / "overlays" / "injector")
    policy = parse(one(rendered, "ConfigMap", "-policy")["data"]["policy.yaml"].encode())
    assert policy.settings["AGENT_BUDGET"] == "20.00"
    assert not policy.opt_out


def test_agents_may_call_the_gateway() -> None:
    rendered = built(ROOT / "k8s" / "overlays" / "gateway")
    peers: list[Any] = one(rendered, "NetworkPolicy", "-gateway")["spec"]["ingress"][0]["from"]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "agents"}}} in peers
    assert not of_kind(rendered, "MutatingWebhookConfiguration")

"""The golden sidecar: what everything that renders it is held to is itself a container that Kubernetes takes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import ValidationError

from tests.support.kubernetes import restricted_faults, validate
from tokengate import __version__

GOLDEN: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "golden" / "sidecar-container.yaml").read_text())


def pod() -> dict[str, Any]:
    golden = copy.deepcopy(GOLDEN)
    agent = {"name": "agent", "image": "agent", "env": golden["agentEnv"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "labels": golden["labels"], "annotations": golden["annotations"]},
        "spec": {"initContainers": [golden["container"]], "containers": [agent], "volumes": golden["volumes"]},
    }


def test_it_is_a_pod_for_every_version_of_kubernetes_with_sidecars() -> None:
    validate(pod())
    misspelt = pod()
    misspelt["spec"]["initContainers"][0]["restartpolicy"] = "Always"
    with pytest.raises(ValidationError, match="restartpolicy"):
        validate(misspelt)


def test_it_needs_no_more_than_pod_security_restricted_allows() -> None:
    assert list(restricted_faults(GOLDEN["container"])) == []
    assert len(list(restricted_faults({"name": "plain"}))) == 4


def test_it_is_of_this_version() -> None:
    assert GOLDEN["container"]["image"].endswith(f":{__version__}")


def test_it_has_no_limit_of_cpu() -> None:
    # A limit would stop the gate, and so the agent, for parts of each tenth of a second.
    assert list(GOLDEN["container"]["resources"]["limits"]) == ["memory"]


def test_only_the_sidecar_mounts_secrets_and_none_is_in_an_environment() -> None:
    names = {volume["name"] for volume in GOLDEN["volumes"] if "projected" in volume}
    assert names
    assert names <= {mount["name"] for mount in GOLDEN["container"]["volumeMounts"] if mount.get("readOnly")}
    for variable in GOLDEN["container"]["env"] + GOLDEN["agentEnv"]:
        assert "secretKeyRef" not in variable.get("valueFrom", {})

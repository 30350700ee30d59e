# ruff: noqa: INP001 - a program, not a module
"""Write the kustomize bases from the charts, so that both say the same; with --check, only look.

What is Helm's own (hooks, labels, random secrets) is left out. Needs helm-python-sdk.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

CHARTS: Final = Path(__file__).parent
K8S: Final = CHARTS.parent / "k8s"
RELEASE: Final = "tokengate"
NAMESPACE: Final = "tokengate"

_PARTS: Final = ("injector", "console", "gateway", "admin", "admissionPolicy", "networkPolicies", "tests")
_ON: Final[dict[str, Any]] = {"enabled": True}
_NOTHING: Final[dict[str, Any]] = {name: {"enabled": False} for name in _PARTS}
BASES: Final[dict[str, dict[str, Any]]] = {
    "injector": {"injector": _ON, "admissionPolicy": _ON, "networkPolicies": _ON},
    "gateway": {"gateway": _ON, "networkPolicies": _ON},
    "console": {"console": _ON | {"tokenSecret": "tokengate-admin-token"}, "networkPolicies": _ON},
    "admin": {"admin": _ON},
}
"""The values that each base is rendered with; what they do not name is switched off."""

SIDECAR: Final = """
initContainers:
  {{- include "tokengate.container" (dict) | nindent 2 }}
volumes:
  {{- include "tokengate.volumes" (dict) | nindent 2 }}
env:
  {{- include "tokengate.agentEnv" (dict) | nindent 2 }}
labels:
  {{- include "tokengate.labels" . | nindent 2 }}
"""
AGENT: Final = "agent"
"""What the container of an agent is called that the sidecar's component is added to."""

TEMPLATES: Final = {
    "Deployment": ("apps/v1", ("spec", "template")),
    "StatefulSet": ("apps/v1", ("spec", "template")),
    "Job": ("batch/v1", ("spec", "template")),
    "CronJob": ("batch/v1", ("spec", "jobTemplate", "spec", "template")),
}

Manifest = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Lists are indented below their name, and nothing is an alias: as people write Kubernetes objects."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(str, _text)


def dumped(documents: list[Manifest], said: str) -> str:
    """Documents as YAML, with what is to be said of them before it."""
    parts = [yaml.dump(each, Dumper=_Dumper, sort_keys=False, width=1000) for each in documents]
    return f"# {said}\n# Written by charts/manifests.py (make charts): change the charts instead.\n" + "---\n".join(
        parts
    )


def _rendered(folder: Path, chart: str, values: dict[str, Any]) -> dict[str, str]:
    path = folder / "charts" / chart
    helm_python.dependency_update(str(path))
    with helm_python.Chart.load(str(path)) as loaded:
        texts: dict[str, str] = loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    return texts


def _without_helm(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    kept = {name: text for name, text in metadata.get("annotations", {}).items() if not name.startswith("helm.sh/")}
    metadata.pop("annotations", None)
    if manifest["kind"] == "Job":
        metadata["name"] = metadata["name"].removesuffix("-1")  # the revision
    if kept:
        metadata["annotations"] = kept
    _unlabelled(manifest)
    return manifest


def _unlabelled(value: Any) -> None:  # noqa: ANN401 - whatever YAML has
    if isinstance(value, dict):
        for name in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            value.pop(name, None)
        for each in value.values():
            _unlabelled(each)
    elif isinstance(value, list):
        for each in value:
            _unlabelled(each)


def _base(folder: Path, name: str) -> str:
    texts = _rendered(folder, "tokengate", _NOTHING | BASES[name])
    documents = [
        _without_helm(document)
        for path, text in sorted(texts.items())
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return dumped(documents, f"The {name}, as the chart has it.")


def _patches(folder: Path) -> Iterator[tuple[str, str]]:
    own = folder / "charts" / "own"
    (own / "templates").mkdir(parents=True)
    library = yaml.safe_load((CHARTS / "tokengate-lib" / "Chart.yaml").read_text())
    depends = {"name": library["name"], "version": library["version"], "repository": "file://../tokengate-lib"}
    described = {"apiVersion": "v2", "name": "own", "version": "1.0.0", "dependencies": [depends]}
    (own / "Chart.yaml").write_text(yaml.safe_dump(described))
    (own / "templates" / "sidecar.yaml").write_text(SIDECAR)
    sidecar = yaml.safe_load(_rendered(folder, "own", {})["own/templates/sidecar.yaml"])
    spec = {
        "initContainers": sidecar["initContainers"],
        "containers": [{"name": AGENT, "env": sidecar["env"]}],
        "volumes": sidecar["volumes"],
    }
    for kind, (version, path) in TEMPLATES.items():
        inner: Manifest = {"metadata": {"labels": sidecar["labels"]}, "spec": spec}
        for name in reversed(path):
            inner = {name: inner}
        patch = {"apiVersion": version, "kind": kind, "metadata": {"name": "any"}, **inner}
        yield f"components/sidecar/{kind.lower()}.yaml", dumped([patch], f"What the sidecar adds to a {kind}.")


def written() -> dict[str, str]:
    """The files, by their path below k8s/."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(CHARTS, folder / "charts")
        files = {f"base/{base}/{base}.yaml": _base(folder, base) for base in BASES}
        files |= dict(_patches(folder))
    return files


def main(arguments: list[str]) -> None:
    """Exit with 1 if it is to be checked only, and differs."""
    for path, text in written().items():
        file = K8S / path
        if file.exists() and file.read_text() == text:
            continue
        if "--check" in arguments:
            sys.exit(f"k8s/{path} is not that of the charts: make charts")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The charts of this repository, rendered by the real Helm library (helm-python-sdk), without a cluster."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml

from tests.support.kubernetes import Manifest

CHARTS: Final = Path(__file__).parent.parent.parent / "charts"
CASES: Final = {
    path.name.removesuffix("-values.yaml"): path for path in sorted((CHARTS / "tokengate" / "ci").glob("*"))
}
RELEASE: Final = "tg"
NAMESPACE: Final = "tokengate"
FOREIGN: Final = ("monitoring.coreos.com/", "cert-manager.io/")
"""Kinds of others, of which no schema comes with Kubernetes."""


def copied(folder: Path, name: str = "tokengate") -> Path:
    """A chart beside the library, with the library in it, as `helm dependency update` puts it there."""
    shutil.copytree(CHARTS, folder / "charts", dirs_exist_ok=True)
    chart = folder / "charts" / name
    helm_python.dependency_update(str(chart))
    return chart


def case(name: str) -> dict[str, Any]:
    """The values of one of the chart's ci files."""
    found: dict[str, Any] = helm_python.values_from_yaml(CASES[name].read_text())
    return found


def documents(rendered: dict[str, str]) -> Iterator[Manifest]:
    for path, text in sorted(rendered.items()):
        if path.endswith((".yaml", ".yml")):
            yield from filter(None, yaml.safe_load_all(text))


class Chart:
    """The application chart, ready to render."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tg")
        self.path = copied(Path(self._folder.name))
        self._loaded = helm_python.Chart.load(str(self.path))
        self._rendered: dict[str, list[Manifest]] = {}

    def texts(self, values: dict[str, Any], release: str = RELEASE) -> dict[str, str]:
        """What each template gives, after the values were checked by the schema.

        Raises:
            helm_python.HelmError: the values are refused.
        """
        self._loaded.validate_schema(values)
        return self._loaded.render(values, name=release, namespace=NAMESPACE)

    def render(self, values: dict[str, Any]) -> list[Manifest]:
        return list(documents(self.texts(values)))

    def case(self, name: str) -> list[Manifest]:
        """The objects of a ci file; rendered once."""
        if name not in self._rendered:
            self._rendered[name] = self.render(case(name))
        return self._rendered[name]

    def close(self) -> None:
        self._loaded.close()
        self._folder.cleanup()


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind and each["metadata"]["name"].endswith(name)]


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (found,) = of_kind(manifests, kind, name)
    return found


def templates(manifest: Manifest) -> list[Manifest]:
    """The pod (or pod template) of a workload."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Pod":
            return [manifest]
        case "Deployment" | "StatefulSet" | "Job" | "DaemonSet":
            return [spec["template"]]
        case "CronJob":
            return [spec["jobTemplate"]["spec"]["template"]]
    return []


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]

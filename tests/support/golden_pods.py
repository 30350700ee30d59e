"""Pods and what becomes of them, as files: tests/golden/pods/NAME.in.yaml, perhaps NAME.policy.yaml, and NAME.out.yaml
(the pod with its gate) or NAME.out.txt (why it was refused or left alone).

`python -m tests.support.golden_pods` writes the outcomes anew, for a person to look through with `git diff`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonpatch
import yaml

from tokengate.injector.manifests import dump
from tokengate.injector.patch import Decision, Result, decide
from tokengate.injector.policy import Policy, parse

FOLDER: Final = Path(__file__).parent.parent / "golden" / "pods"


@dataclass(frozen=True)
class GoldenPod:
    name: str

    @property
    def pod(self) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((FOLDER / f"{self.name}.in.yaml").read_text())
        return found

    @property
    def policy(self) -> Policy:
        file = FOLDER / f"{self.name}.policy.yaml"
        return parse(file.read_bytes() if file.exists() else b"")

    @property
    def outcomes(self) -> list[Path]:
        return sorted(FOLDER.glob(f"{self.name}.out.*"))

    def decide(self, pod: dict[str, Any] | None = None) -> Decision:
        found = pod or self.pod
        return decide(found, self.policy, found["metadata"]["namespace"])

    def patched(self, decision: Decision) -> dict[str, Any]:
        """The pod with its gate, by somebody else's JSON Patch."""
        changed: dict[str, Any] = jsonpatch.apply_patch(self.pod, list(decision.operations))
        return changed

    def outcome(self) -> tuple[Path, str]:
        """The file in which the outcome stands, and its text."""
        decision = self.decide()
        if decision.result is not Result.PATCHED:
            lines = [f"{decision.result}: {decision.reason}", *(f"- {message}" for message in decision.messages)]
            return FOLDER / f"{self.name}.out.txt", "\n".join(lines) + "\n"
        warnings = "".join(f"# warning: {warning}\n" for warning in decision.warnings)
        return FOLDER / f"{self.name}.out.yaml", warnings + dump(self.patched(decision))


GOLDEN_PODS: Final = [GoldenPod(file.name.removesuffix(".in.yaml")) for file in sorted(FOLDER.glob("*.in.yaml"))]


def main() -> None:
    for golden in GOLDEN_PODS:
        for old in golden.outcomes:
            old.unlink()
        file, text = golden.outcome()
        file.write_text(text)


if __name__ == "__main__":
    main()

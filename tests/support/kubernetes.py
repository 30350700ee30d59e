"""What a Kubernetes API server checks, without one: schemas of its versions, and Pod Security "restricted"."""

from collections.abc import Iterator
from typing import Any, Final

import kubernetes_validate

VERSIONS: Final = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
"""The oldest with native sidecars, to the newest that there are schemas of."""

Manifest = dict[str, Any]


def validate(manifest: Manifest, versions: tuple[str, ...] = VERSIONS) -> None:
    """Types and unknown fields.

    Raises:
        kubernetes_validate.ValidationError: with what is wrong.
    """
    for version in versions:
        kubernetes_validate.validate(manifest, version, strict=True)


def restricted_faults(container: Manifest, pod_security: Manifest | None = None) -> Iterator[str]:
    """Where a container falls short of Pod Security "restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards)."""
    own: Manifest = container.get("securityContext", {})
    context = (pod_security or {}) | own
    if context.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if "ALL" not in own.get("capabilities", {}).get("drop", []):
        yield "capabilities are not dropped"
    if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities are added"
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") == 0:
        yield "runs as root"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "no seccomp profile"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "hostPort"

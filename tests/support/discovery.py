"""Which kinds our API server knows, and how it tells clients of them: discovery, and a little OpenAPI."""

from typing import Any, Final

Manifest = dict[str, Any]

RESOURCES: Final[dict[str, list[tuple[str, str, bool]]]] = {
    "v1": [
        ("namespaces", "Namespace", False), ("pods", "Pod", True), ("secrets", "Secret", True), ("services", "Service", True),
        ("configmaps", "ConfigMap", True), ("serviceaccounts", "ServiceAccount", True),
        ("events", "Event", True),
    ],
    "apps/v1": [("deployments", "Deployment", True), ("replicasets", "ReplicaSet", True), ("statefulsets", "StatefulSet", True),
                ("daemonsets", "DaemonSet", True)],
    "batch/v1": [("jobs", "Job", True), ("cronjobs", "CronJob", True)],
    "policy/v1": [("poddisruptionbudgets", "PodDisruptionBudget", True)],
    "networking.k8s.io/v1": [("networkpolicies", "NetworkPolicy", True)],
    "rbac.authorization.k8s.io/v1": [
        ("roles", "Role", True), ("rolebindings", "RoleBinding", True),
        ("clusterroles", "ClusterRole", False), ("clusterrolebindings", "ClusterRoleBinding", False),
    ],
    "admissionregistration.k8s.io/v1": [
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False),
        ("validatingadmissionpolicies", "ValidatingAdmissionPolicy", False),
        ("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", False),
    ],
}  # fmt: skip


class Refused(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


def kind_of(path: str) -> tuple[tuple[str, str], str]:
    """(apiVersion, kind) and the plural of a collection's or an object's path."""
    parts = path.strip("/").split("/")
    version, rest = ("v1", parts[2:]) if parts[0] == "api" else ("/".join(parts[1:3]), parts[3:])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    for plural, kind, _ in RESOURCES.get(version, ()):
        if rest and rest[0] == plural:
            return (version, kind), plural
    raise Refused(404, "NotFound", f"the server could not find the requested resource {path}")


def discovery(path: str) -> Manifest | None:
    """What clients ask to know which kinds there are."""
    groups = [version for version in RESOURCES if "/" in version]
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        listed = [{"groupVersion": version, "version": version.partition("/")[2]} for version in groups]
        return {
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": [{"name": each["groupVersion"].partition("/")[0], "versions": [each], "preferredVersion": each} for each in listed],
        }  # fmt: skip
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version in RESOURCES and path.count("/") <= 3:
        verbs = ["create", "delete", "get", "list", "patch", "update"]
        return {
            "kind": "APIResourceList", "groupVersion": version,
            "resources": [
                {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": verbs}
                for plural, kind, namespaced in RESOURCES[version]
            ],
        }  # fmt: skip
    return None


def openapi() -> bytes:
    """The least OpenAPI document that satisfies kubectl: for each kind, that a PATCH takes `dryRun` and `fieldValidation`.

    kubectl asks for it in protobuf alone, old ones (1.20) and new ones (1.32) alike. The field numbers are those of
    https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto.
    """
    kinds = [(version, row[1]) for version, rows in RESOURCES.items() for row in rows]
    paths = b"".join(
        _field(2, _text(1, f"/{version}/{kind}") + _field(2, _path(version, kind))) for version, kind in kinds
    )
    return _text(1, "2.0") + _field(2, _text(1, "Kubernetes") + _text(2, "v1.32.0")) + _field(8, paths)


def _path(version: str, kind: str) -> bytes:
    group, _, number = version.rpartition("/")
    named = f'group: "{group}"\nkind: {kind}\nversion: {number}\n'
    extension = _text(1, "x-kubernetes-group-version-kind") + _field(2, _text(2, named))
    parameters = b"".join(_field(8, _query(name)) for name in ("dryRun", "fieldValidation"))
    return _field(8, parameters + _field(13, extension))


def _query(name: str) -> bytes:
    return _field(1, _field(2, _field(3, _text(2, "query") + _text(4, name))))


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field; the numbers are below 16, the lengths any."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content

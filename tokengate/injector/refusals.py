"""Which pods are refused: those in which the sidecar could be read, robbed or passed over by what it stands beside.

Each rule looks at one thing and yields a reason (for metrics; the values are stable) and a sentence (for whoever
created the pod) for each fault. All are told at once. Pure.
"""

import posixpath
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

from tokengate.domain import NAME_CHARACTERS_MAX
from tokengate.injector.pod import Container, Pod
from tokengate.injector.policy import SESSION_RULES, Policy
from tokengate.injector.sidecar import CONTAINER, SECRETS_VOLUME, SESSION_ANNOTATION, TMP_VOLUME

NODE_PATHS: Final = tuple(
    PurePosixPath(path)
    for path in (
        "/var/lib/kubelet",
        "/var/lib/containerd",
        "/var/lib/docker",
        "/proc",
        "/run",
        "/var/run",
        "/etc/kubernetes",
    )
)
"""Where a node keeps Secrets of its pods, their processes, and the sockets that command them."""


class Reason(StrEnum):
    """Why a pod was refused."""

    HOST_NETWORK = "host_network"
    HOST_PID = "host_pid"
    SHARED_PROCESSES = "shared_processes"
    SIDECAR_USER = "sidecar_user"
    SIDECAR_SECRET = "sidecar_secret"  # noqa: S105 - a reason
    SIDECAR_VOLUME = "sidecar_volume"
    SIDECAR_NAME = "sidecar_name"
    SIDECAR_PORT = "sidecar_port"
    NODE_ACCESS = "node_access"
    NEVER_ENDS = "never_ends"
    NAME_TOO_LONG = "name_too_long"
    ANNOTATION_INVALID = "annotation_invalid"


Fault = tuple[Reason, str]


def faults(pod: Pod, policy: Policy) -> Iterator[Fault]:
    """Everything for which the pod is refused."""
    for rule in _RULES:
        yield from rule(pod, policy)


def theft(pod: Pod, policy: Policy) -> Iterator[Fault]:
    """That for which also a pod without a gate is refused: it takes what is for gates alone."""
    yield from _secrets(pod, policy)


def others(pod: Pod) -> Iterator[tuple[str, int, Container]]:
    """Every container but the sidecar, with its place."""
    for place in pod.spec.every_container():
        if place[2].name != CONTAINER:
            yield place


def _namespaces(pod: Pod, policy: Policy) -> Iterator[Fault]:
    spec = pod.spec
    if spec.host_network:
        yield (
            Reason.HOST_NETWORK,
            f"hostNetwork is set: every process of the node could use the gate on 127.0.0.1:{policy.port}. Remove it.",
        )
    if spec.host_pid:
        yield Reason.HOST_PID, "hostPID is set: the agent could read the gate's keys from its memory. Remove it."
    if spec.share_process_namespace:
        yield (
            Reason.SHARED_PROCESSES,
            "shareProcessNamespace is set: the agent could read the gate's keys by /proc. Remove it.",
        )
    for container in spec.ephemeral_containers or ():
        if container.target_container_name == CONTAINER:
            yield (
                Reason.SHARED_PROCESSES,
                f"container {container.name} targets {CONTAINER}: it could read the gate's keys by /proc.",
            )


def _users(pod: Pod, policy: Policy) -> Iterator[Fault]:
    shared = pod.spec.security_context.run_as_user if pod.spec.security_context else None
    for _, _, container in others(pod):
        own = container.security_context.run_as_user if container.security_context else None
        if (own if own is not None else shared) == policy.user:
            yield (
                Reason.SIDECAR_USER,
                (
                    f"container {container.name} runs as user {policy.user}, which is the gate's own."
                    " Choose another runAsUser for it."
                ),
            )


def _secrets(pod: Pod, policy: Policy) -> Iterator[Fault]:
    for _, _, container in others(pod):
        used = {
            variable.value_from.secret_key_ref.name
            for variable in container.env or ()
            if variable.value_from is not None and variable.value_from.secret_key_ref is not None
        }
        used |= {source.secret_ref.name for source in container.env_from or () if source.secret_ref is not None}
        for name in sorted(policy.secrets.intersection(used)):
            yield (
                Reason.SIDECAR_SECRET,
                f"container {container.name} takes variables from Secret {name}, which is for the gate alone.",
            )
    for volume in pod.spec.volumes or ():
        if volume.name != SECRETS_VOLUME:
            for name in sorted(policy.secrets.intersection(volume.secrets())):
                yield (
                    Reason.SIDECAR_SECRET,
                    f"volume {volume.name} shows Secret {name}, which is for the gate alone.",
                )


def _volumes(pod: Pod, policy: Policy) -> Iterator[Fault]:  # noqa: ARG001 - a rule
    for _, _, container in others(pod):
        for mount in container.volume_mounts or ():
            if mount.name in (SECRETS_VOLUME, TMP_VOLUME):
                yield (
                    Reason.SIDECAR_VOLUME,
                    f"container {container.name} mounts volume {mount.name}, which is for the gate alone.",
                )


def _names(pod: Pod, policy: Policy) -> Iterator[Fault]:
    place = "initContainers" if policy.form == "native" else "containers"
    for name, _, container in pod.spec.every_container():
        if container.name == CONTAINER and name != place:
            yield (
                Reason.SIDECAR_NAME,
                f"a container in {name} is called {CONTAINER}, as the gate in {place} is. Give it another name.",
            )
    if pod.metadata.name and len(pod.metadata.name) > NAME_CHARACTERS_MAX:
        yield (
            Reason.NAME_TOO_LONG,
            f"the pod's name is also its session's, and has more than {NAME_CHARACTERS_MAX} characters.",
        )


def _ports(pod: Pod, policy: Policy) -> Iterator[Fault]:
    for _, _, container in others(pod):
        for port in container.ports or ():
            if port.container_port in (policy.port, policy.status_port):
                yield (
                    Reason.SIDECAR_PORT,
                    (
                        f"container {container.name} listens on port {port.container_port}, as the gate does:"
                        " change it, or port and statusPort of the injector's policy."
                    ),
                )


def _node(pod: Pod, policy: Policy) -> Iterator[Fault]:
    if policy.node_access:
        return
    for _, _, container in others(pod):
        context = container.security_context
        added = context.capabilities.add or () if context and context.capabilities else ()
        if context and context.privileged:
            yield (
                Reason.NODE_ACCESS,
                f"container {container.name} is privileged: on the node it could read the gate's keys.",
            )
        if {"SYS_ADMIN", "CAP_SYS_ADMIN", "ALL"} & {name.upper() for name in added}:
            yield (
                Reason.NODE_ACCESS,
                f"container {container.name} has the capability SYS_ADMIN: on the node it could read the gate's keys.",
            )
    for volume in pod.spec.volumes or ():
        if volume.host_path is not None and _sensitive(volume.host_path.path):
            yield (
                Reason.NODE_ACCESS,
                f"volume {volume.name} is {volume.host_path.path} of the node, where the gate's keys can be found.",
            )


def _sensitive(path: str) -> bool:
    place = PurePosixPath("/" + posixpath.normpath(path).strip("/"))
    return any(place.is_relative_to(kept) or kept.is_relative_to(place) for kept in NODE_PATHS)


def _endings(pod: Pod, policy: Policy) -> Iterator[Fault]:
    if policy.form == "legacy" and pod.spec.restart_policy in ("Never", "OnFailure"):
        yield (
            Reason.NEVER_ENDS,
            (
                f"restartPolicy is {pod.spec.restart_policy}: with a gate of the legacy form the pod would never end."
                " Jobs need Kubernetes 1.29 and the native form."
            ),
        )


def _annotations(pod: Pod, policy: Policy) -> Iterator[Fault]:  # noqa: ARG001 - a rule
    asked = (pod.metadata.annotations or {}).get(SESSION_ANNOTATION)
    if asked is not None and asked not in SESSION_RULES:
        yield (
            Reason.ANNOTATION_INVALID,
            f"annotation {SESSION_ANNOTATION} is {asked[:64]!r}: allowed are {', '.join(SESSION_RULES)}.",
        )


_RULES: Final[tuple[Callable[[Pod, Policy], Iterator[Fault]], ...]] = (
    _namespaces, _users, _secrets, _volumes, _names, _ports, _node, _endings, _annotations,
)  # fmt: skip

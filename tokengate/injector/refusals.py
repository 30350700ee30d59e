"""Which pods are refused: those in which the sidecar could be read, robbed or passed over by what it stands beside.

Each rule looks at one thing and yields a reason (for metrics; the values are stable) and a sentence (for whoever
created the pod) for each fault. All are told at once. Pure.
"""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final

from tokengate.domain import NAME_CHARACTERS_MAX
from tokengate.injector.pod import Container, Pod, SecurityContext, Volume
from tokengate.injector.policy import SESSION_RULES, Policy
from tokengate.injector.sidecar import CONTAINER, SECRETS_VOLUME, SESSION_ANNOTATION, TMP_VOLUME, places

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


RULING: Final = frozenset({"ALL", "NET_ADMIN", "SETUID", "SYS_ADMIN"})
"""Capabilities by which a process changes the rules of the network, or its user."""


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
    EGRESS_USER = "egress_user"
    NEVER_ENDS = "never_ends"
    NAME_TOO_LONG = "name_too_long"
    ANNOTATION_INVALID = "annotation_invalid"


Fault = tuple[Reason, str]


def faults(pod: Pod, policy: Policy) -> Iterator[Fault]:
    """Everything for which the pod is refused."""
    for rule in _RULES:
        yield from rule(pod, policy)


def theft(pod: Pod, policy: Policy) -> Iterator[Fault]:
    """That for which also a pod without a gate is refused: it takes what is for gates alone, by whatever name."""
    containers = [container for _, _, container in pod.spec.every_container()]
    yield from _taken(containers, pod.spec.volumes or (), policy)


def others(pod: Pod, policy: Policy) -> Iterator[tuple[str, int, Container]]:
    """Every container that is none of ours, with its place."""
    ours = places(policy)
    for place in pod.spec.every_container():
        if ours.get(place[2].name) != place[0]:
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
    for _, _, container in others(pod, policy):
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
    containers = [container for _, _, container in others(pod, policy)]
    volumes = [volume for volume in pod.spec.volumes or () if volume.name != SECRETS_VOLUME]
    yield from _taken(containers, volumes, policy)


def _taken(containers: Sequence[Container], volumes: Sequence[Volume], policy: Policy) -> Iterator[Fault]:
    for container in containers:
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
    for volume in volumes:
        for name in sorted(policy.secrets.intersection(volume.secrets())):
            yield Reason.SIDECAR_SECRET, f"volume {volume.name} shows Secret {name}, which is for the gate alone."


def _volumes(pod: Pod, policy: Policy) -> Iterator[Fault]:
    for _, _, container in others(pod, policy):
        for mount in container.volume_mounts or ():
            if mount.name in (SECRETS_VOLUME, TMP_VOLUME):
                yield (
                    Reason.SIDECAR_VOLUME,
                    f"container {container.name} mounts volume {mount.name}, which is for the gate alone.",
                )


def _names(pod: Pod, policy: Policy) -> Iterator[Fault]:
    ours = places(policy)
    for place, _, container in others(pod, policy):
        if container.name in ours:
            yield (
                Reason.SIDECAR_NAME,
                f"a container in {place} is called {container.name}, as one of ours. Give it another name.",
            )
    if pod.metadata.name and len(pod.metadata.name) > NAME_CHARACTERS_MAX:
        yield (
            Reason.NAME_TOO_LONG,
            f"the pod's name is also its session's, and has more than {NAME_CHARACTERS_MAX} characters.",
        )


def _ports(pod: Pod, policy: Policy) -> Iterator[Fault]:
    for _, _, container in others(pod, policy):
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
    for _, _, container in others(pod, policy):
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


def _egress(pod: Pod, policy: Policy) -> Iterator[Fault]:
    """Who can become the gate's user, or change the rules, is let out as the gate is."""
    if policy.egress.mode != "drop":
        return
    shared = pod.spec.security_context.run_as_user if pod.spec.security_context else None
    for _, _, container in others(pod, policy):
        context = container.security_context or SecurityContext()
        user = context.run_as_user if context.run_as_user is not None else shared
        added = {
            name.upper().removeprefix("CAP_") for name in (context.capabilities and context.capabilities.add) or ()
        }
        wrong = []
        if not user:
            wrong.append("runAsUser to a user of its own that is not root")
        if context.allow_privilege_escalation is not False:
            wrong.append("allowPrivilegeEscalation to false")
        if added & RULING:
            wrong.append(f"capabilities without {', '.join(sorted(added & RULING))}")
        if wrong:
            yield (
                Reason.EGRESS_USER,
                f"container {container.name} could get out of the pod as the gate: set {', and '.join(wrong)}.",
            )


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
    _namespaces, _users, _secrets, _volumes, _names, _ports, _node, _egress, _endings, _annotations,
)  # fmt: skip

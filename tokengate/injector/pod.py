"""What the injector reads of a pod, with its types checked: everything else of it is passed over, and never changed.

The field names are those of Kubernetes' core/v1 (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1).
A list or a mapping that is absent, null or empty is the same to Kubernetes, and so here.
"""

from collections.abc import Iterator

import msgspec
from msgspec import Struct


class MalformedPod(ValueError):
    """It is no pod: the message says where and what is expected."""


class View(Struct, rename="camel", gc=False):
    """A part of an object; what it does not name is not looked at."""


class OwnerReference(View):
    kind: str
    name: str
    controller: bool | None = None


class Metadata(View):
    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class NameReference(View):
    name: str | None = None


class VariableSource(View):
    secret_key_ref: NameReference | None = None


class Variable(View):
    name: str
    value: str | None = None
    value_from: VariableSource | None = None


class VariablesSource(View):
    secret_ref: NameReference | None = None


class VolumeMount(View):
    name: str


class ContainerPort(View):
    container_port: int


class Capabilities(View):
    add: tuple[str, ...] | None = None


class SecurityContext(View):
    run_as_user: int | None = None
    privileged: bool | None = None
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities | None = None


class Container(View):
    name: str
    env: tuple[Variable, ...] | None = None
    env_from: tuple[VariablesSource, ...] | None = None
    volume_mounts: tuple[VolumeMount, ...] | None = None
    ports: tuple[ContainerPort, ...] | None = None
    security_context: SecurityContext | None = None
    target_container_name: str | None = None
    """Of an ephemeral container: whose processes it sees."""


class SecretVolume(View):
    secret_name: str | None = None


class ProjectedSource(View):
    secret: NameReference | None = None


class ProjectedVolume(View):
    sources: tuple[ProjectedSource, ...] | None = None


class HostPathVolume(View):
    path: str


class Volume(View):
    name: str
    secret: SecretVolume | None = None
    projected: ProjectedVolume | None = None
    host_path: HostPathVolume | None = None

    def secrets(self) -> Iterator[str]:
        """The names of the Secrets that it shows."""
        if self.secret is not None and self.secret.secret_name:
            yield self.secret.secret_name
        if self.projected is not None:
            for source in self.projected.sources or ():
                if source.secret is not None and source.secret.name:
                    yield source.secret.name


class OperatingSystem(View):
    name: str | None = None


class PodSpec(View):
    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] | None = None
    ephemeral_containers: tuple[Container, ...] | None = None
    volumes: tuple[Volume, ...] | None = None
    security_context: SecurityContext | None = None
    host_network: bool | None = None
    host_pid: bool | None = msgspec.field(name="hostPID", default=None)
    share_process_namespace: bool | None = None
    node_selector: dict[str, str] | None = None
    os: OperatingSystem | None = None
    restart_policy: str | None = None
    service_account_name: str | None = None
    image_pull_secrets: tuple[NameReference, ...] | None = None

    def every_container(self) -> Iterator[tuple[str, int, Container]]:
        """Each container with the list and the index that it stands at."""
        for name, listed in (
            ("initContainers", self.init_containers),
            ("containers", self.containers),
            ("ephemeralContainers", self.ephemeral_containers),
        ):
            for index, container in enumerate(listed or ()):
                yield name, index, container


class Pod(View):
    spec: PodSpec
    metadata: Metadata = msgspec.field(default_factory=Metadata)


def read(pod: object) -> Pod:
    """Look at a pod, or at a pod template.

    Raises:
        MalformedPod: a field has another type than Kubernetes gives it, or there are no containers.
    """
    try:
        return msgspec.convert(pod, Pod)
    except msgspec.ValidationError as error:
        raise MalformedPod(str(error)) from None

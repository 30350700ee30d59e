"""The decision about one pod: what is added to it, or why it is refused or left alone.

Pure; the webhook's and the offline command's alike. The operations are those of JSON Patch (RFC 6902). A second run
over what the first one made gives none: other webhooks make the API server ask again, and a manifest may come twice.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final

from msgspec import Struct

from tokengate import __version__
from tokengate.injector.identity import agent_named, agent_of
from tokengate.injector.pod import Container, Pod, Variable, read
from tokengate.injector.policy import SESSION_RULES, Policy, SessionRule
from tokengate.injector.refusals import Fault, faults, others, theft
from tokengate.injector.sidecar import (
    AGENT_ANNOTATION,
    ALIASES,
    CONFIG_HASH_ANNOTATION,
    CONTAINER,
    DOMAIN,
    INJECT_LABEL,
    SESSION_ANNOTATION,
    SIDECAR_LABEL,
    VERSION_ANNOTATION,
    Manifest,
    agent_environment,
    container,
    egress,
    places,
    volumes,
)

MIRROR_ANNOTATION: Final = "kubernetes.io/config.mirror"
"""The kubelet's mark of a static pod's image in the API: nothing in it can be changed."""
DEFAULT_CONTAINER_ANNOTATION: Final = "kubectl.kubernetes.io/default-container"
SERVICE_ACCOUNT_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the API server mounts the pod's token into every container, ours included, whoever added it."""

SYSTEM_NAMESPACES: Final = frozenset({"kube-system", "kube-public", "kube-node-lease"})

DEFAULTED: Final[Mapping[str, object]] = {"terminationMessagePath": "/dev/termination-log", "successThreshold": 1}
"""What the API server fills into every container (kubernetes, pkg/apis/core/v1/defaults.go)."""

QUANTITY: Final = re.compile(r"(?P<number>[0-9]{1,18}(\.[0-9]{1,9})?)(?P<suffix>([EPTGMK]i|[EPTGMkm])?)")
SUFFIXES: Final = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)},
}
"""Of amounts (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity)."""

PROXIES: Final = frozenset({"HTTP_PROXY", "ALL_PROXY"})
LOOPBACK: Final = "127.0.0.1"

WARNINGS_MAX: Final = 16

Operation = dict[str, Any]


class Result(StrEnum):
    """What became of a pod."""

    PATCHED = "patched"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    REFUSED = "refused"


class Skip(StrEnum):
    """Why a pod was left alone."""

    OPTED_OUT = "opted_out"
    MIRROR_POD = "mirror_pod"
    WINDOWS = "windows"
    SYSTEM_NAMESPACE = "system_namespace"
    NOT_A_POD = "not_a_pod"
    NOT_CREATED = "not_created"


class Decision(Struct, frozen=True):
    """See the module."""

    result: Result
    reason: str = ""
    """Of a pod that was skipped or refused: the (first) reason, from a closed list."""
    messages: tuple[str, ...] = ()
    """Of a pod that was refused: everything that stands in the way, in sentences."""
    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
    agent: str = ""


def decide(manifest: Manifest, policy: Policy, namespace: str, workload: str = "") -> Decision:
    """Decide about a pod, or about the template of a workload with that name.

    Raises:
        MalformedPod: it is none.
    """
    pod = read(manifest)
    skip = _skip(pod, policy, namespace)
    found = list(theft(pod, policy) if skip else faults(pod, policy))
    if found:
        return _refused(found)
    if skip:
        return Decision(Result.SKIPPED, skip)
    if policy.agent_from == "serviceAccount":
        agent = agent_named(pod.spec.service_account_name or "default")
    else:
        agent = agent_named(workload) if workload else agent_of(pod.metadata)
    changes = _Changes(manifest, pod, policy)
    changes.environments()
    changes.containers()
    changes.volumes()
    changes.pull_secrets()
    changes.marks(agent)
    operations, warnings = tuple(changes.operations), tuple(dict.fromkeys(changes.warnings))[:WARNINGS_MAX]
    return Decision(
        Result.PATCHED if operations else Result.UNCHANGED, operations=operations, warnings=warnings, agent=agent
    )


def decide_ephemeral(manifest: Manifest, policy: Policy) -> Decision:
    """Decide about an ephemeral container (`kubectl debug`) in a pod with a gate: it may not reach into the gate."""
    pod = read(manifest)
    if not any(each.name == CONTAINER for _, _, each in pod.spec.every_container()):
        return Decision(Result.UNCHANGED)
    found = list(faults(pod, policy))
    return _refused(found) if found else Decision(Result.UNCHANGED)


def _refused(found: Sequence[Fault]) -> Decision:
    messages = tuple(dict.fromkeys(message for _, message in found))
    return Decision(Result.REFUSED, found[0][0], messages)


def _skip(pod: Pod, policy: Policy, namespace: str) -> Skip | None:
    if namespace in SYSTEM_NAMESPACES:
        return Skip.SYSTEM_NAMESPACE
    if MIRROR_ANNOTATION in (pod.metadata.annotations or {}):
        return Skip.MIRROR_POD
    system = pod.spec.os.name if pod.spec.os else (pod.spec.node_selector or {}).get("kubernetes.io/os")
    if system == "windows":
        return Skip.WINDOWS
    if policy.opt_out and (pod.metadata.labels or {}).get(INJECT_LABEL) in ("false", "disabled"):
        return Skip.OPTED_OUT
    return None


def apply(manifest: Manifest, operations: Sequence[Operation]) -> None:
    """Change a manifest in place, as an API server would; of JSON Patch only what `decide` gives."""
    for operation in operations:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:])
        place: Any = manifest
        value = copy.deepcopy(operation["value"])
        for part in parents:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, dict):
            place[last] = value
        elif operation["op"] == "replace":
            place[int(last)] = value
        else:
            place.insert(len(place) if last == "-" else int(last), value)


def same(ours: object, found: object) -> bool:
    """Whether what was found is ours, but for what the API server adds to a container, and how it writes amounts."""
    if isinstance(ours, dict) and isinstance(found, dict):
        return all(name in found and same(value, found[name]) for name, value in ours.items()) and all(
            DEFAULTED.get(name) == found[name] for name in found.keys() - ours.keys()
        )
    if isinstance(ours, list) and isinstance(found, list):
        kept = [
            each for each in found if not (isinstance(each, dict) and each.get("mountPath") == SERVICE_ACCOUNT_PATH)
        ]
        return len(ours) == len(kept) and all(map(same, ours, kept))
    return ours == found or (isinstance(ours, str) and isinstance(found, str) and _equal_amounts(ours, found))


def _equal_amounts(ours: str, found: str) -> bool:
    """The API server writes 1024Mi as 1Gi, and 0.25 as 250m."""
    return (amount := _amount(ours)) is not None and amount == _amount(found)


def _amount(text: str) -> Fraction | None:
    parts = QUANTITY.fullmatch(text)
    return Fraction(parts["number"]) * SUFFIXES[parts["suffix"]] if parts else None


class _Changes:
    """The operations on one pod, in the order in which they are applied: what moves indices comes last."""

    def __init__(self, manifest: Manifest, pod: Pod, policy: Policy) -> None:
        self.operations: list[Operation] = []
        self.warnings: list[str] = []
        self._manifest = manifest
        self._pod = pod
        self._policy = policy
        self._places = places(policy)
        self._moved: dict[str, int] = {}
        """By how much the indices in a list have grown."""
        self._made: set[str] = set()

    def environments(self) -> None:
        """Point every other container at the gate, whatever it was pointed at."""
        wanted = agent_environment(self._policy)
        for place, index, each in others(self._pod, self._policy):
            if place != "ephemeralContainers":
                self._environment(f"/spec/{place}/{index}/env", each, wanted)

    def containers(self) -> None:
        """Add the gate, before all others, and before it what closes the pod; or put back what differs from ours."""
        self._container(container(self._policy, self._session()))
        if self._policy.egress.mode == "drop":
            self._container(egress(self._policy))

    def _container(self, ours: Manifest) -> None:
        name = ours["name"]
        place = self._places[name]
        listed = self._listed(self._manifest["spec"], place, f"/spec/{place}")
        index = next((index for index, each in enumerate(listed) if each["name"] == name), None)
        if index is None:
            self._add(f"/spec/{place}/0", ours)
            self._moved[place] = self._moved.get(place, 0) + 1
            return
        found, path = listed[index], f"/spec/{place}/{index + self._moved.get(place, 0)}"
        if same(ours, found):
            return
        if "restartPolicy" not in found and same(ours, {**found, "restartPolicy": ours.get("restartPolicy")}):
            # Another webhook read the pod with types from before Kubernetes 1.28, and so lost the field.
            self._add(f"{path}/restartPolicy", ours["restartPolicy"])
        else:
            self.operations.append({"op": "replace", "path": path, "value": ours})
            self._warn(f"container {name} was not as the injector makes it; it was put back")

    def volumes(self) -> None:
        """Add what the gate mounts; or put back what differs from it."""
        listed = self._listed(self._manifest["spec"], "volumes", "/spec/volumes")
        found = {each["name"]: index for index, each in enumerate(listed)}
        for ours in volumes(self._policy):
            index = found.get(ours["name"])
            if index is None:
                self._add("/spec/volumes/-", ours)
            elif not same(ours, listed[index]):
                self.operations.append({"op": "replace", "path": f"/spec/volumes/{index}", "value": ours})

    def pull_secrets(self) -> None:
        """Let the kubelet fetch the gate's image from where it is kept."""
        present = {each.name for each in self._pod.spec.image_pull_secrets or ()}
        missing = [name for name in self._policy.image_pull_secrets if name not in present]
        if missing:
            self._listed(self._manifest["spec"], "imagePullSecrets", "/spec/imagePullSecrets")
        for name in missing:
            self._add("/spec/imagePullSecrets/-", {"name": name})

    def marks(self, agent: str) -> None:
        """Say on the pod whose it is, and which injector and policy made it what it is."""
        annotations = {
            AGENT_ANNOTATION: agent,
            VERSION_ANNOTATION: __version__,
            CONFIG_HASH_ANNOTATION: self._policy.config_hash(),
        }
        if self._policy.form == "legacy":
            # The gate stands first; `kubectl logs` and `exec` would take it for the main container.
            first = next((each.name for place, _, each in others(self._pod, self._policy) if place == "containers"), "")
            given = (self._pod.metadata.annotations or {}).get(DEFAULT_CONTAINER_ANNOTATION)
            annotations[DEFAULT_CONTAINER_ANNOTATION] = given or first
        self._map("labels", self._pod.metadata.labels, {SIDECAR_LABEL: "true"})
        self._map("annotations", self._pod.metadata.annotations, annotations)
        for name in self._pod.metadata.annotations or {}:
            if name.startswith(DOMAIN) and name not in annotations and name != SESSION_ANNOTATION:
                self._warn(f"annotation {name[:128]} is not one that a pod may set; it has no effect")
        if not self._policy.opt_out and (self._pod.metadata.labels or {}).get(INJECT_LABEL) in ("false", "disabled"):
            self._warn(f"label {INJECT_LABEL} has no effect: the policy does not let pods opt out")

    # --- parts ---

    def _session(self) -> SessionRule:
        """The tighter of what the policy says and what the pod asks for."""
        asked = (self._pod.metadata.annotations or {}).get(SESSION_ANNOTATION)
        return max((self._policy.session, *(rule for rule in SESSION_RULES if rule == asked)), key=SESSION_RULES.index)

    def _environment(self, path: str, each: Container, wanted: Mapping[str, str]) -> None:
        seen = set()
        for index, variable in enumerate(each.env or ()):
            name = ALIASES.get(variable.name, variable.name)
            if name in wanted:
                seen.add(variable.name)
                self._set(f"{path}/{index}", each, variable, wanted[name])
        missing = {name: value for name, value in wanted.items() if name not in seen}
        proxies = {variable.name.upper() for variable in each.env or () if variable.value}
        if proxies & PROXIES:
            missing |= self._past_proxies(path, each)
        if missing and not each.env:
            self._add(path, [])
        for name, value in missing.items():
            self._add(f"{path}/-", {"name": name, "value": value})

    def _past_proxies(self, path: str, each: Container) -> dict[str, str]:
        """Keep clients that use a proxy from asking it for the gate; gives the variables that are to be added."""
        missing = {"NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}
        for index, variable in enumerate(each.env or ()):
            if missing.pop(variable.name, None) and variable.value_from is None:
                hosts = [host.strip() for host in (variable.value or "").split(",") if host.strip()]
                if LOOPBACK not in hosts and "*" not in hosts:
                    self._set(f"{path}/{index}", each, variable, ",".join([*hosts, LOOPBACK]), quiet=True)
        # Who sets one of the two spellings knows which one its client reads.
        return missing if len(missing) == 2 else {}

    def _set(self, path: str, each: Container, variable: Variable, value: str, *, quiet: bool = False) -> None:
        if variable.value_from is None and variable.value == value:
            return
        self.operations.append({"op": "replace", "path": path, "value": {"name": variable.name, "value": value}})
        if not quiet:
            self._warn(f"container {each.name}: {variable.name} was replaced, so that calls go through the gate")

    def _listed(self, parent: Manifest, name: str, path: str) -> list[Manifest]:
        """A list of the pod; if there is none, an operation makes it."""
        listed: list[Manifest] | None = parent.get(name)
        if listed is None and path not in self._made:
            self._made.add(path)
            self._add(path, [])
        return listed or []

    def _map(self, name: str, given: Mapping[str, str] | None, wanted: Mapping[str, str]) -> None:
        if given is None:
            if self._manifest.get("metadata") is None and name == "labels":
                self._add("/metadata", {})
            self._add(f"/metadata/{name}", {})
        for key, value in wanted.items():
            if (given or {}).get(key) != value:
                self._add(f"/metadata/{name}/{key.replace('~', '~0').replace('/', '~1')}", value)

    def _add(self, path: str, value: object) -> None:
        self.operations.append({"op": "add", "path": path, "value": value})

    def _warn(self, text: str) -> None:
        self.warnings.append(text)

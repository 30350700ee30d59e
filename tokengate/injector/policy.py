"""The injector's policy: what an operator has decided about every sidecar, read from one file (a ConfigMap).

Nothing of it can be said by a pod. A policy that cannot be used is refused in whole, with the place of each fault.
"""

import hashlib
import ipaddress
import re
from typing import Annotated, Any, Final, Literal

import msgspec
import yaml
from msgspec import Meta, Struct

from tokengate import __version__
from tokengate.settings import NAMES as SETTINGS
from tokengate.settings import PORT_MAX, SECRETS, SettingsError, load

POLICY_BYTES_MAX: Final = 64 * 1024
SETTINGS_MAX: Final = 64
"""How many settings a policy may give to the sidecar."""

NETWORKS_MAX: Final = 64

CONFIG_HASH_CHARACTERS: Final = 12

Port = Annotated[int, Meta(ge=1024, le=PORT_MAX)]
"""Not below 1024: the sidecar is no root."""
UserId = Annotated[int, Meta(ge=1, le=2**31 - 1)]
SecretName = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
Quantity = Annotated[str, Meta(pattern=r"^[0-9]{1,18}(\.[0-9]{1,9})?([EPTGMK]i|[EPTGMkm])?$")]
Image = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,511}$")]
Network = Annotated[str, Meta(max_length=49)]
Provider = Literal["openai", "anthropic", "gemini"]
SessionRule = Literal["header", "strict", "pod"]

SESSION_RULES: Final[tuple[SessionRule, ...]] = ("header", "strict", "pod")
"""From the loosest to the tightest: a pod may ask for a tighter one than its policy's."""

OWNED: Final = frozenset(
    {"host", "port", "status_port", "tenant", "agent", "session_id", "default_session", "strict_mode", "data_dir"}
)
"""Settings that the injector itself decides."""

PASSED: Final = frozenset({"HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""Variables that the sidecar understands though they are no settings; those of OpenTelemetry (`OTEL_...`) are, too."""


class PolicyError(ValueError):
    """The policy cannot be used; the message says where and why."""


class Resources(Struct, frozen=True, forbid_unknown_fields=True):
    """What the sidecar may count on and may not exceed. A limit of CPU is not offered: it would stall agents."""

    cpu_request: Quantity = msgspec.field(name="cpuRequest", default="25m")
    memory_request: Quantity = msgspec.field(name="memoryRequest", default="64Mi")
    memory_limit: Quantity = msgspec.field(name="memoryLimit", default="256Mi")


class Egress(Struct, frozen=True, forbid_unknown_fields=True):
    """What may leave a pod besides the gate's own traffic."""

    mode: Literal["none", "drop"] = "none"
    """`drop`: rules in the pod's own network let out nobody but the gate's user."""
    allow: Annotated[tuple[Network, ...], Meta(max_length=NETWORKS_MAX)] = ()
    """Addresses and networks that the agent may reach nevertheless."""


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """See the module; the members are described in docs/reference/injector.md."""

    image: Image = f"ghcr.io/tokengate/tokengate:{__version__}"
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: Annotated[tuple[SecretName, ...], Meta(max_length=8)] = ()
    form: Literal["native", "legacy"] = "native"
    port: Port = 15800
    status_port: Port = 15890
    user: UserId = 65532
    providers: Annotated[tuple[Provider, ...], Meta(min_length=1, max_length=3)] = ("openai",)
    provider_keys_secret: SecretName = "tokengate-provider-keys"  # noqa: S105 - the name of one
    redis_secret: SecretName = "tokengate-redis"  # noqa: S105 - the name of one
    agent_from: Literal["workload", "serviceAccount"] = "workload"
    session: SessionRule = "header"
    settings: Annotated[dict[str, str], Meta(max_length=SETTINGS_MAX)] = msgspec.field(
        default_factory=lambda: {"DEFAULT_BUDGET": "10.00", "AGENT_BUDGET": "100.00", "AGENT_BUDGET_PERIOD": "day"}
    )
    resources: Resources = Resources()
    egress: Egress = Egress()
    opt_out: bool = True
    node_access: bool = False

    @property
    def secrets(self) -> frozenset[str]:
        """The Secrets that nobody but the sidecar may read."""
        return frozenset({self.provider_keys_secret, self.redis_secret})

    def config_hash(self) -> str:
        """A name for this policy: pods that carry another one were made under another policy."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:CONFIG_HASH_CHARACTERS]


def parse(text: bytes) -> Policy:
    """Read a policy; YAML or JSON. An empty one is the default.

    Raises:
        PolicyError: it cannot be used.
    """
    if len(text) > POLICY_BYTES_MAX:
        raise PolicyError(f"it has more than {POLICY_BYTES_MAX} bytes")
    try:
        given: Any = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"it is not YAML: {' '.join(str(error).split())}") from None
    try:
        policy = msgspec.convert({} if given is None else given, Policy)
    except msgspec.ValidationError as error:
        raise PolicyError(str(error)) from None
    _check(policy)
    return policy


def _check(policy: Policy) -> None:
    if policy.port == policy.status_port:
        raise PolicyError("port and statusPort are the same")
    if len(set(policy.providers)) != len(policy.providers):
        raise PolicyError("providers names one twice")
    for network in policy.egress.allow:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise PolicyError(f"egress.allow: {network!r} is no address and no network in CIDR notation") from None
    for name in policy.settings:
        _check_setting(name)
    try:
        load(policy.settings, None)
    except SettingsError as error:
        raise PolicyError(f"settings: {'; '.join(error.faults)}") from None


def _check_setting(name: str) -> None:
    lower = name.lower()
    if name in PASSED or re.fullmatch(r"OTEL_[A-Z_]{1,100}", name):
        return
    if name != name.upper() or lower not in SETTINGS:
        raise PolicyError(f"settings: {name} is no setting of TokenGate")
    if lower in OWNED:
        raise PolicyError(f"settings: {name} is for the injector to decide")
    if lower in SECRETS:
        raise PolicyError(f"settings: {name} is a secret: it belongs into a Secret, not into a policy")

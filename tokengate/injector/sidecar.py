"""What is added to a pod: the sidecar, its volumes, and the agent's environment, as plain Kubernetes objects.

tests/golden/sidecar-container.yaml is what this gives for the default policy; the library chart and the kustomize base
are held to the same file. Pure.
"""

from typing import Any, Final

from tokengate.injector.policy import Policy, SessionRule

Manifest = dict[str, Any]

DOMAIN: Final = "tokengate.io/"
INJECT_LABEL: Final = f"{DOMAIN}inject"
SIDECAR_LABEL: Final = f"{DOMAIN}sidecar"
AGENT_ANNOTATION: Final = f"{DOMAIN}agent"
SESSION_ANNOTATION: Final = f"{DOMAIN}session"
VERSION_ANNOTATION: Final = f"{DOMAIN}version"
CONFIG_HASH_ANNOTATION: Final = f"{DOMAIN}config-hash"

CONTAINER: Final = "tokengate"
EGRESS_CONTAINER: Final = "tokengate-egress"
SECRETS_VOLUME: Final = "tokengate-secrets"
TMP_VOLUME: Final = "tokengate-tmp"
SECRETS_PATH: Final = "/etc/tokengate/secrets"
STATUS_PORT_NAME: Final = "tg-metrics"
SHUTDOWN_GRACE_S: Final = 20
"""Below the 30 s that a pod has by default (terminationGracePeriodSeconds): what is booked then is booked."""

SECRET_FILE_MODE: Final = 0o444
"""Read for all, but mounted in the sidecar alone: it is neither root nor necessarily in the pod's fsGroup."""

DUMMY_KEY: Final = "dummy-key"
KEYS: Final = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY", "gemini": "GEMINI_API_KEY"}
BASE_URLS: Final = {
    # OpenAI's clients add /chat/completions, Anthropic's /v1/messages, Google's /v1beta/models/... to their base.
    "OPENAI_BASE_URL": "/v1",
    "ANTHROPIC_BASE_URL": "",
    "GOOGLE_GEMINI_BASE_URL": "",
}
ALIASES: Final = {
    "OPENAI_API_BASE": "OPENAI_BASE_URL",
    "ANTHROPIC_API_URL": "ANTHROPIC_BASE_URL",
    "ANTHROPIC_AUTH_TOKEN": "ANTHROPIC_API_KEY",
    "GOOGLE_API_KEY": "GEMINI_API_KEY",
}
"""Other names by which clients (LangChain's, Anthropic's, Google's) take the same: set only where a pod sets them."""


def container(policy: Policy, session: SessionRule) -> Manifest:
    """The sidecar; of the legacy form it is an ordinary container, which has no `restartPolicy`."""
    native: Manifest = {"restartPolicy": "Always"} if policy.form == "native" else {}
    return {
        "name": CONTAINER,
        "image": policy.image,
        "imagePullPolicy": policy.image_pull_policy,
        **native,
        "args": ["serve", "--role", "sidecar"],
        "env": _environment(policy, session),
        "ports": [{"name": STATUS_PORT_NAME, "containerPort": policy.status_port, "protocol": "TCP"}],
        "resources": {
            "requests": {"cpu": policy.resources.cpu_request, "memory": policy.resources.memory_request},
            "limits": {"memory": policy.resources.memory_limit},
        },
        "startupProbe": _probe("/readyz", period_s=1, timeout_s=1, failures=60),
        "livenessProbe": _probe("/livez", period_s=10, timeout_s=2, failures=6),
        # Does not fail while Redis is away; /health would.
        "readinessProbe": _probe("/readyz", period_s=5, timeout_s=2, failures=3),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": policy.user,
            "runAsGroup": policy.user,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": SECRETS_VOLUME, "mountPath": SECRETS_PATH, "readOnly": True},
            {"name": TMP_VOLUME, "mountPath": "/tmp"},  # noqa: S108 - of the container's own
        ],
    }


def egress(policy: Policy) -> Manifest:
    """The init container that lets nobody out of the pod but the gate, by the image's egress.nft.

    It is the one part of a pod that Pod Security "restricted" does not take: rules need NET_ADMIN. It has ended before
    anything else begins.
    """
    allowed: dict[int, list[str]] = {4: ["127.0.0.0/8"], 6: ["::1"]}
    for network in policy.egress.allow:
        allowed[6 if ":" in network else 4].append(network)
    defined = [f"gate_uid={policy.user}", *(f"allowed_v{family}={{{', '.join(allowed[family])}}}" for family in (4, 6))]
    return {
        "name": EGRESS_CONTAINER,
        "image": policy.image,
        "imagePullPolicy": policy.image_pull_policy,
        "command": ["nft"],
        "args": [*(word for each in defined for word in ("--define", each)), "--file", "/etc/tokengate/egress.nft"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": False,
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def places(policy: Policy) -> dict[str, str]:
    """The containers that are ours, by their names, and the lists in which they are."""
    found = {CONTAINER: "initContainers" if policy.form == "native" else "containers"}
    return found | ({EGRESS_CONTAINER: "initContainers"} if policy.egress.mode == "drop" else {})


def volumes(policy: Policy) -> list[Manifest]:
    """What the sidecar mounts; both Secrets are looked for in the pod's own namespace."""
    keys = [KEYS[provider] for provider in policy.providers]
    return [
        {
            "name": SECRETS_VOLUME,
            "projected": {
                "defaultMode": SECRET_FILE_MODE,
                "sources": [_secret(policy.provider_keys_secret, keys), _secret(policy.redis_secret, ["REDIS_URL"])],
            },
        },
        {"name": TMP_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def agent_environment(policy: Policy) -> dict[str, str]:
    """What every other container gets: all three providers, so that none is reached by another way."""
    base = f"http://127.0.0.1:{policy.port}"
    urls = {name: base + path for name, path in BASE_URLS.items()}
    pairs = zip(urls.items(), KEYS.values(), strict=True)
    return {name: value for url, key in pairs for name, value in (url, (key, DUMMY_KEY))}


def _environment(policy: Policy, session: SessionRule) -> list[Manifest]:
    own_session = [_field("SESSION_ID" if session == "pod" else "DEFAULT_SESSION", "metadata.name")]
    if session == "strict":
        own_session = [_value("STRICT_MODE", "true")]
    files = [f"{KEYS[provider]}_FILE" for provider in policy.providers] + ["REDIS_URL_FILE"]
    given = {**policy.settings}
    grace = given.pop("SHUTDOWN_GRACE_S", str(SHUTDOWN_GRACE_S))
    return [
        _value("HOST", "127.0.0.1"),
        _value("PORT", str(policy.port)),
        _value("STATUS_PORT", str(policy.status_port)),
        _field("TENANT", "metadata.namespace"),
        _field("AGENT", f"metadata.annotations['{AGENT_ANNOTATION}']"),
        *own_session,
        *(_value(name, value) for name, value in sorted(given.items())),
        *(_value(name, f"{SECRETS_PATH}/{name.removesuffix('_FILE')}") for name in files),
        _value("DATA_DIR", "/tmp/tokengate"),  # noqa: S108 - of the container's own
        _value("SHUTDOWN_GRACE_S", grace),
    ]


def _value(name: str, value: str) -> Manifest:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Manifest:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(path: str, *, period_s: int, timeout_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": STATUS_PORT_NAME, "scheme": "HTTP"},
        "periodSeconds": period_s,
        "timeoutSeconds": timeout_s,
        "failureThreshold": failures,
    }


def _secret(name: str, keys: list[str]) -> Manifest:
    return {"secret": {"name": name, "items": [{"key": key, "path": key} for key in keys]}}

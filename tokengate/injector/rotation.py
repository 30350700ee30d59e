"""The webhook's certificate in a cluster: made once, renewed in time, and known to the API server at every moment.

It may be run as often as one likes, by several at once: a certificate that will do is left as it is, and what was lost
of it elsewhere (an upgrade that emptied `caBundle`) is put back. Renewing keeps an order. First the API server is told
the new authority beside the old one; then the new certificate is written, which injectors read minutes later, each in
its own time. The old authority stays believed until it ends, unless it is to be distrusted.
"""

import base64
import binascii
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from tokengate.injector.certificates import Issued, bundle, fault, issue, service_names
from tokengate.injector.cluster import Cluster, ClusterError

SETTLE_S: Final = 10.0
"""Between the new authority and the new certificate: every API server of a cluster has then read the former."""

ROUNDS_MAX: Final = 5
"""How often it begins again because another one was faster."""

FILES: Final = ("tls.crt", "tls.key", "ca.crt")
"""Of the Secret; the first two are what Kubernetes' type kubernetes.io/tls has."""

MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "tokengate-injector-certs"}


class Plan(Struct, frozen=True):
    """What is to be: names of objects, and times in days."""

    namespace: str
    service: str
    secret: str
    webhooks: str
    """The MutatingWebhookConfiguration."""
    days: int = 365
    renew_before_days: int = 60
    force: bool = False
    """Renew although there is no need."""
    distrust: bool = False
    """Renew, and have nothing from before believed: for a key that somebody else may know."""


class Outcome(Struct, frozen=True):
    """What was done, for people."""

    renewed: str
    """Why a certificate was made; empty if the one that there was will do."""
    told: int
    """How many webhooks were told an authority."""


class Rotation:
    """See the module."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = cluster
        self._plan = plan
        self._now = now
        self._pause = pause
        self._names = service_names(plan.service, plan.namespace)
        self._secrets = f"/api/v1/namespaces/{plan.namespace}/secrets"

    def run(self) -> Outcome:
        """Bring the cluster to what the plan says.

        Raises:
            ClusterError: it cannot be done; what was done until then does no harm.
        """
        renewed, told, force = "", 0, self._plan.force or self._plan.distrust
        for _ in range(ROUNDS_MAX):
            secret = self._cluster.get(f"{self._secrets}/{self._plan.secret}")
            current = _issued(secret)
            why = fault(current, self._names, self._now(), self._plan.renew_before_days)
            if not why and not force:
                return Outcome(renewed, told + self._tell(current.authorities, beside=not self._plan.distrust))
            before = b"" if self._plan.distrust else current.authorities
            fresh = issue(self._names, self._plan.days, self._now(), before)
            told += self._tell(fresh.authorities, beside=True)
            if secret is not None:
                self._pause(SETTLE_S)
            if self._write(secret, fresh):
                renewed, force = why or "it was asked for", False
        raise ClusterError(f"others wrote Secret {self._plan.secret} {ROUNDS_MAX} times while this one tried to")

    def _write(self, secret: dict[str, Any] | None, fresh: Issued) -> bool:
        """Write the Secret; whether nobody else had written it since it was read."""
        data = zip(FILES, (fresh.certificate, fresh.key, fresh.authorities), strict=True)
        manifest: dict[str, Any] = secret or {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": self._plan.secret, "namespace": self._plan.namespace, "labels": MANAGED_BY},
        }
        manifest["data"] = {name: base64.b64encode(value).decode() for name, value in data}
        try:
            if secret is None:
                self._cluster.create(self._secrets, manifest)
            else:
                self._cluster.replace(f"{self._secrets}/{self._plan.secret}", manifest)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        return True

    def _tell(self, authorities: bytes, *, beside: bool) -> int:
        """Tell the API server whom to believe, `beside` those it believes or alone; gives how many webhooks changed."""
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{self._plan.webhooks}"
        for _ in range(ROUNDS_MAX):
            found = self._cluster.get(path)
            if found is None:
                raise ClusterError(f"there is no MutatingWebhookConfiguration {self._plan.webhooks}", 404)
            operations: list[dict[str, Any]] = []
            for index, webhook in enumerate(found.get("webhooks", [])):
                known = _decoded(webhook["clientConfig"].get("caBundle", ""))
                wanted = bundle([authorities, known] if beside else [authorities], self._now())
                if known != wanted:
                    place = f"/webhooks/{index}"
                    value = base64.b64encode(wanted).decode()
                    operations.append({"op": "test", "path": f"{place}/name", "value": webhook["name"]})
                    operations.append({"op": "add", "path": f"{place}/clientConfig/caBundle", "value": value})
            try:
                if operations:
                    self._cluster.patch(path, operations)
            except ClusterError as error:
                if error.status not in (409, 422):
                    raise
                continue  # somebody has changed the order of the webhooks
            return len(operations) // 2
        raise ClusterError(f"others changed {self._plan.webhooks} {ROUNDS_MAX} times while this one tried to")


def _issued(secret: dict[str, Any] | None) -> Issued:
    data = (secret or {}).get("data") or {}
    return Issued(*(_decoded(data.get(name, "")) for name in FILES))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""

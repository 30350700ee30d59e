"""The injector's metrics, for Prometheus. Every label has a closed list of values: nothing that a pod says is one."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tokengate import __version__
from tokengate.injector.patch import Decision
from tokengate.injector.policy import Policy

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)


class Metrics:
    """See the module; docs/reference/injector.md explains each."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._reviews = Counter(
            "tokengate_injector_reviews",
            "Questions of the API server about pods.",
            ["result", "reason", "dry_run"],
            registry=self._registry,
        )
        self._invalid = Counter(
            "tokengate_injector_invalid_requests",
            "Requests that were no such questions.",
            ["status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tokengate_injector_review_seconds",
            "Time from a whole question to its answer.",
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._reloads = Counter(
            "tokengate_injector_reloads",
            "Certificates and policies that were read.",
            ["what", "outcome"],
            registry=self._registry,
        )
        self._expiry = Gauge(
            "tokengate_injector_certificate_expiry_timestamp_seconds",
            "When the certificate that is served ends.",
            registry=self._registry,
        )
        self._info = Gauge(
            "tokengate_injector_info",
            "1, with the version and the policy that pods are stamped with.",
            ["version", "config_hash"],
            registry=self._registry,
        )

    def reviewed(self, decision: Decision, seconds: float, *, dry_run: bool) -> None:
        """Count one answer."""
        self._reviews.labels(decision.result, decision.reason, str(dry_run).lower()).inc()
        self._seconds.observe(seconds)

    def invalid(self, status: int) -> None:
        """Count a request that was refused before it was looked at."""
        self._invalid.labels(str(status)).inc()

    def reloaded(self, what: str, *, done: bool) -> None:
        """Count a change of a file."""
        self._reloads.labels(what, "done" if done else "failed").inc()

    def serves(self, policy: Policy | None, expiry_s: float | None) -> None:
        """Say what is served with."""
        if expiry_s is not None:
            self._expiry.set(expiry_s)
        if policy is not None:
            self._info.clear()
            self._info.labels(__version__, policy.config_hash()).set(1)

    def exposition(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)

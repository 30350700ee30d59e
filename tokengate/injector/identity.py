"""Which agent a pod is: its workload's name, so that all pods of a workload share the agent's budget. Pure.

Who may create pods in a namespace can choose this name, as it can choose any pod's owner; the namespace, which is the
tenant, it cannot.
"""

import hashlib
import re
from typing import Final

from tokengate.domain import NAME_CHARACTERS_MAX
from tokengate.injector.pod import Metadata

DIGEST_CHARACTERS: Final = 8

_SCHEDULED_JOB = re.compile(r"(.+)-\d{8,10}")
"""A CronJob names its Jobs by the minute since the epoch: `report-29394720`. That a Job of a person is named so, too,
only makes it share a budget. (kubernetes, pkg/controller/cronjob/utils.go, getJobName)"""


def agent_of(metadata: Metadata) -> str:
    """The name of the workload that owns the pod; of a pod without one, what its names begin with. Maybe empty."""
    for owner in metadata.owner_references or ():
        if owner.controller:
            return agent_named(_workload(owner.kind, owner.name, metadata.labels or {}))
    return agent_named(metadata.name or (metadata.generate_name or "").rstrip("-."))


def _workload(kind: str, name: str, labels: dict[str, str]) -> str:
    template = labels.get("pod-template-hash", "")
    if kind == "ReplicaSet" and template and name.endswith(f"-{template}"):
        return name.removesuffix(f"-{template}")
    if kind == "Job" and (scheduled := _SCHEDULED_JOB.fullmatch(name)):
        return scheduled[1]
    return name


def agent_named(name: str) -> str:
    """A name of Kubernetes (253 characters) as one of ours (128), still different from others."""
    if len(name) <= NAME_CHARACTERS_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARACTERS]
    return f"{name[: NAME_CHARACTERS_MAX - DIGEST_CHARACTERS - 1]}-{digest}"

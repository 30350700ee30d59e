"""ValidatingAdmissionPolicies, decided as an API server would: their CEL run by cel-python on a request."""

import fnmatch
from typing import Any

import celpy
from celpy.adapter import json_to_cel

from tests.support.kubernetes import Manifest

_ENVIRONMENT = celpy.Environment()
_programs: dict[str, celpy.Runner] = {}


def _value(expression: str, known: dict[str, Any]) -> Any:
    if expression not in _programs:
        _programs[expression] = _ENVIRONMENT.program(_ENVIRONMENT.compile(expression))
    return _programs[expression].evaluate(known)


def violations(policy: Manifest, pod: Manifest, before: Manifest | None = None, subresource: str = "") -> list[str]:
    """The messages of what a pod violates; none if the policy does not look at it.

    https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy
    """
    spec = policy["spec"]
    operation = "CREATE" if before is None else "UPDATE"
    resource = f"pods/{subresource}" if subresource else "pods"
    (rule,) = spec["matchConstraints"]["resourceRules"]
    if operation not in rule["operations"] or not any(fnmatch.fnmatch(resource, each) for each in rule["resources"]):
        return []
    known: dict[str, Any] = {
        "object": json_to_cel(pod),
        "oldObject": json_to_cel(before or {}),
        "request": json_to_cel({"operation": operation}),
    }
    if not all(_value(each["expression"], known) for each in spec.get("matchConditions", [])):
        return []
    variables = celpy.celtypes.MapType()
    known["variables"] = variables
    for each in spec.get("variables", []):
        variables[celpy.celtypes.StringType(each["name"])] = _value(each["expression"], known)
    return [each["message"] for each in spec["validations"] if not _value(each["expression"], known)]

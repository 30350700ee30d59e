"""The API server's question about one object, and our answer: AdmissionReview v1, bytes in and bytes out. Pure.

Source: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#webhook-request-and-response
"""

import base64
from typing import Any, Final

import msgspec
import orjson
from msgspec import Struct

from tokengate.injector.patch import Decision, Result, Skip, decide, decide_ephemeral
from tokengate.injector.pod import MalformedPod
from tokengate.injector.policy import Policy

API_VERSION: Final = "admission.k8s.io/v1"
KIND: Final = "AdmissionReview"

MESSAGE_CHARACTERS_MAX: Final = 4096
WARNING_CHARACTERS_MAX: Final = 256
"""What the API server passes on of a warning."""

UID_CHARACTERS_MAX: Final = 128


class MalformedReview(ValueError):
    """The body is no question of an API server; the message says why."""


class Kind(Struct, frozen=True):
    kind: str
    group: str = ""
    version: str = ""


class Request(Struct, frozen=True, rename="camel"):
    """What we look at of a question."""

    uid: str
    kind: Kind
    operation: str
    namespace: str = ""
    name: str = ""
    sub_resource: str = ""
    dry_run: bool = False
    object: dict[str, Any] | None = None


class Question(Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    request: Request


class Reviewed(Struct, frozen=True):
    """The answer, and what is to be counted and logged of it."""

    answer: bytes
    request: Request
    decision: Decision


_decode: Final = msgspec.json.Decoder(Question).decode


def review(body: bytes, policy: Policy) -> Reviewed:
    """Answer a question.

    Raises:
        MalformedReview: it is none.
    """
    try:
        question = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReview(str(error)) from None
    if (question.api_version, question.kind) != (API_VERSION, KIND):
        raise MalformedReview(
            f"it is {question.api_version} {question.kind}, not {API_VERSION} {KIND}"[:MESSAGE_CHARACTERS_MAX]
        )
    request = question.request
    if not 0 < len(request.uid) <= UID_CHARACTERS_MAX:
        raise MalformedReview("request.uid is empty or too long")
    decision = _decided(request, policy)
    return Reviewed(orjson.dumps(_answer(request, decision, policy)), request, decision)


def _decided(request: Request, policy: Policy) -> Decision:
    if request.kind.kind != "Pod" or request.kind.group or request.object is None:
        return Decision(Result.SKIPPED, Skip.NOT_A_POD)
    try:
        if request.operation == "CREATE" and not request.sub_resource:
            return decide(request.object, policy, request.namespace)
        if request.operation == "UPDATE" and request.sub_resource == "ephemeralcontainers":
            return decide_ephemeral(request.object, policy)
    except MalformedPod as error:
        return Decision(Result.REFUSED, "malformed", (f"The pod could not be read: {error}",))
    return Decision(Result.SKIPPED, Skip.NOT_CREATED)


def _answer(request: Request, decision: Decision, policy: Policy) -> dict[str, Any]:
    refused = decision.result is Result.REFUSED
    response: dict[str, Any] = {
        "uid": request.uid,
        "allowed": not refused,
        "auditAnnotations": {"result": decision.result, "config-hash": policy.config_hash()},
    }
    if decision.reason:
        response["auditAnnotations"]["reason"] = decision.reason
    if refused:
        message = "TokenGate: " + " ".join(decision.messages)
        response["status"] = {"code": 403, "reason": "Forbidden", "message": message[:MESSAGE_CHARACTERS_MAX]}
    if decision.warnings:
        response["warnings"] = [warning[:WARNING_CHARACTERS_MAX] for warning in decision.warnings]
    if decision.operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(decision.operations)).decode()
    return {"apiVersion": API_VERSION, "kind": KIND, "response": response}

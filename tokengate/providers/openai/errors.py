"""How a refusal looks to a client of OpenAI's API: the error object that its SDKs raise, with what TokenGate adds."""

from types import MappingProxyType
from typing import Any, Final

import orjson

from tokengate.domain import Reason, Refusal
from tokengate.providers import figures

TYPE_AND_CODE: Final = MappingProxyType(
    {
        Reason.BUDGET_EXCEEDED: ("insufficient_quota", "insufficient_quota"),
        Reason.BUDGET_BUSY: ("rate_limit_exceeded", "budget_busy"),
        Reason.BUDGET_INVALID: ("insufficient_quota", "budget_invalid"),
        Reason.SESSIONS_FULL: ("rate_limit_exceeded", "sessions_full"),
        Reason.RATE_LIMITED: ("rate_limit_exceeded", "rate_limit_exceeded"),
        Reason.SESSION_FROZEN: ("session_frozen", "session_frozen"),
        Reason.SESSION_MISSING: ("invalid_request_error", "session_missing"),
        Reason.SESSION_INVALID: ("invalid_request_error", "session_invalid"),
        Reason.BODY_INVALID: ("invalid_request_error", "body_invalid"),
        Reason.BODY_TOO_LARGE: ("invalid_request_error", "body_too_large"),
        Reason.HEADERS_TOO_LARGE: ("invalid_request_error", "headers_too_large"),
        Reason.MODEL_NOT_PRICED: ("model_not_priced", "model_not_priced"),
        Reason.ENDPOINT_NOT_METERED: ("endpoint_not_metered", "endpoint_not_metered"),
        Reason.METHOD_NOT_ALLOWED: ("invalid_request_error", "method_not_allowed"),
        Reason.CONCURRENCY_EXCEEDED: ("rate_limit_exceeded", "concurrency_exceeded"),
        Reason.STORE_UNAVAILABLE: ("store_unavailable", "store_unavailable"),
        Reason.UPSTREAM_UNREACHABLE: ("upstream_error", "upstream_unreachable"),
        Reason.UPSTREAM_TIMEOUT: ("upstream_error", "upstream_timeout"),
        Reason.SHUTTING_DOWN: ("service_unavailable", "shutting_down"),
        Reason.INTERNAL: ("server_error", "internal_error"),
    }
)
"""`error.type` and `error.code` by reason. LangChain JS gives up at the code `insufficient_quota` alone."""


class OpenAIDialect:
    """Errors as `{"error": {...}}`, in a body or as an event, which is what the official SDKs raise `APIError` from."""

    def __init__(self, name: str = "openai") -> None:
        self.name: str = name

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        return orjson.dumps({"error": _error(refusal, request_id)})

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        return b"data: %b\n\n" % self.error(refusal, request_id)


def _error(refusal: Refusal, request_id: str) -> dict[str, Any]:
    kind, code = TYPE_AND_CODE[refusal.reason]
    error: dict[str, Any] = {
        "message": refusal.message,
        "type": kind,
        "param": refusal.param,
        "code": code,
        "request_id": request_id,
    }
    return error | figures(refusal)

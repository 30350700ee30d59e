"""How a refusal looks to a client of Anthropic's API: the error object that its SDKs raise, with what TokenGate adds.

Types by https://platform.claude.com/docs/en/api/errors; the SDKs choose the exception by the status alone.
"""

from types import MappingProxyType
from typing import Any, Final

import orjson

from tokengate.domain import Reason, Refusal
from tokengate.providers import figures

_RATE_LIMIT, _INVALID, _OVERLOADED = "rate_limit_error", "invalid_request_error", "overloaded_error"

TYPE: Final = MappingProxyType(
    {
        Reason.SESSION_FROZEN: "permission_error",
        Reason.SESSION_MISSING: _INVALID,
        Reason.SESSION_INVALID: _INVALID,
        Reason.BODY_INVALID: _INVALID,
        Reason.BODY_TOO_LARGE: "request_too_large",
        Reason.HEADERS_TOO_LARGE: "request_too_large",
        Reason.MODEL_NOT_PRICED: _INVALID,
        Reason.ENDPOINT_NOT_METERED: "not_found_error",
        Reason.METHOD_NOT_ALLOWED: _INVALID,
        Reason.CONCURRENCY_EXCEEDED: _OVERLOADED,
        Reason.STORE_UNAVAILABLE: _OVERLOADED,
        Reason.UPSTREAM_TIMEOUT: "timeout_error",
        Reason.SHUTTING_DOWN: _OVERLOADED,
        Reason.UPSTREAM_UNREACHABLE: "api_error",
        Reason.INTERNAL: "api_error",
    }
)
"""`error.type` by reason; all others are limits: `rate_limit_error`."""


class AnthropicDialect:
    """Errors as `{"type": "error", "error": {...}}`, in a body or as an `error` event."""

    name: str = "anthropic"

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        error: dict[str, Any] = {
            "type": TYPE.get(refusal.reason, _RATE_LIMIT),
            "message": refusal.message,
            "code": refusal.reason.value,
        }
        if refusal.param is not None:
            error["param"] = refusal.param
        return orjson.dumps({"type": "error", "error": error | figures(refusal), "request_id": request_id})

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.error(refusal, request_id)

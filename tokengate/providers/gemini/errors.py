"""How a refusal looks to a client of the Gemini API: the error object of Google's APIs, with what TokenGate adds.

The shape by https://google.aip.dev/193; the names of the statuses by `google.rpc.Code`.
"""

from types import MappingProxyType
from typing import Any, Final

import orjson

from tokengate.domain import Refusal
from tokengate.providers import STATUS, figures

STATUS_NAME: Final = MappingProxyType(
    {
        400: "INVALID_ARGUMENT",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        405: "INVALID_ARGUMENT",
        413: "INVALID_ARGUMENT",
        429: "RESOURCE_EXHAUSTED",
        431: "INVALID_ARGUMENT",
        500: "INTERNAL",
        502: "UNAVAILABLE",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }
)


class GeminiDialect:
    """Errors as `{"error": {"code", "message", "status"}}`, in a body or as an event."""

    name: str = "google"

    def error(self, refusal: Refusal, request_id: str) -> bytes:
        status = STATUS[refusal.reason]
        error: dict[str, Any] = {
            "code": status,
            "message": refusal.message,
            "status": STATUS_NAME[status],
            "reason_code": refusal.reason.value,
            "request_id": request_id,
        }
        if refusal.param is not None:
            error["param"] = refusal.param
        return orjson.dumps({"error": error | figures(refusal)})

    def error_event(self, refusal: Refusal, request_id: str) -> bytes:
        return b"data: %b\n\n" % self.error(refusal, request_id)

"""Google's Gemini API: its endpoints, which of them cost money, and how it words errors.

The same endpoints stand under two versions; the official SDK of late 2026 calls `/v1` by default, older ones `/v1beta`.
`requests` reads what is asked, `contents` what it is made of, `meters` what is answered, `errors` words what is
refused. Nothing here knows a price.
"""

from typing import Final

from tokengate.providers import Route
from tokengate.providers.gemini.errors import GeminiDialect
from tokengate.providers.gemini.requests import BatchEmbedContents, EmbedContent, GenerateContent

__all__ = ("ROUTES", "dialect")

dialect: Final = GeminiDialect()

_KEY: Final = b"x-goog-api-key"
"""The header by which the SDKs of this API authenticate, which tells its list of models from others at that path."""

_METERED: Final = (
    ("generateContent", GenerateContent(stream=False)),
    ("streamGenerateContent", GenerateContent(stream=True)),
    ("embedContent", EmbedContent()),
    ("batchEmbedContents", BatchEmbedContents()),
)
_REFUSED: Final = {
    "batchGenerateContent": "Batches are not forwarded: what one costs is known up to a day later.",
    "asyncBatchEmbedContent": "Batches are not forwarded: what one costs is known up to a day later.",
    "predict": "Images and videos by predict are billed by the piece, and have no price here.",
    "predictLongRunning": "Videos are billed by the second, and have no price here.",
}


def _routes(version: str) -> tuple[Route, ...]:
    models = f"/{version}/models"
    return (
        *(Route("POST", f"{models}/*:{verb}", dialect, endpoint.name, endpoint) for verb, endpoint in _METERED),
        Route("POST", f"{models}/*:countTokens", dialect, "count_tokens", None),
        *(Route("POST", f"{models}/*:{verb}", dialect, verb, None, refused=why) for verb, why in _REFUSED.items()),
    )


ROUTES: Final[tuple[Route, ...]] = (
    *_routes("v1beta"),
    Route("GET", "/v1beta/models", dialect, "models", None),
    Route("GET", "/v1beta/models/*", dialect, "models", None),
    *_routes("v1"),
    Route("GET", "/v1/models", dialect, "models", None, told_by=_KEY),
    Route("GET", "/v1/models/*", dialect, "models", None, told_by=_KEY),
)

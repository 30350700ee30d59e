"""Google's Gemini API: its endpoints, which of them cost money, and how it words errors.

The same endpoints stand under two versions; the official SDK of late 2026 calls `/v1` by default, older ones `/v1beta`.
`requests` reads what is asked, `contents` what it is made of, `meters` what is answered, `errors` words what is
refused. Nothing here knows a price.
"""

from typing import Final

from tokengate.providers import ANY_METHOD, Route
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


_KEPT: Final = "It is kept by the provider for all who have its key, and what it costs is billed by the hour or later."
_KEPT_PATHS: Final = {
    "cachedContents": "Cached contents are billed by the hour for as long as they are kept, which nothing here holds.",
    "files": "Files are kept by the provider for all who have its key: send what they hold within the request.",
    "batches": "Batches are not forwarded: what one costs is known up to a day later.",
    "tunedModels": _KEPT,
    "corpora": _KEPT,
    "fileSearchStores": _KEPT,
    "interactions": "Interactions are kept by the provider and go on by themselves: they are not metered here.",
}
"""Whatever is done with them and below them, under `/v1beta`."""

ROUTES: Final[tuple[Route, ...]] = (
    *_routes("v1beta"),
    Route("GET", "/v1beta/models", dialect, "models", None),
    Route("GET", "/v1beta/models/*", dialect, "models", None),
    *(
        Route(ANY_METHOD, f"/v1beta/{path}{below}", dialect, path, None, refused=why)
        for path, why in _KEPT_PATHS.items()
        for below in ("", "/*")
    ),
    Route(ANY_METHOD, "/upload/v1beta/files", dialect, "files", None, refused=_KEPT_PATHS["files"]),
    *_routes("v1"),
    Route("GET", "/v1/models", dialect, "models", None, told_by=_KEY),
    Route("GET", "/v1/models/*", dialect, "models", None, told_by=_KEY),
)

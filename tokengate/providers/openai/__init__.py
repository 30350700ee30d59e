"""OpenAI's API, and the many servers that speak it: its endpoints, which of them cost money, and how it words errors.

`requests` reads what is asked, `meters` what is answered, `errors` words what is refused. Nothing here knows a price.
"""

from typing import Final

from tokengate.providers import ANY_METHOD, Route
from tokengate.providers.openai.deployments import Deployed
from tokengate.providers.openai.errors import OpenAIDialect
from tokengate.providers.openai.pictures import ImageEdits, ImageGenerations
from tokengate.providers.openai.requests import ChatCompletions, Completions, Embeddings
from tokengate.providers.openai.responses import Responses
from tokengate.providers.openai.speech import Speech
from tokengate.providers.openai.transcripts import Transcriptions

__all__ = ("ROUTES", "azure", "dialect")

dialect: Final = OpenAIDialect()

azure: Final = OpenAIDialect("azure")
"""The same words, and other paths: only an upstream of the kind `azure` takes them."""

_METERED: Final = (
    ("/v1/chat/completions", ChatCompletions()),
    ("/v1/completions", Completions()),
    ("/v1/embeddings", Embeddings()),
    ("/v1/responses", Responses()),
    ("/v1/images/generations", ImageGenerations()),
    ("/v1/images/edits", ImageEdits()),
    ("/v1/audio/speech", Speech()),
    ("/v1/audio/transcriptions", Transcriptions()),
    ("/v1/audio/translations", Transcriptions("translations")),
)
"""Of Azure's deployments, too, but for responses, which it has elsewhere."""
_TAKE_FORMS: Final = frozenset({"/v1/images/edits", "/v1/audio/transcriptions", "/v1/audio/translations"})

_OWN: Final = (("GET", "/v1/responses/*"), ("DELETE", "/v1/responses/*"), ("POST", "/v1/responses/*/cancel"))
_FILES: Final = "Files are kept by the provider for all who have its key: nothing here meters what reads them."
_LATER: Final = "What this costs is known only after a day or more, and nothing could hold it until then."
_STORED: Final = "Stored completions are kept by the provider for all who have its key: keep what you were answered."
_REFUSED: Final = (
    (ANY_METHOD, "/v1/chat/completions/*", _STORED),
    ("GET", "/v1/responses", "Responses over a WebSocket are not metered: send them by POST."),
    ("POST", "/v1/responses/compact", "What is compacted is not metered here."),
    ("GET", "/v1/realtime", "Realtime sessions are not metered: they have no end at which to hold their price."),
    ("POST", "/v1/realtime/*", "Realtime sessions are not metered: they have no end at which to hold their price."),
    ("POST", "/v1/images/variations", "Variations were made by dall-e-2 alone, which was retired on 2026-05-12."),
    ("POST", "/v1/videos", "Videos are billed by the second, and have no price here."),
)

_KEPT: Final = "It is kept by the provider for all who have its key, and the gate does not know whose it is."
_RUN: Final = "It is run by the provider when it sees fit, and nothing here meters what it costs."
_KEPT_PATHS: Final = {
    "/v1/files": _FILES,
    "/v1/uploads": _FILES,
    "/v1/batches": _LATER,
    "/v1/fine_tuning": _LATER,
    "/v1/conversations": _KEPT,
    "/v1/vector_stores": "Vector stores are billed by the day, and are kept for all who have the provider's key.",
    "/v1/containers": "Containers are billed by their time, and are kept for all who have the provider's key.",
    "/v1/assistants": _RUN,
    "/v1/threads": _RUN,
    "/v1/evals": _RUN,
    "/v1/organization": "What administers an account at the provider does not go through a gate.",
}
"""Whatever is done with them and below them."""

ROUTES: Final[tuple[Route, ...]] = (
    *(
        Route("POST", path, dialect, endpoint.name, endpoint, takes_forms=path in _TAKE_FORMS)
        for path, endpoint in _METERED
    ),
    *(
        Route(
            "POST",
            f"/openai/deployments/*{path.removeprefix('/v1')}",
            azure,
            endpoint.name,
            Deployed(endpoint),
            takes_forms=path in _TAKE_FORMS,
        )
        for path, endpoint in _METERED
        if path != "/v1/responses"
    ),
    Route("POST", "/v1/responses/input_tokens", dialect, "input_tokens", None),
    *(Route(method, path, dialect, "kept_responses", None, own=True) for method, path in _OWN),
    Route("POST", "/v1/moderations", dialect, "moderations", None),
    Route("GET", "/v1/models", dialect, "models", None),
    Route("GET", "/v1/models/*", dialect, "models", None),
    *(Route(method, path, dialect, path.removeprefix("/v1/"), None, refused=why) for method, path, why in _REFUSED),
    *(
        Route(ANY_METHOD, f"{path}{below}", dialect, path.removeprefix("/v1/"), None, refused=why)
        for path, why in _KEPT_PATHS.items()
        for below in ("", "/*")
    ),
)

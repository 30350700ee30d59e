"""OpenAI's API, and the many servers that speak it: its endpoints, which of them cost money, and how it words errors.

`requests` reads what is asked, `meters` what is answered, `errors` words what is refused. Nothing here knows a price.
"""

from typing import Final

from tokengate.providers import Route
from tokengate.providers.openai.errors import OpenAIDialect
from tokengate.providers.openai.requests import ChatCompletions, Completions, Embeddings

__all__ = ("ROUTES", "dialect")

dialect: Final = OpenAIDialect()

_METERED: Final = (
    ("/v1/chat/completions", ChatCompletions()),
    ("/v1/completions", Completions()),
    ("/v1/embeddings", Embeddings()),
)

ROUTES: Final[tuple[Route, ...]] = (
    *(Route("POST", path, dialect, endpoint.name, endpoint) for path, endpoint in _METERED),
    Route("GET", "/v1/models", dialect, "models", None),
    Route("GET", "/v1/models/*", dialect, "models", None),
)

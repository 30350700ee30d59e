"""Anthropic's Messages API: its endpoints, which of them cost money, and how it words errors.

`requests` reads what is asked, `blocks` what its messages are made of, `meters` what is answered, `errors` words what
is refused. Nothing here knows a price.
"""

from typing import Final

from tokengate.providers import ANY_METHOD, Route
from tokengate.providers.anthropic.errors import AnthropicDialect
from tokengate.providers.anthropic.requests import Messages

__all__ = ("ROUTES", "dialect")

dialect: Final = AnthropicDialect()

_VERSION: Final = b"anthropic-version"
"""The header that every request of this API has (https://platform.claude.com/docs/en/api/versioning)."""

_BATCHES: Final = (
    "Message batches are not forwarded: what one costs is known up to a day later, and nothing holds it until then. "
    "Send its requests one by one."
)

_REFUSED: Final = (
    ("/v1/messages/batches", _BATCHES),
    ("/v1/messages/batches/*", _BATCHES),
    ("/v1/complete", "Text completions are of models that are gone: send messages, by POST /v1/messages."),
)

ROUTES: Final[tuple[Route, ...]] = (
    Route("POST", "/v1/messages", dialect, "messages", Messages()),
    Route("POST", "/v1/messages/count_tokens", dialect, "count_tokens", None),
    *(Route(ANY_METHOD, path, dialect, path.removeprefix("/v1/"), None, refused=why) for path, why in _REFUSED),
    Route("GET", "/v1/models", dialect, "models", None, told_by=_VERSION),
    Route("GET", "/v1/models/*", dialect, "models", None, told_by=_VERSION),
)

"""What is no endpoint is refused in the words of the API that its caller speaks, and reaches no provider."""

from typing import Any

import httpx
import pytest

from tests.support.gate import gate, simulated
from tests.support.redis_server import Server
from tokengate.providers import Route, Router, anthropic, gemini, openai

OF_OPENAI: dict[str, str] = {}
OF_ANTHROPIC = {"anthropic-version": "2023-06-01"}
OF_GOOGLE = {"x-goog-api-key": "k"}


def words_of(answer: dict[str, Any]) -> str:
    """Whose shape an error has."""
    if answer.get("type") == "error":
        return "anthropic"
    return "gemini" if type(answer["error"]["code"]) is int else "openai"


@pytest.mark.parametrize(
    ("method", "path", "headers", "words", "why"),
    [
        ("POST", "/v1/telepathy", OF_OPENAI, "openai", "not metered"),
        ("GET", "/v1/chat/completions/chatcmpl-1", OF_OPENAI, "openai", "Stored completions"),
        ("DELETE", "/v1/files/file-1", OF_OPENAI, "openai", "Files are kept"),
        ("POST", "/v1/vector_stores/vs_1/search", OF_OPENAI, "openai", "billed by the day"),
        ("POST", "/v1/fine_tuning/jobs", OF_OPENAI, "openai", "a day or more"),
        ("POST", "/v1/realtime/sessions", OF_OPENAI, "openai", "no end"),
        ("GET", "/v1/files", OF_ANTHROPIC, "anthropic", "Files are kept"),
        ("POST", "/v1/skills", OF_ANTHROPIC, "anthropic", "not metered"),
        ("POST", "/v1/complete", OF_OPENAI, "anthropic", "models that are gone"),
        ("GET", "/v1/messages/batches/msgbatch_1/results", OF_OPENAI, "anthropic", "one by one"),
        ("PATCH", "/v1beta/cachedContents/1", OF_OPENAI, "gemini", "billed by the hour"),
        ("POST", "/upload/v1beta/files", OF_GOOGLE, "gemini", "within the request"),
        ("POST", "/v1beta/dreams", OF_OPENAI, "gemini", "not metered"),
        ("POST", "/v1/models/gemini-2.5-pro:dream", OF_GOOGLE, "gemini", "not metered"),
    ],
)
async def test_the_caller_is_told_why_in_its_own_words(
    store: Server, method: str, path: str, headers: dict[str, str], words: str, why: str
) -> None:
    async with simulated() as provider, gate(provider.base_url, store.url) as running:
        async with httpx.AsyncClient(base_url=running.url, trust_env=False) as http:
            answer = await http.request(method, path, headers=headers, json={})
        assert provider.received == 0
    assert answer.status_code == 404
    assert answer.headers["x-tokengate-reason"] == "endpoint_not_metered"
    assert words_of(answer.json()) == words
    assert why in answer.text


def test_a_path_that_is_refused_hides_none_that_is_not() -> None:
    routes = (*openai.ROUTES, *anthropic.ROUTES, *gemini.ROUTES)
    router = Router(routes)
    for route in (each for each in routes if not each.refused):
        found = router.match(route.method, route.path.replace("*", "x"), {route.told_by: b"x"} if route.told_by else {})
        assert isinstance(found, Route)
        assert not found.refused, route.path

"""A refusal is an error that the official SDK raises, with what a person or an agent needs to act on it."""

import httpx2
import openai
import orjson
import pytest

from tokengate.domain import Reason, Refusal, Scope, Standing
from tokengate.providers import STATUS
from tokengate.providers.openai import dialect
from tokengate.providers.openai.errors import TYPE_AND_CODE

STANDING = Standing(
    scope=Scope("default", "session", "my-session"),
    cap_nano=10_000_000_000,
    spent_nano=7_000_000_000,
    held_nano=500_000_000,
    resets_at_ms=1_767_225_600_000,
)
EXCEEDED = Refusal(
    Reason.BUDGET_EXCEEDED,
    "Budget exceeded. Remaining: $2.50, Required: $5.00",
    standing=STANDING,
    required_nano=5_000_000_000,
)


def client(status: int, content: bytes, content_type: str) -> openai.OpenAI:
    def answer(_: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": content_type, "x-should-retry": "false"}
        return httpx2.Response(status, headers=headers, content=content)

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(api_key="dummy", base_url="http://127.0.0.1/v1", http_client=http)


def ask(sdk: openai.OpenAI, *, stream: bool = False) -> None:
    if stream:
        list(sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True))
    else:
        sdk.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])


def test_a_refusal_over_budget_has_the_promised_shape() -> None:
    assert orjson.loads(dialect.error(EXCEEDED, "req-1")) == {
        "error": {
            "message": "Budget exceeded. Remaining: $2.50, Required: $5.00",
            "type": "insufficient_quota",
            "code": "insufficient_quota",
            "param": None,
            "request_id": "req-1",
            "budget_info": {
                "budget": 10.0,
                "spent": 7.0,
                "remaining": 2.5,
                "scope": "session my-session",
                "held": 0.5,
                "required": 5.0,
                "resets_at": "2026-01-01T00:00:00Z",
            },
        }
    }


def test_a_frozen_session_is_told_why_and_until_when() -> None:
    frozen = Refusal(Reason.SESSION_FROZEN, "Frozen.", frozen_reason="loop", frozen_until_ms=1_767_225_600_999)
    error = orjson.loads(dialect.error(frozen, "r"))["error"]
    assert (error["type"], error["reason"], error["until"]) == ("session_frozen", "loop", "2026-01-01T00:00:00Z")
    for_good = Refusal(Reason.SESSION_FROZEN, "Frozen.", frozen_reason="fraud")
    assert orjson.loads(dialect.error(for_good, "r"))["error"]["until"] is None


def test_a_fault_in_the_request_names_its_place_and_no_budget() -> None:
    error = orjson.loads(dialect.error(Refusal(Reason.BODY_INVALID, "No.", param="messages[0]"), "r"))["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", "messages[0]")
    assert "budget_info" not in error


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_status_a_type_and_a_code(reason: Reason) -> None:
    error = orjson.loads(dialect.error(Refusal(reason, "words"), "r"))["error"]
    assert (error["type"], error["code"]) == TYPE_AND_CODE[reason]
    assert all(TYPE_AND_CODE[reason])
    assert 400 <= STATUS[reason] < 600
    assert STATUS[reason] not in {408, 409}, "SDKs retry these whatever they mean"


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (Reason.BUDGET_EXCEEDED, openai.RateLimitError),
        (Reason.BUDGET_BUSY, openai.RateLimitError),
        (Reason.RATE_LIMITED, openai.RateLimitError),
        (Reason.SESSION_FROZEN, openai.PermissionDeniedError),
        (Reason.BODY_INVALID, openai.BadRequestError),
        (Reason.MODEL_NOT_PRICED, openai.BadRequestError),
        (Reason.ENDPOINT_NOT_METERED, openai.NotFoundError),
        (Reason.STORE_UNAVAILABLE, openai.InternalServerError),
        (Reason.UPSTREAM_TIMEOUT, openai.InternalServerError),
    ],
)
def test_the_official_sdk_raises_the_error_of_its_own_kind(reason: Reason, error: type[openai.APIStatusError]) -> None:
    refusal = Refusal(reason, "words for a person")
    with pytest.raises(error, match="words for a person") as raised:
        ask(client(STATUS[reason], dialect.error(refusal, "r"), "application/json"))
    assert (raised.value.type, raised.value.code) == TYPE_AND_CODE[reason]


def test_the_official_sdk_raises_a_refusal_in_mid_stream() -> None:
    chunk = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
    sdk = client(200, chunk + dialect.error_event(EXCEEDED, "req-1"), "text/event-stream")
    with pytest.raises(openai.APIError, match="Budget exceeded") as raised:
        ask(sdk, stream=True)
    assert raised.value.code == "insufficient_quota"
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["budget_info"]["remaining"] == 2.5


def test_an_error_event_is_one_event_whatever_the_words() -> None:
    event = dialect.error_event(Refusal(Reason.INTERNAL, "two\n\nparagraphs\r\ndata: [DONE]"), "r")
    assert event.startswith(b"data: {")
    assert event.count(b"\n") == 2
    assert b"\r" not in event
    assert event.endswith(b"\n\n")

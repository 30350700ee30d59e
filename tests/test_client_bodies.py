"""What a client may say in a body, a header or a query to pay less than it gets, or to be somebody else.

End to end: such a request is refused in words that name the place, nothing is forwarded, nothing is held, and the log
stays one JSON object a line. Every notation of a cap is in `providers/test_openai_requests`.
"""

import json
import logging
from typing import Any

import pytest
import redis

from tests.support.hashes import booked, fields, key, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, MODEL, chat, parsed, raw, scene
from tokengate.refusals import MESSAGE_CHARS_SHOWN, PARAM_CHARS_SHOWN
from tokengate.simulate import SimulateOptions

MESSAGES = b'"messages":[{"role":"user","content":"x"}]'


def saying(members: bytes) -> bytes:
    """A chat with members written as they stand."""
    return b'{"model":"gpt-4o-mini",%b,%b}' % (MESSAGES, members)


def nested(depth: int) -> bytes:
    return saying(b'"metadata":' + b"[" * depth + b"]" * depth)


REFUSED: dict[str, tuple[bytes, str | None]] = {
    "no json": (b"model=gpt-4o-mini", None),
    "nothing": (b"", None),
    "a list": (b"[]", None),
    "two documents": (chat() + chat(), None),
    "a byte order mark": (b"\xef\xbb\xbf" + chat(), None),
    "utf-16": (chat().decode().encode("utf-16"), None),
    "bytes that are no utf-8": (chat().replace(b"gates", b"\xff\xfe"), None),
    "an overlong zero": (chat().replace(b"gates", b"\xc0\x80"), None),
    "a surrogate in bytes": (chat().replace(b"gates", b"\xed\xa0\x80"), None),
    "half a surrogate pair": (chat().replace(b"gates", b"\\ud800"), None),
    "deep json": (nested(10_000), None),
    "deeper json": (nested(1_000_000), None),
    "the same key twice": (saying(b'"n":1,"n":128'), "n"),
    "the same key twice, once in escapes": (saying(b'"n":1,"\\u006e":128'), "n"),
    "the same key twice in a message": (b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"x","content":"y"}]}', "messages[0].content"),
    "the same key twice in options": (saying(b'"stream":true,"stream_options":{"include_usage":true,"include_usage":false}'), "stream_options.include_usage"),
    "the same key twice in a tool": (saying(b'"tools":[{"type":"function","type":"web_search"}]'), "tools[0].type"),
    "two models": (saying(b'"model":"o1-pro"'), "model"),
    "a key in capitals": (saying(b'"Max_Tokens":100000'), "Max_Tokens"),
    "a model that is none": (saying(b'"n":1').replace(b'"gpt-4o-mini"', b"7"), "model"),
    "a cap of text": (saying(b'"max_tokens":"16"'), "max_tokens"),
    "a negative cap": (saying(b'"max_tokens":-100000'), "max_tokens"),
    "a negative cap beside a good one": (saying(b'"max_tokens":-1,"max_completion_tokens":5'), "max_tokens"),
    "a cap that is no number": (saying(b'"max_tokens":NaN'), None),
    "an infinite cap": (saying(b'"max_tokens":Infinity'), None),
    "a cap beyond a double": (saying(b'"max_tokens":1e400'), None),
    "a cap of 2^31": (saying(b'"max_tokens":2147483648'), "max_tokens"),
    "a cap of 2^63": (saying(b'"max_tokens":9223372036854775808'), "max_tokens"),
    "a cap of 2^64 + 16": (saying(b'"max_tokens":18446744073709551632'), "max_tokens"),
    "a cap of a thousand digits": (saying(b'"max_tokens":' + b"1" * 1000), None),
    "a fraction": (saying(b'"max_tokens":16.5'), "max_tokens"),
    "a negative zero": (saying(b'"n":-0'), "n"),
    "too many answers": (saying(b'"n":129'), "n"),
    "too many candidates": (saying(b'"best_of":1000000'), "best_of"),
    "a flag of text": (saying(b'"stream":"true"'), "stream"),
    "a tier with a line break": (saying(b'"service_tier":"flex\\nX"'), "service_tier"),
    "a tier without end": (saying(b'"service_tier":"' + b"x" * 100_000 + b'"'), "service_tier"),
    "a key without end, twice": (saying(b'"%b":1,"%b":2' % (b"k" * 100_000, b"k" * 100_000)), "k" * PARAM_CHARS_SHOWN),
    "a part of a type without end": (b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":[{"type":"%b"}]}]}' % (b"t" * 100_000), "messages[0].content[0].type"),
    "a tool that the provider runs": (saying(b'"tools":[{"type":"web_search"}]'), "tools[0].type"),
    "members that override": (saying(b'"extra_body":{"n":128}'), "extra_body"),
    "other models": (saying(b'"models":["o1-pro"]'), "models"),
    "a search": (saying(b'"search_parameters":{"mode":"on"}'), "search_parameters"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "param"), REFUSED.values(), ids=REFUSED)
async def test_a_body_that_could_be_priced_wrongly_is_refused_with_its_place(
    store: Server, redis_cli: "redis.Redis", body: bytes, param: str | None
) -> None:
    async with scene(store.url) as at:
        answer = await at.post(body)
        [line] = await at.gate.log()
        assert at.provider.requests == []
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] in ("body_invalid", "model_not_priced")
    assert error["param"] == param
    assert len(error["message"]) <= MESSAGE_CHARS_SHOWN
    assert (line["decision"], line["error"]) == ("blocked", error["message"])
    assert booked(redis_cli) == []


@pytest.mark.parametrize(
    ("members", "answers"),
    [({"n": 3}, 3), ({"best_of": 4}, 4), ({"n": 2, "best_of": 5}, 5), ({"n": 6, "best_of": 2}, 6)],
    ids=str,
)
async def test_every_answer_that_may_be_generated_is_held_for(
    store: Server, redis_cli: "redis.Redis", members: dict[str, Any], answers: int
) -> None:
    body = chat(max_tokens=100, **members)
    async with scene(store.url, SimulateOptions(output_tokens=100)) as at:
        await at.post(body)
        [line] = await at.gate.log()
    held_nano_expected = parsed(body).input_tokens_max * 150 + answers * 100 * 600
    assert round(line["held"] * 1e9) == held_nano_expected
    assert spent_nano(redis_cli) <= held_nano_expected


# --- what a body says of itself ---


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"content-type": "text/plain"}, "'text/plain'"),
        ({"content-type": "application/x-www-form-urlencoded"}, "application/json"),
        ({"content-type": "multipart/form-data; boundary=x"}, "application/json"),
        ({"content-type": "application/json; charset=utf-7"}, "UTF-8"),
        ({"content-type": "application/json; charset=utf-16"}, "UTF-8"),
        ({"content-type": "application/json, text/plain"}, "application/json"),
        ({"content-type": "x" * 5000}, "application/json"),
        ({"content-type": ""}, "application/json"),
        ({"origin": "https://evil.example"}, "missing"),
        ({"content-encoding": "gzip", "content-type": "application/json"}, "compressed"),
        ({"content-encoding": "br"}, "compressed"),
    ],
    ids=str,
)
async def test_a_body_that_says_it_is_something_else_is_not_read(
    store: Server, headers: dict[str, str], words: str
) -> None:
    async with scene(store.url) as at:
        answer = await at.http.post(CHAT, content=chat(), headers=headers)
        [line] = await at.gate.log()
        assert at.provider.requests == []
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "body_invalid")
    assert words in answer.json()["error"]["message"]
    assert len(line["error"]) < MESSAGE_CHARS_SHOWN


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; charset=us-ascii",
        "application/json;",
        "application/vnd.api+json",
    ],
)
async def test_json_may_be_called_json_in_other_words(store: Server, content_type: str) -> None:
    async with scene(store.url) as at:
        given = {"content-type": content_type, "origin": "app://editor", "content-encoding": "identity"}
        assert (await at.http.post(CHAT, content=chat(), headers=given)).status_code == 200
        await at.gate.idle()
        assert at.provider.headers()["content-type"] == content_type


async def test_two_types_of_one_body_are_refused(store: Server) -> None:
    sent = f"POST {CHAT} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-length: {len(chat())}\r\n"
    sent += "content-type: application/json\r\ncontent-type: application/json; charset=utf-7\r\n\r\n"
    async with scene(store.url) as at:
        assert (await raw(at.gate.url, sent.encode() + chat())).startswith(b"HTTP/1.1 400")
        assert at.provider.requests == []


# --- who somebody says it is ---


@pytest.mark.parametrize(
    ("query", "session", "forwarded"),
    [
        ("session_id=mine", "mine", ""),
        ("session_id=%6dine", "mine", ""),
        ("session%5Fid=mine", "mine", ""),
        ("a=%20b+c&session_id=mine&d=%2B;e&&f", "mine", "?a=%20b+c&d=%2B;e&&f"),
        ("session_id=mine&session_id=mine", "mine", ""),
        ("my_session_id=other", "default", "?my_session_id=other"),
        ("session_id=mine&session_id=other", None, ""),
        ("session_id=mine&session%5fid=other", None, ""),
        ("session_id", None, ""),
        ("session_id=a%0d%0ax-session-id:b", None, ""),
        ("session_id=a%00", None, ""),
        ("session_id=%ff", None, ""),
        ("session_id=..%2F..", None, ""),
    ],
)
async def test_a_query_names_one_session_or_is_refused(
    store: Server, redis_cli: "redis.Redis", query: str, session: str | None, forwarded: str
) -> None:
    async with scene(store.url) as at:
        answer = await at.http.post(f"{CHAT}?{query}", content=chat())
        await at.gate.idle()
        targets = [seen["target"] for seen in at.provider.requests]
    assert answer.status_code == (400 if session is None else 200)
    assert targets == ([] if session is None else [CHAT + forwarded])
    assert redis_cli.zrange("tokengate:{default}:sessions", 0, -1) == ([] if session is None else [session])


async def test_a_pinned_session_is_the_only_one_whatever_is_said(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, session_id="pod-7") as at:
        for session, query in (("other", ""), ("other", "?session_id=another"), (None, "?session_id=a&session_id=b")):
            named = {} if session is None else {"x-session-id": session}
            assert (await at.http.post(f"{CHAT}{query}", content=chat(), headers=named)).status_code == 200
        await at.gate.idle()
        assert all(seen["target"] == CHAT for seen in at.provider.requests)
        assert "x-session-id" not in at.provider.headers()
    assert redis_cli.zrange("tokengate:{default}:sessions", 0, -1) == ["pod-7"]
    assert fields(redis_cli, "pod-7")["requests"] == "3"


# --- what an agent may say to whom ---


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "GET"])
async def test_other_methods_are_refused_with_those_that_there_are(store: Server, method: str) -> None:
    async with scene(store.url) as at:
        answer = await at.http.request(method, CHAT)
        assert at.provider.requests == []
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.headers["x-tokengate-reason"] == "method_not_allowed"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    if method != "HEAD":
        assert answer.json()["error"]["message"] == f"{CHAT} takes POST, not {method}."


async def test_headers_of_a_request_cannot_choose_where_it_goes(store: Server) -> None:
    names = (
        "x-forwarded-host", "x-original-url", "x-rewrite-url", "x-upstream-url", "x-base-url", "x-tokengate-upstream",
        "openai-base-url",
    )  # fmt: skip
    evil = dict.fromkeys(names, "http://127.0.0.1:9/v1")
    async with scene(store.url) as at:
        answer = await at.http.post(CHAT, content=chat(), headers=evil | {"host": "127.0.0.1:9"})
        await at.gate.idle()
        assert answer.status_code == 200
        assert at.provider.received == 1
        assert at.provider.headers()["host"] == at.provider.url.removeprefix("http://")


# --- what is logged ---

LINE_BREAKS = "a\nb\r\nc\u2028d\u0085e\x1b[2Jf\x00g"


async def test_nothing_that_a_client_chooses_breaks_a_line_of_the_log(
    store: Server, caplog: pytest.LogCaptureFixture
) -> None:
    forged = '"}\n{"event":"request","session_id":"forged"}'
    async with scene(store.url) as at:
        for model in (LINE_BREAKS, forged, "x" * 257, MODEL + "\u200b"):
            assert (await at.ask(model=model)).status_code == 400
        await at.http.post("/v1/%0a%7B%22event%22%3A1%7D%0d" + "x" * 5000, content=chat())
        await at.http.post(CHAT, content=saying(b'"Max_Tokens\\n":1,"N":1'))
        await at.http.post(f"{CHAT}?session_id=%0a{{}}", content=chat())
        await at.ask(simulate="other_model:gpt-4o\\n")
        with caplog.at_level(logging.WARNING):
            await raw(at.gate.url, b"GET / HTTP/1.1\r\nx: \n{}\r\n\r\n")
        lines = await at.gate.log()
    # The gate's test harness reads them with `splitlines`, so that any line break would have failed there.
    assert len(lines) == 8
    for line in lines:
        text = json.dumps(line, ensure_ascii=False)
        assert text.isprintable() or line["endpoint"].startswith("/v1/")
        assert len(text) < 2000
        assert line["session_id"] in (None, "default")


async def test_a_budget_named_by_an_agent_is_not_one(store: Server, redis_cli: "redis.Redis") -> None:
    """An agent may ask how it stands, and cannot change it."""
    redis_cli.hset(key("default"), "budget", "0.000001")
    async with scene(store.url) as at:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            refused = await at.http.request(method, "/tokengate/budget", json={"budget": 1000})
            assert refused.status_code == 405
        for path in (
            "/api/dashboard/session/default/reset",
            "/api/dashboard/sessions",
            "/dashboard",
            "/admin",
            "/metrics/",
        ):
            assert (await at.http.post(path)).status_code in (404, 405)
        assert (await at.ask(max_tokens=10)).status_code == 429
        await at.gate.idle()
        assert at.provider.requests == []
    assert fields(redis_cli)["budget"] == "0.000001"

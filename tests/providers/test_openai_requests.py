"""What a request asks for is read as the provider reads it, and what is sent on is what was priced."""

from typing import Any

import orjson
import pytest

from tests.providers.openai_calls import HELLO, chat, completion, count, dumps, embedding
from tokengate.bodies import MODEL_CHARS_MAX
from tokengate.providers import MalformedRequest, Route, Router, UnpricedFeature
from tokengate.providers.openai import ROUTES, dialect
from tokengate.providers.openai.fields import ANSWERS_MAX, OUTPUT_TOKENS_MAX
from tokengate.providers.openai.requests import PROMPTS_MAX, ChatCompletions

# --- routes ---


@pytest.mark.parametrize(
    ("method", "path", "name", "metered"),
    [
        ("POST", "/v1/chat/completions", "chat_completions", True),
        ("POST", "/v1/completions", "completions", True),
        ("POST", "/v1/embeddings", "embeddings", True),
        ("GET", "/v1/models", "models", False),
        ("GET", "/v1/models/gpt-4o", "models", False),
        ("GET", "/v1/models/ft:gpt-4o:org::id", "models", False),
    ],
)
def test_the_endpoints_and_which_of_them_cost_money(method: str, path: str, name: str, metered: bool) -> None:
    route = Router(ROUTES).match(method, path)
    assert isinstance(route, Route)
    assert (route.name, route.endpoint is not None, route.dialect) == (name, metered, dialect)
    assert route.endpoint is None or route.endpoint.name == name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/telepathy"),
        ("DELETE", "/v1/models/x"),
        ("POST", "/v1/chat/completions/"),
    ],
)
def test_what_is_not_listed_has_no_route(method: str, path: str) -> None:
    assert Router(ROUTES).match(method, path) is None


# --- members that decide the price ---


@pytest.mark.parametrize("value", [-1, 0, 1.0, 16.5, "16", True, False, [], {}, 2**31, 2**63, 2**64, 1e300, -(2**63)])
@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens"])
def test_a_cap_that_is_no_whole_number_from_1_is_refused(member: str, value: object) -> None:
    for parse in (chat, completion):
        with pytest.raises(MalformedRequest) as error:
            parse(**{member: value})
        assert error.value.param == member


@pytest.mark.parametrize("text", ["NaN", "1e400", "-Infinity", "0x10", "1_000", "+5", "1.0", "1e2", "9" * 30])
def test_a_cap_in_an_odd_notation_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        ChatCompletions().parse(f'{{"model":"m","messages":[{{"role":"user"}}],"max_tokens":{text}}}'.encode())


@pytest.mark.parametrize(
    ("members", "asked"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 1}, 1),
        ({"max_completion_tokens": OUTPUT_TOKENS_MAX}, OUTPUT_TOKENS_MAX),
        ({"max_completion_tokens": 1, "max_tokens": 3000}, 3000),
        ({"max_completion_tokens": 3000, "max_tokens": 1}, 3000),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
    ],
)
def test_the_larger_of_two_caps_is_held_for(members: dict[str, Any], asked: int | None) -> None:
    assert chat(**members).call.output_tokens_asked == asked


def test_completions_do_not_obey_the_cap_of_chats_so_it_counts_as_none() -> None:
    assert completion(max_completion_tokens=1).call.output_tokens_asked is None
    assert completion(max_completion_tokens=9, max_tokens=5).call.output_tokens_asked == 5


@pytest.mark.parametrize(
    ("members", "answers"),
    [({}, 1), ({"n": None}, 1), ({"n": 8}, 8), ({"n": 2, "best_of": 5}, 5), ({"best_of": ANSWERS_MAX}, ANSWERS_MAX)],
)
def test_every_answer_that_is_generated_counts(members: dict[str, Any], answers: int) -> None:
    assert chat(**members).call.answers == answers
    assert completion(**members).call.answers == answers
    assert completion(**members, prompt=["a", "b", "c"]).call.answers == 3 * answers
    assert completion(**members, prompt=[[1, 2], [3]]).call.answers == 2 * answers
    assert completion(**members, prompt=[1, 2, 3]).call.answers == answers
    assert completion(**members, prompt=None).call.answers == answers


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "2", ANSWERS_MAX + 1, [1]])
@pytest.mark.parametrize("member", ["n", "best_of"])
def test_a_number_of_answers_that_is_none_is_refused(member: str, value: object) -> None:
    with pytest.raises(MalformedRequest, match=member):
        chat(**{member: value})


@pytest.mark.parametrize(
    "model", [None, "", 4, ["gpt-4o"], "x" * (MODEL_CHARS_MAX + 1), "gpt\n4", "a\x00b", "\u202egpt"]
)
def test_a_model_must_be_a_short_printable_name(model: object) -> None:
    for parse in (chat, completion, embedding):
        with pytest.raises(MalformedRequest, match="model must be a string"):
            parse(model=model)


@pytest.mark.parametrize(("value", "stream"), [(None, False), (False, False), (True, True)])
def test_stream_is_a_flag(value: object, stream: bool) -> None:
    assert chat(stream=value).call.stream is stream


@pytest.mark.parametrize("value", [1, "true", 0, [], {}])
def test_a_stream_flag_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(MalformedRequest, match="stream"):
        chat(stream=value)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [(None, ""), ("auto", ""), ("default", ""), ("flex", "flex"), ("priority", "priority"), ("fast", "priority")],
)
def test_the_service_tier_is_passed_to_pricing(tier: str | None, expected: str) -> None:
    assert chat(service_tier=tier).call.service_tier == expected


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": {"role": "user"}}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [*HELLO, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"stream": True, "stream_options": True}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "include_usage"),
        ({"tools": {}}, "tools"),
        ({"functions": "f"}, "functions"),
        ({"modalities": "audio"}, "modalities"),
        ({"service_tier": 1}, "service_tier"),
        ({"Max_Tokens": 5}, "Max_Tokens"),
        ({"MODELS": ["gpt-5"]}, "MODELS"),
    ],
)
def test_a_malformed_chat_is_refused_with_the_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(MalformedRequest) as error:
        chat(**members)
    assert error.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}, {}]}, "tools[1].type"),
        ({"tools": ["f"]}, "tools[0].type"),
        ({"modalities": ["text", "video"]}, "modalities"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"models": ["gpt-5", "gpt-4o"]}, "models"),
        ({"search_parameters": {"mode": "on"}}, "search_parameters"),
        ({"enable_search": True}, "enable_search"),
        ({"data_sources": [{"type": "azure_search"}]}, "data_sources"),
        ({"extra_body": {"max_tokens": 9}}, "extra_body"),
        ({"model": "gpt-5-search-api"}, "model"),
        ({"model": "o3-deep-research"}, "model"),
        (
            {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"image": "aGk="}]}]}, "messages[0].content[0].type"),
    ],
)
def test_what_could_cost_money_without_a_price_is_refused_with_the_place(members: dict[str, Any], param: str) -> None:
    with pytest.raises(UnpricedFeature) as error:
        chat(**members)
    assert error.value.param == param


def test_members_that_are_not_known_pass() -> None:
    members = {"chat_template_kwargs": {"x": 1}, "plugins": [], "enable_search": False, "models": None, "my-own": "x"}
    body = dumps({"model": "m", "messages": HELLO} | members)
    assert ChatCompletions().parse(body).body(None) == body


def test_web_searches_are_fees() -> None:
    assert chat().call.fees == ()
    assert chat(web_search_options={}).call.fees == (("web_search", 1),)
    assert chat(model="gpt-4o-mini-search-preview-2025-03-11").call.fees == (("web_search", 1),)


def test_audio_output_is_named() -> None:
    assert chat(modalities=["text", "audio"], audio={"voice": "ash", "format": "wav"}).call.output_audio
    assert not chat(modalities=["text"]).call.output_audio


def test_a_prediction_may_be_billed_beyond_the_cap() -> None:
    prediction = {"type": "content", "content": "x" * 1000}
    request = chat(prediction=prediction, max_completion_tokens=100)
    assert request.call.output_tokens_asked == 100
    assert request.call.output_tokens_beside >= 1000
    sent = orjson.loads(request.body(1500))
    assert sent["max_completion_tokens"] + 1000 <= 1500
    assert orjson.loads(chat(prediction=prediction).body(10))["max_completion_tokens"] == 1


# --- inputs of completions and embeddings ---

BAD_INPUTS = [
    [],
    "",
    5,
    {},
    [""],
    [[]],
    ["a", 1],
    [1, "a"],
    [[1], []],
    [[1], "a"],
    [[1.5]],
    [1.5],
    [True],
    [None],
    [[[1]]],
]


@pytest.mark.parametrize("value", [value for value in BAD_INPUTS if value not in ("", [""])])
def test_an_input_of_another_shape_is_refused(value: object) -> None:
    for parse, member in ((completion, "prompt"), (embedding, "input")):
        with pytest.raises(MalformedRequest, match=member):
            parse(**{member: value})


def test_inputs_are_bounded_in_number_and_token_ids_are_not() -> None:
    assert embedding(input=["a"] * PROMPTS_MAX).call.answers == 1
    with pytest.raises(MalformedRequest, match="at most"):
        embedding(input=["a"] * (PROMPTS_MAX + 1))
    assert embedding(input=list(range(1, 8000))).count_input(count) >= 7999
    with pytest.raises(MalformedRequest, match="input"):
        embedding(input=None)


def test_embeddings_generate_nothing_and_are_sent_as_they_came() -> None:
    request = embedding(encoding_format="base64")
    assert not request.call.produces_output
    assert request.body(5) == dumps({"model": "text-embedding-3-small", "input": "hello", "encoding_format": "base64"})


@pytest.mark.parametrize("value", ["hello world", ["hello", "world"], [15339, 2375], [[15339], [2375]]])
def test_inputs_are_counted_exactly(value: object) -> None:
    assert 2 <= completion(prompt=value).count_input(count) <= 6
    assert 2 <= embedding(input=value).count_input(count) <= 6


# --- what is sent on ---


def test_a_request_that_needs_no_change_is_sent_byte_for_byte() -> None:
    body = b' { "messages":[{"content":"h\\u00e9llo\\/","role":"user"}],\n"temperature":0.70,"model":"gpt-4o" } \n'
    assert ChatCompletions().parse(body).body(None) == body


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, {"max_completion_tokens": 50}),
        ({"max_tokens": None}, {"max_completion_tokens": 50, "max_tokens": None}),
        ({"max_completion_tokens": None}, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 4000}, {"max_completion_tokens": 50}),
        ({"max_completion_tokens": 20}, {"max_completion_tokens": 20}),
        # OpenAI refuses a chat with both: the one that is there is lowered.
        ({"max_tokens": 4000}, {"max_tokens": 50}),
        ({"max_tokens": 20}, {"max_tokens": 20}),
        ({"max_tokens": 4000, "max_completion_tokens": 20}, {"max_tokens": 50, "max_completion_tokens": 20}),
        ({"max_tokens": 4000, "max_completion_tokens": 3000}, {"max_tokens": 50, "max_completion_tokens": 50}),
    ],
)
def test_an_output_cap_bounds_every_cap_of_a_chat(members: dict[str, Any], expected: dict[str, Any]) -> None:
    sent = orjson.loads(chat(**members).body(50))
    assert sent == {"model": "gpt-4o-mini", "messages": HELLO} | expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, {"max_tokens": 50}),
        ({"max_tokens": 4000}, {"max_tokens": 50}),
        ({"max_completion_tokens": 20}, {"max_completion_tokens": 20, "max_tokens": 50}),
    ],
)
def test_an_output_cap_bounds_a_completion(members: dict[str, Any], expected: dict[str, Any]) -> None:
    sent = orjson.loads(completion(**members).body(50))
    assert sent == {"model": "gpt-3.5-turbo-instruct", "prompt": "hello"} | expected


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        (
            {"stream_options": {"include_usage": None, "include_obfuscation": False}},
            {"include_usage": True, "include_obfuscation": False},
        ),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}),
    ],
)
def test_a_stream_is_made_to_report_its_usage(members: dict[str, Any], options: dict[str, Any]) -> None:
    for request in (chat(stream=True, **members), completion(stream=True, **members)):
        assert orjson.loads(request.body(None))["stream_options"] == options


def test_only_what_must_change_changes_in_a_stream() -> None:
    body = b'{"model": "gpt-4o",  "messages": [{"role": "user", "content": "h\\u00e9"}], "stream": true}'
    sent = ChatCompletions().parse(body).body(80)
    assert sent == body[:-1] + b',"max_completion_tokens":80,"stream_options":{"include_usage":true}}'


def test_a_request_that_is_not_streamed_is_not_made_to_report() -> None:
    assert "stream_options" not in orjson.loads(chat().body(5))
    assert b"stream_options" not in chat(stream=False).body(None)

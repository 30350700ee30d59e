"""What a request can cost is never underestimated, and what is sent on is what was priced."""

import contextlib
import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.providers import MalformedRequest, Route, Router, UnpricedFeature
from tokengate.providers.openai import ROUTES, dialect
from tokengate.providers.openai.fields import ANSWERS_MAX, MODEL_CHARS_MAX, OUTPUT_TOKENS_MAX
from tokengate.providers.openai.requests import PROMPTS_MAX, ChatCompletions, Completions, Embeddings, OpenAIRequest
from tokengate.tokens import count_text, load_encoding

O200K = load_encoding("o200k_base")
HELLO = [{"role": "user", "content": "hello"}]
KOREAN = "테스트 "


def count(text: str) -> int:
    return count_text(O200K, text)


def dumps(document: dict[str, Any]) -> bytes:
    """As the official Python SDK writes a body."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def chat(**members: Any) -> OpenAIRequest:
    return ChatCompletions().parse(dumps({"model": "gpt-4o-mini", "messages": HELLO} | members))


def completion(**members: Any) -> OpenAIRequest:
    return Completions().parse(dumps({"model": "gpt-3.5-turbo-instruct", "prompt": "hello"} | members))


def embedding(**members: Any) -> OpenAIRequest:
    return Embeddings().parse(dumps({"model": "text-embedding-3-small", "input": "hello"} | members))


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
        ("POST", "/v1/responses"),
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
    assert (request.call.output_tokens_asked or 0) >= 1100
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


# --- bounds on input ---

TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "你好，世界",
            "👩‍👩‍👧 emoji 🎉",
            "def f(x):\n\treturn x['a']\\n",
            "aGVsbG8gd29ybGQ=" * 4,
            "\u0000\u001f\x7f",
            KOREAN * 9,
        ]
    ),
    st.text('{}[]",:\\/ \n\t<>&', max_size=60),
)
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer"]), "enum": st.lists(TEXTS | st.integers(), max_size=5)}
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("object"), "properties": st.dictionaries(TEXTS, inner, max_size=3)}
    ),
    max_leaves=4,
)
TOOLS = st.fixed_dictionaries(
    {
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXTS, "description": TEXTS, "parameters": SCHEMAS}),
    }
)
CALLS = st.fixed_dictionaries(
    {
        "id": st.just("call_1"),
        "type": st.just("function"),
        "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS}),
    }
)
MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "developer", "assistant"]), "content": TEXTS},
        optional={"name": TEXTS},
    ),
    st.fixed_dictionaries(
        {
            "role": st.just("user"),
            "content": st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS) | TEXTS, max_size=3),
        }
    ),
    st.fixed_dictionaries(
        {"role": st.just("assistant"), "content": st.none(), "tool_calls": st.lists(CALLS, max_size=3)},
        optional={"refusal": TEXTS},
    ),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": st.just("call_1"), "content": TEXTS}),
)
CHATS = st.fixed_dictionaries(
    {"model": st.just("gpt-4o"), "messages": st.lists(MESSAGES, min_size=1, max_size=4)},
    optional={
        "tools": st.lists(TOOLS, max_size=3),
        "response_format": SCHEMAS,
        "unknown": SCHEMAS,
        "tool_choice": st.just("auto"),
    },
)


@given(CHATS, st.booleans(), st.sampled_from([None, 2]))
def test_the_bound_in_bytes_is_never_below_the_exact_count(
    document: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    separators = (",", ":") if indent is None else None
    body = json.dumps(document, ensure_ascii=ascii_only, indent=indent, separators=separators).encode(
        "utf-8", "replace"
    )
    request = ChatCompletions().parse(body)
    unclamped = request._media_tokens + request._count(request._document, count)
    assert unclamped <= request.call.input_tokens_max
    assert request.count_input(count) == unclamped


@pytest.mark.parametrize("member", ["unknown", "tool_choice", "response_format", "prediction"])
def test_a_structure_is_bounded_in_every_notation_in_which_it_may_be_shown(member: str) -> None:
    document = {"model": "m", "messages": HELLO, member: [1, "é"] * 500}
    request = ChatCompletions().parse(dumps(document))
    assert request._count(request._document, count) <= request.call.input_tokens_max
    prompt = Completions().parse(dumps({"model": "m", "prompt": "hello", member: [1, "é"] * 500}))
    assert prompt._count(prompt._document, count) <= prompt.call.input_tokens_max


def texts_of(value: Any) -> int:
    """The tokens of every text in a structure, on its own: less than any provider could bill."""
    if isinstance(value, str):
        return count(value)
    if isinstance(value, dict):
        return sum(texts_of(item) for item in value.values())
    return sum(texts_of(item) for item in value) if isinstance(value, list) else 0


@given(CHATS)
def test_no_text_of_a_chat_is_left_uncounted(document: dict[str, Any]) -> None:
    shown = [message.get("content") for message in document["messages"]]
    assert chat(**document).count_input(count) >= texts_of(shown)


@given(TEXTS | st.lists(TEXTS.filter(bool), min_size=1, max_size=4), st.booleans())
def test_the_bound_of_prompts_and_inputs_is_never_below_the_exact_count(value: object, ascii_only: bool) -> None:
    for endpoint, member in ((Completions(), "prompt"), (Embeddings(), "input")):
        body = json.dumps({"model": "m", member: value, "suffix": "x"}, ensure_ascii=ascii_only).encode(
            "utf-8", "replace"
        )
        request = endpoint.parse(body)
        assert request._count(request._document, count) <= request.call.input_tokens_max


def test_the_published_example_is_counted_with_its_framing() -> None:
    # The OpenAI cookbook, "How to count tokens with tiktoken", section 6: 124 tokens by gpt-4o and gpt-4o-mini.
    messages = [
        (
            "system",
            "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
        ),
        ("system", "New synergies will help drive top-line growth."),
        ("system", "Things working well together will increase revenue."),
        (
            "system",
            "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage.",
        ),
        ("system", "Let's talk later when we're less busy about how to do better."),
        ("user", "This late pivot means we don't have time to boil the ocean for the client deliverable."),
    ]
    names = [None, "example_user", "example_assistant", "example_user", "example_assistant", None]
    listed = [
        {"role": role, "content": content} | ({"name": name} if name else {})
        for (role, content), name in zip(messages, names, strict=True)
    ]
    assert 124 <= chat(messages=listed).count_input(count) <= 124 + 2 * len(messages)


def test_tools_schemas_and_replayed_calls_are_input() -> None:
    plain = chat().call.input_tokens_max
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 200_000, "parameters": {}}}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "y" * 5000}}]}
    for members in (
        {"tools": [tool]},
        {"functions": [tool["function"]]},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"description": "x" * 200_000}}}},
        {"messages": [*HELLO, called]},
    ):
        assert chat(**members).call.input_tokens_max > plain + 5000
        assert chat(**members).count_input(count) > chat().count_input(count) + 600


def test_replayed_results_of_tools_are_bounded_as_the_escapes_that_the_model_is_shown() -> None:
    # Measured at the provider (https://community.openai.com/t/1375117): 1,000 of this word in the result of one call were
    # billed 1,121 tokens, 3 x 1,000 in the results of three parallel calls 39,235.
    def replay(content: str) -> OpenAIRequest:
        calls = [{"id": str(i), "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in range(3)]
        results = [{"role": "tool", "tool_call_id": str(i), "content": content} for i in range(3)]
        return chat(messages=[*HELLO, {"role": "assistant", "tool_calls": calls}, *results])

    text = replay(KOREAN * 1000).count_input(count) - chat().count_input(count)
    assert 39_235 - (1_121 - count(KOREAN * 1000)) <= text
    assert text <= replay(KOREAN * 1000).call.input_tokens_max
    assert chat(messages=[{"role": "user", "content": KOREAN * 3000}]).count_input(count) < 4_000


def test_text_that_is_many_tokens_a_character_is_bounded_by_its_bytes() -> None:
    text = "ﷺ" * 1000
    assert len(O200K.encode_ordinary(text)) <= chat(messages=[{"role": "user", "content": text}]).call.input_tokens_max


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


@given(CHATS, st.integers(1, 10_000), st.booleans())
def test_what_is_sent_is_what_was_asked_but_for_cap_and_usage(document: dict[str, Any], cap: int, stream: bool) -> None:
    sent = orjson.loads(chat(**document, stream=stream).body(cap))
    assert sent.pop("max_completion_tokens") == cap
    assert sent.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    assert sent == {**document, "stream": stream}


@given(st.binary(max_size=80) | st.text('{}[]":,0123456789.eE+-truefalsn ', max_size=80).map(str.encode))
def test_no_bytes_make_parsing_fail_in_another_way(body: bytes) -> None:
    for endpoint in (ChatCompletions(), Completions(), Embeddings()):
        with contextlib.suppress(MalformedRequest, UnpricedFeature):
            assert endpoint.parse(body).call.model


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "image_url", "url", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
PRICED = [
    "messages",
    "tools",
    "functions",
    "prompt",
    "input",
    "n",
    "max_tokens",
    "stream",
    "stream_options",
    "modalities",
]
OTHERS = [
    "prediction",
    "service_tier",
    "response_format",
    "web_search_options",
    "reasoning_effort",
    "plugins",
    "whatever",
]
MEMBERS = st.sampled_from([*PRICED, *OTHERS])


@given(st.dictionaries(MEMBERS, JSON_VALUES, max_size=6))
def test_no_value_of_any_member_makes_parsing_fail_in_another_way(members: dict[str, Any]) -> None:
    for parse in (chat, completion, embedding):
        with contextlib.suppress(MalformedRequest, UnpricedFeature):
            request = parse(**members)
            assert 0 < request.count_input(count) <= request.call.input_tokens_max
            assert orjson.loads(request.body(7))

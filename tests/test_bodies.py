"""Bodies are read as the provider reads them and changed only where they must be."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.bodies import DEPTH_MAX, read_object, rewrite
from tokengate.providers import MalformedRequest

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
OBJECTS = st.dictionaries(st.text() | st.sampled_from(["max_tokens", "stream_options", "model"]), VALUES, min_size=1)


def nested(depth: int, inner: str = "1") -> bytes:
    return (b'{"a":' + b"[" * (depth - 1) + inner.encode() + b"]" * (depth - 1) + b"}") if depth > 1 else b'{"a":1}'


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a":1} {"b":2}', "not valid JSON"),
        (b'{"a":1}]', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b'{"a":-Infinity}', "not valid JSON"),
        (b'{"a":1e400}', "not valid JSON"),
        (b'{"a":01}', "not valid JSON"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid JSON"),
        (b'{"a":"\xed\xa0\x80"}', "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        (b"\x1f\x8b\x08\x00", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (nested(DEPTH_MAX + 1), f"deeper than {DEPTH_MAX}"),
        (nested(2000), "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "deeper than"),
    ],
)
def test_a_body_that_is_not_one_json_object_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(MalformedRequest, match=words):
        read_object(body)


@pytest.mark.parametrize("depth", [1, 2, DEPTH_MAX])
def test_a_deep_body_within_the_bound_is_read(depth: int) -> None:
    spaced = nested(depth).replace(b":", b" : ")
    assert read_object(nested(depth)) == read_object(spaced) == json.loads(spaced)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"max_tokens":1,"max_tokens":3000}', "max_tokens"),
        (b'{"max_tokens":1,"max\\u005ftokens":3000}', "max_tokens"),
        (b'{"a":1, "b":2, "a":1}', "a"),
        (b'{"messages":[{"role":"user"},{"content":"x","content":"y"}]}', "messages[1].content"),
        (b'{"stream_options":{"include_usage":true,"include_usage":false}}', "stream_options.include_usage"),
        (b'{"a":[[{"b":{"c":0,"c":0}}]]}', "a[0][0].b.c"),
        (b'{"":1,"":2}', ""),
        (b'{"a":1%s,"a":2}' % (b"0" * 30), "a"),
    ],
)
def test_a_key_that_comes_twice_is_refused_with_its_path(body: bytes, path: str) -> None:
    with pytest.raises(MalformedRequest, match="twice") as error:
        read_object(body)
    assert error.value.param == path


def test_a_number_with_more_digits_than_python_converts_is_no_crash() -> None:
    assert read_object(b'{"a" : 0.%s1}' % (b"0" * 5000)) == {"a": 0.0}
    with pytest.raises(MalformedRequest):
        read_object(b'{"a" : 1%s}' % (b"0" * 5000))


@given(OBJECTS, st.sampled_from([None, 1]), st.booleans())
def test_every_way_of_writing_a_body_is_read(document: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    assert read_object(json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()) == document


@given(OBJECTS, st.text(), SCALARS)
def test_a_duplicate_at_the_top_is_always_found(document: dict[str, Any], key: str, value: Any) -> None:
    body = json.dumps({**document, key: value}).encode()
    twice = body[:-1] + b", " + json.dumps({key: value}).encode()[1:]
    with pytest.raises(MalformedRequest, match="twice"):
        read_object(twice)


@pytest.mark.parametrize(
    ("body", "changes", "expected"),
    [
        (b'{"model":"m"}', {"max_tokens": 5}, b'{"model":"m","max_tokens":5}'),
        (b'{ "model" : "m" }\r\n', {"max_tokens": 5}, b'{ "model" : "m" ,"max_tokens":5}\r\n'),
        (b'{"max_tokens":null,"model":"m"}', {"max_tokens": 5}, b'{"max_tokens":5,"model":"m"}'),
        (b'{"max_tokens" :\n 4000 , "model":"m"}', {"max_tokens": 5}, b'{"max_tokens" :\n 5 , "model":"m"}'),
        (
            b'{"stream_options":{ },"a":0.10}',
            {"stream_options": {"x": True}},
            b'{"stream_options":{"x":true},"a":0.10}',
        ),
        (b'{"a":0.10,"b":null}', {"b": 1, "c": 2}, b'{"a":0.10,"b":1,"c":2}'),
        # The name comes again, in a text or as a deeper key: serialised anew.
        (b'{"n":null, "stop":"n"}', {"n": 2}, b'{"n":2,"stop":"n"}'),
        (b'{"user":{"n":1}, "n":null}', {"n": 2}, b'{"user":{"n":1},"n":2}'),
        # The only occurrence is not the member, which is written with an escape.
        (b'{"\\u006e":null, "user":{"n":1}}', {"n": 2}, b'{"n":2,"user":{"n":1}}'),
        (b'{"n":[1, 2]}', {"n": 2}, b'{"n":2}'),
    ],
)
def test_a_change_leaves_every_other_byte_where_that_is_safe(
    body: bytes, changes: dict[str, Any], expected: bytes
) -> None:
    assert rewrite(body, read_object(body), changes) == expected


@given(
    OBJECTS,
    st.dictionaries(
        st.sampled_from(["max_tokens", "stream_options"]), st.integers(1, 9) | st.just({"a": True}), min_size=1
    ),
)
def test_a_change_changes_what_it_says_and_nothing_else(document: dict[str, Any], changes: dict[str, Any]) -> None:
    for body in (orjson.dumps(document), json.dumps(document, indent=1).encode()):
        assert orjson.loads(rewrite(body, read_object(body), changes)) == {**document, **changes}

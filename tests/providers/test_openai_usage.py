"""The quick reading of a whole answer's usage is the thorough one's, and whatever it cannot read is left to that."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.providers.openai.usage import read_usage, read_usage_of

counts = st.one_of(st.integers(-2, 5), st.integers(0, 2**33), st.none(), st.booleans(), st.just("7"), st.just(1.0))
details = st.one_of(
    st.none(),
    st.just([]),
    st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens"]), counts),
    st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens", "rejected_prediction_tokens"]), counts),
)
usages = st.one_of(
    st.none(),
    st.just("many"),
    st.fixed_dictionaries(
        {"prompt_tokens": counts, "completion_tokens": counts},
        optional={"prompt_tokens_details": details, "completion_tokens_details": details, "total_tokens": counts},
    ),
)
answers = st.fixed_dictionaries(
    {"usage": usages},
    optional={
        "model": st.one_of(st.text(max_size=5), st.none(), st.integers()),
        "service_tier": st.one_of(st.sampled_from(["default", "flex"]), st.none(), st.integers()),
        "choices": st.lists(st.fixed_dictionaries({"usage": usages, "text": st.text(max_size=5)}), max_size=2),
    },
)


@given(answers)
def test_quick_and_thorough_agree(answer: dict[str, Any]) -> None:
    quick = read_usage_of(json.dumps(answer).encode(), ())
    if quick is not None:
        assert quick == read_usage(answer, ())


believed = st.integers(0, 2**31 - 1)


@given(
    st.integers(1, 2**31 - 1),
    believed,
    st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "image_tokens"]), st.none() | believed),
    st.dictionaries(st.sampled_from(["reasoning_tokens", "audio_tokens"]), st.none() | believed),
    st.sampled_from(["default", "priority", None]),
)
def test_whatever_can_be_believed_is_read_quickly(
    prompt: int, completion: int, read: dict[str, Any], generated: dict[str, Any], tier: str | None
) -> None:
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": 0}
    usage |= {"prompt_tokens_details": read, "completion_tokens_details": generated}
    answer = {"model": "m", "choices": [{"text": "é"}], "service_tier": tier, "usage": usage}
    fees = (("web_search", 1),)
    quick = read_usage_of(json.dumps(answer, ensure_ascii=False).encode(), fees)
    assert quick is not None
    assert quick == read_usage(answer, fees)


@pytest.mark.parametrize(
    "content",
    [
        b'{"usage":{"prompt_tokens":1,"completion_tokens":2},"usage":{"prompt_tokens":3,"completion_tokens":4}}',
        b'{"usage":{"prompt_tokens":1,"prompt_tokens":3,"completion_tokens":4}}',
        b'{"model":"a","model":"b","usage":{"prompt_tokens":1,"completion_tokens":2}}',
    ],
)
def test_what_is_said_twice_counts_as_the_last(content: bytes) -> None:
    quick = read_usage_of(content, ())
    assert quick is not None
    assert quick == read_usage(orjson.loads(content), ())


def test_the_usual_answer_is_read_quickly() -> None:
    content = b'{"id":"x","choices":[{"text":"\\u00e9"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}'
    quick = read_usage_of(content, ())
    assert quick is not None
    assert (quick.input_tokens, quick.output_tokens) == (9, 2)


USAGE = b'"usage":{"prompt_tokens":9,"completion_tokens":2}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{%b} x" % USAGE,
        b'{"choices":[nul],%b}' % USAGE,
        b'{"choices":[{"text":"\xff\\q"}],%b}' % USAGE,
        b'{"model":"\xff",%b}' % USAGE,
        b'{"model":"\\ud800",%b}' % USAGE,
        b'{"choices":%b%b,%b}' % (b"[" * 100_000, b"]" * 100_000, USAGE),
    ],
)
def test_what_is_no_answer_is_left_to_the_thorough_reading(content: bytes) -> None:
    assert read_usage_of(content, ()) is None

"""Words on the wire: exact both ways, and nothing that cannot be."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.control import words
from tokengate.control.encoding import convert, decode, encode, schemas
from tokengate.control.words import (
    EventQuery,
    ModelSpend,
    Nano,
    Query,
    SpendQuery,
    Stats,
)


@given(st.integers(min_value=-(10**20), max_value=10**20))
def test_an_amount_is_usd_on_the_wire_and_exact_both_ways(nano: int) -> None:
    word = ModelSpend(model="gpt-4o", spent_nano=Nano(nano))
    sent = encode(word)
    assert decode(sent, ModelSpend) == word
    assert isinstance(decode(sent, ModelSpend).spent_nano, Nano)
    assert "e" not in json.loads(sent)["spent_usd"].lower()


def test_an_amount_reads_as_people_write_it() -> None:
    assert encode(ModelSpend(model="m", spent_nano=Nano(7_500_000_000))) == b'{"model":"m","spent_usd":"7.50"}'


@pytest.mark.parametrize("amount", [7.5, "7,5", "1e3", "NaN", "", None, "0.0000000001", "$5", "１"])
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(json.dumps({"model": "m", "spent_usd": amount}), ModelSpend)


@pytest.mark.parametrize(
    "parameters",
    [
        {"limit": "501"},
        {"limit": "0"},
        {"offset": "-1"},
        {"sort": "luck"},
        {"frozen": "perhaps"},
        {"over_percent": "1001"},
        {"text": "a" * 129},
        {"kind": "key"},
    ],
)
def test_a_query_out_of_bounds_is_refused_where_it_is_wrong(parameters: dict[str, str]) -> None:
    (name,) = parameters
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{name}"):
        convert(parameters, Query)


def test_a_query_is_read_from_texts() -> None:
    query = convert({"frozen": "true", "over_percent": "80", "descending": "0", "limit": "10"}, Query)
    assert query == Query(frozen=True, over_percent=80, descending=False, limit=10)
    assert convert({"after": "1-0"}, EventQuery).after == "1-0"
    with pytest.raises(msgspec.ValidationError):
        convert({"after": "1-0 COUNT 5"}, EventQuery)
    with pytest.raises(msgspec.ValidationError, match="to_ms"):
        convert({"from_ms": "1"}, SpendQuery)


def test_every_word_has_a_schema() -> None:
    kinds = [each for each in vars(words).values() if isinstance(each, type) and issubclass(each, words.Word)]
    made, components = schemas(kinds)
    assert len(made) == len(kinds) > 15
    assert components["Account"]["properties"]["spent_usd"]["type"] == "string"
    assert {"Stats", "Page", "Detail"} <= components.keys()


def test_an_amount_of_another_type_is_not_sent_by_mistake() -> None:
    """A plain integer where an amount belongs would be a number of nano-dollars on the wire."""
    fields = msgspec.structs.fields(Stats)
    assert all(Nano in getattr(each.type, "__args__", (each.type,)) for each in fields if each.name.endswith("_nano"))

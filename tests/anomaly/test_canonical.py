"""What is the same call, and what is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.anomaly.talk import chat, mark, system, used, user
from tokengate.anomaly import canonical, packed
from tokengate.anomaly.canonical import By, Digests, digest
from tokengate.anomaly.marks import Marker

UUIDS = ("550e8400-e29b-41d4-a716-446655440000", "6BA7B810-9DAD-11D1-80B4-00C04FD430C8")

SAME_BY_PROGRAMS = [
    pytest.param("2026-03-02T09:00:00Z up", "2026-03-02T23:59:59.123+02:00 up", id="ISO 8601"),
    pytest.param("[2026-03-02 09:00:00,123] up", "[2027-12-31 10:11:12,999] up", id="a log's timestamp"),
    pytest.param("Now 2026-03-02 09:00", "Now 2026-03-02 10:30", id="a date with hours and minutes"),
    pytest.param("at 9:00:01", "at 23:15:59.5", id="a time of day"),
    pytest.param("It is 9:05 AM.", "It is 11:30 pm.", id="a time of day as Americans write it"),
    pytest.param("03/02/2026 09:00:00", "12/31/2026 23:00:00", id="a date as Americans write it"),
    pytest.param("at 1772442000", "at 1790000123", id="seconds since the epoch"),
    pytest.param("at 1772442000.123", "at 1790000123.9", id="seconds since the epoch, with decimals"),
    pytest.param("at 1772442000123", "at 1790000123999", id="milliseconds since the epoch"),
    pytest.param(f"job {UUIDS[0]}", f"job {UUIDS[1]}", id="a UUID"),
    pytest.param("<Page at 0x7f3a2b4c5d60>", "<Page at 0x7f0000000010>", id="an address in memory"),
    pytest.param("1 failed in 0.12s", "1 failed in 13.07s", id="how long tests took"),
    pytest.param("refused (id=9f2ca0cc5a7e)", "refused (id=0031bbd2aa41)", id="an id in a text"),
    pytest.param("requestId: rq-00912345 failed", "requestId: rq-77123450 failed", id="a request's id in a text"),
    pytest.param('{"e": 1, "id": "res_0fa31b22c9"}', '{"e": 1, "id": "res_77a31b22c1"}', id="a random id by name"),
    pytest.param("Attempt 3 of 9: deadlock", "Attempt 4 of 9: deadlock", id="the number of an attempt"),
    pytest.param("gave up (retry #3)", "gave up (retry #12)", id="the number of a retry"),
    pytest.param('{"e": 1, "attempt": 3}', '{"e": 1, "attempt": 4}', id="an attempt by name"),
    pytest.param("a  b\n\nc", "a b c ", id="whitespace"),
    pytest.param('{"a": 1, "b": [2]}', '{ "b": [2],\n "a": 1 }', id="JSON in another order"),
    pytest.param('{"ok": false, "request_id": "r1"}', '{"ok": false, "request_id": "r2"}', id="a request id"),
    pytest.param('{"e": 1, "elapsed_ms": 12}', '{"e": 1, "elapsed_ms": 1.5e3}', id="how long it took"),
    pytest.param('{"e": 1, "traceId": "x"}', '{"e": 1, "traceId": "y"}', id="a trace id"),
    pytest.param('{"e": 1, "timestamp": 17}', '{"e": 1, "timestamp": 18}', id="a timestamp by name"),
]
DIFFERENT = [
    pytest.param("10 percent", "20 percent", id="numbers"),
    pytest.param("version 1.2.3", "version 1.2.4", id="versions"),
    pytest.param("price 101.25", "price 101.75", id="decimals"),
    pytest.param("2026-03-02", "2026-03-03", id="a date alone"),
    pytest.param("room 10:30", "room 10:45", id="hours and minutes alone"),
    pytest.param(
        "sha 9fceb02d0ae598e95dc970b74767f19372d61af8", "sha 1fceb02d0ae598e95dc970b74767f19372d61af8", id="hash"
    ),
    pytest.param("order 1234567890123", "order 1234567890124", id="a long number that is no time"),
    pytest.param('{"a": [1, 2]}', '{"a": [2, 1]}', id="the order of a list"),
    pytest.param('{"order_id": "1"}', '{"order_id": "2"}', id="an id of a thing"),
    pytest.param("paid: 10000001 EUR", "paid: 10000002 EUR", id="a word that ends like id"),
    pytest.param('{"id": "north"}', '{"id": "south"}', id="an id that is a name"),
    pytest.param("id: 7, open", "id: 8, open", id="a short id"),
    pytest.param("Attempts: try 3 eggs", "Attempts: try 4 eggs", id="what is tried"),
    pytest.param("Ready in 20s", "Ready in 10s", id="a time to wait"),
    pytest.param("a", "A", id="letter case"),
]


def same(one: str, other: str, by: By) -> bool:
    return Digests().text(one, by) == Digests().text(other, by)


@pytest.mark.parametrize(("one", "other"), SAME_BY_PROGRAMS)
def test_what_changes_by_itself_in_what_programs_write_does_not_matter(one: str, other: str) -> None:
    assert same(one, other, By.PROGRAM)
    padding = "The tool has found the following, which is all that there is. " * 4
    assert same(padding + one, padding + other, By.PROGRAM) or one.startswith("{")


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
@pytest.mark.parametrize("by", By)
def test_what_is_said_matters(one: str, other: str, by: By) -> None:
    assert not same(one, other, by)


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (f"Order {UUIDS[0]} is late.", f"Order {UUIDS[1]} is late.", False),
        ("2026-03-02T09:00:00Z", "2026-03-03T09:00:00Z", False),
        ("Was 2026-03-02T09:00:00Z in office hours?", "Was 2026-03-03T09:00:00Z in office hours?", False),
        ("Current time: 2026-03-02T09:00:00Z\nGo on.", "Current time: 2026-03-03T10:00:00Z\nGo on.", True),
        ("It is now 09:00:00. What next?", "It is now 10:30:00. What next?", True),
        ("[2026-03-02T09:00:00Z] What next?", "[2026-03-03T10:00:00Z] What next?", True),
        ("2026-03-02 09:00:00 disk full on n1", "2026-03-03 10:00:00 disk full on n1", True),
        ("09:00:00 or", "10:00:00 or", False),
        (f"{UUIDS[0]}: what next?", f"{UUIDS[1]}: what next?", False),
        (f"(request {UUIDS[0]}) What next?", f"(request {UUIDS[1]}) What next?", True),
        (f"[trace_id={UUIDS[0]}] What next?", f"[trace_id={UUIDS[1]}] What next?", True),
    ],
)
def test_a_person_means_an_id_or_a_time_unless_a_word_before_it_says_otherwise(
    one: str, other: str, alike: bool
) -> None:
    assert same(one, other, By.PERSON) is alike


def test_a_model_has_chosen_what_it_calls_for() -> None:
    assert not same(json.dumps({"id": UUIDS[0]}), json.dumps({"id": UUIDS[1]}), By.MODEL)
    assert not same("2026-03-02T09:00:00Z", "2026-03-02T10:00:00Z", By.MODEL)
    assert same('{"a": 1, "b": 2}', '{"b":2,"a":1}', By.MODEL)


def test_a_long_text_counts_to_its_last_byte() -> None:
    text = "x" * canonical.EXACT_BYTES_MAX * 2
    middle = f"{text[:-20_000]}y{text[-19_999:]}"
    assert len(middle) == len(text)
    assert not same(text, middle, By.PROGRAM)
    assert same("at 09:00:00" + text, "at 10:00:00" + text, By.PROGRAM)


def test_a_log_without_end_is_not_looked_at_without_end() -> None:
    stamps = canonical.REPLACED_MAX
    head = "2026-03-02T09:00:00Z x\n" * stamps
    assert same(head + "2026-03-02T09:00:00Z", head.replace("09", "10") + "2026-03-02T09:00:00Z", By.PROGRAM)
    assert not same(head + "2026-03-02T09:00:00Z", head + "2026-03-02T10:00:00Z", By.PROGRAM)


def test_what_is_remembered_has_a_bound_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "CACHE_BYTES_MAX", 3700)
    digests = Digests()
    texts = [f"{number} " + "word " * 50 for number in range(50)]
    for text in [*texts, *texts]:
        digests.begin()
        assert digests.text(text, By.PERSON) == digest(text.encode(), False, By.PERSON)
        assert sum(len(known) for known in digests._known) <= 4
    assert digests.text(texts[-1], By.PERSON) == Digests().text(texts[-1], By.PROGRAM)


def test_what_a_request_has_long_had_is_not_looked_at_closely_if_it_is_very_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(canonical, "LOOKED_AT_BYTES_MAX", 4000)
    padding = "The tool has found the following, which is all that there is. " * 20

    def talk(deep: str, late: str, clock: str = "09:00:00") -> dict[str, Any]:
        results = [f"at {deep} {padding}", *(f"{padding}{number}" for number in range(8)), f"as of {late} {padding}"]
        exchanges = [message for number, text in enumerate(results) for message in used("f", {"n": number}, text)]
        return chat(system(f"It is {clock}."), user("q"), *exchanges)

    first, later = mark(talk("09:00:00", "09:00:00")), mark(talk("09:00:00", "10:00:00", "11:00:00"))
    assert first.call == later.call
    assert mark(talk("10:00:00", "09:00:00")).call != first.call
    # A gate that has seen the rest looks at what is new, wherever it stands.
    marker = Marker()
    calls = [marker.mark(talk(deep, "09:00:00"), "messages", 1).call for deep in ("09:00:00", "10:00:00", "11:00:00")]
    assert calls[1] == calls[2]


# --- calls ---

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}]
REORDERED = [{"function": {"parameters": {"b": 2, "a": 1}, "name": "f"}, "type": "function"}]

SAME_CALLS = [
    pytest.param(chat(user("a"), user="u1", metadata={"x": 1}), chat(user("a")), id="who asks"),
    pytest.param(chat(user("a"), stream=True, service_tier="flex"), chat(user("a")), id="how it is delivered"),
    pytest.param(chat(user("a"), tools=TOOLS), chat(user("a"), tools=REORDERED), id="the order of keys"),
    pytest.param(
        chat(user("a"), *used("f", {"x": 1}, "r", call_id="call_1")),
        chat(user("a"), *used("f", '{ "x" : 1 }', "r", call_id="call_2")),
        id="the ids of calls of tools",
    ),
    pytest.param(
        chat(system("It is 2026-03-02T09:00:00Z."), user("a")),
        chat(system("It is 2026-03-02T09:00:07Z."), user("a")),
        id="a clock in the system prompt",
    ),
    pytest.param(
        {"model": "m", "system": "Now: 2026-03-02T09:00:00Z", "messages": [user("a")]},
        {"model": "m", "system": "Now: 2026-03-02T09:00:09Z", "messages": [user("a")]},
        id="a clock in a system prompt beside the messages",
    ),
    pytest.param(
        chat(user([{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}])),
        chat(user([{"type": "text", "text": "a "}])),
        id="a mark for the cache",
    ),
]
DIFFERENT_CALLS = [
    pytest.param(chat(user("a")), chat(user("b")), id="what is asked"),
    pytest.param(chat(user("a")), chat(system("a")), id="who says it"),
    pytest.param(chat(user("a")), chat(user("a")) | {"model": "gpt-4.1"}, id="the model"),
    pytest.param(chat(user("a"), seed=1), chat(user("a"), seed=2), id="the seed"),
    pytest.param(chat(user("a"), temperature=0), chat(user("a"), temperature=1), id="the temperature"),
    pytest.param(chat(user("a"), n=1), chat(user("a"), n=5), id="how many answers"),
    pytest.param(chat(user("a"), tools=TOOLS), chat(user("a")), id="the tools"),
    pytest.param(chat(user("a"), user("b")), chat(user("b"), user("a")), id="the order of messages"),
    pytest.param(chat(user("a"), *used("f", {}, "r")), chat(user("a"), *used("g", {}, "r")), id="the tool"),
    pytest.param(
        chat(user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}])),
        chat(user([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AB=="}}])),
        id="a picture",
    ),
    pytest.param({"model": "m", "input": ["a"]}, {"model": "m", "input": ["b"]}, id="what is embedded"),
    pytest.param({"model": "m", "prompt": "a"}, {"model": "m", "prompt": "b"}, id="a prompt"),
]


@pytest.mark.parametrize(("one", "other"), SAME_CALLS)
def test_the_same_call(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert mark(one).call == mark(other).call


@pytest.mark.parametrize(("one", "other"), DIFFERENT_CALLS)
def test_another_call(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert mark(one).call != mark(other).call


def test_a_mark_is_one_short_line_that_says_nothing() -> None:
    made = mark(chat(system("A secret."), user("What is it?"), *used("f", {"x": 1}, "r")))
    assert packed(made) == f"{made.call}{made.root}".encode() + made.bytes.to_bytes(4, "little")
    assert len(packed(made)) == 16
    repeated = mark(chat(user("What is it?"), *used("f", {"x": 1}, "r") * 4))
    assert packed(repeated)[16:].decode() == f"{repeated.tail} 4 {repeated.what}"
    assert "secret" not in f"{made} {repeated}"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
names = st.sampled_from(
    ["role", "content", "tool_calls", "function", "function_call", "name", "arguments", "type", "parts", "text", "id",
     "functionCall", "functionResponse", "input", "output"]
)  # fmt: skip
kinds = st.sampled_from(["assistant", "user", "tool", "tool_use", "tool_result", "function_call", "text", "x" * 40])
messages = st.recursive(
    kinds | json_values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5),
    max_leaves=30,
)


@given(said=st.lists(messages, max_size=6) | messages, beside=st.dictionaries(st.text(), json_values, max_size=3))
def test_no_body_is_too_strange(said: Any, beside: dict[str, Any]) -> None:
    made = Marker().mark(beside | {"messages": said}, "messages", 1)
    assert len(made.call) == 8
    assert made.what.isprintable()


def test_a_body_that_is_nested_deeper_than_it_could_be_written_again() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    assert len(Marker().mark({"messages": [user(deep)], "tools": deep}, "messages", 1).call) == 8

"""What a conversation repeats, in every provider's notation, and in which words that is said."""

import re
from typing import Any

import pytest

from tests.anomaly.talk import answer, chat, mark, system, used, user
from tokengate.anomaly import Mark
from tokengate.anomaly.conversation import cycle

SEARCH = used("search", {"query": "x"}, "nothing")
OPEN = used("open", {"name": "b"}, "no such file")
READ = used("read", {"path": "a.md", "line": 7}, "text")


def tail(*messages: dict[str, Any], member: str = "messages") -> tuple[str, int, str]:
    made = mark({"model": "m", member: list(messages)})
    return made.tail[:1], made.repeats, made.what


def times(count: int, *parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for _ in range(count) for part in parts for message in part]


# --- exchanges with tools ---


def test_the_same_tool_with_the_same_arguments_and_the_same_result() -> None:
    assert tail(user("q"), *times(5, SEARCH)) == ("t", 5, "called the tool search('x')")


def test_twice_is_nothing_yet() -> None:
    assert tail(user("q"), *times(2, SEARCH)) == ("", 0, "")


def test_another_result_is_another_exchange() -> None:
    changed = [used("search", {"query": "x"}, f"{number} found") for number in range(5)]
    assert tail(user("q"), *times(1, *changed))[1] == 0
    assert tail(user("q"), *times(4, SEARCH), *used("search", {"query": "x"}, "one found"))[1] == 0


def test_other_arguments_are_another_exchange() -> None:
    pages = [used("list", {"page": number}, "no more") for number in range(8)]
    assert tail(user("q"), *times(1, *pages))[1] == 0


def test_what_the_model_says_beside_it_does_not_matter() -> None:
    sorry = [used("search", {"query": "x"}, "nothing", said=f"Attempt {number}.") for number in range(4)]
    assert tail(user("q"), *times(1, *sorry)) == ("t", 4, "called the tool search('x')")
    between = [message for part in sorry for message in [*part, answer("Let me look again.")]][:-1]
    assert tail(user("q"), *between)[1] == 4


def test_a_few_exchanges_in_no_order() -> None:
    rounds = [order for _ in range(5) for order in ([SEARCH, READ, OPEN], [READ, OPEN, SEARCH], [READ, SEARCH, OPEN])]
    flailing = [exchange for order in rounds for exchange in order]
    kind, repeats, what = tail(user("q"), *times(1, *flailing[:24]))
    assert (kind, repeats) == ("T", 8)
    assert what.startswith("called the tools ")
    assert {"search('x')", "read(path='a.md', line=7)", "open('b')"} == set(re.findall(r"\w+\([^)]*\)", what))
    # One that is new is something learnt.
    assert tail(user("q"), *times(1, *flailing), *used("search", {"query": "y"}, "something"))[1] == 0
    # The mark is that of the set: it stays the same while the order changes.
    marks = {mark({"model": "m", "messages": [user("q"), *times(1, *flailing[:n])]}).tail for n in range(20, 40)}
    assert len(marks) == 1


def test_five_exchanges_in_no_order_are_work() -> None:
    kinds = [used("read", {"path": f"{n}.md"}, "text") for n in range(5)]
    order = [0, 1, 2, 3, 4, 1, 0, 2, 4, 3, 2, 0, 1, 3, 4, 0, 2, 1, 4, 3, 1, 2, 0, 4, 3]
    assert tail(user("q"), *times(1, *[kinds[n] for n in order]))[1] == 0


def test_the_same_sentence_after_each_result_changes_nothing() -> None:
    nudged = [
        [*used("search", {"query": "x"}, "nothing", said=f"Thought {n}."), user("What is next?")] for n in range(6)
    ]
    assert tail(user("q"), *times(1, *nudged)) == ("m", 6, "repeated the last 3 messages")


def test_what_a_user_says_begins_anew() -> None:
    asked = times(4, [user("And now?")], SEARCH)
    assert tail(*times(1, [user("Now?")], SEARCH), *[user(f"{asked}"), *SEARCH])[1] == 0
    assert tail(user("q"), *times(9, SEARCH), user("Stop it."), *times(3, SEARCH))[1] == 3


def test_exchanges_in_turn() -> None:
    kind, repeats, what = tail(user("q"), *times(4, SEARCH, READ))
    assert (kind, repeats) == ("T", 4)
    assert what == "called the tools search('x'), read(path='a.md', line=7)"


def test_a_cycle_has_one_mark_wherever_in_it_one_stands() -> None:
    whole = mark(chat(user("q"), *times(4, SEARCH, READ)))
    begun = mark(chat(user("q"), *times(4, SEARCH, READ), *SEARCH))
    assert whole.tail == begun.tail
    assert mark(chat(user("q"), *times(4, SEARCH))).tail != whole.tail


def test_calls_at_once_in_whatever_order() -> None:
    def at_once(*names: str) -> list[dict[str, Any]]:
        calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in names]
        results = [{"role": "tool", "tool_call_id": name, "content": f"{name} failed"} for name in names]
        return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]

    kind, repeats, what = tail(user("q"), *at_once("a", "b"), *at_once("b", "a"), *at_once("a", "b"))
    assert (kind, repeats, what) == ("t", 3, "called the tools a(), b()")


def test_many_calls_are_counted_and_not_all_told() -> None:
    round_ = [used(f"tool_{number}", {"path": "src/" + "x" * 60}, "ok") for number in range(6)]
    _, _, what = tail(user("q"), *times(3, *round_))
    assert what.endswith(" and 4 more")
    assert len(what) < 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"query": "x"}, "f('x')"),
        ({}, "f()"),
        ("", "f()"),
        ("not json", "f('not json')"),
        ({"n": 5}, "f(5)"),
        ({"a": "x", "n": 5}, "f(a='x', n=5)"),
        ({"q": "x" * 90}, f"f('{'x' * 37}...')"),
        ({"q": "line\nbreak\x00\x1b[31m"}, "f('line break  [31m')"),
    ],
)
def test_a_call_is_told_as_a_programmer_writes_it(arguments: Any, words: str) -> None:
    _, _, what = tail(user("q"), *times(3, used("f", arguments, "r")))
    assert what == f"called the tool {words}"


def anthropic(name: str, given: Any, result: Any) -> list[dict[str, Any]]:
    use = {"type": "tool_use", "id": "toolu_1", "name": name, "input": given}
    gave = {"type": "tool_result", "tool_use_id": "toolu_1", "content": result}
    return [
        {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, use]},
        {"role": "user", "content": [gave]},
    ]


def gemini(name: str, given: Any, result: Any) -> list[dict[str, Any]]:
    return [
        {"role": "model", "parts": [{"functionCall": {"name": name, "args": given}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {"result": result}}}]},
    ]


def responses(name: str, given: Any, result: Any) -> list[dict[str, Any]]:
    return [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "id": "fc_1", "call_id": "c_1", "name": name, "arguments": f'{{"query": "{given}"}}'},
        {"type": "function_call_output", "call_id": "c_1", "output": result},
    ]


def old_functions(name: str, given: Any, result: Any) -> list[dict[str, Any]]:
    called = {"name": name, "arguments": f'{{"query": "{given}"}}'}
    return [
        {"role": "assistant", "content": None, "function_call": called},
        {"role": "function", "name": name, "content": result},
    ]


@pytest.mark.parametrize(
    ("member", "exchange"),
    [
        ("messages", anthropic("search", {"query": "x"}, "nothing")),
        ("messages", anthropic("search", {"query": "x"}, [{"type": "text", "text": "nothing"}])),
        ("contents", gemini("search", {"query": "x"}, "nothing")),
        ("input", responses("search", "x", "nothing")),
        ("messages", old_functions("search", "x", "nothing")),
    ],
    ids=["Anthropic", "Anthropic, parts", "Gemini", "OpenAI responses", "OpenAI functions"],
)
def test_every_notation_of_tools(member: str, exchange: list[dict[str, Any]]) -> None:
    assert tail(user("q"), *times(4, exchange), member=member) == ("t", 4, "called the tool search('x')")
    other = [{**exchange[-1], "content": "else", "output": "else", "parts": [{"text": "else"}]}]
    assert tail(user("q"), *times(4, exchange), *exchange[:-1], *other, member=member)[1] == 0


# --- talk without tools ---


def test_two_that_talk_in_circles() -> None:
    circle = [answer("You are welcome!"), user("Thank you!")]
    assert tail(system("s"), user("Hi."), *times(4, circle)) == ("m", 4, "repeated the last 2 messages")


def test_one_message_again_and_again() -> None:
    assert tail(system("s"), *times(5, [user("Go on.")])) == ("m", 5, "repeated the last message")


def test_a_user_who_says_the_same_to_other_answers_repeats_nothing() -> None:
    story = [message for number in range(12) for message in (answer(f"Part {number}."), user("continue"))]
    assert tail(user("Write."), *story)[1] == 0


def test_steps_that_are_kept_in_one_text() -> None:
    step = "Thought: I look it up.\nAction: search[x]\nObservation: nothing\n"
    kind, repeats, what = tail(user("Question: who?\n" + step * 5))
    assert (kind, repeats, what) == ("x", 5, f"ended a prompt with the same {len(step)} characters")
    for count in (3, 4, 7, 8, 9, 1000):
        assert tail(user("Question: who?\n" + step * count))[:2] == ("x", count)
    assert mark({"model": "m", "prompt": "Question: who?\n" + step * 4}).repeats == 4
    claude = user([{"type": "text", "text": "Hm."}, {"type": "text", "text": "Question: who?\n" + step * 4}])
    assert tail(claude)[:2] == ("x", 4)
    gemini = {"role": "user", "parts": [{"text": "Question: who?\n" + step * 4}]}
    assert tail(gemini, member="contents")[:2] == ("x", 4)
    assert tail(user("Question: who?\n" + step * 2))[1] == 0


def test_a_few_characters_again_and_again_are_a_ruler_until_they_are_very_many() -> None:
    assert tail(user("A table\n" + "-" * 900))[1] == 0
    few, many = tail(user("Context: " + "data " * 1000)), tail(user("Context: " + "data " * 8000))
    assert (few[:2], many[:2]) == (("x", 5003 // 35), ("x", 40_003 // 35))


def test_a_large_message_again_and_again_whatever_is_answered() -> None:
    passages = user(f"Context: {' '.join(str(number) for number in range(400))}")
    talk = [message for number in range(4) for message in (passages, answer(f"More, please: {number}"))]
    kind, repeats, what = tail(user("q"), *talk, passages)
    assert (kind, repeats) == ("c", 5)
    assert what.startswith("sent the same 1")
    short = user("continue")
    talk = [message for number in range(4) for message in (short, answer(f"More, please: {number}"))]
    assert tail(user("q"), *talk, short)[1] == 0


@pytest.mark.parametrize(
    ("marks", "found"),
    [
        ("a", (0, 0)),
        ("aa", (0, 0)),
        ("aaa", (1, 3)),
        ("aaab", (1, 3)),
        ("baaa", (0, 0)),
        ("abab", (0, 0)),
        ("ababab", (2, 3)),
        ("abababa", (2, 3)),
        ("aabaabaab", (3, 3)),
        ("abcabcabd", (0, 0)),
        ("abcdefgh" * 3, (8, 3)),
        ("abcdefghi" * 3, (0, 0)),
    ],
)
def test_cycles(marks: str, found: tuple[int, int]) -> None:
    assert cycle([each.encode() for each in marks], 8) == found


# --- where a conversation begins ---


def test_a_conversation_is_known_by_how_it_begins() -> None:
    roots = [mark(chat(*said)).root for said in ([system("a"), user("b")], [system("a"), user("c")], [system("b")])]
    assert roots[0] == roots[1] != roots[2]
    parts = [mark(chat(user([{"type": "text", "text": text}]))).root for text in "ab"]
    contents = [mark({"contents": [{"parts": [{"text": text}]}]}).root for text in "ab"]
    assert parts == contents
    assert parts[0] != parts[1]
    made: Mark = mark({"model": "m", "messages": []})
    assert made.root == "-"

"""What is said in a request, turn by turn, in whichever provider's notation, and whether its end repeats itself.

Four notations are read: OpenAI's chat messages and response items, Anthropic's content blocks and Gemini's parts. What
is in none of them is somebody's text. Nothing here raises, whatever JSON it is given: a body that the gate let pass is
not to be refused because it looks strange.
"""

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import orjson
from msgspec import Struct

from tokengate.anomaly import PERIOD_MAX, TAIL_REPEATS_MIN
from tokengate.anomaly.canonical import DIGEST_BYTES, By, Digests, encoded, of_digests, total, without_ids

WORDS_CHARS_MAX: Final = 120
"""How much of what is repeated is told in words,"""

ARGUMENT_CHARS_MAX: Final = 40
"""and how much of one argument of a tool,"""

ARGUMENTS_CHARS_MAX: Final = 16 * 1024
"""if there are no more of them than this."""

_BY: Final = {"assistant": By.MODEL, "model": By.MODEL, "system": By.PROGRAM, "developer": By.PROGRAM}
_RESULT_ROLES: Final = ("tool", "function")
FLAILING_MAX: Final = 4
"""How many exchanges without an order are told from work."""

STEP_CHARS_MIN: Final = 32
"""The least that is a step of an agent that keeps its steps in one text."""

ENDING_CHARS_MAX: Final = 16 * 1024
"""How much of a text's end is looked at for it."""

COPY_CHARS_MIN: Final = 1024
"""The least that is a large message."""

# Tuples, not sets: what is looked for may be a list.
_TEXT_TYPES: Final = ("text", "input_text", "output_text")
_CALL_TYPES: Final = ("tool_use", "function_call", "custom_tool_call")
_RESULT_TYPES: Final = ("tool_result", "function_call_output", "custom_tool_call_output")


class Kind(IntEnum):
    """What a turn is."""

    SAID = 0
    """By a user, by the system: by anybody but the model."""
    ANSWER = 1
    """By the model: a text, or a thought."""
    CALL = 2
    """By the model: calls of tools."""
    RESULT = 3
    """What tools gave."""


class Turn(Struct, frozen=True, gc=False):
    """One message."""

    kind: Kind
    digest: bytes
    """Of all of it."""
    act: bytes
    """Of the calls, or of the result, alone: what the model says beside a call may change while it does not."""


_PERSON, _PROGRAM, _MODEL = By.PERSON, By.PROGRAM, By.MODEL
_SAID, _ANSWER, _CALL, _RESULT = Kind.SAID, Kind.ANSWER, Kind.CALL, Kind.RESULT
"""Looked up in their classes they would take a good part of the time."""


class Repeated(Struct, frozen=True, gc=False):
    """What the end of a conversation repeats; the fields are those of a `Mark`."""

    tail: str
    repeats: int
    what: str


def turn(message: Any, digests: Digests) -> Turn:  # noqa: ANN401 - whatever JSON holds
    """Read one message."""
    if type(message) is not dict:
        found = digests.value(message, _PERSON)
        return Turn(_SAID, found, found)
    role, content = message.get("role"), message.get("content")
    by = _BY.get(role, _PERSON) if type(role) is str else _PERSON
    if type(content) is str and len(message) == 2 and type(role) is str:
        # Programs write system prompts, with clocks in them, and they come first.
        found = digests.text(content, by, always=by is _PROGRAM) + role[:1].encode()
        return Turn(_ANSWER if by is _MODEL else _SAID, found, found)
    if role in _RESULT_ROLES:
        act = digests.value(content, _PROGRAM)
        return Turn(_RESULT, act, act)
    calls = [of_digests(_name(name), digests.value(given, _MODEL)) for name, given in _called(message)]
    if calls:
        act = total(calls)
        beside = _beside(message)
        return Turn(_CALL, act + digests.value(beside, _MODEL) if beside else act, act)
    results = [digests.value(result, _PROGRAM) for result in _results(message)]
    if results:
        act = total(results)
        return Turn(_RESULT, act, act)
    found = _whole(message, digests, by)
    return Turn(_ANSWER if by is _MODEL or message.get("type") == "reasoning" else _SAID, found, found)


def _name(name: object) -> bytes:
    return name.encode() if type(name) is str else b""


def _whole(message: dict[str, Any], digests: Digests, by: By) -> bytes:
    """The digest of a message that is neither a plain text nor about tools: a name beside it, parts, images."""
    content, other = message.get("content"), {k: v for k, v in without_ids(message).items() if k != "content"}
    if type(content) is str:
        return digests.text(content, by) + digests.value(other, _MODEL)
    if type(content) is not list:
        return digests.value(without_ids(message), by)
    parts = [part["text"] if _is_text(part) else without_ids(part) for part in content]
    return b"".join(digests.value(part, by) for part in (*parts, other))


def _is_text(part: Any) -> bool:  # noqa: ANN401 - whatever JSON holds
    return type(part) is dict and type(part.get("text")) is str and part.get("type") in _TEXT_TYPES


def repeated(messages: list[Any], turns: list[Turn]) -> Repeated | None:
    """What a conversation repeats, if it does so at least `TAIL_REPEATS_MIN` times.

    First exchanges at its end: a call of a tool, or several at once, with what they gave; what the model says beside it
    does not matter, and what a user says begins anew. Then whole messages at its end, the end of its last text, and a
    large message that is in it again and again.
    """
    if not turns:
        return None
    last = turns[-1]
    if last.kind is _RESULT and (found := _repeated_exchanges(messages, turns)):
        return found
    if len(turns) >= TAIL_REPEATS_MIN and (found := _repeated_messages(turns)):
        return found
    if last.kind is not _SAID:
        return None
    text = text_of(messages[-1], -1)
    if len(text) < STEP_CHARS_MIN * TAIL_REPEATS_MIN:
        return None
    return _repeated_text(text) or _repeated_copies(text, turns)


def cycle(marks: list[bytes], period_max: int) -> tuple[int, int]:
    """The period of the end of a list, and how often it stands there in a row; (0, 0) for less than three times.

    The list begins with its end.
    """
    last = marks[0]
    for period in range(1, min(period_max, len(marks) // TAIL_REPEATS_MIN) + 1):
        if marks[period] == last:
            same = 1
            while same + period < len(marks) and marks[same] == marks[same + period]:
                same += 1
            repeats = same // period + 1
            if repeats >= TAIL_REPEATS_MIN:
                return period, repeats
    return 0, 0


def _repeated_exchanges(messages: list[Any], turns: list[Turn]) -> Repeated | None:
    acts: list[bytes] = []
    begins: list[int] = []
    """Where the exchanges begin, the last one first."""
    for act, begin in _exchanges(turns):
        acts.append(act)
        begins.append(begin)
        if len(acts) == PERIOD_MAX + 1 and acts[0] not in acts[1:]:
            return None
    period, repeats = cycle(acts, PERIOD_MAX) if acts else (0, 0)
    if len(acts) > PERIOD_MAX and (flailing := _flailing(messages, acts, begins, repeats)):
        return flailing
    if not period:
        return None
    calls = [_words(name, given) for message in messages[begins[period - 1] :] for name, given in _called(message)]
    what = f"called the tool{'s' * (len(calls) > 1)} {_some(calls)}"
    return Repeated(f"{'t' if period == 1 else 'T'}{encoded(total(acts[:period]))}", repeats, what)


def _flailing(messages: list[Any], acts: list[bytes], begins: list[int], above: int) -> Repeated | None:
    """A few exchanges again and again, in whatever order, if each came more than `above` times in the mean."""
    different: dict[bytes, int] = {}
    best, among = max(above, TAIL_REPEATS_MIN - 1), 0
    for place, act in enumerate([*acts, b""]):
        if act not in different:
            if different and place // len(different) > best:
                best, among = place // len(different), len(different)
            if len(different) == FLAILING_MAX:
                break
            different[act] = place
    if not among:
        return None
    kinds = sorted(list(different.items())[:among])
    calls = [_words(*call) for _, place in kinds for call in _called(messages[begins[place]])]
    return Repeated(f"T{encoded(of_digests(*[act for act, _ in kinds]))}", best, f"called the tools {_some(calls)}")


def _exchanges(turns: list[Turn]) -> Iterator[tuple[bytes, int]]:
    """The exchanges since a user last said something, from the last one back: what each did, and where it begins."""
    calls: list[bytes] = []
    results: list[bytes] = []
    begin = len(turns)
    for index in range(len(turns) - 1, -1, -1):
        kind = turns[index].kind
        if kind is _SAID:
            break
        if kind is _RESULT:
            if calls:
                yield total(calls) + total(results), begin
                calls, results = [], []
            results.append(turns[index].act)
        elif kind is _CALL:
            calls.append(turns[index].act)
            begin = index
    if calls:
        yield total(calls) + total(results), begin


def _repeated_messages(turns: list[Turn]) -> Repeated | None:
    last = turns[-1].digest
    near = turns[-2 * PERIOD_MAX - 1 : -1]
    if last not in [each.digest for each in near]:
        return None
    # What the model says beside a call does not matter here either.
    digests = [each.act if each.kind is _CALL else each.digest for each in reversed(turns)]
    period, repeats = cycle(digests, 2 * PERIOD_MAX)
    if not period:
        return None
    what = "repeated the last message" if period == 1 else f"repeated the last {period} messages"
    return Repeated(f"m{encoded(total(digests[:period]))}", repeats, what)


def _repeated_text(text: str) -> Repeated | None:
    """The end of a text that is the same several times: agents that keep their steps in one prompt."""
    text = text.rstrip()
    ending = text[-ENDING_CHARS_MAX:]
    step = len(ending) - STEP_CHARS_MIN - ending.rfind(ending[-STEP_CHARS_MIN:], 0, -1)
    least = TAIL_REPEATS_MIN
    if step < STEP_CHARS_MIN:
        # A few characters again and again: a ruler, unless there are very many of them.
        step *= -(-STEP_CHARS_MIN // step)
        least = COPY_CHARS_MIN // step
    if step * least > len(text):
        return None
    block = text[-step:]
    repeats = _endings(text, block)
    if repeats < least:
        return None
    mark = of_digests(*sorted(line.strip().encode() for line in block.splitlines()))
    return Repeated(f"x{encoded(mark)}", repeats, f"ended a prompt with the same {step} characters")


def _endings(text: str, block: str) -> int:
    """How often a text ends with a block, in a row."""
    most = 1
    while text.endswith(block * (2 * most)):
        most *= 2
    step = most // 2
    while step:
        if text.endswith(block * (most + step)):
            most += step
        step //= 2
    return most


def _repeated_copies(text: str, turns: list[Turn]) -> Repeated | None:
    """A large message that is in a conversation again and again, whatever is answered."""
    if len(text) < COPY_CHARS_MIN:
        return None
    last = turns[-1].digest
    copies = sum(each.digest == last for each in turns)
    if copies < TAIL_REPEATS_MIN:
        return None
    return Repeated(f"c{encoded(last[:DIGEST_BYTES])}", copies, f"sent the same {len(text)} characters")


# --- notations ---


def text_of(message: Any, place: int) -> str:  # noqa: ANN401 - whatever JSON holds
    """The text of a message; where it consists of parts, of the one at a place (0: the first, -1: the last)."""
    content = message
    if type(message) is dict:
        content = message.get("content") or message.get("parts")
    if type(content) is list and content:
        part = content[place]
        content = part.get("text") if type(part) is dict else part
    return content if type(content) is str else ""


def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
    parts = message.get("content") or message.get("parts")
    return [part for part in parts if type(part) is dict] if type(parts) is list else []


def _called(message: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - whatever JSON holds
    """The tools that a message calls, by name, each with what it is given."""
    if type(message) is not dict:
        return
    calls = message.get("tool_calls")
    if type(calls) is list:
        for call in calls:
            if type(call) is dict:
                yield from _function(call.get("function") or call.get("custom"))
    if message.get("type") in _CALL_TYPES:
        yield from _function(message)
    yield from _function(message.get("function_call"))
    for part in _parts(message):
        if part.get("type") in _CALL_TYPES:
            yield from _function(part)
        yield from _function(part.get("functionCall"))


def _function(call: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - whatever JSON holds
    if type(call) is dict:
        given = call.get("arguments")
        if given is None:
            given = call.get("input")
        yield call.get("name"), call.get("args") if given is None else given


def _results(message: dict[str, Any]) -> Iterator[Any]:
    """What tools gave, if that is what a message holds."""
    if message.get("type") in _RESULT_TYPES:
        yield message.get("output")
    for part in _parts(message):
        if part.get("type") in _RESULT_TYPES:
            yield part.get("content")
        elif type(response := part.get("functionResponse")) is dict:
            yield [response.get("name"), response.get("response")]


def _beside(message: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What a message says beside its calls of tools."""
    content = message.get("content")
    if type(content) is not list:
        return content
    return [part.get("text") for part in content if type(part) is dict]


# --- words ---


def _words(name: object, given: object) -> str:
    """A call as a programmer would write it: `search('x', limit=5)`."""
    if type(given) is str:
        with contextlib.suppress(orjson.JSONDecodeError):
            given = orjson.loads(given[:ARGUMENTS_CHARS_MAX])
    if type(given) is not dict:
        return f"{_line(name)}({_short(given) if given not in (None, '') else ''})"
    if len(given) == 1:
        return f"{_line(name)}({_short(next(iter(given.values())))})"
    return f"{_line(name)}({', '.join(f'{_line(key)}={_short(value)}' for key, value in given.items())})"


def _some(calls: list[str]) -> str:
    """As many calls as fit, and how many more there are."""
    shown = 1
    while shown < len(calls) and sum(map(len, calls[: shown + 1])) <= WORDS_CHARS_MAX:
        shown += 1
    text = ", ".join(
        call if len(call) <= WORDS_CHARS_MAX else f"{call[: WORDS_CHARS_MAX - 3]}..." for call in calls[:shown]
    )
    return f"{text} and {len(calls) - shown} more" if shown < len(calls) else text


def _short(value: object) -> str:
    text = _line(value)
    text = text if len(text) <= ARGUMENT_CHARS_MAX else f"{text[: ARGUMENT_CHARS_MAX - 3]}..."
    return f"'{text}'" if type(value) is str else text


def _line(value: object) -> str:
    """A value in one line of what can be printed."""
    text = value if type(value) is str else str(value)
    text = text[: 4 * ARGUMENT_CHARS_MAX]
    return text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)

"""The mark of a call: by what it is told whether it is the same as another. Prompts go in, digests come out."""

from functools import lru_cache
from typing import Any, Final

from tokengate.anomaly import ROOT_LETTERS, Mark
from tokengate.anomaly.canonical import By, Digests, encoded, of_digests
from tokengate.anomaly.conversation import repeated, text_of, turn

ROOT_CHARS: Final = 256
"""How much of its first message tells one conversation from another."""

ROOTS_CACHED: Final = 1024
"""Conversations that begin with the same words have the same root; that of so many is remembered."""

NOT_ASKED: Final = frozenset(
    {
        "metadata",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
"""Members of a body that name, route or keep a call and do not change what is asked."""


INSTRUCTIONS: Final = frozenset({"system", "instructions", "systemInstruction", "system_instruction"})
"""Members that are a system prompt beside the conversation."""


_PROGRAM: Final = By.PROGRAM
_MODEL: Final = By.MODEL


class Marker:
    """Makes marks. One for each gate: it remembers the digests of what is said again and again."""

    def __init__(self) -> None:
        self._digests = Digests()

    def mark(self, document: dict[str, Any], conversation: str, size: int) -> Mark:
        """The mark of a call. Never raises.

        Args:
            document: the body, as parsed from JSON.
            conversation: the member that is the conversation: a list of messages, or a text.
            size: of the body, in bytes.
        """
        said = document.get(conversation)
        messages = said if type(said) is list else [said]
        digests = self._digests
        digests.begin()
        # From the end back: what has been added is what is looked at closely.
        turns = [turn(message, digests) for message in reversed(messages)]
        turns.reverse()
        beside = {name: value for name, value in document.items() if name not in NOT_ASKED and name != conversation}
        asked = [each.digest for each in turns]
        if not INSTRUCTIONS.isdisjoint(beside):
            asked.extend(
                digests.value(beside.pop(name), _PROGRAM, always=True) for name in sorted(INSTRUCTIONS & beside.keys())
            )
        call = encoded(of_digests(digests.value(beside, _MODEL), *asked))
        root = _root(_beginning(messages[0])) if messages else "-"
        found = repeated(messages, turns)
        if found is None:
            return Mark(call, root, size)
        return Mark(call, root, size, found.tail, found.repeats, found.what)


@lru_cache(maxsize=ROOTS_CACHED)
def _root(beginning: str) -> str:
    return encoded(of_digests(beginning.encode()))[:ROOT_LETTERS]


def _beginning(message: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return text_of(message, 0)[:ROOT_CHARS]

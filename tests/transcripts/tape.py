"""A tape on which a made-up agent's calls are written, with a clock of its own and random numbers that can be repeated.

The lines are those that `tokengate replay` reads. Usage is about what the provider would bill; an answer is written only
as far as the agent sends it back.
"""

import base64
import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
COMPLETIONS: Final = "/v1/completions"

START_MS: Final = 1_772_442_000_000
"""2026-03-02T09:00:00Z, a Monday."""

_BYTES_A_TOKEN: Final = 4
_TEXT: Final = """
account address answer archive balance batch before billing branch budget buffer build cache calendar change channel
charge check client cluster column comment commit config contract cost count country customer data date deadline
delivery deploy detail device discount document draft email engine entry error estimate event export failure feature
figure file filter final folder format forward gateway group header history image import index input invoice issue item
journal key label latency layout ledger letter limit list log machine market memory merge message meter method migration
model module month network node note notice number office order output owner package page panel parcel parser partner
password path payment period person plan policy price product profile project provider quarter query queue quote rate
reader reason record refund region release report request result return review revenue row rule sample schedule schema
screen search section sensor server service session setting shipment signal site source stage status step stock store
stream summary supplier support switch system table target task team ticket timeline token trace transfer trend update
upload user value vendor version visit volume warehouse week window worker
"""
_WORDS: Final = _TEXT.split()


@dataclass(slots=True)
class Line:
    """One call."""

    at_ms: int
    content: dict[str, Any]
    repetition: int
    """Which repetition of a loop it begins, from 1; 0: none."""


@dataclass(slots=True)
class Tape:
    """The calls of one transcript. `now_ms` moves with every call and every wait."""

    name: str
    seed: int
    now_ms: int = START_MS
    lines: list[Line] = field(default_factory=list)
    repetition: int = 0
    _pending: int = 0
    random: Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = Random(f"{self.name} {self.seed}")

    # --- calls ---

    def repeat(self) -> None:
        """The next call begins another repetition of what makes this a runaway."""
        self.repetition += 1
        self._pending = self.repetition

    def send(
        self,
        body: dict[str, Any],
        *,
        output_tokens: int = 0,
        took_s: float | None = None,
        status: int = 200,
        retry: int | None = None,
        session: str | None = None,
        url: str = CHAT,
    ) -> None:
        """Write one call, and let it take its time."""
        took_ms = round(1000 * (self.random.uniform(0.6, 3.5) if took_s is None else took_s))
        content: dict[str, Any] = {"timestamp": stamp(self.now_ms), "session_id": session or self.name}
        if url != CHAT:
            content["url"] = url
        if retry is not None:
            content["headers"] = {"x-stainless-retry-count": str(retry)}
        # What was sent, not what the agent's list of messages has become since.
        content["body"] = json.loads(json.dumps(body))
        content["duration_ms"] = took_ms
        if status == 200:
            shown = body.get("messages") or body.get("input") or body.get("prompt")
            tokens = len(json.dumps([shown, body.get("tools")], ensure_ascii=False)) // _BYTES_A_TOKEN
            content["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens + output_tokens}
            if url != EMBEDDINGS:
                content["usage"]["completion_tokens"] = output_tokens
        else:
            content["status"] = status
        self.lines.append(Line(self.now_ms, content, self._pending))
        self._pending = 0
        self.now_ms += took_ms

    def wait(self, least_s: float, most_s: float | None = None) -> None:
        """Let time pass: exactly `least_s`, or at random up to `most_s`."""
        seconds = least_s if most_s is None else self.random.uniform(least_s, most_s)
        self.now_ms += round(1000 * seconds)

    def together(self, jobs: Sequence[Callable[[], None]], width: int) -> None:
        """Do jobs at the same time, at most `width` of them; time goes on when the last has ended."""
        free = [(self.now_ms + self.random.randrange(40), place) for place in range(width)]
        heapq.heapify(free)
        latest = self.now_ms
        for job in jobs:
            self.now_ms, place = heapq.heappop(free)
            job()
            latest = max(latest, self.now_ms)
            heapq.heappush(free, (self.now_ms + self.random.randrange(1, 15), place))
        self.now_ms = latest

    def ordered(self) -> list[Line]:
        """The calls as they came, those of parallel jobs among each other."""
        return sorted(self.lines, key=lambda line: line.at_ms)

    def text(self) -> str:
        """The transcript's file."""
        return "".join(json.dumps(line.content, ensure_ascii=False) + "\n" for line in self.ordered())

    def call_of_repetition(self, number: int) -> int | None:
        """Which call, from 1, begins a repetition; None if there are fewer."""
        found = [place for place, line in enumerate(self.ordered(), 1) if line.repetition == number]
        return found[0] if found else None

    # --- what is said in them ---

    def words(self, count: int) -> str:
        return " ".join(self.random.choices(_WORDS, k=count))

    def sentence(self, least: int = 6, most: int = 14) -> str:
        return self.words(self.random.randint(least, most)).capitalize() + "."

    def prose(self, sentences: int) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def call_id(self) -> str:
        return "call_" + "".join(self.random.choices("ABCDEFGHIJKLMNabcdefghijklmn0123456789", k=24))

    def uuid(self) -> str:
        digits = f"{self.random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"

    def hex(self, digits: int) -> str:
        return f"{self.random.getrandbits(4 * digits):0{digits}x}"

    def image(self) -> str:
        """A tiny picture that no other one equals."""
        return "data:image/png;base64," + base64.b64encode(self.random.randbytes(90)).decode()


def stamp(ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tool(name: str, **parameters: str) -> dict[str, Any]:
    """The definition of a function that takes strings."""
    properties = {each: {"type": "string", "description": about} for each, about in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


Use = tuple[str, Any, Any]
"""The use of a tool: its name, the arguments and the result, each a text or a value that is shown as JSON."""


class Chat:
    """A conversation that an agent keeps."""

    def __init__(
        self, tape: Tape, *, model: str = "gpt-4o-mini", system: str = "", tools: Sequence[Any] = (), **members: Any
    ) -> None:
        self.tape = tape
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
        self.body: dict[str, Any] = {"model": model, "messages": self.messages}
        if tools:
            self.body["tools"] = list(tools)
        self.body |= members

    def user(self, content: Any) -> "Chat":
        self.messages.append({"role": "user", "content": content})
        return self

    def ask(self, answer: str, **how: Any) -> None:
        """Call the model, which says `answer`."""
        how.setdefault("output_tokens", max(1, len(answer) // _BYTES_A_TOKEN))
        self.tape.send(self.body, **how)
        self.messages.append({"role": "assistant", "content": answer})

    def use(self, *uses: Use, said: str | None = None, took_s: tuple[float, float] = (0.05, 1.5), **how: Any) -> None:
        """Call the model, which calls tools (all at once), and let them answer."""
        calls, results = [], []
        for name, arguments, result in uses:
            call_id = self.tape.call_id()
            written, shown = (each if isinstance(each, str) else json.dumps(each) for each in (arguments, result))
            calls.append({"id": call_id, "type": "function", "function": {"name": name, "arguments": written}})
            results.append({"role": "tool", "tool_call_id": call_id, "content": shown})
        tokens = len(json.dumps(calls)) // _BYTES_A_TOKEN
        self.tape.send(self.body, output_tokens=tokens, **how)
        self.messages.append({"role": "assistant", "content": said, "tool_calls": calls})
        self.messages.extend(results)
        self.tape.wait(*took_s)


def once(tape: Tape, system: str, user: Any, answer: str, *, model: str = "gpt-4o-mini", **how: Any) -> None:
    """A call without a conversation around it. Members of the body go into `how["members"]`."""
    members = how.pop("members", {})
    Chat(tape, model=model, system=system, **members).user(user).ask(answer, **how)

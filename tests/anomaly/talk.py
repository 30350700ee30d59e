"""Bodies of requests, as short as the tests that need them."""

import json
from typing import Any

from tokengate.anomaly import Mark
from tokengate.anomaly.marks import Marker

_MEMBERS = ("messages", "input", "prompt", "contents")


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": list(messages), **more}


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def used(
    name: str, arguments: Any, result: Any, said: str | None = None, call_id: str = "call_1"
) -> list[dict[str, Any]]:
    """A call of a tool and what it gave."""
    written, shown = (each if isinstance(each, str) else json.dumps(each) for each in (arguments, result))
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": written}}
    return [
        {"role": "assistant", "content": said, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call_id, "content": shown},
    ]


def mark(body: dict[str, Any]) -> Mark:
    """The mark that a fresh gate makes of a body."""
    member = next(name for name in _MEMBERS if name in body)
    return Marker().mark(body, member, len(json.dumps(body)))

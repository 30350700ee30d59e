"""Answers in the shapes that OpenAI's API and servers like it send; the words and figures in them are made up.

Where a shape is from:
- CHAT, CHAT_TOOLS: the API reference, "Create chat completion", default and functions examples
  (https://developers.openai.com/api/reference/resources/chat/subresources/completions/methods/create), pretty-printed as
  the API sends it.
- STREAM: a stream with `include_usage` as recorded in envoyproxy/ai-gateway, `CassetteChatStreamingDetailedUsage`
  (tests/extproc/vcr): members in this order, `usage` null but in the last chunk, `obfuscation` behind it.
- STREAM_TOOLS: `tests/lib/chat/test_completions_streaming.py` of openai/openai-python, parallel tool calls.
- COMPLETION_STREAM: the API reference, "Create completion", streaming example.
- EMBEDDINGS: the API reference, "Create embeddings"; vectors in base64, as the SDKs ask for them.
"""

import base64
from typing import Final

import orjson

USAGE: Final = {
    "prompt_tokens": 82,
    "completion_tokens": 17,
    "total_tokens": 99,
    "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}

CHAT: Final = orjson.dumps(
    {
        "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
        "object": "chat.completion",
        "created": 1741569952,
        "model": "gpt-4.1-2025-04-14",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Good morning! What may I do for you?",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_b8a1f7c4d2",
    },
    option=orjson.OPT_INDENT_2,
)

CHAT_TOOLS: Final = orjson.dumps(
    {
        "id": "chatcmpl-abc123",
        "object": "chat.completion",
        "created": 1699896916,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_abc123",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                        }
                    ],
                },
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }
)

_CHUNK: Final = (
    '{"id":"chatcmpl-C4","object":"chat.completion.chunk","created":1755137921,"model":"gpt-4o-mini-2024-07-18",'
    '"service_tier":"default","system_fingerprint":null,"choices":[%s]%s,"obfuscation":"t9Xq"}'
)
_USAGE_TEXT: Final = ',"usage":' + orjson.dumps(USAGE).decode()


def event(data: str | bytes) -> bytes:
    return b"data: " + (data.encode() if isinstance(data, str) else data) + b"\n\n"


def chunk(delta: str, finish: str = "null", usage: str = "") -> bytes:
    """A chunk with one choice; `usage` is the text of that member with the comma before it."""
    return event(_CHUNK % (f'{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}', usage))


DONE: Final = event("[DONE]")
USAGE_CHUNK: Final = event(_CHUNK % ("", _USAGE_TEXT))
_TEXT_DELTAS: Final = (
    '{"role":"assistant","content":"","refusal":null}',
    '{"content":"Good "}',
    '{"content":"morning"}',
)
_FIRST_TOOL_DELTA: Final = (
    '{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function",'
    '"function":{"name":"get_weather","arguments":""}}],"refusal":null}'
)
_TOOL_DELTAS: Final = (
    _FIRST_TOOL_DELTA,
    '{"tool_calls":[{"index":0,"function":{"arguments":"{\\"city\\":"}}]}',
    '{"tool_calls":[{"index":0,"function":{"arguments":" \\"Oslo\\"}"}}]}',
)


def _stream(deltas: tuple[str, ...], finish: str, *, asked: bool) -> bytes:
    null = ',"usage":null' if asked else ""
    chunks = [chunk(delta, usage=null) for delta in deltas] + [chunk("{}", finish, usage=null)]
    return b"".join(chunks) + (USAGE_CHUNK if asked else b"") + DONE


STREAM: Final = _stream(_TEXT_DELTAS, '"stop"', asked=True)
STREAM_UNASKED: Final = _stream(_TEXT_DELTAS, '"stop"', asked=False)
STREAM_TOOLS: Final = _stream(_TOOL_DELTAS, '"tool_calls"', asked=True)
STREAM_TOOLS_UNASKED: Final = _stream(_TOOL_DELTAS, '"tool_calls"', asked=False)

COMPLETION_STREAM: Final = (
    event(
        '{"id":"cmpl-7iA7","object":"text_completion","created":1690759702,'
        '"choices":[{"text":"This","index":0,"logprobs":null,"finish_reason":null}],"model":"gpt-3.5-turbo-instruct"}'
    )
    + event(
        '{"id":"cmpl-7iA7","object":"text_completion","created":1690759702,'
        '"choices":[{"text":" is it","index":0,"logprobs":null,"finish_reason":"stop"}],"model":"gpt-3.5-turbo-instruct"}'
    )
    + DONE
)


def embeddings(inputs: int, dimensions: int = 1536) -> bytes:
    vector = base64.b64encode(b"\x3c\x11\x22\x33" * dimensions).decode()
    return orjson.dumps(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": index, "embedding": vector} for index in range(inputs)],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 8, "total_tokens": 8},
        }
    )

"""A freeze ends the streams of its session in flight, in words that the official SDKs raise, and what was sent is charged."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import anthropic
import openai
import pytest
import redis
from google import genai
from google.genai import errors, types

from tests.support import anthropic as claude
from tests.support import gemini
from tests.support.gate import Gate, gate, official, simulated
from tests.support.hashes import held_nano, key, spent_nano
from tests.support.redis_server import Server
from tokengate import cutting
from tokengate.simulate import SimulateOptions
from tokengate.simulate.options import Fault, FaultKind

HUNG = SimulateOptions(output_tokens=50, fault=Fault(FaultKind.HANG_MIDWAY, "3"))
HELLO: Any = [{"role": "user", "content": "Tell me about gates."}]
FROZEN: Any = {"frozen": "1", "frozen_reason": "Suspicious activity"}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "FREEZE_SEEN_WITHIN_S", 0.02)


async def read_until_it_ends(stream: AsyncIterator[Any], freeze: Callable[[], object]) -> int:
    """Freeze when the first piece has come; gives how many came."""
    pieces = 0
    async for _ in stream:
        pieces += 1
        if pieces == 1:
            freeze()
    return pieces


async def charged(running: Gate, redis_cli: "redis.Redis") -> dict[str, Any]:
    """The log line of the one call, which is charged for what was seen."""
    [line] = await running.log()
    assert (line["ending"], line["decision"], line["reason"]) == ("cut", "allowed", "session_frozen")
    assert "Suspicious activity" in line["error"]
    assert held_nano(redis_cli) == 0
    assert 0 < spent_nano(redis_cli) < round(line["held"] * 1e9)
    return line


async def test_openai_chat_and_the_other_sessions_stream_goes_on(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        simulated(HUNG) as provider,
        gate(provider.base_url, store.url, freeze_cuts_streams="true") as running,
        official(running.base_url) as sdk,
    ):
        other = await sdk.chat.completions.create(
            model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=100, extra_headers={"X-Session-ID": "other"}
        )
        await anext(aiter(other))
        stream = await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=100)
        with pytest.raises(openai.APIError, match="session default is frozen: Suspicious activity") as caught:
            await read_until_it_ends(aiter(stream), lambda: redis_cli.hset(key("default"), mapping=FROZEN))
        assert caught.value.code == "session_frozen"
        await asyncio.sleep(0.1)
        assert running.app.proxy._in_flight == 1
        await other.close()
        lines = {line["session_id"]: line for line in await running.log()}
        assert held_nano(redis_cli) == 0
        assert 0 < spent_nano(redis_cli) < round(lines["default"]["held"] * 1e9)
        assert (lines["default"]["ending"], lines["default"]["reason"]) == ("cut", "session_frozen")
        assert "reason" not in lines["other"]
        streams = running.app.proxy.streams
        assert streams is not None
        assert not streams._of


async def test_anthropic(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        claude.answering(ends=False) as (url, _),
        gate("http://127.0.0.1:9/v1", store.url, anthropic_base_url=url, anthropic_api_key="own",
             freeze_cuts_streams="true") as running,
        anthropic.AsyncAnthropic(base_url=running.url, api_key="dummy", max_retries=0) as sdk,
    ):  # fmt: skip
        stream = await sdk.messages.create(model=claude.MODEL, max_tokens=500, messages=HELLO, stream=True)
        with pytest.raises(anthropic.APIStatusError, match="Suspicious activity") as caught:
            await read_until_it_ends(aiter(stream), lambda: redis_cli.hset(key("default"), mapping=FROZEN))
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["error"]["code"] == "session_frozen"
        await charged(running, redis_cli)


async def test_gemini(store: Server, redis_cli: "redis.Redis") -> None:
    async with (
        gemini.answering(ends=False) as (url, _),
        gate("http://127.0.0.1:9/v1", store.url, gemini_base_url=url, gemini_api_key="own",
             freeze_cuts_streams="true") as running,
    ):  # fmt: skip
        sdk = genai.Client(api_key="dummy", http_options=types.HttpOptions(base_url=running.url)).aio
        try:
            stream = await sdk.models.generate_content_stream(model=gemini.MODEL, contents="Tell me about gates.")
            with pytest.raises(errors.ClientError, match="Suspicious activity") as caught:
                await read_until_it_ends(aiter(stream), lambda: redis_cli.hset(key("default"), mapping=FROZEN))
            assert (caught.value.code, caught.value.status) == (403, "PERMISSION_DENIED")
            await charged(running, redis_cli)
        finally:
            await sdk.aclose()


async def test_a_rule_that_freezes_on_one_gate_ends_the_streams_on_another(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    async with (
        simulated(HUNG) as hanging,
        simulated() as provider,
        gate(hanging.base_url, store.url, freeze_cuts_streams="true") as one,
        gate(provider.base_url, store.url, loops="enforce") as two,
        official(one.base_url) as there,
        official(two.base_url) as here,
    ):
        stream = await there.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True, max_tokens=100)
        await anext(aiter(stream))
        for _ in range(7):
            await here.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
        with pytest.raises(openai.PermissionDeniedError, match="sent the same request to gpt-4o-mini 8 times"):
            await here.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
        with pytest.raises(openai.APIError, match="sent the same request to gpt-4o-mini 8 times") as caught:
            async for _ in stream:
                pass
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["rule"] == "loop"
        await one.log()
        await two.log()
        assert held_nano(redis_cli) == 0


async def test_without_the_setting_a_stream_in_flight_goes_on(store: Server, redis_cli: "redis.Redis") -> None:
    slowly = SimulateOptions(output_tokens=20, tokens_per_second=100)
    async with (
        simulated(slowly) as provider,
        gate(provider.base_url, store.url) as running,
        official(running.base_url) as sdk,
    ):
        stream = await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=True)
        pieces = await read_until_it_ends(aiter(stream), lambda: redis_cli.hset(key("default"), mapping=FROZEN))
        assert pieces >= 20
        [line] = await running.log()
        assert line["ending"] == "complete"
        assert running.app.proxy.streams is None

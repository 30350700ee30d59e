"""What a provider keeps is shown, cancelled and deleted for the session that made it, and for no other."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import openai
import pytest
import redis

from tests.support.away import Away
from tests.support.gate import Gate, gate
from tests.support.hashes import spent_nano
from tests.support.redis_server import Server
from tests.support.responses import MODEL, Answers, answering
from tokengate.domain import Session
from tokengate.ledger.kept import KEPT_MAX, KEPT_TTL_S, KeptResponses

OTHER: Final = {"X-Session-ID": "another"}
KEY: Final = "tokengate:{default}:responses:default"


@asynccontextmanager
async def scene(store: Server) -> AsyncIterator[tuple[Answers, Gate, openai.AsyncOpenAI]]:
    async with (
        answering() as (url, answers),
        gate(f"{url}/v1", store.url) as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key="dummy", max_retries=0) as sdk,
    ):
        yield answers, running, sdk


async def ask_for(sdk: openai.AsyncOpenAI) -> Any:
    """Everything that can be asked of a response that was made; gives what was made."""
    made = await sdk.responses.retrieve("resp_1")
    await sdk.responses.input_items.list("resp_1")
    await sdk.responses.cancel("resp_1")
    await sdk.responses.delete("resp_1")
    return made


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_its_own_session_may_ask_for_it_free_of_charge(
    store: Server, redis_cli: "redis.Redis", *, streamed: bool
) -> None:
    async with scene(store) as (answers, running, sdk):
        made: Any = await sdk.responses.create(model=MODEL, input="Tell me about gates.", stream=streamed)
        if streamed:
            made = [event async for event in made][-1].response
        await running.idle()
        spent = spent_nano(redis_cli)
        assert await ask_for(sdk) == made
        assert [path for path, _ in answers.asked[1:]] == [
            "/v1/responses/resp_1", "/v1/responses/resp_1/input_items", "/v1/responses/resp_1/cancel",
            "/v1/responses/resp_1",
        ]  # fmt: skip
        lines = await running.log()
    assert spent_nano(redis_cli) == spent > 0
    assert {line["endpoint"] for line in lines[1:]} == {"kept_responses"}
    assert 0 < redis_cli.ttl(KEY) <= KEPT_TTL_S


async def test_no_other_session_may(store: Server) -> None:
    async with scene(store) as (answers, running, sdk):
        await sdk.responses.create(model=MODEL, input="Tell me about gates.")
        await running.idle()
        for ask in (sdk.responses.retrieve, sdk.responses.cancel, sdk.responses.delete):
            with pytest.raises(openai.NotFoundError, match="none of those that this session made"):
                await ask("resp_1", extra_headers=OTHER)
            with pytest.raises(openai.NotFoundError, match="none of those that this session made"):
                await ask("resp_2")
        assert len(answers.asked) == 1


async def test_another_gate_of_the_tenant_knows_it_too(store: Server) -> None:
    async with (
        answering() as (url, _),
        gate(f"{url}/v1", store.url) as first,
        gate(f"{url}/v1", store.url) as second,
        openai.AsyncOpenAI(base_url=first.base_url, api_key="dummy", max_retries=0) as here,
        openai.AsyncOpenAI(base_url=second.base_url, api_key="dummy", max_retries=0) as there,
    ):
        made = await here.responses.create(model=MODEL, input="Tell me about gates.")
        await first.idle()
        assert await there.responses.retrieve("resp_1") == made


async def test_what_is_not_to_be_kept_is_not_noted(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store) as (_, running, sdk):
        await sdk.responses.create(model=MODEL, input="Tell me about gates.", store=False)
        await running.idle()
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve("resp_1")
    assert not redis_cli.exists(KEY)


async def test_a_stream_that_was_left_has_been_noted(store: Server) -> None:
    async with scene(store) as (_, running, sdk):
        stream = await sdk.responses.create(model=MODEL, input="Tell me about gates.", stream=True)
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await running.idle()
        assert (await sdk.responses.retrieve("resp_1")).id == "resp_1"


async def test_a_store_that_is_away_gives_nothing_out(away: Away) -> None:
    async with (
        answering() as (url, answers),
        gate(f"{url}/v1", away.url, store_timeout_ms=100) as running,
        openai.AsyncOpenAI(base_url=running.base_url, api_key="dummy", max_retries=0) as sdk,
    ):
        away.leave()
        with pytest.raises(openai.InternalServerError, match="whose this is"):
            await sdk.responses.retrieve("resp_1")
        assert answers.asked == []


async def test_what_is_noted_has_a_bound_and_names_are_names(redis_cli: "redis.Redis") -> None:
    async def ask(commands: Any) -> list[Any]:
        return [redis_cli.execute_command(*_words(each)) for each in commands]

    kept, session = KeptResponses(ask), Session("default")
    redis_cli.zadd(KEY, {f"resp_{number}": number for number in range(KEPT_MAX)})
    await kept.remember(session, "resp_new")
    assert redis_cli.zcard(KEY) == KEPT_MAX
    assert not await kept.made(session, "resp_0")
    assert await kept.made(session, "resp_1")
    assert await kept.made(session, "resp_new")
    for name in ("", "a b", "a/../b", "x" * 129, "\u00e9", "a\nb"):
        await kept.remember(session, name)
        assert not await kept.made(session, name)
    assert redis_cli.zcard(KEY) == KEPT_MAX


def _words(sent: bytes) -> list[bytes]:
    """The words of a command as it is sent."""
    return sent.split(b"\r\n")[2::2]

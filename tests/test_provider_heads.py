"""What passes of the head of an answer, redirects and rate limits, debts, and endpoints that cost nothing.

`test_provider_faults` has what may be wrong with an answer itself.
"""

import httpx
import pytest
import redis

from tests.support.answers import GOOD, GOOD_STREAM, PROMPT_TOKENS, USAGE, document, http, stream
from tests.support.faulty import Faulty, Then, facing
from tests.support.gate import INPUT_NANO, OUTPUT_NANO
from tests.support.hashes import fields, held_nano, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, chat, parsed
from tests.support.servers import Conversation, raw_server
from tokengate.money import parse_usd

MAX_TOKENS = 20
ERROR = b'{"error":{"message":"no","type":"t","code":"theirs"}}'

# --- what a provider bills beyond what it was allowed ---


async def test_a_usage_beyond_the_hold_is_recorded_as_debt_and_ends_the_budget(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    billed = 2**31 - 1
    says = http(document(USAGE | {"completion_tokens": billed}))
    async with facing(Faulty(says, GOOD), store) as (provider, running, client):
        assert (await client.post(CHAT, content=chat(max_tokens=MAX_TOKENS))).status_code == 200
        await running.idle()
        refused = await client.post(CHAT, content=chat(max_tokens=MAX_TOKENS))
        await running.idle()
        assert len(provider.requests) == 1
    owed_nano = PROMPT_TOKENS * INPUT_NANO + billed * OUTPUT_NANO
    assert spent_nano(redis_cli) == owed_nano
    granted_nano = parsed(chat(max_tokens=MAX_TOKENS)).input_tokens_max * INPUT_NANO + MAX_TOKENS * OUTPUT_NANO
    assert parse_usd(fields(redis_cli)["overrun"]) == owed_nano - granted_nano
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.json()["error"]["budget_info"]["remaining"] == 0


# --- heads ---


async def test_headers_pass_as_they_came_but_for_those_that_end_here(store: Server) -> None:
    theirs = (
        "location: http://evil.example/elsewhere\r\nretry-after: 7\r\nx-twice: 1\r\nX-Twice: 2\r\nset-cookie: a=b\r\n"
        f"x-bytes: \xe9\xff\r\nx-long: {'a' * 100_000}\r\nx-ratelimit-remaining-tokens: 9\r\n"
    )
    ours = "".join(f"x-tokengate-{name}: 0\r\n" for name in ("request-id", "cost-usd", "remaining-usd", "held-usd"))
    between = (
        "connection: X-Private, keep-alive\r\nx-private: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\n"
    )
    for good, body in ((GOOD, chat()), (GOOD_STREAM, chat(stream=True))):
        says = good.replace(b"\r\n", (f"\r\n{theirs}{ours}{between}").encode("latin-1"), 1)
        async with facing(Faulty(says, good), store) as (_, running, client):
            async with client.stream("POST", CHAT, content=body) as response:
                await response.aread()
            await running.idle()
        expected = [line.partition(b": ")[::2] for line in theirs.lower().encode("latin-1").split(b"\r\n")[:-1]]
        names = {name for name, _ in expected}
        assert [(name, value.lower()) for name, value in response.headers.raw if name in names] == expected
        given = {name for name, _ in response.headers.raw if not name.startswith(b"x-tokengate")}
        assert given - names <= {b"content-type", b"content-length", b"transfer-encoding"}
        for name in ("request-id", "remaining-usd"):
            [value] = response.headers.get_list(f"x-tokengate-{name}")
            assert value != "0"


@pytest.mark.parametrize("path", [CHAT, "/v1/models"])
async def test_a_redirect_passes_and_nobody_follows_it(store: Server, redis_cli: "redis.Redis", path: str) -> None:
    async def elsewhere(peer: Conversation) -> None:
        raise AssertionError(await peer.request())

    async with raw_server(elsewhere) as other:
        location = f"{other.url}/v1/chat/completions?x=1#y"
        says = http(b"", status="308 Permanent Redirect", head=f"Location: {location}\r\n")
        async with facing(Faulty(says, GOOD), store) as (provider, running, client):
            answer = await client.request("GET" if path == "/v1/models" else "POST", path, content=chat())
            await running.idle()
            assert len(provider.requests) == 1
        assert other.connections == 0
    assert (answer.status_code, answer.headers["location"]) == (308, location)
    if path == CHAT:
        assert spent_nano(redis_cli) == held_nano(redis_cli) == 0


async def test_a_rate_limit_of_the_provider_passes_with_its_wait_and_frees_the_hold(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    head = "retry-after: 7\r\nx-ratelimit-reset-requests: 7s\r\n"
    says = http(ERROR, status="429 Too Many Requests", head=head)
    async with facing(Faulty(says, GOOD), store) as (_, running, client):
        answer = await client.post(CHAT, content=chat())
        await running.idle()
    assert (answer.status_code, answer.content) == (429, ERROR)
    assert (answer.headers["retry-after"], answer.headers["x-ratelimit-reset-requests"]) == ("7", "7s")
    assert "x-should-retry" not in answer.headers
    assert answer.headers["x-tokengate-cost-usd"] == "0.00"
    assert answer.headers["x-tokengate-remaining-usd"] == "10.00"
    assert spent_nano(redis_cli) == held_nano(redis_cli) == 0


# --- endpoints that cost nothing ---

FREE: dict[str, tuple[bytes, Then, int, bool]] = {
    "500": (http(ERROR, status="500 Oh"), "next", 500, False),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 99\r\n\r\n", "next", 304, False),
    "no content": (b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", "next", 204, False),
    "status 999": (b"HTTP/1.1 999 No\r\ncontent-length: 0\r\n\r\n", "next", 502, False),
    "reset before its head": (b"", "reset", 502, False),
    "silent before its head": (b"", "hang", 504, False),
    "reset within its body": (http(b"{", length=99), "reset", 200, True),
    "silent within its body": (http(b"{", length=99), "hang", 200, True),
    "closed within its chunks": (stream(b"{", end=b""), "close", 200, True),
}


@pytest.mark.parametrize(("says", "then", "status", "cut"), FREE.values(), ids=FREE)
async def test_a_faulty_answer_that_costs_nothing(
    store: Server, says: bytes, then: Then, status: int, cut: bool
) -> None:
    async with facing(Faulty(says, GOOD, then), store) as (_, running, client):
        broken_off = False
        async with client.stream("GET", "/v1/models") as response:
            try:
                await response.aread()
            except httpx.RemoteProtocolError:
                broken_off = True
        assert (response.status_code, broken_off) == (status, cut)
        assert (await client.get("/v1/models")).content == document()
        first, second = await running.log()
    assert (first["status"], second["status"]) == (status, 200)
    assert ("error" in first) == (status in (502, 504) or cut)

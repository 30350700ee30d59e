"""Ways to overspend that others shipped, each shown not to work here: the gate as a whole, on real sockets.

The numbers are those of the list of such faults that the product is built against: 1 to 9 here, 10 to 17 (memory) in
`test_faults_memory`, 19 to 22 (streams) in `test_faults_streams`, 23 to 32 (failures, growth, names) in
`test_faults_failure`. What needs no socket to be shown is where its module is tested:

    3  malformed caps                 providers/test_openai_requests (every notation), here end to end
    4  two caps                       providers/test_openai_requests, here end to end
    6  what is counted                providers/test_openai_requests, test_openai_bounds, test_openai_media
    7  bytes bound tokens             providers/test_openai_bounds, against the real vocabularies
    8  usage that cannot be true      providers/test_openai_answers, test_openai_streams
    12 names, tiers, long contexts    test_pricing, test_pricing_lookup
    14 cumulative usage               providers/test_openai_streams, here end to end
    25 refusals that SDKs retry       test_sdk
    27 an alert on every request      there are no alerts yet
    28 invented model names           test_pricing_lookup
"""

import asyncio
import json

import pytest
import redis

from tests.support.gate import INPUT_NANO, OUTPUT_NANO, gate_processes, simulated, until
from tests.support.hashes import booked, fields, held_nano, key, spent_nano
from tests.support.redis_server import Server
from tests.support.scene import CHAT, Fixed, Scene, chat, client, fixed, headers, parsed, raw, scene
from tokengate.budgets import AMPLE, TYPICAL_OUTPUT_COLD_TOKENS
from tokengate.money import format_usd, parse_usd
from tokengate.pricing import OUTPUT_MIN_TOKENS
from tokengate.simulate import CapRule, SimulateOptions
from tokengate.tokens import Tokenizer

CALLS = 30
PAID_FOR = 10
AMPLE_TOKENS = OUTPUT_MIN_TOKENS + AMPLE * (TYPICAL_OUTPUT_COLD_TOKENS - OUTPUT_MIN_TOKENS)


# --- 1, 2: checked and held in one step ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_01_of_thirty_parallel_calls_on_a_budget_for_ten_ten_are_forwarded(
    store: Server, redis_cli: "redis.Redis", stream: bool
) -> None:
    call = fixed(stream=stream)
    async with scene(store.url, SimulateOptions(ttft_ms=10), default_budget=call.budget(PAID_FOR)) as at:
        await wave(at, call, expected={200: PAID_FOR, 429: CALLS - PAID_FOR})
        assert at.provider.received == PAID_FOR
        await wave(at, call, expected={429: CALLS})
        assert at.provider.received == PAID_FOR
        assert spent_nano(redis_cli) == at.provider.billed_nano() == PAID_FOR * call.cost_nano
        assert held_nano(redis_cli) == 0


async def wave(at: Scene, call: Fixed, expected: dict[int, int]) -> None:
    answers = await asyncio.gather(*(at.post(call.body, simulate=call.simulate) for _ in range(CALLS)))
    await at.gate.idle()
    statuses = [answer.status_code for answer in answers]
    assert {status: statuses.count(status) for status in statuses} == expected


async def test_01_the_same_from_four_gates_that_share_a_store(store: Server, redis_cli: "redis.Redis") -> None:
    calls = [fixed(), fixed(stream=True)]
    budget = format_usd(PAID_FOR * max(call.cost_nano for call in calls))
    async with (
        simulated(SimulateOptions(ttft_ms=10)) as provider,
        gate_processes(4, provider.base_url, store.url, default_budget=budget) as gates,
        client() as http,
    ):

        async def race(session: str, call: Fixed) -> list[int]:
            answers = [
                http.post(gates[number % 4].url + CHAT, content=call.body, headers=headers(session, call.simulate))
                for number in range(CALLS)
            ]
            return sorted(answer.status_code for answer in await asyncio.gather(*answers))

        for session, call in zip(("whole", "streamed"), calls, strict=True):
            redis_cli.hset(key(session), "budget", call.budget(PAID_FOR))
            before = provider.received
            assert await race(session, call) == [200] * PAID_FOR + [429] * (CALLS - PAID_FOR)
            assert await race(session, call) == [429] * CALLS
            assert provider.received - before == PAID_FOR
            await until(lambda session=session: held_nano(redis_cli, session) == 0)  # type: ignore[misc]
            assert spent_nano(redis_cli, session) == PAID_FOR * call.cost_nano


async def test_02_parallel_first_requests_of_a_session_share_the_default_budget(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    call, names = fixed(), [f"new-{number}" for number in range(5)]
    async with scene(store.url, default_budget=call.budget(2)) as at:
        answers = await asyncio.gather(*(at.post(call.body, name, call.simulate) for name in names * 6))
        await at.gate.idle()
        assert [answer.status_code for answer in answers].count(200) == at.provider.received == 2 * len(names)
    assert {spent_nano(redis_cli, name) for name in names} == {2 * call.cost_nano}
    assert sorted(redis_cli.zrange("tokengate:{default}:sessions", 0, -1)) == names


# --- 3, 4, 5: caps ---


@pytest.mark.parametrize("member", ["max_tokens", "max_completion_tokens", "n"])
@pytest.mark.parametrize(
    "value", ["-1", "0", "16.0", '"16"', "true", "NaN", "-Infinity", "1e400", "1e2", "[1]", "2147483648"]
)
async def test_03_a_cap_that_is_no_count_is_refused_and_holds_nothing(
    store: Server, redis_cli: "redis.Redis", member: str, value: str
) -> None:
    body = chat(placeholder=0).replace(b'"placeholder": 0', f'"{member}": {value}'.encode())
    async with scene(store.url) as at:
        refused = await at.post(body)
        await at.gate.idle()
        assert at.provider.requests == []
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "body_invalid"
    assert booked(redis_cli) == []


@pytest.mark.parametrize(("completion", "tokens"), [(1, 3000), (3000, 1)])
async def test_04_of_two_caps_the_one_that_is_dearer_is_held_for(
    store: Server, redis_cli: "redis.Redis", completion: int, tokens: int
) -> None:
    body = chat(max_completion_tokens=completion, max_tokens=tokens)
    most_nano = parsed(body).input_tokens_max * INPUT_NANO + 3000 * OUTPUT_NANO
    options = SimulateOptions(output_tokens=3000, cap_rule=CapRule.LARGER)
    async with scene(store.url, options, default_budget=format_usd(most_nano - 1)) as at:
        assert (await at.post(body)).status_code == 429
        redis_cli.hset(key("default"), "budget", format_usd(most_nano))
        assert (await at.post(body)).status_code == 200
        [_, line] = await at.gate.log()
        assert parse_usd(f"{line['held']:.9f}") == most_nano
        assert at.provider.total["output_tokens"] == 3000
    assert "overrun" not in fields(redis_cli)


async def test_05_without_a_cap_one_is_written_near_the_end_of_a_budget_and_the_budget_holds(
    store: Server, redis_cli: "redis.Redis"
) -> None:
    budget = "0.009"
    async with scene(store.url, SimulateOptions(output_tokens=5000), default_budget=budget) as at:
        finishes, caps = [], []
        while (answer := await at.ask()).status_code == 200:
            await at.gate.idle()
            choice = answer.json()["choices"][0]
            cap = at.provider.body()["max_completion_tokens"]
            assert answer.json()["usage"]["completion_tokens"] == cap
            finishes.append(choice["finish_reason"])
            caps.append(cap)
        refused = answer.json()["error"]["budget_info"]
        assert at.provider.billed_nano() == spent_nano(redis_cli)
    assert answer.status_code == 429
    assert finishes == ["length"] * len(caps)
    # Fair shares, then ample room for an answer, then the rest.
    assert caps == sorted(caps, reverse=True)
    assert AMPLE_TOKENS in caps
    assert OUTPUT_MIN_TOKENS <= caps[-1] < AMPLE_TOKENS
    assert (
        parse_usd(budget) - spent_nano(redis_cli)
        < OUTPUT_MIN_TOKENS * OUTPUT_NANO + parsed(chat()).input_tokens_max * INPUT_NANO
    )
    assert refused["remaining"] < refused["required"]
    assert "overrun" not in fields(redis_cli)


async def test_05_a_healthy_budget_writes_no_cap(store: Server) -> None:
    async with scene(store.url) as at:
        await at.ask()
        assert set(at.provider.body()) == {"model", "messages"}


@pytest.mark.parametrize(("rule", "status", "sent"), [("always", 200, 300), ("when_unset", 429, 0), ("never", 429, 0)])
async def test_05_a_cap_of_the_clients_is_lowered_only_if_the_operator_says_so(
    store: Server, rule: str, status: int, sent: int
) -> None:
    body = chat(max_tokens=4000)
    budget = format_usd(parsed(body).input_tokens_max * INPUT_NANO + 300 * OUTPUT_NANO)
    async with scene(store.url, SimulateOptions(output_tokens=5000), default_budget=budget, output_cap=rule) as at:
        assert (await at.post(body)).status_code == status
        assert [json.loads(seen["body"])["max_tokens"] for seen in at.provider.requests] == [sent] * bool(sent)


# --- 6, 7: what counts as input and as output ---


async def test_06_tools_and_every_answer_are_held_for(store: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "x y " * 50_000, "parameters": {}}}
    async with scene(store.url, default_budget="0.01") as at:
        with_tools = await at.ask(tools=[tool], n=8, max_tokens=10)
        answers = await at.ask(n=128, max_tokens=1000)
        lines = await at.gate.log()
        assert at.provider.received == 0
    for refused in (with_tools, answers):
        assert refused.json()["error"]["code"] == "insufficient_quota"
    # 100,000 tokens and more of input; 128,000 of output.
    assert lines[0]["estimated_cost"] > 100_000 * INPUT_NANO / 1e9
    assert lines[1]["estimated_cost"] > 128_000 * OUTPUT_NANO / 1e9


TEXTS = {
    "chinese": "我们的预算是硬性的，任何调用都不能超过它。" * 100,
    "rare characters": "𒀀𒁁𓂀🜁" * 200,
    "base64": "".join(chr(33 + (7 * n * n + 3 * n) % 90) for n in range(4000)),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_07_text_is_not_four_characters_a_token(store: Server, redis_cli: "redis.Redis", text: str) -> None:
    tokens = await Tokenizer().count("o200k_base", lambda count: count(text))
    body = chat(text, max_tokens=10)
    bill = f"input_tokens:{tokens},output_tokens:10"
    characters_nano = len(text) // 4 * INPUT_NANO + 10 * OUTPUT_NANO
    async with scene(store.url, default_budget=format_usd(characters_nano)) as at:
        assert (await at.post(body, simulate=bill)).status_code == 429
        assert at.provider.received == 0
        # What it really costs, and a little for what frames a message.
        redis_cli.hset(
            key("default"),
            "budget",
            format_usd((tokens + 50) * INPUT_NANO + 10 * OUTPUT_NANO),
        )
        assert (await at.post(body, simulate=bill)).status_code == 200
        await at.gate.idle()
        assert spent_nano(redis_cli) == at.provider.billed_nano()
    assert "overrun" not in fields(redis_cli)


# --- 8: usage that is missing ---


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", ["no_usage", "null_usage", "zero_usage", "text_usage", "negative_usage"])
async def test_08_usage_that_is_missing_or_malformed_is_never_free(
    store: Server, redis_cli: "redis.Redis", fault: str, stream: bool
) -> None:
    body = chat(stream=stream)
    async with scene(store.url, SimulateOptions(output_tokens=200)) as at:
        answer = await at.post(body, simulate=fault)
        [line] = await at.gate.log()
        billed_nano = at.provider.billed_nano()
    assert answer.status_code == 200
    assert (line["ending"], line["assumed"]) == ("cut", True)
    # The output that was seen, counted exactly, and the bound on the input.
    seen_nano = parsed(body).input_tokens_max * INPUT_NANO + 200 * OUTPUT_NANO
    assert spent_nano(redis_cli) == seen_nano > billed_nano
    assert fields(redis_cli)["assumed"] == fields(redis_cli)["spent"]


@pytest.mark.parametrize("fault", ["truncated_json", "reset_midway:0", "reset_before_headers"])
async def test_08_an_answer_that_nobody_could_read_costs_its_whole_hold(
    store: Server, redis_cli: "redis.Redis", fault: str
) -> None:
    async with scene(store.url) as at:
        answer = await at.ask(simulate=fault, max_tokens=100)
        [line] = await at.gate.log()
    assert answer.status_code == (200 if fault == "truncated_json" else 502)
    assert line["actual_cost"] == line["held"] > 0
    assert line["assumed"] is True
    assert spent_nano(redis_cli) == parse_usd(fields(redis_cli)["assumed"]) > 100 * OUTPUT_NANO


async def test_08_a_slow_answer_past_the_read_timeout_is_charged(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, upstream_read_timeout_s=1) as at:
        answer = await at.ask(simulate="hang_before_headers", max_tokens=500)
        [line] = await at.gate.log()
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "upstream_timeout"
    assert (line["ending"], line["actual_cost"]) == ("unknown", line["held"])
    assert spent_nano(redis_cli) > 500 * OUTPUT_NANO


async def test_08_a_provider_that_cannot_be_reached_costs_nothing(store: Server, redis_cli: "redis.Redis") -> None:
    async with scene(store.url, openai_base_url="http://127.0.0.1:9/v1") as at:
        answer = await at.ask()
        [line] = await at.gate.log()
    assert answer.status_code == 502
    assert "x-should-retry" not in answer.headers
    assert (line["ending"], line["actual_cost"], line["reason"]) == ("rejected", 0, "upstream_unreachable")
    assert spent_nano(redis_cli) == held_nano(redis_cli) == 0


# --- 9: ways around the gate ---


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/assistants",
        "GET /v1/responses",
        "POST /v1/images/variations",
        "POST /v1/audio/voices",
        "POST /v1/files",
        "POST /v1/batches",
        "POST /v1/fine_tuning/jobs",
        "POST /v1/chat/completions/",
        "POST /v1/Chat/Completions",
        "POST /V1/chat/completions",
        "POST //v1/chat/completions",
        "POST /v1//chat/completions",
        "POST /v1/models/../responses",
        "GET /v1/models/../files",
        "GET /v1/models/%2e%2e/files",
        "GET /v1/models/..%2Ffiles",
        "GET /v1/models/.%2e/files",
        "GET /v1/models/x/..\\files",
        "POST /v1/models",
        "DELETE /v1/models/ft:gpt-4o-mini",
        "PUT /v1/chat/completions",
        "POST /v1/completions/../responses",
        "POST /v1",
        "POST /",
        "POST /openai/deployments/gpt-4o/chat/completions",
        "POST /v1%2Fchat/completions",
        "POST /%761/chat/completions",
        "POST /v1/chat%2Fcompletions",
        "POST /v1/chat/completions%3Fx",
    ],
)
async def test_09_there_is_no_way_around_the_gate(store: Server, line: str) -> None:
    body = chat()
    async with scene(store.url) as at:
        answer = await raw(
            at.gate.url,
            f"{line} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body,
        )
        await at.gate.idle()
        assert at.provider.requests == []
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.split()[1] in (b"404", b"405")
    assert json.loads(text)["error"]["code"] in ("endpoint_not_metered", "method_not_allowed")


async def test_09_a_websocket_is_refused_in_a_way_that_is_understood(store: Server) -> None:
    async with scene(store.url) as at:
        answer = await raw(
            at.gate.url,
            b"GET /v1/responses HTTP/1.1\r\nhost: gate\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        assert at.provider.requests == []
    assert answer.startswith(b"HTTP/1.1 404")

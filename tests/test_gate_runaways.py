"""Calls of every dialect are told from one another, rules refuse them or only tell, and rates say truly when to come again."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.inmemory import prices
from tokengate.anomaly import NO_RULES, Rule, Rules
from tokengate.budgets import Policy
from tokengate.domain import Ending, Mode, Rate, Reason, Refusal, Session, Usage
from tokengate.gate import Charge, Gate, Ticket
from tokengate.ledger.memory import MemoryLedger
from tokengate.providers import NO_HEAD, STATUS, Endpoint, Head, anthropic, gemini, openai
from tokengate.providers.anthropic.requests import Messages
from tokengate.providers.gemini.requests import BatchEmbedContents, GenerateContent
from tokengate.providers.openai.requests import ChatCompletions, Completions, Embeddings
from tokengate.providers.openai.responses import Responses
from tokengate.tokens import Tokenizer

ALICE = Session("alice", agent="crawler")
START_MS = 1_900_000_000_000


class _Path:
    """The head of a request to Gemini, whose model stands in the path."""

    query = b""
    content_type = None
    given: Mapping[bytes, bytes] = MappingProxyType({})

    def __init__(self, method: str) -> None:
        self.raw_path = f"/v1beta/models/gemini-2.5-flash:{method}".encode()


def asking(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


CALLS = [
    pytest.param("openai", ChatCompletions(), {"model": "gpt-4o-mini", "messages": [asking("q")]}, NO_HEAD, id="chat"),
    pytest.param(
        "openai", Completions(), {"model": "gpt-3.5-turbo-instruct", "prompt": "q", "max_tokens": 5}, NO_HEAD, id="prompt"
    ),
    pytest.param("openai", Responses(), {"model": "gpt-4o-mini", "input": "q"}, NO_HEAD, id="responses"),
    pytest.param(
        "anthropic",
        Messages(),
        {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [asking("q")]},
        NO_HEAD,
        id="messages",
    ),
    pytest.param(
        "google", GenerateContent(stream=False), {"contents": [{"parts": [{"text": "q"}]}]},
        _Path("generateContent"), id="contents",
    ),
]  # fmt: skip


def opened(rules: Rules = NO_RULES, policy: Policy | None = None) -> tuple[Gate, MemoryLedger]:
    ledger = MemoryLedger(60_000, 1000, START_MS, rules)
    gate = Gate(
        ledger, prices(None), policy or Policy(10**12), Tokenizer(), output_cap="never", busy_wait_ms=0, waiters_max=0,
        lease_ms=60_000, tenant="default", rules=rules,
    )  # fmt: skip
    return gate, ledger


async def ask(
    gate: Gate, number: int, section: str, endpoint: Endpoint, body: dict[str, Any], head: Head
) -> Ticket | Refusal:
    """Admit a call and have it answered at once."""
    request = endpoint.parse(json.dumps(body).encode(), head)
    admitted = await gate.admit(request, ALICE, f"r{number}", section)
    if isinstance(admitted, Ticket):
        gate.settle(admitted, Charge(Ending.COMPLETE, 1_000_000, False, Usage()))
    return admitted


@pytest.mark.parametrize(("section", "endpoint", "body", "head"), CALLS)
async def test_the_same_call_of_any_dialect_is_refused_the_eighth_time(
    section: str, endpoint: Endpoint, body: dict[str, Any], head: Head
) -> None:
    gate, ledger = opened(Rules())
    for number in range(1, 8):
        assert isinstance(await ask(gate, number, section, endpoint, body, head), Ticket)
        ledger.now_ms += 1000
    refusal = await ask(gate, 8, section, endpoint, body, head)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.rule) == (Reason.SESSION_FROZEN, Rule.LOOP)
    assert refusal.frozen_until_ms == ledger.now_ms + Rules().freeze_ms
    model = body.get("model", "gemini-2.5-flash")
    evidence = f"sent the same request to {model} 8 times in a row; first request r1, last r8; spent $0.007000 in 7s"
    assert refusal.message == f"The session alice is frozen until 2030-03-17T17:56:47Z: {evidence}"
    for dialect in (openai.dialect, anthropic.dialect, gemini.dialect):
        told = json.loads(dialect.error(refusal, "r8"))["error"]
        assert (told["rule"], told["reason"], told["until"]) == ("loop", evidence, "2030-03-17T17:56:47Z")
    # Who asks again is told the same, and nothing of it is longer.
    ledger.now_ms += 1000
    again = await ask(gate, 9, section, endpoint, body, head)
    assert isinstance(again, Refusal)
    assert again.message == refusal.message
    # When it is over, the old evidence is none.
    ledger.now_ms += Rules().freeze_ms
    assert isinstance(await ask(gate, 10, section, endpoint, body, head), Ticket)


@pytest.mark.parametrize(("section", "endpoint", "body", "head"), CALLS)
async def test_calls_that_differ_are_let_be(section: str, endpoint: Endpoint, body: dict[str, Any], head: Head) -> None:
    gate, ledger = opened(Rules())
    for number in range(12):
        changed = json.loads(json.dumps(body).replace('"q"', f'"question {number}"'))
        assert isinstance(await ask(gate, number, section, endpoint, changed, head), Ticket)
        ledger.now_ms += 1000


async def test_a_rule_in_shadow_says_what_it_would_have_refused_and_refuses_nothing() -> None:
    gate, ledger = opened(Rules(loops=Mode.SHADOW))
    body, rules = {"model": "gpt-4o-mini", "messages": [asking("q")]}, []
    for number in range(10):
        admitted = await ask(gate, number, "openai", ChatCompletions(), body, NO_HEAD)
        assert isinstance(admitted, Ticket)
        rules.append(admitted.rule)
        ledger.now_ms += 1000
    assert rules == [None] * 7 + [Rule.LOOP] * 3


@pytest.mark.parametrize(
    ("endpoint", "body", "head"),
    [
        (Embeddings(), {"model": "text-embedding-3-small", "input": "q"}, NO_HEAD),
        (
            BatchEmbedContents(),
            {"requests": [{"content": {"parts": [{"text": "q"}]}}]},
            _Path("batchEmbedContents"),
        ),
    ],
)
def test_what_is_embedded_has_no_mark(endpoint: Endpoint, body: dict[str, Any], head: Head) -> None:
    assert endpoint.parse(json.dumps(body).encode(), head).asked() is None


async def test_no_mark_is_made_where_no_rule_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_: object) -> None:
        raise AssertionError("it is looked at")

    monkeypatch.setattr(openai.requests.OpenAIRequest, "asked", asked)
    gate, _ = opened(Rules(loops=Mode.OFF, tool_loops=Mode.OFF, growth=Mode.OFF))
    body = {"model": "gpt-4o-mini", "messages": [asking("q")]}
    assert isinstance(await ask(gate, 1, "openai", ChatCompletions(), body, NO_HEAD), Ticket)


@pytest.mark.parametrize("scope", ["session", "agent", "tenant"])
async def test_a_rate_is_kept_for_each_scope_and_the_time_to_wait_is_true(scope: str) -> None:
    policy = replace(Policy(10**12), **{f"{scope}_rate": Rate(6, 60_000, 2)})
    gate, ledger = opened(policy=policy)
    body = {"model": "gpt-4o-mini", "messages": [asking("q")]}

    async def at(number: int) -> Ticket | Refusal:
        return await ask(gate, number, "openai", ChatCompletions(), body, NO_HEAD)

    assert isinstance(await at(1), Ticket)
    ledger.now_ms += 100
    assert isinstance(await at(2), Ticket)
    refusal = await at(3)
    assert isinstance(refusal, Refusal)
    # 9.9 s, which is rounded up.
    assert (refusal.reason, refusal.retry_after_s, STATUS[refusal.reason]) == (Reason.RATE_LIMITED, 10, 429)
    assert scope in refusal.message
    ledger.now_ms += 9_900
    assert isinstance(await at(4), Ticket)

"""What an upstream does otherwise than OpenAI's own API: the tier that its account is set to, the cost that it reports."""

from typing import Any

import orjson
import pytest

from tests.providers.openai_calls import JSON, SSE, chat, completion, embedding
from tokengate.pricing import PriceTable, cost, quote
from tokengate.providers import Quirks, Request
from tokengate.providers.openai.responses import Responses
from tokengate.resources import pricing_file

PRICES = PriceTable.parse(pricing_file().read_bytes())
PRIORITY = Quirks(service_tier_default="priority")


def response(**members: Any) -> Request:
    return Responses().parse(orjson.dumps({"model": "gpt-5-mini", "input": "hi"} | members))


def want_nano(request: Request) -> int:
    price = PRICES.lookup(request.call.model).price
    assert price is not None
    return quote(price, request.call, 512).want_nano


class TestTierOfTheAccount:
    @pytest.mark.parametrize("ask", [chat, response])
    def test_what_is_left_to_the_account_is_held_for_at_its_price(self, ask: Any) -> None:
        for members in ({}, {"service_tier": None}, {"service_tier": "auto"}):
            request = ask(**members)
            assert want_nano(request.suited(PRIORITY)) > want_nano(request) * 16 // 10
            assert request.suited(Quirks()).call == request.call

    @pytest.mark.parametrize("ask", [chat, response])
    def test_what_is_asked_for_by_name_is_held_for_as_before(self, ask: Any) -> None:
        for tier in ("default", "priority"):
            assert want_nano(ask(service_tier=tier).suited(PRIORITY)) == want_nano(ask(service_tier=tier))

    def test_a_model_without_that_tier_is_held_for_as_before(self) -> None:
        for request in (completion(), embedding()):
            assert want_nano(request.suited(PRIORITY)) == want_nano(request)

    def test_the_charge_is_what_the_answer_says(self) -> None:
        price = PRICES.lookup("gpt-5-mini").price
        assert price is not None
        request = response().suited(PRIORITY)
        for tier, factor in (("priority", 18), ("default", 10)):
            meter = request.meter(200, JSON)
            figures = {"input_tokens": 1000, "output_tokens": 100}
            meter.feed(orjson.dumps({"model": "gpt-5-mini", "service_tier": tier, "usage": figures}))
            meter.finish()
            usage = meter.reading().usage
            assert usage is not None
            assert cost(price, usage, request.call.service_tier) == (1000 * 250 + 100 * 2000) * factor // 10


class TestReportedCost:
    def read(self, content_type: str, answer: bytes) -> int | None:
        meter = response(stream=content_type == SSE).suited(Quirks(cost_reported=True)).meter(200, content_type)
        assert meter.feed(answer) + meter.finish() == answer
        usage = meter.reading().usage
        assert usage is not None
        return usage.cost_nano

    @pytest.mark.parametrize(
        ("told", "nano"),
        [
            ({"cost": 0.00012, "is_byok": False}, 120_000), ({"cost": 0.00012, "is_byok": None}, 120_000),
            ({"cost": 0.00012, "is_byok": True}, None), ({}, None), ({"cost": "much"}, None),
        ],
    )  # fmt: skip
    def test_a_response_says_it_in_its_usage_whole_or_streamed(self, told: dict[str, Any], nano: int | None) -> None:
        whole = {"model": "gpt-5-mini", "usage": {"input_tokens": 9, "output_tokens": 2} | told}
        assert self.read(JSON, orjson.dumps(whole)) == nano
        event = orjson.dumps({"type": "response.completed", "response": whole})
        assert self.read(SSE, b"event: response.completed\ndata: " + event + b"\n\n") == nano

    def test_a_number_beyond_all_numbers_is_no_cost_and_passes(self) -> None:
        usage = b'{"input_tokens":9,"output_tokens":2,"cost":1e999999999}'
        assert self.read(JSON, b'{"model":"gpt-5-mini","usage":' + usage + b"}") is None

"""Anthropic's requests and answers: what is bounded, what is refused, and what is read of what was used."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.anthropic import USAGE, Answers
from tokengate.bodies import MalformedRequest, RequestError, UnpricedFeature
from tokengate.domain import Usage
from tokengate.pricing import PriceTable, UnpricedTier, UnpricedWindow, cost, quote
from tokengate.providers.anthropic.requests import FORMAL_CAP_TOKENS, Messages, MessagesRequest
from tokengate.providers.anthropic.usage import read_usage
from tokengate.resources import pricing_file

HELLO: list[Any] = [{"role": "user", "content": "hi"}]
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (280).to_bytes(4) + (560).to_bytes(4) + b"\x08\x06\0\0\0"
).decode()
PRICES = PriceTable.parse(pricing_file().read_bytes())
MODELS = sorted(PRICES.sections["anthropic"].rows)


def body(**members: Any) -> bytes:
    document = {"model": "claude-sonnet-5", "max_tokens": 100, "messages": HELLO} | members
    return json.dumps({name: value for name, value in document.items() if value is not None}).encode()


def request(**members: Any) -> MessagesRequest:
    return Messages().parse(body(**members))


def user(*blocks: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(blocks)}]


class TestBounds:
    def test_text_is_bounded_by_its_bytes(self) -> None:
        call = request(messages=[{"role": "user", "content": "\u4e2d" * 1000}], system="x" * 500).call
        assert 3000 + 500 < call.input_tokens_max < 6000 + 500 + 200
        assert (call.output_tokens_asked, call.context_windows, call.produces_output) == (100, 0, True)

    def test_an_image_counts_by_its_size_or_by_the_largest(self) -> None:
        def tokens(source: dict[str, Any]) -> int:
            call = request(messages=user({"type": "image", "source": source})).call
            return call.input_tokens_max - call.text_bytes

        assert tokens({"type": "base64", "media_type": "image/png", "data": PNG}) == 10 * 20
        assert tokens({"type": "base64", "media_type": "image/png", "data": "AAAA"}) == 4784
        assert tokens({"type": "url", "url": "https://example.org/a.png"}) == 4784

    def test_a_document_whose_pages_nobody_knows_is_a_window(self) -> None:
        document = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
        assert request(messages=user(document, document)).call.context_windows == 1
        text = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "words"}}
        assert request(messages=user(text)).call.context_windows == 0

    def test_searches_are_a_fee_each_and_a_window_for_each_turn(self) -> None:
        call = request(tools=[{"type": "web_search_20260318", "name": "web_search", "max_uses": 3}]).call
        assert (call.fees, call.context_windows) == ((("web_search", 3),), 4)
        call = request(tools=[{"type": "web_fetch_20260318", "name": "web_fetch", "max_uses": 2}]).call
        assert (call.fees, call.context_windows) == ((), 3)

    def test_tools_of_the_caller_are_what_they_are_written_as_and_what_frames_them(self) -> None:
        tool = {"name": "weather", "description": "d" * 1000, "input_schema": {"type": "object"}}
        plain, with_tool = request().call, request(tools=[tool]).call
        assert with_tool.input_tokens_max - plain.input_tokens_max > 1000 + 800
        assert request(tools=[{"type": "bash_20250124", "name": "bash"}]).call.input_tokens_max > 8192

    def test_a_model_without_a_known_window_cannot_be_asked_for_one(self) -> None:
        price = PRICES.lookup("claude-v1", "anthropic").price
        assert price is not None
        tools = [{"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 1}]
        with pytest.raises(UnpricedWindow):
            quote(price, request(tools=tools).call, 512)


class TestRegions:
    def wants(self, **members: Any) -> int:
        price = PRICES.lookup("claude-opus-4-8", "anthropic").price
        assert price is not None
        return quote(price, request(model="claude-opus-4-8", **members).call, 512).want_nano

    def test_it_is_held_for_where_it_may_be_run(self) -> None:
        text = {"messages": [{"role": "user", "content": "x" * 1000}]}
        by_default, everywhere = self.wants(**text), self.wants(inference_geo="global", **text)
        assert self.wants(inference_geo="us", **text) > by_default * 0.99
        assert by_default * 10 == pytest.approx(everywhere * 11, rel=0.02)
        assert self.wants(speed="fast", **text) * 10 == pytest.approx(everywhere * 22, rel=0.02)

    def test_a_model_that_has_no_other_region_is_held_for_in_one(self) -> None:
        price = PRICES.lookup("claude-haiku-4-5", "anthropic").price
        assert price is not None
        plain = quote(price, request(model="claude-haiku-4-5", inference_geo="global").call, 512)
        assert (
            quote(price, request(model="claude-haiku-4-5", inference_geo=None).call, 512).want_nano <= plain.want_nano
        )
        with pytest.raises(UnpricedTier, match="service tier us"):
            quote(price, request(model="claude-haiku-4-5", inference_geo="us").call, 512)


class TestCaps:
    def test_none_is_malformed_and_zero_generates_nothing(self) -> None:
        with pytest.raises(MalformedRequest, match="max_tokens must be set"):
            request(max_tokens=None)
        assert request(max_tokens=0).call.produces_output is False

    @pytest.mark.parametrize("cap", [-1, 1.5, "9", True, 2**63, 1e400])
    def test_what_is_no_cap_is_refused(self, cap: object) -> None:
        with pytest.raises(MalformedRequest):
            request(max_tokens=cap)

    def test_a_large_one_is_formal_unless_thinking_needs_it(self) -> None:
        assert not request(max_tokens=FORMAL_CAP_TOKENS - 1).call.output_cap_formal
        assert request(max_tokens=FORMAL_CAP_TOKENS).call.output_cap_formal
        thinking = {"type": "enabled", "budget_tokens": 2000}
        assert not request(max_tokens=FORMAL_CAP_TOKENS, thinking=thinking).call.output_cap_formal

    def test_thinking_between_tools_may_take_more_than_the_cap(self) -> None:
        call = request(max_tokens=1000, thinking={"type": "enabled", "budget_tokens": 5000}).call
        assert (call.output_tokens_asked, call.output_tokens_beside) == (1000, 4000)

    def test_only_the_cap_of_the_body_changes(self) -> None:
        sent = body(max_tokens=64000)
        changed = Messages().parse(sent).body(700)
        assert changed == sent.replace(b"64000", b"700")
        assert Messages().parse(sent).body(None) == Messages().parse(sent).body(99_999) == sent


class TestRefusals:
    @pytest.mark.parametrize(
        "members",
        [
            {"mcp_servers": [{"url": "https://example.org"}]}, {"fallbacks": [{"model": "x"}]}, {"container": "c_1"},
            {"thread": {"id": "t"}}, {"compaction": {"type": "auto"}}, {"speed": "ludicrous"}, {"inference_geo": "eu"},
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
            {"tools": [{"type": "a_tool_to_come", "name": "x"}]},
            {"messages": user({"type": "container_upload", "file_id": "f"})},
            {"messages": user({"type": "hologram"})},
        ],
        ids=lambda members: next(iter(members)),
    )  # fmt: skip
    def test_what_has_no_price_is_named(self, members: dict[str, Any]) -> None:
        with pytest.raises(UnpricedFeature):
            request(**members)

    @pytest.mark.parametrize(
        "members",
        [
            {"messages": []}, {"messages": "hi"}, {"messages": ["hi"]}, {"messages": [{"content": "hi"}]},
            {"messages": [{"role": "user", "content": 5}]}, {"messages": user({"type": "image", "source": "x"})},
            {"messages": [{"role": "user", "content": ["x"]}]}, {"tools": {}}, {"tools": ["x"]}, {"stream": "yes"},
            {"thinking": 5}, {"thinking": {"budget_tokens": -1}}, {"model": ""}, {"system": [5]},
            {"messages": user({"type": "document", "source": 5})}, {"tools": [{"type": 5}]},
        ],
    )  # fmt: skip
    def test_what_is_no_request_is_malformed(self, members: dict[str, Any]) -> None:
        with pytest.raises(RequestError):
            request(**members)


class TestUsage:
    def test_what_is_reported_side_by_side_is_added_up(self) -> None:
        assert read_usage(USAGE, "claude-sonnet-5") == Usage(
            input_tokens=1125, output_tokens=15, cache_read_tokens=1000, cache_write_tokens=100,
            cache_write_long_tokens=60, model="claude-sonnet-5", service_tier="standard",
        )  # fmt: skip

    def test_searches_thinking_and_the_fast_mode_are_told(self) -> None:
        more = {
            "server_tool_use": {"web_search_requests": 2},
            "output_tokens_details": {"thinking_tokens": 9},
            "speed": "fast",
        }
        usage = read_usage(USAGE | more, None)
        assert usage is not None
        assert (usage.calls, usage.reasoning_tokens, usage.service_tier) == ((("web_search", 2),), 9, "fast")

    @pytest.mark.parametrize(
        ("more", "tier"),
        [({"inference_geo": "us"}, "us"), ({"inference_geo": "us", "speed": "fast"}, "fast-us"), ({"inference_geo": "global"}, "standard")],
    )  # fmt: skip
    def test_where_it_was_run_is_told(self, more: dict[str, Any], tier: str) -> None:
        usage = read_usage(USAGE | more, "claude-sonnet-5")
        assert usage is not None
        assert usage.service_tier == tier

    @pytest.mark.parametrize(
        "wrong",
        [
            {"input_tokens": -1},
            {"output_tokens": "9"},
            {"input_tokens": None},
            {"cache_creation": 5},
            {"output_tokens": 2**40},
        ],
    )
    def test_figures_that_cannot_be_true_are_none(self, wrong: dict[str, Any]) -> None:
        assert read_usage(USAGE | wrong, "m") is None


def stream_of(answers: Answers) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in answers.events())


class TestStreams:
    @pytest.mark.parametrize("size", [1, 2, 7, 64, 100_000])
    def test_cut_anywhere_it_passes_as_it_came_and_the_last_figures_count(self, size: int) -> None:
        stream, meter = stream_of(Answers()), request(stream=True).meter(200, "text/event-stream; charset=utf-8")
        passed = b"".join(meter.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + meter.finish()
        assert passed == stream
        assert meter.reading().usage == read_usage(USAGE, "claude-sonnet-5")

    def test_one_that_breaks_off_shows_its_text(self) -> None:
        meter = request(stream=True).meter(200, "text/event-stream")
        meter.feed(stream_of(Answers(ends=False)))
        reading = meter.reading()
        assert (reading.usage, reading.complete, reading.output_seen) == (None, False, "Gatesstandinwalls.")

    @pytest.mark.parametrize("at", range(0, 900, 37))
    def test_rubbish_is_never_raised_on(self, at: int) -> None:
        stream = stream_of(Answers())
        meter = request(stream=True).meter(200, "text/event-stream")
        meter.feed(stream[:at] + b"\xff\0{" + stream[at + 3 :])
        meter.finish()
        meter.reading()


_COUNT = st.integers(0, 200_000)


@given(
    model=st.sampled_from(MODELS),
    text=st.text(max_size=60),
    cap=st.integers(1, 64_000),
    fast=st.booleans(),
    searches=st.integers(0, 3),
    split=st.tuples(_COUNT, _COUNT, _COUNT, _COUNT),
    share=st.integers(0, 100),
)
def test_no_usage_that_a_call_allows_costs_more_than_it_wants(
    model: str, text: str, cap: int, fast: bool, searches: int, split: tuple[int, int, int, int], share: int
) -> None:
    price = PRICES.lookup(model, "anthropic").price
    assert price is not None
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": searches}] if searches else None
    messages = [{"role": "user", "content": text or "x"}]
    call = request(model=model, max_tokens=cap, messages=messages, tools=tools, speed="fast" if fast else None).call
    if (fast and price.tier("fast") is None) or (
        searches and (not price.fee("web_search") or not price.context_tokens)
    ):
        return
    most = call.input_tokens_max + (price.context_tokens or 0) * call.context_windows
    whole = most * share // 100
    parts = [whole * part // max(1, sum(split)) for part in split]
    usage = Usage(
        input_tokens=whole, output_tokens=cap, cache_read_tokens=parts[0], cache_write_tokens=parts[1] + parts[2],
        cache_write_long_tokens=parts[2], service_tier="fast" if fast else "standard",
        calls=(("web_search", searches),) if searches else (),
    )  # fmt: skip
    assert cost(price, usage, call.service_tier) <= quote(price, call, 512).want_nano

"""Responses: no usage that a request allows costs more than it wants, and no answer makes a meter raise."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.responses import Answers
from tokengate.domain import Usage
from tokengate.pricing import PriceTable, UnpricedWindow, cost, quote
from tokengate.providers.openai.responses import Responses, ResponsesRequest
from tokengate.resources import pricing_file

PRICES = PriceTable.parse(pricing_file().read_bytes())
MODELS = sorted(name for name, row in PRICES.sections["openai"].rows.items() if row.price.fee("web_search") is not None)


def request(**members: Any) -> ResponsesRequest:
    return Responses().parse(json.dumps({"model": "gpt-5-mini", "input": "hi"} | members).encode())


@given(
    model=st.sampled_from(MODELS),
    text=st.text(max_size=40),
    cap=st.integers(1, 64_000),
    searches=st.integers(0, 3),
    kept=st.booleans(),
    cached=st.integers(0, 100),
    tier=st.sampled_from(["", "flex", "priority"]),
)
def test_no_usage_that_a_request_allows_costs_more_than_it_wants(
    model: str, text: str, cap: int, searches: int, kept: bool, cached: int, tier: str
) -> None:
    price = PRICES.lookup(model).price
    assert price is not None
    if tier and price.tier(tier) is None:
        return
    members: dict[str, Any] = {"model": model, "input": text, "max_output_tokens": cap}
    if searches:
        members |= {"tools": [{"type": "web_search"}], "max_tool_calls": searches}
    if kept:
        members["previous_response_id"] = "resp_1"
    call = request(**members, **({"service_tier": tier} if tier else {})).call
    try:
        bounds = quote(price, call, 512)
    except UnpricedWindow:
        return
    most = call.input_tokens_max + (price.context_tokens or 0) * call.context_windows
    usage = Usage(
        input_tokens=most, output_tokens=cap, cache_read_tokens=most * cached // 100, reasoning_tokens=cap // 2,
        service_tier=tier or "default", calls=(("web_search", searches),) if searches else (),
    )  # fmt: skip
    assert cost(price, usage, call.service_tier) <= bounds.want_nano


@given(junk=st.binary(max_size=200), at=st.integers(0, 900), size=st.integers(1, 300))
def test_no_stream_makes_a_meter_raise_or_changes_on_its_way(junk: bytes, at: int, size: int) -> None:
    stream = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in Answers().events())
    stream = stream[:at] + junk + stream[at:]
    meter = request(stream=True).meter(200, "text/event-stream")
    passed = (
        b"".join(meter.feed(stream[start : start + size]) for start in range(0, len(stream), size)) + meter.finish()
    )
    assert passed == stream
    reading = meter.reading()
    assert reading.usage is not None or reading.hidden_output or reading.output_bytes_seen >= 0


def test_texts_are_counted_wherever_they_are_and_pictures_are_not() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 4000}
    items = [{"role": "user", "content": [{"type": "input_text", "text": "w " * 50}, picture]}]
    made = request(input=items, instructions="i " * 30, tools=[{"type": "function", "name": "f", "parameters": {}}])
    counted = made.count_input(lambda text: len(text.split()))
    assert 80 <= counted - made.call.input_tokens_max + made.call.text_bytes < 4000
    assert counted <= made.call.input_tokens_max

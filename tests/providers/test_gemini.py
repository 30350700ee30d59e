"""Gemini's requests and answers: what is bounded, what is refused, and what is read of what was used."""

import base64
import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.gemini import USAGE, Answers
from tokengate.bodies import MalformedRequest, RequestError, UnpricedFeature
from tokengate.domain import Usage
from tokengate.pricing import PriceTable, cost, quote
from tokengate.providers.gemini.contents import image_tokens
from tokengate.providers.gemini.meters import read_usage
from tokengate.providers.gemini.requests import BatchEmbedContents, EmbedContent, GeminiRequest, GenerateContent
from tokengate.resources import pricing_file

PRICES = PriceTable.parse(pricing_file().read_bytes())
MODELS = sorted(
    name
    for name, row in PRICES.sections["google"].rows.items()
    if name.startswith("gemini") and row.price.brackets[0].rates.output
)
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (960).to_bytes(4) + (540).to_bytes(4) + b"\x08\x06\0\0\0"
).decode()


class At:
    """The head of a request."""

    query = b""
    content_type: bytes | None = None
    given: MappingProxyType[bytes, bytes] = MappingProxyType({})

    def __init__(self, path: str) -> None:
        self.raw_path = path.encode()


def request(model: str = "gemini-2.5-flash", *, stream: bool = False, **members: Any) -> GeminiRequest:
    document = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]} | members
    return GenerateContent(stream=stream).parse(
        json.dumps(document).encode(), At(f"/v1beta/models/{model}:generateContent")
    )


def parts(*found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "parts": list(found)}]


class TestBounds:
    def test_the_model_stands_in_the_path(self) -> None:
        assert request("gemini-2.5-pro").call.model == "gemini-2.5-pro"
        for path in (
            "/v1beta/models/:generateContent",
            "/v1beta/models/a%2Fb:generateContent",
            "/v1beta/tunedModels/x:y",
        ):
            with pytest.raises(MalformedRequest):
                GenerateContent(stream=False).parse(b'{"contents":[{}]}', At(path))

    @pytest.mark.parametrize(
        ("width", "height", "least"), [(300, 300, 258), (960, 540, 6 * 258), (3000, 100, 12 * 258)]
    )
    def test_an_image_counts_by_its_size(self, width: int, height: int, least: int) -> None:
        assert least <= image_tokens(width, height) <= 40 * 258

    def test_media_are_no_text(self) -> None:
        call = request(contents=parts({"inlineData": {"mimeType": "image/png", "data": PNG}})).call
        assert (call.input_tokens_max - call.text_bytes, call.context_windows, call.input_images) == (2240, 0, True)

    @pytest.mark.parametrize(
        "part",
        [
            {"inlineData": {"mimeType": "audio/ogg", "data": "AAAA"}}, {"file_data": {"file_uri": "https://x.example/a"}},
            {"inline_data": {"mime_type": "application/pdf", "data": "AAAA"}},
            {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        ],
    )  # fmt: skip
    def test_what_only_the_provider_can_measure_is_a_window(self, part: dict[str, Any]) -> None:
        assert request(contents=parts(part, part)).call.context_windows == 1

    def test_what_is_kept_in_a_cache_is_a_window(self) -> None:
        assert request(cachedContent="cachedContents/1").call.context_windows == 1

    def test_candidates_and_caps_in_either_spelling(self) -> None:
        call = request(generation_config={"max_output_tokens": 50, "candidateCount": 3}).call
        assert (call.output_tokens_asked, call.answers) == (50, 3)

    def test_a_cap_goes_where_the_body_has_its_like(self) -> None:
        made = request(generation_config={"max_output_tokens": 900, "topP": 1})
        assert json.loads(made.body(70))["generation_config"] == {"max_output_tokens": 70, "topP": 1}
        assert json.loads(request().body(70))["generationConfig"] == {"maxOutputTokens": 70}


class TestRefusals:
    @pytest.mark.parametrize("tool", ["googleSearch", "google_maps"])
    @pytest.mark.parametrize("model", ["gemini-3.5-flash", "gemini-flash-latest", "gemini-4-argon"])
    def test_a_model_that_bills_every_query_cannot_be_grounded(self, model: str, tool: str) -> None:
        with pytest.raises(UnpricedFeature, match="every query"):
            request(model, tools=[{tool: {}}])

    @pytest.mark.parametrize(
        "members",
        [
            {"tools": [{"googleSearchRetrieval": {}}]}, {"tools": [{"googleSearch": {}, "codeExecution": {}}]}, {"tools": [{"url_context": {}}]}, {"tools": [{"codeExecution": {}}]},
            {"tools": [{"a_tool_to_come": {}}]}, {"generationConfig": {"responseModalities": ["IMAGE"]}},
            {"contents": parts({"hologram": {}})}, {"automaticContinuation": True}, {"continuation_token": "x"},
        ],
    )  # fmt: skip
    def test_what_has_no_price_is_named(self, members: dict[str, Any]) -> None:
        with pytest.raises(UnpricedFeature):
            request(**members)

    @pytest.mark.parametrize(
        "members",
        [
            {"contents": []}, {"contents": "hi"}, {"contents": [5]}, {"contents": [{"parts": "x"}]},
            {"generationConfig": {"maxOutputTokens": 5}, "generation_config": {}}, {"generationConfig": 5},
            {"generationConfig": {"maxOutputTokens": 5, "max_output_tokens": 6}}, {"tools": {}}, {"tools": [5]},
            {"generationConfig": {"maxOutputTokens": -5}}, {"generationConfig": {"maxOutputTokens": "5"}},
            {"generationConfig": {"candidateCount": 9}}, {"serviceTier": 5},
            {"contents": parts({"inlineData": {"data": "x"}})}, {"contents": parts({"inlineData": 5})},
        ],
    )  # fmt: skip
    def test_what_is_no_request_is_malformed(self, members: dict[str, Any]) -> None:
        with pytest.raises(RequestError):
            request(**members)

    def test_embeddings_of_another_model_than_the_paths_are_refused(self) -> None:
        head = At("/v1beta/models/gemini-embedding-001:batchEmbedContents")
        text = {"parts": [{"text": "hi"}]}
        one = {"model": "models/gemini-embedding-001", "content": text}
        assert BatchEmbedContents().parse(json.dumps({"requests": [one]}).encode(), head).call.produces_output is False
        others: tuple[dict[str, Any], ...] = (
            {"requests": [one | {"model": "models/dear"}]},
            {"requests": []},
            {"requests": [5]},
        )
        for other in others:
            with pytest.raises(RequestError):
                BatchEmbedContents().parse(json.dumps(other).encode(), head)
        with pytest.raises(RequestError):
            EmbedContent().parse(json.dumps({"model": "models/dear", "content": text}).encode(), head)


class TestUsage:
    def test_thoughts_are_output_and_the_cache_is_a_part_of_the_prompt(self) -> None:
        assert read_usage({"usageMetadata": USAGE, "modelVersion": "m"}) == Usage(
            input_tokens=1200, output_tokens=50, cache_read_tokens=1000, reasoning_tokens=30, model="m"
        )

    def test_what_tools_were_shown_and_sound_are_told_apart(self) -> None:
        more = {
            "toolUsePromptTokenCount": 40, "trafficType": "ON_DEMAND_FLEX",
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 300}, {"modality": "TEXT", "tokenCount": 900}],
        }  # fmt: skip
        usage = read_usage({"usageMetadata": USAGE | more})
        assert usage is not None
        assert (usage.input_tokens, usage.input_audio_tokens, usage.service_tier) == (1240, 300, "flex")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"promptTokenCount": -1},
            {"thoughtsTokenCount": "9"},
            {"candidatesTokenCount": 2**40},
            {"promptTokenCount": 0},
        ],
    )
    def test_figures_that_cannot_be_true_are_none(self, wrong: dict[str, Any]) -> None:
        assert read_usage({"usageMetadata": USAGE | wrong}) is None

    @pytest.mark.parametrize("size", [1, 3, 64, 100_000])
    def test_a_stream_cut_anywhere_passes_as_it_came(self, size: int) -> None:
        stream = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in Answers().chunks()).encode()
        meter = request(stream=True).meter(200, "text/event-stream")
        passed = b"".join(meter.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + meter.finish()
        assert passed == stream
        reading = meter.reading()
        assert (reading.complete, reading.usage) == (True, read_usage(Answers().chunks()[-1]))

    @pytest.mark.parametrize("content", [b"", b"[", b"5", b"[5]", b"{}", b"\xff\0", b'{"usageMetadata":5}'])
    def test_rubbish_is_never_raised_on_and_never_free(self, content: bytes) -> None:
        for kind in ("application/json", "text/event-stream"):
            meter = request().meter(200, kind)
            meter.feed(content)
            meter.finish()
            reading = meter.reading()
            assert (reading.usage, reading.hidden_output) == (None, True)


@given(
    model=st.sampled_from(MODELS),
    text=st.text(max_size=60),
    cap=st.integers(1, 64_000),
    answers=st.integers(1, 8),
    cached=st.integers(0, 100),
    tier=st.sampled_from(["", "flex", "priority"]),
)
def test_no_usage_that_a_call_allows_costs_more_than_it_wants(
    model: str, text: str, cap: int, answers: int, cached: int, tier: str
) -> None:
    price = PRICES.lookup(model, "google").price
    assert price is not None
    if tier and price.tier(tier) is None:
        return
    settings = {"maxOutputTokens": cap, "candidateCount": answers}
    members: dict[str, Any] = {"serviceTier": tier} if tier else {}
    call = request(model, contents=parts({"text": text or "x"}), generationConfig=settings, **members).call
    usage = Usage(
        input_tokens=call.input_tokens_max, output_tokens=cap * answers, reasoning_tokens=cap // 2,
        cache_read_tokens=call.input_tokens_max * cached // 100,
    )  # fmt: skip
    assert cost(price, usage, call.service_tier) <= quote(price, call, 512).want_nano


SEARCHED: dict[str, Any] = {"webSearchQueries": ["gates"], "groundingChunks": [{"web": {"uri": "https://a.example"}}]}
FOUND: dict[str, Any] = {"groundingChunks": [{"maps": {"placeId": "p"}}]}


class TestGrounding:
    @pytest.mark.parametrize(("tool", "fee"), [("google_search", "web_search"), ("googleMaps", "google_maps")])
    def test_it_is_held_for_once_and_so_is_what_it_finds(self, tool: str, fee: str) -> None:
        call = request("gemini-2.5-pro", tools=[{tool: {}}]).call
        assert (call.fees, call.context_windows) == (((fee, 1),), 1)
        price = PRICES.lookup("gemini-2.5-pro", "google").price
        assert price is not None
        fee_nano = {"web_search": 35_000_000, "google_maps": 25_000_000}[fee]
        assert price.fee(fee) == fee_nano
        assert quote(price, call, 512).want_nano > 1_048_576 * 2_500 + fee_nano

    @pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
    @pytest.mark.parametrize(
        ("metadata", "calls"),
        [
            (SEARCHED, (("web_search", 1),)), (FOUND, (("google_maps", 1),)),
            (SEARCHED | {"googleMapsWidgetContextToken": "t"}, (("google_maps", 1), ("web_search", 1))),
            ({}, ()), ({"webSearchQueries": []}, ()), (None, ()), (5, ()), ({"groundingChunks": [5]}, ()),
        ],
    )  # fmt: skip
    def test_it_is_charged_once_if_the_answer_was_grounded(self, content_type: str, metadata: Any, calls: Any) -> None:
        asked = request("gemini-2.5-pro", tools=[{"googleSearch": {}}, {"googleMaps": {}}])
        grounded = {"candidates": [{"groundingMetadata": metadata}], "usageMetadata": USAGE}
        told = json.dumps(grounded).encode()
        meter = asked.meter(200, content_type)
        for _ in range(2 if content_type != "application/json" else 1):  # each chunk tells it again
            meter.feed(b"data: " + told + b"\n\n" if content_type != "application/json" else told)
        meter.finish()
        usage = meter.reading().usage
        assert usage is not None
        assert usage.calls == calls

    def test_what_was_not_asked_for_is_not_charged(self) -> None:
        meter = request("gemini-2.5-pro").meter(200, "application/json")
        meter.feed(json.dumps({"candidates": [{"groundingMetadata": SEARCHED}], "usageMetadata": USAGE}).encode())
        meter.finish()
        usage = meter.reading().usage
        assert usage is not None
        assert usage.calls == ()

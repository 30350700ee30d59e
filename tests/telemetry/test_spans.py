"""Spans, as a real receiver gets them from real gates; and that no gate suffers from a receiver that is none."""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis
from msgspec.structs import replace
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes, url_attributes

from tests.support.gate import ROOT, Process, Provider, gate_processes, simulated, until
from tests.support.otlp import Receiver, Span, otlp_receiver
from tests.support.redis_server import Server
from tests.support.samples import OPENMETRICS, scrape
from tests.support.scene import CHAT, chat, client, fixed, headers
from tests.support.servers import free_port
from tokengate.domain import Ending, Outcome, Session, Trace
from tokengate.telemetry.otlp import request
from tokengate.telemetry.spans import OPERATIONS, PROVIDERS, Settling, Spans, made

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN: Final = "b7ad6b7169203331"
FAST: Final = {"otel_bsp_schedule_delay": 20}


@asynccontextmanager
async def traced(
    store: Server, receiver: Receiver, **settings: Any
) -> AsyncIterator[tuple[Provider, Process, httpx.AsyncClient]]:
    """A gate whose spans go to a receiver."""
    given = {"otel_exporter_otlp_endpoint": receiver.url, **FAST, **settings}
    async with (
        simulated() as provider,
        gate_processes(1, provider.base_url, store.url, **given) as [gate],
        client(gate.url) as http,
    ):
        yield provider, gate, http


async def arrived(receiver: Receiver, spans: int) -> list[Span]:
    await until(lambda: len(receiver.spans) >= spans)
    return receiver.spans


async def logged(gate: Process, requests: int = 1) -> list[dict[str, Any]]:
    """The lines of so many requests, which are written some time after they ended."""
    await until(lambda: len(gate.said("request")) >= requests)
    return gate.said("request")


class TestReceived:
    async def test_a_call_is_four_spans_of_the_callers_trace(self, store: Server, redis_cli: "redis.Redis") -> None:
        call = fixed()
        async with otlp_receiver() as receiver, traced(store, receiver, agent="crawler") as (provider, gate, http):
            sent = headers("mine", call.simulate) | {
                "traceparent": f"00-{TRACE}-{SPAN}-01",
                "tracestate": "vendor=1",
                "baggage": "secret=1",
            }
            # A store that does not have a script yet is told a second time, which is no call's fault.
            await http.post(CHAT, content=call.body, headers=headers("first", call.simulate))
            await arrived(receiver, 4)
            before_ns = time.time_ns()
            answer = await http.post(CHAT, content=call.body, headers=sent)
            assert answer.status_code == 200
            await arrived(receiver, 8)
            after_ns = time.time_ns()
            [_, line] = await logged(gate, 2)
            told = provider.headers()
        spans = receiver.traces()[TRACE]
        assert set(spans) == {"server", "reserve", "client", "settle"}
        server, reserve, called, settle = (spans[name] for name in ("server", "reserve", "client", "settle"))
        assert server.parent_id == SPAN
        assert {reserve.parent_id, called.parent_id, settle.parent_id} == {server.span_id}
        assert len({span.span_id for span in spans.values()}) == 4
        assert {span.state for span in spans.values()} == {"vendor=1"}
        assert server.name == "POST /v1/chat/completions"
        assert called.name == "chat gpt-4o-mini"
        # As milliseconds of a clock and microseconds since then.
        assert before_ns - 1_000_000 <= server.start_ns <= reserve.start_ns < reserve.end_ns <= called.start_ns
        assert called.start_ns < called.end_ns <= server.end_ns <= after_ns
        assert settle.start_ns < settle.end_ns <= after_ns
        assert server.attributes == {
            "http.request.method": "POST",
            "http.route": CHAT,
            "url.path": CHAT,
            "url.scheme": "http",
            "http.response.status_code": 200,
            "tokengate.request_id": answer.headers["x-tokengate-request-id"],
            "tokengate.tenant": "default",
            "tokengate.agent": "crawler",
            "tokengate.session": "mine",
            "tokengate.decision": "allowed",
            "tokengate.estimate_usd": line["estimated_cost"],
            "tokengate.hold_usd": line["held"],
            "tokengate.cost_usd": call.cost_nano / 1e9,
            "tokengate.ending": "complete",
        }
        assert reserve.attributes == {}
        assert settle.attributes == {"tokengate.cost_usd": call.cost_nano / 1e9}
        assert called.attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.response.model": answer.json()["model"],
            "gen_ai.usage.input_tokens": line["input_tokens"],
            "gen_ai.usage.output_tokens": line["output_tokens"],
        }
        assert not any(span.error for span in spans.values())
        assert server.resource["service.name"] == "tokengate"
        assert server.resource["service.version"]
        assert (line["trace_id"], line["span_id"]) == (TRACE, server.span_id)
        # Not a word of it to the provider, unless it is to be told.
        assert not {"traceparent", "tracestate", "baggage"} & set(told)

    async def test_a_stream_has_its_first_piece(self, store: Server) -> None:
        async with otlp_receiver() as receiver, traced(store, receiver) as (_, gate, http):
            answer = await http.post(CHAT, content=chat(stream=True), headers=headers("s", "ttft_ms:50"))
            assert answer.status_code == 200
            await arrived(receiver, 4)
            [line] = await logged(gate)
        (spans,) = receiver.traces().values()
        attributes = spans["client"].attributes
        assert attributes["gen_ai.request.stream"] is True
        assert 0.045 <= attributes["gen_ai.response.time_to_first_chunk"] <= line["first_byte_ms"] / 1000

    async def test_refused_failed_and_free(self, store: Server) -> None:
        async with (
            otlp_receiver() as receiver,
            traced(store, receiver, default_budget="0.001", upstream_read_timeout_s=1) as (_, _, http),
        ):
            refused = await http.post(CHAT, content=chat(max_tokens=16_000), headers=headers("a"))
            failed = await http.post(CHAT, content=chat(max_tokens=16), headers=headers("b", "server_error"))
            free = await http.get("/v1/models")
            unknown = await http.get("/v1/nowhere")
            assert [each.status_code for each in (refused, failed, free, unknown)] == [429, 500, 200, 404]
            await arrived(receiver, 2 + 4 + 2 + 1)
        by_status = {
            spans["server"].attributes["http.response.status_code"]: spans for spans in receiver.traces().values()
        }
        assert set(by_status[429]) == {"server", "reserve"}
        assert by_status[429]["server"].attributes["tokengate.decision"] == "blocked"
        assert by_status[429]["server"].attributes["tokengate.reason"] == "budget_exceeded"
        assert not by_status[429]["server"].error
        assert set(by_status[500]) == {"server", "reserve", "client", "settle"}
        assert by_status[500]["client"].error
        assert by_status[500]["client"].attributes["error.type"] == "500"
        assert by_status[500]["server"].error
        assert by_status[500]["server"].attributes["tokengate.cost_usd"] == 0
        assert set(by_status[200]) == {"server", "client"}
        assert by_status[200]["client"].name == "GET /v1/models"
        assert set(by_status[404]) == {"server"}
        assert by_status[404]["server"].name == "GET"
        assert by_status[404]["server"].attributes["url.path"] == "/v1/nowhere"

    async def test_a_provider_is_told_if_that_is_wanted(self, store: Server) -> None:
        async with (
            otlp_receiver() as receiver,
            traced(store, receiver, trace_propagate_upstream="true") as (provider, _, http),
        ):
            sent = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1", "baggage": "secret=1"}
            await http.post(CHAT, content=chat(), headers=headers("s") | sent)
            told = provider.headers()
            await arrived(receiver, 4)
        spans = receiver.traces()[TRACE]
        assert told["traceparent"] == f"00-{TRACE}-{spans['client'].span_id}-01"
        assert told["tracestate"] == "vendor=1"
        assert "baggage" not in told

    async def test_the_standard_variables_count(self, store: Server) -> None:
        variables = {
            "otel_service_name": "my-gate",
            "otel_resource_attributes": "deployment.environment.name=test",
            "otel_exporter_otlp_headers": "x-token=abc",
            "otel_exporter_otlp_compression": "gzip",
            "otel_traces_sampler": "parentbased_always_off",
        }
        async with otlp_receiver() as receiver, traced(store, receiver, **variables) as (_, gate, http):
            await http.post(CHAT, content=chat(), headers=headers("s"))
            sampled = headers("s") | {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            await http.post(CHAT, content=chat(), headers=sampled)
            unsampled = headers("s") | {"traceparent": f"00-{TRACE[::-1]}-{SPAN}-00"}
            await http.post(CHAT, content=chat(), headers=unsampled)
            await arrived(receiver, 4)
            lines = await logged(gate, 3)
            found = await scrape(http, accept=OPENMETRICS)
            gate.signal(signal.SIGTERM)
            assert await gate.ended() == 0
        assert set(receiver.traces()) == {TRACE}
        assert receiver.spans[0].resource["service.name"] == "my-gate"
        assert receiver.spans[0].resource["deployment.environment.name"] == "test"
        assert receiver.requests[0]["x-token"] == "abc"
        assert receiver.requests[0]["content-encoding"] == "gzip"
        assert set(receiver.paths) == {"/v1/traces"}
        # Every line has its trace, sampled or not; an exemplar is only what can be looked up.
        assert [line["trace_id"] for line in lines][1:] == [TRACE, TRACE[::-1]]
        exemplars = {sample.exemplar.labels["trace_id"] for sample in found.all if sample.exemplar}
        assert exemplars == {TRACE}

    async def test_what_is_left_is_sent_before_the_gate_ends(self, store: Server) -> None:
        async with (
            otlp_receiver() as receiver,
            traced(store, receiver, otel_bsp_schedule_delay=3_600_000) as (_, gate, http),
        ):
            await http.post(CHAT, content=chat(), headers=headers("s"))
            await logged(gate)
            assert receiver.spans == []
            gate.signal(signal.SIGTERM)
            assert await gate.ended() == 0
        assert len(receiver.spans) == 4


class TestReceiverThatIsNone:
    async def test_calls_go_on_and_what_is_lost_is_counted_and_said_once(self, store: Server) -> None:
        nobody = Receiver(f"http://127.0.0.1:{free_port()}")
        async with traced(store, nobody, otel_exporter_otlp_timeout=1) as (_, gate, http):
            for _ in range(5):
                assert (await http.post(CHAT, content=chat(), headers=headers("s"))).status_code == 200
                await asyncio.sleep(0.05)
            found = await scrape(http)
            async with asyncio.timeout(20):
                while found.value("traced_requests_total", result="failed") < 5:
                    await asyncio.sleep(0.05)
                    found = await scrape(http)
            gate.signal(signal.SIGTERM)
            assert await gate.ended() == 0
            said = [line["event"] for line in gate.lines if line["event"] not in ("request", "serving", "stopped")]
        assert found.value("traced_requests_total", result="exported") == 0
        assert said.count("spans are not taken by their receiver; they are lost") == 1

    async def test_it_is_said_when_it_is_back(self, store: Server) -> None:
        async with otlp_receiver() as receiver, traced(store, receiver) as (_, gate, http):
            receiver.status = 400
            await http.post(CHAT, content=chat(), headers=headers("s"))
            await until(lambda: bool(gate.said("spans are not taken by their receiver; they are lost")))
            receiver.status = 200
            await http.post(CHAT, content=chat(), headers=headers("s"))
            await until(lambda: bool(gate.said("spans are taken again by their receiver")))


class Stuck:
    """A receiver that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.batches: list[list[str]] = []

    def send(self, encoded: bytes) -> bool:
        self.go_on.wait(20)
        receiver = Receiver()
        receiver.take(encoded)
        self.batches.append([span.name for span in receiver.spans])
        return True

    def shutdown(self) -> None:
        self.go_on.set()


class TestBounds:
    OUTCOME: Final = Outcome(
        "r", "chat_completions", Session("s"), "gpt-4o-mini", stream=False, status=200, decision="allowed",
        ending=Ending.COMPLETE, dispatched_us=10, admitted_us=5, duration_us=20, method="POST", route=CHAT, path=CHAT,
        provider="openai", trace=Trace(TRACE, SPAN, sampled=True),
    )  # fmt: skip

    def made(self, **environ: str) -> tuple[Spans, Stuck, dict[str, int]]:
        counted: dict[str, int] = {}

        def count(result: str, requests: int) -> None:
            counted[result] = counted.get(result, 0) + requests

        exporter = Stuck()
        return Spans(exporter, {}, count, environ), exporter, counted

    def test_what_does_not_fit_is_dropped_and_counted(self) -> None:
        spans, exporter, counted = self.made(OTEL_BSP_MAX_QUEUE_SIZE="50", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="10")
        for _ in range(200):
            spans.put(self.OUTCOME)
        assert 50 <= 200 - counted["dropped"] <= 60 + 10
        exporter.go_on.set()
        spans.close()
        assert counted["exported"] + counted["dropped"] == 200
        assert max(map(len, exporter.batches)) == 30

    def test_a_batch_is_sent_at_once(self) -> None:
        spans, exporter, counted = self.made(OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2", OTEL_BSP_SCHEDULE_DELAY="3600000")
        exporter.go_on.set()
        spans.put(self.OUTCOME)
        spans.put(Settling(Trace(TRACE, SPAN, sampled=True), 1, 2, 3, known=False))
        wait(lambda: counted.get("exported") == 1)
        assert exporter.batches == [["POST /v1/chat/completions", "reserve", "chat gpt-4o-mini", "settle"]]
        spans.close()

    def test_a_stop_does_not_wait_for_a_receiver_that_is_stuck(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tokengate.telemetry.spans.CLOSE_S", 0.05)
        spans, exporter, _ = self.made()
        spans.put(self.OUTCOME)
        spans.close()
        assert exporter.batches == []

    def test_ids_of_children_are_none_of_their_parents(self) -> None:
        receiver = Receiver()
        settling = Settling(Trace(TRACE, SPAN, sampled=True), 1, 2, 3, known=True)
        receiver.take(request({}, ("", ""), [span for each in (self.OUTCOME, settling) for span in made(each)]))
        assert len({span.span_id for span in receiver.spans}) == 4

    @pytest.mark.parametrize("number", ["many", "-1", "0"])
    def test_a_number_that_is_none_is_no_fault(self, number: str) -> None:
        spans, exporter, counted = self.made(OTEL_BSP_MAX_QUEUE_SIZE=number)
        exporter.go_on.set()
        spans.put(replace(self.OUTCOME))
        spans.close()
        assert counted == {"exported": 1}


def wait(happened: Callable[[], bool]) -> None:
    for _ in range(2000):
        if happened():
            return
        time.sleep(0.005)
    raise TimeoutError


class TestNames:
    def test_they_are_those_of_the_conventions(self) -> None:
        source = (ROOT / "tokengate" / "telemetry" / "spans.py").read_text()
        known = {
            value
            for module in (gen_ai_attributes, http_attributes, url_attributes, error_attributes)
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str)
        }
        used = set(re.findall(r'"((?:gen_ai|http|url|error)\.[a-z_.]+)"', source))
        assert len(used) >= 15
        assert used <= known

    def test_operations_and_providers_are_known_ones(self) -> None:
        assert set(OPERATIONS.values()) <= {each.value for each in gen_ai_attributes.GenAiOperationNameValues}
        assert set(PROVIDERS.values()) <= {each.value for each in gen_ai_attributes.GenAiProviderNameValues}


class TestOff:
    async def test_nothing_of_opentelemetry_is_loaded(self, store: Server) -> None:
        async with (
            simulated() as provider,
            gate_processes(1, provider.base_url, store.url) as [off],
            otlp_receiver() as receiver,
            traced(store, receiver) as (_, on, http),
            client(off.url) as plain,
        ):
            for each in (http, plain):
                assert (await each.post(CHAT, content=chat(), headers=headers("s"))).status_code == 200
            await scrape(plain)
            # Its protobuf is machine code, and the one part of it that can be seen from outside.
            assert "_upb" in maps(on)
            assert "_upb" not in maps(off)
            [line] = await logged(off)
        assert "trace_id" not in line

    async def test_the_context_passes_to_the_provider_if_that_is_wanted(self, store: Server) -> None:
        given = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "vendor=1"}
        async with (
            simulated() as provider,
            gate_processes(1, provider.base_url, store.url, trace_propagate_upstream="true") as [gate],
            client(gate.url) as http,
        ):
            await http.post(CHAT, content=chat(), headers=headers("s") | given)
            told = provider.headers()
            [line] = await logged(gate)
        assert given.items() <= told.items()
        assert line["trace_id"] == TRACE
        assert "span_id" not in line

    async def test_without_the_package_it_is_said_and_calls_go_on(self, store: Server, tmp_path: Path) -> None:
        (tmp_path / "opentelemetry").mkdir()
        (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError(name='opentelemetry')")
        path = f"{tmp_path}{os.pathsep}{ROOT}"
        async with (
            simulated() as provider,
            gate_processes(
                1, provider.base_url, store.url, pythonpath=path, otel_exporter_otlp_endpoint="http://127.0.0.1:9"
            ) as [gate],
            client(gate.url) as http,
        ):
            assert (await http.post(CHAT, content=chat(), headers=headers("s"))).status_code == 200
            assert len(gate.said("traces are wanted, and OpenTelemetry is not there: install tokengate[otel]")) == 1


def maps(gate: Process) -> str:
    return Path(f"/proc/{gate.process.pid}/maps").read_text()

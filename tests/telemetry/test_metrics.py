"""What is counted: every outcome of real calls, with labels that nobody can multiply, in a form that Prometheus takes."""

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from tests.support.away import Away
from tests.support.gate import INPUT_NANO, OUTPUT_NANO, WAIT_S_MAX, gate
from tests.support.hashes import spent_nano
from tests.support.redis_server import Server
from tests.support.samples import OPENMETRICS, Samples, scrape
from tests.support.scene import chat, client, fixed, headers, parsed, scene
from tests.support.servers import Conversation, raw_server
from tokengate.budgets import TYPICAL_OUTPUT_COLD_TOKENS
from tokengate.domain import Ending, Outcome, Reason, Session, Trace, Usage
from tokengate.telemetry.exposition import FAMILIES, Collector, Exposition, Facts
from tokengate.telemetry.metrics import (
    CALL_ROWS_MAX,
    DURATION_US,
    FIRST_TOKEN_US,
    OTHER,
    OUTCOMES,
    OVERFLOW,
    SHORT_US,
    TENANTS_MAX,
    TIME_ROWS_MAX,
    TOKEN_TYPES,
    Metrics,
    new_counts,
)

FACTS: Final = Facts("1.2.3", "all", "acme", "crawler", lambda: 1_700_000_000.0)
ANSWERED: Final = Outcome(
    request_id="r",
    endpoint="chat_completions",
    session=Session("s", "acme"),
    model="gpt-4o-mini-2024-07-18",
    stream=True,
    status=200,
    decision="allowed",
    ending=Ending.COMPLETE,
    estimated_nano=5000,
    held_nano=4000,
    actual_nano=3000,
    usage=Usage(100, 50, cache_read_tokens=30, cache_write_tokens=20, reasoning_tokens=10),
    started_ms=1_790_000_000_000,
    duration_us=2_000_000,
    overhead_us=700,
    first_byte_us=400_000,
    provider="openai",
    priced_model="gpt-4o-mini",
)


def samples(metrics: Metrics, *others: Metrics) -> Samples:
    registry = CollectorRegistry()
    regions = [metrics.counts, *(other.counts for other in others)]
    registry.register(Collector(regions, metrics.counts, metrics.exemplars, FACTS))
    return Samples(generate_latest(registry).decode())


def refused(reason: Reason, tenant: str = "acme", model: str = "", saved_nano: int = 0) -> Outcome:
    return Outcome(
        "r", "chat_completions", Session("s", tenant), model, stream=False, status=429, decision="blocked",
        reason=reason, error="no", saved_nano=saved_nano, overhead_us=200, provider="openai",
    )  # fmt: skip


@pytest.fixture(params=[False, True], ids=["alone", "shared"])
def metrics(request: pytest.FixtureRequest) -> Metrics:
    return Metrics(new_counts(shared=request.param), "acme")


class TestRecord:
    def test_a_call_counts_once_in_everything_that_it_is(self, metrics: Metrics) -> None:
        metrics.record(ANSWERED)
        metrics.record(replace(ANSWERED, ending=Ending.CUT, assumed=True, actual_nano=6000))
        found = samples(metrics)
        own = {"tenant": "acme", "provider": "openai", "model": "gpt-4o-mini"}
        assert found.by("requests_total", "outcome") == {"complete": 1, "cut": 1}
        assert found.value("requests_total", **own) == 2
        assert found.by("tokens_total", "type") == {
            "input": 100, "output": 80, "cache_read": 60, "cache_write": 40, "reasoning": 20,
        }  # fmt: skip
        assert found.value("cost_usd_total", **own) == 9000 / 1e9
        assert found.value("assumed_usd_total", **own) == 6000 / 1e9
        assert found.value("overrun_usd_total", **own) == 2000 / 1e9
        assert found.value("request_duration_seconds_count", provider="openai", model="gpt-4o-mini") == 2
        assert found.value("request_duration_seconds_sum") == 4.0
        assert found.value("request_duration_seconds_bucket", le="1.0") == 0
        assert found.value("request_duration_seconds_bucket", le="2.5") == 2
        assert found.value("time_to_first_token_seconds_bucket", le="0.5") == 2
        assert found.value("time_to_first_token_seconds_sum") == 0.8
        assert found.value("overhead_seconds_bucket", le="0.0005") == 0
        assert found.value("overhead_seconds_bucket", le="0.001") == 2
        assert found.of("budget_wait_seconds_bucket", le="+Inf")[0].value == 0

    def test_a_time_on_a_bound_is_below_it(self, metrics: Metrics) -> None:
        metrics.record(replace(ANSWERED, duration_us=DURATION_US[0], overhead_us=SHORT_US[0]))
        metrics.record(replace(ANSWERED, duration_us=DURATION_US[0] + 1, overhead_us=SHORT_US[-1] + 1))
        found = samples(metrics)
        assert found.value("request_duration_seconds_bucket", le="0.05") == 1
        assert found.value("overhead_seconds_bucket", le="0.0001") == 1
        assert found.value("overhead_seconds_bucket", le="2.5") == 1
        assert found.value("overhead_seconds_bucket", le="+Inf") == 2

    def test_a_whole_answer_has_no_first_token(self, metrics: Metrics) -> None:
        metrics.record(replace(ANSWERED, stream=False))
        assert samples(metrics).of("time_to_first_token_seconds_count") == []

    def test_parts_that_exceed_their_whole_are_no_negative_tokens(self, metrics: Metrics) -> None:
        metrics.record(replace(ANSWERED, usage=Usage(10, 5, cache_read_tokens=30, reasoning_tokens=9)))
        found = samples(metrics)
        assert found.by("tokens_total", "type") == {"cache_read": 30, "reasoning": 5}

    def test_refusals_count_by_reason_and_only_those_for_good_save(self, metrics: Metrics) -> None:
        metrics.record(refused(Reason.BUDGET_EXCEEDED, saved_nano=5_000_000))
        metrics.record(refused(Reason.BUDGET_BUSY))
        metrics.record(refused(Reason.MODEL_NOT_PRICED, model="made-up"))
        found = samples(metrics)
        assert found.by("blocked_total", "reason") == {
            "budget_exceeded": 1, "budget_busy": 1, "model_not_priced": 1,
        }  # fmt: skip
        assert found.by("saved_usd_total", "reason") == {"budget_exceeded": 0.005}
        assert found.value("unpriced_requests_total", tenant="acme") == 1
        assert found.by("requests_total", "outcome") == {"blocked": 3}
        assert found.by("requests_total", "model") == {OTHER: 3}
        assert found.value("overhead_seconds_count") == 3
        assert found.of("request_duration_seconds_count") == []

    def test_who_left_and_what_was_free_is_neither_refused_nor_charged(self, metrics: Metrics) -> None:
        free = replace(refused(Reason.INTERNAL), decision="allowed", reason=None, status=200, session=None, provider="")
        metrics.record(free)
        metrics.record(replace(free, status=499))
        found = samples(metrics)
        assert found.by("requests_total", "outcome") == {"passed": 1, "left": 1}
        assert found.by("requests_total", "provider") == {"none": 2}
        assert found.by("requests_total", "tenant") == {"acme": 2}

    def test_the_line_is_timed_apart(self, metrics: Metrics) -> None:
        metrics.record(replace(ANSWERED, waited_us=300_000))
        found = samples(metrics)
        assert found.value("budget_wait_seconds_sum") == 0.3
        assert found.value("budget_wait_seconds_bucket", le="0.25") == 0
        assert found.value("budget_wait_seconds_bucket", le="0.5") == 1

    def test_the_store_is_down_until_it_answers(self, metrics: Metrics) -> None:
        assert samples(metrics).value("store_up") == 1
        metrics.unanswered("reserve")
        assert samples(metrics).value("store_up") == 0
        metrics.answered("sweep", 300)
        found = samples(metrics)
        assert found.value("store_up") == 1
        assert found.value("store_errors_total", op="reserve") == 1
        assert found.value("store_operation_seconds_bucket", op="sweep", le="0.0005") == 1
        assert found.value("store_operation_seconds_bucket", op="sweep", le="0.00025") == 0

    def test_every_label_value_that_is_documented_can_come(self, metrics: Metrics) -> None:
        for ending in Ending:
            metrics.record(replace(ANSWERED, ending=ending))
        metrics.record(refused(Reason.BUDGET_EXCEEDED))
        for status in (200, 499):
            metrics.record(replace(refused(Reason.INTERNAL), decision="allowed", reason=None, status=status))
        found = samples(metrics)
        assert set(found.by("requests_total", "outcome")) == set(OUTCOMES)
        assert set(found.by("tokens_total", "type")) == set(TOKEN_TYPES)


class TestCardinality:
    """A caller invents names; what is kept and shown of them has an end."""

    INVENTED: Final = 10_000

    def test_ten_thousand_models_sessions_and_tenants(self, metrics: Metrics) -> None:
        bound = (
            (CALL_ROWS_MAX + 1) * (len(OUTCOMES) + len(TOKEN_TYPES) + 3)
            + (TIME_ROWS_MAX + 1) * (len(DURATION_US) + len(FIRST_TOKEN_US) + 6)
            + (TENANTS_MAX + 2) * (2 * len(Reason) + 1)
            + 500
        )
        for number in range(self.INVENTED):
            session = Session(f"session-{number}", f"tenant-{number}")
            metrics.record(replace(ANSWERED, session=session, model=f"model-{number}", priced_model=f"model-{number}"))
            metrics.record(refused(Reason.SESSION_FROZEN, f"tenant-{number}", f"model-{number}", saved_nano=1))
        found = samples(metrics)
        assert len(found.all) <= bound
        assert found.value("requests_total") == 2 * self.INVENTED
        assert found.value("request_duration_seconds_count") == self.INVENTED
        assert found.value("blocked_total") == self.INVENTED
        assert len(found.by("requests_total", "tenant")) == TENANTS_MAX + 1
        assert found.by("blocked_total", "tenant")[OVERFLOW] == self.INVENTED - TENANTS_MAX
        assert len(found.by("request_duration_seconds_count", "model")) == TIME_ROWS_MAX + 1
        assert "session-" not in found.text

    def test_names_as_long_as_they_may_be_do_not_fill_the_region(self, metrics: Metrics) -> None:
        for number in range(CALL_ROWS_MAX * 2):
            name = f"{number:04}" + "m" * 4000
            metrics.record(replace(ANSWERED, priced_model=name))
        found = samples(metrics)
        assert found.value("requests_total") == CALL_ROWS_MAX * 2
        assert found.value("requests_total", tenant=OVERFLOW, model=OTHER) > 0

    async def test_a_gate_asked_for_models_that_nobody_knows(self, store: Server) -> None:
        async with scene(store.url) as at:
            before = await scrape(at.http)
            await at.ask(model="unknown")
            once = await scrape(at.http)
            for number in range(50):
                await at.ask(f"session-{number}", model=f"invented-{number}")
            after = await scrape(at.http)
        assert len(before.all) < len(once.all) == len(after.all)
        assert after.value("requests_total", model=OTHER, outcome="blocked") == 51


def test_what_rules_refuse_is_counted_apart_from_what_they_would_have(metrics: Metrics) -> None:
    metrics.record(replace(refused(Reason.SESSION_FROZEN), rule="loop"))
    metrics.record(replace(refused(Reason.SESSION_FROZEN), rule="loop"))
    metrics.record(replace(ANSWERED, rule="tool_loop"))
    metrics.record(ANSWERED)
    found = samples(metrics)
    assert found.of("runaway_calls_total", rule="loop", mode="enforce")[0].value == 2
    assert found.of("runaway_calls_total", rule="tool_loop", mode="shadow")[0].value == 1
    assert len(found.of("runaway_calls_total")) == 2


class TestExposition:
    @pytest.fixture
    def filled(self, metrics: Metrics) -> Metrics:
        trace = Trace("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
        metrics.record(replace(ANSWERED, trace=trace, code_class="5xx"))
        metrics.record(replace(ANSWERED, trace=replace(trace, trace_id="f" * 32, sampled=False)))
        metrics.record(refused(Reason.BUDGET_EXCEEDED, saved_nano=1))
        metrics.record(replace(ANSWERED, rule="velocity"))
        metrics.answered("reserve", 300)
        return metrics

    def rendered(self, metrics: Metrics, accept: str) -> tuple[str, str]:
        exposition = Exposition(Collector([metrics.counts], metrics.counts, metrics.exemplars, FACTS))
        content_type, text = asyncio.run(exposition.render(accept))
        return content_type, text.decode()

    def test_it_has_every_family_with_its_type_and_labels(self, filled: Metrics) -> None:
        found = samples(filled)
        for family in FAMILIES.values():
            shown = found.families[family.name.removesuffix("_total") if family.type == "counter" else family.name]
            assert shown.type == family.type
            assert shown.documentation == family.help
            assert shown.samples, family.name
            assert {frozenset(sample.labels) - {"le"} for sample in shown.samples} == {frozenset(family.labels)}
        ours = {name for name in found.families if name.startswith("tokengate_")}
        assert ours == {family.name.removesuffix("_total") for family in FAMILIES.values()}

    def test_promtool_has_nothing_to_say(self, filled: Metrics) -> None:
        tool = shutil.which("promtool")
        assert tool is not None, "install prometheus (apt) to run the tests"
        _, text = self.rendered(filled, "")
        checked = subprocess.run([tool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    def test_openmetrics_has_exemplars_of_sampled_traces_and_an_end(self, filled: Metrics) -> None:
        content_type, text = self.rendered(filled, OPENMETRICS)
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        found = Samples(text, is_openmetrics=True)
        (bucket,) = found.of("request_duration_seconds_bucket", le="2.5")
        assert bucket.exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
        assert bucket.exemplar.value == 2.0
        assert float(bucket.exemplar.timestamp) == 1_790_000_002
        assert [sample.exemplar.value for sample in found.of("overhead_seconds_bucket") if sample.exemplar] == [0.0007]
        assert [s.exemplar.value for s in found.of("time_to_first_token_seconds_bucket") if s.exemplar] == [0.4]
        assert "f" * 32 not in text
        assert text.endswith("\n# EOF\n")
        assert text.count("# EOF") == 1

    def test_the_plain_format_has_no_exemplars_and_the_same_values(self, filled: Metrics) -> None:
        content_type, text = self.rendered(filled, "text/plain")
        assert content_type.startswith("text/plain; version=0.0.4")
        assert "trace_id" not in text
        assert "# EOF" not in text

    @pytest.mark.parametrize("accept", ["application/openmetrics-text;version=one", "text/plain;version=x", "\xff;;,"])
    def test_an_accept_header_that_is_none_gets_the_plain_format(self, filled: Metrics, accept: str) -> None:
        content_type, _ = self.rendered(filled, accept)
        assert content_type.startswith("text/plain")

    def test_scrapes_take_turns_and_let_others_have_theirs(self, filled: Metrics) -> None:
        async def race() -> tuple[list[Any], int]:
            exposition = Exposition(Collector([filled.counts], filled.counts, filled.exemplars, FACTS))
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            texts = await asyncio.gather(*(exposition.render("") for _ in range(3)))
            counting.cancel()
            return texts, turns

        texts, turns = asyncio.run(race())
        families = texts[0][1].count(b"# TYPE")
        assert all(text.count(b"# TYPE") == families for _, text in texts)
        assert turns >= 3 * families


class TestGate:
    """Real calls through a real gate."""

    async def test_calls_of_every_outcome(self, store: Server, redis_cli: Any) -> None:
        call, dear = fixed(), chat(max_tokens=16_000)
        async with scene(store.url, default_budget=call.budget(4), upstream_read_timeout_s=1) as at:
            for _ in range(2):
                assert (await at.post(call.body, "a", call.simulate)).status_code == 200
            assert (await at.post(call.body, "a", f"{call.simulate},server_error")).status_code == 500
            assert (await at.post(call.body, "a", f"{call.simulate},rate_limited")).status_code == 429
            assert (await at.post(call.body, "b", f"{call.simulate},hang_before_headers")).status_code == 504
            assert (await at.post(dear, "c")).status_code == 429
            assert (await at.http.get("/v1/models")).status_code == 200
            assert (await at.http.get("/v1/nothing")).status_code == 404
            await at.gate.idle()
            found = await scrape(at.http)
        assert found.by("requests_total", "outcome") == {
            "complete": 2, "rejected": 2, "unknown": 1, "blocked": 2, "passed": 1,
        }  # fmt: skip
        assert found.by("upstream_errors_total", "code_class") == {"5xx": 1, "429": 1, "timeout": 1}
        assert found.by("blocked_total", "reason") == {"budget_exceeded": 1, "endpoint_not_metered": 1}
        assert found.by("requests_total", "provider") == {"openai": 7, "none": 1}
        spent = spent_nano(redis_cli, "a") + spent_nano(redis_cli, "b")
        assert found.value("cost_usd_total") == pytest.approx(spent / 1e9, rel=1e-12)
        assert found.value("assumed_usd_total") == pytest.approx(spent_nano(redis_cli, "b") / 1e9, rel=1e-12)
        # 16,000 tokens were allowed; an answer of a model that is not known yet is taken to have 512.
        saved_nano = parsed(dear).input_tokens_max * INPUT_NANO + TYPICAL_OUTPUT_COLD_TOKENS * OUTPUT_NANO
        assert found.value("saved_usd_total") == pytest.approx(saved_nano / 1e9, rel=1e-12)
        assert found.value("inflight") == 0
        assert found.value("store_operation_seconds_count", op="reserve") == 6
        assert found.value("store_operation_seconds_count", op="settle") == 5
        assert found.value("workers") == 1

    async def test_what_is_under_way_is_in_flight(self, store: Server) -> None:
        async with scene(store.url) as at:
            call = at.begin(chat(), simulate="hang_before_headers")
            async with asyncio.timeout(WAIT_S_MAX):
                while at.provider.received == 0:
                    await asyncio.sleep(0.01)
            assert (await scrape(at.http)).value("inflight") == 1
            call.cancel()
            await at.gate.idle()
            found = await scrape(at.http)
        assert found.value("inflight") == 0
        assert found.value("requests_total", outcome="unknown") == 1

    async def test_the_providers_time_is_no_overhead(self, store: Server) -> None:
        async def slow(peer: Conversation) -> None:
            await peer.request()
            await asyncio.sleep(0.5)
            await peer.say(b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n")
            await asyncio.sleep(0.5)
            await peer.say(b"{}")

        async with (
            raw_server(slow) as provider,
            gate(f"{provider.url}/v1", store.url) as running,
            client(running.url) as http,
        ):
            await http.post("/v1/chat/completions", content=chat(), headers=headers("s"))
            await running.idle()
            found = await scrape(http)
            [line] = running.lines
        assert found.value("request_duration_seconds_sum") >= 1.0
        assert found.value("overhead_seconds_sum") < found.value("request_duration_seconds_sum") - 1.0
        assert line["overhead_ms"] == pytest.approx(1000 * found.value("overhead_seconds_sum"), abs=0.001)

    async def test_a_slow_caller_is_no_overhead(self, store: Server) -> None:
        body = chat()
        async with scene(store.url) as at:

            async def pieces() -> Any:
                yield body[:10]
                await asyncio.sleep(0.5)
                yield body[10:]

            sent = headers("s") | {"content-length": str(len(body))}
            answer = await at.http.post("/v1/chat/completions", content=pieces(), headers=sent)
            assert answer.status_code == 200
            [line] = await at.gate.log()
        assert line["duration_ms"] >= 500
        assert line["overhead_ms"] <= line["duration_ms"] - 500

    async def test_a_store_that_is_gone_is_down(self, away: Away) -> None:
        async with scene(away.url, store_timeout_ms=100) as at:
            await at.ask()
            await at.gate.idle()
            assert (await scrape(at.http)).value("store_up") == 1
            away.leave()
            assert (await at.ask()).status_code == 503
            down = await scrape(at.http)
            away.come_back()
            assert (await at.ask()).status_code == 200
            up = await scrape(at.http)
        assert down.value("store_up") == 0
        assert down.value("store_errors_total", op="reserve") >= 1
        assert down.value("blocked_total", reason="store_unavailable") == 1
        assert up.value("store_up") == 1

    async def test_calls_admitted_without_the_store_are_a_degraded_gate(self, away: Away, tmp_path: Path) -> None:
        async with scene(away.url, on_store_failure="open", data_dir=tmp_path, store_timeout_ms=100) as at:
            assert (await scrape(at.http)).value("degraded") == 0
            away.leave()
            assert (await at.ask()).status_code == 200
            assert (await scrape(at.http)).value("degraded") == 1
            away.come_back()
            async with asyncio.timeout(WAIT_S_MAX):
                while (await scrape(at.http)).value("degraded"):
                    await asyncio.sleep(0.05)

    async def test_switched_off_nothing_is_counted_or_served(self, store: Server, redis_cli: Any) -> None:
        async with scene(store.url, metrics="false") as at:
            assert (await at.ask()).status_code == 200
            assert (await at.http.get("/metrics")).status_code == 404
        assert not list(redis_cli.scan_iter("*:stats:*"))

    async def test_only_a_get_is_answered(self, store: Server) -> None:
        async with scene(store.url) as at:
            assert (await at.http.post("/metrics")).status_code == 405
            head = await at.http.head("/metrics")
        assert head.status_code == 200
        assert head.content == b""

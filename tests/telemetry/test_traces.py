"""The place of a request in a trace: whose context is taken, what is sampled, and what a provider is told."""

import random
from typing import Final

import pytest
from opentelemetry.sdk.trace.sampling import Decision, Sampler, _get_from_env_or_default
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from tokengate.telemetry.traces import STATE_BYTES_MAX, UPSTREAM, Tracing, child_id, sampler, wanted

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
SPAN: Final = "b7ad6b7169203331"
PARENT: Final = (b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())

ALL: Final = Tracing(sampler({}), propagate=True)


class TestBegin:
    def test_the_callers_context_is_taken(self) -> None:
        trace = ALL.begin([(b"host", b"x"), PARENT, (b"tracestate", b"a=1,b=2")])
        assert trace is not None
        assert (trace.trace_id, trace.parent_span_id, trace.state, trace.sampled) == (TRACE, SPAN, "a=1,b=2", True)
        assert trace.span_id != SPAN

    def test_without_one_a_trace_begins(self) -> None:
        traces = [ALL.begin([(b"tracestate", b"a=1")]) for _ in range(100)]
        assert len({trace.trace_id for trace in traces if trace}) == 100
        for trace in traces:
            assert trace is not None
            assert (len(trace.trace_id), len(trace.span_id), trace.parent_span_id, trace.state) == (32, 16, "", "")

    @pytest.mark.parametrize(
        "parent",
        [
            b"",
            b"nonsense",
            f"00-{TRACE}-{SPAN}".encode(),
            f"00-{TRACE.upper()}-{SPAN}-01".encode(),
            f"00-{'0' * 32}-{SPAN}-01".encode(),
            f"00-{TRACE}-{'0' * 16}-01".encode(),
            f"ff-{TRACE}-{SPAN}-01".encode(),
            f"00-{TRACE}-{SPAN}-01-more".encode(),
            f"00-{TRACE}-{SPAN}-01\n".encode(),
            f"01-{TRACE}-{SPAN}-01more".encode(),
            f" 00-{TRACE}-{SPAN}-01".encode(),
            b"\xff" * 55,
        ],
    )
    def test_what_is_no_context_is_not_taken(self, parent: bytes) -> None:
        trace = ALL.begin([(b"traceparent", parent), (b"tracestate", b"a=1")])
        assert trace is not None
        assert trace.trace_id != TRACE
        assert (trace.parent_span_id, trace.state) == ("", "")

    def test_of_two_contexts_none_is_taken(self) -> None:
        trace = ALL.begin([PARENT, PARENT])
        assert trace is not None
        assert trace.trace_id != TRACE

    def test_a_later_version_is_read_as_far_as_it_is_known(self) -> None:
        trace = ALL.begin([(b"traceparent", f"cc-{TRACE}-{SPAN}-03-what-will-be".encode())])
        assert trace is not None
        assert (trace.trace_id, trace.sampled) == (TRACE, True)

    def test_states_are_joined_and_bounded(self) -> None:
        def state(*states: bytes) -> str:
            trace = ALL.begin([PARENT, *((b"tracestate", each) for each in states)])
            assert trace is not None
            return trace.state

        assert state(b"a=1", b"b=2") == "a=1,b=2"
        assert state(b"a=" + b"x" * (STATE_BYTES_MAX - 2)) != ""
        assert state(b"a=" + b"x" * (STATE_BYTES_MAX - 1)) == ""
        assert state("ü=1".encode()) == ""


class TestUpstream:
    def test_a_provider_is_told_the_span_that_its_answer_has(self) -> None:
        trace = ALL.begin([PARENT, (b"tracestate", b"a=1")])
        assert trace is not None
        assert ALL.upstream_headers(trace) == [
            (b"traceparent", f"00-{TRACE}-{child_id(trace, UPSTREAM)}-01".encode()),
            (b"tracestate", b"a=1"),
        ]

    def test_it_is_told_nothing_unless_that_is_wanted(self) -> None:
        private = Tracing(sampler({}), propagate=False)
        trace = private.begin([PARENT])
        assert trace is not None
        assert private.upstream_headers(trace) == []

    @pytest.mark.parametrize("flags", ["00", "01"])
    def test_without_spans_of_ours_the_callers_context_passes_as_it_is(self, flags: str) -> None:
        passing = Tracing(None, propagate=True)
        given = (b"traceparent", f"00-{TRACE}-{SPAN}-{flags}".encode())
        trace = passing.begin([given])
        assert trace is not None
        assert passing.upstream_headers(trace) == [given]
        assert passing.begin([(b"host", b"x")]) is None


class TestSampler:
    @pytest.mark.parametrize(
        ("name", "argument"),
        [
            ("", ""),
            ("always_on", ""),
            ("always_off", ""),
            ("traceidratio", "0.3"),
            ("traceidratio", "0"),
            ("traceidratio", "1"),
            ("traceidratio", ""),
            ("parentbased_always_on", ""),
            ("parentbased_always_off", ""),
            ("parentbased_traceidratio", "0.3"),
            ("PARENTBASED_TRACEIDRATIO", "0.7"),
        ],
    )
    def test_it_decides_as_the_sdk_does(self, name: str, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
        environ = {"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}
        environ = {key: value for key, value in environ.items() if value}
        for key, value in environ.items():
            monkeypatch.setenv(key, value)
        theirs, ours = _get_from_env_or_default(), sampler(environ)
        source = random.Random(7)
        ids = [source.getrandbits(128) for _ in range(300)]
        ids += [bound << 64 | low for bound in (0, 1) for low in (0, 1, round(0.3 * 2**64) - 1, round(0.3 * 2**64))]
        for number in ids:
            for above in (None, True, False):
                assert ours(number, above) == decides(theirs, number, above), (number, above)

    @pytest.mark.parametrize(
        "environ",
        [
            {"OTEL_TRACES_SAMPLER": "sometimes"},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.1"},
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"},
        ],
    )
    def test_what_is_none_is_reported_and_everything_sampled(
        self, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert sampler(environ)(2**128 - 1, None)
        assert "OTEL_TRACES_SAMPLER" in capsys.readouterr().out


def decides(theirs: Sampler, number: int, above: bool | None) -> bool:
    context = None
    if above is not None:
        parent = SpanContext(number or 1, 1, is_remote=True, trace_flags=TraceFlags(int(above)))
        context = set_span_in_context(NonRecordingSpan(parent))
    return theirs.should_sample(context, number, "x").decision is Decision.RECORD_AND_SAMPLE


class TestWanted:
    @pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
    def test_an_endpoint_is_what_it_takes(self, name: str) -> None:
        assert wanted({name: "http://127.0.0.1:4318"})
        assert not wanted({name: " "})
        assert not wanted({name: "http://x", "OTEL_SDK_DISABLED": "true"})
        assert not wanted({name: "http://x", "OTEL_TRACES_EXPORTER": "none"})
        assert wanted({name: "http://x", "OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "false"})

    def test_nothing_else_is(self) -> None:
        assert not wanted({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"})

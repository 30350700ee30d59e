"""Where requests go, and with whose key."""

import pytest

from tests.support.transports import NoTransport
from tokengate.destination import Destination, Destinations
from tokengate.inbound import Inbound
from tokengate.providers import Quirks

OWN = Destination(
    "openai", "https://own.example/v1", NoTransport(), section="openai", replaces="/v1", key=b"Bearer own"
)
PLAIN = Destination("plain", "http://plain.example/v1", NoTransport(), section="openai", replaces="/v1")
GEMINI = Destination(
    "google", "https://gemini.example", NoTransport(), section="google", key_header=b"x-goog-api-key", key=b"own",
    key_parameter="key",
)  # fmt: skip


def inbound(*headers: tuple[bytes, bytes]) -> Inbound:
    return Inbound({"method": "POST", "path": "/", "query_string": b"", "headers": list(headers)})


class TestKeys:
    def test_the_gates_own_takes_the_place_of_all_that_a_caller_sends(self) -> None:
        asked = inbound((b"authorization", b"Bearer dummy"), (b"x-api-key", b"dummy"), (b"api-key", b"dummy"))
        assert OWN.headers(asked) == [(b"accept-encoding", b"identity"), (b"authorization", b"Bearer own")]
        assert GEMINI.headers(asked) == [(b"accept-encoding", b"identity"), (b"x-goog-api-key", b"own")]

    def test_without_one_the_callers_go_on(self) -> None:
        asked = inbound((b"x-api-key", b"theirs"), (b"authorization", b"Bearer theirs"))
        assert sorted(PLAIN.headers(asked))[1:] == [(b"authorization", b"Bearer theirs"), (b"x-api-key", b"theirs")]
        assert PLAIN.headers(inbound()) == [(b"accept-encoding", b"identity")]

    def test_a_key_in_the_query_goes_on_only_where_the_gate_has_none(self) -> None:
        assert (
            GEMINI.url("/v1beta/models", b"key=dummy&alt=sse&session_id=s")
            == "https://gemini.example/v1beta/models?alt=sse"
        )
        assert GEMINI.url("/v1beta/models", b"%6Bey=dummy") == "https://gemini.example/v1beta/models"
        assert PLAIN.url("/v1/models", b"key=theirs") == "http://plain.example/v1/models?key=theirs"


class TestChoice:
    groq = Destination(
        "groq", "https://groq.example/openai/v1", NoTransport(), section="groq", replaces="/v1", prefix="/groq"
    )
    local = Destination(
        "local", "http://local.example/v1", NoTransport(), section="local", replaces="/v1",
        models=("llama-*", "qwen*"), quirks=Quirks(stream_options=False),
    )  # fmt: skip
    all = Destinations({"openai": OWN, "google": GEMINI}, [groq, local])

    @pytest.mark.parametrize(
        ("dialect", "model", "expected"),
        [
            ("openai", "gpt-4o", OWN), ("openai", "", OWN), ("openai", "llama-3", local), ("openai", "QWEN2", local),
            ("openai", "my-llama-3", OWN), ("google", "gemini-2.5-pro", GEMINI),
        ],
    )  # fmt: skip
    def test_by_model(self, dialect: str, model: str, expected: Destination) -> None:
        assert self.all.of(dialect, model) is expected

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/groq/v1/models", groq),
            ("/groqs/v1/models", None),
            ("/v1/groq", None),
            ("/groq", None),
            ("//groq/v1", None),
        ],
    )
    def test_by_prefix(self, path: str, expected: Destination | None) -> None:
        assert self.all.by_prefix(path) is expected

    def test_a_path_takes_the_place_of_what_its_base_url_stands_for(self) -> None:
        assert self.groq.url("/v1/chat/completions", b"") == "https://groq.example/openai/v1/chat/completions"

    def test_names_that_callers_invent_take_bounded_memory(self) -> None:
        for number in range(5000):
            self.all.of("openai", f"invented-{number}")
        assert self.all._by_model.cache_info().currsize <= 1024

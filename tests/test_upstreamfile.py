"""Further upstreams: the file, and calls that go to them."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from tests.support.gate import gate, serving, simulated
from tests.support.hashes import spent_nano
from tests.support.redis_server import Server
from tokengate.app import open_app
from tokengate.settings import load
from tokengate.upstreamfile import UpstreamFileError, read_upstreams

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def entry(**members: Any) -> str:
    given = {"name": "groq", "base_url": "https://groq.example/v1", "prefix": "/groq"} | members
    lines = [
        f"{name} = {value!r}".replace("True", "true").replace("False", "false")
        for name, value in given.items()
        if value is not None
    ]
    return "[[upstream]]\n" + "\n".join(lines) + "\n"


class TestFile:
    def test_what_is_left_out_has_its_default(self) -> None:
        (found,) = read_upstreams(entry())
        assert (found.section, found.quirks, found.kind) == ("groq", None, "openai")
        (other,) = read_upstreams(entry(prices="together", stream_options=False, output_cap_field="max_tokens"))
        assert other.section == "together"
        assert other.quirks is not None
        assert (other.quirks.stream_options, other.quirks.output_cap_field) == (False, "max_tokens")
        assert read_upstreams("") == ()

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("[[upstream]", "not TOML"), (entry(name="Groq"), "name"), (entry(name=None), "name"),
            (entry(surprise=1), "surprise"), (entry(base_url="groq.example"), "base_url"),
            (entry(base_url="https://u:p@groq.example"), "base_url"), (entry(prefix="groq"), "prefix"),
            (entry(prefix="/v1/x"), "prefix"), (entry(prefix="/../x"), "prefix"), (entry(prefix=None), "prefix or models"),
            (entry() + entry(), "two upstreams"), (entry() + entry(name="other"), "two upstreams have the prefix"),
            (entry(key_env="A", key_file="b"), "not both"), (entry(read_timeout_s=-1), "read_timeout_s"),
            (entry(kind="other"), "kind"), (entry(models=[""]), "models"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_said(self, text: str, match: str) -> None:
        with pytest.raises(UpstreamFileError, match=match):
            read_upstreams(text)

    async def test_a_key_that_is_not_there_ends_the_start(self, store: Server, tmp_path: Path) -> None:
        file = tmp_path / "upstreams.toml"
        file.write_text(entry(key_env="NO_SUCH_KEY_IS_SET"))
        settings = load({"REDIS_URL": store.url, "UPSTREAMS_FILE": str(file)}, env_file=None).settings
        with pytest.raises(UpstreamFileError, match="NO_SUCH_KEY_IS_SET has no key"):
            async with open_app(settings, "all", "test"):
                pass


async def test_calls_go_by_path_and_by_model_each_with_its_key_and_what_the_server_takes(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_TEST_KEY", "groq-key")
    async with simulated() as own, simulated() as groq, simulated() as local:
        file = tmp_path / "upstreams.toml"
        file.write_text(
            entry(base_url=groq.base_url, key_env="GROQ_TEST_KEY", prices="openai", read_timeout_s=30.0)
            + entry(
                name="local", base_url=local.base_url, prefix=None, models=["gpt-4.1*"], prices="openai",
                stream_options=False, output_cap_field="max_tokens",
            )
        )  # fmt: skip
        async with gate(own.base_url, store.url, upstreams_file=file, default_budget="0.005") as running:
            async with openai.AsyncOpenAI(base_url=running.base_url, api_key="theirs", max_retries=0) as sdk:
                await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
                stream = await sdk.chat.completions.create(model="gpt-4.1-nano", messages=HELLO, stream=True)
                chunks = [chunk async for chunk in stream]
            async with openai.AsyncOpenAI(base_url=f"{running.url}/groq/v1", api_key="theirs", max_retries=0) as sdk:
                await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, max_tokens=5)
            entries = await running.log()
        assert (own.received, local.received, groq.received) == (1, 1, 1)
        assert groq.headers()["authorization"] == "Bearer groq-key"
        assert local.headers()["authorization"] == "Bearer theirs"
        assert "stream_options" not in local.body()
        assert local.body()["max_tokens"] >= 16
        assert all(chunk.usage is None for chunk in chunks)
    assert [each["endpoint"] for each in entries] == ["chat_completions"] * 3
    assert {each["model"]: each["assumed"] for each in entries} == {"gpt-4o-mini": False, "gpt-4.1-nano": True}
    assert spent_nano(redis_cli) > 0


USAGE: dict[str, Any] = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
BY_TABLE_NANO = 1000 * 150 + 100 * 600


@pytest.mark.parametrize(
    ("believed", "told", "nano"),
    [
        pytest.param("true", '"cost":0.00012345678901', 123_457, id="rounded up"),
        pytest.param("true", '"cost":1e-7,"is_byok":false', 100, id="an exponent"),
        pytest.param("true", '"cost":1234567.000000001', 1_234_567_000_000_001, id="more digits than a float has"),
        pytest.param("true", '"cost":0', 0, id="free"),
        pytest.param("true", '"cost":null', BY_TABLE_NANO, id="not said"),
        pytest.param("true", '"cost":-1', BY_TABLE_NANO, id="negative"),
        pytest.param("true", '"cost":1e300', BY_TABLE_NANO, id="beyond all budgets"),
        pytest.param("true", '"cost":"NaN"', BY_TABLE_NANO, id="not a number"),
        pytest.param("true", '"cost":0.000001,"is_byok":true', BY_TABLE_NANO, id="the caller's own key"),
        pytest.param("false", '"cost":0.00012345678901', BY_TABLE_NANO, id="not believed"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_reported_cost_goes_before_the_price_table_where_it_is_believed(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path, believed: str, told: str, nano: int, *, streamed: bool
) -> None:
    usage = (json.dumps(USAGE)[:-1] + f",{told}}}").encode()
    end = b'"usage":' + usage + b"}"
    if streamed:
        head = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini",'
        words = head + b'"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":"stop"}]}\n\n'
        answer, kind = words + head + b'"choices":[],' + end + b"\n\ndata: [DONE]\n\n", b"text/event-stream"
    else:
        answer, kind = b'{"model":"gpt-4o-mini","choices":[],' + end, b"application/json"

    async def provider(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": answer})

    async with serving(provider) as url:
        file = tmp_path / "upstreams.toml"
        file.write_text(entry(base_url=f"{url}/v1", prices="openai") + f"cost_reported = {believed}\n")
        async with gate("http://127.0.0.1:9/v1", store.url, upstreams_file=file) as running:
            async with openai.AsyncOpenAI(base_url=f"{running.url}/groq/v1", api_key="k", max_retries=0) as sdk:
                asked: Any = await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO, stream=streamed)
                if streamed:
                    assert [chunk.choices[0].delta.content async for chunk in asked] == ["Hello"]
            [line] = await running.log()
    assert (line["ending"], line["assumed"]) == ("complete", False)
    assert spent_nano(redis_cli) == nano


async def test_azures_sdk_takes_the_gate_for_its_endpoint(store: Server, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("azure-key\n")
    async with simulated() as own, simulated() as azure:
        file = tmp_path / "upstreams.toml"
        file.write_text(
            entry(name="azure", kind="azure", base_url=azure.url, prefix=None, key_file=str(key), prices="openai")
        )
        async with gate(own.base_url, store.url, upstreams_file=file) as running:
            sdk = openai.AsyncAzureOpenAI(
                azure_endpoint=running.url, api_key="theirs", api_version="2024-10-21", max_retries=0
            )
            async with sdk:
                file_, image = ("a.mp3", b"\xff\xf3"), ("a.png", b"png")
                for call in (
                    sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO),
                    sdk.images.generate(model="gpt-image-1.5", prompt="a gate"),
                    sdk.images.edit(model="gpt-image-1.5", prompt="a gate", image=image),
                    sdk.audio.speech.create(model="tts-1", voice="ash", input="a gate"),
                    sdk.audio.transcriptions.create(model="whisper-1", file=file_),
                ):
                    with pytest.raises(openai.NotFoundError):  # the simulated provider has no such paths
                        await call
            entries = await running.log()
        assert own.received == 0
        assert [asked["target"].split("/")[3] for asked in azure.requests] == [each["model"] for each in entries]
    endpoints = ["chat_completions", "image_generations", "image_edits", "speech", "transcriptions"]
    assert [(each["endpoint"], each["status"], each["actual_cost"]) for each in entries] == [
        (endpoint, 404, 0) for endpoint in endpoints
    ]


async def test_without_an_upstream_for_it_azures_paths_are_refused(store: Server) -> None:
    async with simulated() as own, gate(own.base_url, store.url) as running:
        sdk = openai.AsyncAzureOpenAI(azure_endpoint=running.url, api_key="k", api_version="2024-10-21", max_retries=0)
        async with sdk:
            with pytest.raises(openai.NotFoundError, match="no upstream of the kind azure"):
                await sdk.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        assert own.received == 0

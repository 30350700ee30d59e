"""The sidecar as it is rendered, started: its arguments and its environment, in front of an agent that has what agents get."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.support.gate import KEY, ROOT, Provider, simulated, until
from tests.support.redis_server import Server
from tests.support.servers import free_port
from tests.test_sidecar_container import GOLDEN
from tokengate.domain import Scope
from tokengate.injector.policy import parse
from tokengate.injector.sidecar import agent_environment, container
from tokengate.ledger import keys
from tokengate.settings import NAMES, SECRETS

AGENT = """
import openai
answer = openai.OpenAI().chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello"}])
print(answer.choices[0].message.content)
"""

FIELDS = {
    "metadata.namespace": "team-a",
    "metadata.name": "writer-7d4b9c6f5d-x2x4z",
    "metadata.annotations['tokengate.io/agent']": "writer",
}


@dataclass
class Pod:
    """Its containers' processes on this machine: one loopback, as in a pod."""

    environ: dict[str, str]
    status: httpx.AsyncClient


@asynccontextmanager
async def pod(provider: Provider, store: str, folder: Path) -> AsyncIterator[Pod]:
    """Start the sidecar by the rendered container, with the ports of a policy of our own; gives the agent's side."""
    ports = free_port(), free_port()
    policy = parse(f"port: {ports[0]}\nstatusPort: {ports[1]}".encode())
    rendered = container(policy, policy.session)
    (folder / "OPENAI_API_KEY").write_text(f"{KEY}\n")
    (folder / "REDIS_URL").write_text(store)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": provider.base_url}
    for variable in rendered["env"]:
        value = variable.get("value") or FIELDS[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        # What is mounted stands elsewhere here.
        place, _, name = value.rpartition("/")
        environ[variable["name"]] = f"{folder}/{name}" if place in ("/etc/tokengate/secrets", "/tmp") else value
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tokengate", *rendered["args"]], env=environ, cwd=folder, stdout=log, stderr=log
        )
    agents = {"PATH": os.environ["PATH"]} | agent_environment(policy)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=20, trust_env=False) as status:
        try:
            await until(lambda: process.poll() is not None or _listens(ports[1]))
            assert process.poll() is None, (folder / "log").read_text()
            yield Pod(agents, status)
        finally:
            # As a kubelet may: at once. A stop in order would wait for the store's return.
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def run(environ: dict[str, str], script: str) -> tuple[int, str, str]:
    """The agent: a program that knows nothing of a gate."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def test_every_variable_is_a_setting() -> None:
    for variable in GOLDEN["container"]["env"]:
        name = variable["name"].lower()
        assert name in NAMES or (name.endswith("_file") and name.removesuffix("_file") in SECRETS), name


async def test_an_agent_that_knows_nothing_of_it_is_gated(
    store: Server, redis_cli: "redis.Redis", tmp_path: Path
) -> None:
    async with simulated() as provider, pod(provider, store.url, tmp_path) as running:
        code, output, errors = await run(running.environ, AGENT)
        assert code == 0, errors
        assert output.strip()
        assert provider.headers()["authorization"] == f"Bearer {KEY}"
        assert KEY not in str(running.environ)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            get = GOLDEN["container"][probe]["httpGet"]
            assert get["port"] == GOLDEN["container"]["ports"][0]["name"]
            assert (await running.status.get(get["path"])).status_code == 200
    for kind, name in (("session", "writer-7d4b9c6f5d-x2x4z"), ("agent", "writer")):
        assert float(str(redis_cli.hget(keys.scope(Scope("team-a", kind, name)), "spent"))) > 0


async def test_without_redis_it_is_ready_and_says_that_it_is_degraded(tmp_path: Path) -> None:
    async with simulated() as provider, pod(provider, f"redis://127.0.0.1:{free_port()}", tmp_path) as running:
        assert (await running.status.get("/readyz")).status_code == 200
        assert (await running.status.get("/livez")).status_code == 200
        health = await running.status.get("/health")
        assert (health.status_code, health.json()["store"]) == (503, "unavailable")
        code, _, errors = await run(running.environ, AGENT.replace("OpenAI()", "OpenAI(max_retries=0)"))
        assert code == 1
        assert "The budget store cannot be reached" in errors
        assert provider.received == 0


def test_what_other_providers_need_is_rendered_as_settings_that_may_be_files() -> None:
    rendered: dict[str, Any] = container(parse(b"providers: [openai, anthropic, gemini]"), "header")
    files = [variable["name"] for variable in rendered["env"] if variable["name"].endswith("_FILE")]
    assert files == ["OPENAI_API_KEY_FILE", "ANTHROPIC_API_KEY_FILE", "GEMINI_API_KEY_FILE", "REDIS_URL_FILE"]

"""The image: built, looked into, and run as a cluster runs it."""

import json
import posixpath
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.image.engine import Engine
from tests.support.gate import until
from tests.support.redis_server import redis_server
from tests.support.servers import free_port
from tokengate import __version__

# A base image may have to be made, and all dependencies fetched.
pytestmark = pytest.mark.timeout(1800)

BYTES_MAX = 160_000_000


@pytest.fixture(scope="session")
def described(engine: Engine, image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(engine.podman("inspect", image))[0]
    return found


@pytest.fixture(scope="session")
def members(engine: Engine, image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tarfile.TarInfo]:
    """What is in it, by path."""
    archive = tmp_path_factory.mktemp("image") / "root.tar"
    container = engine.podman("create", image).strip()
    engine.podman("export", "--output", str(archive), container)
    engine.podman("rm", container)
    with tarfile.open(archive) as opened:
        return {member.name: member for member in opened}


class TestWhatItIs:
    def test_it_is_small(self, described: dict[str, Any]) -> None:
        assert described["Size"] < BYTES_MAX

    def test_it_says_what_it_is(self, described: dict[str, Any]) -> None:
        prefix = "org.opencontainers.image."
        labels = described["Labels"]
        assert labels[f"{prefix}version"] == __version__
        assert labels[f"{prefix}revision"] == "0123456"
        assert labels[f"{prefix}created"] == "2026-01-02T03:04:05Z"
        assert labels[f"{prefix}licenses"] == "MIT"

    def test_it_runs_as_nobody_in_particular_and_is_checked(self, described: dict[str, Any]) -> None:
        config = described["Config"]
        assert config["User"] == "65532:65532"
        assert config["Entrypoint"] == ["tokengate"]
        assert described["Healthcheck"]["Test"] == ["CMD", "python", "-m", "tokengate.probe"]

    def test_no_shell_no_compiler_no_package_manager(self, members: dict[str, tarfile.TarInfo]) -> None:
        programs = {Path(name).name for name, each in members.items() if each.mode & 0o111 and not each.isdir()}
        forbidden = {
            "sh",
            "bash",
            "dash",
            "busybox",
            "gcc",
            "cc",
            "ld",
            "apt",
            "apt-get",
            "dpkg",
            "pip",
            "pip3",
            "curl",
        }
        assert not programs & forbidden
        assert {"python3", "tokengate", "nft"} <= programs | {Path(name).name for name in members}
        assert not [name for name in members if name.endswith("/pip/__init__.py") or "/ensurepip/" in name]

    def test_nothing_gives_rights_and_only_root_owns_what_is_run(self, members: dict[str, tarfile.TarInfo]) -> None:
        for name, member in members.items():
            if member.issym():
                continue
            assert not member.mode & 0o6000, name
            assert not member.mode & 0o002 or name == "tmp", name
            assert member.uid == 0 or name == "var/lib/tokengate", name

    def test_links_lead_somewhere(self, members: dict[str, tarfile.TarInfo]) -> None:
        for name, member in members.items():
            # The engine's own link to what the kernel shows in a container.
            if member.issym() and name != "etc/mtab":
                target = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), member.linkname)).lstrip("/")
                assert {target, f"usr/{target}"} & members.keys(), (name, member.linkname)

    def test_all_of_it_is_compiled(self, members: dict[str, tarfile.TarInfo]) -> None:
        ours = [Path(name) for name in members if "/tokengate/" in name and name.endswith(".py")]
        assert len(ours) > 50
        for path in ours:
            assert str(path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc") in members

    def test_scanners_find_what_came_from_debian(self, members: dict[str, tarfile.TarInfo]) -> None:
        recorded = {Path(name).name for name in members if name.startswith("var/lib/dpkg/status.d/")}
        assert {"libc6", "libssl3", "ca-certificates", "nftables"} <= recorded


@pytest.fixture
def redis_url() -> Iterator[str]:
    port = free_port()
    with redis_server("--port", str(port), "--bind", "127.0.0.1"):
        yield f"redis://127.0.0.1:{port}"


async def answers(url: str) -> None:
    def asked() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    await until(asked)


class TestRunning:
    def test_it_says_its_version(self, engine: Engine, image: str) -> None:
        with engine.running(image, "--version") as container:
            engine.podman("wait", container)
            assert engine.podman("logs", container).strip() == f"tokengate {__version__}"

    def test_without_a_store_it_says_what_to_do(self, engine: Engine, image: str) -> None:
        with engine.running(image) as container:
            assert engine.podman("wait", container).strip() == "1"
            said = subprocess.run(
                ["podman", "--root", str(engine.folder / "storage"), "--runroot", str(engine.folder / "run"), "logs", container],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            assert "set REDIS_URL" in said.stderr

    async def test_a_sidecar_serves_settles_and_stops(
        self, engine: Engine, image: str, redis_url: str, tmp_path: Path
    ) -> None:
        provider_port, port, status_port = free_port(), free_port(), free_port()
        key = tmp_path / "key"
        key.write_text("sk-the-providers-own\n")
        key.chmod(0o444)
        environ = {
            "HOST": "127.0.0.1",
            "PORT": port,
            "STATUS_PORT": status_port,
            "REDIS_URL": redis_url,
            "OPENAI_BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
            "OPENAI_API_KEY_FILE": "/run/secrets/key",
        }
        options = (*(f"--env={name}={value}" for name, value in environ.items()), f"--volume={key}:/run/secrets/key:ro")
        with (
            engine.running(image, "simulate", "--port", str(provider_port)),
            engine.running(image, "serve", "--role", "sidecar", options=options) as gate,
        ):
            await answers(f"http://127.0.0.1:{provider_port}/v1/models")
            await answers(f"http://127.0.0.1:{status_port}/readyz")
            engine.podman("exec", gate, "python", "-m", "tokengate.probe")
            async with httpx.AsyncClient() as client:
                answer = await client.post(
                    f"http://127.0.0.1:{port}/v1/chat/completions",
                    headers={"X-Session-ID": "in-a-container"},
                    json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
                )
            assert answer.status_code == 200
            shown = engine.podman("exec", gate, "tokengate", "get-budget", "in-a-container", "--json")
            assert 0 < float(json.loads(shown)["spent_usd"]) < 10
            engine.podman("stop", "--time=20", gate)
            assert json.loads(engine.podman("inspect", gate))[0]["State"]["ExitCode"] == 0
            assert '"event":"stopped"' in engine.podman("logs", gate).replace(" ", "")

    async def test_a_console_is_there_for_those_with_its_token(
        self, engine: Engine, image: str, redis_url: str, tmp_path: Path
    ) -> None:
        port, status_port, token = free_port(), free_port(), "a-token-of-the-test"
        (tmp_path / "token").write_text(token)
        (tmp_path / "token").chmod(0o444)
        environ = {
            "HOST": "127.0.0.1",
            "PORT": port,
            "STATUS_PORT": status_port,
            "REDIS_URL": redis_url,
            "ADMIN_TOKEN_FILE": "/run/secrets/token",
        }
        options = [f"--env={name}={value}" for name, value in environ.items()]
        options.append(f"--volume={tmp_path / 'token'}:/run/secrets/token:ro")
        with engine.running(image, "serve", "--role", "console", options=tuple(options)):
            await answers(f"http://127.0.0.1:{status_port}/readyz")
            sessions = f"http://127.0.0.1:{port}/api/dashboard/sessions"
            async with httpx.AsyncClient() as client:
                assert (
                    await client.get(f"http://127.0.0.1:{port}/dashboard", follow_redirects=True)
                ).status_code == 200
                assert (await client.get(sessions)).status_code == 401
                assert (await client.get(sessions, headers={"authorization": f"Bearer {token}"})).status_code == 200

    def test_the_injector_and_its_libraries_are_there(self, engine: Engine, image: str) -> None:
        pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: agent}\nspec: {containers: [{name: agent, image: agent}]}\n"
        script = "import subprocess, sys; sys.exit(subprocess.run(['tokengate', 'inject', '-f', '-'], input=sys.argv[1], text=True).returncode)"
        with engine.running(image, "-c", script, pod, options=("--entrypoint=python",)) as container:
            assert engine.podman("wait", container).strip() == "0"
            assert "tokengate.io/sidecar" in engine.podman("logs", container)

    def test_a_gate_that_does_not_answer_is_not_healthy(self, engine: Engine, image: str) -> None:
        with engine.running(image, "simulate", "--port", str(free_port())) as other:
            assert "1" in engine.podman(
                "exec", "--env", f"PORT={free_port()}", other, "python", "-c",
                "import subprocess, sys; print(subprocess.run([sys.executable, '-m', 'tokengate.probe']).returncode)",
            )  # fmt: skip

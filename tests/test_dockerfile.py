"""What the image is built from: pinned, without secrets, without privileges, and in step with the project."""

import asyncio
import json
import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.servers import Conversation, raw_server
from tokengate import __version__, probe

ROOT: Final = Path(__file__).parent.parent
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS: Final = [
    (match[1], match[2].strip())
    for match in re.finditer(
        r"^([A-Z]+) (.*?)$", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " "), re.MULTILINE
    )
]
FINAL: Final = INSTRUCTIONS[max(i for i, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]
IN_THE_IMAGE: Final = ("injector", "otel")
LOCK: Final = (ROOT / "docker" / "requirements.txt").read_text()
LOCKED: Final = {match[1]: Version(match[2]) for match in re.finditer(r"^([a-z0-9-]+)==(\S+)", LOCK, re.MULTILINE)}
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BAKE: Final = json.loads((ROOT / "docker-bake.json").read_text())


def having(word: str, of: list[tuple[str, str]] = INSTRUCTIONS) -> list[str]:
    return [arguments for name, arguments in of if name == word]


class TestTheStages:
    def test_the_base_is_an_argument_and_what_is_shipped_starts_from_nothing(self) -> None:
        assert having("FROM") == ["${BASE} AS build", "scratch"]
        (base,) = [each for each in having("ARG") if each.startswith("BASE=")]
        assert re.fullmatch(r"BASE=\S+:3\.11-\S+", base)

    def test_nothing_is_fetched_but_packages(self) -> None:
        assert not having("ADD")
        for command in having("RUN"):
            assert not re.search(r"\b(curl|wget|git)\b", command)
            if "apt-get install" in command:
                assert "--no-install-recommends" in command
                assert "rm -rf /var/lib/apt/lists/*" in command

    def test_dependencies_are_wheels_with_known_hashes(self) -> None:
        installs = [
            part for command in having("RUN") for part in command.split("&&") if re.search(r"pip\b.* install ", part)
        ]
        assert len(installs) == 3
        for install in installs:
            locked = "--require-hashes" in install and "--only-binary :all:" in install
            assert locked or ("--no-index" in install and "--no-deps" in install)

    def test_no_secret_is_kept(self) -> None:
        for word, arguments in INSTRUCTIONS:
            assert word not in ("ARG", "ENV") or not re.search("(?i)token=|password|secret|api_key", arguments)
        assert all("target=/etc/pip.conf" in each for each in having("RUN") if "--mount" in each)

    def test_it_runs_without_privileges_and_is_checked_without_tools(self) -> None:
        assert having("USER", FINAL) == ["65532:65532"]
        (check,) = having("HEALTHCHECK", FINAL)
        assert json.loads(check.partition("CMD ")[2]) == ["python", "-m", "tokengate.probe"]
        # Exec forms: there is no shell.
        assert json.loads(having("ENTRYPOINT", FINAL)[0]) == ["tokengate"]
        assert json.loads(having("CMD", FINAL)[0]) == ["serve"]
        assert not having("RUN", FINAL)

    def test_it_names_itself(self) -> None:
        labels = " ".join(having("LABEL", FINAL))
        for name in ("title", "description", "source", "licenses", "version", "revision", "created"):
            assert f"org.opencontainers.image.{name}=" in labels

    def test_what_is_copied_is_there_and_in_the_context(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        assert "*" in ignored
        for copy in having("COPY"):
            if "--from" not in copy:
                for source in copy.split()[:-1]:
                    assert (ROOT / source).exists()
                    assert f"!{source.partition('/')[0]}" in ignored


class TestTheLock:
    @pytest.mark.parametrize(
        "requirement",
        [
            *PROJECT["dependencies"],
            *(each for extra in IN_THE_IMAGE for each in PROJECT["optional-dependencies"][extra]),
        ],
    )
    def test_it_has_what_the_project_needs(self, requirement: str) -> None:
        needed = Requirement(requirement)
        version = LOCKED.get(canonicalize_name(needed.name))
        assert version is not None, f"{needed.name} is not locked: make lock"
        assert version in needed.specifier, f"{needed.name} {version} is locked: make lock"

    def test_every_file_has_a_hash_and_no_host(self) -> None:
        for text in (LOCK, (ROOT / "docker" / "build-requirements.txt").read_text()):
            entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
            assert len(entries) > 3
            for entry in entries:
                assert "--hash=sha256:" in entry
            assert "://" not in text


class TestTheBakeFile:
    def test_both_processors_with_what_is_in_it_and_where_it_came_from(self) -> None:
        target = BAKE["target"]["image"]
        assert target["platforms"] == ["linux/amd64", "linux/arm64"]
        assert {each.partition(",")[0] for each in target["attest"]} == {"type=sbom", "type=provenance"}

    def test_its_arguments_are_those_of_the_dockerfile(self) -> None:
        arguments = {each.partition("=")[0]: each.partition("=")[2] for each in having("ARG")}
        assert BAKE["target"]["image"]["args"].keys() == arguments.keys()
        assert BAKE["variable"]["BASE"]["default"] == arguments["BASE"]
        assert BAKE["variable"]["VERSION"]["default"] == __version__


class TestTheProbe:
    def test_it_imports_nothing_of_the_gate(self) -> None:
        source = Path(probe.__file__).read_text()
        assert set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE)) <= {"os", "socket", "sys", "typing"}

    @pytest.mark.parametrize(("status", "healthy"), [(b"200 OK", True), (b"503 Service Unavailable", False)])
    async def test_it_asks_the_port_that_the_gate_has(self, status: bytes, healthy: bool) -> None:
        async def answer(conversation: Conversation) -> None:
            head = await conversation.request()
            assert head.startswith(b"GET /livez HTTP/1.1\r\n")
            await conversation.say(b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status)

        async with raw_server(answer) as server:
            for environ in ({"PORT": str(server.port)}, {"PORT": "1", "STATUS_PORT": str(server.port)}):
                assert await asyncio.to_thread(probe.alive, environ) is healthy
            assert len(server.requests) == 2

    @pytest.mark.parametrize("port", ["nonsense", "0", "70000"])
    def test_what_cannot_be_asked_is_not_healthy(self, port: str) -> None:
        assert not probe.alive({"PORT": port})

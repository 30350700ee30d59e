"""The pages on deploying: what they say to type is taken by kubectl, by the chart, and by what the chart has."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.api_server import ApiServer, api_server
from tests.support.charts import Chart, of_kind, one
from tests.support.kubectl import kubectl
from tests.support.kubernetes import Manifest, restricted_faults, validate
from tests.test_docs import blocks
from tokengate.settings import NAMES

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = {
    name: (ROOT / "docs" / "how-to" / f"{name}.md").read_text()
    for name in (
        "deploy",
        "deploy-on-kubernetes",
        "commands-on-kubernetes",
        "before-production",
        "migrate-from-litellm",
    )
}
NAMESPACE: Final = "tokengate"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with api_server(tmp_path_factory.mktemp("cluster") / "api") as running:
        for name in (NAMESPACE, "agents"):
            running.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {}}})
        yield running


@pytest.fixture(scope="module")
def chart() -> Iterator[Chart]:
    opened = Chart()
    yield opened
    opened.close()


def commands(page: str, program: str) -> Iterator[list[str]]:
    for block in blocks(re.sub(r"^ {3}", "", PAGES[page], flags=re.MULTILINE), "bash"):
        for words in _lines(block):
            if words[0] == program:
                yield words[1:]


def _lines(block: str) -> Iterator[list[str]]:
    """The commands of a block: a quoted text may have lines of its own."""
    for command in re.split(r"\n(?=[a-z])", block.replace("\\\n", " ").strip()):
        yield shlex.split(command, comments=True)


def created(api: ApiServer, kubeconfig: Path, words: list[str]) -> Manifest:
    """What `kubectl create` makes, put into the server: to it kubectl would say it in protobuf."""
    done = kubectl(*words, "--dry-run=client", "--output=yaml", kubeconfig=kubeconfig)
    assert done.returncode == 0, (words, done.stderr)
    manifest: Manifest = yaml.safe_load(done.stdout)
    return api.put(manifest)


def test_a_command_is_run_at_once_in_a_restricted_pod(api: ApiServer, tmp_path: Path) -> None:
    (words,) = (each for each in commands("commands-on-kubernetes", "kubectl") if each[0] == "run")
    # Nothing runs here that one could be attached to.
    words = [word for word in words if word not in ("--rm", "-i")]
    done = kubectl(*words, kubeconfig=api.kubeconfig(tmp_path))
    assert done.returncode == 0, done.stderr
    pod = api.get(f"/api/v1/namespaces/{NAMESPACE}/pods/tg-cli")
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["get-budget", "my-session"]
    assert container["image"].startswith("ghcr.io/tokengate/tokengate:")
    assert list(restricted_faults(container, pod["spec"]["securityContext"])) == []
    assert pod["metadata"]["labels"]["tokengate.io/inject"] == "false"
    assert pod["spec"]["restartPolicy"] == "Never"
    assert {each["name"].removesuffix("_FILE").lower() for each in container["env"]} <= set(NAMES)
    pod["metadata"] = {"name": "tg-cli"}
    validate({**pod, "status": {}} | {"apiVersion": "v1", "kind": "Pod"})


def test_a_job_is_made_from_the_charts_form(api: ApiServer, chart: Chart, tmp_path: Path) -> None:
    form = one(list(_documents(chart.texts({}, release="tokengate"))), "CronJob", "-admin")
    api.put(form)
    (words,) = (each for each in commands("commands-on-kubernetes", "kubectl") if each[:2] == ["create", "job"])
    job = created(api, api.kubeconfig(tmp_path), words)
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("sessions", NAMESPACE)
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["list-sessions"]


def test_secrets_and_labels_are_made_as_written(api: ApiServer, chart: Chart, tmp_path: Path) -> None:
    (tmp_path / "openai.key").write_text("sk-mine")
    kubeconfig = api.kubeconfig(tmp_path)
    made = 0
    for words in commands("deploy-on-kubernetes", "kubectl"):
        if words[:2] == ["create", "secret"]:
            created(api, kubeconfig, [word.replace("=openai.key", f"={tmp_path}/openai.key") for word in words])
            made += 1
        elif words[:2] == ["label", "namespace"]:
            done = kubectl(*words, kubeconfig=kubeconfig)
            assert done.returncode == 0, (words, done.stderr)
            made += 1
    assert made == 4
    policy = yaml.safe_load(one(chart.case("default"), "ConfigMap", "-policy")["data"]["policy.yaml"])
    keys = api.get(f"/api/v1/namespaces/agents/secrets/{policy['providerKeysSecret']}")
    assert keys["data"].keys() == {"OPENAI_API_KEY"}
    assert api.get(f"/api/v1/namespaces/agents/secrets/{policy['redisSecret']}")["data"].keys() == {"REDIS_URL"}
    assert api.get("/api/v1/namespaces/agents")["metadata"]["labels"]["tokengate.io/inject"] == "enabled"


def test_what_helm_is_told_for_a_trial_makes_one(chart: Chart) -> None:
    (trial, *_) = (each for each in commands("deploy-on-kubernetes", "helm") if each[0] == "install")
    given = [word for flag, word in itertools.pairwise(trial) if flag == "--set"]
    assert given[:2] == ["redis.mode=trial", "namespaces={agents}"]
    assert given[2] == "providerKeys.create=true"
    assert given[3].startswith("providerKeys.values.OPENAI_API_KEY=")
    rendered = chart.render(
        {
            "redis": {"mode": "trial"},
            "namespaces": ["agents"],
            "providerKeys": {"create": True, "values": {"OPENAI_API_KEY": "sk"}},
        }
    )
    assert of_kind(rendered, "StatefulSet")


def test_values_in_the_page_are_values_of_the_chart(chart: Chart) -> None:
    page = re.sub(r"^ {3}", "", PAGES["deploy-on-kubernetes"], flags=re.MULTILINE)
    rendered = 0
    for block in blocks(page, "yaml"):
        if re.match(r"(image|egress):", block):
            values = yaml.safe_load(block.replace("sha256:...", f"sha256:{'0' * 64}"))
            assert chart.render(values)
            rendered += 1
    assert rendered == 2


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_pages_are_settings(page: str) -> None:
    known = {name.upper() for name in NAMES} | {f"{name.upper()}_FILE" for name in NAMES}
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", PAGES[page], re.MULTILINE | re.DOTALL)
    for line in "\n".join(text for language, text in fences if not language).splitlines():
        assert line.strip().partition("=")[0] in known, line


def _documents(texts: dict[str, str]) -> Iterator[dict[str, object]]:
    for path, text in texts.items():
        if path.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(text))

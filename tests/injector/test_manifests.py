"""`tokengate inject`: manifests in, manifests out, byte for byte where nothing was to be changed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from tests.support.kubernetes import VERSIONS, validate
from tests.test_sidecar_container import GOLDEN
from tokengate import cli
from tokengate.injector.manifests import DEPTH_MAX, TEMPLATES, MalformedManifest, dump, inject
from tokengate.injector.policy import parse

POLICY = parse(b"")
POD_SPEC = "{containers: [{name: agent, image: agent}]}"

OTHERS = """\
# What the agent needs.
apiVersion: v1
kind: Service   # a comment
metadata: {name: web}
spec: {ports: [{port: 0x50}], selector: {app: web}}
---
apiVersion: v1
kind: ConfigMap
metadata:
    name: &name web
data:
    on: "yes"
    script: |
        #!/bin/sh
        echo "---"
"""


HOST_NETWORK = "hostNetwork is set: every process of the node could use the gate on 127.0.0.1:15800. Remove it."
BOMB = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8))


def run(*arguments: str, given_input: str = "") -> Result:
    return CliRunner().invoke(cli.app, ["inject", *arguments], input=given_input)


def documents(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def workload(kind: str, **more: Any) -> str:
    """A manifest of a kind that has a pod, in flow style, as no writer of ours would write it."""
    version, path = TEMPLATES[kind]
    spec: Any = {"spec": {"containers": [{"name": "agent", "image": "agent"}]} | more}
    if kind != "Pod":
        spec["metadata"] = {"labels": {"app": "a"}}
    if kind in ("Job", "CronJob"):
        spec["spec"]["restartPolicy"] = "Never"
    for name in reversed(path):
        spec = {name: spec}
        if name == "template" and "apps" in version:
            spec["selector"] = {"matchLabels": {"app": "a"}}
    if kind == "CronJob":
        spec["spec"]["schedule"] = "0 3 * * *"
    if kind == "StatefulSet":
        spec["spec"]["serviceName"] = "a"
    spec |= {"apiVersion": version + "v1" * version.endswith("/"), "kind": kind, "metadata": {"name": "a-workload"}}
    return yaml.safe_dump(spec, default_flow_style=True)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_every_kind_with_a_pod_gets_a_gate_as_its_agent(kind: str) -> None:
    done = inject(workload(kind), POLICY)
    assert done.notes == (f"{kind.lower()}/a-workload injected, as agent a-workload",)
    [changed] = documents(done.text)
    validate(changed, (VERSIONS[0], VERSIONS[-1]))
    pod = changed
    for name in TEMPLATES[kind][1]:
        pod = pod[name]
    assert pod["spec"]["initContainers"] == [GOLDEN["container"]]
    assert pod["metadata"]["annotations"]["tokengate.io/agent"] == "a-workload"
    assert inject(done.text, POLICY).text == done.text


def test_what_has_no_pod_comes_out_byte_for_byte_and_in_its_place() -> None:
    done = inject(OTHERS, POLICY)
    assert done.text == OTHERS
    assert done.notes == ("service/web left as it is", "configmap/web left as it is")
    both = inject(f"{OTHERS}---\n{workload('Deployment')}--- # the last\n{OTHERS}", POLICY)
    kinds = [document["kind"] for document in documents(both.text)]
    assert kinds == ["Service", "ConfigMap", "Deployment", "Service", "ConfigMap"]
    assert both.text.startswith(OTHERS)
    assert both.text.endswith(f"--- # the last\n{OTHERS}")


def test_lists_are_looked_into() -> None:
    items = ", ".join(workload(kind).strip() for kind in ("Pod", "Job"))
    done = inject(f"apiVersion: v1\nkind: List\nitems: [{items}]\n", POLICY)
    [changed] = documents(done.text)
    assert changed["items"][0]["spec"]["initContainers"] == [GOLDEN["container"]]
    assert changed["items"][1]["spec"]["template"]["spec"]["initContainers"] == [GOLDEN["container"]]


def test_a_shared_part_is_changed_once_in_each_of_its_places() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers:
    - &agent {name: agent, image: agent, env: &env [{name: A, value: "1"}]}
    - {<<: *agent, name: other}
    - {name: third, image: third, env: *env}
"""
    [changed] = documents(inject(text, POLICY).text)
    for each in changed["spec"]["containers"]:
        assert each["env"] == [{"name": "A", "value": "1"}, *GOLDEN["agentEnv"]]


@pytest.mark.parametrize(
    "text", ["y", "no", "ON", "null", "~", "1e3", "0644", "0o17", "1_000", "12:30:45", "2020-01-01", "", " x", "x ", "a: b",
             "#a", "a #b", "-", "- a", "!a", "&a", "*a", "@a", "`a", "%a", "{a", "[a", "'a", '"a', "a\nb", "a\nb\n", "\n", "a\n\n",
             "a \nb", "\ta", "a\tb", "\x7f", "\u2028", "ü", "a:1", "a:", ":", "=", "<<", ".inf", ".5", "+1", "0x1f"]
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    pod = {"metadata": {"annotations": {"a": text, text: "b"}}}
    written = dump(pod)
    assert yaml.safe_load(written) == pod
    assert yaml.load(written, yaml.BaseLoader) == pod  # for whom everything is text, quoted or not
    if text.lower() in ("y", "no", "on", "null", "~", "1e3", "0644", "0o17", "1_000"):
        assert f'a: "{text}"' in written


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_stays_text(text: str) -> None:
    assert yaml.safe_load(dump([text])) == [text]


def test_dates_and_numbers_of_others_stay_what_they_are() -> None:
    text = workload("Pod").replace("name: a-workload", "name: a, annotations: {day: 2026-11-23, port: '80'}")
    [changed] = documents(inject(text, POLICY).text)
    assert changed["metadata"]["annotations"]["day"] == "2026-11-23"
    assert changed["metadata"]["annotations"]["port"] == "80"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n---\nkind: [\n", "line 4: expected the node content"),
        ("a: 1\n---\n\na: 1\nb: 2\na: 3\n", "line 6: 'a' stands twice in a mapping"),
        ("a: !!python/object:os.system x\n", "line 1: could not determine a constructor"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", r"pod/a: Object missing required field `spec`"),
        ("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {}\n", "Deployment: there is no pod at spec.template"),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: [{name: 1}]}\n", r"Expected `str`, got `int` - at `\$.spec.containers"),
        ("[" * (DEPTH_MAX + 2) + "]" * (DEPTH_MAX + 2), "more than 64 levels"),
        ("[" * 100_000, "recursion|expected"),
        (BOMB, "more than 1000000 values"),
        ("x" * (16 * 1024 * 1024 + 1), "more than 16777216 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(MalformedManifest, match=said):
        inject(text, POLICY)


class TestCommand:
    def test_from_standard_input(self) -> None:
        done = run("-f", "-", given_input=workload("Deployment"))
        assert done.exit_code == 0
        assert documents(done.stdout)[0]["spec"]["template"]["spec"]["initContainers"] == [GOLDEN["container"]]
        assert done.stderr == "deployment/a-workload injected, as agent a-workload\n"

    def test_from_files_in_their_order(self, tmp_path: Path) -> None:
        for name, text in {"a.yaml": OTHERS, "b.yaml": workload("Job"), "c.yaml": OTHERS}.items():
            (tmp_path / name).write_text(text)
        done = run(*(word for name in ("b", "a", "c") for word in ("-f", str(tmp_path / f"{name}.yaml"))))
        kinds = [document["kind"] for document in documents(done.stdout)]
        assert kinds == ["Job", "Service", "ConfigMap", "Service", "ConfigMap"]

    def test_by_a_policy(self, tmp_path: Path) -> None:
        (tmp_path / "policy.yaml").write_text("image: registry.example.com/gate:2\n")
        done = run("-f", "-", "--policy", str(tmp_path / "policy.yaml"), given_input=workload("Pod"))
        assert documents(done.stdout)[0]["spec"]["initContainers"][0]["image"] == "registry.example.com/gate:2"

    def test_one_refusal_and_nothing_is_written(self) -> None:
        done = run(
            "-f", "-", given_input=f"{workload('Job')}---\n{workload('Deployment', hostNetwork=True, hostPID=True)}"
        )
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            "job/a-workload injected, as agent a-workload",
            f"deployment/a-workload refused: {HOST_NETWORK}",
            "deployment/a-workload refused: hostPID is set: the agent could read the gate's keys from its memory. Remove it.",
            "tokengate: nothing was written, because of what was refused",
        ]

    def test_system_namespaces_and_those_who_opted_out_are_left_alone(self) -> None:
        text = workload("Pod")
        done = run("-f", "-", "-n", "kube-system", given_input=text)
        assert (done.stdout, done.stderr) == (text, "pod/a-workload skipped: system_namespace\n")
        text = text.replace("name: a-workload", "name: a, labels: {tokengate.io/inject: 'false'}")
        done = run("-f", "-", given_input=text)
        assert (done.stdout, done.stderr) == (text, "pod/a skipped: opted_out\n")

    @pytest.mark.parametrize(
        ("arguments", "given_input", "said"),
        [
            (["-f", "none.yaml"], "", "none.yaml: No such file or directory"),
            (["-f", "-"], "a: [", "standard input: line 1: "),
            (["-f", "-", "--policy", "none.yaml"], "", "none.yaml: No such file or directory"),
            ([], "", "Missing option"),
        ],
    )
    def test_wrong_arguments(self, arguments: list[str], given_input: str, said: str) -> None:
        done = run(*arguments, given_input=given_input)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr

    def test_a_faulty_policy_and_text_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").write_bytes(b"\xff")
        assert "it is not UTF-8" in run("-f", str(tmp_path / "x.yaml")).stderr
        (tmp_path / "x.yaml").write_text("prot: 1")
        done = run("-f", "-", "--policy", str(tmp_path / "x.yaml"))
        assert done.exit_code == 2
        assert "x.yaml: Object contains unknown field `prot`" in done.stderr

    def test_without_the_extra_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "yaml", None)
        for name in [name for name in sys.modules if name.startswith("tokengate.injector")]:
            monkeypatch.delitem(sys.modules, name)
        done = run("-f", "-")
        assert done.exit_code == 1
        assert "pip install 'tokengate[injector]'" in done.stderr

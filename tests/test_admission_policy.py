"""What the API server itself refuses, with or without the injector: pods without their gate, and thieves of its Secrets."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.admission import violations
from tests.support.charts import NAMESPACE, Chart, case, of_kind, one
from tests.support.kubernetes import Manifest

GOLDEN: Final[Manifest] = yaml.safe_load((Path(__file__).parent / "golden" / "sidecar-container.yaml").read_text())
Change = Callable[[Manifest], Any]


@pytest.fixture(scope="module")
def chart() -> Iterator[Chart]:
    opened = Chart()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def sidecar(chart: Chart) -> Manifest:
    return one(chart.case("default"), "ValidatingAdmissionPolicy", "-sidecar")


@pytest.fixture(scope="module")
def secrets(chart: Chart) -> Manifest:
    return one(chart.case("default"), "ValidatingAdmissionPolicy", "-secrets")


def gated(change: Change = lambda pod: None) -> Manifest:
    """A pod as the injector leaves it, and then something happens to it."""
    golden = copy.deepcopy(GOLDEN)
    pod = {
        "metadata": {"name": "agent", "labels": golden["labels"], "annotations": golden["annotations"]},
        "spec": {
            "initContainers": [golden["container"], {"name": "setup", "image": "setup"}],
            "containers": [{"name": "agent", "image": "agent", "env": golden["agentEnv"]}],
            "volumes": golden["volumes"],
        },
    }
    change(pod)
    return pod


def plain(change: Change = lambda pod: None) -> Manifest:
    """A pod that nobody has gated."""
    pod: Manifest = {"metadata": {"name": "agent"}, "spec": {"containers": [{"name": "agent", "image": "agent"}]}}
    change(pod)
    return pod


def agent(pod: Manifest) -> Manifest:
    container: Manifest = pod["spec"]["containers"][0]
    return container


def gate(pod: Manifest) -> Manifest:
    container: Manifest = pod["spec"]["initContainers"][0]
    return container


class TestTheSidecar:
    def test_a_gated_pod_may_be(self, sidecar: Manifest) -> None:
        assert violations(sidecar, gated()) == []

    WRONG: Final[dict[str, tuple[Manifest, str]]] = {
        "no gate": (plain(), "has no TokenGate sidecar"),
        "an empty list of init containers": (plain(lambda pod: pod["spec"].update(initContainers=[])), "has no"),
        "a gate that is no sidecar": (gated(lambda pod: gate(pod).pop("restartPolicy")), "restartPolicy Always"),
        "a gate that is an ordinary container": (
            gated(lambda pod: pod["spec"]["containers"].append(pod["spec"]["initContainers"].pop(0))),
            "has no TokenGate sidecar",
        ),
        "an impostor": (gated(lambda pod: gate(pod).update(image="busybox")), "must run ghcr.io/tokengate"),
        "a gate as another user": (
            gated(lambda pod: gate(pod)["securityContext"].update(runAsUser=1000)),
            "must run as user 65532",
        ),
        "a gate as whoever the image says": (
            gated(lambda pod: gate(pod)["securityContext"].pop("runAsUser")),
            "must run as user 65532",
        ),
        "an agent as the gate's user": (
            gated(lambda pod: agent(pod).update(securityContext={"runAsUser": 65532})),
            "No other container may run as user",
        ),
        "an agent as the pod's user, who is the gate's": (
            gated(lambda pod: pod["spec"].update(securityContext={"runAsUser": 65532})),
            "No other container may run as user",
        ),
        "the node's network": (gated(lambda pod: pod["spec"].update(hostNetwork=True)), "hostNetwork"),
        "the node's processes": (gated(lambda pod: pod["spec"].update(hostPID=True)), "hostPID"),
        "processes in common": (gated(lambda pod: pod["spec"].update(shareProcessNamespace=True)), "shareProcess"),
    }

    @pytest.mark.parametrize("name", WRONG)
    def test_what_may_not_be_is_refused_with_the_reason(self, sidecar: Manifest, name: str) -> None:
        pod, reason = self.WRONG[name]
        (message,) = violations(sidecar, pod)
        assert reason in message

    RIGHT: Final[dict[str, Manifest]] = {
        "a pod that opted out": plain(lambda pod: pod["metadata"].update(labels={"tokengate.io/inject": "false"})),
        "a static pod": plain(lambda pod: pod["metadata"].update(annotations={"kubernetes.io/config.mirror": "x"})),
        "a pod for Windows": plain(lambda pod: pod["spec"].update(os={"name": "windows"})),
        "an agent as a user of its own, in a pod of the gate's": gated(
            lambda pod: (
                pod["spec"].update(securityContext={"runAsUser": 65532}),
                [
                    each.update(securityContext={"runAsUser": 1000})
                    for each in (agent(pod), pod["spec"]["initContainers"][1])
                ],
            )
        ),
        "no to the node's network": gated(lambda pod: pod["spec"].update(hostNetwork=False, hostPID=False)),
    }

    @pytest.mark.parametrize("name", RIGHT)
    def test_what_may_be_is_let_be(self, sidecar: Manifest, name: str) -> None:
        assert violations(sidecar, self.RIGHT[name]) == []

    def test_what_was_there_before_the_label_may_still_be_changed(self, sidecar: Manifest) -> None:
        assert violations(sidecar, plain(), before=plain()) == []

    def test_a_gate_cannot_be_replaced_in_a_running_pod(self, sidecar: Manifest) -> None:
        (message,) = violations(sidecar, gated(lambda pod: gate(pod).update(image="busybox")), before=gated())
        assert "must run ghcr.io/tokengate" in message

    def test_a_policy_without_opting_out_lets_nobody_out(self, chart: Chart) -> None:
        strict = one(chart.case("strict"), "ValidatingAdmissionPolicy", "-sidecar")
        out = plain(lambda pod: pod["metadata"].update(labels={"tokengate.io/inject": "false"}))
        assert len(violations(strict, out)) == 1

    def test_in_the_legacy_form_the_gate_is_an_ordinary_container(self, chart: Chart) -> None:
        legacy = one(chart.case("legacy"), "ValidatingAdmissionPolicy", "-sidecar")
        image = one(chart.case("legacy"), "Deployment", "-injector")["spec"]["template"]["spec"]["containers"][0][
            "image"
        ]

        def change(pod: Manifest) -> None:
            container = pod["spec"]["initContainers"].pop(0)
            container.pop("restartPolicy")
            container.update(image=image)
            container["securityContext"].update(runAsUser=10001)
            pod["spec"]["containers"].insert(0, container)

        assert violations(legacy, gated(change)) == []
        assert len(violations(legacy, gated())) == 1


class TestTheSecrets:
    def test_the_gate_has_them(self, secrets: Manifest) -> None:
        assert violations(secrets, gated()) == []
        assert violations(secrets, plain()) == []

    @staticmethod
    def key(name: str) -> Manifest:
        return {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": name, "key": "OPENAI_API_KEY"}}}

    STOLEN: Final[dict[str, Change]] = {
        "a variable": lambda pod: agent(pod).update(env=[TestTheSecrets.key("tokengate-provider-keys")]),
        "a variable of an init container": lambda pod: pod["spec"].update(
            initContainers=[{"name": "i", "env": [TestTheSecrets.key("tokengate-redis")]}]
        ),
        "all variables": lambda pod: agent(pod).update(envFrom=[{"secretRef": {"name": "tokengate-redis"}}]),
        "a volume": lambda pod: pod["spec"].update(
            volumes=[{"name": "mine", "secret": {"secretName": "tokengate-provider-keys"}}]
        ),
        "a projected volume": lambda pod: pod["spec"].update(
            volumes=[{"name": "mine", "projected": {"sources": [{"secret": {"name": "tokengate-redis"}}]}}]
        ),
        "the gate's volume": lambda pod: agent(pod).update(
            volumeMounts=[{"name": "tokengate-secrets", "mountPath": "/stolen"}]
        ),
    }

    @pytest.mark.parametrize("name", STOLEN)
    def test_nobody_else_takes_them(self, secrets: Manifest, name: str) -> None:
        for make in (plain, gated):
            assert len(violations(secrets, make(self.STOLEN[name]))) == 1

    def test_other_secrets_are_nobodys_business(self, secrets: Manifest) -> None:
        def change(pod: Manifest) -> None:
            agent(pod).update(
                env=[self.key("mine"), {"name": "PLAIN", "value": "x"}, {"name": "F", "valueFrom": {"fieldRef": {}}}],
                envFrom=[{"secretRef": {"name": "mine"}}, {"configMapRef": {"name": "tokengate-redis"}}],
                volumeMounts=[{"name": "mine", "mountPath": "/mine"}],
            )
            pod["spec"]["volumes"] = [
                {"name": "mine", "secret": {"secretName": "mine"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
                {"name": "tmp", "emptyDir": {}},
            ]

        assert violations(secrets, plain(change)) == []

    DEBUGGERS: Final[dict[str, Manifest]] = {
        "that targets the gate": {"name": "debug", "targetContainerName": "tokengate"},
        "with a key": {
            "name": "debug",
            "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "tokengate-redis"}}}],
        },
        "with all keys": {"name": "debug", "envFrom": [{"secretRef": {"name": "tokengate-provider-keys"}}]},
        "with the gate's volume": {"name": "debug", "volumeMounts": [{"name": "tokengate-secrets"}]},
    }

    @pytest.mark.parametrize("name", DEBUGGERS)
    def test_no_debuggers_container(self, secrets: Manifest, name: str) -> None:
        pod = gated(lambda pod: pod["spec"].update(ephemeralContainers=[self.DEBUGGERS[name]]))
        assert len(violations(secrets, pod, before=gated(), subresource="ephemeralcontainers")) == 1

    def test_a_debugger_of_the_agent_may_be(self, secrets: Manifest) -> None:
        debugger = {"name": "debug", "targetContainerName": "agent", "env": [{"name": "A", "value": "b"}]}
        pod = gated(lambda pod: pod["spec"].update(ephemeralContainers=[debugger]))
        assert violations(secrets, pod, before=gated(), subresource="ephemeralcontainers") == []


class TestWhereTheyApply:
    def test_in_labelled_namespaces_and_everywhere(self, chart: Chart) -> None:
        rendered = chart.case("default")
        bindings = of_kind(rendered, "ValidatingAdmissionPolicyBinding")
        assert {each["spec"]["policyName"] for each in bindings} == {
            each["metadata"]["name"] for each in of_kind(rendered, "ValidatingAdmissionPolicy")
        }
        for binding in bindings:
            excluded, *labelled = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
            assert NAMESPACE in excluded["values"]
            label = {"key": "tokengate.io/inject", "operator": "In", "values": ["enabled"]}
            assert labelled == ([label] if binding["spec"]["policyName"].endswith("-sidecar") else [])
            assert binding["spec"]["validationActions"] == ["Deny"]

    def test_a_webhook_that_is_away_does_not_open_a_namespace(self, chart: Chart) -> None:
        ignoring = chart.render(case("default") | {"injector": {"failurePolicy": "Ignore"}})
        assert one(ignoring, "MutatingWebhookConfiguration")["webhooks"][0]["failurePolicy"] == "Ignore"
        for policy in of_kind(ignoring, "ValidatingAdmissionPolicy"):
            assert policy["spec"]["failurePolicy"] == "Fail"

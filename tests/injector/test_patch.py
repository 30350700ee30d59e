"""What becomes of a pod: forty-odd of them as files, and whatever Hypothesis can think of."""

import copy
from collections.abc import Callable
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.golden_pods import GOLDEN_PODS, GoldenPod
from tests.support.kubernetes import VERSIONS, restricted_faults, validate
from tests.test_sidecar_container import GOLDEN
from tokengate.injector import refusals
from tokengate.injector.patch import (
    DEFAULTED,
    Decision,
    Result,
    Skip,
    apply,
    decide,
    decide_ephemeral,
)
from tokengate.injector.pod import MalformedPod
from tokengate.injector.policy import parse
from tokengate.injector.sidecar import agent_environment, container, volumes

POLICY = parse(b"")
EDGES = (VERSIONS[0], VERSIONS[-1])
BARE = GoldenPod("bare")


def patched(pod: dict[str, Any]) -> dict[str, Any]:
    decision = decide(pod, POLICY, "agents")
    changed: dict[str, Any] = jsonpatch.apply_patch(pod, list(decision.operations))
    return changed


class TestTheSidecar:
    def test_it_is_the_golden_one(self) -> None:
        assert container(POLICY, POLICY.session) == GOLDEN["container"]
        assert volumes(POLICY) == GOLDEN["volumes"]
        assert [{"name": name, "value": value} for name, value in agent_environment(POLICY).items()] == GOLDEN[
            "agentEnv"
        ]

    def test_a_pod_gets_it_and_the_golden_marks(self) -> None:
        pod = patched(BARE.pod)
        assert pod["spec"]["initContainers"] == [GOLDEN["container"]]
        assert pod["spec"]["volumes"] == GOLDEN["volumes"]
        assert pod["spec"]["containers"][0]["env"] == GOLDEN["agentEnv"]
        assert pod["metadata"]["labels"] == GOLDEN["labels"]
        assert pod["metadata"]["annotations"].keys() > GOLDEN["annotations"].keys()


@pytest.mark.parametrize("golden", GOLDEN_PODS, ids=lambda golden: golden.name)
class TestGoldenPods:
    def test_the_outcome_is_the_one_on_file(self, golden: GoldenPod) -> None:
        file, text = golden.outcome()
        assert golden.outcomes == [file]
        assert file.read_text() == text

    def test_what_comes_out_is_a_pod_and_needs_no_second_run(self, golden: GoldenPod) -> None:
        before = golden.pod
        validate(before, EDGES)
        decision = golden.decide()
        if decision.result is not Result.PATCHED:
            assert not decision.operations
            return
        after = golden.patched(decision)
        validate(after, EDGES)
        assert golden.pod == before
        place = "containers" if golden.policy.form == "legacy" else "initContainers"
        [ours] = [each for each in after["spec"][place] if each["name"] == "tokengate"]
        assert list(restricted_faults(ours)) == []
        again = golden.decide(after)
        assert (again.result, again.operations) == (Result.UNCHANGED, ())

    def test_our_own_json_patch_is_the_standards(self, golden: GoldenPod) -> None:
        decision, own = golden.decide(), golden.pod
        apply(own, decision.operations)
        assert own == golden.patched(decision)


def test_every_reason_has_a_golden_pod() -> None:
    decisions = [golden.decide() for golden in GOLDEN_PODS]
    seen = {decision.reason for decision in decisions}
    # What is no pod, and what has a name that is longer than any that is worth a file, is tested elsewhere.
    assert seen >= {*Skip, *refusals.Reason} - {refusals.Reason.NAME_TOO_LONG, Skip.NOT_A_POD, Skip.NOT_CREATED}
    assert len(GOLDEN_PODS) >= 20


class TestAgain:
    """The API server asks once more when another webhook has changed the pod after us."""

    def as_stored(self) -> dict[str, Any]:
        """With what the API server adds: defaults, the token, amounts as it writes them."""
        pod = patched(BARE.pod)
        ours = pod["spec"]["initContainers"][0]
        ours["terminationMessagePath"] = DEFAULTED["terminationMessagePath"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            ours[probe]["successThreshold"] = 1
        ours["resources"]["requests"]["memory"] = "65536Ki"
        token = {
            "name": "kube-api-access-x",
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            "readOnly": True,
        }
        ours["volumeMounts"].append(token)
        pod["spec"]["volumes"].append({"name": "kube-api-access-x", "projected": {"sources": []}})
        pod["metadata"]["creationTimestamp"] = None
        return pod

    def test_what_the_api_server_adds_is_no_difference(self) -> None:
        decision = decide(self.as_stored(), POLICY, "agents")
        assert (decision.result, decision.operations, decision.warnings) == (Result.UNCHANGED, (), ())

    def test_a_lost_restart_policy_is_all_that_is_put_back(self) -> None:
        pod = self.as_stored()
        del pod["spec"]["initContainers"][0]["restartPolicy"]
        pod["spec"]["initContainers"].insert(0, {"name": "mesh", "image": "mesh"})
        pod["spec"]["initContainers"][0]["env"] = GOLDEN["agentEnv"]
        decision = decide(pod, POLICY, "agents")
        assert decision.operations == (
            {"op": "add", "path": "/spec/initContainers/1/restartPolicy", "value": "Always"},
        )

    def test_a_container_that_came_later_gets_its_environment(self) -> None:
        pod = self.as_stored()
        pod["spec"]["containers"].append({"name": "late", "image": "late"})
        after = patched(pod)
        assert after["spec"]["containers"][1]["env"] == GOLDEN["agentEnv"]
        assert len(after["spec"]["initContainers"]) == 1

    @pytest.mark.parametrize(
        "tamper",
        [
            lambda ours: ours.update(image="example.com/evil"),
            lambda ours: ours.update(command=["sh"]),
            lambda ours: ours["args"].append("--role=all"),
            lambda ours: ours["env"].append({"name": "OPENAI_BASE_URL", "value": "https://example.com/v1"}),
            lambda ours: ours["env"][6].update(value="1000000"),
            lambda ours: ours["env"][3].pop("valueFrom"),
            lambda ours: ours["securityContext"].update(privileged=True),
            lambda ours: ours["securityContext"].pop("readOnlyRootFilesystem"),
            lambda ours: ours.update(lifecycle={"postStart": {"exec": {"command": ["sh"]}}}),
            lambda ours: ours["volumeMounts"].append({"name": "x", "mountPath": "/usr"}),
            lambda ours: ours["resources"]["limits"].update(memory="256M"),
            lambda ours: ours.update(terminationMessagePath="/elsewhere"),
            lambda ours: ours.pop("startupProbe"),
            lambda ours: ours.update(restartPolicy="Never", tty=True),
        ],
    )
    def test_a_sidecar_of_another_make_is_put_back_in_whole(self, tamper: Callable[[dict[str, Any]], Any]) -> None:
        pod = self.as_stored()
        tamper(pod["spec"]["initContainers"][0])
        decision = decide(pod, POLICY, "agents")
        assert [operation["op"] for operation in decision.operations] == ["replace"]
        assert "it was put back" in decision.warnings[0]
        assert patched(pod)["spec"]["initContainers"] == [GOLDEN["container"]]

    def test_a_volume_of_another_make_is_put_back(self) -> None:
        pod = self.as_stored()
        pod["spec"]["volumes"][0] = {"name": "tokengate-secrets", "emptyDir": {}}
        assert patched(pod)["spec"]["volumes"][:2] == GOLDEN["volumes"]

    def test_another_policy_is_applied_and_stamped(self) -> None:
        policy = parse(b"port: 9800")
        pod = self.as_stored()
        decision = decide(pod, policy, "agents")
        after = jsonpatch.apply_patch(pod, list(decision.operations))
        assert (
            after["metadata"]["annotations"]["tokengate.io/config-hash"] == policy.config_hash() != POLICY.config_hash()
        )
        assert "http://127.0.0.1:9800/v1" in {each["value"] for each in after["spec"]["containers"][0]["env"]}


class TestClosedPods:
    CLOSED = GoldenPod("closed")

    def after(self) -> dict[str, Any]:
        return self.CLOSED.patched(self.CLOSED.decide())

    def test_what_closes_it_is_first_and_the_gate_is_second(self) -> None:
        names = [each["name"] for each in self.after()["spec"]["initContainers"]]
        assert names == ["tokengate-egress", "tokengate", "fetch"]

    @pytest.mark.parametrize("name", ["tokengate-egress", "tokengate"])
    def test_one_that_was_taken_away_comes_back(self, name: str) -> None:
        pod = self.after()
        pod["spec"]["initContainers"] = [each for each in pod["spec"]["initContainers"] if each["name"] != name]
        decision = self.CLOSED.decide(pod)
        changed = jsonpatch.apply_patch(pod, list(decision.operations))
        assert {each["name"] for each in changed["spec"]["initContainers"]} == {
            "tokengate-egress",
            "tokengate",
            "fetch",
        }
        assert self.CLOSED.decide(changed).result is Result.UNCHANGED

    @pytest.mark.parametrize(
        "tamper",
        [
            lambda ours: ours["args"].__setitem__(1, "gate_uid=1000"),
            lambda ours: ours.update(restartPolicy="Always"),
            lambda ours: ours.update(command=["true"]),
        ],
    )
    def test_one_of_another_make_is_put_back(self, tamper: Callable[[dict[str, Any]], Any]) -> None:
        before = self.after()
        pod = copy.deepcopy(before)
        tamper(pod["spec"]["initContainers"][0])
        decision = self.CLOSED.decide(pod)
        assert [operation["op"] for operation in decision.operations] == ["replace"]
        assert jsonpatch.apply_patch(pod, list(decision.operations)) == before

    def test_with_a_gate_that_is_there_indices_are_right(self) -> None:
        """The gate is put back where it has come to stand once the other one is before it."""
        pod = patched(BARE.pod)
        safe = {"securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": False}}
        pod["spec"]["containers"][0] |= safe
        pod["spec"]["initContainers"].insert(0, {"name": "mesh", "image": "m", **safe})
        pod["spec"]["initContainers"][1]["image"] = "example.com/other"
        decision = decide(pod, self.CLOSED.policy, "agents")
        after = jsonpatch.apply_patch(pod, list(decision.operations))
        assert [each["name"] for each in after["spec"]["initContainers"]] == ["tokengate-egress", "mesh", "tokengate"]
        assert after["spec"]["initContainers"][2] == GOLDEN["container"]


class TestEphemeralContainers:
    def debug(self, **container: Any) -> Decision:
        pod = patched(BARE.pod)
        pod["spec"]["ephemeralContainers"] = [{"name": "debugger", "image": "busybox", **container}]
        return decide_ephemeral(pod, POLICY)

    def test_beside_the_agent_is_allowed(self) -> None:
        assert self.debug(targetContainerName="agent").result is Result.UNCHANGED

    @pytest.mark.parametrize(
        ("given_container", "reason"),
        [
            ({"targetContainerName": "tokengate"}, refusals.Reason.SHARED_PROCESSES),
            ({"volumeMounts": [{"name": "tokengate-secrets", "mountPath": "/x"}]}, refusals.Reason.SIDECAR_VOLUME),
            ({"securityContext": {"runAsUser": 65532}}, refusals.Reason.SIDECAR_USER),
            ({"securityContext": {"privileged": True}}, refusals.Reason.NODE_ACCESS),
        ],
    )
    def test_within_the_gate_is_refused(self, given_container: dict[str, Any], reason: refusals.Reason) -> None:
        assert self.debug(**given_container).reason == reason

    def test_of_a_pod_without_a_gate_is_nobodys_affair(self) -> None:
        pod = BARE.pod
        pod["spec"]["ephemeralContainers"] = [{"name": "d", "image": "d", "securityContext": {"privileged": True}}]
        assert decide_ephemeral(pod, POLICY).result is Result.UNCHANGED


class TestBounds:
    def test_a_name_that_cannot_be_a_sessions_is_refused(self) -> None:
        pod = BARE.pod
        pod["metadata"]["name"] = "a" * 129
        assert decide(pod, POLICY, "agents").reason == refusals.Reason.NAME_TOO_LONG

    def test_warnings_are_told_once_and_are_not_without_end(self) -> None:
        pod = BARE.pod
        pod["metadata"]["annotations"] = {f"tokengate.io/{index}": "x" for index in range(100)}
        assert len(decide(pod, POLICY, "agents").warnings) == 16

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"hostNetwork": "yes"}, "Expected `bool \\| null`, got `str` - at `\\$.spec.hostNetwork`"),
            ({"containers": None}, "\\$.spec.containers"),
            ({"containers": [{"image": "x"}]}, "missing required field `name` - at `\\$.spec.containers\\[0\\]`"),
        ],
    )
    def test_what_is_no_pod_is_told_with_its_place(self, change: dict[str, Any], said: str) -> None:
        pod = BARE.pod
        pod["spec"] |= change
        with pytest.raises(MalformedPod, match=said):
            decide(pod, POLICY, "agents")

    def test_nodes_paths_are_found_however_they_are_written(self) -> None:
        pod = BARE.pod
        for path, refused in {
            "/": True,
            "//": True,
            "/var": True,
            "/var/lib/kubelet/pods/": True,
            "/var/./lib/x/../kubelet": True,
            "/proc/1": True,
            "/running": False,
            "/dev/shm": False,
        }.items():
            pod["spec"]["volumes"] = [{"name": "node", "hostPath": {"path": path}}]
            assert (decide(pod, POLICY, "agents").result is Result.REFUSED) == refused, path


# --- whatever else a pod may be ---

NAMES = st.sampled_from(["agent", "worker", "fetch", "mesh"])
VARIABLES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(
                ["OPENAI_API_KEY", "OPENAI_BASE_URL", "GOOGLE_API_KEY", "HTTP_PROXY", "no_proxy", "A"]
            )
        },
        optional={
            "value": st.sampled_from(["", "x", "127.0.0.1", "a, b", "dummy-key"]),
            "valueFrom": st.just({"fieldRef": {"fieldPath": "metadata.name"}}),
        },
    ),
    max_size=6,
)
CONTAINERS = st.lists(
    st.fixed_dictionaries({"name": NAMES, "image": st.just("i")}, optional={"env": st.none() | VARIABLES}),
    min_size=1,
    max_size=3,
)
PODS = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries(
        {"containers": CONTAINERS},
        optional={
            "initContainers": st.none() | st.just([]) | CONTAINERS,
            "volumes": st.sampled_from([None, [], [{"name": "data", "emptyDir": {}}], GOLDEN["volumes"][1:]]),
        },
    )},
    optional={
        "metadata": st.none().map(lambda _: {"labels": None}) | st.just({}) | st.fixed_dictionaries(
            {}, optional={"name": st.just("x"), "labels": st.just({"a": "b"}), "annotations": st.just({"a/b~c": "d"})}
        )
    },
)  # fmt: skip


@given(PODS, st.sampled_from([b"", b"form: legacy", b"imagePullSecrets: [a, b]"]))
def test_any_pod_gets_one_gate_once(pod: dict[str, Any], text: bytes) -> None:
    policy = parse(text)
    decision, own = decide(pod, policy, "n"), copy.deepcopy(pod)
    assert decision.result is Result.PATCHED
    apply(own, decision.operations)
    assert own == jsonpatch.apply_patch(pod, list(decision.operations))
    again = decide(own, policy, "n")
    assert (again.result, again.operations) == (Result.UNCHANGED, ())
    found = [each["name"] for place in ("initContainers", "containers") for each in own["spec"].get(place) or ()]
    assert found.count("tokengate") == 1
    wanted = agent_environment(policy)
    for each in own["spec"]["containers"] + (own["spec"].get("initContainers") or []):
        if each["name"] != "tokengate":
            # The last of two of a name is what a process sees.
            seen = {variable["name"]: variable.get("value") for variable in each["env"]}
            assert seen.items() >= wanted.items()
            assert seen.get("GOOGLE_API_KEY", "dummy-key") == "dummy-key"

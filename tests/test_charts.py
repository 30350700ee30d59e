"""The charts: every mode renders to what Kubernetes takes, keeps to Pod Security, and is of one piece."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import helm_python
import msgspec
import pytest
import typer
import yaml
from typer.main import get_group

from tests.support.charts import (
    CASES,
    CHARTS,
    FOREIGN,
    NAMESPACE,
    Chart,
    case,
    containers,
    copied,
    of_kind,
    one,
    templates,
)
from tests.support.kubernetes import Manifest, restricted_faults, validate
from tokengate import __version__, cli
from tokengate.injector import sidecar
from tokengate.injector.policy import Policy, parse
from tokengate.injector.webhook import PATH
from tokengate.settings import NAMES, SECRETS

GOLDEN: Final[Manifest] = yaml.safe_load((Path(__file__).parent / "golden" / "sidecar-container.yaml").read_text())
SCHEMA: Final[dict[str, Any]] = json.loads((CHARTS / "tokengate" / "values.schema.json").read_text())
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
QUANTITY: Final = re.compile(r"[0-9]+(\.[0-9]+)?([EPTGMk]i?|m)?")
EXTERNAL: Final = {
    "tokengate-provider-keys", "tokengate-redis", "tokengate-redis-admin", "keys", "store",
    "webhook-tls", "tls", "admin-token",
}  # fmt: skip
"""Secrets that the modes expect to be there, made by somebody else."""


@pytest.fixture(scope="module")
def chart() -> Iterator[Chart]:
    opened = Chart()
    yield opened
    opened.close()


@pytest.fixture(params=CASES)
def rendered(chart: Chart, request: pytest.FixtureRequest) -> list[Manifest]:
    return chart.case(request.param)


@functools.cache
def taken(text: str, versions: tuple[str, ...]) -> None:
    """Validate an object; what is the same in several modes only once."""
    validate(json.loads(text), versions)


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


class TestEveryMode:
    def test_kubernetes_takes_it(self, rendered: list[Manifest]) -> None:
        assert rendered
        for manifest in rendered:
            if not manifest["apiVersion"].startswith(FOREIGN):
                # Admission policies are v1 since 1.30.
                old = manifest["kind"].startswith("ValidatingAdmissionPolicy")
                versions = tuple(f"1.{minor}" for minor in range(30 if old else 29, 38))
                taken(json.dumps(manifest), versions)

    def test_each_object_is_there_once_and_somewhere(self, rendered: list[Manifest]) -> None:
        clusterwide = ("Webhook", "AdmissionPolicy", "ClusterRole")
        seen = set()
        for manifest in rendered:
            metadata = manifest["metadata"]
            place = (manifest["kind"], metadata.get("namespace"), metadata["name"])
            assert place not in seen
            seen.add(place)
            assert ("namespace" in metadata) != any(word in manifest["kind"] for word in clusterwide), place
            assert NAME.fullmatch(metadata["name"]), place
            for value in metadata["labels"].values():
                assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value), place

    def test_it_needs_no_more_than_restricted(self, rendered: list[Manifest]) -> None:
        for manifest in rendered:
            for pod in templates(manifest):
                assert not {"hostNetwork", "hostPID", "hostIPC"} & pod["spec"].keys()
                for container in containers(pod):
                    assert list(restricted_faults(container, pod["spec"].get("securityContext"))) == []
                    assert container["securityContext"]["readOnlyRootFilesystem"] is True
                for volume in pod["spec"].get("volumes", []):
                    assert volume.keys() & {"secret", "configMap", "emptyDir", "projected"}

    def test_amounts_are_amounts(self, rendered: list[Manifest]) -> None:
        for manifest in rendered:
            for pod in templates(manifest):
                for container in containers(pod):
                    resources = container["resources"]
                    assert {"cpu", "memory"} <= resources["requests"].keys()
                    assert "memory" in resources["limits"]
                    assert "cpu" not in resources["limits"]
                    for amounts in resources.values():
                        assert all(QUANTITY.fullmatch(amount) for amount in amounts.values())

    def test_no_secret_is_in_an_environment(self, rendered: list[Manifest]) -> None:
        for manifest in rendered:
            for pod in templates(manifest):
                for container in containers(pod):
                    for variable in container.get("env", []):
                        assert "secretKeyRef" not in variable.get("valueFrom", {})
                        assert variable["name"].lower() not in SECRETS

    def test_variables_are_settings(self, rendered: list[Manifest]) -> None:
        known = {*(name.upper() for name in NAMES), *(f"{name.upper()}_FILE" for name in SECRETS)}
        for manifest in rendered:
            for pod in templates(manifest):
                for container in containers(pod):
                    for variable in container.get("env", []):
                        assert variable["name"] in known, (title(manifest), variable["name"])

    def test_what_is_mounted_is_there(self, rendered: list[Manifest]) -> None:
        made = {(each["kind"], each["metadata"]["name"]) for each in rendered}
        made |= {("Secret", name) for name in EXTERNAL}
        # Made by the jobs, or by cert-manager.
        made |= {("Secret", "tg-tokengate-injector-tls"), ("Secret", "gate-injector-tls")}
        for manifest in rendered:
            for pod in templates(manifest):
                volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
                volumes |= {each["metadata"]["name"]: each for each in manifest["spec"].get("volumeClaimTemplates", [])}
                for container in containers(pod):
                    assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys()
                for volume in volumes.values():
                    for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                        if "secret" in source:
                            given = source["secret"]
                            assert ("Secret", given.get("secretName", given.get("name"))) in made, title(manifest)
                        if "configMap" in source:
                            assert ("ConfigMap", source["configMap"]["name"]) in made, title(manifest)

    def test_accounts_are_there_and_have_no_token_they_do_not_need(self, rendered: list[Manifest]) -> None:
        accounts = {each["metadata"]["name"] for each in of_kind(rendered, "ServiceAccount")} | {"default"}
        bound = {each["subjects"][0]["name"] for each in of_kind(rendered, "RoleBinding")}
        for manifest in rendered:
            for pod in templates(manifest):
                account = pod["spec"]["serviceAccountName"]
                assert account in accounts
                assert pod["spec"]["automountServiceAccountToken"] is (account in bound)

    def test_services_budgets_and_policies_select_pods_with_their_ports(self, rendered: list[Manifest]) -> None:
        pods = [pod for manifest in rendered for pod in templates(manifest)]

        def selected(labels: dict[str, str]) -> list[Manifest]:
            return [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]

        for manifest in rendered:
            spec = manifest.get("spec", {})
            ports: list[object] = []
            match manifest["kind"]:
                case "Service":
                    found, ports = selected(spec["selector"]), [port["targetPort"] for port in spec["ports"]]
                case "PodDisruptionBudget":
                    found = selected(spec["selector"]["matchLabels"])
                case "NetworkPolicy" if spec["podSelector"]:
                    found = selected(spec["podSelector"]["matchLabels"])
                    ports = [port["port"] for rule in spec["ingress"] for port in rule["ports"]]
                case _:
                    continue
            assert found, title(manifest)
            named = {port["name"] for pod in found for each in containers(pod) for port in each.get("ports", [])}
            assert set(ports) <= named, title(manifest)

    def test_workloads_select_their_own_pods_and_no_others(self, rendered: list[Manifest]) -> None:
        workloads = [each for each in rendered if each["kind"] in ("Deployment", "StatefulSet")]
        for manifest in workloads:
            selector = manifest["spec"]["selector"]["matchLabels"].items()
            for other in rendered:
                for pod in templates(other):
                    assert (selector <= pod["metadata"]["labels"].items()) is (other is manifest)

    def test_our_own_pods_are_never_gated(self, rendered: list[Manifest]) -> None:
        for manifest in rendered:
            for pod in templates(manifest):
                assert pod["metadata"]["labels"]["tokengate.io/inject"] == "false"

    @pytest.mark.parametrize("name", CASES)
    def test_helm_has_nothing_to_say(self, chart: Chart, name: str) -> None:
        report = helm_python.lint(str(chart.path), values=case(name), strict=True)
        found = [each for each in report["messages"] if "icon is recommended" not in str(each)]
        assert found == []


class TestModes:
    def test_a_sentinel_and_its_passwords(self, chart: Chart) -> None:
        secrets = of_kind(chart.case("redis-sentinel"), "Secret", "tokengate-redis")
        assert {each["metadata"]["namespace"] for each in secrets} == {"team-a", "team-b", NAMESPACE}
        url = urlsplit(secrets[0]["stringData"]["REDIS_URL"])
        assert (url.scheme, url.path, unquote(url.password or "")) == (
            "rediss+sentinel", "/tokengate", "pass/word with space",
        )  # fmt: skip
        admin = one(chart.case("redis-sentinel"), "Secret", "tokengate-redis-admin")["stringData"]["REDIS_URL"]
        assert unquote(urlsplit(admin).password or "") == "another:one@"

    def test_a_cluster_and_a_single_server(self, chart: Chart) -> None:
        cluster = one(chart.case("redis-cluster"), "Secret", "-redis-admin")["stringData"]["REDIS_URL"]
        assert cluster == "redis+cluster://tokengate-admin:two@redis-0.redis:6379,redis-1.redis:6379"
        single = one(chart.case("redis-single"), "Secret", "-redis-admin")["stringData"]["REDIS_URL"]
        assert single == "rediss://tokengate-admin:two@redis.example:6380/3"

    def test_the_trial_redis_says_that_it_is_one_and_lets_only_its_users_in(self, chart: Chart) -> None:
        rendered = chart.case("trial")
        for kind in ("StatefulSet", "Service", "Secret"):
            labels = one(rendered, kind, "-redis-trial")["metadata"]["labels"]
            assert labels["tokengate.io/for-trying-out"] == "true"
        secret = one(rendered, "Secret", "-redis-trial")["stringData"]
        assert "forTryingOut" not in secret["users.acl"]
        assert secret["users.acl"].startswith("user default off\n")
        url = one(rendered, "Secret", "-redis-admin")["stringData"]["REDIS_URL"]
        service = one(rendered, "Service", "-redis-trial")["metadata"]["name"]
        assert url == f"redis://tokengate-admin:forTryingOut@{service}.{NAMESPACE}.svc:6379"

    def test_without_a_password_one_is_made_and_is_the_same_everywhere(self, chart: Chart) -> None:
        rendered = chart.render({"redis": {"mode": "trial"}, "namespaces": ["agents"]})
        password = one(rendered, "Secret", "-redis-trial")["stringData"]["password"]
        assert re.fullmatch("[A-Za-z0-9]{32}", password)
        for secret in of_kind(rendered, "Secret", "tokengate-redis"):
            assert urlsplit(secret["stringData"]["REDIS_URL"]).password == password

    @pytest.mark.parametrize("name", ["default", "minimal", "cert-manager", "certificate-helm", "certificate-existing"])
    def test_the_webhook_and_its_certificate_are_of_one_service(self, chart: Chart, name: str) -> None:
        rendered = chart.case(name)
        service = one(rendered, "Service", "-injector")
        hook = one(rendered, "MutatingWebhookConfiguration")
        for webhook in hook["webhooks"]:
            client = webhook["clientConfig"]["service"]
            assert (client["name"], client["namespace"]) == (service["metadata"]["name"], NAMESPACE)
            assert client["port"] == service["spec"]["ports"][0]["port"]
            assert webhook["failurePolicy"] == "Fail"
            (excluded, _) = webhook["namespaceSelector"]["matchExpressions"]
            assert set(excluded["values"]) >= {NAMESPACE, "kube-system"}
        for certificate in of_kind(rendered, "Certificate"):
            assert f"{service['metadata']['name']}.{NAMESPACE}.svc" in certificate["spec"]["dnsNames"]
            assert hook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == (
                f"{NAMESPACE}/{certificate['metadata']['name']}"
            )

    def test_a_namespace_and_a_pod_are_never_sent_twice(self, chart: Chart) -> None:
        by_namespace, by_pod = one(chart.case("default"), "MutatingWebhookConfiguration")["webhooks"]
        label = ("tokengate.io/inject", ["enabled"])

        def chosen(webhook: Manifest) -> dict[tuple[str, tuple[str, ...]], str]:
            expressions = webhook["namespaceSelector"]["matchExpressions"]
            return {(each["key"], tuple(each["values"])): each["operator"] for each in expressions}

        place = (label[0], tuple(label[1]))
        assert (chosen(by_namespace)[place], chosen(by_pod)[place]) == ("In", "NotIn")
        assert "objectSelector" not in by_namespace

    def test_a_certificate_made_while_rendering_is_one(self, chart: Chart) -> None:
        rendered = chart.case("certificate-helm")
        secret = one(rendered, "Secret", "-injector-tls")
        for webhook in one(rendered, "MutatingWebhookConfiguration")["webhooks"]:
            assert webhook["clientConfig"]["caBundle"] == secret["data"]["ca.crt"]

    def test_the_certificates_job_is_no_hook_and_has_the_rights_it_needs(self, chart: Chart) -> None:
        rendered = chart.case("default")
        hook = one(rendered, "MutatingWebhookConfiguration")["metadata"]["name"]
        secret = one(rendered, "Deployment", "-injector")["spec"]["template"]["spec"]["volumes"][1]["secret"][
            "secretName"
        ]
        job = one(rendered, "Job")
        # As a hook it would be waited for in vain: the injector's pods wait for what it makes.
        assert not [name for name in job["metadata"]["annotations"] if name.startswith("helm.sh/")]
        assert job["metadata"]["name"] == "tg-tokengate-certificates-1"
        for each in (job, one(rendered, "CronJob", "-certificates")):
            (container,) = templates(each)[0]["spec"]["containers"]
            given = dict(argument.split("=") for argument in container["args"][2:])
            assert given["--webhooks"] == hook
            assert given["--secret"] == secret
            assert given["--service"] == one(rendered, "Service", "-injector")["metadata"]["name"]
        named, create = one(rendered, "Role")["rules"]
        assert (named["resourceNames"], named["verbs"], create["verbs"]) == ([secret], ["get", "update"], ["create"])
        (rule,) = one(rendered, "ClusterRole")["rules"]
        assert (rule["resourceNames"], rule["verbs"]) == ([hook], ["get", "patch"])
        assert one(rendered, "RoleBinding")["subjects"][0]["name"] == "tg-tokengate-certificates"

    def test_the_webhooks_ask_where_the_injector_answers(self, chart: Chart) -> None:
        for webhook in one(chart.case("default"), "MutatingWebhookConfiguration")["webhooks"]:
            assert webhook["clientConfig"]["service"]["path"] == PATH

    @pytest.mark.parametrize("name", CASES)
    def test_commands_take_the_arguments_they_are_given(self, chart: Chart, name: str) -> None:
        for manifest in chart.case(name):
            for pod in templates(manifest):
                for container in containers(pod):
                    args = container.get("args", [])
                    if "command" in container or args[0] == "serve":
                        continue
                    command: Any = get_group(cli.app)
                    options = list(args)
                    while options and isinstance(command, typer.core.TyperGroup) and not options[0].startswith("-"):
                        command = command.commands.get(options.pop(0))
                        assert command is not None, args
                    known = {option for parameter in getattr(command, "params", []) for option in parameter.opts}
                    given = {option.partition("=")[0] for option in options if option.startswith("--")}
                    assert given <= known, args

    def test_the_console_has_no_key_of_a_provider(self, chart: Chart) -> None:
        for name in CASES:
            for console in of_kind(chart.case(name), "Deployment", "-console"):
                assert "OPENAI_API_KEY" not in json.dumps(console)
                assert "provider" not in json.dumps(console["spec"]["template"]["spec"])

    @pytest.mark.parametrize(
        ("values", "tenant", "agent_budget"),
        [
            ({}, "default", "100.00"),
            ({"namespaces": ["agents", "others"]}, "agents", "100.00"),
            ({"namespaces": ["agents"], "console": {"tenant": "x"}, "admin": {"tenant": "x"}}, "x", "100.00"),
            ({"policy": {"settings": {"AGENT_BUDGET": "7"}}}, "default", "7"),
            ({"console": {"settings": {"AGENT_BUDGET": "9"}}}, "default", "9"),
            (
                {
                    "injector": {"enabled": False}, "admissionPolicy": {"enabled": False}, "namespaces": ["agents"],
                    "gateway": {"enabled": True, "tenant": "shared", "settings": {"AGENT_BUDGET": "3", "WORKERS": "2"}},
                },
                "shared",
                "3",
            ),
        ],
    )  # fmt: skip
    def test_console_and_commands_know_whose_budgets_they_look_after(
        self, chart: Chart, values: dict[str, Any], tenant: str, agent_budget: str
    ) -> None:
        rendered = chart.render(values)
        console = one(rendered, "Deployment", "-console")["spec"]["template"]["spec"]["containers"][0]["env"]
        form = one(rendered, "CronJob", "-admin")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0][
            "env"
        ]
        for env in (console, form):
            told = {each["name"]: each["value"] for each in env}
            assert len(told) == len(env)
            assert told["TENANT"] == tenant
            assert "WORKERS" not in told
        assert {each["name"]: each["value"] for each in console}["AGENT_BUDGET"] == agent_budget
        said = chart.texts(values)["tokengate/templates/NOTES.txt"]
        assert f"It shows the sessions of one tenant, {tenant} (console.tenant)." in said

    def test_the_gateway_scales_and_lets_calls_end(self, chart: Chart) -> None:
        rendered = chart.case("egress-gateway")
        deployment = one(rendered, "Deployment", "-gateway")
        assert "replicas" not in deployment["spec"]
        scaled = one(rendered, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
        assert scaled == deployment["metadata"]["name"]
        pod = deployment["spec"]["template"]["spec"]
        environ = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        assert int(environ["SHUTDOWN_GRACE_S"]) + 5 < pod["terminationGracePeriodSeconds"]
        assert environ["TENANT"] == "agents"
        fixed = one(chart.case("gateway-fixed"), "Deployment", "-gateway")
        assert fixed["spec"]["replicas"] == 3

    def test_agents_behind_a_gateway_reach_it_and_nothing_else(self, chart: Chart) -> None:
        rendered = chart.case("egress-gateway")
        gateway = one(rendered, "Deployment", "-gateway")
        policies = of_kind(rendered, "NetworkPolicy", "tokengate-egress")
        assert {each["metadata"]["namespace"] for each in policies} == {"team-a", "team-b"}
        for policy in policies:
            assert policy["spec"]["podSelector"] == {}
            names, calls, allowed = policy["spec"]["egress"]
            assert {port["port"] for port in names["ports"]} == {53}
            (peer,) = calls["to"]
            labels = gateway["spec"]["template"]["metadata"]["labels"]
            assert peer["podSelector"]["matchLabels"].items() <= labels.items()
            assert calls["ports"] == [{"port": 8000, "protocol": "TCP"}]
            cidrs = [each["ipBlock"]["cidr"] for each in allowed["to"]]
            assert cidrs == ["192.0.2.0/24", "198.51.100.7/32", "2001:db8::/64"]
        environ = of_kind(rendered, "ConfigMap", "tokengate-agent")[0]["data"]
        assert environ["OPENAI_BASE_URL"] == "http://tg-tokengate-gateway.tokengate.svc/v1"
        assert environ["ANTHROPIC_BASE_URL"] == "http://tg-tokengate-gateway.tokengate.svc"

    def test_a_report_runs_on_its_schedule_and_the_form_does_not(self, chart: Chart) -> None:
        form = one(chart.case("default"), "CronJob", "-admin")["spec"]
        assert form["suspend"] is True
        report = one(chart.case("strict"), "CronJob", "-admin")["spec"]
        assert (report["suspend"], report["schedule"]) == (False, "0 7 * * 1-5")

    def test_monitors_find_what_there_is(self, chart: Chart) -> None:
        rendered = chart.case("monitoring")
        sidecars, ours = of_kind(rendered, "PodMonitor")
        assert sidecars["spec"]["selector"]["matchLabels"] == GOLDEN["labels"]
        assert sidecars["spec"]["podMetricsEndpoints"][0]["port"] == GOLDEN["container"]["ports"][0]["name"]
        # What the ServiceMonitor has is not scraped twice.
        (apart,) = ours["spec"]["selector"]["matchExpressions"]
        (taken,) = one(rendered, "ServiceMonitor")["spec"]["selector"]["matchExpressions"]
        assert (apart["operator"], taken["operator"]) == ("NotIn", "In")
        assert apart["values"] == taken["values"] == ["console", "gateway"]


REFUSED: Final = [
    ({"injektor": {}}, "injektor"),
    ({"injector": {"replica": 2}}, "replica"),
    ({"policy": {"settings": {"default_budget": "1"}}}, "default_budget"),
    ({"policy": {"settings": {"DEFAULT_BUDGET": 10}}}, "DEFAULT_BUDGET"),
    ({"policy": {"port": 80}}, "port"),
    ({"policy": {"user": 0}}, "user"),
    ({"policy": {"providers": ["openia"]}}, "providers"),
    ({"image": {"digest": "sha256:1"}}, "digest"),
    ({"certificates": {"mode": "vault"}}, "mode"),
    ({"egress": {"mode": "block"}}, "mode"),
    ({"redis": {"external": {"hosts": ["redis"]}}}, "hosts"),
    ({"providerKeys": {"values": {"OPENAI_KEY": "k"}}}, "OPENAI_KEY"),
    ({"admin": {"schedule": "daily"}}, "schedule"),
    ({"policy": {"resources": {"memoryLimit": "256MB"}}}, "memoryLimit"),
]

IMPOSSIBLE: Final = [
    ({"egress": {"mode": "gateway"}}, "gateway.enabled"),
    ({"egress": {"mode": "gateway"}, "gateway": {"enabled": True}}, "namespaces"),
    ({"redis": {"mode": "external"}}, "redis.external.hosts"),
    ({"redis": {"mode": "external", "external": {"hosts": ["a:1", "b:2"]}}}, "kind single has one"),
    ({"redis": {"mode": "external", "external": {"hosts": ["a:1"]}}}, "password"),
    ({"redis": {"mode": "external", "external": {"hosts": ["a:1"], "kind": "sentinel"}}}, "master"),
    ({"redis": {"mode": "external", "external": {"hosts": ["a:1"], "kind": "cluster", "database": 1}}}, "database"),
    ({"policy": {"port": 15890}}, "statusPort are the same"),
    ({"providerKeys": {"create": True}}, "providerKeys.values"),
]


class TestValues:
    @pytest.mark.parametrize(("values", "named"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
    def test_what_is_wrong_is_named(self, chart: Chart, values: dict[str, Any], named: str) -> None:
        with pytest.raises(helm_python.HelmValuesError, match=named):
            chart.texts(values)

    @pytest.mark.parametrize(("values", "named"), IMPOSSIBLE, ids=lambda each: each if isinstance(each, str) else "")
    def test_what_does_not_go_together_is_said(self, chart: Chart, values: dict[str, Any], named: str) -> None:
        with pytest.raises(helm_python.HelmRenderError, match=re.escape(named)):
            chart.texts(values)

    def test_the_schema_knows_each_value_and_no_other(self, chart: Chart) -> None:
        def compare(values: dict[str, Any], schema: dict[str, Any], place: str) -> None:
            if "$ref" in schema:
                schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
            if "properties" not in schema:
                return
            assert schema["additionalProperties"] is False, place
            known = schema["properties"].keys() - {"global", "tokengate-lib"}
            # Amounts of resources are a choice; everything else has a default.
            assert values.keys() <= known if place.endswith(("requests", "limits")) else values.keys() == known, place
            for name, value in values.items():
                if isinstance(value, dict):
                    compare(value, schema["properties"][name], f"{place}.{name}")

        written = yaml.safe_load((CHARTS / "tokengate" / "values.yaml").read_text())
        written["certificates"]["certManager"].pop("issuerRef")
        schema = json.loads(json.dumps(SCHEMA))
        schema["properties"]["certificates"]["properties"]["certManager"]["properties"].pop("issuerRef")
        compare(written, schema, "values")

    def test_its_defaults_for_sidecars_are_the_librarys(self, chart: Chart) -> None:
        policy = yaml.safe_load(one(chart.case("default"), "ConfigMap", "-policy")["data"]["policy.yaml"])
        library = (CHARTS / "tokengate-lib" / "templates" / "_policy.tpl").read_text()
        defaults = library.partition('define "tokengate.policy.defaults" -}}\n')[2].partition("{{-")[0]
        assert policy == yaml.safe_load(defaults)

    def test_the_table_of_values_is_that_of_the_values(self) -> None:
        done = subprocess.run(
            [sys.executable, str(CHARTS / "readme.py"), "--check"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_versions_are_those_of_the_package(self) -> None:
        for name in ("tokengate", "tokengate-lib"):
            described = yaml.safe_load((CHARTS / name / "Chart.yaml").read_text())
            assert described["appVersion"] == described["version"] == __version__
            assert described["kubeVersion"] == ">=1.29.0-0"


class TestNotes:
    @pytest.mark.parametrize("name", CASES)
    def test_what_they_name_is_there(self, chart: Chart, name: str) -> None:
        texts = chart.texts(case(name))
        notes = texts["tokengate/templates/NOTES.txt"]
        rendered = chart.case(name)
        for service in re.findall(r"service/(\S+)", notes):
            one(rendered, "Service", service)
        for form in re.findall(r"get secret --namespace \S+ (\S+)", notes):
            assert form in EXTERNAL or one(rendered, "Secret", form)
        assert "\n\n\n" not in notes
        assert ("for trying out" in notes) is (name == "trial")
        assert not re.search(r"[ \t]$", notes, re.MULTILINE)


WRAPPER: Final = """
apiVersion: v1
kind: Golden
container:
  {{- include "tokengate.container" (dict "policy" .Values.tokengate) | nindent 2 }}
volumes:
  {{- include "tokengate.volumes" (dict "policy" .Values.tokengate) | nindent 2 }}
agentEnv:
  {{- include "tokengate.agentEnv" (dict "policy" .Values.tokengate) | nindent 2 }}
labels:
  {{- include "tokengate.labels" . | nindent 2 }}
annotations:
  {{- include "tokengate.annotations" (dict "agent" "my-agent") | nindent 2 }}
egress:
  {{- include "tokengate.egress" (dict "policy" .Values.tokengate "allow" (list "192.0.2.0/24" "2001:db8::1")) | nindent 2 }}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[helm_python.Chart]:
    """A chart of somebody else that uses the library."""
    folder = tmp_path_factory.mktemp("library")
    own = folder / "charts" / "own"
    (own / "templates").mkdir(parents=True)
    dependency = {"name": "tokengate-lib", "version": __version__, "repository": "file://../tokengate-lib"}
    described = {"apiVersion": "v2", "name": "own", "version": "1.0.0", "dependencies": [dependency]}
    (own / "Chart.yaml").write_text(yaml.safe_dump(described))
    (own / "templates" / "golden.yaml").write_text(WRAPPER)
    with helm_python.Chart.load(str(copied(folder, "own"))) as loaded:
        yield loaded


class TestTheInjector:
    """What the chart tells it is what the library renders from the same values."""

    @pytest.mark.parametrize("name", [name for name in CASES if name != "egress-gateway"])
    def test_it_takes_the_policy_and_makes_the_same_sidecar(
        self, chart: Chart, library: helm_python.Chart, name: str
    ) -> None:
        text = one(chart.case(name), "ConfigMap", "-policy")["data"]["policy.yaml"]
        policy = parse(text.encode())
        text = library.render({"tokengate": yaml.safe_load(text)}, name="mine")["own/templates/golden.yaml"]
        rendered = yaml.safe_load(text)
        assert rendered["container"] == [sidecar.container(policy, policy.session)]
        assert rendered["volumes"] == sidecar.volumes(policy)
        assert {each["name"]: each["value"] for each in rendered["agentEnv"]} == sidecar.agent_environment(policy)

    @pytest.mark.parametrize(
        ("name", "mode", "allow"), [("default", "none", ()), ("egress-drop", "drop", ("192.0.2.53",))]
    )
    def test_it_is_told_whether_pods_are_to_be_closed(
        self, chart: Chart, name: str, mode: str, allow: tuple[str, ...]
    ) -> None:
        policy = parse(one(chart.case(name), "ConfigMap", "-policy")["data"]["policy.yaml"].encode())
        assert (policy.egress.mode, policy.egress.allow) == (mode, allow)

    def test_only_what_a_policy_has_is_in_it(self, chart: Chart) -> None:
        given = yaml.safe_load(one(chart.case("default"), "ConfigMap", "-policy")["data"]["policy.yaml"])
        assert given.keys() == {field.encode_name for field in msgspec.structs.fields(Policy)}


class TestTheLibrary:
    def rendered(self, library: helm_python.Chart, policy: dict[str, Any]) -> Manifest:
        text = library.render({"tokengate": policy}, name="mine", namespace="agents")["own/templates/golden.yaml"]
        found: Manifest = yaml.safe_load(text)
        return found

    def test_it_gives_the_golden_sidecar(self, library: helm_python.Chart) -> None:
        rendered = self.rendered(library, {})
        assert rendered["container"] == [GOLDEN["container"]]
        for part in ("volumes", "agentEnv", "labels", "annotations"):
            assert rendered[part] == GOLDEN[part]

    def test_what_closes_a_pod_has_one_right_and_says_so(self, library: helm_python.Chart) -> None:
        (closing,) = self.rendered(library, {"user": 10001})["egress"]
        assert list(restricted_faults(closing)) == [
            "capabilities are added",
            "runAsNonRoot is not true",
            "runs as root",
        ]
        assert closing["securityContext"]["capabilities"]["add"] == ["NET_ADMIN"]
        drop = {"user": 10001, "egress": {"mode": "drop", "allow": ["192.0.2.0/24", "2001:db8::1"]}}
        assert closing == sidecar.egress(parse(json.dumps(drop).encode()))
        given = closing["args"][1::2]
        assert given[0] == "gate_uid=10001"
        assert given[1:3] == ["allowed_v4={127.0.0.0/8, 192.0.2.0/24}", "allowed_v6={::1, 2001:db8::1}"]

    def test_it_closes_pods_as_the_injector_does(self, library: helm_python.Chart) -> None:
        policy = parse(b"egress: {mode: drop, allow: [192.0.2.0/24, '2001:db8::1']}")
        assert self.rendered(library, {})["egress"] == [sidecar.egress(policy)]

    @pytest.mark.parametrize("policy", [{"providers": ["openia"]}, {"port": 15890}])
    def test_a_policy_that_cannot_be_is_refused(self, library: helm_python.Chart, policy: dict[str, Any]) -> None:
        with pytest.raises(helm_python.HelmRenderError, match="policy"):
            self.rendered(library, policy)

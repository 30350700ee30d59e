"""The webhook's certificate: what is made, when it is made anew, and that nobody is ever turned away for it."""

import base64
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from cryptography import x509

from tests.support.api_server import WEBHOOKS, ApiServer, api_server
from tests.support.discovery import Refused
from tests.support.golden_pods import GoldenPod
from tests.support.injectors import NAMESPACE, SECRET, SERVICE, authorities, certs, furnish, injector, mount, until
from tokengate.injector.certificates import AUTHORITIES_MAX, Issued, bundle, expires, fault, issue, service_names
from tokengate.injector.cluster import ATTEMPTS_MAX, Cluster, ClusterError
from tokengate.injector.reading import Certificate, Reading
from tokengate.injector.rotation import ROUNDS_MAX, SETTLE_S, Plan, Rotation

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NAMES = service_names(SERVICE, NAMESPACE)
PLAN = Plan(NAMESPACE, SERVICE, f"{SERVICE}-tls", SERVICE)


class TestIssue:
    def test_openssl_believes_it(self, tmp_path: Path) -> None:
        issued = issue(NAMES, 30, datetime.now(UTC))
        (tmp_path / "ca").write_bytes(issued.authorities)
        (tmp_path / "certificate").write_bytes(issued.certificate)
        checked = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", NAMES[0], "-CAfile", tmp_path / "ca",
             tmp_path / "certificate"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.stdout.endswith("certificate: OK\n"), checked.stderr

    def test_it_is_for_the_service_by_all_of_its_names_and_for_so_many_days(self) -> None:
        issued = issue(NAMES, 30, NOW)
        certificate = x509.load_pem_x509_certificate(issued.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [
            "tokengate-injector.tokengate.svc",
            "tokengate-injector.tokengate.svc.cluster.local",
            "tokengate-injector.tokengate",
            "tokengate-injector",
        ]
        assert expires(issued.certificate) == NOW + timedelta(days=30)
        assert certificate.not_valid_before_utc < NOW

    def test_a_long_name_is_one(self) -> None:
        issue(service_names("s" * 63, "n" * 63), 1, NOW)

    def test_no_two_are_alike_and_the_authorities_key_is_nowhere(self) -> None:
        one, other = issue(NAMES, 1, NOW), issue(NAMES, 1, NOW)
        assert not {one.certificate, one.key, one.authorities} & {other.certificate, other.key, other.authorities}
        assert b"".join((one.certificate, one.key, one.authorities)).count(b"PRIVATE KEY-----") == 2


class TestBundle:
    def test_it_keeps_what_is_believed_newest_first_each_once_and_not_without_end(self) -> None:
        made = b""
        for day in range(6):
            made = issue(NAMES, 365, NOW + timedelta(days=day), made).authorities
        found = x509.load_pem_x509_certificates(made)
        assert len(found) == AUTHORITIES_MAX
        begun = [each.not_valid_before_utc for each in found]
        assert begun == sorted(begun, reverse=True)
        assert bundle([made, made], NOW) == made

    def test_what_has_ended_or_is_none_is_dropped(self) -> None:
        old = issue(NAMES, 1, NOW).authorities
        assert bundle([old, b"nonsense", b""], NOW) == old
        assert bundle([old], NOW + timedelta(days=1)) == b""


class TestFault:
    GOOD = issue(NAMES, 90, NOW)
    OTHER = issue(NAMES, 90, NOW)

    @pytest.mark.parametrize(
        ("issued", "after", "why"),
        [
            (GOOD, 0, ""),
            (GOOD, 29, ""),
            (GOOD, 31, "it ends in 59 days"),
            (GOOD, 90, "it has ended"),
            (Issued(b"", b"", b""), 0, "there is none that can be read"),
            (Issued(GOOD.certificate, b"nonsense", GOOD.authorities), 0, "there is none that can be read"),
            (Issued(GOOD.certificate, OTHER.key, GOOD.authorities), 0, "its key is not the certificate's"),
            (Issued(GOOD.certificate, GOOD.key, OTHER.authorities), 0, "its authority is not known"),
            (Issued(GOOD.certificate, GOOD.key, b""), 0, "its authority is not known"),
            (issue(NAMES[1:], 90, NOW), 0, "it does not name tokengate-injector.tokengate.svc"),
        ],
    )  # fmt: skip
    def test_why_it_is_made_anew(self, issued: Issued, after: int, why: str) -> None:
        assert fault(issued, NAMES, NOW + timedelta(days=after), 60) == why


class TestServed:
    def test_half_of_a_pair_is_refused_and_the_former_stays(self, tmp_path: Path) -> None:
        one, other = issue(NAMES, 30, NOW), issue(NAMES, 60, NOW)
        certificate = Certificate()
        files = tmp_path / "tls.crt", tmp_path / "tls.key"
        reading = Reading("certificate", files, certificate.take)
        assert reading.again() is False
        assert reading.again() is None  # reported once
        files[0].write_bytes(one.certificate)
        files[1].write_bytes(one.key)
        assert reading.again() is True
        assert reading.again() is None
        files[0].write_bytes(other.certificate)
        assert reading.again() is False
        assert reading.value == NOW + timedelta(days=30)
        files[1].write_bytes(other.key)
        assert reading.again() is True
        assert reading.value == NOW + timedelta(days=60)
        files[0].write_bytes(b"x" * (256 * 1024 + 1))
        assert reading.again() is False
        assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_3


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server(tmp_path / "api") as running:
        furnish(running)
        yield running


@pytest.fixture
def account(api: ApiServer, tmp_path: Path) -> Path:
    return api.service_account(tmp_path / "account", NAMESPACE)


class TestRotation:
    @pytest.fixture
    def pauses(self) -> list[float]:
        return []

    @pytest.fixture
    def rotate(self, api: ApiServer, account: Path, pauses: list[float]) -> Iterator[Callable[..., tuple[str, int]]]:
        cluster = Cluster(api.url, account, pause=pauses.append)

        def run(days: float = 0, **plan: Any) -> tuple[str, int]:
            chosen = Plan(NAMESPACE, SERVICE, f"{SERVICE}-tls", SERVICE, **plan)
            done = Rotation(cluster, chosen, now=lambda: NOW + timedelta(days=days), pause=pauses.append).run()
            return done.renewed, done.told

        yield run
        cluster.close()

    def test_it_makes_one_and_then_leaves_it(
        self, api: ApiServer, rotate: Callable[..., tuple[str, int]], pauses: list[float]
    ) -> None:
        assert rotate() == ("there is none that can be read", 2)
        secret = api.objects[SECRET]
        assert secret["type"] == "kubernetes.io/tls"
        assert set(secret["data"]) == {"tls.crt", "tls.key", "ca.crt"}
        assert [base64.b64decode(secret["data"]["ca.crt"]).decode()] * 2 == authorities(api)
        version = secret["metadata"]["resourceVersion"]
        assert rotate() == ("", 0)
        assert api.objects[SECRET]["metadata"]["resourceVersion"] == version
        assert pauses == []  # nobody serves yet who would have to be believed meanwhile

    def test_in_time_it_renews_and_both_authorities_are_believed_before_the_certificate_is_there(
        self, api: ApiServer, rotate: Callable[..., tuple[str, int]], pauses: list[float]
    ) -> None:
        rotate()
        [old, _] = authorities(api)
        api.asked.clear()
        assert rotate(days=306) == ("it ends in 59 days", 2)
        changes = [(method, path) for method, path in api.asked if method != "GET"]
        assert changes == [("PATCH", f"{WEBHOOKS}/{SERVICE}"), ("PUT", SECRET)]
        assert pauses == [SETTLE_S]
        [both, _] = authorities(api)
        assert both.endswith(old)
        assert both.count("BEGIN CERTIFICATE") == 2
        rotate(days=366)
        assert rotate(days=366, force=True)[0] == "it was asked for"
        assert old not in authorities(api)[0]  # it has ended

    def test_what_an_upgrade_emptied_is_put_back(self, api: ApiServer, rotate: Callable[..., tuple[str, int]]) -> None:
        rotate()
        before = authorities(api)
        del api.objects[f"{WEBHOOKS}/{SERVICE}"]["webhooks"][1]["clientConfig"]["caBundle"]
        api.objects[f"{WEBHOOKS}/{SERVICE}"]["webhooks"][0]["clientConfig"]["caBundle"] = "Cg=="
        assert rotate() == ("", 2)
        assert authorities(api) == before

    def test_a_lost_secret_does_not_end_belief_in_who_still_serves(
        self, api: ApiServer, rotate: Callable[..., tuple[str, int]]
    ) -> None:
        rotate()
        [old, _] = authorities(api)
        del api.objects[SECRET]
        rotate()
        assert authorities(api)[0].endswith(old)
        assert authorities(api)[0] != old

    def test_a_key_that_is_known_is_distrusted(self, api: ApiServer, rotate: Callable[..., tuple[str, int]]) -> None:
        rotate()
        [old, _] = authorities(api)
        assert rotate(distrust=True) == ("it was asked for", 4)
        assert old not in authorities(api)[0]
        assert authorities(api)[0].count("BEGIN CERTIFICATE") == 1

    def test_two_at_once_agree_on_one(
        self, api: ApiServer, account: Path, rotate: Callable[..., tuple[str, int]]
    ) -> None:
        def faster(method: str, path: str) -> None:
            if method == "POST" and path.endswith("/secrets"):
                api.before = lambda _method, _path: None
                with ExitStack() as stack:
                    cluster = Cluster(api.url, account)
                    stack.callback(cluster.close)
                    Rotation(cluster, PLAN, now=lambda: NOW).run()
                raise Refused(409, "AlreadyExists", "another one was faster")

        api.before = faster
        assert rotate() == ("", 2)
        bundle_of = base64.b64decode(api.objects[SECRET]["data"]["ca.crt"]).decode()
        assert all(bundle_of in each for each in authorities(api))

    def test_one_that_always_loses_gives_up(self, api: ApiServer, rotate: Callable[..., tuple[str, int]]) -> None:
        lost = 0

        def faster(method: str, _path: str) -> None:
            nonlocal lost
            if method == "POST":
                lost += 1
                raise Refused(409, "AlreadyExists", "another one was faster")

        api.before = faster
        with pytest.raises(ClusterError, match="others wrote Secret tokengate-injector-tls 5 times"):
            rotate()
        assert lost == ROUNDS_MAX

    def test_webhooks_whose_order_changes_are_looked_at_again(
        self, api: ApiServer, rotate: Callable[..., tuple[str, int]]
    ) -> None:
        def reorder(method: str, _path: str) -> None:
            if method == "PATCH":
                api.before = lambda _method, _path: None
                api.objects[f"{WEBHOOKS}/{SERVICE}"]["webhooks"].reverse()

        api.before = reorder
        assert rotate()[1] == 2
        assert len(set(authorities(api))) == 1

    def test_a_fault_of_a_moment_is_tried_again_and_another_is_told(
        self, api: ApiServer, rotate: Callable[..., tuple[str, int]], pauses: list[float]
    ) -> None:
        failing = 2

        def fail(_method: str, _path: str) -> None:
            nonlocal failing
            failing -= 1
            if failing >= 0:
                raise Refused(503, "ServiceUnavailable", "a moment, please")

        api.before = fail
        rotate()
        assert pauses == [1, 2]
        api.before = lambda _method, _path: (_ for _ in ()).throw(Refused(403, "Forbidden", "secrets is forbidden"))
        with pytest.raises(ClusterError, match=r"PATCH .*: 403 secrets is forbidden"):
            rotate(force=True)
        failing = 100
        api.before = fail
        with pytest.raises(ClusterError, match="503 a moment, please"):
            rotate(force=True)
        assert failing == 100 - ATTEMPTS_MAX


class TestJob:
    """`tokengate injector certs`, as the chart's job runs it."""

    def test_it_says_what_it_did(self, api: ApiServer, account: Path) -> None:
        first = certs(api, account)
        assert first.returncode == 0, first.stderr
        assert first.stdout == (
            "a certificate was made, because there is none that can be read; 2 changes of tokengate-injector\n"
        )
        assert certs(api, account).stdout == "the certificate will do; the API server knows its authority\n"

    def test_what_it_cannot_do_it_says(self, api: ApiServer, account: Path, tmp_path: Path) -> None:
        without = certs(api, tmp_path / "none")
        assert (without.returncode, without.stdout) == (1, "")
        assert "has no files of a ServiceAccount: No such file or directory" in without.stderr
        unknown = certs(api, account, "--webhooks", "another")
        assert "there is no MutatingWebhookConfiguration another" in unknown.stderr
        (account / "token").write_text("wrong")
        assert "401 Unauthorized" in certs(api, account).stderr
        pointless = certs(api, account, "--days", "30", "--renew-before-days", "30")
        assert pointless.returncode == 2
        assert "every run would renew" in pointless.stderr

    def test_outside_of_a_cluster_it_says_so(self) -> None:
        with pytest.raises(ClusterError, match="this runs in a pod"):
            Cluster.of_this_pod({}, Path("/none"))

    def test_an_address_of_ipv6_is_one(self, account: Path) -> None:
        found = Cluster.of_this_pod({"KUBERNETES_SERVICE_HOST": "fd00::1"}, account)
        assert found._client.base_url == httpx.URL("https://[fd00::1]:443")
        found.close()


class Traffic:
    """Pods, created one after the other, each asked about over a connection of its own, until it is left."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._create) for _ in range(3)]
        self.done = 0
        self.failures: list[str] = []

    def _create(self) -> None:
        pod = GoldenPod("bare").pod
        while not self._ends.is_set():
            try:
                made, _ = self._api.create("/api/v1/namespaces/agents/pods", pod, dry_run=True)
                assert made["spec"]["initContainers"][0]["name"] == "tokengate"
                self.done += 1
            except (Refused, AssertionError) as error:
                self.failures.append(str(error))
            self._ends.wait(0.02)

    def more(self, count: int = 20) -> None:
        """Wait for so many more."""
        enough = self.done + count
        until(lambda: self.done >= enough or self.failures)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()


def test_certificates_change_under_traffic_and_no_pod_is_turned_away(
    api: ApiServer, account: Path, tmp_path: Path
) -> None:
    """Two injectors, which get to know of each renewal one after the other, as their kubelets look at different times."""
    expiry = "tokengate_injector_certificate_expiry_timestamp_seconds"
    reloads = 'tokengate_injector_reloads_total{outcome="done",what="certificate"}'
    assert certs(api, account).returncode == 0
    folders = tmp_path / "one", tmp_path / "other"
    with ExitStack() as stack:
        both = [stack.enter_context(injector(mount(api, folder))) for folder in folders]
        for each in both:
            until(each.ready)
        api.services[f"{SERVICE}.{NAMESPACE}.svc"] = [each.port for each in both]
        cluster = Cluster(api.url, account)
        stack.callback(cluster.close)
        with Traffic(api) as traffic:
            for turn in range(2):
                plan = Plan(NAMESPACE, SERVICE, f"{SERVICE}-tls", SERVICE, days=400 + turn, force=True)
                # An API server of this kind knows at once whom to believe, so nobody has to wait.
                Rotation(cluster, plan, pause=lambda _s: traffic.more()).run()
                traffic.more()
                ends = expires(base64.b64decode(api.objects[SECRET]["data"]["tls.crt"])).timestamp()
                for each, folder in zip(both, folders, strict=True):
                    mount(api, folder)
                    until(lambda each=each, ends=ends: each.metric(expiry) == ends)
                    traffic.more()
        assert traffic.failures == []
        assert traffic.done > 100
        assert [each.metric(reloads) for each in both] == [3, 3]
        assert authorities(api)[0].count("BEGIN CERTIFICATE") == 3

"""A small Kubernetes API server: enough of one for real kubectl and Helm, and with admission webhooks that it really calls.

It keeps objects in memory, knows a few kinds, takes JSON, merge and apply patches, honours `resourceVersion` and dry
runs, and asks mutating webhooks over TLS as an API server does: by rules and selectors, with the Service's name, with
the authority of `caBundle` alone, and once more if another webhook has changed the object. Workloads get one pod, owned
as their controllers own theirs. Nothing is scheduled, and nobody is authorised beyond one token.
"""

import base64
import contextlib
import copy
import json
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import jsonpatch
import yaml

from tests.support.certificates import Certificates, make
from tests.support.discovery import RESOURCES, Refused, discovery, kind_of, openapi

TOKEN: Final = "token-of-the-service-account"
WEBHOOKS: Final = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
TIMEOUT_S: Final = 10

Manifest = dict[str, Any]


@dataclass
class ApiServer:
    """Its store, and what was asked of it. `services` says which ports of this machine a Service is."""

    port: int
    certificates: Certificates
    objects: dict[str, Manifest] = field(default_factory=dict)
    services: dict[str, list[int]] = field(default_factory=dict)
    reviews: list[Manifest] = field(default_factory=list)
    """The answers of webhooks, in order."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], None] = lambda _method, _path: None
    """Called before each change, so that a test can be faster than whoever makes it."""
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _version: int = 0
    _turn: int = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig(self, folder: Path) -> Path:
        cluster = {"server": self.url, "certificate-authority": str(self.certificates.authority)}
        file = folder / "kubeconfig"
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": cluster}],
                    "users": [{"name": "test", "user": {"token": TOKEN}}],
                    "contexts": [
                        {"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "agents"}}
                    ],
                }
            )
        )
        return file

    def service_account(self, folder: Path, namespace: str) -> Path:
        """The files that a kubelet puts into a pod."""
        folder.mkdir()
        (folder / "token").write_text(TOKEN)
        (folder / "namespace").write_text(namespace)
        (folder / "ca.crt").write_bytes(self.certificates.authority.read_bytes())
        return folder

    # --- objects ---

    def put(self, manifest: Manifest) -> Manifest:
        """Have an object without asking anybody."""
        version, kind = manifest["apiVersion"], manifest["kind"]
        [(plural, _, namespaced)] = [row for row in RESOURCES[version] if row[1] == kind]
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        scope = f"/namespaces/{manifest['metadata']['namespace']}" if namespaced else ""
        return self._store(f"{root}{scope}/{plural}/{manifest['metadata']['name']}", manifest)

    def pods(self, namespace: str = "agents") -> list[Manifest]:
        return self._listed(f"/api/v1/namespaces/{namespace}/pods")

    def _listed(self, path: str) -> list[Manifest]:
        with self._lock:
            return [found for place, found in self.objects.items() if place.startswith(f"{path}/")]

    def _store(self, path: str, manifest: Manifest) -> Manifest:
        with self._lock:
            self._version += 1
            stored = copy.deepcopy(manifest)
            stored["metadata"].setdefault("uid", str(uuid.uuid4()))
            stored["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
            stored["metadata"]["resourceVersion"] = str(self._version)
            self.objects[path] = stored
            return stored

    def get(self, path: str) -> Manifest:
        found = self.objects.get(path)
        if found is None:
            *_, plural, name = path.split("/")
            raise Refused(404, "NotFound", f'{plural} "{name}" not found')
        return found

    def create(self, path: str, manifest: Manifest, *, dry_run: bool) -> tuple[Manifest, list[str]]:
        kind, _ = kind_of(path)
        manifest = {"apiVersion": kind[0], "kind": kind[1], **copy.deepcopy(manifest)}
        metadata = manifest.setdefault("metadata", {})
        if "/namespaces/" in path:
            metadata.setdefault("namespace", path.split("/namespaces/")[1].split("/", maxsplit=1)[0])
        if "name" not in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        place = f"{path}/{metadata['name']}"
        if place in self.objects:
            raise Refused(409, "AlreadyExists", f'"{metadata["name"]}" already exists')
        self.before("POST", path)
        manifest, warnings = self._admitted(manifest, path, dry_run=dry_run)
        if dry_run:
            return manifest, warnings
        stored = self._store(place, manifest)
        warnings += self._control(stored)
        return stored, warnings

    def replace(self, path: str, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        self.before("PUT", path)
        with self._lock:
            found = self.get(path)
            version = manifest["metadata"].get("resourceVersion")
            if version and version != found["metadata"]["resourceVersion"]:
                raise Refused(
                    409, "Conflict", "the object has been modified; please apply your changes to the latest version"
                )
            return manifest if dry_run else self._store(path, manifest)

    def patch(self, path: str, kind: str, body: Any, *, dry_run: bool) -> tuple[Manifest, list[str]]:
        if kind == "application/apply-patch+yaml" and path not in self.objects:
            body["metadata"]["name"] = path.rpartition("/")[2]
            return self.create(path.rpartition("/")[0], body, dry_run=dry_run)
        self.before("PATCH", path)
        with self._lock:
            found = copy.deepcopy(self.get(path))
            if kind == "application/json-patch+json":
                try:
                    changed = jsonpatch.apply_patch(found, body)
                except jsonpatch.JsonPatchException as error:
                    raise Refused(
                        422, "Invalid", f"the server rejected our request due to an error in our request: {error}"
                    ) from None
            else:
                changed = merged(found, body)
            return (changed if dry_run else self._store(path, changed)), []

    # --- admission ---

    def _admitted(self, manifest: Manifest, path: str, *, dry_run: bool) -> tuple[Manifest, list[str]]:
        warnings: list[str] = []
        asked: list[tuple[Manifest, Manifest]] = []
        for configuration in self._listed(WEBHOOKS):
            for webhook in configuration.get("webhooks", ()):
                if self._concerns(webhook, manifest, path):
                    before = manifest
                    manifest = self._ask(webhook, manifest, path, warnings, dry_run=dry_run)
                    if manifest != before:
                        asked.append((webhook, manifest))
        for webhook, left in asked:
            if webhook.get("reinvocationPolicy") == "IfNeeded" and manifest != left:
                manifest = self._ask(webhook, manifest, path, warnings, dry_run=dry_run)
        return manifest, warnings

    def _concerns(self, webhook: Manifest, manifest: Manifest, path: str) -> bool:
        (version, _), plural = kind_of(path)
        group, _, number = version.rpartition("/")
        namespace = self.objects.get(
            f"/api/v1/namespaces/{manifest['metadata'].get('namespace', '')}", {"metadata": {}}
        )
        return any(
            "CREATE" in rule["operations"] and plural in rule["resources"] and group in rule["apiGroups"]
            and number in rule["apiVersions"]
            for rule in webhook["rules"]
        ) and selects(webhook.get("namespaceSelector", {}), namespace["metadata"].get("labels", {})) and selects(
            webhook.get("objectSelector", {}), manifest["metadata"].get("labels", {})
        )  # fmt: skip

    def _ask(self, webhook: Manifest, manifest: Manifest, path: str, warnings: list[str], *, dry_run: bool) -> Manifest:
        (version, kind), plural = kind_of(path)
        group, _, number = version.rpartition("/")
        uid = str(uuid.uuid4())
        request = {
            "uid": uid,
            "kind": {"group": group, "version": number, "kind": kind},
            "resource": {"group": group, "version": number, "resource": plural},
            "name": "" if "generateName" in manifest["metadata"] else manifest["metadata"]["name"],
            "namespace": manifest["metadata"].get("namespace", ""),
            "operation": "CREATE",
            "userInfo": {"username": "test", "groups": ["system:authenticated"]},
            "object": defaulted(manifest),
            "oldObject": None,
            "dryRun": dry_run,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        }
        question = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
        try:
            answer = self.post(webhook["clientConfig"], question)
            response = answer["response"]
            if answer["apiVersion"] != "admission.k8s.io/v1" or response["uid"] != uid:
                raise ValueError("it answers something else")  # noqa: TRY301 - as a fault of the webhook
        except (OSError, HTTPException, ValueError, KeyError) as error:
            if webhook.get("failurePolicy", "Fail") == "Ignore":
                return manifest
            raise Refused(500, "InternalError", f'failed calling webhook "{webhook["name"]}": {error}') from None
        self.reviews.append(answer)
        warnings += response.get("warnings", [])
        if not response["allowed"]:
            status = response["status"]
            raise Refused(
                status["code"],
                status["reason"],
                f'admission webhook "{webhook["name"]}" denied the request: {status["message"]}',
            )
        if "patch" not in response:
            return manifest
        changed: Manifest = jsonpatch.apply_patch(request["object"], json.loads(base64.b64decode(response["patch"])))
        return changed

    def post(self, config: Manifest, question: Manifest) -> Any:
        """Ask a webhook, as https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers says."""
        service = config["service"]
        name = f"{service['name']}.{service['namespace']}.svc"
        with self._lock:
            ports = self.services[name]
            self._turn += 1
            port = ports[self._turn % len(ports)]
        context = ssl.create_default_context(cadata=base64.b64decode(config.get("caBundle", "")).decode() or None)
        with contextlib.closing(Named(name, port, context)) as connection:
            connection.request(
                "POST",
                f"{service.get('path', '/')}?timeout=10s",
                json.dumps(question),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise ValueError(f"{answer.status} {body.decode()}")
            return json.loads(body)

    # --- controllers ---

    def _control(self, owner: Manifest) -> list[str]:
        """Make the pod of a workload, as its controller does; a pod that is refused is an event there, and nothing here."""
        kind, metadata = owner["kind"], owner["metadata"]
        template = owner.get("spec", {}).get("template")
        reference, labels = metadata["name"], {}
        if kind == "Deployment":
            kind, reference, labels = (
                "ReplicaSet",
                f"{metadata['name']}-7d4b9c6f5d",
                {"pod-template-hash": "7d4b9c6f5d"},
            )
        elif kind == "CronJob":
            template = owner["spec"]["jobTemplate"]["spec"]["template"]
            kind, reference = "Job", f"{metadata['name']}-29394720"
        if template is None or kind not in ("ReplicaSet", "StatefulSet", "DaemonSet", "Job"):
            return []
        pod = copy.deepcopy(template)
        pod["metadata"] = {**(template.get("metadata") or {}), "generateName": f"{reference}-"}
        pod["metadata"]["labels"] = {**(pod["metadata"].get("labels") or {}), **labels}
        pod["metadata"]["ownerReferences"] = [
            {"apiVersion": "apps/v1", "kind": kind, "name": reference, "uid": str(uuid.uuid4()), "controller": True}
        ]
        with contextlib.suppress(Refused):
            return self.create(f"/api/v1/namespaces/{metadata['namespace']}/pods", pod, dry_run=False)[1]
        return []


class Named(HTTPSConnection):
    """A connection to a port of this machine, at which a name is expected."""

    def __init__(self, name: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", port, timeout=TIMEOUT_S, context=context)
        self._name, self._tls = name, context

    def connect(self) -> None:
        super(HTTPSConnection, self).connect()
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    for name, value in selector.get("matchLabels", {}).items():
        if labels.get(name) != value:
            return False
    for rule in selector.get("matchExpressions", ()):
        there = labels.get(rule["key"])
        values = rule.get("values", [])
        held = {
            "In": there in values,
            "NotIn": there not in values,
            "Exists": there is not None,
            "DoesNotExist": there is None,
        }
        if not held[rule["operator"]]:
            return False
    return True


def merged(target: Any, change: Any) -> Any:
    """JSON merge patch (RFC 7396); strategic and apply patches of the tests mean no more than that."""
    if not isinstance(change, dict):
        return change
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in change.items():
        if value is None:
            result.pop(name, None)
        elif not name.startswith("$"):
            result[name] = merged(result.get(name), value)
    return result


def defaulted(manifest: Manifest) -> Manifest:
    """With what an API server has filled in before it asks: what concerns our container."""
    pod = copy.deepcopy(manifest)
    if pod["kind"] == "Pod":
        pod["spec"].setdefault("restartPolicy", "Always")
        for each in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            each.setdefault("terminationMessagePath", "/dev/termination-log")
            each.setdefault("terminationMessagePolicy", "File")
            each.setdefault("imagePullPolicy", "IfNotPresent")
            each.setdefault("resources", {})
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in each:
                    each[probe].setdefault("successThreshold", 1)
    return pod


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""

    def do_GET(self) -> None:
        if self.path.startswith("/openapi/v2"):
            self._send(200, openapi(), [])
        else:
            self._serve(lambda path, _query, _body: (200, self._got(path), []))

    def do_POST(self) -> None:
        def post(path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Manifest, list[str]]:
            made, warnings = self.api.create(path, body, dry_run="dryRun" in query)
            return 201, made, warnings

        self._serve(post)

    def do_PUT(self) -> None:
        self._serve(lambda path, query, body: (200, self.api.replace(path, body, dry_run="dryRun" in query), []))

    def do_PATCH(self) -> None:
        def patch(path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Manifest, list[str]]:
            changed, warnings = self.api.patch(path, self.headers["Content-Type"], body, dry_run="dryRun" in query)
            return 200, changed, warnings

        self._serve(patch)

    def do_DELETE(self) -> None:
        def delete(path: str, _query: dict[str, list[str]], _body: Any) -> tuple[int, Manifest, list[str]]:
            self.api.get(path)
            return 200, self.api.objects.pop(path), []

        self._serve(delete)

    def _serve(self, act: Callable[[str, dict[str, list[str]], Any], tuple[int, Manifest, list[str]]]) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.api.asked.append((self.command, self.path))
        warnings: list[str] = []
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized", "Unauthorized")  # noqa: TRY301 - answered as all are
            status, answer, warnings = act(url.path, parse_qs(url.query), yaml.safe_load(body) if body else None)
        except Refused as error:
            status = error.code
            answer = {
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": str(error), "reason": error.reason, "code": error.code,
            }  # fmt: skip
        self._send(status, json.dumps(answer).encode(), warnings)

    def _send(self, status: int, data: bytes, warnings: list[str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for warning in warnings:
            self.send_header("Warning", f'299 - "{warning}"')
        self.end_headers()
        self.wfile.write(data)

    def _got(self, path: str) -> Manifest:
        found = discovery(path)
        if found is not None:
            return found
        (version, kind), plural = kind_of(path)
        if path.endswith(f"/{plural}"):
            return {"apiVersion": version, "kind": f"{kind}List", "metadata": {}, "items": self.api._listed(path)}
        return self.api.get(path)


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    folder.mkdir()
    certificates = make(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = ApiServer(server.server_address[1], certificates)
    server.RequestHandlerClass = type("Bound", (Handler,), {"api": api})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""What an answer of the injector costs: the decision alone, and over TLS as an API server asks."""

import json
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any, Final

import yaml

from bench.figures import Figure, at_most, told
from bench.idle import rss_mb_of
from bench.processes import GATE_CORE, HERE, Hop, free_port, gate_command, gate_environment, running
from tokengate.injector.certificates import issue, service_names
from tokengate.injector.policy import parse
from tokengate.injector.review import review

ANSWERS: Final = 2_000
KEPT: Final = 1_000
"""Questions on one connection."""
ANEW: Final = 300
"""Questions with a connection, and so a handshake, for each."""
PODS: Final = HERE.parent / "tests" / "golden" / "pods"
NAME: Final = "injector.tokengate.svc"


def _question(pod: dict[str, Any]) -> bytes:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {"uid": "1", "kind": kind, "namespace": "agents", "operation": "CREATE", "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def _many_containers(pod: dict[str, Any]) -> dict[str, Any]:
    """The same with 20 containers of 100 variables each: larger than any agent's."""
    variables = [{"name": f"VARIABLE_{index}", "value": "x" * 20} for index in range(100)]
    containers = [{"name": f"c{index}", "image": "agent", "env": variables} for index in range(20)]
    return {**pod, "spec": {**pod["spec"], "containers": containers}}


def _cpu_ms(body: bytes, times: int) -> float:
    """Milliseconds of processor time for one answer, without any network."""
    policy = parse(b"")
    review(body, policy)
    started = time.process_time()
    for _ in range(times):
        review(body, policy)
    return (time.process_time() - started) * 1000 / times


def _connections(port: int, context: ssl.SSLContext) -> Iterator[HTTPSConnection]:
    while True:
        yield HTTPSConnection("127.0.0.1", port, timeout=10, context=context)


def _ask(connection: HTTPSConnection, body: bytes) -> None:
    connection.request("POST", "/inject", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200 or b'"patch"' not in answer.read():
        raise RuntimeError(f"the injector answered {answer.status}")


def run() -> list[Figure]:
    """Answer in this process, then ask one on the gate's core."""
    pod = yaml.safe_load((PODS / "deployment.in.yaml").read_text())
    body, large = _question(pod), _question(_many_containers(pod))
    with tempfile.TemporaryDirectory(prefix="tg") as place:
        folder, port, status_port = Path(place), free_port(), free_port()
        issued = issue(service_names("injector", "tokengate"), 1, datetime.now(UTC))
        (folder / "tls.crt").write_bytes(issued.certificate)
        (folder / "tls.key").write_bytes(issued.key)
        context = ssl.create_default_context(cadata=issued.authorities.decode())
        context.check_hostname = False
        command = [
            *gate_command()[: gate_command().index("serve")],
            *("injector", "--certificates", place, "--port", str(port), "--status-port", str(status_port)),
            *("--host", "127.0.0.1", "--log-level", "WARNING", "--drain-s", "0"),
        ]
        environment = gate_environment("http://127.0.0.1:1/v1", "", port)
        with running(
            "the injector", command, port=status_port, ready_path="/readyz", core=GATE_CORE, env=environment
        ) as process:
            hop, connections = Hop(port, process.pid), _connections(port, context)
            with closing(next(connections)) as kept:
                _ask(kept, body)
                before = hop.cpu_s()
                for _ in range(KEPT):
                    _ask(kept, body)
                kept_ms = (hop.cpu_s() - before) * 1000 / KEPT
            before = hop.cpu_s()
            for _ in range(ANEW):
                with closing(next(connections)) as fresh:
                    _ask(fresh, body)
            anew_ms = (hop.cpu_s() - before) * 1000 / ANEW
            memory_mb = rss_mb_of(process.pid)
    return [
        told("an answer's decision, processor time", _cpu_ms(body, ANSWERS), "ms"),
        told("  with 20 containers of 100 variables", _cpu_ms(large, ANSWERS // 10), "ms"),
        at_most("an answer over TLS, processor time", kept_ms, "ms", 10),
        at_most("  with a new connection for it", anew_ms, "ms", 10),
        told("the injector's memory afterwards", memory_mb, "MB"),
    ]

"""The gate beside hardcap 0.1.0, the nearest peer: same upstream, same load, same Redis, one process on the same core.

hardcap is installed from PyPI into a virtual environment of its own and runs with budgets on, as it ships: reserve
accounting, rolling p95 estimator, truncation, one tenant whose token budget is never met, no request rate limit.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import Figure, at_least, at_most, told
from bench.load import WARM_S, median_latency_us, throughput
from bench.processes import (
    GATE_CORE,
    HERE,
    KEY,
    BenchError,
    all_of,
    free_port,
    gate,
    plain_hop,
    redis_server,
    running,
    static_upstream,
)

VERSION: Final = "0.1.0"
ENVIRONMENT: Final = HERE / ".venv-hardcap"
INSTALL_S_MAX: Final = 300
CONNECTIONS: Final = 16
ROUNDS: Final = 5
SECONDS: Final = 3
REQUESTS: Final = 1000

CONFIG: Final = """
listen: {{host: 127.0.0.1, port: {port}}}
redis_url: {redis_url}
budget: {{accounting: reserve, estimator: p95, on_overrun: truncate}}
upstreams: {{static: {{kind: openai, base_url: "{upstream}", api_key: sk-provider}}}}
routes: {{gpt-4o-mini: {{targets: [{{upstream: static, model: gpt-4o-mini}}]}}}}
tenants: {{bench: {{api_keys: [{key}], budget: {{window_s: 86400, total: 1000000000000}}}}}}
pricing: {{gpt-4o-mini: {{input: 0.15, output: 0.60}}}}
"""


def install() -> Path:
    """hardcap's command, installed if it is not yet."""
    command = ENVIRONMENT / "bin" / "hardcap"
    if not command.exists():
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", f"hardcap=={VERSION}"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=INSTALL_S_MAX)
            subprocess.run(pip, check=True, timeout=INSTALL_S_MAX, capture_output=True)
        except (subprocess.SubprocessError, OSError) as error:
            raise BenchError(f"hardcap {VERSION} could not be installed: {error}") from error
    return command


@contextmanager
def hardcap(upstream: str, redis_url: str) -> Iterator[int]:
    """hardcap with budgets on; gives its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-hardcap-") as folder:
        config = Path(folder) / "hardcap.yaml"
        config.write_text(CONFIG.format(port=port, redis_url=redis_url, upstream=upstream, key=KEY))
        command = [str(install()), "serve", "--config", str(config)]
        environment = {"PATH": os.environ.get("PATH", "")}
        with running("hardcap", command, port=port, ready_path="/healthz", core=GATE_CORE, env=environment):
            yield port


def run() -> list[Figure]:
    """The gate and hardcap in turns, and the plain hop for scale."""
    with (
        redis_server() as redis_url,
        static_upstream() as upstream,
        all_of(gate(upstream, redis_url), hardcap(upstream, redis_url), plain_hop(upstream)) as (mine, theirs, plain),
    ):
        for port in (mine, theirs, plain):
            throughput(port, CONNECTIONS, WARM_S)
        pairs = [
            (throughput(mine, CONNECTIONS, SECONDS), throughput(theirs, CONNECTIONS, SECONDS)) for _ in range(ROUNDS)
        ]
        direct = int(upstream.removesuffix("/v1").rpartition(":")[2])
        rounds = [[median_latency_us(port, REQUESTS) for port in (mine, theirs, direct)] for _ in range(ROUNDS)]
        scale = throughput(plain, CONNECTIONS, SECONDS)
    added = [(ours - alone, peers - alone) for ours, peers, alone in rounds]
    return [
        at_least(
            f"throughput, gate / hardcap, {CONNECTIONS} connections",
            statistics.median(ours / peers for ours, peers in pairs), "", 2.5,
        ),
        told("  gate", statistics.median(ours for ours, _ in pairs), "requests/s"),
        told("  hardcap", statistics.median(peers for _, peers in pairs), "requests/s"),
        told("  no gate", scale, "requests/s"),
        at_most(
            "latency added at one connection, gate / hardcap",
            statistics.median(ours / peers for ours, peers in added), "", 0.6,
        ),
        told("  gate", statistics.median(ours for ours, _ in added), "us"),
        told("  hardcap", statistics.median(peers for _, peers in added), "us"),
    ]  # fmt: skip

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
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from bench.figures import Figure, at_least, at_most, told
from bench.processes import (
    GATE_CORE,
    HERE,
    KEY,
    BenchError,
    Hop,
    all_of,
    base_url,
    free_port,
    gate,
    redis_server,
    running,
    static_upstream,
)
from bench.throughput import added_us, in_turns, median_of

VERSION: Final = "0.1.0"
ENVIRONMENT: Final = HERE / ".venv-hardcap"
INSTALL_S_MAX: Final = 300
CONNECTIONS: Final = 16

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
def hardcap(upstream: int, redis_url: str) -> Iterator[Hop]:
    """hardcap with budgets on."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-hardcap-") as folder:
        config = Path(folder) / "hardcap.yaml"
        address = f"http://127.0.0.1:{upstream}"
        config.write_text(CONFIG.format(port=port, redis_url=redis_url, upstream=address, key=KEY))
        command = [str(install()), "serve", "--config", str(config)]
        environment = {"PATH": os.environ.get("PATH", "")}
        with running("hardcap", command, port=port, ready_path="/healthz", core=GATE_CORE, env=environment) as process:
            yield Hop(port, process.pid)


def run() -> list[Figure]:
    """The gate and hardcap in turns."""
    with redis_server() as redis_url, static_upstream() as upstream:

        def start() -> AbstractContextManager[list[Hop]]:
            return all_of(gate(base_url(upstream), redis_url), hardcap(upstream, redis_url))

        rounds = in_turns(start, CONNECTIONS)
        with start() as hops:
            added = added_us(hops, upstream)
    return [
        at_least(
            f"throughput, gate / hardcap, {CONNECTIONS} connections",
            median_of(rounds, lambda found: found[0].per_second / found[1].per_second), "", 2.5,
        ),
        told("  gate", median_of(rounds, lambda found: found[0].per_second), "requests/s"),
        told("  hardcap", median_of(rounds, lambda found: found[1].per_second), "requests/s"),
        told("processor time a request, gate", median_of(rounds, lambda found: found[0].cpu_us), "us"),
        told("  hardcap", median_of(rounds, lambda found: found[1].cpu_us), "us"),
        at_most(
            "latency added at one connection, gate / hardcap",
            statistics.median(mine / theirs for mine, theirs in added), "", 0.6,
        ),
        told("  gate", statistics.median(found[0] for found in added), "us"),
        told("  hardcap", statistics.median(found[1] for found in added), "us"),
    ]  # fmt: skip

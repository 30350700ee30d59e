"""What a sidecar costs while nobody calls: its memory, and how soon after its start it is ready."""

import statistics
import time
from pathlib import Path
from typing import Final

from bench.figures import Figure, at_most, told
from bench.processes import (
    GATE_CORE,
    base_url,
    free_port,
    gate_command,
    gate_environment,
    redis_server,
    running,
    static_upstream,
)

STARTS: Final = 5
SETTLE_S: Final = 2.0
POLL_S: Final = 0.005


def rss_mb_of(pid: int) -> float:
    """Resident memory of a process and its children, in MB of 2^20 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(rss_mb_of(int(child)) for child in children)


def run() -> list[Figure]:
    """Start a sidecar a few times; the first start, which reads its files from the disk, counts like the others."""
    ready_s: list[float] = []
    rss_mb: list[float] = []
    with redis_server() as redis_url, static_upstream() as upstream:
        for _ in range(STARTS):
            port = free_port()
            environment = gate_environment(base_url(upstream), redis_url, port)
            started = time.monotonic()
            with running(
                "the gate",
                gate_command(),
                port=port,
                ready_path="/readyz",
                core=GATE_CORE,
                env=environment,
                poll_s=POLL_S,
            ) as process:
                ready_s.append(time.monotonic() - started)
                time.sleep(SETTLE_S)
                rss_mb.append(rss_mb_of(process.pid))
    return [
        at_most("an idle sidecar's memory", statistics.median(rss_mb), "MB", 70),
        at_most("from its start to ready, median", statistics.median(ready_s), "s", 1.0),
        told("  slowest", max(ready_s), "s"),
    ]

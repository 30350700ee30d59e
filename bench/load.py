"""The load: wrk for throughput, one blocking socket for latency; both stay off the gate's core with the bench."""

import re
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from typing import Final

from bench.processes import HERE, KEY, BenchError, Hop, tool

WARM_S: Final = 1
BODY: Final = (
    b'{"model":"gpt-4o-mini","max_tokens":64,"messages":[{"role":"system","content":"You are brief."},'
    b'{"role":"user","content":"Say something about gate %09d."}]}'
)


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a second came back with 200, and what each cost the hop in processor time."""

    per_second: float
    cpu_us: float


def throughput(hop: Hop, connections: int, seconds: int) -> Rate:
    """Ask as fast as a number of connections can."""
    url = f"http://127.0.0.1:{hop.port}/v1/chat/completions"
    command = [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(HERE / "post.lua"), url]
    before_s = hop.cpu_s()
    printed = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True).stdout
    cpu_s = hop.cpu_s() - before_s
    if "Non-2xx" in printed or "Socket errors" in printed:
        raise BenchError(f"not every request was answered with 200:\n{printed}")
    requests = re.search(r"(\d+) requests in", printed)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    if rate is None or requests is None:
        raise BenchError(f"wrk said nothing that can be read:\n{printed}")
    return Rate(float(rate.group(1)), 1e6 * cpu_s / int(requests.group(1)))


def latencies_us(port: int, requests: int) -> list[float]:
    """Microseconds of every one of `requests` requests, one after the other on one connection."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"X-Session-ID: bench\r\nContent-Type: application/json\r\nContent-Length: {len(BODY % 0)}\r\n\r\n"
    head_bytes = head.encode()
    taken: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(requests):
            # The same again and again would be a loop.
            request = head_bytes + BODY % number
            began = time.perf_counter_ns()
            connection.sendall(request)
            _read_answer(connection)
            taken.append((time.perf_counter_ns() - began) / 1000)
    return taken


def median_latency_us(port: int, requests: int) -> float:
    return statistics.median(latencies_us(port, requests))


def _read_answer(connection: socket.socket) -> None:
    """Read one answer with a content length or in chunks."""
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise BenchError(f"not answered with 200: {data[:500]!r}")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length is None:
        while not body.endswith(b"0\r\n\r\n"):
            body += _more(connection)
    else:
        while len(body) < int(length.group(1)):
            body += _more(connection)


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise BenchError("the connection was closed in the midst of an answer")
    return data

"""A real Prometheus of our own, for as long as a `with` block lasts; and promtool."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.gate import until
from tests.support.servers import free_port

SCRAPE_S = 1


def binary(name: str) -> str:
    """The path of `prometheus` or `promtool`."""
    found = shutil.which(name)
    assert found is not None, f"install prometheus (apt) to run the tests: there is no {name}"
    return found


@dataclass
class Prometheus:
    url: str
    http: httpx.AsyncClient

    async def ask(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression has now.

        Raises:
            ValueError: Prometheus does not understand it.
        """
        return await self._get("query", {"query": expr})

    async def ask_range(self, expr: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The series that an expression has within a time."""
        return await self._get(
            "query_range", {"query": expr, "start": str(start_s), "end": str(end_s), "step": str(SCRAPE_S)}
        )

    async def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        answer = await self.http.get(f"{self.url}/api/v1/alerts")
        return {each["labels"]["alertname"] for each in answer.json()["data"]["alerts"] if each["state"] == "firing"}

    async def until(self, expr: str) -> None:
        """Wait until an expression has a series."""
        async with asyncio.timeout(30):
            while not await self.ask(expr):
                await asyncio.sleep(0.2)

    async def _get(self, what: str, given: Mapping[str, str]) -> list[dict[str, Any]]:
        answer = await self.http.get(f"{self.url}/api/v1/{what}", params=dict(given))
        if answer.status_code != 200:
            raise ValueError(f"{given['query']}: {answer.text}")
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@asynccontextmanager
async def prometheus(targets: Iterable[str], rules: str | None = None) -> AsyncIterator[Prometheus]:
    """Run one that scrapes gates, by their host:port, and evaluates rules (the text of a file)."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tgp", dir="/tmp") as place:
        folder = Path(place)
        config = f"""
global: {{scrape_interval: {SCRAPE_S}s, evaluation_interval: 1s}}
scrape_configs:
  - job_name: tokengate
    static_configs:
      - targets: [{", ".join(f'"{target}"' for target in targets)}]
"""
        if rules is not None:
            (folder / "rules.yaml").write_text(rules)
            config += "rule_files: [rules.yaml]\n"
        (folder / "prometheus.yaml").write_text(config)
        process = subprocess.Popen(
            [
                binary("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=error", "--enable-feature=exemplar-storage",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with httpx.AsyncClient(verify=False, timeout=20, trust_env=False) as http:
                await _ready(http, f"http://127.0.0.1:{port}", process)
                yield Prometheus(f"http://127.0.0.1:{port}", http)
        finally:
            process.terminate()
            await until(lambda: process.poll() is not None)


async def _ready(http: httpx.AsyncClient, url: str, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.poll() is None, "Prometheus ended at once"
            try:
                if (await http.get(f"{url}/-/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)

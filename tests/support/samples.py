"""What a scrape says, as values."""

from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


class Samples:
    """All samples of one scrape."""

    def __init__(self, text: str, *, is_openmetrics: bool = False) -> None:
        parse: Any = openmetrics.text_string_to_metric_families if is_openmetrics else text_string_to_metric_families
        self.text = text
        self.families = {family.name: family for family in parse(text)}
        self.all = [sample for family in self.families.values() for sample in family.samples]

    def of(self, name: str, /, **labels: str) -> list[Any]:
        """The samples of a name that have these labels, among others."""
        return [
            sample
            for sample in self.all
            if sample.name == f"tokengate_{name}" and labels.items() <= sample.labels.items()
        ]

    def value(self, name: str, /, **labels: str) -> float:
        """The sum of those samples; 0 if there are none."""
        return float(sum(sample.value for sample in self.of(name, **labels)))

    def by(self, name: str, /, label: str) -> Mapping[str, float]:
        """The values of a name by one label."""
        found: dict[str, float] = {}
        for sample in self.of(name):
            found[sample.labels[label]] = found.get(sample.labels[label], 0) + sample.value
        return found


async def scrape(http: httpx.AsyncClient, path: str = "/metrics", accept: str = "") -> Samples:
    """Ask a gate for its metrics."""
    answer = await http.get(path, headers={"accept": accept} if accept else {})
    assert answer.status_code == 200, answer.text
    return Samples(answer.text, is_openmetrics=accept == OPENMETRICS)

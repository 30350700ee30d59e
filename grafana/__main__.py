"""`python -m grafana`: writes the dashboards anew."""

from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.agents import agents
from grafana.operations import operations
from grafana.overview import overview

FOLDER: Final = Path(__file__).parent / "dashboards"


def rendered() -> dict[str, str]:
    """The text of every file, by its name."""
    made = {"overview": overview(), "agents": agents(), "operations": operations()}
    return {f"{name}.json": _text(built) for name, built in made.items()}


def _text(built: Dashboard) -> str:
    found = built.build()
    # Links to panels name them by their numbers, which must not change from one start of Grafana to the next.
    for number, panel in enumerate(found.panels or [], 1):
        panel.id_val = number
    return JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False).encode(found) + "\n"


def main() -> None:
    """Write them."""
    for name, text in rendered().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()

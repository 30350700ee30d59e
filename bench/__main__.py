"""`python -m bench`: measure, print tables, and fail if a figure misses its target.

`--only NAME` (repeatable) measures some, `--json FILE` and `--write FILE` keep the figures: the latter puts them into a
document, between its marks. With PEERS=1 in the environment the nearest peer is installed and measured beside the gate.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import (
    capacity,
    commands,
    fingerprint,
    idle,
    injection,
    lists,
    overspend,
    peers,
    races,
    roundtrips,
    runaways,
    streams,
    telemetry,
    throughput,
)
from bench.figures import Figure, as_json, as_markdown, show
from bench.processes import BenchError, stay_off_the_gates_core
from tokengate import __version__

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "idle": idle.run,
    "injection": injection.run,
    "roundtrips": roundtrips.run,
    "runaways": runaways.run,
    "capacity": capacity.run,
    "fingerprint": fingerprint.run,
    "commands": commands.run,
    "lists": lists.run,
    "exact": races.run,
    "overspend": overspend.run,
    "streams": streams.run,
    "throughput": throughput.run,
    "telemetry": telemetry.run,
}


BEGIN, END = "<!-- figures: written by `python -m bench --write` -->", "<!-- end of the figures -->"


def machine() -> str:
    """What was measured on."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    when = datetime.now(UTC).date().isoformat()
    return f"TokenGate {__version__} on Python {platform.python_version()}, {len(models)} cores of {models[0]}, {when}."


def write(document: Path, figures: dict[str, list[Figure]]) -> None:
    """Replace the figures of a document."""
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"{document} has no place for figures")
    tables = "\n".join(as_markdown(name, found) for name, found in figures.items())
    document.write_text(f"{before}{BEGIN}\n\n{machine()}\n\n{tables}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", choices=[*BENCHES, "peers"], action="append", help="measure only this; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures between the marks of this document")
    arguments = parser.parse_args()
    benches = BENCHES | (
        {"peers": peers.run} if os.environ.get("PEERS") == "1" or "peers" in (arguments.only or ()) else {}
    )
    stay_off_the_gates_core()
    figures: dict[str, list[Figure]] = {}
    failed = False
    for name in arguments.only or benches:
        try:
            figures[name] = benches[name]()
        except BenchError as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = True
        else:
            show(name, figures[name])
    if arguments.write is not None:
        write(arguments.write, figures)
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({name: as_json(found) for name, found in figures.items()}, indent=1) + "\n"
        )
    return int(failed or any(figure.met is False for found in figures.values() for figure in found))


if __name__ == "__main__":
    sys.exit(main())

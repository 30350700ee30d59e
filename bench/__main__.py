"""`python -m bench [--only NAME] [--json FILE]`: measure, print tables, and fail if a figure misses its target.

With PEERS=1 in the environment the nearest peer is installed and measured beside the gate.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bench import idle, peers, races, roundtrips, streams, throughput
from bench.figures import Figure, as_json, show
from bench.processes import BenchError, stay_off_the_gates_core

BENCHES: dict[str, Callable[[], list[Figure]]] = {
    "idle": idle.run,
    "roundtrips": roundtrips.run,
    "exact": races.exact,
    "overspend": races.overspend,
    "streams": streams.run,
    "throughput": throughput.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", choices=[*BENCHES, "peers"], action="append", help="measure only this; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
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
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({name: as_json(found) for name, found in figures.items()}, indent=1) + "\n"
        )
    return int(failed or any(figure.met is False for found in figures.values() for figure in found))


if __name__ == "__main__":
    sys.exit(main())

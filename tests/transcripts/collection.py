"""The transcripts as files: those that are generated, and those that were recorded, each with its label.

A label says which verdict is right, and of a runaway by which call it must be frozen: the one that begins its 8th repetition.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Each registers its kinds.
from tests.transcripts import healthy_agents, healthy_batches, healthy_people, runaway_costs, runaway_tools, runaways
from tests.transcripts.kinds import KINDS, Kind
from tests.transcripts.tape import Tape

MODULES: Final = (runaways, runaway_tools, runaway_costs, healthy_batches, healthy_agents, healthy_people)
FOLDER: Final = Path(__file__).parent
GENERATED: Final = FOLDER / "generated"
RECORDED: Final = FOLDER / "recorded"
LABELS: Final = "labels.json"

REPETITIONS_MAX: Final = 8
"""By the beginning of this repetition a runaway has to be frozen."""

PLAIN_BYTES_MAX: Final = 32_768
"""Files up to this size are kept as text, larger ones compressed."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A file with its label."""

    name: str
    path: Path
    label: dict[str, Any]


def label(kind: Kind, tape: Tape) -> dict[str, Any]:
    """What is right to say of a transcript."""
    if not kind.runaway:
        return {"verdict": "healthy", "about": kind.about}
    return {
        "verdict": "runaway",
        "about": kind.about,
        "repetition": kind.repetition,
        "frozen_by_call": tape.call_of_repetition(REPETITIONS_MAX),
    }


def files() -> dict[str, bytes]:
    """The text of every file of the folder `generated`, by the file's name."""
    made: dict[str, bytes] = {}
    all_labels = {}
    for name, kind in KINDS.items():
        tape = kind.tape()
        text = tape.text().encode()
        all_labels[name] = label(kind, tape)
        made[f"{name}.jsonl" if len(text) <= PLAIN_BYTES_MAX else f"{name}.jsonl.gz"] = text
    made[LABELS] = (json.dumps(all_labels, indent=1) + "\n").encode()
    return made


def write(path: Path, text: bytes) -> None:
    """Write a transcript or the labels."""
    path.write_bytes(gzip.compress(text, 9, mtime=0) if path.suffix == ".gz" else text)


def read(path: Path) -> bytes:
    """A transcript's text."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def transcripts() -> list[Transcript]:
    """Every transcript that is kept, the generated ones first."""
    found = []
    for folder in (GENERATED, RECORDED):
        for name, each in json.loads((folder / LABELS).read_text()).items():
            path = folder / f"{name}.jsonl"
            found.append(Transcript(name, path if path.exists() else path.with_suffix(".jsonl.gz"), each))
    return found

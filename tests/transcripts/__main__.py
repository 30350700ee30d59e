"""What the anomaly rules make of the transcripts that are kept, and the writing of these transcripts.

python -m tests.transcripts           print the table, with each verdict and its evidence
python -m tests.transcripts write     generate the transcripts anew
python -m tests.transcripts record    record those of real frameworks anew
"""

import asyncio
import sys

from tests.transcripts import evaluation
from tests.transcripts.collection import GENERATED, files, transcripts, write


def generate() -> str:
    """Write the files of the folder `generated`."""
    made = files()
    for stale in GENERATED.iterdir():
        if stale.name not in made:
            stale.unlink()
    for name, text in made.items():
        write(GENERATED / name, text)
    return f"{len(made)} files in {GENERATED}"


match sys.argv[1:]:
    case []:
        said = evaluation.table(evaluation.judge_all(transcripts()))
    case ["write"]:
        said = generate()
    case ["record"]:
        from tests.transcripts import record

        said = asyncio.run(record.main())
    case _:
        raise SystemExit(__doc__)
print(said)  # noqa: T201 - it is a command

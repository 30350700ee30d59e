"""`python -m tests.transcripts write` generates the transcripts anew, `record` records those of real frameworks anew."""

import asyncio
import sys

from tests.transcripts.collection import GENERATED, files, write


def generate() -> None:
    """Write the files of the folder `generated`."""
    made = files()
    for stale in GENERATED.iterdir():
        if stale.name not in made:
            stale.unlink()
    for name, text in made.items():
        write(GENERATED / name, text)
    print(f"{len(made)} files in {GENERATED}")  # noqa: T201 - it is a command


match sys.argv[1:]:
    case ["write"]:
        generate()
    case ["record"]:
        from tests.transcripts import record

        asyncio.run(record.main())
    case _:
        raise SystemExit(__doc__)

"""`python -m tests.transcripts write`: write the generated transcripts anew."""

import sys

from tests.transcripts.collection import GENERATED, files, write


def main() -> None:
    made = files()
    GENERATED.mkdir(exist_ok=True)
    for stale in GENERATED.iterdir():
        if stale.name not in made:
            stale.unlink()
    for name, text in made.items():
        write(GENERATED / name, text)
    print(f"{len(made)} files in {GENERATED}")  # noqa: T201 - it is a command


if __name__ == "__main__":
    if sys.argv[1:] != ["write"]:
        raise SystemExit(__doc__)
    main()

# ruff: noqa: INP001 - a program, not a module
"""Write the table of values into the chart's README, from the comments in values.yaml; with --check, only look.

A comment that begins with `# --` describes the value below it, and goes on in the comment's next lines.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).parent / "tokengate"
BEGIN: Final = "<!-- values: written by charts/readme.py -->"
END: Final = "<!-- end of values -->"

_COMMENT: Final = re.compile(r"\s*# ?(.*)")
_MEMBER: Final = re.compile(r"( *)([A-Za-z][A-Za-z-]*):")


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """The path of each described value, its default, and what is said of it."""
    values = yaml.safe_load(text)
    path: list[str] = []
    said: list[str] | None = None
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            if comment[1].startswith("-- "):
                said = [comment[1].removeprefix("-- ")]
            elif said is not None:
                said.append(comment[1])
        elif member := _MEMBER.match(line):
            path = [*path[: len(member[1]) // 2], member[2]]
            if said is not None:
                yield ".".join(path), json.dumps(_at(values, path), ensure_ascii=False), " ".join(said)
                said = None


def _at(values: Any, path: list[str]) -> Any:  # noqa: ANN401 - whatever YAML has
    for name in path:
        values = values[name]
    return values


def table(text: str) -> str:
    """The table, as Markdown."""
    lines = ["| Value | Default | |", "|---|---|---|"]
    lines += [f"| `{path}` | `{default}` | {said} |" for path, default, said in rows(text)]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Exit with 1 if it is to be checked only, and differs."""
    readme = CHART / "README.md"
    before = readme.read_text()
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    after = f"{head}{BEGIN}\n\n{table((CHART / 'values.yaml').read_text())}\n\n{END}{tail}"
    if after == before:
        return
    if "--check" in arguments:
        sys.exit("charts/tokengate/README.md is not that of values.yaml: make charts")
    readme.write_text(after)


if __name__ == "__main__":
    main(sys.argv[1:])

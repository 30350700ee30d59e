"""`tokengate inject`: the injector without a cluster. Reads manifests, gives each pod in them a gate, and writes them.

What is read and written is decided elsewhere; nothing is asked of a cluster, so that it works in a pipeline and before
one exists.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

if TYPE_CHECKING:
    from tokengate.injector.policy import Policy

STDIN: Final = "-"
EXTRA: Final = "this needs what is installed by: pip install 'tokengate[injector]'"

PolicyOption = Annotated[
    Path | None, typer.Option("--policy", help="The injector's policy, a YAML file; default: the built-in one.")
]


def inject(
    files: Annotated[
        list[str], typer.Option("--file", "-f", help="A file with manifests, `-` for standard input; may be repeated.")
    ],
    policy: PolicyOption = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The namespace of what names none itself.")
    ] = "default",
) -> None:
    """Give the pods in manifests a gate: `tokengate inject -f agent.yaml | kubectl apply -f -`."""
    try:
        from tokengate.injector.manifests import MalformedManifest, join
        from tokengate.injector.manifests import inject as injected
    except ImportError:
        fail(EXTRA, code=1)
    rules = load_policy(policy)
    outcomes = []
    for file in files:
        try:
            outcomes.append(injected(_read(file), rules, namespace))
        except MalformedManifest as error:
            fail(f"{_title(file)}: {error}", code=2)
    for outcome in outcomes:
        for line in (*outcome.notes, *outcome.refusals):
            typer.echo(line, err=True)
    if any(outcome.refusals for outcome in outcomes):
        fail("nothing was written, because of what was refused", code=1)
    typer.echo(join([outcome.text for outcome in outcomes]), nl=False)


def load_policy(path: Path | None) -> "Policy":
    """The policy that a file holds, or the built-in one; ends the command if it cannot be used."""
    from tokengate.injector.policy import POLICY_BYTES_MAX, PolicyError, parse

    if path is None:
        return parse(b"")
    try:
        with path.open("rb") as file:
            return parse(file.read(POLICY_BYTES_MAX + 1))
    except OSError as error:
        fail(f"{path}: {error.strerror}", code=2)
    except PolicyError as error:
        fail(f"{path}: {error}", code=2)


def fail(message: str, *, code: int) -> NoReturn:
    """End the command and say why."""
    typer.echo(f"tokengate: {message}", err=True)
    raise typer.Exit(code)


def _read(file: str) -> str:
    from tokengate.injector.manifests import STREAM_BYTES_MAX

    try:
        if file == STDIN:
            return sys.stdin.buffer.read(STREAM_BYTES_MAX + 1).decode()
        with Path(file).open("rb") as opened:
            return opened.read(STREAM_BYTES_MAX + 1).decode()
    except UnicodeDecodeError:
        fail(f"{_title(file)}: it is not UTF-8", code=2)
    except OSError as error:
        fail(f"{_title(file)}: {error.strerror}", code=2)


def _title(file: str) -> str:
    return "standard input" if file == STDIN else file

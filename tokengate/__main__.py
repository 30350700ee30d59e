"""`tokengate` and `python -m tokengate`.

`serve` goes straight to the server: a sidecar never loads what only a terminal needs (10 MB and a third of a second).
What happens to any command at a terminal ends without a stack trace: Ctrl-C, a reader who has enough, a full disk.
"""

import os
import sys

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended, as shells have it: 128 and the number of the signal."""


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        # redis-py loads OpenTelemetry wherever it is installed, for metrics of its own: 3 MB that nobody asked for.
        sys.modules["opentelemetry"] = None  # type: ignore[assignment]
        from tokengate.server import main as serve  # noqa: PLC0415

        del sys.modules["opentelemetry"]
        sys.exit(serve(sys.argv[2:]))
    try:
        _command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _let_go()
        sys.exit(1)
    except OSError as error:
        _let_go()
        sys.stderr.write(f"tokengate: {error}\n")
        sys.exit(1)


def _command() -> None:
    # Somebody waits at a prompt. pydantic looks through everything that is installed for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # It was closed by who has started us: what is said to nobody goes nowhere.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    from tokengate.cli import app  # noqa: PLC0415

    try:
        app(prog_name="tokengate")
    finally:
        sys.stdout.flush()


def _let_go() -> None:
    """What is still to be written cannot be: the interpreter shall not try once more when it ends.

    https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

"""`tokengate` and `python -m tokengate`.

`serve` goes straight to the server: a sidecar never loads what only a terminal needs (10 MB and a third of a second).
"""

import os
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        # redis-py loads OpenTelemetry wherever it is installed, for metrics of its own: 3 MB that nobody asked for.
        sys.modules["opentelemetry"] = None  # type: ignore[assignment]
        from tokengate.server import main as serve  # noqa: PLC0415

        del sys.modules["opentelemetry"]
        sys.exit(serve(sys.argv[2:]))
    # Somebody waits at a prompt. pydantic looks through everything that is installed for plugins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    from tokengate.cli import app  # noqa: PLC0415

    app()


if __name__ == "__main__":
    main()

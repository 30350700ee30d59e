"""Is the gate of this container alive? For a container engine's health check, where there is neither curl nor a shell.

`python -m tokengate.probe` asks `/livez` on the port that the gate's settings name, and ends with 0 or 1. It imports
nothing but the standard library's sockets: a check every ten seconds must not cost what a start of the gate does.
"""

import os
import socket
import sys
from typing import Final

TIMEOUT_S: Final = 2.0
ANSWER_BYTES_MAX: Final = 64


def alive(environ: dict[str, str]) -> bool:
    """Whether `/livez` answers with 200 on the loopback address, on `STATUS_PORT` if there is one, else on `PORT`."""
    port = environ.get("STATUS_PORT") or environ.get("PORT") or "8000"
    try:
        with socket.create_connection(("127.0.0.1", int(port)), TIMEOUT_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(ANSWER_BYTES_MAX).startswith(b"HTTP/1.1 200 ")
    except (OSError, ValueError, OverflowError):
        return False


if __name__ == "__main__":
    sys.exit(not alive(dict(os.environ)))

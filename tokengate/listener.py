"""Where callers connect: listening sockets, opened before anything else so that a port in use is known at once.

Several workers on one port each listen by a socket of their own (SO_REUSEPORT), and Linux spreads connections over
them: of one shared socket whoever wakes first takes all that wait, and SDKs keep their connections for long.
Elsewhere than on Linux the workers share one.
"""

import socket
import sys
from typing import Final

BACKLOG_MAX: Final = 2048

SPREADS: Final = sys.platform == "linux"
"""Whether the system spreads connections over sockets that share a port."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the port is taken or may not be had; the message says where.
    """
    return _listening(_bound(host, port))


def reserve(host: str, port: int) -> socket.socket:
    """A socket for a port that workers will listen on; it takes no connections where they have sockets of their own.

    Raises:
        OSError: somebody else listens there.
    """
    # First without sharing: with it, two gates of one user would have the port, and each half of the calls.
    _bound(host, port).close()
    return _bound(host, port, shared=True) if SPREADS else _listening(_bound(host, port))


def listen_beside(reserved: socket.socket) -> socket.socket:
    """One worker's listening socket on a reserved port."""
    if not SPREADS:
        return reserved
    listener = socket.socket(reserved.family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(reserved.getsockname())
    return _listening(listener)


def listen_everywhere(port: int) -> socket.socket:
    """On every address of this machine, of both families where it has both: a kubelet may come by either.

    Raises:
        OSError: the port is taken or may not be had.
    """
    try:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG_MAX, dualstack_ipv6=True)
    except (OSError, ValueError):
        return listen("0.0.0.0", port)  # noqa: S104 - where there is no IPv6; the reason, if it is another one, is told
    listener.setblocking(False)
    return listener


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from None
    return bound


def _listening(bound: socket.socket) -> socket.socket:
    bound.listen(BACKLOG_MAX)
    bound.setblocking(False)
    return bound

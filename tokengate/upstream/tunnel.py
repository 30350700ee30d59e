"""A connection through an HTTP proxy to an https origin: CONNECT, then TLS with the origin itself."""

import asyncio
import ssl
from typing import Final

from tokengate.upstream import ConnectFailed
from tokengate.upstream.http1 import Connection
from tokengate.upstream.route import Proxy, Route

PROXY_HEAD_BYTES_MAX: Final = 16 * 1024
"""The largest head of a proxy's answer."""


async def open_tunnel(way: Route, proxy: Proxy, context: ssl.SSLContext) -> Connection:
    """Connect through the proxy; the caller bounds the time.

    Raises:
        ConnectFailed: the proxy refused.
        OSError: the proxy was not reached, or the handshake failed.
    """
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_connection(lambda: _Asking(loop.create_future()), proxy.host, proxy.port)
    try:
        authority = b"[%b]:%d" if ":" in way.host else b"%b:%d"
        authority %= (way.host.encode("ascii"), way.port)
        lines = [b"CONNECT %b HTTP/1.1" % authority, b"host: %b" % authority]
        if proxy.authorization:
            lines.append(b"proxy-authorization: " + proxy.authorization)
        transport.write(b"\r\n".join([*lines, b"", b""]))
        await asking.opened
        connection = Connection()
        inner = await loop.start_tls(transport, connection, context, server_hostname=way.host)
    except BaseException:
        transport.abort()
        raise
    if inner is None:
        raise ConnectionResetError("the proxy closed the tunnel")
    connection.connection_made(inner)
    return connection


class _Asking(asyncio.Protocol):
    """Waits for the proxy's answer to CONNECT."""

    def __init__(self, opened: "asyncio.Future[None]") -> None:
        self.opened = opened
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self.opened.done():
            return
        if b"\r\n\r\n" in self._head:
            status = self._head.split(b"\r\n", 1)[0].split(b" ")[1:2]
            if status and status[0].startswith(b"2"):
                self.opened.set_result(None)
            else:
                line = self._head.split(b"\r\n", 1)[0][:100].decode("ascii", "replace")
                self.opened.set_exception(ConnectFailed(f"the proxy refused: {line}"))
        elif len(self._head) > PROXY_HEAD_BYTES_MAX:
            self.opened.set_exception(ConnectFailed("the proxy's answer is too long"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectFailed(f"the proxy hung up: {exc or 'no reason given'}"))

"""Keeps the connections to the providers: opens them, lends each to one exchange at a time, and closes what is idle.

Whatever goes wrong before the first byte of a request is written is `ConnectFailed`; from then on it is for the
exchange to say. A kept connection is probed before it is used again: a provider may have closed it meanwhile, and a
request that dies on it cannot be told from one that was answered.
"""

import asyncio
import os
import select
import socket
import ssl
from collections.abc import Mapping
from typing import Final

from tokengate.upstream import CancelledUnsent, ConnectFailed, Headers, Response, UpstreamLost
from tokengate.upstream.http1 import Connection, Exchange, request_head
from tokengate.upstream.route import Route, route
from tokengate.upstream.tunnel import open_tunnel

IDLE_S: Final = 30.0
"""How long an idle connection is kept: well below the keep-alive of servers in front of providers (60 s and more)."""

PROBE_AFTER_S: Final = 0.5
"""A connection that was idle for longer is probed before use. In a shorter time the event loop has noticed its end."""

ORIGINS_MAX: Final = 256
"""How many origins may be spoken to; they come from settings, so more is a fault of ours."""


class HttpTransport:
    """The `tokengate.upstream.Transport` of production: HTTP/1.1, over TLS for https."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        connections_max: int,
        ca_file: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            connect_timeout_s: bounds the wait for a free connection, and the making of a new one (DNS, TCP, TLS).
            read_timeout_s: bounds the wait for the head of an answer, and for each next piece of its body.
            connections_max: how many requests may be under way, and how many connections may be kept.
            ca_file: a PEM file of certificates to trust beside the system's.
            environ: where HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY are looked up; None: in the environment.

        Raises:
            ValueError: `ca_file` cannot be read as certificates.
        """
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._environ = os.environ if environ is None else environ
        self._tls: ssl.SSLContext | None = None
        self._ca_file = ca_file
        if ca_file is not None:
            self._tls = _tls_context(ca_file)
        self._connections_max = connections_max
        self._slots = asyncio.Semaphore(connections_max)
        self._routes: dict[str, Route] = {}
        self._idle: dict[Route, list[Connection]] = {}
        self._idle_count = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._under_way: dict[Connection, Route] = {}
        self._closed = False

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> Response:
        scheme, _, rest = url.partition("://")
        authority, slash, path = rest.partition("/")
        origin = f"{scheme}://{authority}"
        way = self._routes.get(origin) or self._route(origin)
        target = _target(url if way.proxy is not None and not way.tunnelled else f"{slash or '/'}{path}")
        if way.proxy is not None and way.proxy.authorization and not way.tunnelled:
            headers = [*headers, (b"proxy-authorization", way.proxy.authorization)]
        head = request_head(method, target, way.host_header, headers, len(body))

        try:
            await self._take_slot()
            try:
                connection = self._kept(way) or await self._connect(way)
                exchange = self._start(connection, way, head, body, bodyless=method == "HEAD")
            except BaseException:
                self._slots.release()
                raise
        except asyncio.CancelledError as error:
            raise CancelledUnsent(*error.args) from error
        await exchange.head()
        return exchange

    async def aclose(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        for connections in self._idle.values():
            for connection in connections:
                connection.abort()
        self._idle.clear()
        self._idle_count = 0
        for connection in list(self._under_way):
            connection.fail(UpstreamLost("the transport was closed"))
        # Lets the event loop close the sockets.
        await asyncio.sleep(0)

    async def reach(self, origin: str) -> None:
        """Connect to an origin as a request would, through a proxy and with TLS, and send nothing.

        Raises:
            ConnectFailed: it cannot be reached.
        """
        (await self._connect(self._route(origin))).abort()

    def _route(self, origin: str) -> Route:
        if len(self._routes) >= ORIGINS_MAX:
            raise ConnectFailed(f"more than {ORIGINS_MAX} origins")
        way = self._routes[origin] = route(origin, self._environ)
        return way

    async def _take_slot(self) -> None:
        if self._slots.locked():
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    await self._slots.acquire()
            except TimeoutError as error:
                raise ConnectFailed(f"no free connection within {self._connect_timeout_s:g} s") from error
        else:
            await self._slots.acquire()

    def _kept(self, way: Route) -> Connection | None:
        """The kept connection that was used last, if one is still open."""
        connections = self._idle.get(way)
        if not connections:
            return None
        now_s = asyncio.get_running_loop().time()
        while connections:
            connection = connections.pop()
            self._idle_count -= 1
            idle_s = now_s - connection.idle_since_s
            if connection.usable and (idle_s < PROBE_AFTER_S or (idle_s < IDLE_S and _is_quiet(connection))):
                return connection
            connection.abort()
        return None

    async def _connect(self, way: Route) -> Connection:
        if self._closed:
            raise ConnectFailed("the transport is closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                if way.proxy is not None and way.tunnelled:
                    return await open_tunnel(way, way.proxy, self._context())
                host, port = (way.host, way.port) if way.proxy is None else (way.proxy.host, way.proxy.port)
                context = self._context() if way.tls else None
                _, connection = await loop.create_connection(Connection, host, port, ssl=context)
                return connection
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {self._connect_timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"cannot connect: {_why(error)}") from error

    def _context(self) -> ssl.SSLContext:
        # Made when first needed: reading the system's certificates takes 10 ms and 2 MB.
        if self._tls is None:
            self._tls = _tls_context(None)
        return self._tls

    def _start(self, connection: Connection, way: Route, head: bytes, body: bytes, *, bodyless: bool) -> Exchange:
        if self._closed or not connection.usable:
            connection.abort()
            raise ConnectFailed("the connection was closed before anything was sent")
        self._under_way[connection] = way
        return connection.start(head, body, bodyless=bodyless, timeout_s=self._read_timeout_s, ended=self._ended)

    def _ended(self, connection: Connection, reusable: bool) -> None:
        way = self._under_way.pop(connection)
        self._slots.release()
        if not reusable:
            return
        if self._closed or self._idle_count >= self._connections_max:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.setdefault(way, []).append(connection)
        self._idle_count += 1
        if self._reaper is None:
            self._reaper = loop.call_later(IDLE_S, self._reap)

    def _reap(self) -> None:
        """Close what has been idle for too long; come again while anything is kept."""
        loop = asyncio.get_running_loop()
        self._reaper = None
        oldest_s = loop.time() - IDLE_S
        for way, connections in self._idle.items():
            kept = [
                connection for connection in connections if connection.idle_since_s > oldest_s and connection.usable
            ]
            for connection in connections:
                if connection not in kept:
                    connection.abort()
            self._idle_count -= len(connections) - len(kept)
            self._idle[way] = kept
        if self._idle_count:
            self._reaper = loop.call_later(IDLE_S / 2, self._reap)


def _why(error: OSError | UnicodeError) -> str:
    """The system's own words where there are some: asyncio's are of its insides."""
    if isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, socket.gaierror)) and error.errno:
        return os.strerror(error.errno)
    return str(error)


def _target(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        raise ConnectFailed("the request cannot be sent: its URL is not ASCII") from error


def _is_quiet(connection: Connection) -> bool:
    """Whether a connection that should be silent is: anything to read there is its end, or no answer of ours."""
    transport = connection.transport
    handle = transport.get_extra_info("socket") if transport is not None else None
    if handle is None:
        return False
    poll = select.poll()
    poll.register(handle.fileno(), select.POLLIN)
    return not poll.poll(0)


def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The system's certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name, and the given ones."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not (paths.capath and any(os.scandir(paths.capath))):
        # Some builds of Python know no certificates of the system; certifi is there for tiktoken's sake.
        import certifi  # noqa: PLC0415

        context.load_verify_locations(certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{ca_file} cannot be read as PEM certificates: {error}") from error
    return context

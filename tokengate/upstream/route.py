"""Where an origin is found: its host and port, TLS or not, and the proxy in the way, if the environment names one.

The rules are those of curl and Go: HTTP_PROXY or HTTPS_PROXY by the origin's scheme, else ALL_PROXY, in lower case
first; NO_PROXY lists hosts, domains, addresses and networks that are reached directly, and so is this machine itself.
Nothing here does I/O.
"""

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tokengate.upstream import ConnectFailed

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy, spoken to in plain text."""

    host: str
    port: int
    authorization: bytes
    """The value of Proxy-Authorization; empty if the proxy's URL has no user."""


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one origin."""

    tls: bool
    host: str
    port: int
    host_header: bytes
    proxy: Proxy | None

    @property
    def tunnelled(self) -> bool:
        """Whether the proxy only passes bytes on (CONNECT), so that TLS is with the origin."""
        return self.proxy is not None and self.tls


def route(origin: str, environ: Mapping[str, str]) -> Route:
    """The way to an origin such as `https://api.openai.com`.

    Raises:
        ConnectFailed: not an http or https origin, or the proxy for it is of a kind that is not spoken.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError as error:
        raise ConnectFailed(f"the request cannot be sent: {error}") from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        raise ConnectFailed("the request cannot be sent: its URL is not http://HOST or https://HOST")
    host, tls = parts.hostname, parts.scheme == "https"
    try:
        host_header = parts.netloc.encode("ascii")
    except UnicodeEncodeError as error:
        raise ConnectFailed("the request cannot be sent: write the host of its URL in ASCII (IDNA)") from error
    port = port or _PORTS[parts.scheme]
    return Route(tls, host, port, host_header, _proxy_for(parts.scheme, host, port, environ))


def _proxy_for(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    url = next((value for name in names if (value := environ.get(name, "").strip())), "")
    if not url or _is_direct(host, port, environ.get("no_proxy", "").strip() or environ.get("NO_PROXY", "")):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        proxy_port = parts.port
    except ValueError as error:
        raise ConnectFailed(f"the proxy of the environment is not a URL: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise ConnectFailed(
            f"the proxy of the environment is not of the form http://HOST:PORT but {parts.scheme}://..."
        )
    authorization = b""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = b"Basic " + base64.b64encode(user.encode())
    return Proxy(parts.hostname, proxy_port or _PORTS["http"], authorization)


def _is_direct(host: str, port: int, no_proxy: str) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    return any(_matches(entry.strip().lower(), host, port, address) for entry in no_proxy.split(",") if entry.strip())


def _matches(entry: str, host: str, port: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if entry == "*":
        return True
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
        except ValueError:
            pass
    name, colon, entry_port = entry.rpartition(":")
    if colon and entry_port.isdecimal():
        if int(entry_port) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".")
    return host == entry or host.endswith(f".{entry}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None

"""How a Redis is found: one server, the master that a Sentinel names, the node of a Cluster, or one that we start.

redis-py reads the URLs, and opens and authenticates connections; what is said on them is the ledger's affair. The
forms:

    (unset)                                      an embedded server of our own: `embedded`
    redis://  rediss://  unix://                 as redis-py reads them (user, password, database, TLS options)
    redis+sentinel://[user:pass@]host:port,host:port/master-name[/db]
    redis+cluster://[user:pass@]host:port,host:port    (rediss+sentinel, rediss+cluster: with TLS)

The last two take `TLS_OPTIONS` in their query, and for Sentinels that ask for a password of their own
`sentinel_username` and `sentinel_password`.
"""

import ssl
from collections.abc import Iterator
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from tokengate.settings import Settings
from tokengate.store.embedded import Embedded
from tokengate.store.errors import StoreError
from tokengate.store.speech import speaks_plain, speaks_tls

__all__ = ("Finding", "Store", "StoreError", "info", "inspect", "open_store")

CONNECT_TIMEOUT_S: Final = 5
"""How long connecting may take, and each answer while redis-py speaks: authentication, and `inspect`."""

VERSION_MIN: Final = (6, 2)
"""The oldest Redis that has all that the scripts use. Every Valkey is newer."""

_OPTIONS: Final[dict[str, Any]] = {
    "protocol": 2,
    "socket_connect_timeout": CONNECT_TIMEOUT_S,
    "socket_timeout": CONNECT_TIMEOUT_S,
    "client_name": "tokengate",
}

TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Files (PEM) that a URL may name: whom to trust, and what to show a server that asks for a client's certificate."""

_SENTINEL_OPTIONS: Final = ("sentinel_username", "sentinel_password")

_REFUSALS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

Finding = tuple[str, str]
"""A level (`warning`) and what is wrong with the store, in words."""


class Store(Protocol):
    """Where the ledger is kept."""

    where: str
    """For people and logs; without a password."""

    async def connect(self, key: str) -> AbstractConnection:
        """A new connection, authenticated and in RESP2, to the server that owns a key.

        Raises:
            RedisError, OSError: there is none to be had now.
        """
        ...

    async def aclose(self) -> None: ...


class Server:
    """One server, by URL."""

    def __init__(self, url: str) -> None:
        self.where = _where(url)
        self._pool = ConnectionPool.from_url(url, **_OPTIONS)

    async def connect(self, key: str) -> AbstractConnection:  # noqa: ARG002 - it owns all keys
        return await _opened(self._pool.make_connection())

    async def check_scheme(self) -> None:
        """See whether it is there, and speaks another language than its URL says.

        Raises:
            StoreError: it does.
        """
        options = self._pool.connection_kwargs
        if "path" in options:
            return
        place = options.get("host", "localhost"), int(options.get("port", 6379))
        if urlsplit(self.where).scheme == "rediss":
            if await speaks_plain(*place):
                raise StoreError(f"{self.where} does not speak TLS: REDIS_URL should begin with redis://")
        elif await speaks_tls(*place):
            raise StoreError(f"{self.where} speaks TLS: REDIS_URL should begin with rediss://")

    async def aclose(self) -> None:
        await self._pool.aclose()


class Sentinels:
    """The master of a name, asked anew for each connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        name, _, database = parts.path.strip("/").partition("/")
        if not name:
            raise StoreError("REDIS_URL: a sentinel form names the master: redis+sentinel://host:26379/master-name")
        given = _query(parts, TLS_OPTIONS + _SENTINEL_OPTIONS)
        own = {name.removeprefix("sentinel_"): given.pop(name) for name in _SENTINEL_OPTIONS if name in given}
        tls = _tls(parts, given)
        self.where = f"the master {name} of the Sentinels {_hosts_text(url)}"
        bounds = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": CONNECT_TIMEOUT_S}
        self._sentinel = Sentinel(_hosts(url, 26379), sentinel_kwargs={**bounds, **own, **tls})
        credentials = _credentials(parts.username, parts.password)
        options = {**_OPTIONS, **credentials, "db": int(database or 0), **tls}
        self._pool = SentinelConnectionPool(name, self._sentinel, **options)

    async def connect(self, key: str) -> AbstractConnection:  # noqa: ARG002 - the master owns all keys
        return await _opened(self._pool.make_connection())

    async def aclose(self) -> None:
        await self._pool.aclose()
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class Cluster:
    """The node that owns a key's slot, looked up anew for each connection: it is a failover that makes us connect."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        nodes = [ClusterNode(host, port) for host, port in _hosts(url, 6379)]
        tls = _tls(parts, _query(parts, TLS_OPTIONS))
        options: dict[str, Any] = {**_OPTIONS, **_credentials(parts.username, parts.password), **tls}
        self.where = f"the Cluster of {_hosts_text(url)}"
        self._cluster = RedisCluster(startup_nodes=nodes, **options)

    async def connect(self, key: str) -> AbstractConnection:
        await self._cluster.initialize()
        await self._cluster.nodes_manager.initialize()
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisError("no node of the cluster owns the slot")
        return await _opened(node.connection_class(**node.connection_kwargs))

    async def aclose(self) -> None:
        await self._cluster.aclose()


class Local:
    """The embedded server, started when it is not running, and stopped by whoever leaves it last."""

    def __init__(self, embedded: Embedded) -> None:
        self.where = f"the embedded server in {embedded.folder}"
        self._embedded = embedded
        self._server = Server(f"unix://{quote(embedded.socket)}")

    async def connect(self, key: str) -> AbstractConnection:
        await self._embedded.ensure()
        return await self._server.connect(key)

    async def aclose(self) -> None:
        await self._server.aclose()
        await self._embedded.leave()


async def open_store(settings: Settings) -> Store:
    """The store that the settings name; its connections are made when they are asked for.

    Raises:
        StoreError: the URL is none, or there is no server to embed.
    """
    if settings.redis_url is None:
        embedded = Embedded.in_folder(settings.data_dir)
        await embedded.ensure()
        return Local(embedded)
    url = settings.redis_url.get_secret_value()
    scheme = urlsplit(url).scheme
    try:
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            return Sentinels(url)
        if scheme in ("redis+cluster", "rediss+cluster"):
            return Cluster(url)
        return Server(url)
    except (ValueError, TypeError) as error:
        raise StoreError(f"REDIS_URL cannot be read: {error}") from None


async def inspect(store: Store, key: str) -> list[Finding]:
    """Look at the store once, at start-up: what would lose money sooner or later is said loudly.

    A server that cannot be reached now is a finding too: the gate refuses calls until it answers.

    Raises:
        StoreError: it can be reached, and will never serve us as it is set up: password, TLS, or not a Redis.
    """
    connection = None
    try:
        connection = await store.connect(key)
        return [*await _version(connection), *await _eviction(connection), *await _persistence(connection)]
    except InvalidResponse:
        raise StoreError(f"{store.where} does not speak Redis; does it want TLS (rediss://)?") from None
    except (RedisError, OSError) as error:
        if any(isinstance(each, _REFUSALS) for each in _causes(error)):
            raise StoreError(
                f"{store.where} refuses our credentials: {str(error).rstrip('.')}. Set user and password in REDIS_URL."
            ) from None
        if any(isinstance(each, ssl.SSLError) or "SSL" in str(each) for each in _causes(error)):
            raise StoreError(
                f"{store.where}: TLS failed ({str(error).rstrip('.')}). Is it rediss:// where redis:// should be, or "
                "is its certificate not trusted (?ssl_ca_certs=/path/of/ca.pem)?"
            ) from None
        if isinstance(store, Server):
            await store.check_scheme()
        return [("warning", f"{store.where} cannot be reached yet; calls are refused until it answers: {error}")]
    finally:
        if connection is not None:
            await connection.disconnect()


async def _version(connection: AbstractConnection) -> list[Finding]:
    fields = await info(connection, "server")
    version = fields.get("redis_version", "")
    numbers = version.split(".")[:2]
    if "valkey_version" not in fields and all(map(str.isdigit, numbers)) and tuple(map(int, numbers)) < VERSION_MIN:
        raise StoreError(f"the store is Redis {version}; 6.2 or newer (or Valkey) is needed")
    if fields.get("arch_bits", "64") != "64":
        raise StoreError(
            "the store is a 32-bit build, whose scripts cannot write amounts exactly; a 64-bit one is needed"
        )
    return []


async def _eviction(connection: AbstractConnection) -> list[Finding]:
    policy = (await info(connection, "memory")).get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    return [("warning", f"maxmemory-policy is {policy}: an evicted session is a fresh budget; set it to noeviction")]


async def _persistence(connection: AbstractConnection) -> list[Finding]:
    if (await info(connection, "persistence")).get("aof_enabled", "1") == "1":
        return []
    return [
        ("warning", "the store has no append-only file: a restart may forget what was spent; set appendonly to yes")
    ]


async def info(connection: AbstractConnection, section: str) -> dict[str, str]:
    """A section of INFO; empty where the server does not let us ask (managed ones forbid much)."""
    try:
        await connection.send_command("INFO", section)
        answer = await connection.read_response(disable_decoding=True)
    except ResponseError:
        return {}
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else ""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


async def _opened(connection: AbstractConnection) -> AbstractConnection:
    try:
        await connection.connect()
    except BaseException:
        await connection.disconnect()
        raise
    return connection


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what lies behind it: redis-py wraps some, and on a unix socket more than on TCP."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _credentials(username: str | None, password: str | None) -> dict[str, str]:
    given = {"username": username, "password": password}
    return {name: unquote(value) for name, value in given.items() if value}


def _query(parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in given:
        if name not in known:
            raise StoreError(f"REDIS_URL: {name!r} is no option of {parts.scheme}://; it has {', '.join(known)}")
    return given


def _tls(parts: SplitResult, given: dict[str, str]) -> dict[str, Any]:
    if parts.scheme.startswith("rediss"):
        return {"ssl": True, **given}
    if given:
        raise StoreError(f"REDIS_URL: {', '.join(given)} is of use with TLS only: begin with rediss+ instead of redis+")
    return {}


def _hosts(url: str, port: int) -> list[tuple[str, int]]:
    hosts = []
    for place in _hosts_text(url).split(","):
        host, _, number = place.rpartition(":") if ":" in place else (place, "", "")
        if not host or (number and not number.isdigit()):
            raise StoreError(f"REDIS_URL: {place!r} is not host:port")
        hosts.append((host, int(number or port)))
    return hosts


def _hosts_text(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

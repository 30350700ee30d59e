"""What a gate needs, checked one by one, in words for whoever has to set it right.

It looks at what the gate itself would use, by the gate's own ways to it. It changes nothing in the store but for the
scripts that it may keep, and sends nothing to the provider.
"""

import hashlib
import logging
import os
import textwrap
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from tokengate.app import load_prices
from tokengate.ledger import keys
from tokengate.ledger.journal import SUFFIX, make_folder
from tokengate.pricing import PriceTableError
from tokengate.resources import pricing_file
from tokengate.settings import ENV_FILE, Settings, SettingsError, load
from tokengate.store import VERSION_MIN, Store, StoreError, info, inspect, open_store
from tokengate.upstream import ConnectFailed
from tokengate.upstream.transport import HttpTransport

WIDTH: Final = 80
SKEW_MS_MAX: Final = 2000
PRICES_DAYS_MAX: Final = 90
MEMORY_PERCENT_MAX: Final = 90

_SCRIPT: Final = "return 1"


class Mark(StrEnum):
    """What a check comes to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table."""

    check: str
    mark: Mark
    finding: str

    def as_json(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items()}


def as_table(checks: list[Check]) -> str:
    """The checks for a terminal of 80 columns."""
    first, second = max(len(each.check) for each in checks), max(len(mark) for mark in Mark)
    indent = " " * (first + second + 4)
    lines = []
    for each in checks:
        head = f"{each.check:<{first}}  {each.mark:<{second}}  "
        lines += textwrap.wrap(each.finding, WIDTH, initial_indent=head, subsequent_indent=indent)
    return "\n".join(lines)


async def examine(environ: Mapping[str, str]) -> list[Check]:
    """Check everything; what cannot be checked because something before it failed is left out."""
    # What the parts would log is said in the findings.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        loaded = load(environ)
    except SettingsError as error:
        return [Check("settings", Mark.FAILED, fault) for fault in error.faults]
    settings = loaded.settings
    checks = [Check("settings", Mark.WARNING, warning) for warning in loaded.warnings]
    if not checks:
        given = sum(source != "default" for source in loaded.sources.values())
        checks.append(Check("settings", Mark.OK, f"{given} set in the environment, in {ENV_FILE} or by file"))
    checks += await _store(settings)
    checks += [_journal(settings), _prices(settings), await _provider(settings)]
    return checks


# --- the store ---


@asynccontextmanager
async def _opened(store: Store, key: str) -> AsyncIterator[AbstractConnection]:
    connection = await store.connect(key)
    try:
        yield connection
    finally:
        await connection.disconnect()


async def _store(settings: Settings) -> list[Check]:
    key = keys.leases(settings.tenant)
    try:
        store = await open_store(settings)
    except StoreError as error:
        return [Check("store", Mark.FAILED, str(error))]
    try:
        unreached = [finding for _, finding in await inspect(store, key) if "cannot be reached" in finding]
        if unreached:
            return [Check("store", Mark.FAILED, unreached[0])]
        async with _opened(store, key) as connection:
            return [
                Check("store", Mark.OK, f"answers: {store.where}"),
                _version(await info(connection, "server")),
                _eviction(await info(connection, "memory")),
                _persistence(await info(connection, "persistence")),
                await _clock(connection),
                await _scripts(connection),
            ]
    except (StoreError, RedisError, OSError) as error:
        return [Check("store", Mark.FAILED, str(error))]
    finally:
        await store.aclose()


def _version(fields: Mapping[str, str]) -> Check:
    needed = ".".join(map(str, VERSION_MIN))
    if "valkey_version" in fields:
        return Check("version", Mark.OK, f"Valkey {fields['valkey_version']}")
    if "redis_version" in fields:
        # `inspect` has refused older ones.
        return Check("version", Mark.OK, f"Redis {fields['redis_version']}")
    return Check("version", Mark.WARNING, f"the store does not tell; Redis {needed} or newer (or Valkey) is needed")


def _eviction(fields: Mapping[str, str]) -> Check:
    policy = fields.get("maxmemory_policy")
    used, most = (int(fields.get(name, "0")) for name in ("used_memory", "maxmemory"))
    if policy is None:
        return Check("eviction", Mark.WARNING, "the store does not tell; maxmemory-policy must be noeviction")
    if policy != "noeviction":
        finding = f"maxmemory-policy is {policy}: an evicted session is a fresh budget; set it to noeviction"
        return Check("eviction", Mark.FAILED if most else Mark.WARNING, finding)
    if most and used >= most:
        return Check("eviction", Mark.FAILED, f"memory is full ({used} of {most} bytes): no call can be held")
    if most and used * 100 >= most * MEMORY_PERCENT_MAX:
        return Check("eviction", Mark.WARNING, f"memory is nearly full: {used} of {most} bytes")
    return Check("eviction", Mark.OK, "maxmemory-policy is noeviction" + (f", {used} of {most} bytes" if most else ""))


def _persistence(fields: Mapping[str, str]) -> Check:
    enabled = fields.get("aof_enabled")
    if enabled is None:
        return Check("persistence", Mark.WARNING, "the store does not tell; it should have appendonly yes")
    if enabled != "1":
        finding = "no append-only file: a restart may forget what was spent; set appendonly to yes"
        return Check("persistence", Mark.WARNING, finding)
    if fields.get("aof_last_write_status", "ok") != "ok":
        return Check("persistence", Mark.FAILED, "the last write to the append-only file failed: is the disk full?")
    return Check("persistence", Mark.OK, "there is an append-only file")


async def _say(connection: AbstractConnection, *words: str) -> object:
    """The reply to a command, a refusal as a value."""
    await connection.send_command(*words)
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as error:
        return error


async def _clock(connection: AbstractConnection) -> Check:
    before_ns = time.time_ns()
    reply = await _say(connection, "TIME")
    middle_ms = (before_ns + time.time_ns()) // 2_000_000
    if not isinstance(reply, list):
        return Check("clock", Mark.FAILED, f"TIME is forbidden, and the scripts need it: {reply}")
    ahead_ms = int(reply[0]) * 1000 + int(reply[1]) // 1000 - middle_ms
    by, where = abs(ahead_ms), "ahead" if ahead_ms >= 0 else "behind"
    if by < SKEW_MS_MAX:
        return Check("clock", Mark.OK, f"the store's is {by} ms {where}")
    finding = f"the store's is {by / 1000:.1f} s {where}; periods and leases go by it, log lines by this machine's"
    return Check("clock", Mark.WARNING, finding)


async def _scripts(connection: AbstractConnection) -> Check:
    digest = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
    by_digest = await _say(connection, "EVALSHA", digest, "0")
    if by_digest == 1 or str(by_digest).startswith(("NOSCRIPT", "No matching script")):
        in_full = by_digest if by_digest == 1 else await _say(connection, "EVAL", _SCRIPT, "0")
        if in_full == 1:
            return Check("scripts", Mark.OK, "can be run")
    else:
        in_full = await _say(connection, "EVAL", _SCRIPT, "0")
        if in_full == 1:
            return Check("scripts", Mark.OK, f"are sent in full each time, since EVALSHA is refused: {by_digest}")
    return Check("scripts", Mark.FAILED, f"cannot be run, and nothing works without: {in_full}")


# --- everything else ---


def _journal(settings: Settings) -> Check:
    folder = settings.data_dir / "journal"
    waiting = list(folder.glob(f"*{SUFFIX}"))
    if waiting:
        size = sum(path.stat().st_size for path in waiting)
        finding = f"{len(waiting)} in {folder} ({size} bytes): of gates that run, or posted when the next one starts"
        return Check("journal", Mark.WARNING, finding)
    if settings.on_store_failure == "closed":
        return Check("journal", Mark.OK, "none, and none needed (ON_STORE_FAILURE=closed)")
    try:
        make_folder(folder)
    except OSError as error:
        return Check("journal", Mark.FAILED, f"{folder} cannot be made ({error.strerror}); set DATA_DIR")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("journal", Mark.FAILED, f"{folder} cannot be written to; set DATA_DIR")
    return Check("journal", Mark.OK, f"nothing waits in {folder}")


def _prices(settings: Settings) -> Check:
    path: Path = settings.pricing_file or pricing_file()
    try:
        table = load_prices(settings.pricing_file)
    except OSError as error:
        return Check("prices", Mark.FAILED, f"{path}: {error.strerror}")
    except PriceTableError as error:
        first, *others = str(error).splitlines()
        more = f" and {len(others)} faults more (tokengate pricing check)" if others else ""
        return Check("prices", Mark.FAILED, f"{path}: {first}{more}")
    if not table.as_of:
        return Check("prices", Mark.WARNING, f"{path} does not say how old it is (as_of)")
    days = (datetime.now(UTC).date() - date.fromisoformat(table.as_of)).days
    mark = Mark.OK if days <= PRICES_DAYS_MAX else Mark.WARNING
    return Check("prices", mark, f"of {table.as_of}, {days} days old" + (f": {path}" if mark is Mark.WARNING else ""))


async def _provider(settings: Settings) -> Check:
    parts = urlsplit(settings.openai_base_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    try:
        transport = HttpTransport(
            connect_timeout_s=settings.upstream_connect_timeout_s,
            read_timeout_s=settings.upstream_read_timeout_s,
            connections_max=1,
            ca_file=str(settings.upstream_ca_file) if settings.upstream_ca_file else None,
        )
    except ValueError as error:
        return Check("provider", Mark.FAILED, str(error))
    try:
        await transport.reach(origin)
    except ConnectFailed as error:
        return Check("provider", Mark.FAILED, f"{origin}: {error}")
    finally:
        await transport.aclose()
    return Check("provider", Mark.OK, f"takes connections: {origin}; no request was sent")

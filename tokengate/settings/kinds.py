"""The kinds of values that settings have: how each is written in a variable, what is allowed, and how that is said.

A kind checks one value alone and reads nothing but the files of time zones and whether a path can be read. What one
setting demands of another is `loading`'s.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from tokengate.domain import (
    NAME_CHARACTERS_MAX,
    NAME_PATTERN,
    TOKEN_CHARACTERS_MAX,
    TOKEN_CHARACTERS_MIN,
    Rate,
)
from tokengate.money import AMOUNT_NANO_MAX, format_usd, parse_usd

PORT_MAX: Final = 65_535
CALLS_MAX: Final = 100_000
"""The highest limit on anything that a call in flight has one of."""
REPEATS_MAX: Final = 32
RATE_REQUESTS_MAX: Final = 1_000_000
THRESHOLDS_MAX: Final = 8
ALERT_HOSTS_MAX: Final = 64
ADMIN_HOSTS_MAX: Final = 32

_REDIS_SCHEMES: Final = frozenset(
    {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a setting may be, in words for whoever sets it; they stand in faults and in the reference."""

    words: str


def _amount(value: object) -> object:
    return parse_usd(value) if isinstance(value, str) else value


def _name(value: str) -> str:
    if value and re.fullmatch(NAME_PATTERN, value, re.ASCII) is None:
        raise ValueError("not a name")
    return value


def _host(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("not a host")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or not value.isascii() or " " in value:
        raise ValueError("not such a URL")
    if parts.username is not None or parts.query or parts.fragment or (parts.port is not None and parts.port < 1):
        raise ValueError("more than a base")
    return value.rstrip("/")


def _redis_url(value: SecretStr | None) -> SecretStr | None:
    if value is not None and urlsplit(value.get_secret_value()).scheme not in _REDIS_SCHEMES:
        raise ValueError("not such a URL")
    return value


def _key(value: SecretStr | None) -> SecretStr | None:
    # It becomes part of a header: a line break in it would be refused with every single call.
    text = "" if value is None else value.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("not a key")
    return value


def _words(value: object) -> object:
    """A list, as it is written in one variable: words with commas between them."""
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


def _percentages(value: object) -> object:
    return () if value == "none" else _words(value)


def _thresholds(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(value) > THRESHOLDS_MAX or list(value) != sorted(set(value)) or not all(1 <= each <= 100 for each in value):
        raise ValueError("not thresholds")
    return value


_RATE: Final = re.compile(r"(\d{1,7})/(s|min|hour|day)(?: burst (\d{1,7}))?", re.ASCII)
RATE_UNITS_MS: Final = {"s": 1_000, "min": 60_000, "hour": 3_600_000, "day": 86_400_000}


def _rate(value: object) -> object:
    """`60/min burst 20`; without a burst, all of them may come at once."""
    if not isinstance(value, str):
        return value
    found = _RATE.fullmatch(value.strip())
    if found is None:
        raise ValueError("not a rate")
    requests, burst = int(found[1]), int(found[3] or found[1])
    if not 1 <= requests <= RATE_REQUESTS_MAX or not 1 <= burst <= RATE_REQUESTS_MAX:
        raise ValueError("not a rate")
    return Rate(requests, RATE_UNITS_MS[found[2]], burst)


def _among(*known: str) -> Callable[[tuple[str, ...]], tuple[str, ...]]:
    def check(value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= set(known):
            raise ValueError("not among them")
        return value

    return check


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > ALERT_HOSTS_MAX or not all(re.fullmatch(r"(\*\.)?[a-z0-9._:\[\]-]+", host) for host in value):
        raise ValueError("not hosts")
    return value


def _admin_hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(value) > ADMIN_HOSTS_MAX or not all(host == "*" or re.fullmatch(r"[a-z0-9._:-]+", host) for host in value):
        raise ValueError("not hosts")
    return value


def _token(value: SecretStr | None) -> SecretStr | None:
    if value is not None and not TOKEN_CHARACTERS_MIN <= len(value.get_secret_value()) <= TOKEN_CHARACTERS_MAX:
        raise ValueError("not a token")
    return _key(value)


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("not a time zone") from None
    return value


def _file(value: Path | None) -> Path | None:
    if value is not None and not (value.is_file() and os.access(value, os.R_OK)):
        raise ValueError("not a file")
    return value


def _log_level(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


_USD: Final = Allowed(
    f"an amount in USD like 25, 25.00 or $25, at most nine decimals, up to {format_usd(AMOUNT_NANO_MAX)}"
)
_NAMES: Final = f"1 to {NAME_CHARACTERS_MAX} of A-Z a-z 0-9 . _ : @ + = ~ - beginning with a letter or digit"
READABLE: Final = Allowed("the path of a file that can be read")

Amount = Annotated[int, BeforeValidator(_amount), _USD]
OptionalAmount = Annotated[int | None, BeforeValidator(_amount), _USD]
Name = Annotated[str, AfterValidator(_name), Allowed(_NAMES), Field(min_length=1)]
OptionalName = Annotated[str, AfterValidator(_name), Allowed(_NAMES)]
OptionalFile = Annotated[Path | None, AfterValidator(_file), READABLE]
ApiKey = Annotated[SecretStr | None, AfterValidator(_key), Allowed("visible ASCII characters")]
BaseUrl = Annotated[
    str, AfterValidator(_base_url), Allowed("a URL with http:// or https://, without user, query and fragment")
]
RedisUrl = Annotated[
    SecretStr | None,
    AfterValidator(_redis_url),
    Allowed("a URL with redis://, rediss://, unix://, redis[s]+sentinel:// or redis[s]+cluster://"),
]
OptionalPort = Annotated[int | None, Field(ge=1, le=PORT_MAX)]
Host = Annotated[str, AfterValidator(_host), Allowed("an address or a host name"), Field(min_length=1)]
Timezone = Annotated[
    str, AfterValidator(_timezone), Allowed("a name of the IANA time zone database, like UTC or Europe/Berlin")
]
OptionalRate = Annotated[
    Rate | None,
    BeforeValidator(_rate),
    Allowed(
        "a number of requests per s, min, hour or day, and how many of them may come at once if not all, "
        f"like 60/min or 600/hour burst 50, up to {RATE_REQUESTS_MAX}"
    ),
]
Repeats = Annotated[int, Field(ge=3, le=REPEATS_MAX)]
Thresholds = Annotated[
    tuple[int, ...],
    BeforeValidator(_percentages),
    AfterValidator(_thresholds),
    Allowed(f"at most {THRESHOLDS_MAX} whole percentages from 1 to 100, ascending, with commas between them; or none"),
]
Topics = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_among("budget", "freeze", "store")),
    Allowed("one or more of budget, freeze, store, with commas between them"),
]
Scopes = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_among("session", "agent", "tenant")),
    Allowed("one or more of session, agent, tenant, with commas between them"),
]
Hosts = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_hosts),
    Allowed(f"at most {ALERT_HOSTS_MAX} host names in lower case, or *.domain, with commas between them"),
]
Secret = Annotated[SecretStr | None, AfterValidator(_key), Allowed("visible ASCII characters")]
AdminHosts = Annotated[
    tuple[str, ...],
    BeforeValidator(_words),
    AfterValidator(_admin_hosts),
    Allowed(f"at most {ADMIN_HOSTS_MAX} host names in lower case, without ports, with commas between them; or *"),
]
Token = Annotated[
    SecretStr | None,
    AfterValidator(_token),
    Allowed(f"{TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} visible ASCII characters"),
]
OptionalHost = Annotated[str, AfterValidator(_host), Allowed("an address or a host name")]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_log_level)]
Calls = Annotated[int, Field(ge=1, le=CALLS_MAX)]
Folder = Annotated[Path, Allowed("the path of a directory, which is created")]

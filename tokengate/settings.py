"""The settings: read from the environment and `.env`, checked all at once, and shown with their source.

Every setting is documented in docs/reference/settings.md and `.env.example`; a test holds both to this module. A secret
may also be given as `NAME_FILE`, the path of a file that holds it, as Kubernetes mounts secrets. An empty variable
counts as unset. Constructing `Settings` reads nothing; only `load` does.
"""

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from annotated_types import Ge, Le
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tokengate.domain import (
    DEFAULT_TENANT,
    NAME_CHARACTERS_MAX,
    NAME_PATTERN,
    TOKEN_CHARACTERS_MAX,
    TOKEN_CHARACTERS_MIN,
    Mode,
    Period,
    Rate,
)
from tokengate.money import AMOUNT_NANO_MAX, format_usd, parse_usd

ENV_FILE: Final = ".env"
FILE_BYTES_MAX: Final = 64 * 1024
"""The largest `.env` and the largest file with a secret."""

PORT_MAX: Final = 65_535
WORKERS_MAX: Final = 64
CALLS_MAX: Final = 100_000
"""The highest limit on anything that a call in flight has one of."""
WAIT_MS_MAX: Final = 600_000
STORE_TIMEOUT_MS_MIN: Final = 50
STORE_TIMEOUT_MS_MAX: Final = 60_000
LEASE_S_MIN: Final = 5
LEASE_S_MAX: Final = 3_600
SESSIONS_MAX: Final = 100_000_000
CONNECT_S_MAX: Final = 300
READ_S_MAX: Final = 86_400
GRACE_S_MAX: Final = 3_600
REQUEST_BYTES_MIN: Final = 1024
HEADER_BYTES_MAX: Final = 1024 * 1024
BODY_BYTES_MAX: Final = 1024 * 1024 * 1024
REPEATS_MAX: Final = 32
PERCENT_MAX: Final = 1_000
PAUSE_MS_MAX: Final = 600_000
FREEZE_S_MAX: Final = 30 * 86_400
RATE_REQUESTS_MAX: Final = 1_000_000
THRESHOLDS_MAX: Final = 8
ALERT_HOSTS_MAX: Final = 64

ADMIN_HOSTS_MAX: Final = 32

_MASK: Final = "********"
_REDIS_SCHEMES: Final = frozenset(
    {"redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"}
)


class SettingsError(ValueError):
    """The settings cannot be used; `faults` names each variable, its value (secrets masked) and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


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
_RATE_PER_MS: Final = {"s": 1_000, "min": 60_000, "hour": 3_600_000, "day": 86_400_000}


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
    return Rate(requests, _RATE_PER_MS[found[2]], burst)


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
_READABLE: Final = Allowed("the path of a file that can be read")

Amount = Annotated[int, BeforeValidator(_amount), _USD]
OptionalAmount = Annotated[int | None, BeforeValidator(_amount), _USD]
Name = Annotated[str, AfterValidator(_name), Allowed(_NAMES), Field(min_length=1)]
OptionalName = Annotated[str, AfterValidator(_name), Allowed(_NAMES)]
OptionalFile = Annotated[Path | None, AfterValidator(_file), _READABLE]
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


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The user's data directory by the XDG rules; of the system where there is no user (a container without HOME)."""
    base = environ.get("XDG_DATA_HOME") or (f"{home}/.local/share" if (home := environ.get("HOME")) else "/var/lib")
    return Path(base) / "tokengate"


class Settings(BaseSettings):
    """Everything that can be set. Amounts are read as USD and kept as nano-USD."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    openai_api_key: ApiKey = None
    openai_base_url: BaseUrl = "https://api.openai.com/v1"
    openai_service_tier_default: Literal["default", "priority"] = "default"
    anthropic_api_key: ApiKey = None
    anthropic_base_url: BaseUrl = "https://api.anthropic.com"
    gemini_api_key: ApiKey = None
    gemini_base_url: BaseUrl = "https://generativelanguage.googleapis.com"
    upstreams_file: OptionalFile = None
    redis_url: RedisUrl = None
    default_budget: Amount = 10_000_000_000
    strict_mode: bool = False
    log_level: LogLevel = "INFO"

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=PORT_MAX)] = 8000
    status_port: OptionalPort = None
    workers: Annotated[int, Field(ge=1, le=WORKERS_MAX)] = 1
    tenant: Name = DEFAULT_TENANT
    agent: OptionalName = ""
    session_id: OptionalName = ""
    default_session: Name = "default"

    default_budget_period: Period = Period.NONE
    agent_budget: OptionalAmount = None
    agent_budget_period: Period = Period.NONE
    tenant_budget: OptionalAmount = None
    tenant_budget_period: Period = Period.NONE
    budget_timezone: Timezone = "UTC"
    output_cap: Literal["when_unset", "always", "never"] = "when_unset"
    pricing_file: OptionalFile = None

    loops: Mode = Mode.ENFORCE
    loop_repeats: Repeats = 8
    loop_pause_ms: Annotated[int, Field(ge=100, le=PAUSE_MS_MAX)] = 8_000
    tool_loops: Mode = Mode.ENFORCE
    tool_loop_repeats: Annotated[int, Field(ge=4, le=REPEATS_MAX)] = 7
    growth: Mode = Mode.ENFORCE
    growth_calls: Repeats = 8
    growth_percent: Annotated[int, Field(ge=110, le=PERCENT_MAX)] = 150
    velocity: Mode = Mode.ENFORCE
    velocity_max: OptionalAmount = None
    velocity_factor: Annotated[int, Field(ge=0, le=PERCENT_MAX)] = 20
    velocity_floor: Amount = 5_000_000_000
    freeze_s: Annotated[int, Field(ge=1, le=FREEZE_S_MAX)] = 600
    freeze_s_max: Annotated[int, Field(ge=1, le=FREEZE_S_MAX)] = 86_400
    freeze_cuts_streams: bool = False
    rate_limit: OptionalRate = None
    rate_limit_mode: Mode = Mode.ENFORCE
    agent_rate_limit: OptionalRate = None
    agent_rate_limit_mode: Mode = Mode.ENFORCE
    tenant_rate_limit: OptionalRate = None
    tenant_rate_limit_mode: Mode = Mode.ENFORCE

    busy_wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX)] = 30_000
    waiters_max: Annotated[int, Field(ge=0, le=CALLS_MAX)] = 1024
    hold_lease_s: Annotated[int, Field(ge=LEASE_S_MIN, le=LEASE_S_MAX)] = 60
    sessions_max: Annotated[int, Field(ge=1, le=SESSIONS_MAX)] = 5_000_000
    store_timeout_ms: Annotated[int, Field(ge=STORE_TIMEOUT_MS_MIN, le=STORE_TIMEOUT_MS_MAX)] = 2000
    on_store_failure: Literal["closed", "open", "allowance"] = "closed"
    store_allowance: Amount = 1_000_000_000
    data_dir: Folder = Field(default_factory=lambda: default_data_dir(os.environ))

    metrics: bool = True
    trace_propagate_upstream: bool = False

    admin_token: Token = None
    admin_read_token: Token = None
    admin_host: OptionalHost = ""
    admin_port: OptionalPort = None
    admin_allowed_hosts: AdminHosts = ()

    body_bytes_max: Annotated[int, Field(ge=REQUEST_BYTES_MIN, le=BODY_BYTES_MAX)] = 32 * 1024 * 1024
    header_bytes_max: Annotated[int, Field(ge=REQUEST_BYTES_MIN, le=HEADER_BYTES_MAX)] = 32 * 1024
    concurrency_max: Calls = 1024
    upstream_connect_timeout_s: Annotated[int, Field(ge=1, le=CONNECT_S_MAX)] = 5
    upstream_read_timeout_s: Annotated[int, Field(ge=1, le=READ_S_MAX)] = 600
    upstream_connections_max: Calls = 1024
    upstream_ca_file: OptionalFile = None
    shutdown_grace_s: Annotated[int, Field(ge=0, le=GRACE_S_MAX)] = 30

    alert_thresholds: Thresholds = (50, 80, 95, 100)
    alert_webhook_url: Secret = None
    alert_format: Literal["json", "slack", "pagerduty"] = "json"
    alert_secret: Secret = None
    alert_routing_key: Secret = None
    alert_hosts_allowed: Hosts = ()
    alert_on: Topics = ("budget", "freeze", "store")
    alert_scopes: Scopes = ("session", "agent", "tenant")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands in: it reads the same places, and remembers where each value came from."""
        return (init_settings,)


NAMES: Final = tuple(Settings.model_fields)
"""The settings by their field names; the variables are the same in upper case."""

SECRETS: Final = frozenset(
    {
        "admin_token",
        "admin_read_token",
        "openai_api_key",
        "anthropic_api_key",
        "gemini_api_key",
        "redis_url",
        "alert_webhook_url",
        "alert_secret",
        "alert_routing_key",
    }
)
AMOUNTS: Final = frozenset(
    {"default_budget", "agent_budget", "tenant_budget", "store_allowance", "velocity_max", "velocity_floor"}
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each came from, and what looked like a mistake without being one."""

    settings: Settings
    sources: Mapping[str, str]
    """`environment`, `.env`, a file's path, or `default`, by field name."""
    warnings: tuple[str, ...]


def load(environ: Mapping[str, str], env_file: Path | None = Path(ENV_FILE)) -> Loaded:
    """Read and check the settings; the environment goes before `.env`, which need not exist.

    Raises:
        SettingsError: with every fault.
    """
    faults: list[str] = []
    from_file = _env_file(env_file, faults)
    values: dict[str, Any] = {}
    sources = dict.fromkeys(NAMES, "default")
    for name in NAMES:
        for source, place in (("environment", environ), (ENV_FILE, from_file)):
            try:
                found = _found(name, source, place)
            except SettingsError as error:
                faults += error.faults
                break
            if found is not None:
                values[name], sources[name] = found
                break
    values.setdefault("data_dir", default_data_dir(environ))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        wrong = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
        faults += [f"{name.upper()}={_given(name, values)}: allowed is {allowed(name)}" for name in wrong]
        raise SettingsError(faults) from None
    if settings.freeze_s > settings.freeze_s_max:
        faults.append(
            f"FREEZE_S={settings.freeze_s}: allowed is at most FREEZE_S_MAX, which is {settings.freeze_s_max}"
        )
    if faults:
        raise SettingsError(faults)
    return Loaded(settings, sources, tuple(_misspelt(from_file)))


def allowed(name: str) -> str:
    """What a setting may be, in words."""
    field = Settings.model_fields[name]
    for word in field.metadata:
        if isinstance(word, Allowed):
            return word.words
    low = next((mark.ge for mark in field.metadata if isinstance(mark, Ge)), None)
    high = next((mark.le for mark in field.metadata if isinstance(mark, Le)), None)
    if low is not None and high is not None:
        return f"a whole number from {low} to {high}"
    if field.annotation in (Period, Mode):
        return _either([str(each) for each in field.annotation])
    if get_origin(field.annotation) is Literal:
        return _either(list(get_args(field.annotation)))
    return "true or false"


def shown(settings: Settings, name: str) -> str:
    """A setting's value for people: secrets masked, amounts in USD."""
    value = getattr(settings, name)
    if value is None or value in ("", ()):
        return "(unset)"
    if name == "redis_url":
        return _without_password(value.get_secret_value())
    if name in SECRETS:
        return _MASK
    if name in AMOUNTS:
        return f"{format_usd(value)} USD"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Rate):
        unit = next(unit for unit, ms in _RATE_PER_MS.items() if ms == value.per_ms)
        return f"{value.requests}/{unit} burst {value.burst}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def _found(name: str, source: str, place: Mapping[str, str]) -> tuple[str, str] | None:
    """A setting and its source, if this place has it, directly or (a secret) by the file that it names."""
    variable = name.upper()
    text = place.get(variable, "").strip()
    path = place.get(f"{variable}_FILE", "").strip() if name in SECRETS else ""
    if not path:
        return (text, source) if text else None
    if text:
        raise SettingsError([f"{variable} and {variable}_FILE={path}: allowed is one of the two"])
    try:
        return _read(Path(path)).strip(), path
    except (OSError, ValueError) as error:
        raise SettingsError([f"{variable}_FILE={path}: allowed is {_READABLE.words}; {_reason(error)}"]) from None


def _env_file(path: Path | None, faults: list[str]) -> dict[str, str]:
    if path is None or not path.exists():
        return {}
    try:
        text = _read(path)
    except (OSError, ValueError) as error:
        faults.append(f"{path}: allowed is a file that can be read; {_reason(error)}")
        return {}
    values = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            faults.append(f"{path}, line {binding.original.line}: allowed is NAME=value")
        elif binding.key is not None:
            values[binding.key] = binding.value or ""
    return values


def _read(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"it has more than {FILE_BYTES_MAX} bytes")
    return content.decode()


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)


def _given(name: str, values: Mapping[str, Any]) -> str:
    return _MASK if name in SECRETS else str(values[name])


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _misspelt(from_file: Mapping[str, str]) -> list[str]:
    known = [*(name.upper() for name in NAMES), *(f"{name.upper()}_FILE" for name in SECRETS)]
    strange = [name for name in from_file if name not in known]
    if not strange:
        return []
    import difflib  # noqa: PLC0415 - seldom needed

    warnings = []
    for name in strange:
        if name.upper().startswith("OTEL_"):
            warnings.append(f"{ENV_FILE} sets {name}, which counts in the environment alone, as OpenTelemetry has it")
            continue
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8)
        if close:
            warnings.append(f"{ENV_FILE} sets {name}, which is no setting: did you mean {close[0]}?")
    return warnings


def _without_password(url: str) -> str:
    """A URL for people: its password, and its query (redis-py takes a password there too), are left out."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    secret = f"{name}{colon}{_MASK if colon else ''}"
    return f"{parts.scheme}://{secret}{at}{hosts}{parts.path}{f'?{_MASK}' if parts.query else ''}"

"""The settings: read from the environment and `.env`, checked all at once, and shown with their source.

Every setting is documented in docs/reference/settings.md and `.env.example`; a test holds both to this module. A secret
may also be given as `NAME_FILE`, the path of a file that holds it, as Kubernetes mounts secrets.
"""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tokengate.domain import DEFAULT_TENANT, NAME_PATTERN, Period
from tokengate.money import AmountError, format_usd, parse_usd

ENV_FILE: Final = ".env"
SECRET_FILE_BYTES_MAX: Final = 16 * 1024
_MIB: Final = 1024 * 1024
_MASK: Final = "********"


class SettingsError(ValueError):
    """The settings cannot be used; `faults` names each variable, its value (secrets masked) and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


def _amount(value: object) -> object:
    if isinstance(value, str):
        return parse_usd(value)
    return value


def _name(value: str) -> str:
    if value and re.fullmatch(NAME_PATTERN, value, re.ASCII) is None:
        raise ValueError("1 to 128 letters, digits or . _ : @ + = ~ -, beginning with a letter or a digit")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a URL that begins with http:// or https://")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a URL without a user, a query or a fragment")
    return value.rstrip("/")


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        raise ValueError("a name of the IANA time zone database, such as UTC or Europe/Berlin") from None
    return value


def _file(value: Path | None) -> Path | None:
    if value is not None and not value.is_file():
        raise ValueError("the path of a file that exists")
    return value


def _empty_is_unset(value: object) -> object:
    return None if value == "" else value


Amount = Annotated[int, BeforeValidator(_amount)]
Name = Annotated[str, AfterValidator(_name)]
Unset = BeforeValidator(_empty_is_unset)
OptionalAmount = Annotated[int | None, BeforeValidator(_amount), Unset]
OptionalFile = Annotated[Path | None, AfterValidator(_file), Unset]
OptionalSecret = Annotated[SecretStr | None, Unset]


def _data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "tokengate"


class Settings(BaseSettings):
    """Everything that can be set. Amounts are read as USD and kept as nano-USD."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    openai_api_key: OptionalSecret = None
    openai_base_url: Annotated[str, AfterValidator(_base_url)] = "https://api.openai.com/v1"
    redis_url: OptionalSecret = None
    default_budget: Amount = 10_000_000_000
    strict_mode: bool = False
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    tenant: Name = DEFAULT_TENANT
    agent: Name = ""
    session_id: Name = ""
    default_session: Name = "default"

    default_budget_period: Period = Period.NONE
    agent_budget: OptionalAmount = None
    agent_budget_period: Period = Period.NONE
    tenant_budget: OptionalAmount = None
    tenant_budget_period: Period = Period.NONE
    budget_timezone: Annotated[str, AfterValidator(_timezone)] = "UTC"
    output_cap: Literal["when_unset", "always", "never"] = "when_unset"
    pricing_file: OptionalFile = None

    busy_wait_ms: Annotated[int, Field(ge=0, le=600_000)] = 30_000
    waiters_max: Annotated[int, Field(ge=0, le=100_000)] = 1024
    hold_lease_s: Annotated[int, Field(ge=5, le=3600)] = 60
    sessions_max: Annotated[int, Field(ge=1, le=100_000_000)] = 5_000_000
    store_timeout_ms: Annotated[int, Field(ge=50, le=60_000)] = 2000
    data_dir: Path = Field(default_factory=_data_dir)

    body_bytes_max: Annotated[int, Field(ge=1024, le=1024 * _MIB)] = 32 * _MIB
    header_bytes_max: Annotated[int, Field(ge=1024, le=_MIB)] = 32 * 1024
    concurrency_max: Annotated[int, Field(ge=1, le=100_000)] = 1024
    upstream_connect_timeout_s: Annotated[int, Field(ge=1, le=300)] = 5
    upstream_read_timeout_s: Annotated[int, Field(ge=1, le=86_400)] = 600
    upstream_connections_max: Annotated[int, Field(ge=1, le=100_000)] = 1024
    upstream_ca_file: OptionalFile = None
    shutdown_grace_s: Annotated[int, Field(ge=0, le=3600)] = 30

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
    name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)
)
AMOUNTS: Final = frozenset({"default_budget", "agent_budget", "tenant_budget"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, where each came from, and what looked like a mistake without being one."""

    settings: Settings
    sources: Mapping[str, str]
    """`environment`, `.env`, a file's path, or `default`, by field name."""
    warnings: tuple[str, ...]


def load(environ: Mapping[str, str], env_file: Path | None = Path(ENV_FILE)) -> Loaded:
    """Read and check the settings; the environment goes before `.env`.

    Raises:
        SettingsError: with every fault.
    """
    from_file = {
        name: value
        for name, value in (dotenv_values(env_file) if env_file and env_file.is_file() else {}).items()
        if value
    }
    faults: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in NAMES:
        variable = name.upper()
        for source, place in (("environment", environ), (ENV_FILE, from_file)):
            if name in SECRETS and place.get(f"{variable}_FILE"):
                path = place[f"{variable}_FILE"]
                try:
                    values[name], sources[name] = _read_secret(path), path
                except OSError as error:
                    faults.append(f"{variable}_FILE={path}: cannot be read ({error.strerror or error})")
                break
            if place.get(variable):
                values[name], sources[name] = place[variable], source
                break
    try:
        settings = Settings(**values)
    except ValidationError as error:
        faults.extend(_fault(detail, values) for detail in error.errors())
        raise SettingsError(faults) from None
    if faults:
        raise SettingsError(faults)
    complete = {name: sources.get(name, "default") for name in NAMES}
    return Loaded(settings, complete, tuple(_misspelt(from_file)))


def shown(settings: Settings, name: str) -> str:
    """A setting's value for people: secrets masked, amounts in USD."""
    value = getattr(settings, name)
    if value is None or value == "":
        return "(unset)"
    if name == "redis_url":
        return _without_password(value.get_secret_value())
    if name in SECRETS:
        return _MASK
    if name in AMOUNTS:
        return f"{format_usd(value)} USD"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _read_secret(path: str) -> str:
    with Path(path).open(encoding="utf-8") as file:
        return file.read(SECRET_FILE_BYTES_MAX).strip()


def _fault(detail: Any, values: Mapping[str, Any]) -> str:  # noqa: ANN401 - pydantic's own shape
    name = str(detail["loc"][0])
    given = _MASK if name in SECRETS else values.get(name)
    message = detail["msg"].removeprefix("Value error, ")
    if isinstance(detail.get("ctx", {}).get("error"), AmountError):
        message = "an amount in USD, like 25, 25.00 or $25, with at most 9 decimals, up to 9007199.254740991"
    return f"{name.upper()}={given}: {message[0].lower()}{message[1:]}"


def _misspelt(from_file: Mapping[str, str]) -> list[str]:
    known = [name.upper() for name in NAMES]
    known += [f"{name.upper()}_FILE" for name in SECRETS]
    warnings = []
    for name in from_file:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if name not in known and close:
            warnings.append(f"{ENV_FILE} sets {name}, which is no setting: did you mean {close[0]}?")
    return warnings


def _without_password(url: str) -> str:
    return re.sub(r"(//[^:@/]*):[^@/]*@", rf"\1:{_MASK}@", url)

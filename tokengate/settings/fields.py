"""Every setting there is, by area, with its kind, bounds and default: the one place where they are listed.

docs/reference/settings.md and `.env.example` tell what each is for; a test holds both to this list. Constructing
`Settings` reads nothing; only `load` does.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tokengate.domain import DEFAULT_TENANT, Mode, Period
from tokengate.settings.kinds import (
    CALLS_MAX,
    PORT_MAX,
    REPEATS_MAX,
    AdminHosts,
    Amount,
    ApiKey,
    BaseUrl,
    Calls,
    Folder,
    Host,
    Hosts,
    LogLevel,
    Name,
    OptionalAmount,
    OptionalFile,
    OptionalHost,
    OptionalName,
    OptionalPort,
    OptionalRate,
    RedisUrl,
    Repeats,
    Scopes,
    Secret,
    Thresholds,
    Timezone,
    Token,
    Topics,
)

WORKERS_MAX: Final = 64
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
PERCENT_MAX: Final = 1_000
PAUSE_MS_MAX: Final = 600_000
FREEZE_S_MAX: Final = 30 * 86_400


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The user's data directory by the XDG rules; of the system where there is no user (a container without HOME)."""
    base = environ.get("XDG_DATA_HOME") or (f"{home}/.local/share" if (home := environ.get("HOME")) else "/var/lib")
    return Path(base) / "tokengate"


class Settings(BaseSettings):
    """Everything that can be set. Amounts are read as USD and kept as nano-USD."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # -- What most people set
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

    # -- Listening and identity
    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=PORT_MAX)] = 8000
    status_port: OptionalPort = None
    workers: Annotated[int, Field(ge=1, le=WORKERS_MAX)] = 1
    tenant: Name = DEFAULT_TENANT
    agent: OptionalName = ""
    session_id: OptionalName = ""
    default_session: Name = "default"

    # -- Budgets
    default_budget_period: Period = Period.NONE
    agent_budget: OptionalAmount = None
    agent_budget_period: Period = Period.NONE
    tenant_budget: OptionalAmount = None
    tenant_budget_period: Period = Period.NONE
    budget_timezone: Timezone = "UTC"
    output_cap: Literal["when_unset", "always", "never"] = "when_unset"
    pricing_file: OptionalFile = None

    # -- Runaways
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

    # -- The ledger
    busy_wait_ms: Annotated[int, Field(ge=0, le=WAIT_MS_MAX)] = 30_000
    waiters_max: Annotated[int, Field(ge=0, le=CALLS_MAX)] = 1024
    hold_lease_s: Annotated[int, Field(ge=LEASE_S_MIN, le=LEASE_S_MAX)] = 60
    sessions_max: Annotated[int, Field(ge=1, le=SESSIONS_MAX)] = 5_000_000
    store_timeout_ms: Annotated[int, Field(ge=STORE_TIMEOUT_MS_MIN, le=STORE_TIMEOUT_MS_MAX)] = 2000
    on_store_failure: Literal["closed", "open", "allowance"] = "closed"
    store_allowance: Amount = 1_000_000_000
    data_dir: Folder = Field(default_factory=lambda: default_data_dir(os.environ))

    # -- What it tells
    metrics: bool = True
    trace_propagate_upstream: bool = False

    # -- Administrators
    admin_token: Token = None
    admin_read_token: Token = None
    admin_host: OptionalHost = ""
    admin_port: OptionalPort = None
    admin_allowed_hosts: AdminHosts = ()

    # -- Bounds and the provider
    body_bytes_max: Annotated[int, Field(ge=REQUEST_BYTES_MIN, le=BODY_BYTES_MAX)] = 32 * 1024 * 1024
    header_bytes_max: Annotated[int, Field(ge=REQUEST_BYTES_MIN, le=HEADER_BYTES_MAX)] = 32 * 1024
    concurrency_max: Calls = 1024
    upstream_connect_timeout_s: Annotated[int, Field(ge=1, le=CONNECT_S_MAX)] = 5
    upstream_read_timeout_s: Annotated[int, Field(ge=1, le=READ_S_MAX)] = 600
    upstream_connections_max: Calls = 1024
    upstream_ca_file: OptionalFile = None
    shutdown_grace_s: Annotated[int, Field(ge=0, le=GRACE_S_MAX)] = 30

    # -- Alerts
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

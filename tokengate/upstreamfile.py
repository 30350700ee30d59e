"""The file of further upstreams (UPSTREAMS_FILE, TOML): servers that speak OpenAI's API, or Azure's form of it.

Each is chosen by the beginning of a path or by the name of a model, and by nothing that a caller's headers say. This is
its grammar and its faults; who reads the file and the keys that it names is the composition root.
"""

import re
import tomllib
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, ValidationError, convert, field

from tokengate.providers import Quirks

UPSTREAMS_MAX: Final = 64
MODELS_MAX: Final = 256
"""Patterns of one upstream."""
TIMEOUT_S_MAX: Final = 3600.0

_PREFIX: Final = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+", re.ASCII)
_RESERVED: Final = ("/v1", "/v1beta", "/tokengate", "/health", "/livez", "/readyz", "/metrics", "/api", "/dashboard")

_Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
_Pattern = Annotated[str, Meta(min_length=1, max_length=128)]
_Timeout = Annotated[float, Meta(gt=0, le=TIMEOUT_S_MAX)]


class UpstreamFileError(ValueError):
    """The file cannot be used; the message says where and why."""


class UpstreamEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[upstream]]`."""

    name: _Name
    base_url: str
    """What takes the place of `/v1` (kind `openai`), or of everything before `/openai` (kind `azure`)."""
    kind: Literal["openai", "azure"] = "openai"
    prefix: str = ""
    models: Annotated[tuple[_Pattern, ...], Meta(max_length=MODELS_MAX)] = ()
    prices: str = ""
    """The section of the price table; the name of the upstream if it is not given."""
    key_env: str = ""
    """The environment variable that has its key; without one, what the caller sent goes on."""
    key_file: str = ""
    stream_options: bool = True
    output_cap_field: Literal["", "max_tokens", "max_completion_tokens"] = ""
    cost_reported: bool = False
    """Whether the cost in its answers (`usage.cost`) is charged, and not what the price table makes of the tokens."""
    service_tier_default: Literal["", "priority"] = ""
    """The tier that its account is set to, if calls that ask for none may be billed by a dearer one."""
    connect_timeout_s: _Timeout | None = None
    read_timeout_s: _Timeout | None = None

    @property
    def section(self) -> str:
        return self.prices or self.name

    @property
    def quirks(self) -> Quirks | None:
        found = Quirks(self.stream_options, self.output_cap_field, self.cost_reported, self.service_tier_default)
        return found if found != Quirks() else None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    upstream: Annotated[tuple[UpstreamEntry, ...], Meta(max_length=UPSTREAMS_MAX)] = field(default_factory=tuple)


def read_upstreams(text: str) -> tuple[UpstreamEntry, ...]:
    """The upstreams of a file, in its order.

    Raises:
        UpstreamFileError: it is not TOML, or says something that cannot be done.
    """
    try:
        found = convert(tomllib.loads(text), _File).upstream
    except tomllib.TOMLDecodeError as error:
        raise UpstreamFileError(f"it is not TOML: {error}") from None
    except ValidationError as error:
        raise UpstreamFileError(str(error)) from None
    names: set[str] = set()
    prefixes: set[str] = set()
    for entry in found:
        _check(entry)
        if entry.name in names:
            raise UpstreamFileError(f"there are two upstreams {entry.name!r}")
        if entry.prefix and entry.prefix in prefixes:
            raise UpstreamFileError(f"two upstreams have the prefix {entry.prefix!r}")
        names.add(entry.name)
        prefixes.add(entry.prefix)
    return found


def _check(entry: UpstreamEntry) -> None:
    where = f"upstream {entry.name!r}:"
    parts = urlsplit(entry.base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise UpstreamFileError(f"{where} base_url must be a URL with http:// or https://, without user and query")
    if entry.prefix and (not _PREFIX.fullmatch(entry.prefix) or entry.prefix.startswith(_RESERVED)):
        raise UpstreamFileError(f"{where} prefix must be a path like /groq, and none of the gate's own")
    if not entry.prefix and not entry.models and entry.kind == "openai":
        raise UpstreamFileError(f"{where} give it a prefix or models, else nothing goes there")
    if entry.key_env and entry.key_file:
        raise UpstreamFileError(f"{where} key_env or key_file, not both")

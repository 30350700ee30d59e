"""The settings read from the environment and `.env`, checked all at once, with where each came from.

A secret may also be given as `NAME_FILE`, the path of a file that holds it, as Kubernetes mounts secrets. An empty
variable counts as unset. No fault shows the value of a secret.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dotenv.parser import parse_stream
from pydantic import ValidationError

from tokengate.settings.fields import NAMES, SECRETS, Settings, default_data_dir
from tokengate.settings.kinds import READABLE
from tokengate.settings.words import MASK, allowed

ENV_FILE: Final = ".env"
FILE_BYTES_MAX: Final = 64 * 1024
"""The largest `.env` and the largest file with a secret."""


class SettingsError(ValueError):
    """The settings cannot be used; `faults` names each variable, its value (secrets masked) and what is allowed."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


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
        raise SettingsError([f"{variable}_FILE={path}: allowed is {READABLE.words}; {_reason(error)}"]) from None


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
    return MASK if name in SECRETS else str(values[name])


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

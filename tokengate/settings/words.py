"""Settings in words, for the people who set them: what one may be, and what one is.

A secret is never shown, nor the password in a URL.
"""

from typing import Final, Literal, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Le

from tokengate.domain import Mode, Period, Rate
from tokengate.money import format_usd
from tokengate.settings.fields import AMOUNTS, SECRETS, Settings
from tokengate.settings.kinds import RATE_UNITS_MS, Allowed

MASK: Final = "********"


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
        return MASK
    if name in AMOUNTS:
        return f"{format_usd(value)} USD"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Rate):
        unit = next(unit for unit, ms in RATE_UNITS_MS.items() if ms == value.per_ms)
        return f"{value.requests}/{unit} burst {value.burst}"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value)


def _either(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _without_password(url: str) -> str:
    """A URL for people: its password, and its query (redis-py takes a password there too), are left out."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    secret = f"{name}{colon}{MASK if colon else ''}"
    return f"{parts.scheme}://{secret}{at}{hosts}{parts.path}{f'?{MASK}' if parts.query else ''}"

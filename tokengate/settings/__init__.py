"""The settings: read from the environment and `.env`, checked all at once, and shown with their source.

`fields` lists them all, and is where one is added; `kinds` is what their values may be, `loading` reads them, and
`words` tells of them. Only what starts a process imports this package.
"""

from tokengate.settings.fields import AMOUNTS, NAMES, SECRETS, Settings
from tokengate.settings.kinds import PORT_MAX
from tokengate.settings.loading import ENV_FILE, FILE_BYTES_MAX, Loaded, SettingsError, load
from tokengate.settings.words import allowed, shown

__all__ = (
    "AMOUNTS",
    "ENV_FILE",
    "FILE_BYTES_MAX",
    "NAMES",
    "PORT_MAX",
    "SECRETS",
    "Loaded",
    "Settings",
    "SettingsError",
    "allowed",
    "load",
    "shown",
)

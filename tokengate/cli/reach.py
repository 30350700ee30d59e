"""How a command reaches what it acts on: the store that the settings name, or a gate's admin API (`--server`).

Either way it is one `Control`, and what goes wrong becomes a message and an exit code.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from tokengate.cli.say import Exit, fail, note

if TYPE_CHECKING:
    from tokengate.control import Control
    from tokengate.ledger.dial import Place
    from tokengate.settings import Loaded, Settings

SERVER: Final = "TOKENGATE_SERVER"
TOKEN: Final = "ADMIN_TOKEN"  # noqa: S105 - a name
TOKEN_BYTES_MAX: Final = 4096

T = TypeVar("T")

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar=SERVER,
        metavar="URL",
        help="Ask this gate's admin API, with the token in ADMIN_TOKEN, instead of the store.",
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Read the token for --server from this file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(environ: Mapping[str, str]) -> "Loaded":
    """The settings; or an end, with everything that is wrong with them."""
    from tokengate.settings import SettingsError, load

    try:
        return load(environ)
    except SettingsError as error:
        typer.echo("The settings cannot be used:", err=True)
        for fault in error.faults:
            typer.echo(f"  {fault}", err=True)
        raise typer.Exit(Exit.WRONG) from None


def run(
    act: "Callable[[Control], Awaitable[T]]", server: str | None, token_file: Path | None, *, endless: bool = False
) -> T:
    """Do something with a `Control`; what goes wrong is said, and ends the process.

    `endless`: that it is interrupted is how it ends.
    """
    from tokengate.control import ControlError, Denied, Invalid, Unknown

    async def work() -> T:
        async with opened(server, token_file) as control:
            return await act(control)

    try:
        return asyncio.run(work())
    except Unknown as error:
        fail(str(error), Exit.UNKNOWN)
    except Invalid as error:
        fail(str(error), Exit.WRONG)
    except Denied as error:
        fail(str(error), Exit.DENIED)
    except ControlError as error:
        fail(str(error), Exit.FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(Exit.DONE if endless else Exit.INTERRUPTED) from None


def who() -> str:
    """Who makes a change, for its event: `ann@laptop`."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container has numbers, and no names for them.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@asynccontextmanager
async def opened(server: str | None, token_file: Path | None) -> "AsyncIterator[Control]":
    """What an administrator can do, for as long as the block lasts."""
    if server is not None:
        # httpx brings a command of its own, which takes rich and pygments along.
        with without("click"):
            from tokengate.control.remote import RemoteControl

        async with RemoteControl(server, _token(token_file)) as remote:
            if remote.in_the_clear:
                note(f"the token goes to {remote.url} in the clear: use https where others could listen")
            yield remote
        return
    if token_file is not None:
        fail("--token-file is for --server; the store is found by REDIS_URL", Exit.WRONG)
    settings = settings_of(os.environ).settings
    if settings.redis_url is None and not (settings.data_dir / "store").exists():
        note(f"REDIS_URL is not set, and no gate has run here: {settings.data_dir} has no store yet")
    store = await _place(settings)
    from tokengate.composition import open_control

    try:
        async with open_control(settings, store, owner="cli") as control:
            yield control
    finally:
        await store.aclose()


async def _place(settings: "Settings") -> "Place":
    """Where the settings say that the ledger is, reached with as little as its URL allows."""
    from tokengate.ledger.dial import dial

    if settings.redis_url is not None and (direct := dial(settings.redis_url.get_secret_value())) is not None:
        return direct
    from tokengate.control import Unavailable

    with without("opentelemetry"):
        from tokengate.store import StoreError, open_store
    try:
        return await open_store(settings)
    except StoreError as error:
        raise Unavailable(str(error)) from None


@contextmanager
def without(package: str) -> Iterator[None]:
    """Import something as if a package were not installed that it would take along for metrics of its own."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def _token(file: Path | None) -> str:
    """The token: from the file that is named, else from the environment, as the gate itself reads it."""
    if file is None and (text := os.environ.get(TOKEN, "").strip()):
        return text
    path = file or os.environ.get(f"{TOKEN}_FILE", "").strip()
    if not path:
        fail(
            f"--server needs a token: set {TOKEN}, or name a file that has it (--token-file, {TOKEN}_FILE)", Exit.WRONG
        )
    try:
        with Path(path).open("rb") as opened:
            return opened.read(TOKEN_BYTES_MAX).decode().strip()
    except (OSError, ValueError) as error:
        fail(f"the token cannot be read from {path}: {error}", Exit.WRONG)

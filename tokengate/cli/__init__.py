"""The commands: thin skins over what the rest of TokenGate can do.

Start-up matters at a prompt: each command imports what it needs when it is called. Results go to standard output, what
went wrong to standard error; exit codes are 0 done, 1 could not be done, 2 wrong arguments or settings.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer

from tokengate import __version__
from tokengate.cli import inject, injector, pricing

if TYPE_CHECKING:
    from tokengate.control.local import LocalControl
    from tokengate.ledger import ScopeState
    from tokengate.settings import Loaded

T = TypeVar("T")

app = typer.Typer(
    name="tokengate",
    help="Hold LLM agents to hard spending budgets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(pricing.app, name="pricing")
app.add_typer(injector.app, name="injector")
app.command()(inject.inject)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"tokengate {__version__}")
        raise typer.Exit


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def serve(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
    """Run the gate until it is told to stop (--role, --host, --port, --simulate-without-key)."""
    from tokengate.server import main

    raise typer.Exit(main(arguments or []))


@app.command("replay", context_settings={"ignore_unknown_options": True, "help_option_names": []})
def replay_file(arguments: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
    """Say what a gate would have refused of the calls in a FILE (a gate's log, or JSONL), and what that had saved."""
    from tokengate.cli.replay import main

    raise typer.Exit(main(arguments or []))


@app.command("check-config")
def check_config(as_json: Json = False) -> None:
    """Print the effective settings and where each comes from; or everything that is wrong with them."""
    from tokengate.settings import NAMES, shown

    loaded = _settings()
    rows = [(name.upper(), shown(loaded.settings, name), loaded.sources[name]) for name in NAMES]
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for name, value, source in rows:
            typer.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}")
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)


@app.command("set-budget")
def set_budget(
    session: SessionId,
    usd: Annotated[str, typer.Argument(metavar="USD", help="The cap: 25, 25.00 or $25.")],
    as_json: Json = False,
) -> None:
    """Give a session a budget of its own."""
    from tokengate.money import AmountError, parse_usd

    try:
        cap_nano = parse_usd(usd)
    except AmountError as error:
        _fail(str(error), code=2)
    _print(_with_control(lambda control: control.set_budget(_name(session), cap_nano)), as_json=as_json)


@app.command("get-budget")
def get_budget(session: SessionId, as_json: Json = False) -> None:
    """Show a session's budget, what is spent of it and what is held."""
    _print(_with_control(lambda control: control.budget(_name(session))), as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check what a gate needs: settings, store, prices, provider. Nothing is changed, and nothing costs money."""
    from tokengate.cli.doctor import Mark, as_table, examine

    checks = asyncio.run(examine(os.environ))
    if as_json:
        typer.echo(json.dumps([check.as_json() for check in checks], indent=2))
    else:
        typer.echo(as_table(checks))
    if any(check.mark is Mark.FAILED for check in checks):
        raise typer.Exit(1)


@app.command("test-alert")
def test_alert() -> None:
    """Send a test alert to ALERT_WEBHOOK_URL, once, and say what became of it."""
    from tokengate.cli import alerts

    raise typer.Exit(alerts.test_alert(_settings().settings))


@app.command()
def simulate(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8001,
    seed: Annotated[int, typer.Option(help="What lengths, words and faulty requests are drawn from.")] = 0,
    output_tokens: Annotated[int | None, typer.Option(help="Every answer's length; default: log-normal.")] = None,
    median: Annotated[float, typer.Option(help="The median of the answers' lengths, in tokens.")] = 150.0,
    sigma: Annotated[float, typer.Option(help="The sigma of the answers' lengths.")] = 0.8,
    ttft_ms: Annotated[float, typer.Option(help="Milliseconds to the first token.")] = 0.0,
    tokens_per_second: Annotated[float, typer.Option(help="How fast an answer comes; 0: at once.")] = 0.0,
    loop_tools: Annotated[bool, typer.Option("--loop-tools", help="Call tools for ever.")] = False,
    fault: Annotated[str | None, typer.Option(help="How to misbehave: KIND or KIND:ARGUMENT.")] = None,
    fault_rate: Annotated[float, typer.Option(help="The share of requests that get the fault.")] = 1.0,
) -> None:
    """Run the simulated provider: OpenAI-shaped, free of charge, with faults on request."""
    from tokengate.simulate import Fault, SimulateOptions, run
    from tokengate.simulate.options import OptionError

    try:
        options = SimulateOptions(
            seed=seed,
            output_tokens=output_tokens,
            output_tokens_median=median,
            output_tokens_sigma=sigma,
            ttft_ms=ttft_ms,
            tokens_per_second=tokens_per_second,
            loop_tools=loop_tools,
            fault=Fault.parse(fault) if fault else None,
            fault_rate=fault_rate,
        )
    except OptionError as error:
        _fail(str(error), code=2)
    typer.echo(f"The simulated provider answers on http://{host}:{port}/v1", err=True)
    run(options, host, port)


@app.command()
def demo(
    budget: Annotated[str, typer.Option(help="The runaway agent's budget, in USD.")] = "1.00",
    calls: Annotated[int, typer.Option(min=1, max=10_000, help="How many calls it tries to make.")] = 100,
) -> None:
    """Watch a runaway agent being stopped at its budget (simulated provider, nothing is spent)."""
    from tokengate.demo import run
    from tokengate.money import AmountError, parse_usd

    try:
        cap_nano = parse_usd(budget)
    except AmountError as error:
        _fail(str(error), code=2)
    raise typer.Exit(run(cap_nano, calls))


def _settings() -> "Loaded":
    from tokengate.settings import SettingsError, load

    try:
        return load(os.environ)
    except SettingsError as error:
        typer.echo("The settings cannot be used:", err=True)
        for fault in error.faults:
            typer.echo(f"  {fault}", err=True)
        raise typer.Exit(2) from None


def _name(session: str) -> str:
    import re

    from tokengate.domain import NAME_CHARACTERS_MAX, NAME_PATTERN

    if re.fullmatch(NAME_PATTERN, session, re.ASCII) is None:
        _fail(
            f"{session!r} is no session id: 1 to {NAME_CHARACTERS_MAX} letters, digits or . _ : @ + = ~ - ,"
            " beginning with a letter or a digit",
            code=2,
        )
    return session


def _with_control(act: "Callable[[LocalControl], Awaitable[T]]") -> T:
    from tokengate.ledger import LedgerError
    from tokengate.store import StoreError

    async def work() -> T:
        async with _control() as control:
            return await act(control)

    try:
        return asyncio.run(work())
    except (LedgerError, StoreError) as error:
        _fail(f"the store cannot do that: {error}", code=1)


@asynccontextmanager
async def _control() -> "AsyncIterator[LocalControl]":
    from tokengate.app import open_ledger, policy_of
    from tokengate.control.local import LocalControl
    from tokengate.store import open_store

    settings = _settings().settings
    store = await open_store(settings)
    try:
        async with open_ledger(settings, store, owner="cli") as ledger:
            yield LocalControl(ledger, policy_of(settings), settings.tenant)
    finally:
        await store.aclose()


def _print(state: "ScopeState", *, as_json: bool) -> None:
    from tokengate.money import format_usd
    from tokengate.status import budget

    if as_json:
        typer.echo(json.dumps({"session_id": state.scope.name, **budget(state)}))
        return
    whose = "the default" if state.cap_is_default else "its own"
    typer.echo(f"session    {state.scope.name}" + ("" if state.known else "  (not seen yet)"))
    typer.echo(f"budget     ${format_usd(state.cap_nano)}  ({whose})")
    typer.echo(f"spent      ${format_usd(state.spent_nano)}")
    typer.echo(f"held       ${format_usd(state.held_nano)}")
    typer.echo(f"remaining  ${format_usd(state.remaining_nano)}")


def _fail(message: str, *, code: int) -> NoReturn:
    typer.echo(f"tokengate: {message}", err=True)
    raise typer.Exit(code)

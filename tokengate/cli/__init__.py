"""The commands: thin skins over what the rest of TokenGate can do.

Start-up matters at a prompt: each command imports what it needs when it is called. Results go to standard output, what
went wrong to standard error; `say.Exit` has the exit codes.
"""

import asyncio
import json
import os
from typing import Annotated

import typer

from tokengate import __version__
from tokengate.cli import budgets, events, export, inject, injector, pricing, sessions, spending, top
from tokengate.cli.reach import Json, settings_of
from tokengate.cli.say import Exit, fail

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
for panel, commands in (
    ("Sessions and budgets", (budgets.set_budget, budgets.get_budget, sessions.list_sessions, sessions.show_session)),
    ("Sessions and budgets", (sessions.freeze_session, sessions.unfreeze_session)),
    ("Sessions and budgets", (sessions.reset_session, sessions.delete_session)),
    ("Reports", (top.top, spending.spend, events.events, export.export)),
):
    for command in commands:
        # A negative amount is an amount that is refused as one, and no option.
        negative = {"ignore_unknown_options": command is budgets.set_budget}
        app.command(rich_help_panel=panel, context_settings=negative)(command)


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

    loaded = settings_of(os.environ)
    rows = [(name.upper(), shown(loaded.settings, name), loaded.sources[name]) for name in NAMES]
    if as_json:
        typer.echo(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2))
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        for name, value, source in rows:
            typer.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}")
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}", err=True)


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

    raise typer.Exit(alerts.test_alert(settings_of(os.environ).settings))


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
        fail(str(error), Exit.WRONG)
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
        fail(str(error), Exit.WRONG)
    raise typer.Exit(run(cap_nano, calls))

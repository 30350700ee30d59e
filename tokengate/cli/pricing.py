"""`tokengate pricing`: look a price up, check a price file before it is deployed, and rebuild it from its sources.

The commands read and write files and print; what a price is and what is wrong in a file is decided elsewhere.
"""

import json
import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tokengate.money import format_usd, usd_number
from tokengate.resources import pricing_file, pricing_overlay_file

if TYPE_CHECKING:
    from rich.table import Table

    from tokengate.prices import Price, Rates
    from tokengate.pricing import Lookup, PriceTable

app = typer.Typer(help="Prices: look one up, check a price file, rebuild it from its sources.", no_args_is_help=True)

STANDARD: Final = "standard"
TEXT_FIELDS: Final = ("input", "cached_input", "cache_write", "cache_write_long", "output")
"""Shown in one table; audio and images in another, so that both fit a terminal of 80 columns."""

FileOption = Annotated[
    Path | None,
    typer.Option("--file", envvar="PRICING_FILE", help="The price file; by default the one that TokenGate ships."),
]


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="The model, as a client names it.")],
    section: Annotated[str, typer.Option(help="The provider, as the price file calls it.")] = "openai",
    file: FileOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model costs, and how its name was resolved."""
    table = _load(file or pricing_file())
    lookup = table.lookup(model, section)
    if as_json:
        typer.echo(json.dumps(_as_json(model, lookup), indent=2))
    elif lookup.price is not None:
        _print(model, lookup, lookup.price)
    else:
        _complain(f"{model} has no price in the section {section}, so calls to it are refused.")
        _complain(f"Sections: {', '.join(sorted(table.sections))}. To add it, edit the price file: data/README.md.")
    if lookup.price is None:
        raise typer.Exit(1)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="The price file to check.")]) -> None:
    """Check a price file; list every fault with its line or its JSON path."""
    table = _load(file)
    models = sum(len({row.name for row in section.rows.values()}) for section in table.sections.values())
    typer.echo(f"{file}: {models} models in {len(table.sections)} sections, no faults")


@app.command()
def sync(
    out: Annotated[Path | None, typer.Option(help="The file to write; by default the shipped price file.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="The curated facts; by default the shipped ones.")] = None,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The day; by default today (UTC).")
    ] = None,
    left_out: Annotated[bool, typer.Option("--left-out", help="List the models that could not be priced.")] = False,
) -> None:
    """Rebuild the price file from genai-prices and the curated facts."""
    from tokengate.prices import PriceTableError
    from tokengate.pricesync import SyncError
    from tokengate.pricesync import sync as build

    day: date = as_of.date() if as_of is not None else datetime.now(UTC).date()
    try:
        target, facts = out or pricing_file(), overlay or pricing_overlay_file()
        synced = build(facts.read_bytes(), day)
    except ImportError as error:
        _complain("genai-prices is not installed: pip install 'tokengate[prices]'")
        raise typer.Exit(1) from error
    except PriceTableError as error:
        _complain(f"{facts}: {error}")
        raise typer.Exit(1) from error
    except (SyncError, OSError) as error:
        _complain(f"{error}")
        raise typer.Exit(1) from error
    _write(target, synced.text)
    _load(target)
    for omission in synced.left_out if left_out else ():
        typer.echo(f"left out {omission.section} {omission.model}: {omission.why}")
    typer.echo(
        f"{target}: {synced.models} models from genai-prices {synced.genai_prices} as of {day}; "
        f"{len(synced.left_out)} left out"
    )


def _load(file: Path) -> "PriceTable":
    """The table in a file, or every fault of it on stderr and exit code 1."""
    from tokengate.prices import PriceTableError
    from tokengate.pricing import PriceTable

    try:
        return PriceTable.parse(file.read_bytes())
    except OSError as error:
        _complain(f"{file}: {error.strerror}")
    except PriceTableError as error:
        for fault in error.faults:
            _complain(f"{file}: {fault}")
        _complain(f"{file}: {len(error.faults)} fault{'s' if len(error.faults) != 1 else ''}")
    raise typer.Exit(1)


def _write(target: Path, text: str) -> None:
    """Replace a file in one step, so that a gate that re-reads it never sees half of it."""
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        _complain(f"{target}: {error.strerror}")
        raise typer.Exit(1) from error


def _complain(message: str) -> None:
    typer.echo(message, err=True)


def _offers(price: "Price") -> "list[tuple[str, int, Rates]]":
    """Every set of rates of a price: (service tier, above so many input tokens, rates), the standard ones first."""
    tiers = [(STANDARD, price.brackets), *price.service_tiers]
    return [(name, bracket.above_tokens, bracket.rates) for name, brackets in tiers for bracket in brackets]


def _print(model: str, lookup: "Lookup", price: "Price") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tokengate.prices import PRICE_FIELDS

    console = Console(highlight=False, soft_wrap=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    facts.add_row("model", Text(f"{model} ({lookup.status}: {lookup.name}, section {price.section})"))
    if not price.billed_by:
        window = f"{price.context_tokens:,} tokens" if price.context_tokens is not None else "not known"
        facts.add_row("output", f"at most {price.output_tokens_max:,} tokens an answer")
        facts.add_row("context", window)
        facts.add_row("encoding", price.encoding or "none: text is counted by its bytes")
    for name, nano in price.fees:
        if name == price.billed_by:
            facts.add_row("price", f"{format_usd(nano)} USD a {name}")
        else:
            facts.add_row("fee", Text(f"{name}: {format_usd(nano)} USD a call"))
    facts.add_row("source", Text(f"{price.source} ({price.source_date})"))
    console.print(facts)
    if price.billed_by:
        return
    other_fields = tuple(name for name in PRICE_FIELDS if name not in TEXT_FIELDS)
    for fields in (TEXT_FIELDS, other_fields):
        offers = _offers(price)
        shown = [name for name in fields if any(getattr(rates, name) is not None for *_, rates in offers)]
        if shown:
            console.print(_price_table(offers, shown))


def _price_table(offers: "list[tuple[str, int, Rates]]", shown: list[str]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title="USD per million tokens", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("service tier")
    table.add_column("input above", justify="right")
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for tier, above, rates in offers:
        cells = [getattr(rates, name) for name in shown]
        table.add_row(
            Text(tier), f"{above:,}" if above else "", *("-" if nano is None else format_usd(nano) for nano in cells)
        )
    return table


def _as_json(model: str, lookup: "Lookup") -> dict[str, object]:
    from tokengate.prices import PRICE_FIELDS

    price = lookup.price
    if price is None:
        return {"model": model, "status": lookup.status}
    return {
        "model": model,
        "status": lookup.status,
        "name": lookup.name,
        "section": price.section,
        "context_tokens": price.context_tokens,
        "output_tokens_max": price.output_tokens_max,
        "encoding": price.encoding,
        "source": price.source,
        "source_date": price.source_date,
        "billed_by": price.billed_by or "token",
        "fees_usd": {name: usd_number(nano) for name, nano in price.fees},
        "prices_usd_per_million": []
        if price.billed_by
        else [
            {
                "service_tier": tier,
                "above_tokens": above,
                **{name: usd_number(nano) for name in PRICE_FIELDS if (nano := getattr(rates, name)) is not None},
            }
            for tier, above, rates in _offers(price)
        ],
    }

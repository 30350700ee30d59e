"""`tokengate demo`: a runaway agent, the official SDK, a real gate, and a provider that costs nothing.

Gate and provider are processes of their own in a directory of their own, as in production, and are gone when the demo
is. The agent is any agent that loops: it calls a tool for ever, its conversation grows with each call, and it takes no
refusal for an answer. What was overspent is not what the gate says of itself: it is the provider's own books, priced.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tokengate.domain import Usage
from tokengate.money import format_usd, parse_usd
from tokengate.pricing import PriceTable, cost
from tokengate.resources import pricing_file

if TYPE_CHECKING:
    from openai import OpenAI

MODEL: Final = "gpt-4o"
SESSION: Final = "runaway-agent"
TASK: Final = "Find the cheapest flight to Lisbon next week. Keep searching until there is nothing cheaper."
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "search_flights",
        "description": "Searches flights and returns the offers found so far.",
        "parameters": {
            "type": "object",
            "properties": {"destination": {"type": "string"}, "page": {"type": "integer"}},
            "required": ["destination", "page"],
        },
    },
}
OFFERS: Final = " ".join(
    f"A flight on {day} with one stop in {city} takes about half a day and costs nearly as much as the one before."
    for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
    for city in ("Madrid", "Paris", "Zurich")
)
"""What the tool finds: plain words, which the simulated provider counts as a tokenizer would."""

READY_S_MAX: Final = 20
STOP_S_MAX: Final = 15
CALL_S_MAX: Final = 20
GAP_S: Final = 0.02
"""The pause of the agent between two calls: enough for an eye to follow."""
ANSWER: Final = ("--loop-tools", "--seed", "1", "--ttft-ms", "40")


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do."""


@dataclass
class Tally:
    """What has happened so far; amounts in nano-USD."""

    requested: int = 0
    forwarded: int = 0
    blocked: int = 0
    spent_nano: int = 0
    saved_nano: int = 0
    refusal: str = ""


def run(cap_nano: int, calls: int) -> int:
    """Let the agent make `calls` calls on a budget of `cap_nano`; gives the exit code (1: overspent, or no demo)."""
    console = Console()
    try:
        from openai import OpenAI  # noqa: PLC0415 - not a dependency
    except ImportError:
        sys.stderr.write("The demo needs OpenAI's client: pip install 'tokengate[demo]'\n")
        return 1
    try:
        # A signal that ends the demo must end what it started, too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with _provider() as provider, _gate(provider, cap_nano) as gate:
            client = OpenAI(
                base_url=f"{gate}/v1",
                api_key="dummy-key",
                default_headers={"X-Session-ID": SESSION},
                timeout=CALL_S_MAX,
                max_retries=0,
            )
            with client:
                tally = _watch(console, client, cap_nano, calls)
            billed_nano = _billed(_get(f"{provider}/simulate/books"))
    except DemoError as error:
        sys.stderr.write(f"tokengate demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    overspent_nano = max(0, billed_nano - cap_nano)
    _report(console, tally, cap_nano, overspent_nano)
    return 1 if overspent_nano else 0


def _watch(console: Console, client: "OpenAI", cap_nano: int, calls: int) -> Tally:
    console.print(
        f"An agent in a loop may spend [bold]${format_usd(cap_nano)}[/bold]. It makes {calls} calls of {MODEL}.\n"
    )
    tally = Tally()
    columns = (
        TextColumn("spent [bold]${task.fields[spent]}[/bold]"),
        BarColumn(bar_width=28, complete_style="red", finished_style="red"),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("[green]{task.fields[forwarded]} forwarded[/green]  [red]{task.fields[blocked]} blocked[/red]"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=cap_nano, spent="0.0000", forwarded=0, blocked=0)
        for _ in _agent(client, tally, calls):
            progress.update(
                bar,
                completed=tally.spent_nano,
                spent=f"{tally.spent_nano / 1e9:.4f}",
                forwarded=tally.forwarded,
                blocked=tally.blocked,
            )
    return tally


def _agent(client: "OpenAI", tally: Tally, calls: int) -> Iterator[None]:
    """The runaway: asks, calls the tool it is told to call, asks again; once refused, asks again all the same."""
    import openai  # noqa: PLC0415 - not a dependency

    messages: list[Any] = [{"role": "user", "content": TASK}]
    for _ in range(calls):
        tally.requested += 1
        try:
            answer = client.chat.completions.with_raw_response.create(
                model=MODEL,
                messages=messages,
                tools=[TOOL],  # type: ignore[list-item]
            )
        except openai.APIStatusError as error:
            if error.code != "insufficient_quota":
                raise DemoError(f"an unexpected answer: {error}") from error
            body: Any = error.body
            tally.blocked += 1
            tally.refusal = body["message"]
            tally.saved_nano += parse_usd(f"{body['budget_info']['required']:.9f}")
        except openai.APIError as error:
            raise DemoError(f"a call failed: {error}") from error
        else:
            tally.forwarded += 1
            tally.spent_nano += parse_usd(answer.headers["x-tokengate-cost-usd"])
            message = answer.parse().choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            messages.extend(
                {"role": "tool", "tool_call_id": call.id, "content": OFFERS} for call in message.tool_calls or ()
            )
        yield
        time.sleep(GAP_S)


def _report(console: Console, tally: Tally, cap_nano: int, overspent_nano: int) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("requested", str(tally.requested), "calls that the agent tried to make")
    table.add_row("forwarded", str(tally.forwarded), "reached the provider")
    table.add_row("blocked", str(tally.blocked), "refused with 429 before they cost anything")
    table.add_row("budget", _dollars(cap_nano), "the session's cap")
    table.add_row("spent", _dollars(tally.spent_nano), "by what the provider reported")
    table.add_row("saved", _dollars(tally.saved_nano), "the blocked calls, at their estimates *")
    table.add_row("overspent", _dollars(overspent_nano), "the provider's own books, less the budget")
    console.print()
    if tally.refusal:
        console.print(f"The agent was told: [italic]{tally.refusal}[/italic]\n", highlight=False)
    console.print(table, highlight=False)
    console.print(
        "\n* An estimate is what the call needs: its input and a typical answer. Had the\n"
        "  calls been answered, the conversation would have grown: this is too little.",
        style="dim",
        highlight=False,
    )


def _dollars(nano: int) -> str:
    return f"${nano / 1e9:.4f}" if nano else "$0"


def _billed(books: Mapping[str, Any]) -> int:
    """What the provider would charge for all that it generated, in nano-USD."""
    price = PriceTable.parse(pricing_file().read_bytes()).lookup(MODEL).price
    if price is None:
        raise DemoError(f"{MODEL} is not in the shipped price table")
    total = books["total"]
    return cost(price, Usage(input_tokens=total["input_tokens"], output_tokens=total["output_tokens"]))


@contextlib.contextmanager
def _provider() -> Iterator[str]:
    port = _free_port()
    with _process(("simulate", "--port", str(port), *ANSWER), f"http://127.0.0.1:{port}/v1/models", {}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _gate(provider: str, cap_nano: int) -> Iterator[str]:
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="tokengate-demo-") as folder:
        settings = {
            "PORT": str(port),
            "OPENAI_BASE_URL": f"{provider}/v1",
            "DEFAULT_BUDGET": format_usd(cap_nano),
            "DATA_DIR": folder,
            # They would stop it at its eighth call; this is about its budget.
            **dict.fromkeys(("LOOPS", "TOOL_LOOPS", "GROWTH", "VELOCITY"), "off"),
        }
        with _process(("serve",), f"http://127.0.0.1:{port}/readyz", settings):
            yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _process(arguments: tuple[str, ...], url: str, settings: Mapping[str, str]) -> Iterator[None]:
    """A command of ours, from when it answers at `url` until the block ends. It sees none of the user's settings."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    kept["PYTHONPATH"] = str(Path(__file__).parents[1])
    with tempfile.TemporaryDirectory(prefix="tokengate-demo-") as folder, Path(folder, "log").open("wb+") as log:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "tokengate", *arguments],
            cwd=folder,
            env={**kept, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A Ctrl-C is for the demo, which then ends its processes in order.
            start_new_session=True,
        )
        try:
            _await_answer(process, url, log.name)
            yield
        finally:
            process.terminate()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_answer(process: "subprocess.Popen[bytes]", url: str, log: str) -> None:
    until = time.monotonic() + READY_S_MAX
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            _get(url)
            return
        time.sleep(0.05)
    raise DemoError(f"a process did not come up:\n{Path(log).read_text(errors='replace')}")


def _get(url: str) -> Any:  # noqa: ANN401 - whatever JSON is there
    # Straight, whatever HTTP_PROXY says: both ends are on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=CALL_S_MAX) as response:
        return json.load(response)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

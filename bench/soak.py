"""`python -m bench.soak`: minutes of everything at once, and then the books have to balance.

Two gates share a Redis; callers of all manners spend small budgets at a provider that misbehaves at random; Redis is
restarted and killed, and one gate is killed. In the end, for every session, what the ledger says was spent is what the
provider's books say, within what the ledger itself flags as assumed; nothing is held, leased or open, and the gate that
lived through it all is no larger than before. `SECONDS` (180) and `SEED` are taken from the environment.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

import psutil
import redis

from bench.client import control
from bench.figures import Figure, at_most, exactly, show, told
from bench.processes import (
    OTHER_CORE,
    READY_S_MAX,
    BenchError,
    answers,
    base_url,
    free_port,
    gate_command,
    gate_environment,
    stay_off_the_gates_core,
    stop,
    tool,
)
from bench.races import MODEL, provider
from bench.soakers import Kind, Seen, Sessions, kind_of, soaker
from tokengate.domain import Usage
from tokengate.money import format_usd, parse_usd
from tokengate.prices import Price
from tokengate.pricing import PriceTable, cost
from tokengate.resources import pricing_file

SECONDS: Final = 180
CALLERS: Final = 24
SESSIONS: Final = 3
"""Of each kind, at a time."""
SESSIONS_MAX: Final = 1000
"""Below what the provider's books keep apart."""
BUDGET_NANO: Final = 15_000_000
"""Some 120 answers."""
LEASE_S: Final = 5
SETTLED_S_MAX: Final = 40.0
OVERTIME_S_MAX: Final = 120
"""How much longer than it loads the whole of it may take."""
WARM: Final = 0.3
"""The part of the time after which the gate is taken to be as large as it should be."""
GROWTH_MAX: Final = 1.10
UNSEEN_TOKENS_MAX: Final = 150
"""What a provider may generate, on a loaded machine, between the last token that reached the gate and the moment at
which it sees the connection close; it bills that, and nobody else can know of it. In tokens for each stream cut off."""

FAULTY: Final = ("Traceback", "never retrieved", "was destroyed", "never awaited", "within the gate", "ResourceWarning")
"""What may not stand in the log of a gate."""


class Process:
    """A server that can be killed and started again with the same command; what it printed is kept."""

    def __init__(
        self, folder: Path, name: str, command: list[str], port: int, env: dict[str, str] | None = None
    ) -> None:
        self.port = port
        self.log = folder / f"{name}.log"
        self._name, self._command, self._env, self._folder = name, command, env, folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            raise BenchError(f"{self._name} was not started")
        return self._process

    def start(self, ready_path: str | None = None) -> None:
        with self.log.open("ab") as log:
            pinned = [tool("taskset"), "-c", str(OTHER_CORE), *self._command] if self._env is None else self._command
            self._process = subprocess.Popen(pinned, stdout=log, stderr=log, env=self._env, cwd=self._folder)
        deadline = time.monotonic() + READY_S_MAX
        while not answers(self.port, ready_path):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self._name} did not come up:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def end(self) -> int:
        """Stop it kindly; gives its exit code."""
        stop(self.running)
        return self.running.returncode


@dataclass(frozen=True, slots=True)
class Size:
    """How much of the machine a gate has."""

    rss_mb: float
    files: int
    """Open files, without the connections to the provider and to Redis that it keeps on purpose."""
    callers: int
    """Connections of callers."""

    @classmethod
    def of(cls, gate: Process, *kept_ports: int) -> "Size":
        process = psutil.Process(gate.running.pid)
        connections = process.net_connections()
        kept = sum(bool(each.raddr) and each.raddr.port in kept_ports for each in connections)
        callers = sum(bool(each.raddr) and each.laddr.port == gate.port for each in connections)
        return cls(process.memory_info().rss / 2**20, process.num_fds() - kept, callers)


@dataclass(frozen=True, slots=True)
class Account:
    """One session as the ledger and the provider's books have it, in nano-USD."""

    kind: Kind
    spent: int
    assumed: int
    overrun: int
    held: int
    billed: int
    cut: int
    """How many answers the provider began and did not finish."""

    @property
    def unseen(self) -> int:
        """What the provider billed beyond what was charged."""
        return max(0, self.billed - self.spent)

    @property
    def overcharged(self) -> int:
        """What was charged beyond what the provider billed and was not flagged as assumed."""
        return max(0, self.spent - self.assumed - self.billed)


def _redis_command(folder: Path, port: int) -> list[str]:
    command = [tool("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    # Each write is on disk before it is answered, so that a kill loses nothing that anybody was told.
    return [*command, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]


def _gate(folder: Path, name: str, upstream: str, redis_url: str) -> Process:
    port = free_port()
    own = {"DEFAULT_BUDGET": format_usd(BUDGET_NANO), "HOLD_LEASE_S": str(LEASE_S), "BUSY_WAIT_MS": "3000"}
    own |= {"UPSTREAM_READ_TIMEOUT_S": "3", "DATA_DIR": str(folder / name)}
    env = gate_environment(upstream, redis_url, port, **own) | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    return Process(folder, name, gate_command(), port, env)


async def _disrupt(store: Process, victim: Process, seconds: float) -> None:
    """Restart Redis, kill a gate, kill Redis."""
    await asyncio.sleep(seconds * 0.4)
    store.end()
    await asyncio.to_thread(store.start)
    await asyncio.sleep(seconds * 0.15)
    victim.kill()
    await asyncio.to_thread(victim.start, "/readyz")
    await asyncio.sleep(seconds * 0.15)
    store.kill()
    await asyncio.to_thread(store.start)


async def _load(gates: list[Process], sessions: Sessions, seen: Seen, seed: int, seconds: float) -> Size:
    """Everything at once; gives the size of the first gate when it was warm."""
    until = asyncio.get_running_loop().time() + seconds
    ports = [gate.port for gate in gates]
    async with asyncio.TaskGroup() as tasks:
        for number in range(CALLERS):
            tasks.create_task(soaker(ports, sessions, seen, Random(seed * 1000 + number), until))
        await asyncio.sleep(seconds * WARM)
        return Size.of(gates[0])


async def _until_settled(store: "redis.Redis") -> tuple[int, int]:
    """Wait until no hold has a lease; gives how many have one and how many are held in the end."""
    deadline = time.monotonic() + SETTLED_S_MAX
    while True:
        leases = int(store.zcard("tokengate:{default}:leases"))
        if not leases or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.25)
    keys: Any = store.scan_iter("tokengate:{default}:hold:*", count=1000)
    return leases, sum(store.hget(key, "state") == "held" for key in keys)


def _accounts(store: "redis.Redis", users: dict[str, dict[str, int]], names: list[str], price: Price) -> list[Account]:
    found = []
    for name in names:
        fields: Any = store.hgetall(f"tokengate:{{default}}:session:{name}")
        user = users.get(name, {"input_tokens": 0, "output_tokens": 0, "cut": 0})
        billed = cost(price, Usage(input_tokens=user["input_tokens"], output_tokens=user["output_tokens"]))
        spent, assumed, overrun, held = (
            parse_usd(fields.get(field, "0")) for field in ("spent", "assumed", "overrun", "held")
        )
        found.append(Account(kind_of(name), spent, assumed, overrun, held, billed, user["cut"]))
    return found


def _money(accounts: list[Account], output_nano: int) -> list[Figure]:
    unseen_nano_max = UNSEEN_TOKENS_MAX * output_nano
    figures: list[Figure] = []
    for kind in Kind:
        of_kind = [each for each in accounts if each.kind is kind]
        exact = [each for each in of_kind if not each.assumed]
        short = [each for each in of_kind if each.unseen > each.cut * unseen_nano_max]
        above = [each for each in of_kind if each.spent - each.overrun > BUDGET_NANO]
        figures += [
            told(f"{kind}: sessions", len(of_kind), ""),
            told("  billed by the provider", sum(each.billed for each in of_kind), "nano-USD"),
            told("  charged by the ledger", sum(each.spent for each in of_kind), "nano-USD"),
            told("  of which assumed", sum(each.assumed for each in of_kind), "nano-USD"),
            told("  sessions with nothing assumed", len(exact), ""),
            exactly("    charged other than billed", sum(each.spent != each.billed for each in exact), "sessions", 0),
            exactly(
                "  charged more than billed and assumed", sum(each.overcharged > 0 for each in of_kind), "sessions", 0
            ),
            exactly("  charged less than billed, unexplained", len(short), "sessions", 0),
            exactly("  above their budget by more than overrun", len(above), "sessions", 0),
            exactly("  with an amount still held", sum(each.held > 0 for each in of_kind), "sessions", 0),
        ]
        if kind is Kind.LEFT:
            figures += [
                told("  streams that were cut off", sum(each.cut for each in of_kind), ""),
                told("  billed, but generated when nobody listened", sum(each.unseen for each in of_kind), "nano-USD"),
            ]
    return figures


def _machine(warm: Size, after: Size, before: Size, gates: list[Process], codes: list[int]) -> list[Figure]:
    text = "".join(gate.log.read_text(errors="replace") for gate in gates)
    return [
        told("memory of the gate that was not killed, warm", warm.rss_mb, "MB"),
        at_most("  after / warm", after.rss_mb / warm.rss_mb, "", GROWTH_MAX),
        at_most("  open files, after less before", after.files - before.files, "", 0),
        exactly("  connections of callers, after", after.callers, "", 0),
        exactly("  faults in the logs of the gates", sum(text.count(fault) for fault in FAULTY), "", 0),
        exactly("  gates that did not end in order", sum(bool(code) for code in codes), "", 0),
    ]


def soak(seconds: float, seed: int) -> list[Figure]:
    """The whole of it; the figures say what is off."""
    price = PriceTable.parse(pricing_file().read_bytes()).lookup(MODEL).price
    if price is None:
        raise BenchError(f"{MODEL} has no price")
    seen, sessions = Seen(), Sessions(SESSIONS, SESSIONS_MAX)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-soak-")))
        books = stack.enter_context(provider(seed=seed, ttft_ms=20, tokens_per_second=1000))
        redis_port = free_port()
        store = Process(folder, "redis", _redis_command(folder, redis_port), redis_port)
        store.start()
        stack.callback(store.end)
        redis_url = f"redis://127.0.0.1:{redis_port}/0"
        gates = [_gate(folder, name, base_url(books), redis_url) for name in ("stays", "victim")]
        for gate in gates:
            gate.start("/readyz")
            stack.callback(gate.end)
        before = Size.of(gates[0], books, redis_port)

        async def everything() -> tuple[Size, dict[str, Any], tuple[int, int]]:
            disruption = asyncio.create_task(_disrupt(store, gates[1], seconds))
            warm = await _load(gates, sessions, seen, seed, seconds)
            await disruption
            left = await _until_settled(client)
            return warm, await control(books, "GET", "/simulate/books"), left

        client = stack.enter_context(redis.Redis.from_url(redis_url, decode_responses=True))
        warm, found, (leases, held) = asyncio.run(everything())
        after = Size.of(gates[0], books, redis_port)
        accounts = _accounts(client, found["users"], sessions.names, price)
        codes = [gate.end() for gate in gates]
        figures = _machine(warm, after, before, gates, codes)
    output_nano = cost(price, Usage(output_tokens=1))
    print(f"seed {seed}; statuses {dict(seen.statuses)}; manners {dict(seen.manners)}", flush=True)
    return [
        told("requests", sum(seen.manners.values()), ""),
        told("  with a fault of the provider", sum(seen.faults.values()) - seen.faults["none"], ""),
        *_money(accounts, output_nano),
        exactly("leases left", leases, "", 0),
        exactly("holds left", held, "", 0),
        exactly("requests that the provider still serves", found["concurrent"], "", 0),
        *figures,
    ]


def _took_too_long(_signal: int, _frame: object) -> None:
    faulthandler.dump_traceback(all_threads=True)
    raise BenchError("the soak did not come to its end; where it was is above")


def main() -> int:
    stay_off_the_gates_core()
    seconds, seed = float(os.environ.get("SECONDS", SECONDS)), int(os.environ.get("SEED", int(time.time()) % 100_000))
    signal.signal(signal.SIGALRM, _took_too_long)
    signal.alarm(int(seconds) + OVERTIME_S_MAX)
    figures = soak(seconds, seed)
    show("soak", figures)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())

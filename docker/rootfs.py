# ruff: noqa: INP001 - a program, not a module
"""Gather the files that the image needs, and no others, in a directory that becomes its root.

Run by the Python of the virtual environment that is to be shipped, in the stage that built it. What is needed is found,
not listed: the interpreter and its standard library, the virtual environment, and every shared library that any of them
is linked with. So it works for any base with Python and glibc, and any processor. Debian's record of each package that
a file came from is kept, because scanners and bills of materials go by it.
"""

import compileall
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

USER: Final = 65532
HOME: Final = "/var/lib/tokengate"
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
ENVIRONMENT: Final = Path("/opt/tokengate")

UNNEEDED: Final = frozenset(
    {
        "__pycache__",
        "__phello__",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "sitecustomize.py",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    }
)
"""Parts of the standard library that nothing here imports: a package installer, tests, desktop programs."""

EXTENSIONS: Final = re.compile(r"(_curses|_curses_panel|_dbm|_gdbm|_tkinter|nis|ossaudiodev|readline)\..*")
"""Modules of the standard library that would bring libraries with them: for terminals, old databases, name services."""

SOURCES: Final = frozenset({".a", ".c", ".cpp", ".h", ".pxd", ".pyi", ".pyx"})
"""What is only for building against, or for checking types."""

PROGRAMS: Final = ("/usr/sbin/nft",)
"""Sets the rules that keep an agent's traffic in its pod (docker/egress.nft). Without privileges it can do nothing."""

DIRECTORIES: Final = re.compile(r"config-.*|dist-packages|site-packages")
"""Of the interpreter's library directory: what is for building against it, and the base's own packages."""

LOADED_BY_NAME: Final = ("libgcc_s.so.1",)
"""glibc opens it when a thread is cancelled; no file is linked with it."""


def library() -> Iterator[Path]:
    """The files of the standard library."""
    places = dict.fromkeys(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    for place in places:
        for path in place.rglob("*"):
            inside = path.relative_to(place).parts
            skipped = UNNEEDED.intersection(inside) or any(map(DIRECTORIES.fullmatch, inside[:1]))
            if path.is_file() and not skipped and path.suffix not in SOURCES and not EXTENSIONS.fullmatch(path.name):
                yield path


def environment() -> Iterator[Path]:
    """The files of the virtual environment: packages, and the one command."""
    for path in ENVIRONMENT.rglob("*"):
        script = path.parent == ENVIRONMENT / "bin" and not path.name.startswith(("python", "tokengate"))
        unneeded = script or "__pycache__" in path.parts or path.suffix in SOURCES
        if (path.is_file() or path.is_symlink()) and not unneeded:
            yield path


def linked(paths: list[Path]) -> set[Path]:
    """The shared libraries that these are linked with, however far, and the loader.

    Raises:
        SystemExit: one cannot be found.
    """
    text = ""
    for path in paths:
        done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        text += done.stdout
    if missing := re.findall(r"(\S+) => not found", text):
        sys.exit(f"libraries are missing: {', '.join(sorted(set(missing)))}")
    found = {Path(place) for place in re.findall(r"(/\S+) \(0x", text)}
    for directory in {path.parent for path in found}:
        found |= {directory / name for name in LOADED_BY_NAME if (directory / name).exists()}
    if not found:
        sys.exit("ldd named no library: is this not glibc?")
    return found


def links(path: Path) -> Iterator[Path]:
    """The symbolic links on the way to a file, and what they lead to."""
    yield path
    while path.is_symlink():
        path = path.parent / path.readlink()
        yield path


def put(path: Path, root: Path) -> None:
    """Copy a file to the same place below the root; links stay links."""
    # Directories that are links (/lib) are links in the root as well.
    target = root / path.parent.resolve().relative_to("/") / path.name
    if not target.exists() and not target.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def skeleton(root: Path) -> None:
    """The directories and the few files of /etc that any process expects."""
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            root.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(Path("/", name).readlink())
    for name, mode in (
        ("tmp", 0o1777),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("dev", 0o755),
        ("run", 0o755),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    home = root / HOME.lstrip("/")
    home.mkdir(parents=True)
    home.chmod(0o700)
    shutil.chown(home, USER, USER)
    etc = root / "etc"
    (etc / "passwd").write_text(
        f"root:x:0:0:root:/:/sbin/nologin\ntokengate:x:{USER}:{USER}:TokenGate:{HOME}:/sbin/nologin\n"
    )
    (etc / "group").write_text(f"root:x:0:\ntokengate:x:{USER}:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    shutil.copy2("/etc/os-release", etc / "os-release")
    (etc / "ssl" / "certs").mkdir(parents=True)
    shutil.copy2(CERTIFICATES, etc / "ssl" / "certs")


def packages(paths: set[Path], root: Path) -> None:
    """Keep the record and the licence of each Debian package that a file came from."""
    if not shutil.which("dpkg-query"):
        return
    names = {str(each) for path in paths for each in (path, path.resolve())} | {str(CERTIFICATES)}
    # A library is owned by the path that its package gave, which may be the one from before /lib became a link.
    names |= {name.removeprefix("/usr") for name in names if name.startswith("/usr/lib")}
    owners = {"ca-certificates"}
    command = ["dpkg-query", "--search", *sorted(names)]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():  # noqa: S603
        owners |= {name.strip() for name in line.partition(": ")[0].split(",")}
    records = root / "var" / "lib" / "dpkg" / "status.d"
    records.mkdir(parents=True)
    for owner in sorted(owners):
        name = owner.partition(":")[0]
        shown = subprocess.run(["dpkg-query", "--status", owner], capture_output=True, text=True, check=True)  # noqa: S603, S607
        (records / name).write_text(shown.stdout)
        licence = Path("/usr/share/doc", name, "copyright")
        if licence.is_file():
            (root / "usr" / "share" / "doc" / name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(licence, root / "usr" / "share" / "doc" / name / "copyright")


def main(root: Path) -> None:
    """Fill the directory, which must not exist."""
    skeleton(root)
    interpreter = Path(sys.executable)
    files = {*library(), *environment(), *links(interpreter), *map(Path, PROGRAMS)}
    native = [interpreter.resolve(), *map(Path, PROGRAMS), *(path for path in files if ".so" in path.suffixes)]
    libraries = {link for path in linked(native) for link in links(path)}
    for path in sorted(files | libraries):
        put(path, root)
    packages(files | libraries, root)
    # Compiled once, since nothing can be written later; nobody looks whether the sources have changed.
    for place in (*sysconfig.get_paths(vars={"base": sys.base_prefix}).values(), str(ENVIRONMENT / "lib")):
        below = root / place.lstrip("/")
        if below.is_dir():
            compileall.compile_dir(
                below,
                maxlevels=20,
                quiet=2,
                stripdir=str(root),
                prependdir="/",
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    size = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    print(f"{size / 1e6:.1f} MB, {len(native)} programs and extensions, {len(libraries)} libraries")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A certificate authority of our own, and a certificate by it for 127.0.0.1 and provider.example, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_EXTENSIONS = "subjectAltName=DNS:localhost,DNS:provider.example,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Certificates:
    authority: Path
    certificate: Path
    key: Path


def make(folder: Path) -> Certificates:
    ca, ca_key, cert, key = (folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.key"))
    (folder / "extensions").write_text(_EXTENSIONS)
    _openssl(
        *("req", "-x509", *_NEW_KEY, "-days", "2", "-subj", "/CN=Test authority", "-keyout", ca_key, "-out", ca),
        *("-addext", "basicConstraints=critical,CA:TRUE"),
    )
    _openssl("req", *_NEW_KEY, "-subj", "/CN=localhost", "-keyout", key, "-out", folder / "server.csr")
    _openssl(
        *("x509", "-req", "-in", folder / "server.csr", "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-days", "2", "-extfile", folder / "extensions", "-out", cert),
    )
    return Certificates(ca, cert, key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

"""Files that are read again when they change: the certificate and the policy, which Kubernetes swaps in a running pod.

What cannot be used is reported once and the former stays; a file that will be there in a moment is waited for.
"""

import hashlib
import ssl
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from tokengate.injector.certificates import expires

FILE_BYTES_MAX: Final = 256 * 1024
CERTIFICATE_FILES: Final = ("tls.crt", "tls.key")

T = TypeVar("T")

log = structlog.get_logger()


class Reading(Generic[T]):
    """Files, and what `take` made of them; it raises ValueError or OSError where it cannot."""

    def __init__(self, what: str, files: tuple[Path, ...], take: Callable[[tuple[bytes, ...]], T]) -> None:
        self.what = what
        self.value: T | None = None
        self._files = files
        self._take = take
        self._seen = b""

    def again(self) -> bool | None:
        """Look at the files: True, they were taken; False, they could not be; None, they are the same as before."""
        try:
            contents = tuple(_read(file) for file in self._files)
        except ValueError as error:
            return self._refused(str(error), str(error).encode())
        digest = hashlib.sha256(b"\0".join(contents)).digest()
        if digest == self._seen:
            return None
        try:
            self.value = self._take(contents)
        except (OSError, ValueError) as error:
            return self._refused(str(error), digest)
        self._seen = digest
        log.info("read", what=self.what)
        return True

    def _refused(self, why: str, digest: bytes) -> bool | None:
        if digest == self._seen:
            return None
        self._seen = digest
        log.error("cannot be used", what=self.what, error=why, former="stays" if self.value else "there is none")
        return False


class Certificate:
    """A TLS context for which a certificate can be changed while it serves: connections that are made then have it."""

    def __init__(self) -> None:
        self.context = _context()

    def take(self, contents: tuple[bytes, ...]) -> datetime:
        """Serve with this certificate and this key from now on; gives when it ends.

        Raises:
            ValueError: they cannot be used.
        """
        certificate, key = contents
        ends = expires(certificate)
        with tempfile.TemporaryDirectory(prefix="tokengate-") as folder:
            # OpenSSL reads files only. A copy, so that both are of one moment, whatever happens to the originals.
            pair = Path(folder) / "pair.pem"
            pair.touch(mode=0o600)
            pair.write_bytes(certificate + b"\n" + key)
            try:
                # First where it does no harm: half of a pair that does not match would end what is serving.
                _context().load_cert_chain(str(pair))
                self.context.load_cert_chain(str(pair))
            except ssl.SSLError as error:
                raise ValueError(f"OpenSSL does not take it: {error.reason or error}") from None
        return ends


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise ValueError(f"{file} has more than {FILE_BYTES_MAX} bytes")
    return content

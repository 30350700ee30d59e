"""The page for people: hand-written HTML, CSS and JavaScript, served from memory as they are in the package.

The assets are under a path with their digest, so that browsers keep them for good, and never mix those of two versions.
The policy of the page allows its own files and nothing else: no code in its markup, no other host, no markup made from
text. It knows neither sessions nor budgets: the page asks the admin API.
"""

import gzip
import hashlib
from pathlib import Path
from typing import Final

from msgspec import Struct

from tokengate.inbound import ASGIScope, Send

PATH: Final = "/dashboard"
ASSETS: Final = f"{PATH}/assets/"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

TYPES: Final = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_PAGE_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cache-control", b"no-store"),
)
_ASSET_HEADERS: Final = ((b"cache-control", b"public, max-age=31536000, immutable"),)


class Asset(Struct, frozen=True):
    """A file, as it is and compressed."""

    type: bytes
    plain: bytes
    zipped: bytes


class Dashboard:
    """The page. Its files are read once, when it is made."""

    def __init__(self) -> None:
        folder = Path(__file__).parent / "assets"
        files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.suffix in TYPES}
        digest = hashlib.sha256(b"".join(files.values())).hexdigest()[:16]
        self._base = f"{ASSETS}{digest}/"
        pages = {name: data for name, data in files.items() if name.endswith(".html")}
        self._assets = {name: _asset(name, data) for name, data in files.items() if name not in pages}
        self._pages = {
            name: _asset(name, data.replace(b"@assets/", self._base.encode())) for name, data in pages.items()
        }

    async def __call__(self, scope: ASGIScope, send: Send, known: bool) -> None:
        """Answer a request below `PATH`; `known`: it brings a session, so that it need not be shown the login."""
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            await _say(send, 405, b"Only GET is for this path.", ((b"allow", b"GET, HEAD"),))
        elif path.rstrip("/") == PATH:
            page = self._pages["index.html" if known else "login.html"]
            await _send(scope, send, page, (*_HEADERS, *_PAGE_HEADERS))
        elif path.startswith(self._base) and (asset := self._assets.get(path.removeprefix(self._base))) is not None:
            await _send(scope, send, asset, (*_HEADERS, *_ASSET_HEADERS))
        else:
            await _say(send, 404, b"There is no such page; the dashboard is at " + PATH.encode() + b".")


def _asset(name: str, data: bytes) -> Asset:
    return Asset(TYPES[Path(name).suffix], data, gzip.compress(data, mtime=0))


async def _send(scope: ASGIScope, send: Send, asset: Asset, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    zips = any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"])
    body = asset.zipped if zips else asset.plain
    head = [(b"content-type", asset.type), (b"content-length", b"%d" % len(body)), (b"vary", b"accept-encoding")]
    if zips:
        head.append((b"content-encoding", b"gzip"))
    await send({"type": "http.response.start", "status": 200, "headers": [*head, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


async def _say(send: Send, status: int, text: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    head = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(text)),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*head, *_HEADERS, *headers]})
    await send({"type": "http.response.body", "body": text})

"""What a port speaks, when it does not speak what its URL says: so that a wrong scheme is named, not waited for."""

import asyncio
import contextlib
import ssl
from typing import Final

LISTEN_S: Final = 5
"""How long a port may take to say what it is."""


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a TLS handshake gets through; nobody's certificate matters."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return await _opens(host, port, context)


async def speaks_plain(host: str, port: int) -> bool:
    """Whether it answers a Redis command in the clear, be it with an error."""
    return await _opens(host, port, None)


async def _opens(host: str, port: int, tls: ssl.SSLContext | None) -> bool:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(LISTEN_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            try:
                if tls is not None:
                    return True
                writer.write(b"PING\r\n")
                return await reader.readexactly(1) in (b"+", b"-")
            finally:
                writer.close()
    return False

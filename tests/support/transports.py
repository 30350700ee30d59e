"""httpx's fakes where the way to the provider would be: `MockTransport`, and through it a respx router."""

from collections.abc import AsyncIterator
from typing import cast

import httpx

from tokengate.upstream import ConnectFailed, Headers, UpstreamLost, UpstreamTimeout


class HttpxTransport:
    """Any `httpx.AsyncBaseTransport` as a `tokengate.upstream.Transport`.

    For respx: `HttpxTransport(httpx.MockTransport(router.async_handler))`.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> "HttpxStream":
        request = httpx.Request(method, url, headers=list(headers), content=body)
        try:
            return HttpxStream(await self._inner.handle_async_request(request))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            raise ConnectFailed(str(error)) from error
        except httpx.TimeoutException as error:
            raise UpstreamTimeout(str(error)) from error
        except httpx.TransportError as error:
            raise UpstreamLost(str(error)) from error

    async def aclose(self) -> None:
        await self._inner.aclose()


class NoTransport:
    """The way of what is never sent."""

    async def send(self, method: str, url: str, headers: Headers, body: bytes) -> "HttpxStream":
        raise ConnectFailed("nothing is sent here")

    async def aclose(self) -> None:
        return


class HttpxStream:
    """An `httpx.Response` as a `tokengate.upstream.Response`."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = [(name.lower(), value) for name, value in response.headers.raw]
        self.closed = False
        self.ended = False
        self._response = response
        self._chunks: AsyncIterator[bytes] = aiter(cast("httpx.AsyncByteStream", response.stream))

    async def read(self) -> bytes | None:
        if self.closed:
            raise UpstreamLost("the answer was closed before its end")
        try:
            chunk = await anext(self._chunks, None)
        except httpx.TimeoutException as error:
            raise UpstreamTimeout(str(error)) from error
        except httpx.TransportError as error:
            raise UpstreamLost(str(error)) from error
        self.ended = chunk is None
        return chunk

    async def aclose(self) -> None:
        self.closed = True
        await self._response.aclose()

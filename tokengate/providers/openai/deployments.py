"""Azure's form of the API, in which the model is a deployment that the path names.

By https://learn.microsoft.com/azure/ai-services/openai/reference. What is priced must be what is run, so the body may
name no other.
"""

import re
from typing import Final

from tokengate.providers import NO_HEAD, Endpoint, Head, MalformedRequest, Request

_DEPLOYMENT: Final = re.compile(rb"/deployments/([A-Za-z0-9][A-Za-z0-9._-]{0,127})/", re.ASCII)


class Deployed:
    """An endpoint under a deployment."""

    def __init__(self, inner: Endpoint) -> None:
        self.name: str = inner.name
        self._inner = inner

    def parse(self, body: bytes, head: Head = NO_HEAD) -> Request:
        match = _DEPLOYMENT.search(head.raw_path)
        if match is None:
            raise MalformedRequest("The path must name a deployment: /openai/deployments/NAME/...", "model")
        request, name = self._inner.parse(body, head), match[1].decode()
        if request.call.model != name:
            raise MalformedRequest(f"model must be {name!r}, the deployment in the path.", "model")
        return request

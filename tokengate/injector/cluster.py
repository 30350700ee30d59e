"""The API server, as a pod speaks to it: by the files of its ServiceAccount, and for nothing but what rotation needs.

The token is read anew for every request, as the kubelet renews it. A fault of a moment is tried again, within bounds.
"""

import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

TIMEOUT_S: Final = 10.0
ATTEMPTS_MAX: Final = 5
PAUSE_S: Final = 1.0
"""Between two attempts; twice as long after each."""
MESSAGE_CHARACTERS_MAX: Final = 500

_PASSING: Final = frozenset({429, 500, 502, 503, 504})


class ClusterError(Exception):
    """The API server cannot be reached, or refused; `status` is 0 if it did not answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Cluster:
    """See the module."""

    def __init__(self, url: str, folder: Path, pause: Callable[[float], None] = time.sleep) -> None:
        self._token = folder / "token"
        self._pause = pause
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            self.namespace = (folder / "namespace").read_text().strip()
        except OSError as error:
            raise ClusterError(f"{folder} has no files of a ServiceAccount: {error.strerror}") from None
        self._client = httpx.Client(base_url=url, verify=context, timeout=TIMEOUT_S, trust_env=False)

    @classmethod
    def of_this_pod(cls, environ: Mapping[str, str], folder: Path) -> "Cluster":
        """The cluster that this process runs in (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).

        Raises:
            ClusterError: it runs in none.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ClusterError("KUBERNETES_SERVICE_HOST is not set: this runs in a pod")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", folder)

    def get(self, path: str) -> dict[str, Any] | None:
        """An object; None if there is none.

        Raises:
            ClusterError: it could not be got.
        """
        try:
            return self._ask("GET", path)
        except ClusterError as error:
            if error.status == 404:
                return None
            raise

    def create(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make an object in a collection.

        Raises:
            ClusterError: it could not be made; status 409 if there is one.
        """
        return self._ask("POST", path, manifest)

    def replace(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Put an object in the place of the one with its `resourceVersion`.

        Raises:
            ClusterError: it could not be done; status 409 if it has another version by now.
        """
        return self._ask("PUT", path, manifest)

    def patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        """Change an object by JSON Patch.

        Raises:
            ClusterError: it could not be done; status 422 if a `test` failed.
        """
        return self._ask("PATCH", path, operations)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                return self._once(method, path, body)
            except ClusterError as error:
                if attempt == ATTEMPTS_MAX or (error.status and error.status not in _PASSING):
                    raise
                self._pause(PAUSE_S * 2 ** (attempt - 1))
        raise AssertionError("not reached")

    def _once(self, method: str, path: str, body: object) -> dict[str, Any]:
        kind = "application/json-patch+json" if method == "PATCH" else "application/json"
        try:
            token = self._token.read_text().strip()
            headers = {"authorization": f"Bearer {token}", "accept": "application/json", "content-type": kind}
            answer = self._client.request(method, path, json=body, headers=headers)
        except OSError as error:
            raise ClusterError(f"{self._token}: {error.strerror}") from None
        except httpx.HTTPError as error:
            raise ClusterError(f"{method} {path}: {str(error) or type(error).__name__}") from None
        if answer.is_success:
            found: dict[str, Any] = answer.json()
            return found
        try:
            said = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = answer.text
        raise ClusterError(f"{method} {path}: {answer.status_code} {said[:MESSAGE_CHARACTERS_MAX]}", answer.status_code)

"""The least OpenAPI document that satisfies kubectl: for each kind, that a PATCH takes `dryRun` and `fieldValidation`.

kubectl asks for it in protobuf alone, old ones (1.20) and new ones (1.32) alike. The field numbers are those of
https://github.com/google/gnostic/blob/main/openapiv2/OpenAPIv2.proto.
"""


def document(kinds: list[tuple[str, str]]) -> bytes:
    """The document for (apiVersion, kind) pairs."""
    paths = b"".join(
        _field(2, _text(1, f"/{version}/{kind}") + _field(2, _path(version, kind))) for version, kind in kinds
    )
    return _text(1, "2.0") + _field(2, _text(1, "Kubernetes") + _text(2, "v1.32.0")) + _field(8, paths)


def _path(version: str, kind: str) -> bytes:
    group, _, number = version.rpartition("/")
    named = f'group: "{group}"\nkind: {kind}\nversion: {number}\n'
    extension = _text(1, "x-kubernetes-group-version-kind") + _field(2, _text(2, named))
    parameters = b"".join(_field(8, _query(name)) for name in ("dryRun", "fieldValidation"))
    return _field(8, parameters + _field(13, extension))


def _query(name: str) -> bytes:
    return _field(1, _field(2, _field(3, _text(2, "query") + _text(4, name))))


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field; the numbers are below 16, the lengths any."""
    size, length = len(content), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content

"""Who is calling: every way to name a session, and what a name may be."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.domain import NAME_CHARACTERS_MAX, Reason, Refusal, Session
from tokengate.session import Identity, without_session

OPEN = Identity("acme", "crawler", pinned="", fallback="default", strict=False)
STRICT = Identity("acme", "crawler", pinned="", fallback="default", strict=True)
PINNED = Identity("acme", "crawler", pinned="pod-7", fallback="default", strict=True)

CASES: dict[str, tuple[Identity, bytes | None, bytes, str | Reason]] = {
    "header": (OPEN, b"mine", b"", "mine"),
    "parameter": (OPEN, None, b"session_id=mine", "mine"),
    "parameter whose name is encoded": (OPEN, None, b"session%5fid=mine", "mine"),
    "parameter twice, the same": (OPEN, None, b"session_id=mine&session_id=min%65", "mine"),
    "parameter twice": (OPEN, None, b"session_id=mine&session_id=other", Reason.SESSION_INVALID),
    "parameter twice, once encoded": (OPEN, None, b"session_id=mine&%73ession_id=other", Reason.SESSION_INVALID),
    "parameter among others": (OPEN, None, b"a=1&session_id=mine&b=2", "mine"),
    "parameter, encoded": (OPEN, None, b"session_id=user%40example.com", "user@example.com"),
    "both: the header": (OPEN, b"mine", b"session_id=other", "mine"),
    "neither": (OPEN, None, b"", "default"),
    "a parameter of another name": (OPEN, None, b"my_session_id=other", "default"),
    "an empty header is a bad name, not none": (OPEN, b"", b"session_id=mine", Reason.SESSION_INVALID),
    "an empty parameter": (OPEN, None, b"session_id=", Reason.SESSION_INVALID),
    "strict, header": (STRICT, b"mine", b"", "mine"),
    "strict, parameter": (STRICT, None, b"session_id=mine", "mine"),
    "strict, neither": (STRICT, None, b"", Reason.SESSION_MISSING),
    "pinned": (PINNED, None, b"", "pod-7"),
    "pinned, whatever is said": (PINNED, b"other", b"session_id=another", "pod-7"),
    "pinned, however badly": (PINNED, b"\r\n", b"session_id=%0d", "pod-7"),
    "the longest": (OPEN, b"a" * NAME_CHARACTERS_MAX, b"", "a" * NAME_CHARACTERS_MAX),
    "too long": (OPEN, b"a" * (NAME_CHARACTERS_MAX + 1), b"", Reason.SESSION_INVALID),
    "line break by percent": (OPEN, None, b"session_id=a%0d%0aX-Evil:1", Reason.SESSION_INVALID),
    "line break at the end": (OPEN, b"a\n", b"", Reason.SESSION_INVALID),
    "hash tag": (OPEN, b"{other}", b"", Reason.SESSION_INVALID),
    "markup": (OPEN, None, b"session_id=%3Cscript%3E", Reason.SESSION_INVALID),
    "another script's digits": (OPEN, "١".encode(), b"", Reason.SESSION_INVALID),
}


@pytest.mark.parametrize(("identity", "header", "query", "expected"), CASES.values(), ids=CASES)
def test_a_session_is_identified(
    identity: Identity, header: bytes | None, query: bytes, expected: str | Reason
) -> None:
    found = identity.identify(header, query)
    if isinstance(found, Refusal):
        assert found.reason is expected
        assert found.param == "X-Session-ID"
        assert found.retry_after_s is None
    else:
        assert found == Session(str(expected), "acme", "crawler")


@given(st.binary(max_size=200))
def test_only_a_name_is_ever_taken(header: bytes) -> None:
    found = OPEN.identify(header, b"")
    good = re.fullmatch(rb"[A-Za-z0-9][A-Za-z0-9._:@+=~-]{0,127}", header) is not None
    assert isinstance(found, Session) is good


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", b""),
        (b"api-version=2024-10-21", b"api-version=2024-10-21"),
        (b"session_id=a", b""),
        (b"a=1&session_id=b&c=", b"a=1&c="),
        (b"session_id=a&session_id=b&after=x%20y", b"after=x%20y"),
        (b"a=%2B;+b&session%5Fid=b&&c", b"a=%2B;+b&&c"),
        (b"session_id&a", b"a"),
        (b"my_session_id=a", b"my_session_id=a"),
    ],
)
def test_the_providers_query_has_no_session(query: bytes, expected: bytes) -> None:
    assert without_session(query) == expected

"""A form is read as every reader reads it, or refused: whatever two readers could differ about is not taken."""

import email.parser
import email.policy
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokengate.bodies import MalformedRequest
from tokengate.forms import FIELD_BYTES_MAX, PART_HEAD_BYTES_MAX, PARTS_MAX, read_form

TYPE = b"multipart/form-data; boundary=xyz"


def part(name: str = "a", content: bytes = b"1", more: str = "", head: str = "") -> bytes:
    return f'--xyz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{head}\r\n'.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xyz--\r\n"


def test_fields_and_files_are_told_apart_and_a_file_is_found_by_its_place() -> None:
    body = form(part("model", b"whisper-1"), part("file", b"\0\r\n--xy\xff", '; filename="a.wav"'), part("n", b""))
    read = read_form(body, TYPE)
    assert read.texts() == {"model": "whisper-1", "n": ""}
    (file,) = read.files("file")
    assert body[file.start : file.end] == b"\0\r\n--xy\xff"
    assert file.bytes_long == 8


@pytest.mark.parametrize(
    "content_type",
    [
        b'multipart/form-data; boundary="xyz"',
        b"Multipart/Form-Data;boundary=xyz",
        b"multipart/form-data; charset=utf-8; boundary=xyz",
    ],
)
def test_a_boundary_is_found(content_type: bytes) -> None:
    assert read_form(form(part()), content_type).texts() == {"a": "1"}


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data;",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=xyz; boundary=abc",
        b"multipart/form-data; boundary=xyz, multipart/form-data; boundary=abc",
        b"multipart/form-data; boundary*=utf-8''xyz",
        b"multipart/form-data; charset=utf-7; boundary=xyz",
        b"multipart/form-data; boundary=" + b"x" * 71,
        b"multipart/mixed; boundary=xyz",
        b'multipart/form-data; boundary="x\\yz"',
    ],
)
def test_a_content_type_that_could_mean_another_boundary_is_refused(content_type: bytes) -> None:
    with pytest.raises(MalformedRequest, match="content-type"):
        read_form(form(part()), content_type)


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "no end": part(),
    "an end that is no line's": b"".join([part(), b"--xyz--X"]),
    "words after the end": form(part()) + b"x",
    "words before the beginning": b"x\r\n" + form(part()),
    "a line end before the beginning": b"\r\n" + form(part()),
    "line feeds alone": form(part()).replace(b"\r\n", b"\n"),
    "a boundary that goes on": form(part(), b"--xyzz\r\n"),
    "blanks after a boundary": form(part()).replace(b"--xyz\r\n", b"--xyz \r\n", 1),
    "no head": b"--xyz\r\n\r\n1\r\n--xyz--\r\n",
    "no name": form(b"--xyz\r\nContent-Disposition: form-data\r\n\r\n1\r\n"),
    "two names": form(part("a", more='; name="b"')),
    "a name in another notation": form(part("a", more="; name*=utf-8''b")),
    "an unquoted name": form(b"--xyz\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"),
    "an escape in a name": form(part('a\\"; name=\\"b')),
    "two dispositions": form(part("a", head='content-disposition: form-data; name="b"\r\n')),
    "a folded head": form(part("a", head=' ; name="b"\r\n')),
    "a head with a line feed": form(part("a", head='x: y\ncontent-disposition: form-data; name="b"\r\n')),
    "an encoded part": form(part("a", b"MQ==", head="Content-Transfer-Encoding: base64\r\n")),
    "another charset": form(part("a", b"1\0", head="Content-Type: text/plain; charset=utf-16\r\n")),
    "too long a head": form(part("a", head=f"x: {'y' * PART_HEAD_BYTES_MAX}\r\n")),
    "too many parts": form(*[part()] * (PARTS_MAX + 1)),
    "a name that is no text": form(part().replace(b'"a"', b'"\xff"')),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_readers_could_differ_about_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_form(body, TYPE)


@pytest.mark.parametrize("content", [b"\xff", b"x" * (FIELD_BYTES_MAX + 1)])
def test_a_field_is_text_of_a_bounded_length(content: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read_form(form(part("prompt", content)), TYPE).texts()


NAMES = st.from_regex(re.compile(r"[a-z]{1,8}(\[\])?", re.ASCII), fullmatch=True)


@given(
    st.dictionaries(NAMES, st.text(max_size=40), max_size=4),
    st.lists(st.tuples(NAMES, st.text(min_size=1, max_size=12), st.binary(max_size=200)), max_size=4),
)
def test_a_form_as_httpx_writes_it_is_read_as_another_parser_reads_it(
    fields: dict[str, str], files: list[tuple[str, str, bytes]]
) -> None:
    given = [(name, (filename, content)) for name, filename, content in files]
    request = httpx.Request("POST", "http://x", data=fields, files=[*given, ("z", ("z", b""))])
    body, kind = request.read(), request.headers["content-type"].encode()
    read = read_form(body, kind)
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    theirs = list(parser.parsebytes(b"content-type: " + kind + b"\r\n\r\n" + body).iter_parts())
    assert [part.name for part in read.parts] == [
        each.get_param("name", header="content-disposition") for each in theirs
    ]
    assert read.texts() == fields
    assert [body[part.start : part.end] for part in read.parts if part.is_file] == [
        content for *_, content in files
    ] + [b""]


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda noise: form(part("a", noise))[:-3] + noise))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    try:
        read = read_form(body, TYPE)
    except MalformedRequest:
        return
    assert body.endswith((b"--xyz--", b"--xyz--\r\n"))
    assert all(part.start <= part.end <= len(body) for part in read.parts)

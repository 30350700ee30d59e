"""Counts are tiktoken's own, cuts never lower them, and nothing is loaded before the first count."""

import asyncio
import gzip
import importlib
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from tokengate import tokens
from tokengate.tokens import ENCODINGS, Count, CountError, Tokenizer, count_text, image_size, load_encoding

LOADED = {name: load_encoding(name) for name in sorted(ENCODINGS)}
NAMES = sorted(ENCODINGS)
LATIN = ["hello", "Hello", "it's", "I'LL", "don’t", "été", "e\u0301", "a" * 30, "<|endoftext|>"]
SPACES = [" ", "  ", " " * 30, "\n", "\n" * 5, "\r\n", "\t", "\u00a0", "\u3000", "\x1c", "\x85"]
SCRIPTS = ["你好", "世界，", "「日本」", "한국어", "Привет", "नमस्ते", "👩‍👩‍👧"]
MARKS = ["...", "/*", "*/\n", "://", "//\n//", "'", "'s", "_", "{", '"key":', "}", "\\u4f60", "=" * 30]
NUMBERS = ["1", "12345", "3.14"]
WORDS = st.sampled_from([*LATIN, *SPACES, *SCRIPTS, *MARKS, *NUMBERS])
TEXTS = st.one_of(st.lists(WORDS, max_size=60).map("".join), st.text(max_size=200))


@pytest.mark.parametrize("name", NAMES)
def test_an_encoding_is_the_one_that_tiktoken_defines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def load(url: str, expected_hash: str) -> dict[bytes, int]:
        seen[url.rsplit("/", 1)[1]] = expected_hash
        return {}

    published = importlib.import_module("tiktoken_ext.openai_public")
    monkeypatch.setattr(published, "load_tiktoken_bpe", load)
    original: dict[str, Any] = getattr(published, name)()
    ours = tokens._VOCABULARIES[name]
    assert original["pat_str"] == ours.pattern
    assert original["special_tokens"] == ours.special_tokens
    assert seen == {f"{name}.tiktoken": ours.sha256}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [  # from the OpenAI cookbook, "How to count tokens with tiktoken", section 5
        ("cl100k_base", "antidisestablishmentarianism", 6),
        ("o200k_base", "antidisestablishmentarianism", 6),
        ("cl100k_base", "2 + 2 = 4", 7),
        ("o200k_base", "2 + 2 = 4", 7),
        ("cl100k_base", "お誕生日おめでとう", 9),
        ("o200k_base", "お誕生日おめでとう", 8),
        ("o200k_base", "", 0),
    ],
)
def test_counts_are_the_published_ones(name: str, text: str, expected: int) -> None:
    assert count_text(LOADED[name], text) == expected


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_in_a_text_are_ordinary_text(name: str) -> None:
    assert count_text(LOADED[name], "<|endoftext|>") > 1


@given(TEXTS, st.integers(1, 40), st.sampled_from(NAMES))
def test_cutting_a_text_never_lowers_its_count(text: str, piece_chars_max: int, name: str) -> None:
    whole = len(LOADED[name].encode_ordinary(text))
    assert whole <= count_text(LOADED[name], text, piece_chars_max) <= len(text.encode("utf-8", "surrogatepass"))


@given(st.lists(WORDS, min_size=1, max_size=60).map("".join), st.sampled_from(NAMES))
def test_every_place_where_a_text_may_be_cut_is_one_where_counts_add_up(text: str, name: str) -> None:
    def count(part: str) -> int:
        return len(LOADED[name].encode_ordinary(part))

    for match in tokens._FIRST_BOUNDARY.finditer(text):
        assert count(text[: match.end()]) + count(text[match.end() :]) == count(text)


def test_a_cut_within_a_word_would_lower_the_count_because_merging_is_greedy() -> None:
    count = LOADED["o200k_base"].encode_ordinary
    assert (len(count("lea")), len(count("precedented")), len(count("leaprecedented"))) == (1, 1, 5)
    text = "leaprecedented" * 1000
    assert count_text(LOADED["o200k_base"], text, piece_chars_max=3) >= len(count(text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("run", ["a", "^", " ", "\n", "é", "你", "0", "a1", "👍", "ﷺ"])
def test_a_huge_run_of_one_character_is_counted_and_bounded(name: str, run: str) -> None:
    text = run * 400_000
    total = count_text(LOADED[name], text)
    assert len(LOADED[name].encode_ordinary(run * 4000)) <= total <= len(text.encode())


@pytest.mark.parametrize("name", NAMES)
def test_a_long_ordinary_text_is_counted_exactly(name: str) -> None:
    text = "It's a test, isn't it? 世界，你好。 def f(x): return x + 1  # comment\n" * 500
    assert len(text) > 3 * tokens.PIECE_CHARS_MAX
    assert count_text(LOADED[name], text) == len(LOADED[name].encode_ordinary(text))


async def test_work_runs_off_the_event_loop_and_an_encoding_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads, threads = [], []

    def load(name: str) -> tiktoken.Encoding:
        loads.append(name)
        return LOADED[name]

    def work(count: Count) -> int:
        threads.append(threading.current_thread())
        return count("hello world") + count("!")

    monkeypatch.setattr(tokens, "load_encoding", load)
    tokenizer = Tokenizer()
    assert await asyncio.gather(*(tokenizer.count("o200k_base", work) for _ in range(8))) == [3] * 8
    tokenizer.close()
    assert loads == ["o200k_base"]
    assert threading.main_thread() not in threads


async def test_no_more_counts_wait_than_the_bound() -> None:
    release = threading.Event()
    tokenizer = Tokenizer(threads_max=1, waiting_max=1)

    def work(_: Count) -> int:
        release.wait(30)
        return 1

    tokenizer._loaded["o200k_base"] = LOADED["o200k_base"]
    under_way = [asyncio.ensure_future(tokenizer.count("o200k_base", work)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(CountError, match="2 texts are being counted"):
        await tokenizer.count("o200k_base", work)
    release.set()
    assert await asyncio.gather(*under_way) == [1, 1]
    assert await tokenizer.count("o200k_base", work) == 1
    tokenizer.close()


async def test_a_cancelled_count_frees_its_place() -> None:
    tokenizer = Tokenizer(threads_max=1, waiting_max=0)
    tokenizer._loaded["o200k_base"] = LOADED["o200k_base"]
    release = threading.Event()
    task = asyncio.ensure_future(tokenizer.count("o200k_base", lambda _: int(release.wait(30))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    assert await tokenizer.count("o200k_base", lambda count: count("hello")) == 1
    tokenizer.close()


async def test_an_unknown_encoding_is_an_error_that_says_so() -> None:
    tokenizer = Tokenizer()
    with pytest.raises(CountError, match="p50k_base"):
        await tokenizer.count("p50k_base", lambda count: count("x"))
    tokenizer.close()


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"aGVsbG8= 0\n"), b"not gzip", gzip.compress(b"x" * 99)[:-9], None],
    ids=["another", "not gzip", "cut", "none"],
)
def test_a_vocabulary_that_is_not_the_expected_one_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o200k_base.tiktoken.gz"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(tokens, "encoding_file", lambda _: path)
    with pytest.raises(CountError, match="o200k_base"):
        load_encoding("o200k_base")


def test_importing_the_module_does_not_import_tiktoken() -> None:
    code = "import sys, tokengate.tokens; sys.exit('tiktoken' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)


def jpeg(width: int, height: int, *, metadata: int = 0, marker: int = 0xC0) -> bytes:
    app1 = b"\xff\xe1" + struct.pack(">H", metadata + 2) + b"\xff\xc0" * (metadata // 2)
    tables = b"\xff\xff\xff\xdb" + struct.pack(">H", 4) + b"\0\0" + b"\xff\xc4" + struct.pack(">H", 4) + b"\0\0"
    return b"\xff\xd8" + app1 + tables + struct.pack(">BBHBHHB", 0xFF, marker, 17, 8, height, width, 3)


def webp(kind: bytes, width: int, height: int) -> bytes:
    if kind == b"VP8 ":
        body = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width | 0x4000, height)
    elif kind == b"VP8L":
        body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0" * 5
    else:
        body = b"\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\0\0\0\0WEBP" + kind + struct.pack("<I", len(body)) + body


SIZES = st.tuples(st.integers(1, 16383), st.integers(1, 16383))


@given(SIZES)
def test_declared_sizes_of_images_are_read(size: tuple[int, int]) -> None:
    assert image_size(png(*size)) == size
    assert image_size(jpeg(*size)) == size
    assert image_size(jpeg(*size, metadata=60_000)) == size
    assert image_size(jpeg(*size, marker=0xC2)) == size
    assert image_size(b"GIF89a" + struct.pack("<HH", *size)) == size
    for kind in (b"VP8 ", b"VP8L", b"VP8X"):
        assert image_size(webp(kind, *size)) == size


@given(
    st.binary(max_size=60), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"GIF89a", b"RIFF....WEBPVP8 "])
)
def test_no_bytes_make_it_fail(data: bytes, magic: bytes) -> None:
    size = image_size(magic + data)
    assert size is None or min(size) > 0


@pytest.mark.parametrize("image", [png(0, 5), jpeg(5, 0), b"GIF89a", b"", b"%PDF-1.7", jpeg(640, 480)[:-6]])
def test_an_image_that_declares_no_size_has_none(image: bytes) -> None:
    assert image_size(image) is None

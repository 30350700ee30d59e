"""The event-stream decoder keeps every byte and reads the same events, wherever the network cuts the stream."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokengate.sse import EVENT_BYTES_MAX, Decoder, Event

LINES = st.sampled_from(
    [
        b"",
        b"data: a",
        b"data:b",
        b"data: ",
        b"data",
        b": comment",
        b"event: error",
        b"event:ping",
        b"id: 7",
        b"retry: 3",
    ]
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, LINE_ENDS), max_size=12).map(lambda pairs: b"".join(a + b for a, b in pairs))


def decode(*chunks: bytes, event_bytes_max: int = EVENT_BYTES_MAX) -> tuple[list[Event], bytes]:
    decoder = Decoder(event_bytes_max)
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events, decoder.rest()


def read(*chunks: bytes) -> list[tuple[str, bytes]]:
    events, _ = decode(*chunks)
    return [(event.name, event.data) for event in events if event.name or event.data]


def joined(events: list[Event], rest: bytes) -> bytes:
    return b"".join(event.raw for event in events) + rest


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'data: {"a":1}\n\n', [("", b'{"a":1}')]),
        (b'data:{"a":1}\n\n', [("", b'{"a":1}')]),
        (b"data:  two spaces\n\n", [("", b" two spaces")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
        (b"data: a\n\r\ndata: b\r\n\n", [("", b"a"), ("", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
        (b": comment\n\ndata: a\n\n", [("", b"a")]),
        (b": comment\ndata: a\n\n", [("", b"a")]),
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data: a\ndata\ndata: b\n\n", [("", b"a\n\nb")]),
        (b"event: error\ndata: {}\n\n", [("error", b"{}")]),
        (b"data: {}\nevent: error\nevent: done\nid: 1\n\n", [("done", b"{}")]),
        (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
        (b"data: a\n", []),
        (b"data: \xff\xfe\n\n", [("", b"\xff\xfe")]),
        (b"event: \xff\n\n", [("\ufffd", b"")]),
        (b"dataset: a\n\n", []),
        (b"", []),
    ],
)
def test_events_are_read_as_the_html_standard_says(stream: bytes, expected: list[tuple[str, bytes]]) -> None:
    assert read(stream) == expected


def test_an_event_is_given_as_soon_as_its_blank_line_is_complete() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\n") == []
    assert [event.raw for event in decoder.feed(b"\ndata: b")] == [b"data: a\n\n"]
    assert [event.raw for event in decoder.feed(b"\r\r")] == [b"data: b\r\r"]
    assert [event.raw for event in decoder.feed(b"data: c\r\n\r")] == [b"data: c\r\n\r"]
    assert [event.data for event in decoder.feed(b"\ndata: d\n\n")] == [b"d"]


@given(STREAMS)
@example(b"data: a\r\n\r\ndata: b\r\r\n\n")
@example(b"\xef\xbb\xbfdata: a\r\n\r\n")
def test_a_cut_at_any_byte_changes_neither_the_bytes_nor_the_events(stream: bytes) -> None:
    expected = read(stream)
    for cut in range(len(stream) + 1):
        events, rest = decode(stream[:cut], stream[cut:])
        assert joined(events, rest) == stream
        assert [(event.name, event.data) for event in events if event.name or event.data] == expected


@given(STREAMS)
def test_a_stream_that_comes_byte_by_byte_is_read_the_same(stream: bytes) -> None:
    chunks = [stream[index : index + 1] for index in range(len(stream))]
    events, rest = decode(*chunks)
    assert joined(events, rest) == stream
    assert read(*chunks) == read(stream)


@given(st.binary(max_size=200), st.integers(1, 40), st.integers(4, 60))
def test_no_byte_of_any_input_is_lost_under_any_bound(stream: bytes, step: int, bound: int) -> None:
    chunks = [stream[index : index + step] for index in range(0, len(stream), step)]
    events, rest = decode(*chunks, event_bytes_max=bound)
    assert joined(events, rest) == stream
    assert len(rest) <= bound


@given(st.integers(1, 30), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
def test_an_event_over_the_bound_is_passed_on_unparsed_and_the_next_one_is_read(step: int, end: bytes) -> None:
    stream = b"data: a" + end + b"data: " + b"x" * 50 + end + b"data: b" + end
    chunks = [stream[index : index + step] for index in range(0, len(stream), step)]
    events, rest = decode(*chunks, event_bytes_max=20)
    assert joined(events, rest) == stream
    assert [event.data for event in events if event.data] == [b"a", b"b"]
    assert any(event.oversized for event in events)
    assert all(event.oversized == (b"x" in event.raw) or not event.data for event in events)


def test_an_event_over_the_bound_is_held_back_no_longer_than_the_bound() -> None:
    decoder = Decoder(event_bytes_max=20)
    assert decoder.feed(b"data: " + b"x" * 10) == []
    assert [event.raw for event in decoder.feed(b"x" * 10)] == [b"data: " + b"x" * 20]
    assert [event.raw for event in decoder.feed(b"xx\r\n")] == [b"xx"]
    assert [event.raw for event in decoder.feed(b"\r\n")] == [b"\r\n\r\n"]
    assert [event.data for event in decoder.feed(b"data: next\n\n")] == [b"next"]


def test_an_oversized_event_in_one_piece_is_not_read() -> None:
    events, _ = decode(b"data: " + b"x" * 30 + b"\n\n", event_bytes_max=20)
    assert [(event.oversized, event.data) for event in events] == [(True, b"")]

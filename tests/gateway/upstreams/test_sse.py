"""Server-sent events, in whatever portions they come."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from counterpoint.gateway.upstreams.sse import LINE_LIMIT, EventSplitter


def split(*portions: bytes) -> list[bytes]:
    splitter = EventSplitter()
    return [event for portion in portions for event in splitter.feed(portion)] + splitter.rest()


def test_fields_other_than_data_and_comments_are_left_out():
    assert split(b": hello\n\nevent: message\nid: 7\nretry: 10\ndata: one\n\nevent: nothing\n\ndata:two\n\n") == [b"one", b"two"]


def test_data_over_several_lines_is_one_event():
    assert split(b"data: {\ndata:  1\ndata: }\n\n") == [b"{\n 1\n}"]


def test_an_event_without_its_empty_line_counts_at_the_end():
    assert split(b"data: one\n\ndata: [DONE]") == [b"one", b"[DONE]"]
    assert split(b"data: one\r\n\r\ndata: [DONE]\r") == [b"one", b"[DONE]"]
    assert split(b"data: one\n\n: bye") == [b"one"]


EVENTS = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1), min_size=1, max_size=8)


@given(EVENTS, st.sampled_from(["\n", "\r\n"]), st.lists(st.integers(0, 300), max_size=12))
def test_any_portions_give_the_same_events(texts, end, cuts):
    stream = "".join(f": é{end}data: {text}{end}{end}" for text in texts).encode()
    bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    portions = [stream[start:stop] for start, stop in pairwise(bounds)]
    assert split(*portions) == [text.encode() for text in texts]
    assert split(*(stream[at : at + 1] for at in range(len(stream)))) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    "portions",
    [
        pytest.param([b"data: "] + [b"x" * 65536] * 20, id="a line in many portions"),
        pytest.param([b"data: " + b"x" * (LINE_LIMIT + 1) + b"\n\n"], id="a line in one portion"),
        pytest.param([b"data: " + b"x" * 65536 + b"\n"] * 20, id="an event of many lines"),
        pytest.param([b"\n", b"x" * (LINE_LIMIT + 1)], id="not even a field"),
    ],
)
def test_an_endless_event_is_an_error(portions):
    with pytest.raises(ValueError, match="more than 1048576 bytes"):
        split(*portions)


def test_the_limit_is_for_one_event_not_for_the_stream():
    assert len(split(*[b"data: " + b"x" * 65536 + b"\n\n"] * 40)) == 40

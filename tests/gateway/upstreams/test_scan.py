"""Markers in text that comes in pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from counterpoint.gateway.upstreams.scan import Until


def test_text_passes_up_to_the_marker_and_no_further():
    until = Until("</think>")
    assert until.feed("a b</th") == "a b"
    assert until.feed("ink> c") == ""
    assert until.found
    assert until.rest == " c"
    assert until.feed("more") == ""


def test_the_beginning_of_a_marker_that_turns_out_to_be_none_is_passed_on():
    until = Until("</think>")
    assert until.feed("1 <") == "1 "
    assert until.feed(" 2 </thin") == "< 2 "
    assert until.end() == "</thin"


@given(st.text(alphabet="ab<>", max_size=40), st.lists(st.integers(0, 40), max_size=8), st.sampled_from(["<ab>", "aab", "<<b"]))
def test_however_a_text_is_cut_what_passes_is_what_is_before_the_marker(text, cuts, marker):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    until = Until(marker)
    passed = "".join(until.feed(text[a:b]) for a, b in pairwise(edges)) + until.end()
    assert passed == text.split(marker)[0]
    assert until.found == (marker in text)


def test_the_first_of_several_markers_ends_the_text():
    until = Until("stop", "st.", "x")
    assert [until.feed(text) for text in ("a st", "o st", ". x")] == ["a ", "sto ", ""]
    assert until.rest == " x"

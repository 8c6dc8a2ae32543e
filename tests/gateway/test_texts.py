"""Text in pieces: a marker ends it wherever it is cut, and a stop string is for the answer and never for the thinking."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counterpoint.gateway.texts import Reply, Thinking, Until
from counterpoint.gateway.types import Piece
from counterpoint.policy.rollout import cut_at_stop


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


MARKERS = [["<ab>"], ["aab"], ["<<b"], ["aba", "b"], ["ab", "abab>"], ["a<b", "<", "b>"], []]
"""Some with others inside: what ends the text may not depend on the portions that the network makes."""


@given(st.text(alphabet="ab<>", max_size=40), st.lists(st.integers(0, 40), max_size=8), st.sampled_from(MARKERS))
@example("aba", [1, 2], ["aba", "b"])
@example("abb", [1, 2], ["aba", "b"])
@example("ab", [1], ["aba", "b"])
def test_however_a_text_is_cut_what_passes_is_what_is_before_the_first_marker(text, cuts, markers):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    until = Until(*markers)
    passed = "".join(until.feed(text[a:b]) for a, b in pairwise(edges)) + until.end()
    assert passed == cut_at_stop(text, markers)
    assert until.found == any(marker in text for marker in markers)


def test_the_first_of_several_markers_ends_the_text():
    until = Until("stop", "st.", "x")
    assert [until.feed(text) for text in ("a st", "o st", ". x")] == ["a ", "sto ", ""]
    assert until.rest == " x"


def thought(*parts, finished=True, opened=True):
    """(thinking, answer) of a text in parts."""
    thinking = Thinking(opened)
    pieces = [*map(thinking.split, parts), thinking.end(finished)]
    return tuple("".join(texts) for texts in zip(*pieces, strict=True))


@pytest.mark.parametrize("size", range(1, 12))
def test_thinking_and_answer_are_told_apart_however_the_text_comes(size):
    text = "1 < 2 and </th 3\n</think>\n\n7\n\nor</think> 8"
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    assert thought(*parts) == ("1 < 2 and </th 3\n", "7\n\nor</think> 8")


def test_no_part_of_the_closing_tag_is_shown():
    thinking = Thinking(opened=True)
    assert [thinking.split(part) for part in ("it is 3 <", "/thi", "nk", ">", "\n", "3")] == [
        ("it is 3 ", ""), ("", ""), ("", ""), ("", ""), ("", ""), ("", "3")
    ]  # fmt: skip


def test_a_model_that_finished_without_closing_its_thinking_has_answered_all_along():
    assert thought("it is ", "3 </th") == ("it is 3 ", "it is 3 </th")


def test_thinking_that_the_budget_cut_off_is_no_answer():
    assert thought("it is ", "3 </th", finished=False) == ("it is 3 </th", "")


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(("finished", "expected"), [(True, ("it is 3 ", "it is 3 </th")), (False, ("it is 3 </th", ""))])
def test_the_tag_may_be_the_prompts_or_the_models(opened, finished, expected):
    parts = ("it is ", "3 </th") if opened else ("<thi", "nk>\nit is ", "3 </th")
    assert thought(*parts, finished=finished, opened=opened) == expected


def heard(reply, *texts, finish="stop"):
    """(thinking, answer) as each piece adds to it, and the end."""
    pieces = [*(Piece(text=text, tokens=1) for text in texts), Piece(finish=finish)]
    return [reply.hear(piece)[:2] for piece in pieces if not reply.over]


@pytest.mark.parametrize("size", range(1, 9))
def test_a_stop_string_ends_the_answer_and_not_the_thinking(size):
    text = "<think>\na\n\nb</think>\n\n7\n\nor 8"
    reply = Reply(("\n\n", "8"), thinking=Thinking())
    pieces = heard(reply, *(text[i : i + size] for i in range(0, len(text), size)))
    assert tuple("".join(texts) for texts in zip(*pieces, strict=True)) == ("a\n\nb", "7")
    assert reply.over


def test_what_might_have_become_a_stop_string_is_shown_at_the_end():
    assert heard(Reply(("END",), thinking=Thinking()), "7 E", "N") == [("", "7 "), ("", ""), ("", "EN")]


def test_what_might_have_become_a_stop_string_is_shown_where_the_budget_ends_the_answer():
    assert heard(Reply(("END",), tokens=2), "7 E", "N", "X") == [("", "7 "), ("", ""), ("", "EN")]

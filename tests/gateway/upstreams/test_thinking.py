"""Thinking and answer are told apart wherever the text is cut, and a stop string is for the answer alone."""

import pytest

from counterpoint.gateway.upstreams.thinking import Stopped, Thinking


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


@pytest.mark.parametrize("size", range(1, 9))
def test_a_stop_string_ends_the_answer_and_not_the_thinking(size):
    text = "<think>\na\n\nb</think>\n\n7\n\nor 8"
    apart = Stopped(("\n\n", "8"))
    pieces = [apart.feed(text[i : i + size]) for i in range(0, len(text), size)]
    assert tuple("".join(texts) for texts in zip(*pieces, apart.end(True), strict=True)) == ("a\n\nb", "7")
    assert apart.found


def test_what_might_have_become_a_stop_string_is_shown_at_the_end():
    apart = Stopped(("END",))
    assert [apart.feed("7 E"), apart.feed("N"), apart.end(True)] == [("", "7 "), ("", ""), ("", "EN")]
    assert not apart.found

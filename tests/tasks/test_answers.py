import pytest

from counterpoint.tasks.answers import boxed, choice_letter, final, number, same_answer, tagged, unboxed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"so \boxed{12}", "12"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\framebox{204} minutes", "204"),
        (r"first \boxed{7}, then cut \boxed{\frac{1}{2", "7"),
        (r"\boxed{\left\{ x }", r"\left\{ x"),
        ("no box", None),
        ("", None),
    ],
)
def test_boxed_is_the_last_closed_box(text, found):
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("work\n#### 1,080", "1,080"),
        ("The answer is 5. Wait, the answer is 6.", "6"),
        ("**Answer:** 7", "7"),
        ("Answer: 7\nIs that clear?", "7"),
        (r"The answer is 5, no: \boxed{6}", "6"),
        ("It is 5.", None),
        ("####", None),
    ],
)
def test_final_is_the_box_or_what_follows_the_mark(text, found):
    assert final(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 apples and 4 pears make 7.", "7"),
        (r"\boxed{\$1,234.50} for 3 days", "1234.50"),
        ("#### -5", "-5"),
        ("from 10-3", "3"),
        ("x2 is a name", None),
        ("150\n", "150"),
        ("half is .5", ".5"),
        (r"\boxed{none} of the 12", None),
        ("nothing", None),
    ],
)
def test_number_is_in_the_final_answer_or_the_last_one(text, found):
    assert number(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<answer>1</answer> no, <answer> 4 5 </answer>", "4 5"),
        ("<answer>a\nb</answer>", "a\nb"),
        ("<answer>open", None),
    ],
)
def test_tagged_is_the_last_pair_of_tags(text, found):
    assert tagged(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("B", "B"),
        ("(c)", "C"),
        ("The answer is (D).", "D"),
        (r"\boxed{\text{A}}", "A"),
        (r"\boxed{B) 4 m/s}", "B"),
        ("Answer: C. because", "C"),
        ("A good question", None),
        ("It may be A or B", None),
        ("", None),
    ],
)
def test_choice_letter(text, found):
    assert choice_letter(text) == found


def test_unboxed_keeps_what_is_in_the_last_box():
    assert unboxed(r"so $\boxed{\frac{1}{2}}$.") == r"so $\frac{1}{2}$."
    assert unboxed("plain") == "plain"


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("1,080", "1080.0", True),
        ("$5", "5", True),
        ("5", "-5", False),
        ("New  York", "new york.", True),
        ("York", "New York", False),
        ("nan", "nan", True),
        ("inf", "1", False),
    ],
)
def test_same_answer(left, right, same):
    assert same_answer(left, right) is same

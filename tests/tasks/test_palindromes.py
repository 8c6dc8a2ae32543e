"""The task with many right answers: what is asked, who grades, and that its splits share nothing."""

from collections import Counter
from math import factorial

import pytest

from counterpoint.errors import ConfigError, DataError
from counterpoint.tasks.load import load_task
from counterpoint.tasks.palindromes import questions, split_of


def letters_of(question):
    return question.metadata["entry"]["metadata"]["letters"]


def sets_of(asked):
    return {tuple(sorted(letters_of(question))) for question in asked}


def half_of(question):
    return question.answer[: len(question.answer) // 2]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_seed_asks_the_same(split):
    assert questions(split, 3, 40) == questions(split, 3, 40)
    assert questions(split, 3, 10) == questions(split, 3, 40)[:10]


def test_the_seed_moves_the_training_questions_only():
    assert questions("train", 0, 40) != questions("train", 1, 40)
    assert questions("test", 0, 40) == questions("test", 1, 40)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pairs", [(1, 2), (4, 7)])
def test_no_set_of_letters_is_in_both_splits(seed, pairs):
    """Of one or two pairs there are so few that chance alone would mix them."""
    train, test = (sets_of(questions(split, seed, 300, *pairs)) for split in ("train", "test"))
    assert not train & test
    assert all(split_of(letters) == "train" for letters in train)


def test_questions_differ_and_show_their_letters_in_no_order():
    asked = questions("train", 0, 200)
    assert len({question.text for question in asked}) == len({question.id for question in asked}) == 200
    for question in asked:
        shown = question.text.removeprefix("Palindrome of ").split(" ")
        assert shown == letters_of(question)
        assert Counter(shown) == Counter(question.answer)
    assert sum(letters_of(question) == sorted(letters_of(question)) for question in asked) < 5


def test_pairs_are_of_different_letters_and_as_many_as_asked_for():
    halves = [half_of(question) for question in questions("train", 0, 300, min_pairs=3, max_pairs=5)]
    assert {len(half) for half in halves} == {3, 4, 5}
    assert all(len(set(half)) == len(half) for half in halves)
    odd = sum(len(question.answer) % 2 for question in questions("train", 0, 300))
    assert 110 < odd < 190  # half of them have one more letter for the middle


@pytest.mark.parametrize(("ordered", "low", "high"), [(0.0, 0, 8), (0.5, 110, 190), (1.0, 300, 300)])
def test_the_share_of_worked_answers_in_alphabetical_order_is_the_one_asked_for(ordered, low, high):
    halves = [half_of(question) for question in questions("train", 0, 300, ordered=ordered)]
    assert low <= sum(list(half) == sorted(half) for half in halves) <= high


@pytest.fixture(scope="module")
def task():
    pytest.importorskip("reasoning_gym", reason="its verifier grades palindromes; make test installs it")
    return load_task("palindromes", seed=1, train_limit=60, test_limit=40)


def test_every_worked_answer_is_graded_right(task):
    for asked in (task.train, task.test):
        assert task.grade(asked, [question.answer for question in asked]) == [1.0] * len(asked)
    assert (len(task.train), len(task.test)) == (60, 40)


def test_any_order_of_the_pairs_is_right_and_nothing_else_is(task):
    question = next(question for question in task.test if len(question.answer) == 9)
    half, middle = half_of(question), question.answer[4]
    turned = half[::-1] + middle + half
    wrong = [half + middle + half, half + half[::-1], question.answer + "a", "", "b" * 9, half[0] * 4 + middle + half[0] * 4]
    rewards = task.grade([question] * (2 + len(wrong)), [question.answer, turned, *wrong])
    assert rewards[:2] == [1.0, 1.0]
    assert max(rewards[2:]) < 1.0
    assert factorial(4) > 16  # so that sixteen samples can all be different and right


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_pairs": 0}, "min_pairs"),
        ({"min_pairs": 5, "max_pairs": 4}, "got 5 and 4"),
        ({"max_pairs": 27}, "max_pairs ≤ 26"),
        ({"ordered": 1.5}, "ordered is a share"),
        ({"pairs": 3}, "cannot take the options"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, says):
    pytest.importorskip("reasoning_gym", reason="its verifier grades palindromes; make test installs it")
    with pytest.raises(ConfigError, match=says):
        load_task("palindromes", train_limit=4, test_limit=4, options=options)


def test_more_questions_than_there_are_is_an_error():
    """One pair of 26 letters, with none or another in the middle, in at most three orders; an eighth of them for testing."""
    with pytest.raises(ConfigError, match="there are not 500 questions of 1 to 1 pairs; allow more pairs"):
        questions("test", 0, 500, 1, 1)


def test_it_takes_no_file():
    with pytest.raises((ConfigError, DataError), match=r"palindromes.* takes no path"):
        load_task("palindromes", path="somewhere.jsonl")


def test_a_question_that_is_drawn_twice_is_there_once():
    """Of two pairs there are few enough questions that many are drawn again."""
    drawn = questions("train", 0, 3000, min_pairs=2, max_pairs=2)
    assert len({question.id for question in drawn}) == len({question.text for question in drawn}) == 3000

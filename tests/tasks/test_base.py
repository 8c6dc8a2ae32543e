import logging

import pytest

from counterpoint.errors import DataError
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Task, split_questions, take


def questions(*texts, prefix="q"):
    return [Question(id=f"{prefix}{index}", text=text, answer="1") for index, text in enumerate(texts)]


def all_right(questions, responses):
    return [1.0 for _ in questions]


def task(train, test):
    return Task("sums", train, test, all_right)


def test_a_test_question_is_dropped_from_train_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        made = task(questions("one", "two", " two ", "three", prefix="train"), questions("two", prefix="test"))
    assert [question.text for question in made.train] == ["one", "three"]
    assert made.dropped == 2
    assert "2 training questions dropped" in caplog.text


def test_training_on_a_test_only_task_says_what_to_do():
    with pytest.raises(DataError, match=r"'sums' is for testing only: it has 1 test questions.*test_share"):
        task([], questions("one")).training_questions()


def test_training_when_every_question_was_dropped_says_why():
    with pytest.raises(DataError, match="all 1 are in test too"):
        task(questions("one", prefix="train"), questions("one", prefix="test")).training_questions()


def test_training_questions_are_those_of_train():
    made = task(questions("one"), [])
    assert made.training_questions() == made.train


def test_evaluated_questions_are_those_of_test_up_to_a_limit():
    made = task(questions("one", prefix="train"), questions("two", "three", "four", prefix="test"))
    assert made.evaluated_questions(None) == made.evaluated_questions(3) == list(made.test)
    assert made.evaluated_questions(2) == take(made.test, 2)
    assert task(questions("one"), []).evaluated_questions(2) == []


def test_repeated_ids_are_an_error_that_names_one():
    with pytest.raises(DataError, match="1 ids are used more than once, the first is 'q0'"):
        task(questions("one"), questions("two"))


def test_a_task_without_questions_is_an_error():
    with pytest.raises(DataError, match="'sums' has no questions"):
        task([], [])


def test_splitting_puts_each_text_on_one_side_and_loses_none():
    given = questions(*[f"question {index % 300}" for index in range(600)])
    train, test = split_questions(given, 0.25, seed=3)
    assert not {question.text for question in train} & {question.text for question in test}
    assert sorted(question.id for question in [*train, *test]) == sorted(question.id for question in given)
    assert 0.15 < len(test) / len(given) < 0.35


def test_splitting_is_the_same_every_time_and_another_with_another_seed():
    given = questions(*map(str, range(200)))
    assert split_questions(given, 0.5, seed=1) == split_questions(given, 0.5, seed=1)
    assert split_questions(given, 0.5, seed=1) != split_questions(given, 0.5, seed=2)


def test_splitting_does_not_move_a_question_when_others_are_removed():
    given = questions(*map(str, range(200)))
    _, test = split_questions(given, 0.5, seed=1)
    _, test_of_half = split_questions(given[::2], 0.5, seed=1)
    assert {question.text for question in test_of_half} <= {question.text for question in test}


@pytest.mark.parametrize(("share", "in_test"), [(0.0, 0), (1.0, 50)])
def test_a_share_of_none_or_all(share, in_test):
    _, test = split_questions(questions(*map(str, range(50))), share, seed=0)
    assert len(test) == in_test


def test_a_share_outside_zero_and_one_is_an_error():
    with pytest.raises(DataError, match=r"test_share is 1\.5"):
        split_questions(questions("one"), 1.5, seed=0)


def test_a_limit_keeps_the_order_and_a_larger_one_only_adds():
    given = questions(*map(str, range(100)))
    few, more = take(given, 10), take(given, 30)
    assert len(few) == 10
    assert set(few_ids := [given.index(question) for question in few]) <= {given.index(question) for question in more}
    assert few_ids == sorted(few_ids)
    assert few_ids != list(range(10)), "a limit is a sample, not the head of the file"


def test_no_limit_takes_all():
    given = questions("one", "two")
    assert take(given, None) == take(given, 5) == given

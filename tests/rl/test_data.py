"""From questions to steps, from completions to data."""

import hashlib
import math
from collections import Counter

import pytest
import torch

from counterpoint.rl.data import make_data, question_batch, reference_logprobs, seed_for, sequence_kl, token_kl
from counterpoint.rl.types import Completion, Question
from fakes import LOGPROB, FakePolicy

QUESTIONS = [Question(f"q{i}", str(i), "") for i in range(7)]


def ids(step, size, seed=0, questions=QUESTIONS):
    return [question.id for question in question_batch(questions, step, size, seed)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 20])
def test_every_question_comes_once_an_epoch(size):
    asked = [name for step in range(21) for name in ids(step, size)]
    for start in range(0, len(asked) - 6, 7):
        assert sorted(asked[start : start + 7]) == [question.id for question in QUESTIONS]


@pytest.mark.parametrize("size", [1, 3, 7, 20])
def test_a_batch_has_the_size_asked_for_and_follows_from_step_and_seed_alone(size):
    batches = [ids(step, size) for step in range(5)]
    assert {len(batch) for batch in batches} == {size}
    assert [ids(step, size) for step in (4, 2, 0, 3, 1)] == [batches[step] for step in (4, 2, 0, 3, 1)]


def test_more_than_all_questions_come_evenly():
    assert set(Counter(ids(0, 17)).values()) == {2, 3}


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    assert len({tuple(ids(step, 7)) for step in range(6)}) == 6
    assert len({tuple(ids(0, 7, seed)) for seed in range(6)}) == 6


def test_seeds_are_distinct_for_every_purpose_step_and_run():
    purposes = ("signals", "aided", "unaided", "alone", "update", "epoch")
    seeds = {seed_for(run, purpose, step) for run in range(20) for purpose in purposes for step in range(50)}
    assert len(seeds) == 20 * len(purposes) * 50
    assert all(0 <= seed < 2**48 for seed in seeds)


def test_a_seed_does_not_depend_on_how_its_parts_join():
    assert len({seed_for(1, 23), seed_for(12, 3), seed_for(1, 2, 3), seed_for(1, "2", 3), seed_for(123)}) == 5


def test_seeds_are_the_same_on_every_machine():
    assert seed_for(0, "signals", 7) == int.from_bytes(hashlib.sha256(b"(0, 'signals', 7)").digest()[:6], "big")


def completion(tokens, logprobs):
    return Completion((1, 2), tokens, logprobs, "", "end")


TWO = [completion((3, 4, 5), (-0.1, -0.2, -0.3)), completion((6,), (-0.4,))]


def test_every_token_gets_its_completions_advantage():
    first, second = make_data(TWO, [0.5, -1.0])
    assert (first.prompt, first.tokens, first.advantages) == ((1, 2), (3, 4, 5), (0.5, 0.5, 0.5))
    assert (second.tokens, second.advantages) == ((6,), (-1.0,))
    assert (first.logprobs, second.logprobs) == ((-0.1, -0.2, -0.3), (-0.4,))
    assert first.old_logprobs is None
    assert first.reference_logprobs is None


def test_an_advantage_can_be_that_of_each_token():
    first, second = make_data(TWO, [(0.5, 0.0, -0.5), -1.0])
    assert (first.advantages, second.advantages) == ((0.5, 0.0, -0.5), (-1.0,))


def test_other_log_probabilities_go_to_their_completions():
    old, reference = [(-1.0, -2.0, -3.0), (-4.0,)], [(-5.0, -6.0, -7.0), (-8.0,)]
    data = make_data(TWO, [0.0, 0.0], old_logprobs=old, reference_logprobs=reference)
    assert [datum.old_logprobs for datum in data] == old
    assert [datum.reference_logprobs for datum in data] == reference


def test_an_advantage_is_needed_for_each_completion():
    with pytest.raises(ValueError, match="shorter"):
        make_data(TWO, [0.0])


def test_the_reference_is_asked_for_every_token():
    assert reference_logprobs(FakePolicy(), TWO, 1.0) == [(LOGPROB,) * 3, (LOGPROB,)]


@pytest.mark.parametrize(
    ("kind", "of_a_token"),
    [("k1", lambda r: r), ("k2", lambda r: r * r / 2), ("k3", lambda r: math.exp(-r) - 1 + r)],
)
def test_the_kl_of_a_sequence_is_the_sum_over_its_tokens(kind, of_a_token):
    reference = [(-0.3, -0.1, -0.3), (-1.4,)]
    # log ratios by hand: 0.2, −0.1, 0 and 1
    expected = torch.tensor([of_a_token(0.2) + of_a_token(-0.1) + of_a_token(0.0), of_a_token(1.0)])
    torch.testing.assert_close(sequence_kl(TWO, reference, kind), expected)
    first, _ = token_kl(TWO, reference, kind)
    torch.testing.assert_close(first, torch.tensor([of_a_token(0.2), of_a_token(-0.1), of_a_token(0.0)]))

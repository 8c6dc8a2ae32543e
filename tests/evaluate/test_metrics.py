"""pass@k by hand and by enumeration; intervals by hand, against the normal one, and by how often they cover."""

import math
from itertools import combinations, product

import numpy as np
import pytest

from counterpoint.evaluate.metrics import bootstrap_interval, difference_interval, pass_at_k, pass_at_k_Q, ratio_of


def test_pass_at_k_by_hand():
    assert pass_at_k(1, 4, 1) == pytest.approx(1 / 4)
    assert pass_at_k(1, 4, 2) == pytest.approx(1 / 2)  # 3 of 6 pairs miss the right one
    assert pass_at_k(2, 4, 2) == pytest.approx(5 / 6)  # 1 of 6 pairs holds both wrong ones
    assert pass_at_k(0, 4, 4) == 0.0
    assert pass_at_k(3, 4, 2) == 1.0  # no two are wrong


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    for samples in range(1, 7):
        for correct in range(samples + 1):
            right = [1] * correct + [0] * (samples - correct)
            for k in range(1, samples + 1):
                subsets = [max(subset) for subset in combinations(right, k)]
                assert pass_at_k(correct, samples, k) == pytest.approx(sum(subsets) / len(subsets))


def test_pass_at_k_of_many_samples_does_not_overflow():
    assert pass_at_k(1, 10_000, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("correct", "samples", "k"), [(5, 4, 1), (-1, 4, 1), (1, 4, 0), (1, 4, 5)])
def test_counts_that_cannot_be_are_refused(correct, samples, k):
    with pytest.raises(ValueError, match="must be between"):
        pass_at_k(correct, samples, k)


def test_batch_pass_at_k_is_that_of_each_question():
    rewards = [[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0]]
    expected = [pass_at_k(1, 4, 2), pass_at_k(2, 4, 2), pass_at_k(0, 3, 2)]
    assert pass_at_k_Q(rewards, 2).tolist() == pytest.approx(expected)


def test_batch_pass_at_k_of_fractions_is_the_mean_best_of_all_subsets():
    rewards = [0.3, 0.9, 0.1, 0.9, 0.5]
    for k in range(1, 6):
        best = [max(subset) for subset in combinations(rewards, k)]
        assert pass_at_k_Q([rewards], k)[0] == pytest.approx(sum(best) / len(best))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match="number of samples"):
        pass_at_k_Q([[1.0, 0.0], [1.0]], 2)


def test_interval_of_two_questions_by_hand():
    # means of two draws: 0 and 1 with chance 1/4 each, so both ends lie in a 95 % interval, and 1/2 alone in a 40 % one
    assert bootstrap_interval([0, 1]) == (0.0, 1.0)
    assert bootstrap_interval([0, 1], confidence=0.4) == (0.5, 0.5)


def test_interval_is_near_the_normal_one_for_many_questions():
    values = np.random.default_rng(1).normal(0.5, 0.2, size=2000)
    half = 1.96 * values.std() / math.sqrt(2000)
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(2).random((300, 100)) < 0.7
    intervals = [bootstrap_interval(row, resamples=400, seed=i) for i, row in enumerate(draws)]
    covered = sum(low <= 0.7 <= high for low, high in intervals)
    assert 0.91 <= covered / 300 <= 0.98


def test_interval_follows_from_its_seed():
    values = np.arange(20.0)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_of_equal_values_is_a_point():
    assert bootstrap_interval([1.0] * 8) == (1.0, 1.0)


@pytest.mark.parametrize("values", [[], [0.0, math.nan], [[0.0, 1.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="one finite value a question"):
        bootstrap_interval(values)


def test_confidence_must_be_a_share():
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([0.0, 1.0], confidence=95)


def test_paired_interval_forgets_what_both_share():
    hardness = np.random.default_rng(4).random(50)
    assert difference_interval(hardness + 0.25, hardness) == pytest.approx((0.25, 0.25))


def test_paired_interval_has_the_sign_of_a_less_b():
    low, high = difference_interval([1, 1, 1, 0], [0, 0, 0, 0])
    assert 0 <= low < 0.75 < high <= 1


def test_paired_interval_wants_the_same_questions():
    with pytest.raises(ValueError, match="same questions"):
        difference_interval([0.0, 1.0], [0.0])


def test_a_ratio_has_the_interval_of_all_its_resamples():
    """Four questions have 256 resamples, few enough to take every one."""
    a, b = np.array([1.0, 4.0, 2.0, 9.0]), np.array([3.0, 5.0, 2.0, 12.0])
    drawn = np.array(list(product(range(4), repeat=4)))
    low, high = np.quantile(a[drawn].sum(axis=1) / b[drawn].sum(axis=1), [0.025, 0.975])
    found = ratio_of(a, b, resamples=20_000)
    assert found.value == pytest.approx(16 / 22)  # of the sums, not the mean of the questions' own
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_a_ratio_forgets_how_hard_a_question_is():
    b = np.random.default_rng(0).random(50) + 0.1
    found = ratio_of(b / 4, b)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("a", "b"),
    [([1.0], [1.0, 2.0]), ([], []), ([math.nan], [1.0]), ([1.0], [math.inf]), ([1.0, 1.0], [0.0, 1.0]), ([1.0], [-1.0])],
)
def test_what_has_no_ratio_is_refused(a, b):
    with pytest.raises(ValueError, match="a ratio needs"):
        ratio_of(np.array(a), np.array(b))

"""Each shaper on a case worked by hand."""

import itertools
import math

import pytest
import torch

from counterpoint.dqo.shaping import EMBEDS, SHAPERS, Samples, clusters, dqo_terms
from counterpoint.rl.advantages import has_spread

REWARDS = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
TWO_ALIKE = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
SAMPLES = Samples(REWARDS, TWO_ALIKE, torch.tensor([[-1.0, -2.0, -3.0, -4.0]]))


def shaped(name, alpha, samples=SAMPLES, **options):
    return SHAPERS[name](samples, alpha, **options)[0].tolist()


@pytest.mark.parametrize("name", sorted(SHAPERS))
def test_without_strength_rewards_stay(name):
    assert shaped(name, 0.0) == pytest.approx(REWARDS[0].tolist())


def test_none_is_the_baseline():
    assert shaped("none", 3.0) == REWARDS[0].tolist()


def test_dqo_pays_the_leave_one_out_terms():
    """The alike two: [[2, 1], [1, 2]]⁻¹ has 2/3 on its diagonal, so d = log 1.5; an orthogonal one has log 2."""
    pair, lone = math.log(1.5), math.log(2)
    assert shaped("dqo", 0.5) == pytest.approx([1 + 0.5 * pair, 1 + 0.5 * pair, 0.5 * lone, 1 + 0.5 * lone])


def test_correct_only_counts_and_pays_only_right_responses():
    assert shaped("dqo", 1.0, correct_only=True) == pytest.approx([1 + math.log(1.5), 1 + math.log(1.5), 0, 1 + math.log(2)])


def test_correct_only_is_not_fooled_by_a_wrong_copy():
    """A wrong response that says the same as a right one takes nothing from it."""
    samples = Samples(torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    assert shaped("dqo", 1.0, samples, correct_only=True) == pytest.approx([1 + math.log(2), 0])
    assert shaped("dqo", 1.0, samples) == pytest.approx([1 + math.log(1.5), math.log(1.5)])


def test_a_quality_weighted_kernel_pays_a_wrong_response_little():
    expected = [1 + math.log(1.5), 1 + math.log(1.5), math.log(1 + math.exp(-4)), 1 + math.log(2)]
    assert shaped("dqo", 1.0, quality_temperature=0.25) == pytest.approx(expected)


def test_terms_alone_are_what_the_shaper_adds():
    added = torch.tensor(shaped("dqo", 2.0)) - REWARDS[0]
    assert (2 * dqo_terms(REWARDS, TWO_ALIKE)[0]).tolist() == pytest.approx(added.tolist())


def test_mean_distance_adds_how_far_the_others_are():
    assert shaped("mean_distance", 0.3) == pytest.approx([1 + 0.2, 1 + 0.2, 0.3, 1 + 0.3])


def test_unlikeliness_takes_most_from_the_likeliest():
    assert shaped("unlikeliness", 0.25) == pytest.approx([1 - 0.25, 1 - 0.25 * 3 / 4, 0, 1 - 0.25 / 4])


def test_unlikeliness_of_equals_is_equal():
    samples = Samples(torch.ones(1, 4), logprobs=torch.full((1, 4), -1.0))
    assert shaped("unlikeliness", 0.25, samples) == pytest.approx([1 - 0.25 * 2.5 / 4] * 4)


def test_pass_at_k_by_hand():
    """Of the sets of 2 that hold the wrong one, all three have a right one; with two wrong of four, two of three have."""
    assert shaped("pass_at_k", 1.0, k=2) == pytest.approx([1, 1, 1, 1])
    half = Samples(torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    assert shaped("pass_at_k", 1.0, half, k=2) == pytest.approx([1, 2 / 3, 2 / 3, 1])
    assert shaped("pass_at_k", 0.5, half, k=2) == pytest.approx([1, 1 / 3, 1 / 3, 1])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_over_all_sets(k):
    rewards = torch.tensor([[0.3, 0.9, 0.0, 0.9, 0.5], [0.0, 0.0, 1.0, 0.2, 0.1]])
    found = SHAPERS["pass_at_k"](Samples(rewards), 1.0, k=k)
    for q, row in enumerate(rewards.tolist()):
        for i in range(5):
            best = [max(row[j] for j in (i, *others)) for others in itertools.combinations({*range(5)} - {i}, k - 1)]
            assert float(found[q, i]) == pytest.approx(sum(best) / len(best))


def test_dra_divides_by_likeness():
    assert shaped("dra", 1.0) == pytest.approx([0.5, 0.5, 0, 1])


def test_darling_pays_the_share_outside_ones_own_partition():
    assert shaped("darling", 1.0) == pytest.approx([2 / 3, 2 / 3, 0, 1])
    everyone_apart = shaped("darling", 1.0, partition=lambda embeddings: torch.arange(4).expand(1, 4))
    assert everyone_apart == pytest.approx([1, 1, 0, 1])


def test_clusters_follow_chains():
    angles = torch.tensor([0.0, 0.3, 0.6, 2.0, 2.2])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=-1)[None]
    assert clusters(vectors, threshold=math.cos(0.31)).tolist() == [[0, 0, 0, 3, 3]]
    assert clusters(vectors, threshold=math.cos(0.21)).tolist() == [[0, 1, 2, 3, 3]]


def test_empty_responses_say_the_same():
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    assert clusters(vectors).tolist() == [[0, 1, 2, 1]]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("dqo", {}, 1 + 0.5 * math.log(2)),
        ("mean_distance", {}, 1),
        ("unlikeliness", {}, 0.5),
        ("pass_at_k", {"k": 1}, 1),
        ("dra", {}, 1),
        ("darling", {}, 0.5),
    ],
)
def test_a_group_of_one_is_defined(name, options, expected):
    lone = Samples(torch.ones(1, 1), torch.tensor([[[0.6, 0.8]]]), torch.tensor([[-2.0]]))
    assert shaped(name, 0.5, lone, **options) == pytest.approx([expected])


@pytest.mark.parametrize("name", sorted(EMBEDS))
def test_embeddings_that_are_not_finite_are_refused(name):
    broken = TWO_ALIKE.clone()
    broken[0, 2, 1] = math.nan
    with pytest.raises(ValueError, match=r"1 embeddings are not finite, the first at \(0, 2\)"):
        shaped(name, 1.0, Samples(REWARDS, broken))


@pytest.mark.parametrize("name", sorted(EMBEDS))
def test_identical_responses_are_paid_the_same(name):
    alike = Samples(torch.ones(1, 4), torch.tensor([0.6, 0.8]).expand(1, 4, 2))
    expected = {"dqo": 1 + math.log(5 / 4), "mean_distance": 1, "dra": 1 / 4, "darling": 0}[name]
    assert shaped(name, 1.0, alike) == pytest.approx([expected] * 4)


@pytest.mark.parametrize("name", sorted(EMBEDS))
def test_what_a_shaper_needs_is_asked_for(name):
    with pytest.raises(ValueError, match="needs embeddings"):
        shaped(name, 1.0, Samples(REWARDS))


def test_unlikeliness_asks_for_likelihoods():
    with pytest.raises(ValueError, match="needs logprobs"):
        shaped("unlikeliness", 0.2, Samples(REWARDS))


@pytest.mark.parametrize("k", [0, 5])
def test_a_k_that_a_group_does_not_have_is_refused(k):
    with pytest.raises(ValueError, match=f"1 ≤ k ≤ the group's size 4, got {k}"):
        shaped("pass_at_k", 1.0, k=k)


def test_a_reward_at_the_threshold_counts():
    samples = Samples(torch.tensor([[0.5, 0.49]]), torch.eye(2)[None])
    assert shaped("dqo", 1.0, samples, correct_only=True) == pytest.approx([0.5 + math.log(2), 0.49])


def test_dra_takes_the_opposite_of_a_response_for_unlike_and_no_more():
    """A likeness of −1 would divide by zero."""
    opposite = Samples(torch.ones(1, 2), torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]]))
    assert shaped("dra", 1.0, opposite) == pytest.approx([1, 1])


def test_terms_that_are_equal_by_symmetry_are_a_tie_for_advantages():
    """Two that say one thing and two that say another, in several orders."""
    generator = torch.Generator().manual_seed(0)
    two = torch.randn(50, 2, 64, generator=generator)
    for order in ([0, 0, 1, 1], [0, 1, 1, 0], [0, 1]):
        samples = Samples(torch.ones(50, len(order)), two[:, order])
        assert not has_spread(SHAPERS["dqo"](samples, 16.0)).any()

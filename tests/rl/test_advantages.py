"""Advantages against values worked by hand."""

import math

import pytest
import torch

from counterpoint.rl.advantages import (
    ADVANTAGES,
    advantages,
    dr_grpo,
    entropy_bonus,
    gae,
    grpo,
    has_spread,
    reinforce_pp,
    rloo,
    separately_normalised,
    whiten,
)

# Group one: mean 2, deviations -2, -1, 0, 3, sum of squares 14, unbiased variance 14/3. Group two ties.
REWARDS = torch.tensor([[0.0, 1.0, 2.0, 5.0], [3.0, 3.0, 3.0, 3.0]], dtype=torch.float64)
DEVIATIONS = torch.tensor([-2.0, -1.0, 0.0, 3.0], dtype=torch.float64)
ZEROS = torch.zeros(4, dtype=torch.float64)


def test_grpo_divides_deviations_by_the_unbiased_standard_deviation():
    expected = DEVIATIONS / (math.sqrt(14 / 3) + 1e-6)
    torch.testing.assert_close(grpo(REWARDS), torch.stack([expected, ZEROS]))


def test_grpo_epsilon_is_added_to_the_standard_deviation():
    torch.testing.assert_close(grpo(REWARDS, epsilon=1.0)[0], DEVIATIONS / (math.sqrt(14 / 3) + 1.0))


def test_grpo_gives_exact_zeros_to_a_tie_whose_mean_rounds():
    # In float32 the mean of ten times 0.1 is not 0.1, and the rest over a tiny deviation would be a signal.
    assert grpo(torch.full((1, 10), 0.1)).abs().max() == 0


def test_dr_grpo_subtracts_the_group_mean_and_keeps_the_scale():
    torch.testing.assert_close(dr_grpo(REWARDS), torch.stack([DEVIATIONS, ZEROS]))


def test_rloo_compares_each_sample_with_the_mean_of_the_others():
    # Means of the others: 8/3, 7/3, 6/3, 3/3.
    expected = torch.tensor([-8 / 3, 1 - 7 / 3, 0.0, 4.0], dtype=torch.float64)
    torch.testing.assert_close(rloo(REWARDS), torch.stack([expected, ZEROS]))
    torch.testing.assert_close(rloo(REWARDS), dr_grpo(REWARDS) * 4 / 3)


def test_reinforce_pp_normalises_over_the_whole_batch():
    # Mean (8 + 12) / 8 = 2.5; squares 6.25 + 2.25 + 0.25 + 6.25 + 4 * 0.25 = 16; unbiased variance 16 / 7.
    torch.testing.assert_close(reinforce_pp(REWARDS), (REWARDS - 2.5) / (math.sqrt(16 / 7) + 1e-6))


def test_only_reinforce_pp_sees_a_constant_added_to_one_question():
    shifted = REWARDS + torch.tensor([[0.0], [7.0]], dtype=torch.float64)
    for name in ("grpo", "dr_grpo", "rloo"):
        torch.testing.assert_close(advantages(name, shifted), advantages(name, REWARDS))
    assert not torch.allclose(reinforce_pp(shifted), reinforce_pp(REWARDS))


def test_separate_normalisation_keeps_the_strength_of_the_penalty_when_rewards_tie():
    # Penalties 0, 2: deviations -1, 1, unbiased standard deviation sqrt(2).
    rewards, penalties = torch.ones(1, 2), torch.tensor([[0.0, 2.0]])
    unit = 1 / math.sqrt(2)
    torch.testing.assert_close(separately_normalised(rewards, penalties, 0.1), torch.tensor([[0.1 * unit, -0.1 * unit]]))
    # Normalised as one number, the multiplier would be lost.
    torch.testing.assert_close(grpo(rewards - 0.1 * penalties), torch.tensor([[unit, -unit]]), atol=1e-4, rtol=0)


def test_separate_normalisation_is_grpo_when_penalties_tie_or_the_multiplier_is_zero():
    tied, penalties = torch.full_like(REWARDS, 4.0), REWARDS.flip(1)
    torch.testing.assert_close(separately_normalised(REWARDS, tied, 0.5), grpo(REWARDS))
    torch.testing.assert_close(separately_normalised(REWARDS, penalties, 0.0), grpo(REWARDS))


def test_separate_normalisation_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="one shape"):
        separately_normalised(torch.zeros(2, 3), torch.zeros(2, 2), 1.0)


def test_the_entropy_bonus_raises_advantages_and_never_turns_one_around():
    advantage = torch.tensor([[[1.0, 1.0, -1.0, 0.0]]])
    entropies = torch.tensor([[[0.5, 9.0, 9.0, 9.0]]])
    assert entropy_bonus(advantage, entropies, alpha=0.4)[0, 0].tolist() == pytest.approx([1.2, 1.5, -0.5, 0.0])
    with pytest.raises(ValueError, match="kappa must be above 1"):
        entropy_bonus(advantage, entropies, 0.1, kappa=1.0)


def test_has_spread_marks_the_groups_that_carry_a_signal():
    assert has_spread(REWARDS).tolist() == [True, False]
    assert has_spread(REWARDS * 1e-4).tolist() == [True, False]
    assert has_spread(torch.zeros(2, 1)).tolist() == [False, False]


@pytest.mark.parametrize("reward", [0.3, 1.0, 100.0])
def test_what_rounding_leaves_between_equal_rewards_is_no_spread(reward):
    """Terms that are equal by symmetry, as of the answers A, B, B, A, come out a last digit or two of float32 apart."""
    rewards = torch.tensor([[reward] * 4, [reward] * 3 + [reward * (1 + 1e-4)]])
    rewards[0, 1] = torch.nextafter(torch.nextafter(rewards[0, 1], torch.tensor(1e9)), torch.tensor(1e9))
    assert has_spread(rewards).tolist() == [False, True]
    assert grpo(rewards)[0].tolist() == [0, 0, 0, 0]
    assert whiten(rewards[:1], torch.ones(1, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_named_advantages_keep_shape_and_dtype(name, dtype):
    result = advantages(name, REWARDS.to(dtype))
    assert result.shape == REWARDS.shape
    assert result.dtype == dtype


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        (torch.zeros(4), r"\[Q, G\], got shape \[4\]"),
        (torch.zeros(2, 0), "non-empty"),
        (torch.zeros(2, 2, dtype=torch.long), "floating point"),
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), "question 1, sample 0: nan"),
        (torch.tensor([[0.0, float("inf")]]), "question 0, sample 1: inf"),
    ],
)
def test_wrong_rewards_are_refused_with_the_place(name, rewards, message):
    with pytest.raises(ValueError, match=message):
        advantages(name, rewards)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_a_group_of_one_is_refused_where_the_group_is_the_baseline(name):
    with pytest.raises(ValueError, match="at least two"):
        advantages(name, torch.zeros(3, 1))


def test_reinforce_pp_takes_groups_of_one_but_not_a_batch_of_one():
    # 0 and 2: mean 1, unbiased standard deviation sqrt(2).
    torch.testing.assert_close(
        reinforce_pp(torch.tensor([[0.0], [2.0]]), epsilon=0.0),
        torch.tensor([[-1.0], [1.0]]) / math.sqrt(2),
    )
    with pytest.raises(ValueError, match="one sample"):
        reinforce_pp(torch.zeros(1, 1))


def test_an_unknown_name_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="grpo, dr_grpo, rloo, reinforce_pp"):
        advantages("ppo", REWARDS)  # type: ignore[arg-type]


# The learned baseline


def tokens(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_gae_by_hand():
    # γ = 1/2, λ = 1/2, so γλ = 1/4. Row one: δ = (0 + 3/2 − 2, 4 − 3) = (−1/2, 1), A = (−1/2 + 1/4, 1).
    # Row two ends after its first token: δ = 6 − 5, and neither the value nor the reward behind it counts.
    mask = torch.tensor([[True, True], [True, False]])
    advantages, returns = gae(tokens([0, 4], [6, 9]), tokens([2, 3], [5, 7]), mask, 0.5, 0.5)
    torch.testing.assert_close(advantages, tokens([-0.25, 1], [1, 0]))
    torch.testing.assert_close(returns, tokens([1.75, 4], [6, 0]))


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_is_the_discounted_sum_of_the_errors_of_the_values(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 9, dtype=torch.float64, generator=generator)
    lengths = [9, 1, 5, 0]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, length in enumerate(lengths):
        after = [*values[i, :length].tolist(), 0.0]
        errors = [rewards[i, t].item() + gamma * after[t + 1] - after[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (u - t) * errors[u] for u in range(t, length)) for t in range(length)]
        assert advantages[i].tolist() == pytest.approx(expected + [0.0] * (9 - length))
        assert returns[i].tolist() == pytest.approx([a + v for a, v in zip(expected, after, strict=False)] + [0.0] * (9 - length))


def test_with_lambda_one_the_returns_are_the_sums_of_rewards_whatever_the_critic_says():
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, returns = gae(tokens([1, 0, 5]), tokens([40, -7, 3]), mask, 1.0, 1.0)
    torch.testing.assert_close(returns, tokens([6, 5, 5]))


def test_with_lambda_zero_only_the_next_value_counts():
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, _ = gae(tokens([0, 0, 5]), tokens([1, 2, 4]), mask, 1.0, 0.0)
    torch.testing.assert_close(advantages, tokens([1, 2, 1]))


def test_gae_steps_over_what_the_mask_leaves_out_even_nan():
    whole = gae(tokens([0, 4]), tokens([2, 3]), torch.ones(1, 2, dtype=torch.bool), 0.5, 0.5)
    nan = math.nan
    mask = torch.tensor([[True, False, True, False]])
    holed = gae(tokens([0, nan, 4, nan]), tokens([2, nan, 3, nan]), mask, 0.5, 0.5)
    for one, other in zip(whole, holed, strict=True):
        torch.testing.assert_close(other[:, [0, 2]], one)
        assert other[:, [1, 3]].tolist() == [[0.0, 0.0]]


def test_a_value_that_is_not_finite_is_seen_in_the_advantages_of_its_row_alone():
    mask = torch.ones(2, 2, dtype=torch.bool)
    advantages, _ = gae(tokens([0, 1], [0, 1]), tokens([0, math.nan], [0, 0]), mask, 1.0, 0.95)
    assert advantages.isfinite().tolist() == [[False, False], [True, True]]
    assert not whiten(advantages, mask).isfinite().all()


def test_gae_of_no_tokens_is_no_advantages():
    advantages, returns = gae(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 1.0, 0.95)
    assert advantages.shape == returns.shape == (2, 0)


def test_gae_refuses_shapes_that_differ_and_masks_of_numbers():
    with pytest.raises(ValueError, match=r"one shape \[N, T\], got \[1, 2\], \[1, 3\], \[1, 2\]"):
        gae(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 2, dtype=torch.bool), 1.0, 0.95)
    with pytest.raises(ValueError, match="mask must be bool"):
        gae(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1, 2), 1.0, 0.95)


def test_whitened_advantages_have_mean_zero_and_deviation_one_over_the_mask():
    # 0, 1, 2, 5 as in REWARDS: mean 2, unbiased variance 14/3; what is outside counts for nothing
    mask = torch.tensor([[True, True, False], [True, False, True]])
    whitened = whiten(tokens([0, 1, 99], [2, math.nan, 5]), mask, epsilon=0.0)
    expected = DEVIATIONS / math.sqrt(14 / 3)
    torch.testing.assert_close(whitened, tokens([expected[0], expected[1], 0], [expected[2], 0, expected[3]]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (0, 0)])
def test_advantages_that_do_not_differ_are_whitened_to_zeros(shape):
    whitened = whiten(torch.full(shape, 0.1), torch.ones(shape, dtype=torch.bool))
    assert whitened.tolist() == torch.zeros(shape).tolist()


def test_whitening_refuses_shapes_that_differ_and_masks_of_numbers():
    with pytest.raises(ValueError, match="one shape"):
        whiten(torch.zeros(1, 2), torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be bool"):
        whiten(torch.zeros(1, 2), torch.ones(1, 2))

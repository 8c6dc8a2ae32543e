"""What a signal is worth, against numbers worked by hand."""

import pytest
import torch

from counterpoint.duet.reward import aided_reward, length_penalty, signal_reward
from counterpoint.rl.advantages import dr_grpo, grpo, reinforce_pp, rloo

AIDED = torch.tensor([[1.0, 0.5], [0.25, 0.75]])
LENGTHS = torch.tensor([[100.0, 40.0], [10.0, 200.0]])
UNAIDED = torch.tensor([0.5, 0.25])


def test_the_aided_reward_is_the_mean_over_the_answers_of_a_signal():
    rewards_Q_G_A = torch.tensor([[[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]]])
    assert aided_reward(rewards_Q_G_A).tolist() == [[0.75, 0.25]]


def test_length_is_paid_in_units_of_the_length_scale():
    expected = torch.tensor([[0.5, 0.2], [0.05, 1.0]])
    torch.testing.assert_close(length_penalty(LENGTHS, 0.5, 100.0), expected)


def test_a_signal_earns_its_aided_reward_less_the_unaided_one_less_its_length():
    # R_i = r_Mm(i) − r_m − λ L_i / B with λ = 0.2 and B = 100
    expected = torch.tensor([[1.0 - 0.5 - 0.2, 0.5 - 0.5 - 0.08], [0.25 - 0.25 - 0.02, 0.75 - 0.25 - 0.4]])
    torch.testing.assert_close(signal_reward(AIDED, LENGTHS, 0.2, 100.0, UNAIDED), expected)


def test_without_marginal_utility_the_unaided_reward_is_left_out():
    expected = torch.tensor([[0.8, 0.42], [0.23, 0.35]])
    torch.testing.assert_close(signal_reward(AIDED, LENGTHS, 0.2, 100.0), expected)


def test_a_multiplier_of_zero_makes_length_free():
    assert torch.equal(signal_reward(AIDED, LENGTHS, 0.0, 100.0), AIDED)


@pytest.mark.parametrize("advantage", [grpo, dr_grpo, rloo])
def test_a_baseline_of_the_group_cancels_marginal_utility(advantage):
    with_it, without = signal_reward(AIDED, LENGTHS, 0.2, 100.0, UNAIDED), signal_reward(AIDED, LENGTHS, 0.2, 100.0)
    torch.testing.assert_close(advantage(with_it), advantage(without), rtol=0, atol=1e-5)


def test_the_baseline_of_the_batch_keeps_marginal_utility():
    with_it, without = (reinforce_pp(signal_reward(AIDED, LENGTHS, 0.2, 100.0, unaided)) for unaided in (UNAIDED, None))
    # the second question's signals help where m alone fails, so they gain on the first question's
    assert (with_it[1] - with_it[0] > without[1] - without[0] + 0.1).all()

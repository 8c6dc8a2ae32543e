"""The critic's loss against values worked by hand."""

import math

import pytest
import torch

from counterpoint.rl.values import explained_variance, value_loss

# Old values are 1 and the clip 1/2. By column: inside the clip; far and still on its way to the return; past the clip and nearer
# to the return than it; away from the return.
OLD = torch.tensor([1.0, 1.0, 1.0, 1.0])
VALUES = torch.tensor([1.25, 3.0, 3.0, -1.0])
RETURNS = torch.tensor([2.0, 1.75, 4.0, 4.0])


def test_the_loss_is_half_the_larger_of_the_errors_with_and_without_the_clip():
    values = VALUES.clone().requires_grad_()
    losses, clipped = value_loss(values, OLD, RETURNS, 0.5)
    # errors: 0.75; 1.25 against 0.25; 1 against 2.5; 5 against 3.5
    torch.testing.assert_close(losses, torch.tensor([0.75**2, 1.25**2, 2.5**2, 5.0**2]) / 2)
    assert clipped.tolist() == [False, False, True, False]
    losses.sum().backward()
    torch.testing.assert_close(values.grad, torch.tensor([-0.75, 1.25, 0.0, -5.0]))  # V − R, and none where the clip decides


def test_an_infinite_clip_leaves_the_squared_error():
    losses, clipped = value_loss(VALUES, OLD, RETURNS, math.inf)
    torch.testing.assert_close(losses, (VALUES - RETURNS) ** 2 / 2)
    assert not clipped.any()


def test_a_value_that_has_not_left_the_clip_is_never_counted_as_clipped():
    """Old + (value − old) is not the value in floating point."""
    generator = torch.Generator().manual_seed(0)
    old, values, returns = torch.rand(3, 10_000, generator=generator) / 5
    assert (old + (values - old) != values).any()
    assert not value_loss(values, old, returns, 0.2)[1].any()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got \[4\], \[3\], \[4\]"):
        value_loss(VALUES, OLD[:3], RETURNS, 0.5)
    for clip in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip must be a positive number"):
            value_loss(VALUES, OLD, RETURNS, clip)


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant():
    assert explained_variance(RETURNS, RETURNS) == 1
    assert explained_variance(RETURNS + 3, RETURNS) == pytest.approx(1)  # a constant error is not variance
    assert explained_variance(torch.zeros(4), RETURNS) == pytest.approx(0)
    # returns 0 and 2, values 1 and 2: errors −1 and 0, variances 1/4 and 1
    assert explained_variance(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])) == pytest.approx(0.75)
    assert explained_variance(-RETURNS, RETURNS) == pytest.approx(-3)


@pytest.mark.parametrize("returns", [[1.0, 1.0], [math.nan, 1.0], []])
def test_explained_variance_of_returns_without_any_is_not_a_number(returns):
    assert math.isnan(explained_variance(torch.zeros(len(returns)), torch.tensor(returns)))

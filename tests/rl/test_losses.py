"""Losses against values worked by hand, and the claims of their docstrings against enumeration."""

import math

import pytest
import torch

from counterpoint.rl.losses import LossSpec, aggregation_weights, kl, token_losses

LN2 = math.log(2)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def losses_and_gradient(spec, logprobs, old, advantages, mask=None, **others):
    logprobs = logprobs.clone().requires_grad_()
    mask = torch.ones_like(logprobs, dtype=torch.bool) if mask is None else mask
    losses, sums = token_losses(spec, logprobs, old, advantages, mask, **others)
    losses.sum().backward()
    return losses.detach(), logprobs.grad, {name: value.item() for name, value in sums.items()}


# Ratios 2, 2, 1/2, 1/2 and 1.1, each with either sign of the advantage where it matters.
OLD = row(-1.0, -1.0, -1.0, -1.0, -1.0)
NEW = OLD + row(LN2, LN2, -LN2, -LN2, math.log(1.1))
ADVANTAGES = row(3.0, -3.0, 3.0, -3.0, 1.0)


def test_importance_sampling_is_minus_ratio_times_advantage():
    losses, gradient, sums = losses_and_gradient(LossSpec("importance_sampling"), NEW, OLD, ADVANTAGES)
    expected = row(-6.0, 6.0, -1.5, 1.5, -1.1)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradient, expected)  # the gradient of exp is itself
    assert sums["tokens"] == 5
    assert sums["ratio_sum"] == pytest.approx(6.1)
    assert sums["clipped_tokens"] == 0


def test_clipped_takes_the_smaller_of_ratio_and_clipped_ratio_times_advantage():
    losses, gradient, sums = losses_and_gradient(LossSpec("clipped"), NEW, OLD, ADVANTAGES)
    # ratio 2:   A > 0 is cut at 1.28, -3.84; A < 0 is not, 6.
    # ratio 1/2: A > 0 is not cut, -1.5; A < 0 is cut at 0.8, 2.4.
    torch.testing.assert_close(losses, row(-3.84, 6.0, -1.5, 2.4, -1.1))
    torch.testing.assert_close(gradient, row(0.0, 6.0, -1.5, 0.0, -1.1))
    assert sums["clipped_tokens"] == 2


def test_cispo_cuts_the_weight_and_keeps_every_token_learning():
    losses, gradient, sums = losses_and_gradient(LossSpec("cispo"), NEW, OLD, ADVANTAGES)
    weights = row(1.28, 1.28, 0.5, 0.5, 1.1)  # cut at 1 + clip_high only
    torch.testing.assert_close(losses, -weights * ADVANTAGES * NEW)
    torch.testing.assert_close(gradient, -weights * ADVANTAGES)
    assert sums["clipped_tokens"] == 2


def test_gspo_uses_the_mean_log_ratio_of_the_sequence_for_every_token():
    # Log ratios 0.3 and -0.1 average 0.1; the third token is padding. exp(0.1) = 1.105 is inside the clip.
    mask = torch.tensor([[True, True, False]])
    old = row(-1.0, -1.0, -9.0)
    new = old + row(0.3, -0.1, 5.0)
    losses, gradient, sums = losses_and_gradient(LossSpec("gspo"), new, old, row(1.0, 2.0, 3.0), mask)
    ratio = math.exp(0.1)
    torch.testing.assert_close(losses, row(-ratio, -2 * ratio, 0.0))
    torch.testing.assert_close(gradient, row(-ratio, -2 * ratio, 0.0))
    assert sums["ratio_sum"] == pytest.approx(2 * ratio)


def test_gspo_clips_the_whole_sequence_at_once():
    # The mean of 0.6 and 0 is 0.3, exp(0.3) = 1.35 > 1.28, so both tokens stop, the unmoved one too.
    losses, gradient, sums = losses_and_gradient(LossSpec("gspo"), row(-0.4, -1.0), row(-1.0, -1.0), row(1.0, 1.0))
    torch.testing.assert_close(losses, row(-1.28, -1.28))
    torch.testing.assert_close(gradient, row(0.0, 0.0))
    assert sums["clipped_tokens"] == 2


def test_gspo_with_one_advantage_has_the_gradient_of_the_sequence_objective():
    old = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64)
    new = (old + torch.tensor([[0.05, -0.1, 0.2]], dtype=torch.float64)).requires_grad_()
    mask = torch.ones(1, 3, dtype=torch.bool)
    (sequence,) = torch.autograd.grad(-2.0 * torch.exp((new - old).mean()), new)
    losses, _ = token_losses(LossSpec("gspo"), new, old, torch.full_like(old, 2.0), mask)
    (token,) = torch.autograd.grad(losses.mean(), new)
    torch.testing.assert_close(token, sequence)


@pytest.mark.parametrize("name", ["importance_sampling", "clipped", "gspo", "cispo"])
def test_without_old_logprobs_the_gradient_is_the_policy_gradient(name):
    _, gradient, sums = losses_and_gradient(LossSpec(name), NEW, None, ADVANTAGES)
    torch.testing.assert_close(gradient, -ADVANTAGES)
    assert sums["ratio_sum"] == pytest.approx(5)
    assert sums["old_kl_sum"] == pytest.approx(0)


def test_old_kl_sums_the_k3_estimate_of_how_far_the_step_went():
    # k3 of KL(old, new) with ratio r is r - 1 - log r; for 2: 1 - ln 2, for 1/2: ln 2 - 1/2.
    _, _, sums = losses_and_gradient(LossSpec(), row(LN2, -LN2), row(0.0, 0.0), row(1.0, 1.0))
    assert sums["old_kl_sum"] == pytest.approx((1 - LN2) + (LN2 - 0.5))


def test_truncated_importance_weights_scale_the_policy_term_only():
    # old / sampler is 4, cut to 2, and 1/2, kept; the KL term (k2 of 1, times 0.1) is not weighted.
    old = row(-1.0, -1.0)
    sampler, reference = old - row(math.log(4), -LN2), old - 1.0
    spec = LossSpec("importance_sampling", max_importance_weight=2.0, kl_coefficient=0.1, kl_kind="k2")
    losses, gradient, sums = losses_and_gradient(
        spec, old, old, row(1.0, 1.0), sampler_logprobs=sampler, reference_logprobs=reference
    )
    torch.testing.assert_close(losses, row(-2.0 + 0.05, -0.5 + 0.05))
    torch.testing.assert_close(gradient, row(-2.0 + 0.1, -0.5 + 0.1))  # the weight has no gradient
    assert sums["truncated_tokens"] == 1
    assert sums["kl_sum"] == pytest.approx(1.0)


def test_kl_to_the_reference_is_reported_without_a_coefficient():
    losses, _, sums = losses_and_gradient(LossSpec(kl_kind="k1"), row(-1.0), None, row(0.0), reference_logprobs=row(-1.5))
    assert losses.item() == 0
    assert sums["kl_sum"] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["importance_sampling", "clipped", "gspo", "cispo"])
def test_padding_of_any_content_changes_nothing(name):
    spec = LossSpec(name, kl_coefficient=0.1, max_importance_weight=2.0)
    names = ("sampler_logprobs", "reference_logprobs")
    others = dict.fromkeys(names, OLD - 0.1)
    plain = losses_and_gradient(spec, NEW, OLD, ADVANTAGES, **others)

    def pad(tensor, value):
        return torch.cat([tensor, torch.full((1, 2), value, dtype=tensor.dtype)], dim=1)

    mask = pad(torch.ones_like(OLD, dtype=torch.bool), False)
    for junk in (math.nan, -math.inf, 1e4):
        padded = {name: pad(value, junk) for name, value in others.items()}
        losses, gradient, sums = losses_and_gradient(spec, pad(NEW, junk), pad(OLD, -junk), pad(ADVANTAGES, junk), mask, **padded)
        torch.testing.assert_close(losses, pad(plain[0], 0.0))
        torch.testing.assert_close(gradient, pad(plain[1], 0.0))
        assert sums == plain[2]


def test_a_ratio_that_would_overflow_stays_finite():
    losses, _, _ = losses_and_gradient(LossSpec(), torch.zeros(1, 2), torch.full((1, 2), -1e4), torch.zeros(1, 2))
    assert losses.tolist() == [[0.0, 0.0]]


def test_a_sequence_without_tokens_has_no_loss_and_no_nan():
    mask = torch.zeros_like(OLD, dtype=torch.bool)
    losses, gradient, sums = losses_and_gradient(LossSpec("gspo"), NEW, OLD, ADVANTAGES, mask)
    assert losses.abs().sum() == 0
    assert gradient.abs().sum() == 0
    assert sums["tokens"] == 0


def test_kl_estimates_by_hand():
    # log pi - log ref = ln 2: k1 = ln 2, k2 = (ln 2)^2 / 2, k3 = 1/2 - 1 + ln 2.
    values = [kl(kind, row(-1.0), row(-1.0 - LN2)).item() for kind in ("k1", "k2", "k3")]
    assert values == pytest.approx([LN2, LN2**2 / 2, LN2 - 0.5])


def test_kl_values_and_gradients_are_unbiased_where_the_docstring_says():
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.randn(6, dtype=torch.float64), -1)
    logprobs = torch.log_softmax(logits, -1)
    chances = logprobs.detach().exp()  # of drawing each token; a sample's chance has no gradient

    reverse = (logprobs.exp() * (logprobs - reference)).sum()
    forward = (reference.exp() * (reference - logprobs)).sum()
    expected = {kind: (chances * kl(kind, logprobs, reference)).sum() for kind in ("k1", "k2", "k3")}
    torch.testing.assert_close(expected["k1"], reverse)
    torch.testing.assert_close(expected["k3"], reverse)
    assert abs(expected["k2"] - reverse) > 0.01

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(expected["k1"]), torch.zeros_like(logits))
    torch.testing.assert_close(gradient(expected["k2"]), gradient(reverse))
    torch.testing.assert_close(gradient(expected["k3"]), gradient(forward))


LENGTHS = torch.tensor([1, 4, 0, 3])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", [1 / 8, 1 / 8, 1 / 8, 1 / 8]),
        ("sequence", [1 / 4, 1 / 16, 1 / 4, 1 / 12]),  # the third adds nothing, whatever its weight
        ("constant", [1 / 40, 1 / 40, 1 / 40, 1 / 40]),
    ],
)
def test_aggregation_weights_by_hand(aggregation, expected):
    assert aggregation_weights(LENGTHS, aggregation, 10).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("aggregation", "definition"),
    [
        ("token", lambda losses, mask: losses[mask].mean()),
        ("sequence", lambda losses, mask: (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()),
        ("constant", lambda losses, mask: losses.sum() / (4 * 10)),
    ],
)
def test_weighted_micro_batches_add_up_to_the_loss_of_the_whole_batch(aggregation, definition):
    torch.manual_seed(0)
    mask = torch.arange(4) < LENGTHS.unsqueeze(1)
    losses = torch.randn(4, 4) * mask
    weights = aggregation_weights(LENGTHS, aggregation, 10)
    for size in (1, 2, 3, 4):
        parts = zip(losses.split(size), weights.split(size), strict=True)
        total = sum((part.sum(1) * weight).sum() for part, weight in parts)
        torch.testing.assert_close(total, definition(losses, mask))


@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_weights_are_finite_when_no_sequence_has_a_token(aggregation):
    assert torch.isfinite(aggregation_weights(torch.zeros(2, dtype=torch.long), aggregation, 10)).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aggregation": "constant"}, "set it to a positive number of tokens"),
        ({"clip_low": -0.1}, "clip_low"),
        ({"kl_coefficient": -1.0}, "kl_coefficient"),
        ({"kl_coefficient": 0.1, "kl_kind": "k1"}, "zero expected gradient"),
        ({"max_importance_weight": 0.0}, "max_importance_weight"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        LossSpec(**fields)


def test_missing_and_misshapen_arguments_are_named():
    ones, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="needs reference_logprobs"):
        token_losses(LossSpec(kl_coefficient=0.1), ones, None, ones, mask)
    with pytest.raises(ValueError, match="needs sampler_logprobs"):
        token_losses(LossSpec(max_importance_weight=2.0), ones, None, ones, mask)
    with pytest.raises(ValueError, match=r"advantages must have the shape of logprobs, \[1, 2\], got \[2\]"):
        token_losses(LossSpec(), ones, None, torch.ones(2), mask)
    with pytest.raises(ValueError, match="mask must be bool"):
        token_losses(LossSpec(), ones, None, ones, ones)
    with pytest.raises(ValueError, match="constant_length"):
        aggregation_weights(LENGTHS, "constant")
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        kl("k4", ones, ones)  # type: ignore[arg-type]

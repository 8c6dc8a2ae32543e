"""Policy-gradient losses, token by token. Pure functions of log-probabilities and advantages.

Axis suffixes: `_N` sequences of a batch, `_T` tokens, padded to the longest. A step's loss is

    loss = Σ_i w_i Σ_t token_loss_it

with `token_losses` for the inner terms and `aggregation_weights` for w. The weights are made once for all
sequences of an optimizer step, so micro-batches simply add, however the step was cut into them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossName = Literal["importance_sampling", "clipped", "gspo", "cispo"]
Aggregation = Literal["token", "sequence", "constant"]
KLKind = Literal["k1", "k2", "k3"]

LARGEST_LOG_RATIO = 20.0
"""Log ratios are cut at ± this. exp(20) is far past every clip; an infinite ratio times an advantage of 0
would be NaN."""


@dataclass(frozen=True)
class LossSpec:
    """Which loss a policy takes a gradient step on: plain data, so that it can go to another machine."""

    name: LossName = "clipped"
    """
    - `importance_sampling`: − ρ A, with ρ = π / π_old; on-policy it is REINFORCE.
    - `clipped`: PPO's − min(ρ A, clip(ρ, 1 − clip_low, 1 + clip_high) A). arXiv 1707.06347.
    - `gspo`: `clipped` with the length-normalised ratio of the whole sequence, in its token form, so that
      advantages may differ by token. arXiv 2507.18071. Its ratios are near 1: the paper clips at
      3e-4 and 4e-4.
    - `cispo`: − min(ρ, 1 + clip_high) A log π, the weight without gradient: no token loses its gradient,
      however far it moved. As in MiniMax-M1's own runs there is no lower clip. arXiv 2506.13585. TRL's
      `epsilon_high` is the largest weight itself: 1 + clip_high here.
    """
    clip_low: float = 0.2
    clip_high: float = 0.28
    """More room upwards than downwards lets rare tokens grow (DAPO's clip-higher, arXiv 2503.14476)."""
    aggregation: Aggregation = "token"
    """
    - `token`: the mean over all tokens of the step (DAPO).
    - `sequence`: the mean over sequences of each one's mean (GRPO): tokens of long answers count for less.
    - `constant`: the sum over `constant_length`, averaged over sequences (Dr. GRPO, arXiv 2503.20783).
    """
    constant_length: int | None = None
    """Tokens that `constant` divides by, usually the token budget."""
    kl_coefficient: float = 0.0
    """Weight of the KL to the reference in the loss. DUET's is in M's reward instead. The estimate is added
    as it is; TRL, since DeepSeek-V3.2 (arXiv 2512.02556), multiplies it by ρ."""
    kl_kind: KLKind = "k3"
    max_importance_weight: float | None = None
    """Where the sampler is not the trainer (another engine, another precision), each token is weighted with
    min(π_old / π_sampler, this). Truncated importance sampling: "Your Efficient RL Framework Secretly Brings
    You Off-Policy RL Training" (Yao et al., 2025). None: off."""
    temperature: float = 1.0
    """The policy is the tempered distribution that was sampled: whoever computes its log-probabilities
    divides logits by this first. `token_losses` takes log-probabilities as they are."""

    def __post_init__(self) -> None:
        if self.clip_low < 0 or self.clip_high < 0:
            raise ValueError(f"clip_low and clip_high must not be negative, got {self.clip_low} and {self.clip_high}")
        if self.aggregation == "constant" and (self.constant_length is None or self.constant_length <= 0):
            raise ValueError(
                "aggregation='constant' divides by constant_length; set it to a positive number of tokens, "
                f"such as the token budget (got {self.constant_length})"
            )
        if self.kl_coefficient < 0:
            raise ValueError(f"kl_coefficient must not be negative, got {self.kl_coefficient}")
        if self.kl_coefficient > 0 and self.kl_kind == "k1":
            raise ValueError(
                "kl_kind='k1' in the loss has zero expected gradient: it would add noise and hold nothing. "
                "Use 'k2' or 'k3' here, or put k1 in the reward"
            )
        if self.max_importance_weight is not None and self.max_importance_weight <= 0:
            raise ValueError(f"max_importance_weight must be positive or None, got {self.max_importance_weight}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


def token_losses(
    spec: LossSpec,
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    sampler_logprobs: Tensor | None = None,
    reference_logprobs: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each token, and what to log about it.

    Args, all [N, T]; what stands where the mask is False is ignored, NaN included:
        logprobs: log π of each token under the policy that learns; the gradient goes through it.
        old_logprobs: log π_old, under the policy as it was when the step's ratios are 1. None: it is the
            present one, and ratios are 1 with the gradient they should have.
        advantages: A of each token.
        mask: bool, True where a token is learned from.
        sampler_logprobs: under the engine that sampled; needed with `max_importance_weight`.
        reference_logprobs: under the reference policy; needed with `kl_coefficient`.

    Returns:
        losses [N, T], zero where the mask is False, and detached scalars that are sums over the mask, so that
        those of micro-batches add (divide by `tokens` in the end): `tokens`; `ratio_sum`, of π / π_old (of
        the sequence's, in gspo); `clipped_tokens`, whose gradient or weight the clip changed; `old_kl_sum`,
        k3 of KL(π_old ‖ π), how far the step has gone; with the arguments they need, `truncated_tokens`,
        whose importance weight was cut, and `kl_sum`, of `kl_kind` to the reference.

    Raises `ValueError` for shapes that differ, a mask that is not bool, or a missing argument.
    """
    _check_same_shape(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        mask=mask,
        sampler_logprobs=sampler_logprobs,
        reference_logprobs=reference_logprobs,
    )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    # Padding may hold anything. Zeros keep it out of a sequence's mean and, with the fill at the end, its NaN
    # out of gradients.
    outside = ~mask
    logprobs = logprobs.masked_fill(outside, 0.0)
    old = logprobs if old_logprobs is None else old_logprobs.masked_fill(outside, 0.0)
    old = old.detach()

    log_ratio = (logprobs - old).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    ratio = torch.exp(_sequence_log_ratio(log_ratio, logprobs, mask) if spec.name == "gspo" else log_ratio)
    losses, clipped = _policy_losses(spec, ratio, logprobs, advantages)

    sums = {
        "tokens": mask,
        "ratio_sum": ratio,
        "clipped_tokens": clipped,
        "old_kl_sum": torch.exp(log_ratio) - 1 - log_ratio,
    }
    if spec.max_importance_weight is not None:
        if sampler_logprobs is None:
            raise ValueError("max_importance_weight needs sampler_logprobs; without them leave it None")
        log_weight = (old - sampler_logprobs).detach()
        weight = torch.exp(log_weight.clamp(max=LARGEST_LOG_RATIO))
        losses = losses * weight.clamp(max=spec.max_importance_weight)
        sums["truncated_tokens"] = weight > spec.max_importance_weight
    if reference_logprobs is not None:
        divergence = kl(spec.kl_kind, logprobs, reference_logprobs)
        losses = losses + spec.kl_coefficient * divergence
        sums["kl_sum"] = divergence
    elif spec.kl_coefficient > 0:
        raise ValueError("kl_coefficient needs reference_logprobs: give each datum its own, or set it to 0")

    losses = losses.masked_fill(outside, 0.0)
    return losses, {name: value.detach()[mask].sum().to(losses.dtype) for name, value in sums.items()}


def kl(kind: KLKind, logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(π ‖ π_ref) from tokens that π sampled; any shape.

    Schulman, "Approximating KL Divergence" (2020). With l = log π − log π_ref:

                                value                           expected gradient, in a loss
        k1 = l                  unbiased, can be negative       zero
        k2 = l² / 2             biased, good near π_ref         that of KL(π ‖ π_ref)
        k3 = exp(−l) − 1 + l    unbiased, never negative        that of KL(π_ref ‖ π)

    So log k3, put k1 into a reward, and know what k2 and k3 minimise in a loss (arXiv 2506.09477, which also
    shows that a token's term in the loss leaves out its effect on later tokens; the reward form has it).
    """
    log_ratio = logprobs - reference_logprobs
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return 0.5 * log_ratio**2
    if kind == "k3":
        return torch.exp(-log_ratio) - 1 + log_ratio
    raise ValueError(f"unknown KL estimate {kind!r}; choose k1, k2 or k3")


def aggregation_weights(lengths_N: Tensor, aggregation: Aggregation, constant_length: int | None = None) -> Tensor:
    """Weight w_i of each sequence in loss = Σ_i w_i Σ_t loss_it, float [N].

    Args:
        lengths_N: learned tokens T_i of EVERY sequence of the optimizer step, not of one micro-batch.

        token:     w_i = 1 / Σ_j T_j
        sequence:  w_i = 1 / (N T_i)
        constant:  w_i = 1 / (N constant_length)

    A sequence without tokens counts in N and adds nothing. Raises `ValueError` for an unknown aggregation, or
    `constant` without a length.
    """
    if lengths_N.dim() != 1:
        raise ValueError(f"lengths must be [N], got shape {list(lengths_N.shape)}")
    lengths = lengths_N.to(torch.float32)
    if aggregation == "token":
        return torch.ones_like(lengths) / lengths.sum().clamp(min=1)
    if aggregation == "sequence":
        return 1 / (len(lengths) * lengths.clamp(min=1))
    if aggregation == "constant":
        if constant_length is None or constant_length <= 0:
            raise ValueError(f"aggregation='constant' needs a positive constant_length, got {constant_length}")
        return torch.full_like(lengths, 1 / (len(lengths) * constant_length)) if len(lengths) else lengths
    raise ValueError(f"unknown aggregation {aggregation!r}; choose token, sequence or constant")


def _policy_losses(spec: LossSpec, ratio: Tensor, logprobs: Tensor, advantages: Tensor) -> tuple[Tensor, Tensor]:
    """Per-token losses and which tokens the clip touched, both [N, T]."""
    low, high = 1 - spec.clip_low, 1 + spec.clip_high
    if spec.name == "importance_sampling":
        return -ratio * advantages, torch.zeros_like(ratio, dtype=torch.bool)
    if spec.name == "cispo":
        weight = ratio.detach()
        return -weight.clamp(max=high) * advantages * logprobs, weight > high
    if spec.name in ("clipped", "gspo"):
        # The minimum bites only where a token has moved far enough already in the direction A wants.
        clipped = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
        return -torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages), clipped
    raise ValueError(f"unknown loss {spec.name!r}; choose importance_sampling, clipped, gspo or cispo")


def _sequence_log_ratio(log_ratio: Tensor, logprobs: Tensor, mask: Tensor) -> Tensor:
    """GSPO-token: the value is the sequence's mean log ratio, the gradient each token's own. [N, T]."""
    mean = (log_ratio * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.detach() + logprobs - logprobs.detach()


def _check_same_shape(logprobs: Tensor, **others: Tensor | None) -> None:
    if logprobs.dim() != 2:
        raise ValueError(f"logprobs must be [N, T], got shape {list(logprobs.shape)}")
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(f"{name} must have the shape of logprobs, {list(logprobs.shape)}, got {list(tensor.shape)}")

"""Advantages: how much better each sample of a group was than its baseline. Pure functions of rewards.

Axis suffixes: `_Q` questions, `_G` samples of a question's group, `_N` completions, `_T` their tokens. Rewards
are [Q, G] and so are the advantages; every token of a sample gets the sample's advantage. All of them raise
`ValueError` unless rewards are a finite floating-point tensor [Q, G] that is not empty, and those whose
baseline is the group's raise it for a group of one, which would teach nothing without saying so.

`gae` is the one whose baseline is a learned critic: its rewards, and its advantages, are a token's, [N, T].
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

AdvantageName = Literal["grpo", "dr_grpo", "rloo", "reinforce_pp"]

NO_SPREAD = 1e-6
"""Rewards of a group that differ by no more than this, times the largest of them if that is above 1, are a tie:
what is left is rounding (float32 has 1e-7 at 1), and dividing by its standard deviation would blow it up into a signal."""


def grpo(rewards_Q_G: Tensor, epsilon: float = 1e-6) -> Tensor:
    """A = (r − mean r) / (std r + ε), mean and std over the group. arXiv 2402.03300.

    The standard deviation is the unbiased one (G − 1), as in TRL and verl; TRL's ε is 1e-4, verl's 1e-6. A
    group that ties gets zeros.
    """
    _check_groups(rewards_Q_G)
    return _normalised(rewards_Q_G, epsilon)


def dr_grpo(rewards_Q_G: Tensor) -> Tensor:
    """A = r − mean r over the group; undivided, so a small difference stays small. arXiv 2503.20783."""
    _check_groups(rewards_Q_G)
    return rewards_Q_G - rewards_Q_G.mean(dim=1, keepdim=True)


def rloo(rewards_Q_G: Tensor) -> Tensor:
    """Leave-one-out baseline, A_i = r_i − mean_{j≠i} r_j = G / (G − 1) · dr_grpo. arXiv 2402.14740."""
    _check_groups(rewards_Q_G)
    others = rewards_Q_G.shape[1] - 1
    mean_of_others = (rewards_Q_G.sum(dim=1, keepdim=True) - rewards_Q_G) / others
    return rewards_Q_G - mean_of_others


def reinforce_pp(rewards_Q_G: Tensor, epsilon: float = 1e-6) -> Tensor:
    """REINFORCE++, A = (r − mean r) / (std r + ε), mean and std over the whole batch. arXiv 2501.03262.

    The only one here whose baseline is not the question's, so the only one in which DUET's unaided reward r_m
    changes the gradient. Std is unbiased, as in `grpo`. Groups of one are fine; a batch of one sample raises
    `ValueError`.
    """
    check_rewards(rewards_Q_G)
    if rewards_Q_G.numel() < 2:
        raise ValueError("reinforce_pp normalises over the batch and got one sample; give it at least two")
    return _normalised(rewards_Q_G.reshape(1, -1), epsilon).reshape(rewards_Q_G.shape)


def separately_normalised(rewards_Q_G: Tensor, penalties_Q_G: Tensor, multiplier: float, epsilon: float = 1e-6) -> Tensor:
    """A = grpo(r) − λ · grpo(penalty): λ is the penalty's strength relative to the reward, whatever ties.

    Normalising r − λ · penalty as one number loses λ: where all rewards of a group tie, the penalty alone is
    scaled to unit size, be λ 0.001 or 1. A term without spread in a group contributes zero there.
    """
    _check_groups(rewards_Q_G)
    _check_groups(penalties_Q_G, "penalties")
    if rewards_Q_G.shape != penalties_Q_G.shape:
        raise ValueError(
            f"rewards and penalties must have one shape [Q, G], got {list(rewards_Q_G.shape)} and {list(penalties_Q_G.shape)}"
        )
    return _normalised(rewards_Q_G, epsilon) - multiplier * _normalised(penalties_Q_G, epsilon)


def gae(rewards_N_T: Tensor, values_N_T: Tensor, mask_N_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, (advantages [N, T], returns [N, T]). arXiv 1506.02438, eq. 16.

        δ_t = r_t + γ V_{t+1} − V_t        A_t = Σ_l (γλ)^l δ_{t+l}        return_t = A_t + V_t

    V_t, in `values_N_T`, is the value of the state before token t. An episode ends with its row's last True in
    the mask: V is 0 after it. What stands where the mask is False is ignored, NaN included: those positions are
    stepped over, and have the advantage and the return 0. Returns are what the critic is to predict, the λ-return. A
    value that is not finite makes advantages that are not: whoever updates on them skips and counts. Raises
    `ValueError` for shapes that differ and a mask that is not bool.
    """
    if rewards_N_T.dim() != 2 or not rewards_N_T.shape == values_N_T.shape == mask_N_T.shape:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (rewards_N_T, values_N_T, mask_N_T))
        raise ValueError(f"rewards, values and mask must have one shape [N, T], got {shapes}")
    _check_mask(mask_N_T)
    zeros_N = values_N_T.new_zeros(len(values_N_T))
    advantages_N_T = torch.zeros_like(values_N_T)
    later_value_N, later_advantage_N = zeros_N, zeros_N
    for t in reversed(range(rewards_N_T.shape[1])):
        inside_N = mask_N_T[:, t]
        error_N = rewards_N_T[:, t] + gamma * later_value_N - values_N_T[:, t]
        later_advantage_N = torch.where(inside_N, error_N + gamma * lam * later_advantage_N, later_advantage_N)
        later_value_N = torch.where(inside_N, values_N_T[:, t], later_value_N)
        advantages_N_T[:, t] = torch.where(inside_N, later_advantage_N, zeros_N)
    return advantages_N_T, torch.where(mask_N_T, advantages_N_T + values_N_T, 0.0)


def whiten(advantages_N_T: Tensor, mask_N_T: Tensor, epsilon: float = 1e-6) -> Tensor:
    """(A − mean A) / (std A + ε), mean and unbiased std over the mask; zero where it is False. [N, T].

    As PPO does with the advantages of a batch (advantage normalisation, arXiv 2006.05990): a step's size no longer follows the
    rewards' scale. Advantages that do not differ, or a single one, become zeros.
    """
    if advantages_N_T.shape != mask_N_T.shape:
        raise ValueError(f"advantages and mask must have one shape, got {list(advantages_N_T.shape)}, {list(mask_N_T.shape)}")
    _check_mask(mask_N_T)
    kept = advantages_N_T[mask_N_T]
    whitened = torch.zeros_like(advantages_N_T)
    # not `>`, which would make zeros of NaN and hide it from the update that counts what is not finite
    if len(kept) < 2 or kept.max() - kept.min() <= NO_SPREAD * kept.abs().max().clamp(min=1):
        return whitened
    return whitened.masked_scatter(mask_N_T, (kept - kept.mean()) / (kept.std() + epsilon))


def entropy_bonus(advantages_Q_G_T: Tensor, entropies_Q_G_T: Tensor, alpha: float, kappa: float = 2.0) -> Tensor:
    """A_t + min(α · H_t, |A_t| / κ), per token: uncertain tokens count for more, and no sign changes. arXiv 2506.14758.

    DQO's peer that acts on advantages of tokens, where the shapers of dqo/shaping.py act on rewards of responses. The
    paper has α = 0.4 and κ = 2.
    H_t is the policy's entropy in nats where it drew token t.
    """
    if kappa <= 1:
        raise ValueError(f"kappa must be above 1, or the bonus could turn an advantage around; got {kappa}")
    return advantages_Q_G_T + torch.minimum(alpha * entropies_Q_G_T, advantages_Q_G_T.abs() / kappa)


def has_spread(values_Q_G: Tensor) -> Tensor:
    """bool [Q]: groups whose values differ by more than rounding, `NO_SPREAD`; only they carry a gradient signal."""
    check_rewards(values_Q_G, "values")
    scale = values_Q_G.abs().amax(dim=1).clamp(min=1)
    return (values_Q_G.amax(dim=1) - values_Q_G.amin(dim=1)) > NO_SPREAD * scale


ADVANTAGES: Mapping[AdvantageName, Callable[[Tensor], Tensor]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
}
"""What a recipe's `advantage` names."""


def advantages(name: AdvantageName, rewards_Q_G: Tensor) -> Tensor:
    """The advantage a recipe names, [Q, G]. Raises `ValueError` for an unknown name."""
    if name not in ADVANTAGES:
        raise ValueError(f"unknown advantage {name!r}; choose one of {', '.join(ADVANTAGES)}")
    return ADVANTAGES[name](rewards_Q_G)


def _normalised(values_Q_G: Tensor, epsilon: float) -> Tensor:
    """Rows at zero mean and unit standard deviation; zeros for a row without spread."""
    centred = values_Q_G - values_Q_G.mean(dim=1, keepdim=True)
    scaled = centred / (values_Q_G.std(dim=1, keepdim=True) + epsilon)
    return torch.where(has_spread(values_Q_G).unsqueeze(1), scaled, torch.zeros_like(scaled))


def check_rewards(values_Q_G: Tensor, what: str = "rewards") -> None:
    """Raises `ValueError` unless they are a finite floating-point tensor [Q, G] that is not empty."""
    if values_Q_G.dim() != 2 or values_Q_G.numel() == 0:
        raise ValueError(f"{what} must be a non-empty tensor [Q, G], got shape {list(values_Q_G.shape)}")
    if not values_Q_G.is_floating_point():
        raise ValueError(f"{what} must be floating point, got {values_Q_G.dtype}")
    bad = (~torch.isfinite(values_Q_G)).nonzero()
    if len(bad):
        question, sample = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} of {values_Q_G.numel()} {what} are not finite, the first at question {question}, "
            f"sample {sample}: {values_Q_G[question, sample].item()}"
        )


def _check_groups(values_Q_G: Tensor, what: str = "rewards") -> None:
    check_rewards(values_Q_G, what)
    if values_Q_G.shape[1] < 2:
        raise ValueError(
            f"{what} have one sample a group, which leaves nothing to compare it with: sample at least two, or use reinforce_pp"
        )


def _check_mask(mask_N_T: Tensor) -> None:
    if mask_N_T.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask_N_T.dtype}")

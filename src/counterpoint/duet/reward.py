"""What a signal is worth. Pure functions; arXiv 2605.01111.

Axis suffixes: `_Q` questions, `_G` signals of a question, `_A` answers to a signal.
"""

from torch import Tensor


def aided_reward(rewards_Q_G_A: Tensor) -> Tensor:
    """r_Mm(i): the mean reward of the answers that had signal i. [Q, G, A] -> [Q, G]."""
    return rewards_Q_G_A.mean(dim=-1)


def length_penalty(lengths_Q_G: Tensor, multiplier: float, length_scale: float) -> Tensor:
    """λ · L / B: lengths in M's tokens, `length_scale` B in tokens. [Q, G]."""
    return multiplier * lengths_Q_G / length_scale


def signal_reward(
    aided_Q_G: Tensor, lengths_Q_G: Tensor, multiplier: float, length_scale: float, unaided_Q: Tensor | None = None
) -> Tensor:
    """R_i = r_Mm(i) − r_m − λ · L_i / B, [Q, G]; without `unaided_Q`, r_m [Q], the marginal utility is left out.

    r_m is one number a question, so a baseline that is the group's own cancels it.
    """
    reward_Q_G = aided_Q_G - length_penalty(lengths_Q_G, multiplier, length_scale)
    return reward_Q_G if unaided_Q is None else reward_Q_G - unaided_Q.unsqueeze(-1)

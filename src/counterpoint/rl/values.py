"""What a critic minimises, and how well it predicts. Pure functions of values and returns, any shape."""

import torch
from torch import Tensor


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """½ max((V − R)², (clip(V, V_old − clip, V_old + clip) − R)²), and a bool that is True where the clip decides it.

    The value clipping of PPO's reference implementation (openai/baselines, ppo2; arXiv 2005.12729), the twin of the clipped ratio
    of arXiv 1707.06347: a value that has already moved by more than `clip` towards its return has no gradient. The gradient goes
    through `values`. `clip` may be infinite. Raises `ValueError` for shapes that differ or a clip that is not positive.
    """
    if not values.shape == old_values.shape == returns.shape:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in (values, old_values, returns))
        raise ValueError(f"values, old_values and returns must have one shape, got {shapes}")
    if not clip > 0:
        raise ValueError(f"clip must be a positive number, got {clip}")
    # bounds on the value, not on how far it moved: inside them it is then exactly itself, and does not count as clipped
    clipped = values.clamp(old_values.detach() - clip, old_values.detach() + clip)
    free_error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    return 0.5 * torch.maximum(free_error, clipped_error), (clipped_error > free_error).detach()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(R − V) / Var(R): 1 is a perfect critic, 0 one that says a constant, less than 0 one that is in the way.

    NaN where returns do not differ or something is not finite.
    """
    if not returns.numel() or not (spread := returns.var(correction=0)) > 0:
        return float("nan")
    return float(1 - (returns - values).var(correction=0) / spread)

"""Numbers of an evaluation: pass@k, and intervals that know that the samples of a question belong together. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Estimate:
    """A mean over questions with its 95 % interval."""

    value: float
    low: float
    high: float


def estimate_of(values_Q: NDArray[np.float64]) -> Estimate:
    """The mean of one finite value a question [Q]. Raises `ValueError` as `bootstrap_interval`."""
    return Estimate(float(values_Q.mean()), *bootstrap_interval(values_Q))


def difference_of(a_Q: NDArray[np.float64], b_Q: NDArray[np.float64]) -> Estimate | None:
    """Mean of a − b over the questions that have a finite value in both; None if there is none."""
    both = np.isfinite(a_Q) & np.isfinite(b_Q)
    if not both.any():
        return None
    a, b = a_Q[both], b_Q[both]
    return Estimate(float((a - b).mean()), *difference_interval(a, b))


def ratio_of(a_Q: NDArray[np.float64], b_Q: NDArray[np.float64], resamples: int = 2000, seed: int = 0) -> Estimate:
    """Σ a / Σ b over the same questions [Q] with a 95 % percentile bootstrap interval.

    Raises `ValueError` for different lengths, no questions, values that are not finite, or a sum of b that is not positive.
    """
    if a_Q.shape != b_Q.shape or not len(a_Q) or not (np.isfinite(a_Q).all() and np.isfinite(b_Q).all()):
        raise ValueError(f"a ratio needs finite values of the same questions, got shapes {a_Q.shape} and {b_Q.shape}")
    drawn = np.random.default_rng(seed).integers(len(a_Q), size=(resamples, len(a_Q)))
    below = b_Q[drawn].sum(axis=1)
    if b_Q.min() < 0 or below.min() <= 0:
        raise ValueError("a ratio needs a positive sum below the line")
    low, high = np.quantile(a_Q[drawn].sum(axis=1) / below, [0.025, 0.975])
    return Estimate(float(a_Q.sum() / b_Q.sum()), float(low), float(high))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Chance that at least one of `k` samples is right, estimated without bias from `samples` of which `correct` were.

    1 − C(n − c, k) / C(n, k), Chen et al., arXiv 2107.03374. Raises `ValueError` for counts that cannot be.
    """
    check_k(samples, k)
    if not 0 <= correct <= samples:
        raise ValueError(f"correct must be between 0 and samples ({samples}), got {correct}")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def pass_at_k_Q(rewards_Q: Sequence[Sequence[float]], k: int) -> NDArray[np.float64]:
    """pass@k of each question [Q] from the rewards of its samples, whose number may differ from question to question.

    Rewards may lie between 0 and 1: this is the expected best reward of `k` samples drawn without replacement,
    Σ_i C(i − 1, k − 1) / C(n, k) · r_(i) over the rewards in rising order. Where they are 0 and 1 it is `pass_at_k`.
    """
    return np.array([_expected_best(rewards, k) for rewards in rewards_Q], dtype=np.float64)


def _expected_best(rewards: Sequence[float], k: int) -> float:
    """The mean over all subsets of `k` rewards of the best of them."""
    samples = len(rewards)
    check_k(samples, k)
    # the i-th smallest is the best of a subset whose other k − 1 are among the i − 1 below it
    subsets = (math.comb(below, k - 1) for below in range(samples))
    return sum(count * reward for count, reward in zip(subsets, sorted(rewards), strict=True)) / math.comb(samples, k)


def bootstrap_interval(
    values_Q: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of one value a question [Q].

    Questions are resampled, not samples: those of one question are alike, and taking them as independent would make the
    interval too narrow. Where all values are equal its width is zero, which says little about so few questions.
    Raises `ValueError` for no values, or values that are not finite.
    """
    values = np.asarray(values_Q, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"an interval needs one finite value a question, got an array of shape {values.shape}: {values[:5]}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def difference_interval(
    a_Q: ArrayLike, b_Q: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Paired bootstrap interval of mean(a) − mean(b), both [Q] over the same questions in the same order.

    What makes a question hard is in both and cancels. Raises `ValueError` where the two have different lengths.
    """
    a, b = np.asarray(a_Q, dtype=np.float64), np.asarray(b_Q, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a paired difference needs the same questions in both, got shapes {a.shape} and {b.shape}")
    return bootstrap_interval(a - b, confidence, resamples, seed)


def check_k(samples: int, k: int) -> None:
    """Raises `ValueError` unless `k` of `samples` can be drawn."""
    if not 1 <= k <= samples:
        raise ValueError(f"k must be between 1 and the number of samples ({samples}), got {k}")

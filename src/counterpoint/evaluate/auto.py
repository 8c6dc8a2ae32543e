"""From what confidence on `auto` lets m's unaided answer stand: set on one half of the questions, measured on the other.

Confidence is the mean log-probability of an answer's tokens, untempered: that is what servers usually report, and its scale does
not hang on the temperature that a client asks for. The answers themselves are sampled with the settings of the evaluation.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterpoint.evaluate.metrics import Estimate, difference_of, estimate_of

TOLERANCE = 0.005
"""Accuracy that `auto` may lose against the pair: half a point."""
LEAST_SHARE = 0.05
"""Below this share of answers by m alone `auto` does not help: it would pay m every time for little, and a few lucky or wrong
answers within the tolerance would look like a threshold."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class BothWays:
    """A sample of a question: m's unaided answer, and the pair's, which `auto` asks for where m is not sure."""

    confidence: float | None
    """m's, in nats; None where it said nothing, and cannot be sure of it."""
    light: float
    """Reward of m's answer."""
    pair: float
    """Reward of the pair's."""
    capable_tokens: int
    """What M wrote for the pair's."""

    def is_sure(self, threshold: float | None) -> bool:
        """Whether m's answer stands."""
        return threshold is not None and self.confidence is not None and self.confidence >= threshold


@dataclass(frozen=True)
class Auto:
    """A threshold, and what `auto` does with it on questions that it was not set on."""

    threshold: float | None
    """Nats. None: there is none that helps, all go to the pair, and `auto` is not served."""
    share_light: float
    """Of the answers that m gives by itself."""
    accuracy: Estimate
    accuracy_difference: Estimate
    """Accuracy less that of the pair, paired by question."""
    capable_output_tokens: float
    """Mean over answers."""
    tolerance: float
    """Accuracy that the threshold might lose on the questions that it was set on."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Auto":
        """From plain values."""
        estimates = {name: Estimate(**values[name]) for name in ("accuracy", "accuracy_difference")}
        return cls(**{**values, **estimates})


def set_threshold(tried_Q: Sequence[Sequence[BothWays]], tolerance: float = TOLERANCE) -> Auto | None:
    """The threshold that every other question gives, measured on the rest; None for fewer than two questions.

    It is the lowest that keeps the accuracy of the pair less `tolerance`, if with it m answers `LEAST_SHARE` by itself.
    """
    setting, measuring = tried_Q[::2], tried_Q[1::2]
    if not measuring:
        return None
    threshold = lowest_threshold(setting, tolerance)
    if share_light(setting, threshold) < LEAST_SHARE:
        threshold = None
    accuracy = _means(measuring, lambda one: one.light if one.is_sure(threshold) else one.pair)
    difference = difference_of(accuracy, _means(measuring, lambda one: one.pair))
    assert difference is not None  # all rewards are finite
    return Auto(
        threshold=threshold,
        share_light=share_light(measuring, threshold),
        accuracy=estimate_of(accuracy),
        accuracy_difference=difference,
        capable_output_tokens=float(_means(measuring, lambda one: 0 if one.is_sure(threshold) else one.capable_tokens).mean()),
        tolerance=tolerance,
    )


def lowest_threshold(tried_Q: Sequence[Sequence[BothWays]], tolerance: float) -> float | None:
    """The lowest threshold with which `auto` keeps the accuracy of the pair less `tolerance`; None if none sends m an answer."""
    gains: defaultdict[float, float] = defaultdict(float)
    for group in tried_Q:
        for one in group:
            if one.confidence is not None:
                gains[one.confidence] += (one.light - one.pair) / len(group) / len(tried_Q)
    lowest, gain = None, 0.0
    for confidence in sorted(gains, reverse=True):
        gain += gains[confidence]
        if gain >= -tolerance - ROUNDING:
            lowest = confidence
    return lowest


def share_light(tried_Q: Sequence[Sequence[BothWays]], threshold: float | None) -> float:
    """Of the answers that m gives by itself with a threshold."""
    return float(_means(tried_Q, lambda one: one.is_sure(threshold)).mean())


def _means(tried_Q: Sequence[Sequence[BothWays]], value: Callable[[BothWays], float]) -> NDArray[np.float64]:
    """A mean over the samples of each question [Q]."""
    return np.array([fmean(value(one) for one in group) for group in tried_Q])

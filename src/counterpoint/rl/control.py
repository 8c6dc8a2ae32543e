"""Controllers: what sets the multiplier of the second objective (DUET's λ, DQO's α) from step to step.

Each is a frozen state with a `value`, the multiplier to use, and `observe`, which takes what the last step
showed and returns the next state. Nothing else is remembered, so a run resumed from `to_dict` goes on as if
it had not stopped.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Constant:
    """A multiplier that stays."""

    value: float

    def __post_init__(self) -> None:
        _check_finite(value=self.value)

    def observe(self, quality: float, mean_length_ratio: float) -> Self:
        """The same state."""
        _check_finite(quality=quality, mean_length_ratio=mean_length_ratio)
        return self


@dataclass(frozen=True)
class Linear:
    """A multiplier that goes in a line from `start` to `end` in so many steps, and stays there."""

    value: float
    start: float
    end: float
    steps: int
    taken: int = 0
    """State: observations so far."""

    def __post_init__(self) -> None:
        _check_finite(value=self.value, start=self.start, end=self.end)
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")

    def observe(self, quality: float, mean_length_ratio: float) -> Self:
        """The next value; what the step showed does not matter."""
        _check_finite(quality=quality, mean_length_ratio=mean_length_ratio)
        taken = min(self.taken + 1, self.steps)
        return replace(self, taken=taken, value=self.start + (self.end - self.start) * taken / self.steps)


@dataclass(frozen=True)
class LengthTarget:
    """DUET's adaptive λ: λ ← clip(λ + η · (mean L / B − 1), 0, 1). arXiv 2605.01111.

    It watches length alone, so where B is shorter than the shortest signal that still helps, λ rises until
    quality is gone. `QualityFloor` is the one that knows when to stop.
    """

    value: float = 0.0
    rate: float = 0.01
    """η."""

    def __post_init__(self) -> None:
        _check_finite(value=self.value, rate=self.rate)

    def observe(self, quality: float, mean_length_ratio: float) -> Self:
        """After a step whose lengths averaged `mean_length_ratio` = mean L / B."""
        _check_finite(quality=quality, mean_length_ratio=mean_length_ratio)
        return replace(self, value=_clip(self.value + self.rate * (mean_length_ratio - 1), 0.0, 1.0))


@dataclass(frozen=True)
class QualityFloor:
    """The multiplier as the dual variable of "keep quality at or above `floor`".

    A Lagrangian controlled by a proportional and an integral term (PI-Lagrangian, Stooke et al., arXiv
    2007.03964), with our sign: the multiplier weighs what is bought with quality. With quality's distance to
    the floor in units of `tolerance`, e = (smoothed − floor) / tolerance:

        integral ← clip(integral + rate · clip(e, −fall, 1), 0, maximum)
        value    = clip(integral + gain · clip(e, −fall, fall), 0, maximum)    with a gain
        value    = integral · max(0, 1 − shortfall / tolerance)                without

    The integral finds the multiplier at which quality rests on the floor. It is late, since a policy drifts
    on in the direction it was pushed; the second line is what keeps it from making waves. Without a gain the
    multiplier lets go at once: shortfall is how far the latest or the smoothed quality, the worse of the two,
    is below the floor, and at one tolerance below it nothing is asked any more. That is for a quality that a
    few steps can ruin; where a step strays by a tolerance from noise alone, it is a switch that noise throws,
    and a gain is steadier. Near the floor the error is linear, so noise does not move where quality rests;
    far from it, the integral falls `fall` times as fast as it ever rises.
    """

    floor: float
    """The quality to keep, on the scale of what `observe` is given."""
    value: float = 0.0
    """The multiplier to use now."""
    rate: float = 0.005
    """The most that the integral rises in a step: scale it with the multiplier's natural size."""
    tolerance: float = 0.02
    """The distance from the floor that matters, on the scale of quality."""
    gain: float | None = None
    """What a tolerance above the floor adds to the multiplier at once, and one below it takes."""
    fall: float = 4.0
    smoothing: float = 0.8
    """Weight of the past in the moving average of quality. More is steadier and later, and lateness makes
    waves."""
    maximum: float = 1.0
    grace: int = 0
    """Observations during which a quality that has never been at the floor leaves the multiplier alone."""
    integral: float | None = None
    """State. None: starts at `value`."""
    average: float = 0.0
    """State: the moving average, before the correction for its start at zero."""
    observations: int = 0
    """State: how many there were."""
    reached: bool = False
    """State: whether the smoothed quality has been at the floor."""

    def __post_init__(self) -> None:
        integral = self.value if self.integral is None else self.integral
        _check_finite(floor=self.floor, value=self.value, integral=integral, average=self.average)
        for name in ("rate", "tolerance", "fall", "maximum", "gain"):
            number = getattr(self, name)
            if number is not None and not (math.isfinite(number) and number > 0):
                raise ValueError(f"{name} must be a positive number, got {number}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if not 0 <= self.value <= self.maximum:
            raise ValueError(f"value must be between 0 and maximum {self.maximum}, got {self.value}")

    @property
    def smoothed(self) -> float | None:
        """The moving average of quality, without the pull of its start at zero; None before any
        observation."""
        return self.average / (1 - self.smoothing**self.observations) if self.observations else None

    def observe(self, quality: float, mean_length_ratio: float) -> Self:
        """After a step whose quality averaged `quality`. Length is not looked at."""
        _check_finite(quality=quality, mean_length_ratio=mean_length_ratio)
        observations = self.observations + 1
        average = self.smoothing * self.average + (1 - self.smoothing) * quality
        smoothed = average / (1 - self.smoothing**observations)

        if not self.reached and smoothed < self.floor and observations <= self.grace:
            return replace(self, average=average, observations=observations)
        distance = (smoothed - self.floor) / self.tolerance
        before = self.value if self.integral is None else self.integral
        integral = _clip(before + self.rate * _clip(distance, -self.fall, 1.0), 0.0, self.maximum)
        if self.gain is not None:
            value = _clip(integral + self.gain * _clip(distance, -self.fall, self.fall), 0.0, self.maximum)
        else:
            shortfall = max(0.0, self.floor - min(quality, smoothed))
            value = integral * max(0.0, 1 - shortfall / self.tolerance)
        return replace(
            self,
            value=value,
            integral=integral,
            average=average,
            observations=observations,
            reached=self.reached or smoothed >= self.floor,
        )


Controller = Constant | Linear | LengthTarget | QualityFloor

_KINDS: dict[str, type[Controller]] = {
    "constant": Constant,
    "linear": Linear,
    "length_target": LengthTarget,
    "quality_floor": QualityFloor,
}


def to_dict(controller: Controller) -> dict[str, Any]:
    """The controller as plain values, for a checkpoint: its `kind` and its fields."""
    kind = next(name for name, cls in _KINDS.items() if type(controller) is cls)
    return {"kind": kind, **asdict(controller)}


def from_dict(state: Mapping[str, Any]) -> Controller:
    """The controller that `to_dict` wrote. Raises `ValueError` for an unknown kind or fields that do not fit
    it."""
    fields = dict(state)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"unknown controller {kind!r}; choose one of {', '.join(_KINDS)}")
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:
        raise ValueError(f"the state of a {kind} controller does not fit: {error}") from error


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")

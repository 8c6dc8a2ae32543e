"""What a training step leaves to the next one: the multiplier's controller, the floor, and the counts that end a bad run."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from counterpoint.errors import TrainingError
from counterpoint.rl import control

FLAT_STEPS_BEFORE_WARNING = 10
NOT_FINITE_BEFORE_STOP = 5


@dataclass(frozen=True)
class State:
    """All that a step leaves to the next, besides the weights. It is in every checkpoint."""

    controller: control.Controller
    """Of the loop's own multiplier: DUET's λ, DQO's α."""
    floor: float | None = None
    capable_alone: float | None = None
    alpha: control.Controller | None = None
    """Of the diversity term's strength in a DUET run that has one."""
    flat_steps: int = 0
    not_finite: int = 0

    def to_dict(self) -> dict[str, Any]:
        alpha = None if self.alpha is None else control.to_dict(self.alpha)
        return {**self.__dict__, "controller": control.to_dict(self.controller), "alpha": alpha}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "State":
        alpha = values.get("alpha")
        controllers = {
            "controller": control.from_dict(values["controller"]),
            "alpha": None if alpha is None else control.from_dict(alpha),
        }
        return cls(**{**values, **controllers})


def after(state: State, controller: control.Controller, metrics: dict[str, float], quality: float) -> State:
    """The next state: the controller moved, steps without signal and updates that were not finite counted in a row.

    `quality` is the mean reward before any shaping. What is shaped gives groups a spread even where every response is wrong;
    such steps teach nothing but silence (lengths) or noise (diversity).
    """
    groups = sum(value for name, value in metrics.items() if name.endswith("groups"))
    dropped = sum(value for name, value in metrics.items() if name.endswith("groups_dropped"))
    not_finite = sum(value for name, value in metrics.items() if name.endswith("skipped_updates"))
    return replace(
        state,
        controller=controller,
        flat_steps=state.flat_steps + 1 if dropped == groups or quality == 0 else 0,
        not_finite=state.not_finite + 1 if not_finite else 0,
    )


def check_progress(state: State, warn: Callable[[str], None]) -> None:
    """Warn when no group has taught anything for a while; stop when updates keep being not finite."""
    if state.flat_steps and state.flat_steps % FLAT_STEPS_BEFORE_WARNING == 0:
        warn(
            f"no group had any spread in its rewards for {state.flat_steps} steps, so nothing was learned: every sample of "
            "a question was right, or every one wrong. Use questions of another difficulty, more samples a question, "
            "a higher temperature, or start from better warmed-up models"
        )
    check_finite(state.not_finite)


def check_finite(not_finite: int) -> None:
    """Stop after so many steps in a row with an update that was not finite."""
    if not_finite >= NOT_FINITE_BEFORE_STOP:
        raise TrainingError(
            f"{not_finite} steps in a row had a loss or gradient that is not finite; it was not applied. Lower the "
            "learning rate, use float32, or look at the last entries of metrics.jsonl for what grew"
        )

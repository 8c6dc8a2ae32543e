"""What a DUET step leaves to the next one: the multiplier's controller, the floor it keeps, and the counts that end a bad run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from counterpoint.config import ControlConfig, Recipe
from counterpoint.duet.infer import answer_alone
from counterpoint.duet.scoring import score
from counterpoint.errors import TrainingError
from counterpoint.policy.prompting import Speaker
from counterpoint.rl import control
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.types import Question, SamplingParams
from counterpoint.tasks.base import Task

FLAT_STEPS_BEFORE_WARNING = 10
NOT_FINITE_BEFORE_STOP = 5


@dataclass(frozen=True)
class State:
    """All that a step leaves to the next, besides the weights. It is in every checkpoint."""

    controller: control.Controller
    floor: float | None = None
    capable_alone: float | None = None
    flat_steps: int = 0
    not_finite: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "controller": control.to_dict(self.controller)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "State":
        return cls(**{**values, "controller": control.from_dict(values["controller"])})


def check_room(recipe: Recipe, capable: Speaker, light: Speaker, questions: Sequence[Question], alone: bool) -> None:
    """Raise `DataError` before the first step if a question is too long for a model, not hours later when its step comes.

    M needs room for the answer too where it answers itself: trained `alone`, or measured so for the floor.
    """
    duet, control = recipe.duet, recipe.control
    both = alone or (control.kind == "accuracy_floor" and control.floor_of == "capable")
    for question in questions:
        budget = duet.max_signal_tokens + duet.max_answer_tokens if both else duet.max_signal_tokens
        capable.renderer.signal_prompt(question.text, budget, question.id)
        if not alone:
            light.renderer.answer_prompt(question.text, "", duet.max_answer_tokens, question.id)


def start_state(recipe: Recipe, capable: Speaker, questions: Sequence[Question], task: Task) -> State:
    """λ's controller; for a floor that is a share of M alone's accuracy, it is measured, sampled as in evaluation."""
    settings = recipe.control
    if settings.kind != "accuracy_floor":
        return State(controller_for(settings, floor=None))
    if settings.floor_of == "absolute":
        return State(controller_for(settings, settings.floor), floor=settings.floor)
    duet = recipe.duet
    asked = question_batch(questions, 0, min(len(questions), 8 * duet.questions), recipe.run.seed)
    served = recipe.evaluation
    params = SamplingParams(duet.max_signal_tokens + duet.max_answer_tokens, served.temperature, served.top_p, served.top_k)
    alone = answer_alone(capable, asked, 2, params, seed_for(recipe.run.seed, "capable alone"))
    rewards, _ = score(task, asked, [[group] for group in alone], recipe.task.on_grader_error)
    accuracy = float(rewards.nanmean())
    if math.isnan(accuracy):
        raise TrainingError("M alone could not be graded on any question, so there is no accuracy to keep; check the grader")
    floor = settings.floor * accuracy
    return State(controller_for(settings, floor), floor=floor, capable_alone=accuracy)


def controller_for(settings: ControlConfig, floor: float | None) -> control.Controller:
    """The controller that a recipe names."""
    if settings.kind == "constant":
        return control.Constant(settings.value)
    if settings.kind == "length_target":
        return control.LengthTarget(settings.value, settings.rate)
    assert floor is not None
    return control.QualityFloor(
        floor=floor,
        value=settings.value,
        rate=settings.rate,
        tolerance=settings.tolerance,
        maximum=settings.maximum,
        grace=settings.grace,
    )


def after(state: State, controller: control.Controller, metrics: dict[str, float]) -> State:
    """The next state: the controller moved, steps without signal and updates that were not finite counted in a row."""
    groups = sum(value for name, value in metrics.items() if name.endswith("_groups"))
    dropped = sum(value for name, value in metrics.items() if name.endswith("_groups_dropped"))
    # lengths alone give groups a spread once λ is up; where every answer is wrong they teach nothing but silence
    accuracy = metrics.get("aided_accuracy", metrics.get("accuracy"))
    not_finite = sum(value for name, value in metrics.items() if name.endswith("_skipped_updates"))
    return replace(
        state,
        controller=controller,
        flat_steps=state.flat_steps + 1 if dropped == groups or accuracy == 0 else 0,
        not_finite=state.not_finite + 1 if not_finite else 0,
    )


def check_progress(state: State, warn: Callable[[str], None]) -> None:
    """Warn when no group has taught anything for a while; stop when updates keep being not finite."""
    if state.flat_steps and state.flat_steps % FLAT_STEPS_BEFORE_WARNING == 0:
        warn(
            f"no group had any spread in its rewards for {state.flat_steps} steps, so nothing was learned: every sample of "
            "a question was right, or every one wrong. Use questions of another difficulty, more signals or answers a question, "
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

"""Before DUET's first step: is there room for every question, which controller moves λ, which floor does it keep."""

import math
from collections.abc import Sequence

from counterpoint.config import ControlConfig
from counterpoint.duet.infer import answer_alone
from counterpoint.errors import TrainingError
from counterpoint.policy.prompting import Speaker
from counterpoint.recipe import DuetRecipe
from counterpoint.rl import control
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.scoring import score
from counterpoint.rl.state import State
from counterpoint.rl.types import Question, SamplingParams
from counterpoint.tasks.base import Task


def check_room(recipe: DuetRecipe, capable: Speaker, light: Speaker, questions: Sequence[Question], alone: bool) -> None:
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


def start_state(recipe: DuetRecipe, capable: Speaker, questions: Sequence[Question], task: Task) -> State:
    """λ's controller; for a floor that is a share of M alone's accuracy, it is measured, sampled as in evaluation.

    Raises `TrainingError` if M alone could not be graded at all, or is never right.
    """
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
    if accuracy == 0:
        raise TrainingError(
            f"M alone is never right on the {len(asked)} training questions it was measured on, so there is no accuracy to keep, "
            "and a floor of 0 would let λ silence it. Warm M up, take easier questions or another model, give it more tokens "
            "(duet.max_signal_tokens, duet.max_answer_tokens), or set control.floor_of = 'absolute'"
        )
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

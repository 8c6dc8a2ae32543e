"""Ask systems a task's test questions, all with the same settings, and grade what they say; `results.py` makes it numbers."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterpoint.errors import DataError, GraderError
from counterpoint.evaluate.auto import Auto, BothWays, set_threshold
from counterpoint.evaluate.baselines import (
    Attempt,
    System,
    capable_alone,
    capable_cut_then_answers,
    capable_cut_then_light,
    light_alone,
    light_alone_with_confidence,
    mean_signal_length,
    pair,
    settings_of,
)
from counterpoint.evaluate.results import Evaluation, Measured, Measures, TrainedBy, summarise, token_counts
from counterpoint.files import write_text
from counterpoint.policy.prompting import Speaker
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import extractor_of, grade_all

EVALUATION, SAMPLES = "evaluation.json", "evaluation_samples.jsonl"
PARTIAL = "evaluation_samples.partial.jsonl"
"""Samples of the systems measured so far; renamed when all are."""
REFERENCE, TRAINED_PAIR = "M alone", "trained pair"
"""What every system is compared with, and what is measured first: its signals set the cut of the others."""
BEFORE, LIGHT_ALONE, SOLO = "untrained pair", "m alone", "M trained alone"
"""The pair before training, m without a signal before training, and M trained with the same penalty and without m."""
UNAIDED = "trained m alone"
"""What `auto`'s threshold is set from; in the file of samples, but no system of the table."""
START = "start"
"""What DQO's policies are compared with: the model that they started from."""

LIMITS = ("train_limit", "test_limit")
"""Of a recipe's task, what does not decide how a question is asked: an evaluation says how many there were."""

Progress = Callable[[str, int, int], None]
"""(system, questions done, questions in all)."""


@dataclass(frozen=True)
class Speakers:
    """The models that `evaluate_pair` asks, before and after training."""

    initial_capable: Speaker
    initial_light: Speaker
    trained_capable: Speaker
    trained_light: Speaker
    solo_capable: Speaker | None = None
    """M trained with the same length penalty and without m; None leaves that baseline out."""


def evaluate_pair(
    speakers: Speakers,
    task: Task,
    recipe: DuetRecipe,
    *,
    measures: Measures | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
    trained_by: Mapping[str, TrainedBy] | None = None,
) -> Evaluation:
    """The trained pair against every baseline that could explain its gain away; see `evaluate_systems`.

    The trained pair is measured first: the mean length of its signals is the budget at which the untrained M is cut.
    """
    questions = questions_of(task, recipe)
    room = recipe.duet.max_signal_tokens + recipe.duet.max_answer_tokens
    for question in questions:  # M alone needs the most room: better to know before hours of sampling
        speakers.initial_capable.renderer.signal_prompt(question.text, room, question.id)
    measured: dict[str, Measured] = {}
    trained = {TRAINED_PAIR: pair(speakers.trained_capable, speakers.trained_light)}
    measure_into(measured, trained, questions, task, recipe, directory, on_progress)
    budget = max(1, round(mean_signal_length(measured[TRAINED_PAIR].attempts)))
    capable, light = speakers.initial_capable, speakers.initial_light
    systems = {
        REFERENCE: capable_alone(capable),
        LIGHT_ALONE: light_alone(light),
        BEFORE: pair(capable, light),
        "M cut, then m": capable_cut_then_light(capable, light, budget),
        "M cut, then answers": capable_cut_then_answers(capable, budget),
    }
    if speakers.solo_capable:
        systems[SOLO] = capable_alone(speakers.solo_capable)
    measure_into(measured, systems, questions, task, recipe, directory, on_progress)
    unaided = {UNAIDED: light_alone_with_confidence(speakers.trained_light)}
    measure_into(measured, unaided, questions, task, recipe, directory, on_progress)
    auto = set_threshold(both_ways(measured.pop(UNAIDED), measured[TRAINED_PAIR]))
    measured[TRAINED_PAIR] = measured.pop(TRAINED_PAIR)  # first measured, last shown
    return _conclude(measured, questions, task, recipe, measures, directory, budget, auto=auto, trained_by=trained_by)


def evaluate_systems(
    systems: Mapping[str, System],
    task: Task,
    recipe: Recipe,
    *,
    measures: Measures | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
    reference: str = REFERENCE,
    trained_by: Mapping[str, TrainedBy] | None = None,
) -> Evaluation:
    """Measure systems on the same test questions, with the settings of `recipe.evaluation`.

    Comparisons are with the system named `reference`, if there is one. With `directory`, evaluation.json and
    evaluation_samples.jsonl are written there; until all is measured, evaluation_samples.partial.jsonl holds what was.
    `trained_by` says which run a system is of.

    Raises:
        DataError: there are no systems or no test questions, or a question does not fit into a model's context.
        GraderError: the grader failed, or failed on every response of a system where it may be skipped.
    """
    if not systems:
        raise DataError("there is no system to evaluate; name at least one")
    questions = questions_of(task, recipe)
    measured: dict[str, Measured] = {}
    measure_into(measured, systems, questions, task, recipe, directory, on_progress)
    return _conclude(measured, questions, task, recipe, measures, directory, reference=reference, trained_by=trained_by)


def questions_of(task: Task, recipe: Recipe) -> list[Question]:
    """The questions that every system is asked. Raises `DataError` if there is none."""
    if not task.test:
        raise DataError(
            f"task {task.name!r} has no test questions to evaluate on; give it some, or set test_share in its options"
        )
    return task.evaluated_questions(recipe.evaluation.questions)


def embedder_name(recipe: Recipe) -> str | None:
    """With what a recipe's evaluation compares responses; None: not at all."""
    of_training = recipe.diversity.embedder if isinstance(recipe, DqoRecipe) else None
    return recipe.evaluation.embedder or of_training


def measure_into(
    measured: dict[str, Measured],
    systems: Mapping[str, System],
    questions: Sequence[Question],
    task: Task,
    recipe: Recipe,
    directory: Path | None,
    on_progress: Progress | None,
) -> None:
    """Add systems to `measured`; the samples are written after each, so that what fails later costs no more than itself."""
    for name, system in systems.items():
        measured[name] = measure(name, system, questions, task, recipe, on_progress)
        if directory is not None:
            rows = [row for done, its in measured.items() for row in sample_rows(done, its, questions)]
            write_text(directory / PARTIAL, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def measure(
    name: str, system: System, questions: Sequence[Question], task: Task, recipe: Recipe, on_progress: Progress | None = None
) -> Measured:
    """Ask a system all questions, batch by batch, and grade what it says; grading is not in the time."""
    size = min(recipe.evaluation.batch, len(questions))
    attempts: list[list[Attempt]] = []
    rewards: list[list[float | None]] = []
    seconds: list[float] = []
    signals_cut = 0
    if on_progress:
        on_progress(name, 0, len(questions))
    for start in range(0, len(questions), size):
        batch = questions[start : start + size]
        began = time.perf_counter()
        sampled = system(batch, settings_of(recipe, start // size))
        if len(batch) == size:
            seconds.append(time.perf_counter() - began)
        attempts += sampled.attempts
        rewards += grade(batch, sampled.attempts, task, recipe)
        signals_cut += sampled.signals_cut
        if on_progress:
            on_progress(name, len(attempts), len(questions))
    if all(reward is None for group in rewards for reward in group):
        raise GraderError(f"no response of {name!r} could be graded; set task.on_grader_error to 'stop' to see why")
    return Measured(attempts, rewards, statistics.median(seconds), signals_cut)


def grade(
    questions: Sequence[Question], attempts_Q: Sequence[Sequence[Attempt]], task: Task, recipe: Recipe
) -> list[list[float | None]]:
    """The reward of each attempt, questions × samples."""
    asked = [question for question, group in zip(questions, attempts_Q, strict=True) for _ in group]
    responses = [attempt.response for group in attempts_Q for attempt in group]
    rewards = iter(grade_all(task.grade, asked, responses, recipe.task.on_grader_error))
    return [[next(rewards) for _ in group] for group in attempts_Q]


def both_ways(unaided: Measured, pair: Measured) -> list[list[BothWays]]:
    """What `auto` may choose between, questions × samples, as far as both could be graded."""
    tried_Q: list[list[BothWays]] = []
    for its_unaided, light_rewards, its_pair, pair_rewards in zip(
        unaided.attempts, unaided.rewards, pair.attempts, pair.rewards, strict=True
    ):
        rows = zip(its_unaided, light_rewards, its_pair, pair_rewards, strict=True)
        tried_Q.append(
            [
                BothWays(light.confidence, light_reward, pair_reward, token_counts(paired)["capable_output_tokens"])
                for light, light_reward, paired, pair_reward in rows
                if light_reward is not None and pair_reward is not None
            ]
        )
    return [group for group in tried_Q if group]


def _conclude(
    measured: Mapping[str, Measured],
    questions: Sequence[Question],
    task: Task,
    recipe: Recipe,
    measures: Measures | None,
    directory: Path | None,
    cut_budget: int | None = None,
    reference: str = REFERENCE,
    auto: Auto | None = None,
    trained_by: Mapping[str, TrainedBy] | None = None,
) -> Evaluation:
    """The evaluation out of what was measured, written to `directory` if there is one."""
    settings = recipe.evaluation
    signal_tokens, answer_tokens = recipe.budgets
    compared = measured.get(reference)
    evaluation = Evaluation(
        task=task.name,
        questions=len(questions),
        samples=settings.samples,
        batch=min(settings.batch, len(questions)),
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_signal_tokens=signal_tokens,
        max_answer_tokens=answer_tokens,
        seed=recipe.run.seed,
        cut_budget=cut_budget,
        systems={
            name: summarise(system, recipe, measures or Measures(), compared, extractor_of(task.grade))
            for name, system in measured.items()
        },
        auto=auto,
        trained=dict(trained_by or {}),
        asked=recipe.task.model_dump(exclude=set(LIMITS), exclude_none=True),
        models={role: model.model for role, model in recipe.models.items()},
        embedder=embedder_name(recipe) if measures and measures.embedder else None,
    )
    if directory is not None:
        (directory / PARTIAL).replace(directory / SAMPLES)
        write_text(directory / EVALUATION, evaluation.to_json())
    return evaluation


def sample_rows(name: str, measured: Measured, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The lines of evaluation_samples.jsonl for a system."""
    return [
        {
            "question": question.id,
            "text": question.text,
            "reference": question.answer,
            "system": name,
            "sample": sample,
            "correct": reward,
            "signal": attempt.signal,
            "response": attempt.response,
            **token_counts(attempt),
            **({} if attempt.confidence is None else {"confidence": attempt.confidence}),
            **({"fell_back": True} if attempt.fell_back else {}),
        }
        for question, attempts, rewards in zip(questions, measured.attempts, measured.rewards, strict=True)
        for sample, (attempt, reward) in enumerate(zip(attempts, rewards, strict=True))
    ]

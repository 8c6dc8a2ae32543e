"""Measure systems on a task's test questions: accuracy, tokens, arithmetic, time and money, each against M alone."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterpoint.config import DuetRecipe, PriceConfig, Recipe
from counterpoint.dqo.embed import Embedder
from counterpoint.errors import DataError, GraderError, RunError
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
from counterpoint.evaluate.diversity import diversity_measures
from counterpoint.evaluate.metrics import Estimate, difference_of, estimate_of, pass_at_k_Q
from counterpoint.files import json_text, write_text
from counterpoint.flops import ModelShape, completion_flops
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.types import Question
from counterpoint.tasks.answers import Extractor
from counterpoint.tasks.base import Task, take
from counterpoint.tasks.graders import extractor_of, grade_all

EVALUATION, SAMPLES = "evaluation.json", "evaluation_samples.jsonl"
PARTIAL = "evaluation_samples.partial.jsonl"
"""Samples of the systems measured so far; renamed when all are."""
REFERENCE, TRAINED_PAIR = "M alone", "trained pair"
"""What every system is compared with, and what is measured first: its signals set the cut of the others."""
UNAIDED = "trained m alone"
"""What `auto`'s threshold is set from; in the file of samples, but no system of the table."""
START = "start"
"""What DQO's policies are compared with: the model that they started from."""

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


@dataclass(frozen=True)
class Shapes:
    """What FLOPs are counted from. Training changes neither."""

    capable: ModelShape
    light: ModelShape


@dataclass(frozen=True)
class Measures:
    """What is counted beside accuracy and tokens."""

    shapes: Shapes | None = None
    """None: no FLOPs."""
    embedder: Embedder | None = None
    """None: no measures of diversity."""


@dataclass(frozen=True)
class Measured:
    """What a system did on all questions."""

    attempts: list[list[Attempt]]
    """Questions × samples."""
    rewards: list[list[float | None]]
    """Questions × samples; None where the grader failed and was to be skipped."""
    seconds_per_batch: float
    """Median over the batches of full size."""
    signals_cut: int = 0


@dataclass(frozen=True)
class Result:
    """A system in numbers. Tokens, FLOPs and money are means over responses, each as if it had been asked for alone."""

    accuracy: Estimate
    """Mean reward."""
    pass_at: dict[int, Estimate]
    """By k. A k is missing if no question has as many graded samples."""
    capable_prompt_tokens: float
    capable_output_tokens: float
    light_prompt_tokens: float
    light_output_tokens: float
    flops: float | None
    """None where the shapes of the models are not known."""
    seconds_per_batch: float
    money_per_1000: float | None
    """For 1000 responses; None without prices."""
    unfinished: float
    """Share of answers that ran into the token budget."""
    signals_cut: int
    """Signals that lost tokens because they did not fit into the answer's prompt."""
    skipped: int
    """Responses that could not be graded; they count in costs only."""
    token_share: float | None
    """M's output tokens over those of M alone; None if M alone was not measured, or never answered."""
    accuracy_difference: Estimate | None
    """Accuracy less that of M alone, paired by question; None if M alone was not measured."""
    diversity: dict[str, Estimate]
    """Of the responses to a question, by the name of the measure (evaluate/diversity.py); empty where none was asked for."""
    fallbacks: int = 0
    """Responses in which a gateway let one model answer for the other, which had failed."""


@dataclass(frozen=True)
class Evaluation:
    """Systems measured on the same questions with the same settings."""

    task: str
    questions: int
    samples: int
    batch: int
    """Questions sampled together, each `samples` times."""
    temperature: float
    top_p: float
    top_k: int
    max_signal_tokens: int
    max_answer_tokens: int
    seed: int
    cut_budget: int | None
    """Signal tokens that the systems named "M cut" may write."""
    systems: dict[str, Result]
    auto: Auto | None = None
    """For a trained pair: what a gateway's policy `auto` would do."""

    def to_json(self) -> str:
        return json_text(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """What `to_json` wrote. Raises `RunError`."""
        try:
            values = json.loads(text)
            systems = {name: _result_from(result) for name, result in values.pop("systems").items()}
            auto = values.pop("auto", None)
            return cls(**values, systems=systems, auto=Auto.of(auto) if auto else None)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"this is no evaluation of this version ({type(error).__name__}: {error}); evaluate again") from error


def evaluate_pair(
    speakers: Speakers,
    task: Task,
    recipe: DuetRecipe,
    *,
    measures: Measures | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
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
        "m alone": light_alone(light),
        "untrained pair": pair(capable, light),
        "M cut, then m": capable_cut_then_light(capable, light, budget),
        "M cut, then answers": capable_cut_then_answers(capable, budget),
    }
    if speakers.solo_capable:
        systems["M trained alone"] = capable_alone(speakers.solo_capable)
    measure_into(measured, systems, questions, task, recipe, directory, on_progress)
    unaided = {UNAIDED: light_alone_with_confidence(speakers.trained_light)}
    measure_into(measured, unaided, questions, task, recipe, directory, on_progress)
    auto = set_threshold(both_ways(measured.pop(UNAIDED), measured[TRAINED_PAIR]))
    measured[TRAINED_PAIR] = measured.pop(TRAINED_PAIR)  # first measured, last shown
    return _conclude(measured, questions, task, recipe, measures, directory, budget, auto=auto)


def evaluate_systems(
    systems: Mapping[str, System],
    task: Task,
    recipe: Recipe,
    *,
    measures: Measures | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
    reference: str = REFERENCE,
) -> Evaluation:
    """Measure systems on the same test questions, with the settings of `recipe.evaluation`.

    Comparisons are with the system named `reference`, if there is one. With `directory`, evaluation.json and
    evaluation_samples.jsonl are written there; until all is measured, evaluation_samples.partial.jsonl holds what was.

    Raises:
        DataError: there are no systems or no test questions, or a question does not fit into a model's context.
        GraderError: the grader failed, or failed on every response of a system where it may be skipped.
    """
    if not systems:
        raise DataError("there is no system to evaluate; name at least one")
    questions = questions_of(task, recipe)
    measured: dict[str, Measured] = {}
    measure_into(measured, systems, questions, task, recipe, directory, on_progress)
    return _conclude(measured, questions, task, recipe, measures, directory, reference=reference)


def questions_of(task: Task, recipe: Recipe) -> list[Question]:
    """The questions that every system is asked. Raises `DataError` if there is none."""
    if not task.test:
        raise DataError(
            f"task {task.name!r} has no test questions to evaluate on; give it some, or set test_share in its options"
        )
    return take(task.test, recipe.evaluation.questions)


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
    )
    if directory is not None:
        (directory / PARTIAL).replace(directory / SAMPLES)
        write_text(directory / EVALUATION, evaluation.to_json())
    return evaluation


def summarise(
    measured: Measured, recipe: Recipe, measures: Measures, reference: Measured | None, extract: Extractor | None = None
) -> Result:
    """A system in numbers; `reference` is what it is compared with, `extract` finds the answer in a response."""
    shapes = measures.shapes
    attempts = [attempt for group in measured.attempts for attempt in group]
    tokens = [token_counts(attempt) for attempt in attempts]
    mean_tokens = {name: statistics.fmean(row[name] for row in tokens) for name in tokens[0]}
    graded_Q = [[reward for reward in group if reward is not None] for group in measured.rewards]
    pass_at = {}
    for k in recipe.evaluation.pass_at:
        enough = [group for group in graded_Q if len(group) >= k]
        if enough:
            pass_at[k] = estimate_of(pass_at_k_Q(enough, k))
    accuracy_Q = question_accuracies(measured)
    share, difference = None, None
    if reference is not None:
        of_reference = _mean_capable_output(reference)
        share = mean_tokens["capable_output_tokens"] / of_reference if of_reference else None
        difference = difference_of(accuracy_Q, question_accuracies(reference))
    prices = recipe.evaluation.prices
    return Result(
        accuracy=estimate_of(accuracy_Q[np.isfinite(accuracy_Q)]),
        pass_at=pass_at,
        **mean_tokens,
        flops=statistics.fmean(attempt_flops(attempt, shapes) for attempt in attempts) if shapes else None,
        seconds_per_batch=measured.seconds_per_batch,
        money_per_1000=1000 * response_price(mean_tokens, prices) if prices else None,
        unfinished=statistics.fmean(attempt.unfinished for attempt in attempts),
        signals_cut=measured.signals_cut,
        skipped=sum(reward is None for group in measured.rewards for reward in group),
        fallbacks=sum(attempt.fell_back for attempt in attempts),
        token_share=share,
        accuracy_difference=difference,
        diversity=diversity_of(measured, measures.embedder, extract) if measures.embedder else {},
    )


def diversity_of(measured: Measured, embedder: Embedder, extract: Extractor | None) -> dict[str, Estimate]:
    """How different the graded responses to a question are, by every measure; one without a value at any question is left out.

    Answers are told apart as `extract` finds them. Without it their number is left out too: nothing says which wordings of a
    response are one answer.
    """
    kept_Q = [
        [(attempt.response, reward) for attempt, reward in zip(attempts, rewards, strict=True) if reward is not None]
        for attempts, rewards in zip(measured.attempts, measured.rewards, strict=True)
    ]
    kept_Q = [group for group in kept_Q if group]
    texts_Q = [[text for text, _ in group] for group in kept_Q]
    vectors = embedder([text for texts in texts_Q for text in texts]).vectors
    values = diversity_measures(
        texts_Q,
        [[reward for _, reward in group] for group in kept_Q],
        vectors.split([len(texts) for texts in texts_Q]),
        k=max(len(texts) for texts in texts_Q),
        answers_Q=[[extract(text) or "" for text in texts] for texts in texts_Q] if extract else None,
    )
    if extract is None:
        del values["different_correct"]
    defined = {name: values_Q[np.isfinite(values_Q)] for name, values_Q in values.items()}
    return {name: estimate_of(values_Q) for name, values_Q in defined.items() if len(values_Q)}


def token_counts(attempt: Attempt) -> dict[str, int]:
    """What an attempt took of each model, its calls added up."""
    return {
        "capable_prompt_tokens": sum(call.prompt_tokens for call in attempt.capable),
        "capable_output_tokens": sum(call.output_tokens for call in attempt.capable),
        "light_prompt_tokens": sum(call.prompt_tokens for call in attempt.light),
        "light_output_tokens": sum(call.output_tokens for call in attempt.light),
    }


def attempt_flops(attempt: Attempt, shapes: Shapes) -> float:
    """Arithmetic of an attempt, call by call: attention makes it more than linear in a call's tokens."""
    calls = [(shapes.capable, call) for call in attempt.capable] + [(shapes.light, call) for call in attempt.light]
    return float(sum(completion_flops(shape, call.prompt_tokens, call.output_tokens) for shape, call in calls))


def response_price(tokens: Mapping[str, float], prices: PriceConfig) -> float:
    """What `token_counts` cost at prices per million tokens."""
    return (
        tokens["capable_prompt_tokens"] * prices.capable_input
        + tokens["capable_output_tokens"] * prices.capable_output
        + tokens["light_prompt_tokens"] * prices.light_input
        + tokens["light_output_tokens"] * prices.light_output
    ) / 1e6


def question_accuracies(measured: Measured) -> NDArray[np.float64]:
    """Mean reward of each question [Q] over the samples that were graded; NaN where none was."""
    graded_Q = [[reward for reward in group if reward is not None] for group in measured.rewards]
    return np.array([statistics.fmean(group) if group else np.nan for group in graded_Q])


def sample_rows(name: str, measured: Measured, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The lines of evaluation_samples.jsonl for a system."""
    return [
        {
            "question": question.id,
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


def _mean_capable_output(measured: Measured) -> float:
    return statistics.fmean(token_counts(attempt)["capable_output_tokens"] for group in measured.attempts for attempt in group)


def _result_from(values: dict[str, Any]) -> Result:
    difference = values["accuracy_difference"]
    estimates = {
        "accuracy": Estimate(**values["accuracy"]),
        "pass_at": {int(k): Estimate(**estimate) for k, estimate in values["pass_at"].items()},
        "accuracy_difference": None if difference is None else Estimate(**difference),
        "diversity": {name: Estimate(**estimate) for name, estimate in values["diversity"].items()},
    }
    return Result(**{**values, **estimates})

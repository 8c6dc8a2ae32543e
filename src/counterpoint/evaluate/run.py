"""Measure systems on a task's test questions: accuracy, tokens, arithmetic, time and money, each against M alone."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from counterpoint.config import PriceConfig, Recipe
from counterpoint.duet.infer import Speaker
from counterpoint.errors import DataError, GraderError, RunError
from counterpoint.evaluate.baselines import (
    Attempt,
    System,
    capable_alone,
    capable_cut_then_answers,
    capable_cut_then_light,
    light_alone,
    mean_signal_length,
    pair,
    settings_of,
)
from counterpoint.evaluate.metrics import bootstrap_interval, difference_interval, pass_at_k_Q
from counterpoint.files import json_text, write_text
from counterpoint.flops import ModelShape, completion_flops
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Task, take
from counterpoint.tasks.graders import grade_all

EVALUATION, SAMPLES = "evaluation.json", "evaluation_samples.jsonl"
REFERENCE, TRAINED_PAIR = "M alone", "trained pair"
"""What every system is compared with, and what is measured first: its signals set the cut of the others."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which is lost on white; a marker of its own for each, for print in grey
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#CC79A7", "#D55E00")
MARKERS = ("o", "v", "s", "D", "^", "P", "*")

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
class Estimate:
    """A mean over questions with its 95 % interval."""

    value: float
    low: float
    high: float


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
    """M's output tokens over those of M alone; None if M alone was not measured."""
    accuracy_difference: Estimate | None
    """Accuracy less that of M alone, paired by question; None as above."""


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

    def to_json(self) -> str:
        return json_text(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """What `to_json` wrote. Raises `RunError`."""
        try:
            values = json.loads(text)
            systems = {name: _result_from(result) for name, result in values.pop("systems").items()}
            return cls(**values, systems=systems)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"this is no evaluation of this version ({type(error).__name__}: {error}); evaluate again") from error


def evaluate_pair(
    speakers: Speakers,
    task: Task,
    recipe: Recipe,
    *,
    shapes: Shapes | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """The trained pair against every baseline that could explain its gain away; see `evaluate_systems`.

    The trained pair is measured first: the mean length of its signals is the budget at which the untrained M is cut.
    """
    questions = questions_of(task, recipe)
    trained = measure(TRAINED_PAIR, pair(speakers.trained_capable, speakers.trained_light), questions, task, recipe, on_progress)
    budget = max(1, round(mean_signal_length(trained.attempts)))
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
    measured = {name: measure(name, system, questions, task, recipe, on_progress) for name, system in systems.items()}
    return _conclude({**measured, TRAINED_PAIR: trained}, questions, task, recipe, shapes, directory, budget)


def evaluate_systems(
    systems: Mapping[str, System],
    task: Task,
    recipe: Recipe,
    *,
    shapes: Shapes | None = None,
    directory: Path | None = None,
    on_progress: Progress | None = None,
) -> Evaluation:
    """Measure systems on the same test questions, with the settings of `recipe.evaluation`.

    Comparisons are with the system named "M alone", if there is one. With `directory`, evaluation.json and
    evaluation_samples.jsonl are written there, whole or not at all.

    Raises:
        DataError: there are no systems or no test questions, or a question does not fit into a model's context.
        GraderError: the grader failed, or failed on every response of a system where it may be skipped.
    """
    if not systems:
        raise DataError("there is no system to evaluate; name at least one")
    questions = questions_of(task, recipe)
    measured = {name: measure(name, system, questions, task, recipe, on_progress) for name, system in systems.items()}
    return _conclude(measured, questions, task, recipe, shapes, directory)


def questions_of(task: Task, recipe: Recipe) -> list[Question]:
    """The questions that every system is asked. Raises `DataError` if there is none."""
    if not task.test:
        raise DataError(
            f"task {task.name!r} has no test questions to evaluate on; give it some, or set test_share in its options"
        )
    return take(task.test, recipe.evaluation.questions)


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


def _conclude(
    measured: Mapping[str, Measured],
    questions: Sequence[Question],
    task: Task,
    recipe: Recipe,
    shapes: Shapes | None,
    directory: Path | None,
    cut_budget: int | None = None,
) -> Evaluation:
    """The evaluation out of what was measured, written to `directory` if there is one."""
    settings = recipe.evaluation
    reference = measured.get(REFERENCE)
    evaluation = Evaluation(
        task=task.name,
        questions=len(questions),
        samples=settings.samples,
        batch=min(settings.batch, len(questions)),
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_signal_tokens=recipe.duet.max_signal_tokens,
        max_answer_tokens=recipe.duet.max_answer_tokens,
        seed=recipe.run.seed,
        cut_budget=cut_budget,
        systems={name: summarise(system, recipe, shapes, reference) for name, system in measured.items()},
    )
    if directory is not None:
        rows = [row for name, system in measured.items() for row in sample_rows(name, system, questions)]
        write_text(directory / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_text(directory / EVALUATION, evaluation.to_json())
    return evaluation


def summarise(measured: Measured, recipe: Recipe, shapes: Shapes | None, reference: Measured | None) -> Result:
    """A system in numbers; `reference` is M alone."""
    attempts = [attempt for group in measured.attempts for attempt in group]
    tokens = [token_counts(attempt) for attempt in attempts]
    mean_tokens = {name: statistics.fmean(row[name] for row in tokens) for name in tokens[0]}
    graded_Q = [[reward for reward in group if reward is not None] for group in measured.rewards]
    pass_at = {}
    for k in recipe.evaluation.pass_at:
        enough = [group for group in graded_Q if len(group) >= k]
        if enough:
            pass_at[k] = _estimate(pass_at_k_Q(enough, k))
    accuracy_Q = question_accuracies(measured)
    share, difference = None, None
    if reference is not None:
        share = mean_tokens["capable_output_tokens"] / _mean_capable_output(reference)
        difference = _difference(accuracy_Q, question_accuracies(reference))
    prices = recipe.evaluation.prices
    return Result(
        accuracy=_estimate(accuracy_Q[np.isfinite(accuracy_Q)]),
        pass_at=pass_at,
        **mean_tokens,
        flops=statistics.fmean(attempt_flops(attempt, shapes) for attempt in attempts) if shapes else None,
        seconds_per_batch=measured.seconds_per_batch,
        money_per_1000=1000 * response_price(mean_tokens, prices) if prices else None,
        unfinished=statistics.fmean(attempt.unfinished for attempt in attempts),
        signals_cut=measured.signals_cut,
        skipped=sum(reward is None for group in measured.rewards for reward in group),
        token_share=share,
        accuracy_difference=difference,
    )


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
        }
        for question, attempts, rewards in zip(questions, measured.attempts, measured.rewards, strict=True)
        for sample, (attempt, reward) in enumerate(zip(attempts, rewards, strict=True))
    ]


def print_table(evaluation: Evaluation, console: Console) -> None:
    """The systems in a table of at most 110 columns; what is left out of it is in evaluation.json."""
    results = evaluation.systems.values()
    k = max((k for result in results for k in result.pass_at if k > 1), default=None)
    columns: dict[str, list[str]] = {
        "accuracy\n%": [_percent(result.accuracy) for result in results],
        "− M alone\npoints": [_percent(result.accuracy_difference, "+") for result in results],
        f"pass@{k}\n%": [_percent_alone(result.pass_at.get(k or 0)) for result in results] if k else [],
        "M out\ntokens": [f"{result.capable_output_tokens:.1f}" for result in results],
        "of M\nalone": ["–" if result.token_share is None else f"{result.token_share:.0%}" for result in results],
        "m out\ntokens": [f"{result.light_output_tokens:.1f}" for result in results],
        "FLOPs": ["–" if result.flops is None else _engineering(result.flops) for result in results],
        "s a\nbatch": [f"{result.seconds_per_batch:.3g}" for result in results],
        "money\nper 1000": [f"{result.money_per_1000:.4g}" for result in results if result.money_per_1000 is not None],
    }
    shown = {title: cells for title, cells in columns.items() if any(cell != "–" for cell in cells)}
    table = Table("system", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    for title in shown:
        table.add_column(title, justify="right", no_wrap=True)
    for row in zip(evaluation.systems, *shown.values(), strict=True):
        table.add_row(*row)
    console.print(table)
    skipped = sum(result.skipped for result in results)
    console.print(
        f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples, batch of {evaluation.batch}; "
        "± is half a 95 % interval over questions"
        + (f"; M cut at {evaluation.cut_budget} tokens" if evaluation.cut_budget else "")
        + (f"; {skipped} responses could not be graded" if skipped else ""),
        style="dim",
        highlight=False,
    )


def plot(evaluation: Evaluation, path: str | Path) -> Path:
    """Accuracy over M's output tokens as a picture; returns its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)  # not pyplot: a library leaves the user's backend alone
    axes = figure.subplots()
    for i, (name, result) in enumerate(evaluation.systems.items()):
        accuracy = result.accuracy
        axes.errorbar(
            result.capable_output_tokens,
            100 * accuracy.value,
            yerr=[[100 * max(0.0, accuracy.value - accuracy.low)], [100 * max(0.0, accuracy.high - accuracy.value)]],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=11 if MARKERS[i % len(MARKERS)] == "*" else 8,
            capsize=3,
            elinewidth=1,
            label=name,
        )
    axes.set_xlabel("M's output tokens a response")
    axes.set_ylabel("Accuracy, %, with 95 % interval")
    axes.set_title(f"{evaluation.task}: {evaluation.questions} questions × {evaluation.samples} samples", fontsize=11)
    axes.margins(x=0.15, y=0.12)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.draw()  # fixes where the points are, and so where there is room for labels
    label_points(axes, evaluation.systems)
    figure.savefig(path)
    return Path(path)


def label_points(axes: "Axes", systems: Mapping[str, Result]) -> None:
    """Write its name beside each point, where it covers neither a point, an interval nor another name; else to its right."""
    from matplotlib.transforms import Bbox

    renderer = axes.get_figure(root=True).canvas.get_renderer()  # pyright: ignore
    places = [((dx, dy), "left" if dx > 0 else "right") for dy in (5, -12, 18, -25) for dx in (9, -9)]
    taken: list[Bbox] = []
    for result in systems.values():
        ends = [(result.capable_output_tokens, 100 * end) for end in (result.accuracy.low, result.accuracy.high)]
        taken.append(Bbox(axes.transData.transform(ends)).padded(8))
    for name, result in systems.items():
        point = (result.capable_output_tokens, 100 * result.accuracy.value)
        labels = []
        for offset, side in places:
            labels.append(axes.annotate(name, point, offset, textcoords="offset points", ha=side, fontsize=9))
            area = labels[-1].get_window_extent(renderer)
            if axes.bbox.x0 <= area.x0 and area.x1 <= axes.bbox.x1 and not area.count_overlaps(taken):
                break
        else:
            labels.append(labels.pop(0))
        for label in labels[:-1]:
            label.remove()
        taken.append(labels[-1].get_window_extent(renderer))


def _estimate(values_Q: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values_Q.mean()), *bootstrap_interval(values_Q))


def _difference(a_Q: NDArray[np.float64], b_Q: NDArray[np.float64]) -> Estimate | None:
    """Mean of a − b over the questions that were graded in both; None if there is none."""
    both = np.isfinite(a_Q) & np.isfinite(b_Q)
    if not both.any():
        return None
    a, b = a_Q[both], b_Q[both]
    return Estimate(float((a - b).mean()), *difference_interval(a, b))


def _mean_capable_output(measured: Measured) -> float:
    return statistics.fmean(token_counts(attempt)["capable_output_tokens"] for group in measured.attempts for attempt in group)


def _result_from(values: dict[str, Any]) -> Result:
    difference = values["accuracy_difference"]
    estimates = {
        "accuracy": Estimate(**values["accuracy"]),
        "pass_at": {int(k): Estimate(**estimate) for k, estimate in values["pass_at"].items()},
        "accuracy_difference": None if difference is None else Estimate(**difference),
    }
    return Result(**{**values, **estimates})


def _percent(estimate: Estimate | None, sign: str = "") -> str:
    """A share in percent with half the width of its interval."""
    if estimate is None:
        return "–"
    number = f"{100 * estimate.value:{sign}.1f}".replace("-", "−")
    return f"{number} ± {50 * (estimate.high - estimate.low):.1f}"


def _percent_alone(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{100 * estimate.value:.1f}"


def _engineering(number: float) -> str:
    """A number with three digits and a prefix."""
    prefixes = ["", "k", "M", "G", "T", "P", "E"]
    while number >= 999.5 and len(prefixes) > 1:
        number, prefixes = number / 1000, prefixes[1:]
    return f"{number:.3g} {prefixes[0]}".rstrip()

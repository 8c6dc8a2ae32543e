"""From what systems said to numbers: accuracy, tokens, arithmetic, time and money, each against one of them."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterpoint.config import PriceConfig
from counterpoint.dqo.embed import Embedder
from counterpoint.errors import RunError
from counterpoint.evaluate.auto import Auto
from counterpoint.evaluate.baselines import (
    Attempt,
)
from counterpoint.evaluate.diversity import diversity_measures
from counterpoint.evaluate.metrics import Estimate, difference_of, estimate_of, pass_at_k_Q
from counterpoint.files import json_text
from counterpoint.flops import ModelShape, completion_flops
from counterpoint.recipe import Recipe
from counterpoint.tasks.answers import Extractor


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
    embeddings_truncated: int = 0
    """Responses that the embedder of the measures of diversity did not read to their end."""


@dataclass(frozen=True)
class TrainedBy:
    """The run that trained a system, which its name alone does not tell from another's."""

    run: str
    """The id in its run.json."""
    step: int | None
    """Its last step, when it was measured; None where its metrics do not say."""


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
    trained: dict[str, TrainedBy] = field(default_factory=dict)
    """System -> its run; without those that no run trained, and empty where an older version measured."""
    asked: dict[str, Any] = field(default_factory=dict)
    """The recipe's task, as far as it decides what is asked and how it is graded; empty where an older version measured."""
    models: dict[str, str] = field(default_factory=dict)
    """Role -> the recipe's model, as it was before training; empty where an older version measured."""
    embedder: str | None = None
    """What the measures of diversity are of; None without them, and where an older version measured."""

    def to_json(self) -> str:
        return json_text(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Evaluation":
        """What `to_json` wrote. Raises `RunError`."""
        try:
            values = json.loads(text)
            systems = {name: result_from(result) for name, result in values.pop("systems").items()}
            auto = values.pop("auto", None)
            trained = {name: TrainedBy(**by) for name, by in values.pop("trained", {}).items()}
            return cls(**values, systems=systems, auto=Auto.of(auto) if auto else None, trained=trained)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunError(f"this is no evaluation of this version ({type(error).__name__}: {error}); evaluate again") from error


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
    diversity, truncated = diversity_of(measured, measures.embedder, extract) if measures.embedder else ({}, 0)
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
        diversity=diversity,
        embeddings_truncated=truncated,
    )


def diversity_of(measured: Measured, embedder: Embedder, extract: Extractor | None) -> tuple[dict[str, Estimate], int]:
    """How different the graded responses to a question are, by every measure; one without a value at any question is left out.
    And how many of them the embedder did not read to their end.

    Answers are told apart as `extract` finds them. Without it their number is left out too: nothing says which wordings of a
    response are one answer.
    """
    kept_Q = [
        [(attempt.response, reward) for attempt, reward in zip(attempts, rewards, strict=True) if reward is not None]
        for attempts, rewards in zip(measured.attempts, measured.rewards, strict=True)
    ]
    kept_Q = [group for group in kept_Q if group]
    texts_Q = [[text for text, _ in group] for group in kept_Q]
    embedded = embedder([text for texts in texts_Q for text in texts])
    values = diversity_measures(
        texts_Q,
        [[reward for _, reward in group] for group in kept_Q],
        embedded.vectors.split([len(texts) for texts in texts_Q]),
        k=max(len(texts) for texts in texts_Q),
        answers_Q=[[extract(text) or "" for text in texts] for texts in texts_Q] if extract else None,
    )
    if extract is None:
        del values["different_correct"]
    defined = {name: values_Q[np.isfinite(values_Q)] for name, values_Q in values.items()}
    return {name: estimate_of(values_Q) for name, values_Q in defined.items() if len(values_Q)}, embedded.truncated


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


def _mean_capable_output(measured: Measured) -> float:
    return statistics.fmean(token_counts(attempt)["capable_output_tokens"] for group in measured.attempts for attempt in group)


def result_from(values: dict[str, Any]) -> Result:
    """A system of `to_json`. Raises `KeyError`, `TypeError` or `ValueError` for what is none."""
    difference = values["accuracy_difference"]
    estimates = {
        "accuracy": Estimate(**values["accuracy"]),
        "pass_at": {int(k): Estimate(**estimate) for k, estimate in values["pass_at"].items()},
        "accuracy_difference": None if difference is None else Estimate(**difference),
        "diversity": {name: Estimate(**estimate) for name, estimate in values["diversity"].items()},
    }
    return Result(**{**values, **estimates})

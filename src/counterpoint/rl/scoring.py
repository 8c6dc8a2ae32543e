"""Grades of sampled completions as tensors."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from counterpoint.errors import TrainingError
from counterpoint.policy.prompting import answer_of
from counterpoint.rl.types import Completion, Question
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import grade_all


def score(
    task: Task,
    questions: Sequence[Question],
    completions: Sequence[Sequence[Sequence[Completion]]],
    on_error: Literal["stop", "skip"],
) -> tuple[Tensor, int]:
    """Rewards [Q, G, A] of the completions, NaN where the grader failed and was to be skipped; and how many those are."""
    flat = [(question, c) for question, group in zip(questions, completions, strict=True) for row in group for c in row]
    graded = grade_all(task.grade, [q for q, _ in flat], [answer_of(c.text) for _, c in flat], on_error=on_error)
    values = torch.tensor([math.nan if reward is None else reward for reward in graded])
    shape = (len(completions), len(completions[0]), len(completions[0][0]))
    return values.reshape(shape), int(values.isnan().sum())


def score_responses(
    task: Task,
    questions: Sequence[Question],
    responses_Q_G: Sequence[Sequence[Completion]],
    on_error: Literal["stop", "skip"],
    step: int,
) -> tuple[Tensor, list[int], int]:
    """Rewards [kept, G] of a step's responses, which questions are kept, and how many gradings were skipped.

    A question with a response that could not be graded leaves the step. Raises `TrainingError` where none is left.
    """
    rewards_Q_G_1, skipped = score(task, questions, [[[c] for c in group] for group in responses_Q_G], on_error)
    kept = ~rewards_Q_G_1.isnan().any(dim=(1, 2))
    if not kept.any():
        raise TrainingError(f"step {step + 1}: no question could be graded ({skipped} gradings skipped); check the grader")
    return rewards_Q_G_1[kept].squeeze(-1), kept.nonzero().flatten().tolist(), skipped

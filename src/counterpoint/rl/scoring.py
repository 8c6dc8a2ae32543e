"""Grades of sampled completions as tensors."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

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

"""Supervised warm-up on worked solutions: the cross-entropy of what a model should write.

The gradient of − log π(token) is that of the policy gradient with advantage 1 on data that was not sampled, so a policy needs no
sixth verb for it.
"""

import math
import random
from collections.abc import Callable, Sequence

from counterpoint.config import WarmupConfig
from counterpoint.errors import DataError
from counterpoint.policy.prompting import SIGNAL_CLOSE, Speaker
from counterpoint.recipe import Recipe
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.state import check_finite
from counterpoint.rl.types import Datum, Question
from counterpoint.run import Run
from counterpoint.tasks.base import Task

CROSS_ENTROPY = LossSpec("importance_sampling", aggregation="token")


def warm_up(run: Run, speaker: Speaker, task: Task, observe: Callable[[int, dict[str, float]], None]) -> None:
    """Train one model of the recipe on the task's worked solutions, from where the run directory stands."""
    recipe = run.recipe
    settings = recipe.warmup or WarmupConfig()  # pyright: ignore[reportCallIssue]
    rate = recipe.models[settings.role].learning_rate
    questions = worked(task)
    policies = {settings.role: speaker.policy}
    restored = run.restore(policies)
    not_finite = 0
    for step in range(restored[0] if restored else 0, recipe.run.steps):
        batch = question_batch(questions, step, settings.rows, recipe.run.seed)
        generator = random.Random(seed_for(recipe.run.seed, "unaided rows", step))
        data = [to_imitate(speaker, q, settings, recipe, generator) for q in batch]
        metrics = speaker.policy.update(data, CROSS_ENTROPY, rate * schedule(step, settings.warmup_steps, recipe.run.steps))
        metrics = {"cross_entropy": -metrics["logprob"], **metrics} if "logprob" in metrics else metrics
        run.log(step + 1, metrics)
        observe(step + 1, metrics)
        not_finite = not_finite + 1 if metrics["skipped_updates"] else 0
        check_finite(not_finite)
        if (step + 1) % recipe.run.checkpoint_every == 0 or step + 1 == recipe.run.steps:
            run.checkpoint(step + 1, policies, {})


def worked(task: Task) -> Sequence[Question]:
    """The training questions that come with a worked solution. Raises `DataError` if there is none."""
    found = [question for question in task.training_questions() if question.trace is not None]
    if not found:
        raise DataError(
            f"task {task.name} has no worked solutions to warm up on; use one with traces (arithmetic, gsm8k, math, or jsonl: "
            "with the option trace_field)"
        )
    return found


def to_imitate(speaker: Speaker, question: Question, settings: WarmupConfig, recipe: Recipe, generator: random.Random) -> Datum:
    """What the model should write: M the solution and the answer, m the answer to a solution, or now and then to none.

    A single model (`policy`) writes both too, without marks between them.
    """
    end = (speaker.renderer.end_token,)
    signal_tokens, answer_tokens = recipe.budgets
    if settings.role == "policy":
        prompt = speaker.renderer.response_prompt(question.text, answer_tokens, question.id)
        text = f"{question.trace}\n\n{question.answer}" if question.trace else question.answer
    elif settings.role == "capable":
        prompt = speaker.renderer.signal_prompt(question.text, signal_tokens, question.id)
        text = f"{(question.trace or '').strip(chr(10))}\n{SIGNAL_CLOSE}\n\n{question.answer}"
    else:
        signal = "" if generator.random() < settings.unaided else question.trace or ""
        prompt = speaker.renderer.answer_prompt(question.text, signal, answer_tokens, question.id).tokens
        text = question.answer
    tokens = speaker.policy.encode(text) + end
    return Datum(prompt=prompt, tokens=tokens, advantages=(1.0,) * len(tokens))


def schedule(step: int, warmup_steps: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then a cosine to a hundredth."""
    rise = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))

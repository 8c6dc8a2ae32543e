"""The baseline that isolates what m contributes: M trained alone, on the same questions, with the same length penalty."""

from collections.abc import Sequence

import torch

from counterpoint.duet import reward
from counterpoint.duet.infer import answer_alone
from counterpoint.duet.train import sample_rows
from counterpoint.recipe import DuetRecipe
from counterpoint.rl.clock import Clock
from counterpoint.rl.data import seed_for
from counterpoint.rl.learn import Learner, learn, scheduled
from counterpoint.rl.loop import Step
from counterpoint.rl.scoring import score_responses
from counterpoint.rl.state import State, after
from counterpoint.rl.types import Question, SamplingParams
from counterpoint.tasks.base import Task


def alone_step(
    step: int, questions: Sequence[Question], capable: Learner, light: Learner, task: Task, recipe: DuetRecipe, state: State
) -> tuple[Step, State]:
    """`duet_step` without m: M thinks and answers, all its tokens are penalised, its accuracy moves λ; `light` is not used."""
    clock = Clock()
    duet, multiplier = recipe.duet, state.controller.value
    torch.manual_seed(seed_for(recipe.run.seed, "update", step))
    params = SamplingParams(duet.max_signal_tokens + duet.max_answer_tokens, duet.temperature)
    responses_Q_G = answer_alone(capable.speaker, questions, duet.signals, params, seed_for(recipe.run.seed, "alone", step))
    clock.lap("sample")

    rewards_Q_G, kept_rows, skipped = score_responses(task, questions, responses_Q_G, recipe.task.on_grader_error, step)
    responses_Q_G = [responses_Q_G[q] for q in kept_rows]
    clock.lap("score")

    lengths_Q_G = torch.tensor([[len(c.tokens) for c in group] for group in responses_Q_G]).float()
    shaped_Q_G = reward.signal_reward(rewards_Q_G, lengths_Q_G, multiplier, duet.length_scale)
    penalties_Q_G = lengths_Q_G / duet.length_scale
    clock.lap("shape")

    rate = scheduled(recipe.algorithm, step, recipe.run.steps)
    separately = (rewards_Q_G, penalties_Q_G, multiplier)
    learned = learn(capable, responses_Q_G, shaped_Q_G, recipe.algorithm, params, separately, rate)
    clock.lap("update")

    accuracy, mean_length = float(rewards_Q_G.mean()), float(lengths_Q_G.mean())
    controller = state.controller.observe(accuracy, mean_length / duet.length_scale)
    metrics = clock.laps | {f"capable_{name}": value for name, value in learned.items()}
    metrics |= {
        "accuracy": accuracy,
        "capable_reward": float(shaped_Q_G.mean()),
        "signal_tokens": mean_length,
        "multiplier": multiplier,
        "gradings_skipped": float(skipped),
    }
    if state.floor is not None:
        metrics["floor"] = state.floor
    answers = [[[c] for c in group] for group in responses_Q_G]
    rows = sample_rows([questions[q] for q in kept_rows], responses_Q_G, answers, rewards_Q_G.unsqueeze(-1))
    return Step(metrics, rows), after(state, controller, metrics, accuracy)

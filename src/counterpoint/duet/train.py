"""DUET: a capable model M and a light model m learn together, so that M writes only the reasoning that m needs.

arXiv 2605.01111. `duet_step` is one step in the paper's order: sample, score, shape, advantage, update, multiplier.
Axis suffixes: `_Q` questions, `_G` signals of a question, `_S` these and an empty one, `_A` answers to a signal.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from counterpoint.dqo.shape import Diversity, alpha_controller
from counterpoint.duet import reward
from counterpoint.duet.infer import write_answers, write_signals
from counterpoint.duet.probe import probe
from counterpoint.duet.start import check_room, start_state
from counterpoint.errors import ConfigError, TrainingError
from counterpoint.recipe import DuetRecipe, of_kind
from counterpoint.rl.clock import Clock
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.learn import Learner, learn, scheduled
from counterpoint.rl.loop import Observer, Step, loop
from counterpoint.rl.scoring import score
from counterpoint.rl.state import State, after
from counterpoint.rl.types import Completion, Question, SamplingParams
from counterpoint.run import Run
from counterpoint.tasks.base import Task


class StepFunction(Protocol):
    """A training step in place of `duet_step`: `alone_step`, the baseline."""

    def __call__(
        self,
        step: int,
        questions: Sequence[Question],
        capable: Learner,
        light: Learner,
        task: Task,
        recipe: DuetRecipe,
        state: State,
    ) -> tuple[Step, State]: ...


def train(
    run: Run,
    capable: Learner,
    light: Learner,
    task: Task,
    observe: Observer,
    warn: Callable[[str], None],
    step_function: StepFunction | None = None,
    diversity: Diversity | None = None,
) -> State:
    """Train the pair from where the run directory stands to its last step. Returns the final state.

    With `diversity`, M's signals are shaped by it, as DQO shapes responses: different ways to explain.
    """
    recipe = of_kind(run.recipe, DuetRecipe)
    learners = {"capable": capable, "light": light}
    trained = {role: learner.speaker.policy for role, learner in learners.items() if learner.config.train}
    if not trained:
        raise ConfigError("capable.train and light.train are both false: there is nothing to train")
    questions = task.training_questions()

    def start() -> State:
        check_room(recipe, capable.speaker, light.speaker, questions, alone=step_function is not None)
        state = start_state(recipe, capable.speaker, questions, task)
        return replace(state, alpha=alpha_controller(diversity.settings, recipe.run.steps)) if diversity else state

    def take_step(step: int, state: State) -> tuple[Step, State]:
        batch = question_batch(questions, step, recipe.duet.questions, recipe.run.seed)
        if step_function is not None:
            return step_function(step, batch, capable, light, task, recipe, state)
        return duet_step(step, batch, capable, light, task, recipe, state, diversity)

    def probe_pair() -> list[dict[str, Any]]:
        return probe(capable.speaker, light.speaker, task, recipe) if step_function is None else []

    return loop(run, trained, start, take_step, observe, warn, probe_pair)


def duet_step(
    step: int,
    questions: Sequence[Question],
    capable: Learner,
    light: Learner,
    task: Task,
    recipe: DuetRecipe,
    state: State,
    diversity: Diversity | None = None,
) -> tuple[Step, State]:
    """One joint step."""
    clock = Clock()
    duet, algorithm, multiplier = recipe.duet, recipe.algorithm, state.controller.value
    torch.manual_seed(seed_for(recipe.run.seed, "update", step))
    by_token = diversity is not None and diversity.by_token
    signal_params = SamplingParams(duet.max_signal_tokens, duet.temperature, entropies=by_token)
    answer_params = SamplingParams(duet.max_answer_tokens, duet.temperature)

    # 1. Sample: M writes n signals a question; m answers each n_m times, and as often unaided where that is used.
    signals_Q_G = write_signals(
        capable.speaker, questions, duet.signals, signal_params, seed_for(recipe.run.seed, "signals", step)
    )
    in_baseline = duet.marginal_utility and algorithm.advantage == "reinforce_pp"
    # an empty signal asks m unaided, in the batches of its aided answers
    unaided = [""] if in_baseline or step % duet.unaided_every == 0 else []
    answers = write_answers(
        light.speaker, questions, [[*(signal.text for signal in group), *unaided] for group in signals_Q_G], duet.answers,
        answer_params, seed_for(recipe.run.seed, "aided", step),
    )  # fmt: skip
    clock.lap("sample")

    # 2. Score. A question with an answer that could not be graded (and was to be skipped) leaves the step.
    rewards_Q_S_A, skipped = score(task, questions, answers.completions, recipe.task.on_grader_error)
    rewards_Q_G_A = rewards_Q_S_A[:, : duet.signals]
    unaided_Q = rewards_Q_S_A[:, -1].mean(dim=1) if unaided else None
    kept = ~rewards_Q_G_A.isnan().any(dim=(1, 2))
    if in_baseline and unaided_Q is not None:
        kept &= ~unaided_Q.isnan()
    if not kept.any():
        raise TrainingError(
            f"step {step + 1}: no question of the step could be graded ({skipped} gradings skipped); check the grader"
        )
    kept_rows = kept.nonzero().flatten().tolist()
    signals_Q_G = [signals_Q_G[q] for q in kept_rows]
    answers_Q_G_A = [answers.completions[q][: duet.signals] for q in kept_rows]
    rewards_Q_G_A = rewards_Q_G_A[kept]
    clock.lap("score")

    # 3. Shape: R_i = r_Mm(i) − r_m − λ · L_i / B, with DQO's α · d_i on r_Mm, and the KL to where M started.
    metrics: dict[str, float] = {}
    aided_Q_G = reward.aided_reward(rewards_Q_G_A)
    worth_Q_G = aided_Q_G
    if diversity is not None and state.alpha is not None:
        worth_Q_G, shown = diversity.shape(signals_Q_G, aided_Q_G, state.alpha.value)
        metrics |= {"alpha": state.alpha.value, **shown}
    lengths_Q_G = torch.tensor([[len(signal.tokens) for signal in group] for group in signals_Q_G]).float()
    shaped_Q_G = reward.signal_reward(
        worth_Q_G, lengths_Q_G, multiplier, duet.length_scale, unaided_Q[kept] if in_baseline and unaided_Q is not None else None
    )
    clock.lap("shape")

    # 4. and 5. Advantages and updates: M learns from the shaped rewards of its signals, m from those of its aided answers.
    rate = scheduled(algorithm, step, recipe.run.steps)
    if capable.config.train:
        penalties_Q_G = lengths_Q_G / duet.length_scale
        bonus = state.alpha.value if by_token and state.alpha is not None else 0.0
        separately = (aided_Q_G, penalties_Q_G, multiplier)
        learned = learn(capable, signals_Q_G, shaped_Q_G, algorithm, signal_params, separately, rate, bonus)
        metrics |= {f"capable_{name}": value for name, value in learned.items()}
    if light.config.train:
        groups, rewards = light_groups(answers_Q_G_A, rewards_Q_G_A, duet.light_groups)
        learned = learn(light, groups, rewards, algorithm, answer_params, rate=rate)
        metrics |= {f"light_{name}": value for name, value in learned.items()}
    clock.lap("update")

    # 6. The multiplier answers to what the step showed.
    aided_accuracy, mean_length = float(aided_Q_G.mean()), float(lengths_Q_G.mean())
    controller = state.controller.observe(aided_accuracy, mean_length / duet.length_scale)

    metrics |= clock.laps | {
        "aided_accuracy": aided_accuracy,
        "capable_reward": float(shaped_Q_G.mean()),
        "signal_tokens": mean_length,
        "answer_tokens": mean(len(c.tokens) for group in answers_Q_G_A for answers in group for c in answers),
        "signals_unclosed": mean(s.stop != "stop" for group in signals_Q_G for s in group),
        "signals_cut": answers.signals_cut,
        "multiplier": multiplier,
        "gradings_skipped": skipped,
    }
    if unaided_Q is not None and not unaided_Q.isnan().all():
        metrics["unaided_accuracy"] = float(unaided_Q.nanmean())
    if state.floor is not None:
        metrics["floor"] = state.floor
    if state.alpha is not None:
        state = replace(state, alpha=state.alpha.observe(aided_accuracy, 0.0))
    state = after(state, controller, metrics, aided_accuracy)
    return Step(metrics, sample_rows([questions[q] for q in kept_rows], signals_Q_G, answers_Q_G_A, rewards_Q_G_A)), state


def light_groups(
    answers_Q_G_A: Sequence[Sequence[Sequence[Completion]]], rewards_Q_G_A: Tensor, by: str
) -> tuple[list[list[Completion]], Tensor]:
    """m's groups and their rewards [N, group]. Its state is (question, signal), so by rights the group is the signal."""
    if by == "signal":
        return [list(answers) for group in answers_Q_G_A for answers in group], rewards_Q_G_A.flatten(0, 1)
    return [[c for answers in group for c in answers] for group in answers_Q_G_A], rewards_Q_G_A.flatten(1, 2)


def sample_rows(
    questions: Sequence[Question],
    signals_Q_G: Sequence[Sequence[Completion]],
    answers_Q_G_A: Sequence[Sequence[Sequence[Completion]]],
    rewards_Q_G_A: Tensor,
    count: int = 4,
) -> list[dict[str, Any]]:
    """The first signal of the first few questions with the answers to it, for samples.jsonl."""
    return [
        {
            "question": question.id,
            "text": question.text,
            "reference": question.answer,
            "signal": signals[0].text,
            "signal_tokens": len(signals[0].tokens),
            "answers": [completion.text for completion in answers[0]],
            "rewards": rewards[0].tolist(),
        }
        for question, signals, answers, rewards in list(zip(questions, signals_Q_G, answers_Q_G_A, rewards_Q_G_A, strict=True))[
            :count
        ]
    ]


def mean(values: Iterable[float]) -> float:
    """Mean of numbers; 0 for none."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0

"""DQO: a policy learns to be right in many ways, not in one.

arXiv 2509.04784. `dqo_step` is one step in the paper's order: sample, score, shape, advantage, update, multiplier.
Axis suffixes: `_Q` questions, `_G` responses to a question.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from counterpoint.dqo.shape import Diversity, alpha_controller
from counterpoint.errors import ConfigError
from counterpoint.policy.base import Saved
from counterpoint.policy.critic import Critic
from counterpoint.policy.prompting import respond
from counterpoint.recipe import DqoRecipe, of_kind
from counterpoint.rl.clock import Clock
from counterpoint.rl.data import question_batch, seed_for
from counterpoint.rl.learn import Learner, learn, scheduled
from counterpoint.rl.loop import Observer, Step, loop
from counterpoint.rl.ppo import learn_with_critic
from counterpoint.rl.scoring import score_responses
from counterpoint.rl.state import State, after
from counterpoint.rl.types import Completion, Question, SamplingParams
from counterpoint.run import Run
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import extractor_of


def train(
    run: Run,
    policy: Learner,
    diversity: Diversity,
    task: Task,
    observe: Observer,
    warn: Callable[[str], None],
    critic: Critic | None = None,
) -> State:
    """Train a policy from where the run directory stands to its last step; with a critic, by PPO. Returns the final state."""
    recipe = of_kind(run.recipe, DqoRecipe)
    if not policy.config.train:
        raise ConfigError("policy.train is false: there is nothing to train")
    questions = task.training_questions()

    def start() -> State:
        for question in questions:  # one that is too long is found now, not hours later when its step comes
            policy.speaker.renderer.response_prompt(question.text, recipe.dqo.max_tokens, question.id)
        floor = recipe.diversity.floor if recipe.diversity.control == "quality_floor" else None
        moving = recipe.run.steps - (recipe.critic.warmup_steps if recipe.critic else 0)
        return State(alpha_controller(recipe.diversity, moving), floor=floor)

    def take_step(step: int, state: State) -> tuple[Step, State]:
        batch = question_batch(questions, step, recipe.dqo.questions, recipe.run.seed)
        return dqo_step(step, batch, policy, diversity, task, recipe, state, critic)

    trained: dict[str, Saved] = {"policy": policy.speaker.policy}
    return loop(run, trained if critic is None else trained | {"critic": critic}, start, take_step, observe, warn)


def dqo_step(
    step: int,
    questions: Sequence[Question],
    policy: Learner,
    diversity: Diversity,
    task: Task,
    recipe: DqoRecipe,
    state: State,
    critic: Critic | None = None,
) -> tuple[Step, State]:
    """One step."""
    clock = Clock()
    dqo, algorithm, alpha = recipe.dqo, recipe.algorithm, state.controller.value
    torch.manual_seed(seed_for(recipe.run.seed, "update", step))
    params = SamplingParams(dqo.max_tokens, dqo.temperature, entropies=diversity.by_token)

    # 1. Sample k responses a question.
    responses_Q_G = respond(policy.speaker, questions, dqo.samples, params, seed_for(recipe.run.seed, "responses", step))
    clock.lap("sample")

    # 2. Score. A question with a response that could not be graded (and was to be skipped) leaves the step.
    rewards_Q_G, kept_rows, skipped = score_responses(task, questions, responses_Q_G, recipe.task.on_grader_error, step)
    questions, responses_Q_G = [questions[q] for q in kept_rows], [responses_Q_G[q] for q in kept_rows]
    clock.lap("score")

    # 3. Shape: r_i + α · d_i, d_i what response i adds to the volume that its group spans.
    shaped_Q_G, shown = diversity.shape(responses_Q_G, rewards_Q_G, alpha, extractor_of(task.grade))
    clock.lap("shape")

    # 4. Advantage and update: the baseline is the group's, or a critic's.
    rate = scheduled(algorithm, step, recipe.run.steps)
    if critic is not None and recipe.critic is not None:
        learned = learn_with_critic(policy, critic, responses_Q_G, shaped_Q_G, algorithm, params, recipe.critic, step, rate)
    else:
        bonus = alpha if diversity.by_token else 0.0
        learned = learn(policy, responses_Q_G, shaped_Q_G, algorithm, params, rate=rate, entropy_bonus=bonus)
    clock.lap("update")

    # 5. α answers to the quality that the step showed, unless only the critic learned: the policy's quality was not α's doing.
    reward = float(rewards_Q_G.mean())
    rests = recipe.critic is not None and step < recipe.critic.warmup_steps
    controller = state.controller if rests else state.controller.observe(reward, 0.0)

    metrics = learned | shown | clock.laps | {
        "reward": reward,
        "shaped_reward": float(shaped_Q_G.mean()),
        "response_tokens": sum(len(c.tokens) for group in responses_Q_G for c in group) / rewards_Q_G.numel(),
        "responses_unfinished": sum(c.stop == "length" for group in responses_Q_G for c in group) / rewards_Q_G.numel(),
        "gradings_skipped": float(skipped),
    }  # fmt: skip
    if recipe.diversity.shaper != "none":
        metrics["alpha"] = alpha
    if state.floor is not None:
        metrics["floor"] = state.floor
    return Step(metrics, sample_rows(questions, responses_Q_G, rewards_Q_G, shaped_Q_G)), after(
        state, controller, metrics, reward
    )


def sample_rows(
    questions: Sequence[Question],
    responses_Q_G: Sequence[Sequence[Completion]],
    rewards_Q_G: Tensor,
    shaped_Q_G: Tensor,
    count: int = 4,
) -> list[dict[str, Any]]:
    """All responses to the first few questions, for samples.jsonl."""
    return [
        {
            "question": question.id,
            "text": question.text,
            "reference": question.answer,
            "responses": [response.text for response in group],
            "rewards": rewards.tolist(),
            "shaped": shaped.tolist(),
        }
        for question, group, rewards, shaped in list(zip(questions, responses_Q_G, rewards_Q_G, shaped_Q_G, strict=True))[:count]
    ]

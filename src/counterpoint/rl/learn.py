"""From the rewards of groups of completions to one update of the policy that wrote them. DUET and DQO share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.config import AlgorithmConfig, ModelConfig
from counterpoint.policy.base import Policy
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.advantages import advantages, has_spread, separately_normalised
from counterpoint.rl.data import make_data, reference_logprobs, sequence_kl
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Completion, SamplingParams


@dataclass(frozen=True)
class Learner:
    """A model of the pair with its settings; `reference` is what its KL term holds it to."""

    speaker: Speaker
    config: ModelConfig
    reference: Policy | None = None


def learn(
    learner: Learner,
    groups: Sequence[Sequence[Completion]],
    rewards: Tensor,
    algorithm: AlgorithmConfig,
    params: SamplingParams,
    separately: tuple[Tensor, Tensor, float] | None = None,
    rate: float = 1.0,
) -> dict[str, float]:
    """Turn the rewards [N, G] of groups of completions into advantages and one update; groups without spread are dropped.

    `params` is what the completions were sampled with; `separately` is (rewards, penalties, λ) for the advantage that normalises
    the two on their own; `rate` scales the learner's learning rate.
    """
    policy, coefficient, temperature = learner.speaker.policy, learner.config.kl_coefficient, params.temperature
    reference_rows: list[list[tuple[float, ...]]] | None = None
    metrics: dict[str, float] = {}
    if coefficient and learner.reference is not None:
        flat = [completion for group in groups for completion in group]
        rows = iter(reference_logprobs(learner.reference, flat, temperature))
        reference_rows = [[next(rows) for _ in group] for group in groups]
        divergence = sequence_kl(flat, [row for group in reference_rows for row in group], algorithm.kl_kind)
        metrics["kl_to_start"] = float(divergence.mean())
        if algorithm.kl_in == "reward":
            penalty = coefficient * divergence.reshape(rewards.shape)
            rewards = rewards - penalty
            separately = (separately[0] - penalty, *separately[1:]) if separately else None
    if algorithm.advantage != "separate":
        advantage = advantages(algorithm.advantage, rewards)
        # the baseline of reinforce_pp is the batch's: a group that ties still teaches, a batch that ties does not
        in_batch = algorithm.advantage == "reinforce_pp"
        spread = has_spread(rewards.reshape(1, -1)).expand(len(rewards)) if in_batch else has_spread(rewards)
    else:
        quality, penalties, strength = separately or (rewards, torch.zeros_like(rewards), 0.0)
        advantage = separately_normalised(quality, penalties, strength)
        spread = has_spread(advantage)
    used = spread.nonzero().flatten().tolist()
    metrics |= {"groups_dropped": float(len(groups) - len(used)), "groups": float(len(groups))}
    if not used:
        return metrics
    completions = [completion for i in used for completion in groups[i]]
    # Fresh samples and one update: the ratio is 1, and no log-probability is computed twice.
    old = None
    if algorithm.max_importance_weight is not None:
        old = policy.logprobs(make_data(completions, [0.0] * len(completions)), temperature)
    elif algorithm.optimizer_steps > 1:
        old = [completion.logprobs for completion in completions]
    in_loss = reference_rows is not None and algorithm.kl_in == "loss"
    data = make_data(
        completions,
        advantage[spread].flatten().tolist(),
        old_logprobs=old,
        reference_logprobs=[row for i in used for row in reference_rows[i]] if in_loss and reference_rows else None,
    )
    loss = loss_spec(algorithm, temperature, coefficient if in_loss else 0.0, params.max_tokens)
    return metrics | policy.update(data, loss, rate * learner.config.learning_rate, algorithm.optimizer_steps)


def scheduled(algorithm: AlgorithmConfig, step: int, steps: int) -> float:
    """The share of the learning rate at a step, counted from 0."""
    return 1.0 if algorithm.schedule == "constant" else 1 - step / steps


def loss_spec(algorithm: AlgorithmConfig, temperature: float, kl_coefficient: float, max_tokens: int) -> LossSpec:
    """The loss that a recipe's algorithm section names. GSPO's ratio is a sequence's mean: its clip is far closer to 1."""
    low, high = (3e-4, 4e-4) if algorithm.loss == "gspo" else (0.2, 0.28)
    return LossSpec(
        name=algorithm.loss,
        clip_low=low if algorithm.clip_low is None else algorithm.clip_low,
        clip_high=high if algorithm.clip_high is None else algorithm.clip_high,
        aggregation=algorithm.aggregation,
        constant_length=algorithm.constant_length or max_tokens if algorithm.aggregation == "constant" else None,
        kl_coefficient=kl_coefficient,
        kl_kind=algorithm.kl_kind,
        max_importance_weight=algorithm.max_importance_weight,
        temperature=temperature,
    )

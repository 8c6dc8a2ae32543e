"""From the rewards of groups of completions to one update of the policy that wrote them. DUET and DQO share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.config import AlgorithmConfig, ModelConfig
from counterpoint.errors import TrainingError
from counterpoint.policy.base import Policy
from counterpoint.policy.prompting import Speaker
from counterpoint.rl.advantages import advantages, entropy_bonus, has_spread, separately_normalised
from counterpoint.rl.data import make_data, reference_logprobs, sequence_kl
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Completion, SamplingParams

VLLM_IMPORTANCE_WEIGHT = 2.0
"""Where trainer/sampler weights are truncated unless the recipe says so: TIS's C, https://fengyao.notion.site/off-policy-rl."""


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
    entropy_bonus: float = 0.0,
) -> dict[str, float]:
    """Turn the rewards [N, G] of groups of completions into advantages and one update; groups without spread are dropped.

    `params` is what the completions were sampled with; `separately` is (rewards, penalties, λ) for the advantage that normalises
    the two on their own; `rate` scales the learner's learning rate; `entropy_bonus` is the α of `advantages.entropy_bonus`, for
    completions that say their entropies.
    """
    flat = [completion for group in groups for completion in group]
    reference = reference_of(learner, flat, params.temperature)
    metrics: dict[str, float] = {}
    if reference is not None:
        divergence = sequence_kl(flat, reference, algorithm.kl_kind)
        metrics["kl_to_start"] = float(divergence.mean())
        if algorithm.kl_in == "reward":
            penalty = learner.config.kl_coefficient * divergence.reshape(rewards.shape)
            rewards = rewards - penalty
            separately = (separately[0] - penalty, *separately[1:]) if separately else None
    if algorithm.advantage != "separate":
        # the baseline of reinforce_pp is the batch's: a group that ties still teaches, a batch that ties does not
        in_batch = algorithm.advantage == "reinforce_pp"
        spread = has_spread(rewards.reshape(1, -1)).expand(len(rewards)) if in_batch else has_spread(rewards)
        # where the grader left one sample of the batch, it ties with itself
        alone = in_batch and rewards.numel() == 1
        advantage = torch.zeros_like(rewards) if alone else advantages(algorithm.advantage, rewards)
    else:
        quality, penalties, strength = separately or (rewards, torch.zeros_like(rewards), 0.0)
        advantage = separately_normalised(quality, penalties, strength)
        spread = has_spread(advantage)
    metrics |= {"groups_dropped": float((~spread).sum()), "groups": float(len(groups))}
    if not spread.any():
        return metrics
    used = spread.repeat_interleave(rewards.shape[1]).nonzero().flatten().tolist()
    completions, used_advantages = [flat[i] for i in used], advantage[spread].flatten().tolist()
    if entropy_bonus:
        used_advantages = with_entropy_bonus(completions, used_advantages, entropy_bonus)
    return metrics | update_policy(
        learner,
        completions,
        used_advantages,
        algorithm,
        params,
        reference=[reference[i] for i in used] if reference is not None else None,
        rate=rate,
    )


def with_entropy_bonus(completions: Sequence[Completion], advantages: Sequence[float], alpha: float) -> list[tuple[float, ...]]:
    """The advantage of each token of each completion, more where the policy was uncertain."""
    rows = []
    for completion, advantage in zip(completions, advantages, strict=True):
        if completion.entropies is None:
            raise ValueError("an entropy bonus needs completions with their entropies; sample with SamplingParams.entropies")
        entropies = torch.tensor(completion.entropies)
        rows.append(tuple(entropy_bonus(torch.full_like(entropies, advantage), entropies, alpha).tolist()))
    return rows


def reference_of(learner: Learner, completions: Sequence[Completion], temperature: float) -> list[tuple[float, ...]] | None:
    """Log-probabilities of the completions' tokens under the learner's reference; None where no KL term holds it to one.

    Raises `TrainingError` for a KL term without a reference: leaving it out would train something else than was asked for.
    """
    if not learner.config.kl_coefficient:
        return None
    if learner.reference is None:
        raise TrainingError(
            f"kl_coefficient is {learner.config.kl_coefficient} and the learner of {learner.config.model} has no reference to be "
            "held to; give it one, Learner(speaker, config, policy.reference()), or set kl_coefficient to 0"
        )
    return reference_logprobs(learner.reference, completions, temperature)


def update_policy(
    learner: Learner,
    completions: Sequence[Completion],
    advantages: Sequence[float | tuple[float, ...]],
    algorithm: AlgorithmConfig,
    params: SamplingParams,
    *,
    reference: Sequence[tuple[float, ...]] | None,
    rate: float,
) -> dict[str, float]:
    """One update on fresh completions, with the KL to `reference` in the loss where the algorithm has it there."""
    policy, temperature = learner.speaker.policy, params.temperature
    algorithm = corrected(algorithm, learner.config)
    # Fresh samples and one optimizer step: the ratio is 1, and no log-probability is computed twice.
    old = None
    if algorithm.optimizer_steps > 1 and algorithm.max_importance_weight is not None:
        old = policy.logprobs(make_data(completions, [0.0] * len(completions)), temperature)
    elif algorithm.optimizer_steps > 1:
        old = [completion.logprobs for completion in completions]
    in_loss = reference if algorithm.kl_in == "loss" else None
    data = make_data(completions, advantages, old_logprobs=old, reference_logprobs=in_loss)
    loss = loss_spec(algorithm, temperature, learner.config.kl_coefficient if in_loss else 0.0, params.max_tokens)
    return policy.update(data, loss, rate * learner.config.learning_rate, algorithm.optimizer_steps)


def corrected(algorithm: AlgorithmConfig, config: ModelConfig) -> AlgorithmConfig:
    """The algorithm for this model: what vLLM samples is weighted, since its kernels are not the trainer's."""
    if config.sampler == "transformers" or algorithm.max_importance_weight is not None:
        return algorithm
    return algorithm.model_copy(update={"max_importance_weight": VLLM_IMPORTANCE_WEIGHT})


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

"""From the rewards of completions to one update of a critic and of the policy that wrote them: PPO. arXiv 1707.06347."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from counterpoint.config import AlgorithmConfig, CriticConfig
from counterpoint.policy.critic import Critic
from counterpoint.rl.advantages import check_rewards, gae, whiten
from counterpoint.rl.data import make_data, token_kl
from counterpoint.rl.learn import Learner, reference_of, update_policy
from counterpoint.rl.types import Completion, SamplingParams


def learn_with_critic(
    learner: Learner,
    critic: Critic,
    groups: Sequence[Sequence[Completion]],
    rewards: Tensor,
    algorithm: AlgorithmConfig,
    params: SamplingParams,
    settings: CriticConfig,
    step: int,
    rate: float = 1.0,
) -> dict[str, float]:
    """Turn the rewards [N, G] of groups of completions into one update of the critic and, after its warm-up, one of the policy.

    The twin of `learn` with another baseline: the critic's value of a token's state, not the group's mean. So
    `algorithm.advantage` is not used, a group of one is enough, and no group is dropped: one that ties still differs from what
    the critic expected. A completion's reward is paid at its last token; a KL in the reward, −β · kl, at each token. A
    completion without tokens has nowhere to be paid, and teaches nothing.

    `step` counts training steps from 0; while it is below `settings.warmup_steps` the policy stays as it is. `rate` scales the
    learning rates of both. The critic's metrics are named critic_*. Raises `ValueError` for rewards that are not finite.
    """
    check_rewards(rewards)
    flat = [completion for group in groups for completion in group]
    mask_N_T = pad([torch.ones(len(completion.tokens), dtype=torch.bool) for completion in flat])
    metrics = {"groups_dropped": 0.0, "groups": float(len(groups))}

    rewards_N_T = at_the_last_token(rewards.flatten().float().cpu(), mask_N_T)
    reference = reference_of(learner, flat, params.temperature)
    if reference is not None:
        kl_N_T = pad(token_kl(flat, reference, algorithm.kl_kind))
        metrics["kl_to_start"] = float(kl_N_T.sum(dim=1).mean())
        if algorithm.kl_in == "reward":
            rewards_N_T = rewards_N_T - learner.config.kl_coefficient * kl_N_T

    states = make_data(flat, [0.0] * len(flat))
    values = critic.values(states)
    advantages_N_T, returns_N_T = gae(
        rewards_N_T, pad([torch.tensor(row) for row in values]), mask_N_T, settings.gamma, settings.lam
    )
    fitted = critic.update(
        states,
        unpadded(returns_N_T, mask_N_T),
        values,
        rate * settings.learning_rate,
        settings.value_clip,
        algorithm.optimizer_steps,
    )
    metrics |= {f"critic_{name}": number for name, number in fitted.items()}
    if step < settings.warmup_steps:
        return metrics
    whitened = unpadded(whiten(advantages_N_T, mask_N_T), mask_N_T)
    return metrics | update_policy(learner, flat, whitened, algorithm, params, reference=reference, rate=rate)


def at_the_last_token(rewards_N: Tensor, mask_N_T: Tensor) -> Tensor:
    """[N, T]: each completion's reward at the last of its tokens, which stand at the left; zero elsewhere."""
    last_N = mask_N_T.sum(dim=1) - 1
    return torch.where(torch.arange(mask_N_T.shape[1]) == last_N[:, None], rewards_N[:, None], 0.0)


def pad(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths, [T] each, as one tensor [N, T] with zeros (False) at the right."""
    return pad_sequence(list(rows), batch_first=True)


def unpadded(values_N_T: Tensor, mask_N_T: Tensor) -> list[tuple[float, ...]]:
    """What stands in each row where the mask is True."""
    return [tuple(row[kept].tolist()) for row, kept in zip(values_N_T, mask_N_T, strict=True)]

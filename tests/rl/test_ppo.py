"""PPO from rewards to updates: what critic and policy are given, and that both learn from it."""

import math

import pytest
import torch

from counterpoint.config import AlgorithmConfig, CriticConfig
from counterpoint.policy.critic import Critic
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.rl.learn import Learner
from counterpoint.rl.ppo import learn_with_critic
from counterpoint.rl.types import Completion, SamplingParams
from fakes import FakePolicy
from pairs import learner, recipe_in, tiny_policy, tokenizer, weights_of


class Told(FakePolicy):
    """Keeps the losses and learning rates it was told, and says other log-probabilities than it sampled with."""

    def __init__(self, logprob=-0.5):
        super().__init__()
        self.logprob, self.losses, self.rates = logprob, [], []

    def update(self, data, loss, learning_rate, optimizer_steps=1):
        self.losses.append(loss)
        self.rates.append(learning_rate)
        return super().update(data, loss, learning_rate, optimizer_steps)

    def logprobs(self, data, temperature=1.0):
        return [(self.logprob,) * len(datum.tokens) for datum in data]


class FakeCritic:
    """Says the same of every state, and keeps what it was told."""

    def __init__(self, value=0.0):
        self.value, self.seen = value, []

    def values(self, data):
        return [(self.value,) * len(datum.tokens) for datum in data]

    def update(self, data, returns, old_values, learning_rate, value_clip, optimizer_steps=1):
        self.seen.append((data, returns, old_values, learning_rate, value_clip, optimizer_steps))
        return {"value_loss": 0.25, "skipped_updates": 0.0}


def completion(name, tokens):
    return Completion((ord(name),), tuple(range(tokens)), (-0.5,) * tokens, name, "end")


def settings_with(**values):
    return CriticConfig.model_validate({"warmup_steps": 0, "gamma": 1.0, "lam": 0.5} | values)


def learned(
    tmp_path, groups, rewards, critic=None, algorithm=None, reference=None, step=0, rate=1.0, critic_settings=None, **config
):
    recipe = recipe_in(tmp_path, capable=config, algorithm=algorithm or {})
    policy, critic = Told(), critic or FakeCritic()
    learns = Learner(Speaker(policy, Renderer(tokenizer(), 96)), recipe.capable, reference)
    metrics = learn_with_critic(
        learns, critic, groups, torch.tensor(rewards), recipe.algorithm, SamplingParams(3, 0.7),
        settings_with(**critic_settings or {}), step, rate,
    )  # fmt: skip
    return metrics, policy, critic


GROUPS = [[completion("a", 3), completion("b", 1)], [completion("c", 2), completion("d", 2)]]
REWARDS = [[1.0, 0.0], [2.0, 2.0]]


def test_the_reward_is_paid_at_the_last_token_and_the_advantages_are_whitened(tmp_path):
    """With values of 0 and λ of a half a token's advantage is its reward, halved for each token it comes earlier."""
    _, policy, critic = learned(tmp_path, GROUPS, REWARDS)
    raw = [(0.25, 0.5, 1.0), (0.0,), (1.0, 2.0), (1.0, 2.0)]
    [(data, returns, old_values, *_)] = critic.seen
    assert returns == raw
    assert old_values == [(0.0,) * 3, (0.0,), (0.0,) * 2, (0.0,) * 2]
    flat = torch.tensor([x for row in raw for x in row])
    expected = ((flat - flat.mean()) / flat.std()).tolist()
    [seen] = policy.seen
    assert [x for datum in seen for x in datum.advantages] == pytest.approx(expected, abs=1e-5)
    assert [datum.tokens for datum in seen] == [datum.tokens for datum in data] == [c.tokens for g in GROUPS for c in g]


def test_the_baseline_is_the_critics(tmp_path):
    """λ of 0: a token's advantage is the next value, or the reward, less its own value."""
    _, _, critic = learned(tmp_path, GROUPS[1:], REWARDS[1:], FakeCritic(0.5), critic_settings={"lam": 0.0, "gamma": 0.5})
    [(_, returns, old_values, *_)] = critic.seen
    assert old_values == [(0.5, 0.5)] * 2
    assert returns == [(0.25, 2.0)] * 2


def test_no_group_is_dropped_and_a_group_of_one_is_enough(tmp_path):
    metrics, policy, _ = learned(tmp_path, [[completion("a", 2)], [completion("b", 2)]], [[1.0], [1.0]])
    assert (metrics["groups_dropped"], metrics["groups"]) == (0, 2)
    assert len(policy.seen[0]) == 2
    assert policy.seen[0][0].advantages[0] < 0 < policy.seen[0][0].advantages[1]


def test_a_completion_without_tokens_is_paid_nothing(tmp_path):
    _, policy, critic = learned(tmp_path, [[completion("a", 0), completion("b", 2)]], [[5.0, 1.0]])
    assert critic.seen[0][1] == [(), (0.5, 1.0)]
    assert [len(datum.advantages) for datum in policy.seen[0]] == [0, 2]


def test_only_the_critic_learns_during_its_warm_up(tmp_path):
    for step, updates in ((0, 0), (1, 0), (2, 1)):
        metrics, policy, critic = learned(tmp_path, GROUPS, REWARDS, step=step, critic_settings={"warmup_steps": 2})
        assert (policy.updates, len(critic.seen)) == (updates, 1)
        assert ("loss" in metrics) == (updates > 0)
        assert metrics["critic_value_loss"] == 0.25


def test_each_has_its_own_learning_rate_and_both_follow_the_schedule(tmp_path):
    _, policy, critic = learned(
        tmp_path, GROUPS, REWARDS, algorithm={"optimizer_steps": 2}, rate=0.5, learning_rate=0.1,
        critic_settings={"learning_rate": 0.4, "value_clip": 0.7},
    )  # fmt: skip
    assert policy.rates == [0.05]
    assert critic.seen[0][3:] == (0.2, 0.7, 2)


def test_a_kl_in_the_reward_is_taken_at_each_token(tmp_path):
    """Log ratios of 0.2 at each token and β of a half: −0.1 each, so the last of two tokens is paid 1.9."""
    metrics, policy, critic = learned(tmp_path, GROUPS[1:], REWARDS[1:], reference=Told(-0.7), kl_coefficient=0.5)
    assert metrics["kl_to_start"] == pytest.approx(0.4)
    assert critic.seen[0][1][0] == pytest.approx((-0.1 + 0.95, 1.9))
    assert policy.seen[0][0].reference_logprobs is None
    assert policy.losses[0].kl_coefficient == 0


def test_a_kl_in_the_loss_goes_to_the_policy(tmp_path):
    algorithm = {"kl_in": "loss", "kl_kind": "k3"}
    metrics, policy, critic = learned(tmp_path, GROUPS, REWARDS, None, algorithm, Told(-0.7), kl_coefficient=0.5)
    assert metrics["kl_to_start"] > 0
    assert critic.seen[0][1][0] == (0.25, 0.5, 1.0)
    assert [datum.reference_logprobs for datum in policy.seen[0]] == [(-0.7,) * n for n in (3, 1, 2, 2)]
    assert (policy.losses[0].kl_coefficient, policy.losses[0].kl_kind) == (0.5, "k3")


def test_old_log_probabilities_are_given_only_where_they_are_needed(tmp_path):
    truncated = {"max_importance_weight": 2.0}
    for algorithm, expected in (({}, None), ({"optimizer_steps": 2}, (-0.5,) * 3), (truncated, None)):
        _, policy, _ = learned(tmp_path, GROUPS, REWARDS, algorithm=algorithm)
        assert policy.seen[0][0].old_logprobs == expected


def test_rewards_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="question 0, sample 1: nan"):
        learned(tmp_path, GROUPS, [[1.0, math.nan], [0.0, 0.0]])


# With real models

PARAMS = SamplingParams(max_tokens=6, temperature=1.0)
ALGORITHM = AlgorithmConfig.model_validate({"optimizer_steps": 2})


def real(tmp_path, seed, **config):
    """(learner, critic) of random weights."""
    recipe = recipe_in(tmp_path, capable={"learning_rate": 1e-2, **config})
    return learner(tiny_policy(seed), recipe.capable), Critic(tiny_policy(seed).model.get_decoder())


def steps_of(tmp_path, seed, steps, **settings):
    """(learner, critic, mean rewards, metrics) of steps in which a response is paid for its digits."""
    held, critic = real(tmp_path, seed)
    policy, means, history = held.speaker.policy, [], []
    prompts = [policy.encode(text) for text in ("1+2", "2+3", "3+4", "4+5")]
    for step in range(steps):
        groups = policy.sample(prompts, 16, PARAMS, seed=1000 * seed + step)
        rewards = torch.tensor([[sum(c in "0123456789" for c in one.text) / 6 for one in group] for group in groups])
        means.append(rewards.mean().item())
        config = settings_with(learning_rate=1e-2, lam=0.95, **settings)
        history.append(learn_with_critic(held, critic, groups, rewards, ALGORITHM, PARAMS, config, step))
    return held, critic, means, history


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_policy_learns_what_is_rewarded(tmp_path, seed):
    _, _, means, history = steps_of(tmp_path, seed, 30, warmup_steps=3)
    assert max(means[:5]) < 0.2
    assert min(means[-3:]) > 0.6
    assert all(record["critic_skipped_updates"] == 0 for record in history)


def test_the_weights_of_the_policy_stay_during_the_warm_up_and_the_critics_do_not(tmp_path):
    start = weights_of(real(tmp_path, 0)[0])
    held, critic, _, history = steps_of(tmp_path, 0, 3, warmup_steps=3)
    assert all(torch.equal(weight, start[name]) for name, weight in weights_of(held).items())
    assert critic.head.weight.abs().min() > 0
    assert history[-1]["critic_value_loss"] < history[0]["critic_value_loss"]


def test_a_critic_that_is_not_finite_teaches_nothing_and_is_counted(tmp_path):
    held, critic = real(tmp_path, 0)
    with torch.no_grad():
        critic.head.bias.fill_(math.nan)
    before, decoder = weights_of(held), [weight.clone() for weight in critic.model.parameters()]
    groups = held.speaker.policy.sample([(20, 21)], 4, PARAMS, seed=0)
    rewards = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    algorithm = AlgorithmConfig()  # pyright: ignore[reportCallIssue]
    metrics = learn_with_critic(held, critic, groups, rewards, algorithm, PARAMS, settings_with(), 0)
    assert (metrics["critic_skipped_updates"], metrics["skipped_updates"]) == (1, 1)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(held).items())
    assert all(torch.equal(a, b) for a, b in zip(decoder, critic.model.parameters(), strict=True))

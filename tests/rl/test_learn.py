"""From rewards of groups to an update: what is dropped, what is counted, what the policy is given."""

import pytest
import torch

from counterpoint.errors import TrainingError
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.rl.learn import Learner, learn, loss_spec
from counterpoint.rl.types import Completion, SamplingParams
from fakes import FakePolicy
from pairs import recipe_in, tokenizer


class Told(FakePolicy):
    """Keeps the losses it was told, and says other log-probabilities than it sampled with."""

    def __init__(self, logprob=-0.5):
        super().__init__()
        self.logprob = logprob
        self.losses = []

    def update(self, data, loss, learning_rate, optimizer_steps=1):
        self.losses.append(loss)
        return super().update(data, loss, learning_rate, optimizer_steps)

    def logprobs(self, data, temperature=1.0):
        return [(self.logprob,) * len(datum.tokens) for datum in data]


def group(name, size=2, tokens=3):
    return [Completion((ord(name),), (i,) * tokens, (-0.5,) * tokens, f"{name}{i}", "end") for i in range(size)]


def learned(tmp_path, rewards, algorithm=None, reference=None, separately=None, **config):
    recipe = recipe_in(tmp_path, capable=config, algorithm=algorithm or {})
    policy = Told()
    learner = Learner(Speaker(policy, Renderer(tokenizer(), 96)), recipe.capable, reference)
    groups = [group("abc"[i], len(row)) for i, row in enumerate(rewards)]
    metrics = learn(learner, groups, torch.tensor(rewards), recipe.algorithm, SamplingParams(3, 0.7), separately)
    return metrics, policy


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo", "separate"])
def test_groups_without_spread_are_dropped_and_counted(tmp_path, advantage):
    metrics, policy = learned(tmp_path, [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], {"advantage": advantage})
    assert (metrics["groups_dropped"], metrics["groups"]) == (2, 3)
    [data] = policy.seen
    assert [datum.prompt for datum in data] == [(ord("b"),)] * 2
    assert data[0].advantages[0] == -data[1].advantages[0] < 0


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo", "reinforce_pp", "separate"])
def test_there_is_no_update_when_no_group_is_left(tmp_path, advantage):
    metrics, policy = learned(tmp_path, [[1.0, 1.0], [1.0, 1.0]], {"advantage": advantage})
    assert (metrics["groups_dropped"], metrics["groups"]) == (2, 2)
    assert policy.updates == 0


def test_a_group_that_ties_still_teaches_against_the_batch(tmp_path):
    metrics, policy = learned(tmp_path, [[1.0, 1.0], [0.0, 1.0]], {"advantage": "reinforce_pp"})
    assert metrics["groups_dropped"] == 0
    assert [datum.advantages[0] for datum in policy.seen[0]] == pytest.approx([0.5, 0.5, -1.5, 0.5], abs=1e-5)


def test_the_separate_advantage_keeps_the_strength_of_the_penalty(tmp_path):
    parts = (torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]]), 0.25)
    _, policy = learned(tmp_path, [[1.0, 0.5]], {"advantage": "separate"}, separately=parts)
    unit = 0.5**0.5
    assert [datum.advantages[0] for datum in policy.seen[0]] == pytest.approx([0.25 * unit, -0.25 * unit], abs=1e-5)


def test_a_kl_in_the_reward_is_taken_from_it(tmp_path):
    held = Told(-0.7)  # log ratios of 0.2 over three tokens: a KL of 0.6 each
    metrics, policy = learned(tmp_path, [[0.0, 1.0]], reference=held, kl_coefficient=0.5)
    assert metrics["kl_to_start"] == pytest.approx(0.6)
    assert policy.seen[0][0].reference_logprobs is None
    assert policy.losses[0].kl_coefficient == 0


def test_a_kl_in_the_reward_can_be_all_that_tells_samples_apart(tmp_path):
    class Uneven(Told):
        def logprobs(self, data, temperature=1.0):
            return [(-0.7 if i else -0.5,) * len(datum.tokens) for i, datum in enumerate(data)]

    metrics, policy = learned(tmp_path, [[1.0, 1.0]], reference=Uneven(), kl_coefficient=0.5)
    assert metrics["groups_dropped"] == 0
    assert [datum.advantages[0] for datum in policy.seen[0]] == pytest.approx([0.15, -0.15])


def test_a_kl_in_the_loss_reaches_the_groups_that_are_used(tmp_path):
    class Numbered(Told):
        def logprobs(self, data, temperature=1.0):
            return [(-float(datum.prompt[0]),) * len(datum.tokens) for datum in data]

    algorithm = {"kl_in": "loss", "kl_kind": "k3"}
    _, policy = learned(tmp_path, [[1.0, 1.0], [0.0, 1.0]], algorithm, Numbered(), kl_coefficient=0.5)
    assert [datum.reference_logprobs for datum in policy.seen[0]] == [(-float(ord("b")),) * 3] * 2
    assert (policy.losses[0].kl_coefficient, policy.losses[0].kl_kind) == (0.5, "k3")


def test_a_kl_term_without_a_reference_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match=r"kl_coefficient is 0\.5 and the learner of none has no reference"):
        learned(tmp_path, [[0.0, 1.0]], kl_coefficient=0.5)


def test_one_sample_that_is_left_of_a_batch_teaches_nothing(tmp_path):
    metrics, policy = learned(tmp_path, [[1.0]], {"advantage": "reinforce_pp"})
    assert (metrics["groups_dropped"], metrics["groups"], policy.updates) == (1, 1, 0)


def test_old_log_probabilities_are_given_only_where_they_are_needed(tmp_path):
    for algorithm, expected in (
        ({}, None),
        ({"optimizer_steps": 2}, (-0.5,) * 3),
        ({"max_importance_weight": 2.0}, None),
        ({"max_importance_weight": 2.0, "optimizer_steps": 2}, (-0.5,) * 3),
    ):
        _, policy = learned(tmp_path, [[0.0, 1.0]], algorithm)
        assert policy.seen[0][0].old_logprobs == expected


def test_what_vllm_sampled_is_weighted_in_the_loss(tmp_path):
    for sampler, weight in (("transformers", None), ("vllm", 2)):
        _, policy = learned(tmp_path, [[0.0, 1.0]], sampler=sampler)
        assert policy.losses[0].max_importance_weight == weight


def test_the_recipe_names_the_loss(tmp_path):
    algorithm = recipe_in(
        tmp_path,
        algorithm={"loss": "cispo", "aggregation": "constant", "clip_high": 3.0, "kl_kind": "k2", "max_importance_weight": 2.0},
    ).algorithm
    spec = loss_spec(algorithm, 0.7, 0.1, max_tokens=9)
    assert (spec.name, spec.aggregation, spec.clip_high, spec.kl_kind) == ("cispo", "constant", 3.0, "k2")
    assert (spec.constant_length, spec.max_importance_weight, spec.temperature, spec.kl_coefficient) == (9, 2.0, 0.7, 0.1)
    named = algorithm.model_copy(update={"constant_length": 64})
    assert loss_spec(named, 0.7, 0.0, max_tokens=9).constant_length == 64


def test_the_clip_is_that_of_the_loss_unless_it_is_set(tmp_path):
    def clips(**algorithm):
        spec = loss_spec(recipe_in(tmp_path, algorithm=algorithm).algorithm, 1.0, 0.0, max_tokens=9)
        return spec.clip_low, spec.clip_high

    assert clips() == (0.2, 0.28)
    assert clips(loss="gspo") == (3e-4, 4e-4)
    assert clips(loss="gspo", clip_low=0.0, clip_high=0.1) == (0.0, 0.1)

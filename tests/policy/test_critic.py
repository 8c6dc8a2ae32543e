"""A critic's values and updates against a plain forward pass, and what is kept, skipped and refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModel

import tiny_models
from counterpoint.config import CriticConfig, LoraConfig, ModelConfig
from counterpoint.errors import DataError, ModelError
from counterpoint.policy.critic import Critic, critic_for, load_critic
from counterpoint.policy.trainable import OPTIMIZER_FILE
from counterpoint.rl.types import Datum
from counterpoint.rl.values import explained_variance

SHAPES = [(5, 3), (2, 9), (7, 1), (3, 6), (4, 4)]
"""Tokens of the prompt and of the completion, of each datum."""
FAR = math.inf
"""A value clip that clips nothing."""


def critic_of(kind: str = "qwen3", seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Critic:
    """A critic whose head says something."""
    decoder = tiny_models.model(kind, seed).to(dtype).get_decoder()
    critic = Critic(decoder, **options)
    with torch.no_grad():
        nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(seed), std=0.3)
        critic.head.bias.fill_(0.25)
    return critic


def some_data() -> list[Datum]:
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 250, (n,), generator=generator).tolist())

    return [Datum(ids(p), ids(t), (0.0,) * t) for p, t in SHAPES]


DATA = some_data()


def numbers(seed: int) -> list[tuple[float, ...]]:
    """One for each token of the data."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randn(t, generator=generator).tolist()) for _, t in SHAPES]


def plain_values(critic: Critic, datum: Datum) -> torch.Tensor:
    """The value before each token, by one forward pass over one sequence, without padding."""
    hidden = critic.model(input_ids=torch.tensor([datum.prompt + datum.tokens]), use_cache=False).last_hidden_state[0]
    states = [hidden[len(datum.prompt) + t - 1] for t in range(len(datum.tokens))]
    return torch.stack([state.float() @ critic.head.weight[0] + critic.head.bias[0] for state in states])


def weights_of(critic: Critic) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in [*critic.model.parameters(), *critic.head.parameters()]]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def gradients_of(critic: Critic) -> list[list[torch.Tensor]]:
    """Fills with the gradients of each step that its optimizer takes."""
    steps: list[list[torch.Tensor]] = []
    assert critic.optimizer is not None
    critic.optimizer.register_step_pre_hook(
        lambda *_: steps.append([weight.grad.clone() for weight in critic.masters if weight.grad is not None])
    )
    return steps


# What it says


@pytest.mark.parametrize("budget", [1, 24, 16_384])
@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_the_value_of_a_token_is_that_of_the_state_before_it_however_the_data_are_cut(kind, budget):
    critic = critic_of(kind, tokens_per_microbatch=budget)
    values = critic.values(DATA)
    assert len({value for row in values for value in row}) > 20
    for datum, row in zip(DATA, values, strict=True):
        with torch.no_grad():
            assert row == pytest.approx(plain_values(critic, datum).tolist(), abs=1e-5)


def test_the_value_of_a_state_does_not_depend_on_what_comes_after():
    critic, datum = critic_of(), DATA[0]
    other = Datum(datum.prompt, (datum.tokens[0], 99, 98), datum.advantages)
    one, two = critic.values([datum, other])
    assert one[:2] == pytest.approx(two[:2])
    assert one[2] != pytest.approx(two[2], abs=1e-3)


def test_a_new_critic_says_zero_of_everything_and_can_learn():
    critic = Critic(tiny_models.model().get_decoder())
    assert {value for row in critic.values(DATA) for value in row} == {0.0}
    before = weights_of(critic)
    for _ in range(2):  # through a head of zeros no gradient reaches the decoder
        critic.update(DATA, numbers(1), critic.values(DATA), 1e-2, FAR)
    assert not any(torch.equal(a, b) for a, b in zip(before, weights_of(critic), strict=True) if a.dim() == 2 and len(a) < 200)


def test_a_completion_without_tokens_has_no_values_and_does_no_harm():
    critic, alone = critic_of(), critic_of()
    empty = Datum((20, 21), (), ())
    assert critic.values([empty, DATA[0]]) == [(), critic.values(DATA[:1])[0]]
    critic.update([empty, DATA[0]], [(), (1.0,) * 3], [(), (0.0,) * 3], 1e-2, FAR)
    alone.update(DATA[:1], [(1.0,) * 3], [(0.0,) * 3], 1e-2, FAR)
    torch.testing.assert_close(weights_of(critic), weights_of(alone), atol=1e-4, rtol=0)  # a hundredth of the step


# How it learns


@pytest.mark.parametrize("clip", [FAR, 0.3])
@pytest.mark.parametrize("budget", [1, 24, 16_384])
def test_the_gradient_is_that_of_a_plain_implementation_however_it_is_cut(budget, clip):
    critic, returns = critic_of(tokens_per_microbatch=budget, max_grad_norm=1e9), numbers(1)
    old = [tuple(v + 0.5 * n for v, n in zip(*rows, strict=True)) for rows in zip(critic.values(DATA), numbers(2), strict=True)]
    parts, beyond = [], 0
    for datum, goals, before in zip(DATA, returns, old, strict=True):
        values, goal, start = plain_values(critic, datum), torch.tensor(goals), torch.tensor(before)
        clipped = start + (values - start).clamp(-clip, clip)
        parts.append(0.5 * torch.max((values - goal) ** 2, (clipped - goal) ** 2))
        beyond += int(((clipped - goal) ** 2 > (values - goal) ** 2 + 1e-6).sum())
    loss = torch.cat(parts).mean()
    expected = torch.autograd.grad(loss, critic.weights, allow_unused=True)

    steps = gradients_of(critic)
    metrics = critic.update(DATA, returns, old, 1e-4, clip)
    torch.testing.assert_close(steps[0], [grad for grad in expected if grad is not None], atol=1e-5, rtol=1e-4)
    assert metrics["value_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["clipped_share"] == beyond / sum(t for _, t in SHAPES)
    assert (beyond > 0) == (clip != FAR)
    assert metrics["grad_norm"] == pytest.approx(math.sqrt(sum(float(grad.square().sum()) for grad in steps[0])), rel=1e-5)
    flat_old, flat_returns = (torch.tensor([x for row in rows for x in row]) for rows in (old, returns))
    assert metrics["explained_variance"] == pytest.approx(explained_variance(flat_old, flat_returns))


def test_two_optimizer_steps_take_two_steps_on_halves_of_the_data():
    critic, twice = critic_of(), critic_of()
    returns, old = numbers(1), critic.values(DATA)
    steps = gradients_of(critic)
    critic.update(DATA, returns, old, 1e-3, 0.2, optimizer_steps=2)
    assert len(steps) == 2
    twice.update(DATA[:2], returns[:2], old[:2], 1e-3, 0.2)
    twice.update(DATA[2:], returns[2:], old[2:], 1e-3, 0.2)
    assert same(weights_of(critic), weights_of(twice))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_to_predict_returns(seed):
    """The return is 1 or −1 by the last token of the prompt, and 0.5 more after a certain token."""
    generator = torch.Generator().manual_seed(seed)
    data, returns = [], []
    for _ in range(32):
        *start, sign, first, second = torch.randint(20, 24, (5,), generator=generator).tolist()
        data.append(Datum((*start, sign), (first, second, 30), (0.0,) * 3))
        base = 1.0 if sign % 2 else -1.0
        returns.append((base, base + 0.5 * (first == 20), base + 0.5 * (first == 20)))
    critic = Critic(tiny_models.model(seed=seed).get_decoder())
    history = [critic.update(data, returns, critic.values(data), 1e-2, 0.5) for _ in range(40)]
    assert history[0]["value_loss"] > 0.4
    assert history[0]["explained_variance"] == 0
    assert history[-1]["value_loss"] < 0.02
    assert history[-1]["explained_variance"] > 0.95


def test_a_bfloat16_critic_has_float32_masters_and_a_float32_head():
    critic = critic_of(dtype=torch.bfloat16)
    assert critic.model.dtype == torch.bfloat16
    assert {weight.dtype for weight in critic.head.parameters()} == {torch.float32}
    assert all(master.dtype == torch.float32 for master in critic.masters)
    masters = [master.clone() for master in critic.masters]
    critic.update(DATA, numbers(1), critic.values(DATA), 1e-6, FAR)
    moved = [not torch.equal(old, new) for old, new in zip(masters, critic.masters, strict=True)]
    assert sum(moved) > len(moved) / 2  # the decoder too, by steps that its own type would have lost


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_leaves_the_weights_alone_and_is_counted(bad, dtype):
    critic, untouched = critic_of(dtype=dtype), critic_of(dtype=dtype)
    returns, old = numbers(1), critic.values(DATA)
    metrics = critic.update(DATA, [*returns[:-1], (bad,) * 4], old, 1e-2, FAR)
    assert metrics == {"skipped_updates": 1.0}
    assert same(weights_of(critic), weights_of(untouched))
    # nothing of it is left for the next one
    for one in (critic, untouched):
        assert one.update(DATA, returns, old, 1e-2, FAR)["skipped_updates"] == 0
    assert same(weights_of(critic), weights_of(untouched))


def test_metrics_are_of_the_steps_that_were_taken():
    critic, only = critic_of(), critic_of()
    old = critic.values(DATA)
    metrics = critic.update(DATA[:2], [(1.0,) * 3, (math.nan,) * 9], old[:2], 1e-3, 0.2, optimizer_steps=2)
    alone = only.update(DATA[:1], [(1.0,) * 3], old[:1], 1e-3, 0.2)
    assert metrics["skipped_updates"] == 1
    for name in ("value_loss", "grad_norm", "clipped_share"):
        assert metrics[name] == pytest.approx(alone[name])


def test_wrong_data_are_refused():
    critic = critic_of()
    with pytest.raises(DataError, match="no data to learn from"):
        critic.update([], [], [], 1e-3, 0.2)
    with pytest.raises(DataError, match="returns must have one number for each"):
        critic.update(DATA[:1], [(1.0,) * 4], [(0.0,) * 3], 1e-3, 0.2)
    with pytest.raises(ValueError, match="shorter"):
        critic.update(DATA[:2], [(1.0,) * 3], [(0.0,) * 3], 1e-3, 0.2)
    with pytest.raises(DataError, match="no prompt"):
        critic.values([Datum((), (20,), (0.0,))])
    assert critic.values([]) == []


# What is kept


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models.model().save_pretrained(directory)
    tiny_models.tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "lora"])
def test_going_on_after_save_and_load_is_as_if_nothing_had_been_interrupted(tmp_path, saved, variant):
    def fresh(seed: int) -> Critic:
        torch.manual_seed(seed)
        if variant == "lora":
            return load_critic(ModelConfig(model=saved, lora=LoraConfig(rank=4), device="cpu"))  # pyright: ignore
        return critic_of(seed=seed, dtype=getattr(torch, variant), weight_decay=0.01)

    def learn(critic: Critic) -> list[dict[str, float]]:
        return [critic.update(DATA, numbers(i), critic.values(DATA), 1e-2, 0.2) for i in range(3)]

    unbroken = fresh(0)
    learn(unbroken)
    unbroken.save(tmp_path / "saved")
    resumed = fresh(1)
    assert not same(weights_of(resumed), weights_of(unbroken))
    resumed.load(tmp_path / "saved")
    assert same(weights_of(resumed), weights_of(unbroken))
    assert resumed.values(DATA) == unbroken.values(DATA)
    assert learn(resumed) == learn(unbroken)
    assert same(weights_of(resumed), weights_of(unbroken))
    assert same(resumed.masters, unbroken.masters)


def test_a_saved_decoder_loads_with_from_pretrained(tmp_path):
    critic = critic_of()
    critic.update(DATA, numbers(1), critic.values(DATA), 1e-2, FAR)
    critic.save(tmp_path)
    assert same(list(AutoModel.from_pretrained(tmp_path).parameters()), list(critic.model.parameters()))
    assert (tmp_path / "value_head.safetensors").is_file()
    assert (tmp_path / OPTIMIZER_FILE).is_file()


# Where it comes from


def section(model: str | Path, **options: Any) -> ModelConfig:
    return ModelConfig(model=str(model), **({"device": "cpu"} | options))  # pyright: ignore


def test_a_critic_starts_from_the_decoder_of_its_section_with_its_settings(saved):
    critic = load_critic(section(saved, tokens_per_microbatch=99, max_grad_norm=0.5, weight_decay=0.1, dtype="bfloat16"))
    assert (critic.tokens_per_microbatch, critic.max_grad_norm, critic.model.dtype) == (99, 0.5, torch.bfloat16)
    assert critic.optimizer is not None
    assert critic.optimizer.param_groups[0]["weight_decay"] == 0.1
    decoder = tiny_models.model().get_decoder()
    assert same(list(load_critic(section(saved)).model.parameters()), list(decoder.parameters()))


def test_a_lora_critic_learns_in_its_adapters_and_its_head_alone(saved):
    critic = load_critic(section(saved, lora=LoraConfig(rank=4)))  # pyright: ignore
    before = {name: weight.detach().clone() for name, weight in critic.model.named_parameters()}
    for _ in range(2):
        critic.update(DATA, numbers(1), critic.values(DATA), 1e-2, FAR)
    changed = {name for name, weight in critic.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert critic.head.weight.abs().min() > 0


def test_a_critic_can_start_from_another_model_that_reads_the_same_tokens(tmp_path, saved):
    policy = section(saved, gguf_file=None, max_grad_norm=0.5)
    own = critic_for(CriticConfig(), policy, tiny_models.tokenizer())  # pyright: ignore
    assert own.model.config.num_hidden_layers == 2
    tiny_models.model(num_hidden_layers=1).save_pretrained(tmp_path / "small")
    tiny_models.tokenizer().save_pretrained(tmp_path / "small")
    other = critic_for(CriticConfig(model=str(tmp_path / "small")), policy, tiny_models.tokenizer())  # pyright: ignore
    assert (other.model.config.num_hidden_layers, other.max_grad_norm) == (1, 0.5)


def test_a_critic_that_reads_other_tokens_than_the_policy_writes_is_refused(saved):
    settings = CriticConfig(model="builtin:light")  # pyright: ignore
    with pytest.raises(ModelError, match="builtin:light has another vocabulary than the policy"):
        critic_for(settings, section(saved), tiny_models.tokenizer())


def test_a_model_without_a_decoder_of_its_own_is_refused(saved, monkeypatch):
    whole = tiny_models.model()
    whole.get_decoder = lambda: whole  # what transformers gives where it finds none
    monkeypatch.setattr("counterpoint.policy.critic.load_model", lambda config: whole)
    with pytest.raises(ModelError, match="no decoder apart from its head"):
        load_critic(section(saved))

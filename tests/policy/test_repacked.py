"""Linear layers in another layout while sampling: the same is drawn, and the model is as it was."""

import pytest
import torch
from torch import nn

import tiny_models
from counterpoint.policy import repacked as module
from counterpoint.policy.repacked import can_repack, may_change, repacked
from counterpoint.rl.types import SamplingParams

PROMPTS = [tuple(range(20, 29)), (40, 41, 42)]
LONG = SamplingParams(32)

pytestmark = pytest.mark.skipif(not can_repack(torch.float32), reason="this processor multiplies in one layout only")


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 1)


@pytest.fixture
def products(monkeypatch):
    """Counts the products that are taken in the other layout."""
    multiply, count = module.multiply, [0]

    def counted(*arguments):
        count[0] += 1
        return multiply(*arguments)

    monkeypatch.setattr(module, "multiply", counted)
    return count


def changed(model: nn.Module) -> int:
    return sum("forward" in layer.__dict__ for layer in model.modules())


@pytest.mark.parametrize("with_adapters", [False, True])
def test_the_same_is_drawn_after_every_change_of_the_weights(monkeypatch, products, with_adapters):
    policy = tiny_models.policy()
    if with_adapters:
        from peft import LoraConfig, get_peft_model

        from counterpoint.policy.local import LocalPolicy

        policy = LocalPolicy(get_peft_model(policy.model, LoraConfig(target_modules="all-linear")), policy.tokenizer)  # pyright: ignore
    for seed in range(2):
        found = policy.sample(PROMPTS, 4, LONG, seed)
        taken = products[0]
        with monkeypatch.context() as patch:
            patch.setattr(module, "FEWEST_ROWS", 1000)
            expected = policy.sample(PROMPTS, 4, LONG, seed)
        assert taken == products[0] > 0
        for group, its_other in zip(found, expected, strict=True):
            for completion, other in zip(group, its_other, strict=True):
                assert completion.tokens == other.tokens
                assert completion.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert changed(policy.model) == 0
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.data += 0.1 * torch.randn_like(weight)


def test_a_bias_is_added():
    layer, states = nn.Linear(16, 8), torch.randn(4, 1, 16)
    expected = layer(states)
    with repacked(layer, 4, 32), torch.no_grad():
        assert changed(layer) == 1
        torch.testing.assert_close(layer(states), expected)
    assert changed(layer) == 0


def test_a_model_is_as_it_was_when_sampling_was_broken_off():
    policy = tiny_models.policy()

    def stop(*_):
        assert changed(policy.model) > 0
        raise InterruptedError

    with pytest.raises(InterruptedError):
        policy.sample(PROMPTS, 4, LONG, 0, on_tokens=stop)
    assert changed(policy.model) == 0


@pytest.mark.parametrize(("rows", "tokens", "expected"), [(4, 32, 1), (3, 32, 0), (4, 31, 0)])
def test_what_would_not_repay_the_change_is_left_as_it_is(rows, tokens, expected):
    layer = nn.Linear(16, 8)
    with repacked(layer, rows, tokens):
        assert changed(layer) == expected


def test_layers_that_are_small_or_special_are_left_as_they_are(monkeypatch):
    class Own(nn.Linear):
        """Does something else."""

    taken = nn.Linear(16, 8)
    taken.forward = lambda states: states
    assert may_change(nn.Linear(16, 8))
    assert not may_change(Own(16, 8))
    assert not may_change(taken)
    assert not may_change(nn.Linear(16, 8, dtype=torch.float64))
    monkeypatch.setattr(module, "SMALLEST", 129)
    assert not may_change(nn.Linear(16, 8))

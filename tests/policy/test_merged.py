"""Weights for an engine without adapters: those of the model that peft itself would merge."""

import copy

import pytest
import torch

import tiny_models
from counterpoint.config import LoraConfig, ModelConfig
from counterpoint.errors import ModelError
from counterpoint.policy.load import with_adapters
from counterpoint.policy.merged import check_mergeable, merged_weights


def adapted(dtype=torch.float32, targets="all-linear", **options):
    """A model with adapters that change it."""
    config = ModelConfig(model="none", lora=LoraConfig(rank=2, alpha=8, targets=targets))  # pyright: ignore
    model = with_adapters(tiny_models.model(**options).to(dtype), config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
    return model


def test_a_model_without_adapters_gives_its_own_weights():
    model = tiny_models.model()
    found = dict(merged_weights(model))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(found[name], weight) for name, weight in model.named_parameters())
    assert not any(weight.requires_grad for weight in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_merged_as_peft_does_and_the_model_stays_as_it_is(dtype):
    model = adapted(dtype)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    found = dict(merged_weights(model))
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == dtype
        torch.testing.assert_close(found[name], weight, atol=1e-6 if dtype == torch.float32 else 4e-3, rtol=0)
    adapted_ones = [name for name in found if f"base_model.model.{name}" not in before]
    assert len(adapted_ones) == 14  # seven matrices in each of two layers
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_an_adapter_on_a_tied_embedding_is_refused():
    targets = ["q_proj", "embed_tokens"]
    check_mergeable(adapted(targets=targets))
    check_mergeable(adapted(tie_word_embeddings=True))
    with pytest.raises(ModelError, match=r"tied to the head.*leave both out of lora\.targets"):
        check_mergeable(adapted(targets=targets, tie_word_embeddings=True))

"""Costs: small numbers worked by hand, sums taken token by token, and shapes against real models."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

from counterpoint.flops import (
    ModelShape,
    activation_bytes,
    completion_flops,
    forward_flops,
    gradient_bytes,
    kv_cache_bytes,
    optimizer_bytes,
    shape_of,
    training_flops,
    weight_bytes,
)

SHAPE = ModelShape(parameters=1300, body_parameters=1000, layers=2, hidden=3, attention=5, keys=4, intermediate=7, vocabulary=100)
"""Per token: 2 · 1000 for the body, 2 · 3 · 100 = 600 for the head, 4 · 2 · 5 = 40 for each token attended to."""

QWEN = Qwen3Config(
    vocab_size=64, hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, tie_word_embeddings=True,
)  # fmt: skip
LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    tie_word_embeddings=False,
)  # fmt: skip
GPT = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16)


def test_one_token_by_hand():
    assert forward_flops(SHAPE, 1) == 2000 + 600 + 40
    assert forward_flops(SHAPE, 1, context_tokens=9) == 2000 + 600 + 40 * 10


def test_several_tokens_by_hand():
    # tokens attend to 6, 7 and 8 tokens: 21 in all
    assert forward_flops(SHAPE, 3, context_tokens=5) == 3 * 2600 + 40 * 21
    assert forward_flops(SHAPE, 3, context_tokens=5, logit_tokens=1) == 3 * 2000 + 600 + 40 * 21


def test_a_pass_is_the_sum_of_its_tokens():
    assert forward_flops(SHAPE, 7, 4) == sum(forward_flops(SHAPE, 1, 4 + before) for before in range(7))


def test_a_completion_is_a_prefill_and_a_pass_a_token():
    one_by_one = forward_flops(SHAPE, 6, logit_tokens=1) + sum(forward_flops(SHAPE, 1, 6 + before) for before in range(4))
    assert completion_flops(SHAPE, 6, 5) == one_by_one
    assert completion_flops(SHAPE, 6, 1) == forward_flops(SHAPE, 6, logit_tokens=1)
    assert completion_flops(SHAPE, 6, 0) == 0


def test_samples_share_their_prompt():
    one, prefill = completion_flops(SHAPE, 6, 5), forward_flops(SHAPE, 6, logit_tokens=1)
    assert completion_flops(SHAPE, 6, 5, samples=4) == 4 * one - 3 * prefill
    assert completion_flops(SHAPE, 6, 5, samples=4, shared_prefix=False) == 4 * one


def test_training_is_three_forward_passes():
    # 4 tokens attend to 1 + 2 + 3 + 4, and the head sees 3 of them
    assert training_flops(SHAPE, 1, 3) == 3 * (4 * 2000 + 3 * 600 + 40 * 10)


def test_memory_by_hand():
    assert weight_bytes(10, "float32") == 40
    assert weight_bytes(10, "bfloat16") == 20
    assert gradient_bytes(10) == 40
    assert optimizer_bytes(10, "float32") == 80
    assert optimizer_bytes(10, "bfloat16") == 120
    # keys and values of 2 layers, 4 numbers each
    assert kv_cache_bytes(SHAPE, 10, "float32") == 2 * 2 * 4 * 10 * 4
    assert kv_cache_bytes(SHAPE, 10, "bfloat16") == 2 * 2 * 4 * 10 * 2


@pytest.mark.parametrize("config", [QWEN, LLAMA, GPT], ids=lambda config: config.model_type)
def test_parameters_are_those_of_the_real_model(config):
    model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(config)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    blocks = getattr(model.get_decoder(), "layers", None) or model.get_decoder().h
    final_norm = getattr(model.get_decoder(), "norm", None) or model.get_decoder().ln_f
    body = [weight for part in (blocks, final_norm) for weight in part.parameters()]
    assert shape.body_parameters == sum(weight.numel() for weight in body)


def test_shapes_by_hand():
    shape = shape_of(QWEN)
    assert (shape.layers, shape.hidden, shape.attention, shape.keys) == (3, 32, 64, 32)
    assert (shape.intermediate, shape.vocabulary) == (96, 64)
    assert (shape_of(LLAMA).attention, shape_of(LLAMA).keys) == (32, 32)
    assert (shape_of(GPT).attention, shape_of(GPT).keys, shape_of(GPT).intermediate) == (32, 32, 128)


def test_no_weight_is_allocated():
    huge = Qwen3Config(hidden_size=16_384, intermediate_size=131_072, num_hidden_layers=72, num_attention_heads=128, head_dim=128)
    assert shape_of(huge).parameters > 400e9


def test_the_cache_is_that_of_the_real_model():
    model = AutoModelForCausalLM.from_config(QWEN)
    cache = model(torch.zeros(2, 5, dtype=torch.long), use_cache=True).past_key_values
    stored = sum(tensor.numel() * 4 for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert kv_cache_bytes(shape_of(QWEN), 2 * 5, "float32") == stored


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=lambda config: config.model_type)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_about_what_autograd_keeps(config, dtype):
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(torch.zeros(4, 64, dtype=torch.long), use_cache=False).last_hidden_state
    assert hidden.requires_grad
    assert 0.85 < activation_bytes(shape_of(config), 4 * 64, dtype) / sum(kept.values()) < 1.4

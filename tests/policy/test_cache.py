"""Rows that share their prompts' keys: that a model makes the same of them, and which models cannot."""

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

import tiny_models
from counterpoint.policy.cache import Grouped, Separate, can_group, grouped_attention, prefill
from counterpoint.policy.rollout import TransformersSampler
from counterpoint.rl.types import SamplingParams

PROMPTS = [tuple(range(20, 29)), (40, 41, 42), (50, 51, 52, 53, 54, 55)]
KEPT = [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 2, 3, 6, 7], [0, 3, 4], [1, 2], [1]]
"""Rows of three prompts that go on: some of each, then none of the second, and of the first."""


@pytest.mark.parametrize("prompts", [PROMPTS, [PROMPTS[1]] * 3], ids=["ragged", "even"])
@pytest.mark.parametrize("options", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}], ids=["two", "four", "one"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_grouped_rows_are_read_as_separate_ones_are(kind, options, prompts):
    model = tiny_models.model(kind, **options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        grouped, separate = Grouped(model, prefill(model, prompts), 3), Separate(model, prefill(model, prompts), 3)
        for kept in KEPT:
            for rows in (grouped, separate):
                rows.keep(torch.tensor(kept))
            for _ in range(2):
                tokens = torch.randint(10, 250, (len(kept),), generator=generator)
                found, expected = grouped.read(tokens), separate.read(tokens)
                assert found.shape == expected.shape
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert [len(keys) for keys, _ in grouped.prompts] == [1, 1]  # of prompts that have rows left
    assert [layer.get_seq_length() for layer in grouped.layers] == [10, 10]  # and of what was sampled alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_decoder_takes_grouped_rows(dtype):
    model = tiny_models.model("llama").to(dtype)
    assert can_group(model)


@pytest.mark.parametrize("kind", ["gemma2", "gemma3", "bloom"])
def test_soft_caps_short_windows_and_biases_of_the_models_own_are_left_to_separate_rows(kind):
    model = (
        tiny_models.model(kind)
        if kind != "bloom"
        else BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4))
    )
    assert not can_group(model)


def test_a_model_is_left_as_it_was_by_the_trial():
    model = tiny_models.model("llama").train()
    can_group(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_a_window_that_is_shorter_than_a_sequence_is_left_to_separate_rows(monkeypatch):
    model = tiny_models.model("gemma3", sliding_window=16)
    sampler = TransformersSampler(model, tiny_models.tokenizer(), 10_000)
    assert sampler.groups
    used = []
    for rows in (Grouped, Separate):
        monkeypatch.setattr(f"counterpoint.policy.rollout.{rows.__name__}", lambda *a, rows=rows: used.append(rows) or rows(*a))
    sampler.sample(PROMPTS, 2, SamplingParams(7), seed=0)
    sampler.sample(PROMPTS, 2, SamplingParams(8), seed=0)
    assert used == [Grouped, Separate]


def test_the_same_is_drawn_of_grouped_rows_and_of_separate_ones():
    model = tiny_models.model()
    model.generation_config.eos_token_id = list(range(60, 100))
    sampler = TransformersSampler(model, tiny_models.tokenizer(), 10_000)
    assert sampler.groups
    grouped = sampler.sample(PROMPTS, 16, SamplingParams(24), seed=3)
    sampler.groups = False
    separate = sampler.sample(PROMPTS, 16, SamplingParams(24), seed=3)
    for group, its_other in zip(grouped, separate, strict=True):
        for completion, other in zip(group, its_other, strict=True):
            assert completion.tokens == other.tokens
            assert completion.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize(
    ("queries", "others", "expected"),
    [(1, {"s_aux": torch.zeros(4)}, "does not do s_aux"), (1, {"softcap": 30.0}, "softcap"), (2, {}, "does not do this")],
)
def test_attention_that_is_not_plain_is_refused(queries, others, expected):
    states = torch.zeros(3, 2, queries, 8)
    with pytest.raises(NotImplementedError, match=expected):
        grouped_attention(nn.Module(), states, states, states, None, grouped=object(), **others)  # pyright: ignore

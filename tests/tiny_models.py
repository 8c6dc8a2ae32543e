"""Models of a few thousand random weights, and a tokenizer for them."""

from functools import cache
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.tiny import learn_tokenizer

END = "<|end|>"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 293 tokens, some of which are words."""
    return learn_tokenizer(["Add three and four. the answer is 7. The sum of all is the answer."] * 4, vocabulary_size=304)


def shape(vocabulary: int, options: dict[str, Any]) -> dict[str, Any]:
    """What all of the models have in common. Weights are large enough that tokens differ in probability."""
    end = tokenizer().convert_tokens_to_ids(END)
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.25,
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "pad_token_id": 0,
        "bos_token_id": None,
    } | options


def model(kind: str = "qwen3", seed: int = 0, vocabulary: int | None = None, **options: Any) -> PreTrainedModel:
    """A small model by the name of its family. gemma3's first layer and gemma2's see four tokens back only."""
    options = shape(vocabulary or len(tokenizer()), options)
    windows = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
    torch.manual_seed(seed)
    if kind == "qwen3":
        made = Qwen3ForCausalLM(Qwen3Config(**options))
    elif kind == "llama":
        made = LlamaForCausalLM(LlamaConfig(**options))
    elif kind == "gemma3":
        made = Gemma3ForCausalLM(Gemma3TextConfig(**(windows | options)))
    elif kind == "gemma2":
        made = Gemma2ForCausalLM(Gemma2Config(**(windows | {"final_logit_softcapping": 2.0} | options)))
    else:
        raise ValueError(kind)
    return made.eval()


def policy(kind: str = "qwen3", seed: int = 0, model_options: dict[str, Any] | None = None, **options: Any) -> LocalPolicy:
    """A policy over a small model."""
    return LocalPolicy(model(kind, seed, **(model_options or {})), tokenizer(), **options)


def full_logprobs(model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...], temperature: float = 1.0) -> torch.Tensor:
    """Log-probability of each of `tokens` by one plain forward pass over one sequence, without padding or cache: [T]."""
    logits = model(input_ids=torch.tensor([prompt + tokens]), use_cache=False).logits[0].float() / temperature
    steps = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return steps.gather(-1, torch.tensor(tokens)[:, None])[:, 0]

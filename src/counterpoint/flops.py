"""What a transformer costs in arithmetic and in memory, from its shape alone. Nothing here allocates a weight.

A multiplication and an addition are two operations (FLOPs). Per token a forward pass takes 2 for each parameter that is not an
embedding (Kaplan et al., arXiv 2001.08361), and 4 · layers · d_attn for each token that it attends to (PaLM, arXiv 2204.02311,
appendix B). Norms, softmax and the sampler are left out. A mixture of experts is counted as if all experts ran.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

DType = Literal["float32", "bfloat16"]
BYTES: dict[DType, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class ModelShape:
    """The numbers that cost follows from."""

    parameters: int
    """All of them, tied ones once."""
    body_parameters: int
    """Without embeddings and the language-model head."""
    layers: int
    hidden: int
    attention: int
    """Attention heads × their width: d_attn."""
    keys: int
    """Key-value heads × their width."""
    intermediate: int
    """Width of the MLP."""
    vocabulary: int


def meta_model(config: PreTrainedConfig) -> Any:
    """The model of a config with weights that have shapes and no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def shape_of(config: PreTrainedConfig, model: Any = None) -> ModelShape:
    """The shape of a config's model; `model` saves building its `meta_model` again."""
    model = meta_model(config) if model is None else model
    text = config.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    parameters = dict.fromkeys(model.parameters())
    embedding: dict[nn.Parameter, None] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding) or module is model.get_output_embeddings():
            embedding |= dict.fromkeys(module.parameters())
    total = sum(weight.numel() for weight in parameters)
    return ModelShape(
        parameters=total,
        body_parameters=total - sum(weight.numel() for weight in embedding),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        attention=heads * width,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * width,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
    )


def forward_flops(shape: ModelShape, new_tokens: int, context_tokens: int = 0, logit_tokens: int | None = None) -> int:
    """A forward pass over `new_tokens` that follow `context_tokens` in the cache.

    The i-th new token attends to context + i tokens, itself among them, which sums to n · context + n (n + 1) / 2.
    The head is applied to `logit_tokens` of the new tokens; None: to all.
    """
    attended = new_tokens * context_tokens + new_tokens * (new_tokens + 1) // 2
    head = 2 * shape.hidden * shape.vocabulary * (new_tokens if logit_tokens is None else logit_tokens)
    return 2 * shape.body_parameters * new_tokens + head + 4 * shape.layers * shape.attention * attended


def completion_flops(
    shape: ModelShape, prompt_tokens: int, output_tokens: int, samples: int = 1, shared_prefix: bool = True
) -> int:
    """Sampling `samples` completions of a prompt with a cache.

    The prompt gives the first token and the last token is never fed back, so decoding takes output − 1 passes of one token. With
    `shared_prefix` the prompt is computed once for all samples, as our sampler does, else once for each.
    """
    if output_tokens < 1:
        return 0
    prefill = forward_flops(shape, prompt_tokens, logit_tokens=1)
    decode = forward_flops(shape, output_tokens - 1, prompt_tokens)
    return prefill * (1 if shared_prefix else samples) + decode * samples


def training_flops(shape: ModelShape, prompt_tokens: int, output_tokens: int) -> int:
    """A forward and a backward pass over one sequence, three times the forward: the backward pass multiplies twice, once for the
    weights' gradient and once for the inputs'. The head sees only the tokens that are learned from."""
    return 3 * forward_flops(shape, prompt_tokens + output_tokens, logit_tokens=output_tokens)


def weight_bytes(parameters: int, dtype: DType) -> int:
    return parameters * BYTES[dtype]


def gradient_bytes(trained_parameters: int) -> int:
    """Gradients are float32 when the optimizer steps, whatever the weights are: `LocalPolicy` converts those of bfloat16."""
    return 4 * trained_parameters


def optimizer_bytes(trained_parameters: int, dtype: DType) -> int:
    """What AdamW keeps between steps: two float32 moments, and for weights in a smaller type their float32 copy."""
    return trained_parameters * (8 if dtype == "float32" else 12)


def kv_cache_bytes(shape: ModelShape, tokens: int, dtype: DType) -> int:
    """Keys and values of `tokens` tokens, summed over the rows of a batch."""
    return 2 * shape.layers * shape.keys * tokens * BYTES[dtype]


def activation_bytes(shape: ModelShape, tokens: int, dtype: DType) -> int:
    """What the forward pass over a micro-batch keeps for its backward pass, without checkpointing: an estimate.

    Tensors of a pre-norm layer with a gated MLP and fused attention, counted in transformers' Qwen3 and Llama; measured in those
    two it is between 0.85 and 1.4 of what is kept. The logits are not among them: they come in chunks.
    """
    elements = 10 * shape.hidden + 4 * shape.intermediate + 4 * shape.attention + 5 * shape.keys
    return elements * shape.layers * tokens * BYTES[dtype]

"""A model's weights under the names of its checkpoint, LoRA adapters merged, for an engine that has no adapters."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from counterpoint.errors import ModelError
from counterpoint.policy.trainable import base_model, is_lora


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) one by one; the model stays as it is: adding adapters and taking them off again would round its weights."""
    inner = base_model(model)
    for name, weight in inner.named_parameters():
        layer, _, kind = name.rpartition(".base_layer.")
        if layer:
            delta = inner.get_submodule(layer).get_delta_weight(model.active_adapter) if kind == "weight" else 0
            yield f"{layer}.{kind}", (weight + delta).detach().to(weight.dtype)
        elif not is_lora(model) or model.prefix not in name:
            yield name, weight.detach()


def check_mergeable(model: Any) -> None:
    """Raise `ModelError` for an adapter of an embedding that is the head as well: merged, the two would differ."""
    inner = base_model(model)
    ends = (inner.get_input_embeddings(), inner.get_output_embeddings())
    if is_lora(model) and inner.config.tie_word_embeddings and any(hasattr(end, "base_layer") for end in ends):
        raise ModelError(
            "an adapter is on an embedding that is tied to the head, and merged they would differ; leave both out of "
            'lora.targets, or set sampler = "transformers"'
        )

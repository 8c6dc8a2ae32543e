"""Linear layers in the memory layout that a CPU's products of few rows read best.

A decoding step multiplies a few rows by every weight, which is a matter of reading the weights. oneDNN reads its own layout up to
three times as fast as PyTorch's; bringing a model into it takes as long as two or three tokens, so it pays for a few dozen.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

FEWEST_TOKENS, FEWEST_ROWS = 32, 4
"""Sampling of less is over before it has paid; a server's single request wants its first token."""
SMALLEST = 2**18
"""Weights of a layer; smaller ones are in the cache as they are."""
ROWS = 16
"""What the layout is chosen for; it serves other numbers as well."""


@contextmanager
def repacked(model: nn.Module, rows: int, tokens: int) -> Iterator[None]:
    """Within it, the model's larger linear layers multiply by copies of their weights, where so many rows and tokens repay it.

    The weights must not change within it. It takes as much memory as they do.
    """
    changed: list[nn.Linear] = []
    try:
        if rows >= FEWEST_ROWS and tokens >= FEWEST_TOKENS:
            for layer in model.modules():
                if isinstance(layer, nn.Linear) and may_change(layer):
                    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
                    layer.forward = partial(multiply, packed, layer.bias)
                    changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def multiply(packed: Tensor, bias: Tensor | None, input: Tensor) -> Tensor:
    """`linear` with weights in oneDNN's layout."""
    return torch.ops.mkldnn._linear_pointwise(input, packed, bias, "none", [], "")


def may_change(layer: nn.Linear) -> bool:
    """Whether it is plain, on the CPU and large enough, and nobody else has taken its `forward`."""
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.numel() >= SMALLEST
        and "forward" not in layer.__dict__
        and can_repack(layer.weight.dtype)
    )


@cache
def can_repack(dtype: torch.dtype) -> bool:
    """Whether this PyTorch and this processor multiply in that layout, found out by trying: the operators are not public."""
    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    weight, states = torch.randn(48, 32).to(dtype), torch.randn(3, 1, 32).to(dtype)
    try:
        found = multiply(torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), None, states)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, linear(states, weight), rtol=0.02, atol=1e-3 if dtype == torch.float32 else 0.1)

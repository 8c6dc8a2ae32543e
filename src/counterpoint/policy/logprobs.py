"""Log-probabilities of given tokens without ever holding the logits of all of them.

At a vocabulary of 150,000 the float32 logits of 8,192 tokens are 4.9 GB, and a plain log-softmax with its gradient holds several
such tensors. `head_logprobs` goes through the vocabulary a slice at a time, all rows at once, and once more in the backward pass
(Cut Cross-Entropy, arXiv 2411.09009, without its kernels): a slice's logits stay in the cache, and the gradient of a slice of the
head is whole when the slice is done.

Axis suffixes: `_N` rows (tokens), `_D` hidden size, `_V` vocabulary, `_W` a slice of the vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from torch.utils.checkpoint import checkpoint

SLICE_BYTES = 16 * 2**20
"""What the float32 logits of a slice may take."""
NARROWEST = 1024
"""Tokens of a slice, however many rows: products with fewer are slow."""
ROWS = 1024
"""Rows of given logits that are done at a time."""


def slice_width(rows: int, vocabulary: int) -> int:
    """How many tokens of the vocabulary are done at a time."""
    return min(vocabulary, max(NARROWEST, SLICE_BYTES // (4 * max(1, rows))))


def head_logprobs(
    hidden_N_D: Tensor, weight_V_D: Tensor, targets_N: Tensor, temperature: float = 1.0, bias_V: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probability in nats of each target, float32 [N], and each row's entropy in nats, float32 [N], detached.

    The distribution is softmax((h · W + b) / τ). Hidden states and head may have any floating type; products are taken in it, and
    all else in float32. Raises `ValueError` for shapes that do not fit and temperature <= 0.
    """
    if hidden_N_D.dim() != 2 or targets_N.shape != hidden_N_D.shape[:1] or weight_V_D.shape[1:] != hidden_N_D.shape[1:]:
        shapes = (list(tensor.shape) for tensor in (hidden_N_D, weight_V_D, targets_N))
        raise ValueError("hidden must be [N, D], weight [V, D] and targets [N], got {}, {} and {}".format(*shapes))
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return _HeadLogprobs.apply(hidden_N_D, weight_V_D, bias_V, targets_N, temperature)  # pyright: ignore[reportReturnType]


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_N_D: Tensor, weight_V_D: Tensor, bias_V: Tensor | None, targets_N: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        ctx.temperature = temperature
        kind = torch.promote_types(hidden_N_D.dtype, torch.float32)
        # of e^(x − largest): the sum, and the sum weighted with x − largest; both follow the largest logit so far
        largest_N = hidden_N_D.new_full((len(hidden_N_D),), -torch.inf, dtype=kind)
        total_N, weighted_N, target_N = (torch.zeros_like(largest_N) for _ in range(3))
        for start, logits_N_W in _slices(hidden_N_D, weight_V_D, bias_V, temperature):
            rows, columns = _targets_in(targets_N, start, logits_N_W.shape[1])
            target_N[rows] = logits_N_W[rows, columns]
            before_N, largest_N = largest_N, torch.maximum(largest_N, logits_N_W.amax(dim=1))
            shift_N = (before_N - largest_N).clamp(min=torch.finfo(kind).min)  # not infinite, which times 0 would be NaN
            kept_N = shift_N.exp()
            logits_N_W -= largest_N[:, None]
            weights_N_W = logits_N_W.exp()
            weighted_N = kept_N * (weighted_N + shift_N * total_N) + torch.einsum("nw,nw->n", weights_N_W, logits_N_W)
            total_N = kept_N * total_N + weights_N_W.sum(dim=1)
        normaliser_N = largest_N + total_N.log()
        entropy_N = total_N.log() - weighted_N / total_N
        ctx.save_for_backward(hidden_N_D, weight_V_D, bias_V, targets_N, normaliser_N)
        ctx.mark_non_differentiable(entropy_N)
        return target_N - normaliser_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """∂ log p(target) / ∂ logit = (is the target) − p, over the temperature."""
        hidden_N_D, weight_V_D, bias_V, targets_N, normaliser_N = ctx.saved_tensors
        upstream_N = of_outputs[0] / ctx.temperature
        of_hidden = torch.zeros_like(hidden_N_D, dtype=normaliser_N.dtype) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight_V_D) if ctx.needs_input_grad[1] else None
        of_bias = torch.empty_like(bias_V) if ctx.needs_input_grad[2] else None
        for start, logits_N_W in _slices(hidden_N_D, weight_V_D, bias_V, ctx.temperature):
            end = start + logits_N_W.shape[1]
            of_logits_N_W = logits_N_W.sub_(normaliser_N[:, None]).exp_().mul_(-upstream_N[:, None])
            rows, columns = _targets_in(targets_N, start, end - start)
            of_logits_N_W[rows, columns] += upstream_N[rows]
            if of_bias is not None:
                of_bias[start:end] = of_logits_N_W.sum(dim=0)
            of_logits_N_W = of_logits_N_W.to(weight_V_D.dtype)
            if of_hidden is not None:
                of_hidden += of_logits_N_W @ weight_V_D[start:end]
            if of_weight is not None:
                torch.mm(of_logits_N_W.T, hidden_N_D, out=of_weight[start:end])
        return None if of_hidden is None else of_hidden.to(hidden_N_D.dtype), of_weight, of_bias, None, None


def _slices(hidden_N_D: Tensor, weight_V_D: Tensor, bias_V: Tensor | None, temperature: float) -> Iterator[tuple[int, Tensor]]:
    """Logits [N, W] of one slice of the vocabulary after the other, in float32 at least, and where each begins."""
    kind = torch.promote_types(hidden_N_D.dtype, torch.float32)
    width = slice_width(len(hidden_N_D), len(weight_V_D))
    for start in range(0, len(weight_V_D), width):
        part = slice(start, start + width)
        logits = linear(hidden_N_D, weight_V_D[part], None if bias_V is None else bias_V[part]).to(kind)
        yield start, logits if temperature == 1.0 else logits.div_(temperature)


def _targets_in(targets_N: Tensor, start: int, width: int) -> tuple[Tensor, Tensor]:
    """The rows whose target is in a slice of the vocabulary, and where in it."""
    rows = ((targets_N >= start) & (targets_N < start + width)).nonzero().flatten()
    return rows, targets_N[rows] - start


def logprobs_of_logits(logits_N_V: Tensor, targets_N: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The same of logits [N, V] that are there already, as of a head with a soft cap; what their gradient takes is made again."""
    if logits_N_V.dim() != 2 or targets_N.shape != logits_N_V.shape[:1]:
        raise ValueError(f"logits must be [N, V] and targets [N], got {list(logits_N_V.shape)} and {list(targets_N.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    parts = [
        checkpoint(_of_logits, logits, targets, temperature, use_reentrant=False, preserve_rng_state=False)
        for logits, targets in zip(logits_N_V.split(ROWS), targets_N.split(ROWS), strict=True)
    ]
    logprobs, entropies = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _of_logits(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    # bfloat16 has 8 bits of mantissa: between 16 and 32 its values are an eighth of a nat apart
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    normaliser = logits.logsumexp(dim=-1)
    logprob = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    with torch.no_grad():
        entropy = torch.special.entr((logits - normaliser.unsqueeze(-1)).exp()).sum(dim=-1)
    return logprob, entropy

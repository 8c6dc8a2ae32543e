"""Log-probabilities of given tokens without ever holding the logits of all of them.

At a vocabulary of 150,000 the float32 logits of 8,192 tokens are 4.9 GB, and a plain log-softmax with its
gradient holds several such tensors. Rows are independent, so they can be done a few at a time and, for the
gradient, done again.

Axis suffixes: `_N` rows (tokens), `_D` hidden size, `_V` vocabulary.
"""

from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 64 * 2**20
"""What the float32 logits of one chunk may take."""


def rows_per_chunk(vocabulary_size: int, logits_bytes: int = LOGITS_BYTES) -> int:
    """How many rows of float32 logits fit in `logits_bytes`, at least one."""
    if vocabulary_size <= 0:
        raise ValueError(f"vocabulary_size must be positive, got {vocabulary_size}")
    return max(1, logits_bytes // (4 * vocabulary_size))


@overload
def chunked_logprobs(
    hidden_N_D: Tensor,
    targets_N: Tensor,
    project: Callable[[Tensor], Tensor],
    chunk_rows: int,
    temperature: float = ...,
    with_entropy: Literal[False] = ...,
) -> Tensor: ...
@overload
def chunked_logprobs(
    hidden_N_D: Tensor,
    targets_N: Tensor,
    project: Callable[[Tensor], Tensor],
    chunk_rows: int,
    temperature: float = ...,
    *,
    with_entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...
def chunked_logprobs(
    hidden_N_D: Tensor,
    targets_N: Tensor,
    project: Callable[[Tensor], Tensor],
    chunk_rows: int,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Log-probability in nats of each target, float32 [N]: logit_target / τ − logsumexp(logits / τ).

    Args:
        hidden_N_D: last hidden states, [N, D], of any floating type.
        targets_N: token ids, integer [N].
        project: [n, D] -> logits [n, V]: the language-model head with any soft cap, without dropout.
        chunk_rows: rows whose logits exist at one time; see `rows_per_chunk`.
        temperature: τ of the distribution that was sampled.
        with_entropy: also return each row's entropy in nats, float32 [N], detached.

    With gradients enabled, the logits of several chunks are dropped after the forward pass and computed again in the
    backward pass: one more head product for a memory that does not grow with N. Raises `ValueError` for shapes that do
    not fit, chunk_rows < 1 or temperature <= 0.
    """
    if hidden_N_D.dim() != 2 or targets_N.shape != hidden_N_D.shape[:1]:
        raise ValueError(f"hidden must be [N, D] and targets [N], got {list(hidden_N_D.shape)} and {list(targets_N.shape)}")
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")

    logprobs, entropies = [], []
    for hidden, targets in zip(hidden_N_D.split(chunk_rows), targets_N.split(chunk_rows), strict=True):
        if torch.is_grad_enabled() and len(hidden_N_D) > chunk_rows:
            # A head has no randomness to replay, so its generator state need not be kept.
            logprob, entropy = checkpoint(
                _chunk, hidden, targets, project, temperature, with_entropy,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
        else:
            logprob, entropy = _chunk(hidden, targets, project, temperature, with_entropy)
        logprobs.append(logprob)
        entropies.append(entropy)
    return (torch.cat(logprobs), torch.cat(entropies)) if with_entropy else torch.cat(logprobs)


def _chunk(
    hidden: Tensor,
    targets: Tensor,
    project: Callable[[Tensor], Tensor],
    temperature: float,
    with_entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    logits = project(hidden)
    # bfloat16 has 8 bits of mantissa: between 16 and 32 its values are an eighth of a nat apart.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1.0:
        logits = logits / temperature
    normaliser = torch.logsumexp(logits, dim=-1)
    logprob = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    # Last, so that the backward pass, which stops once it has what it needs, does not compute it again.
    if not with_entropy:
        return logprob, None
    with torch.no_grad():
        entropy = torch.special.entr(torch.exp(logits - normaliser.unsqueeze(-1))).sum(dim=-1)
    return logprob, entropy

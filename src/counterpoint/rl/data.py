"""Between a group of completions and a gradient step: what the loops share."""

import hashlib
import random
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from counterpoint.policy.base import Policy
from counterpoint.rl.losses import KLKind, kl
from counterpoint.rl.types import Completion, Datum, Question


def seed_for(run_seed: int, *purpose: str | int) -> int:
    """A seed of its own for each purpose and step, so that a resumed run draws what an unbroken one would have."""
    digest = hashlib.sha256(repr((run_seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def question_batch(questions: Sequence[Question], step: int, size: int, run_seed: int) -> list[Question]:
    """The `size` questions of a step: every question once an epoch, in an order that the seed and the epoch decide."""
    batch: list[Question] = []
    position = step * size
    while len(batch) < size:
        epoch, start = divmod(position + len(batch), len(questions))
        order = order_of(len(questions), seed_for(run_seed, "epoch", epoch))
        batch += [questions[i] for i in order[start : start + size - len(batch)]]
    return batch


@lru_cache(maxsize=4)
def order_of(count: int, seed: int) -> tuple[int, ...]:
    """An order of so many things. Kept, since every step of an epoch looks into the same."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)


def make_data(
    completions: Sequence[Completion],
    advantages: Sequence[float | tuple[float, ...]],
    *,
    old_logprobs: Sequence[tuple[float, ...]] | None = None,
    reference_logprobs: Sequence[tuple[float, ...]] | None = None,
) -> list[Datum]:
    """One datum a completion; its advantage is a number, which each of its tokens gets, or one for each of them."""
    return [
        Datum(
            prompt=completion.prompt,
            tokens=completion.tokens,
            advantages=advantage if isinstance(advantage, tuple) else (advantage,) * len(completion.tokens),
            logprobs=completion.logprobs,
            old_logprobs=old_logprobs[i] if old_logprobs else None,
            reference_logprobs=reference_logprobs[i] if reference_logprobs else None,
        )
        for i, (completion, advantage) in enumerate(zip(completions, advantages, strict=True))
    ]


def reference_logprobs(reference: Policy, completions: Sequence[Completion], temperature: float) -> list[tuple[float, ...]]:
    """Log-probabilities of each completion's tokens under the reference."""
    return reference.logprobs(make_data(completions, [0.0] * len(completions)), temperature)


def token_kl(completions: Sequence[Completion], reference: Sequence[tuple[float, ...]], kind: KLKind) -> list[Tensor]:
    """KL estimate at each token of each completion, in nats: a tensor [T] a completion."""
    pairs = zip(completions, reference, strict=True)
    return [kl(kind, torch.tensor(c.logprobs), torch.tensor(r)) for c, r in pairs]


def sequence_kl(completions: Sequence[Completion], reference: Sequence[tuple[float, ...]], kind: KLKind) -> Tensor:
    """KL estimate of each completion, in nats, summed over its tokens: [N]."""
    return torch.stack([tokens.sum() for tokens in token_kl(completions, reference, kind)])

"""Shapers: from what a group's responses earned, said and how likely they were, to the rewards that training sees.

DQO and the peers that it is measured against, one signature: `shaper(samples, alpha, **options) -> rewards`, [Q, G]. `alpha` is
the strength that a controller moves; at 0 rewards stay as they are, with every shaper. Pure functions.

Axis suffixes: `_Q` questions, `_G` responses of a question's group, `_T` tokens, `_D` embedding.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from counterpoint.dqo import diversity


@dataclass(frozen=True)
class Samples:
    """A step's responses."""

    rewards: Tensor
    """[Q, G]."""
    embeddings: Tensor | None = None
    """[Q, G, D], unit vectors, or zero for an empty response; only `EMBEDS` need them."""
    logprobs: Tensor | None = None
    """Of each whole response under the policy that sampled it, nats, [Q, G]."""


class Shaper(Protocol):
    """What turns samples into shaped rewards [Q, G]."""

    def __call__(self, samples: Samples, alpha: float, **options: Any) -> Tensor: ...


def plain(samples: Samples, alpha: float = 0.0) -> Tensor:
    """Rewards as they are: the baseline."""
    return samples.rewards


def dqo(
    samples: Samples,
    alpha: float,
    kernel: diversity.KernelName = "linear",
    parameter: float | None = None,
    quality_temperature: float | None = None,
    correct_only: bool = False,
    threshold: float = 0.5,
) -> Tensor:
    """r_i + α · d_i, d_i the leave-one-out term of log det(L + I). arXiv 2509.04784.

    Against noise that makes a response look diverse and can cost it its reward, two cures: `quality_temperature` weights the
    kernel by quality (`diversity.quality_weighted`), and `correct_only` counts and pays only responses whose reward reaches
    `threshold`. Neither sees noise that the grader does not: there, embed the answer alone, as the grader finds it
    (diversity.part = "answer"). benchmarks/noise.py shows both.
    """
    return samples.rewards + alpha * dqo_terms(
        samples.rewards, embedded(samples), kernel, parameter, quality_temperature, correct_only, threshold
    )


def dqo_terms(
    rewards_Q_G: Tensor,
    embeddings_Q_G_D: Tensor,
    kernel: diversity.KernelName = "linear",
    parameter: float | None = None,
    quality_temperature: float | None = None,
    correct_only: bool = False,
    threshold: float = 0.5,
) -> Tensor:
    """d_i of each response, [Q, G]; see `dqo`."""
    matrix = diversity.kernel(kernel, embeddings_Q_G_D, parameter)
    if quality_temperature is not None:
        matrix = diversity.quality_weighted(matrix, rewards_Q_G, quality_temperature)
    counted = rewards_Q_G >= threshold if correct_only else None
    return diversity.leave_one_out(matrix, counted).to(rewards_Q_G.dtype)


def mean_distance(samples: Samples, alpha: float) -> Tensor:
    """r_i + α · mean_{j≠i} (1 − ⟨φ_i, φ_j⟩): the ablation in DQO's paper, which two far clusters satisfy."""
    return samples.rewards + alpha * diversity.mean_distance(embedded(samples)).to(samples.rewards.dtype)


def unlikeliness(samples: Samples, alpha: float) -> Tensor:
    """r_i · (1 − α · (G − rank_i) / G), rank 0 for the likeliest response: rare right ones keep more. arXiv 2506.02355.

    The paper's β_rank is 0.25. Equal likelihoods share the mean of their ranks.
    """
    likelihood = needed(samples.logprobs, "logprobs")
    likelier = (likelihood.unsqueeze(-2) > likelihood.unsqueeze(-1)).sum(dim=-1)
    equal = (likelihood.unsqueeze(-2) == likelihood.unsqueeze(-1)).sum(dim=-1) - 1
    rank, group = likelier + equal / 2, likelihood.shape[-1]
    return samples.rewards * (1 - alpha * (group - rank) / group)


def pass_at_k(samples: Samples, alpha: float = 1.0, k: int = 4) -> Tensor:
    """(1 − α) · r_i + α · E[best reward of a set of k that holds i], the set's others drawn from the group. arXiv 2508.10751.

    For rewards of 0 and 1 the expectation is 1 for a right response and 1 − C(wrong − 1, k − 1) / C(G − 1, k − 1) for a wrong
    one; its mean over the group is pass@k. The paper's advantage divides by the spread of sets, here the recipe's advantage says.
    """
    rewards = samples.rewards
    group = rewards.shape[-1]
    if not 1 <= k <= group:
        raise ValueError(f"pass_at_k needs 1 ≤ k ≤ the group's size {group}, got {k}")
    ordered, order = rewards.double().sort(dim=-1)
    # at place j of the sorted group, i is the best of its set where the others come before it; else the best is the last of them
    sets = math.comb(group - 1, k - 1)
    before = torch.tensor([math.comb(j, k - 1) for j in range(group)], dtype=torch.float64, device=rewards.device)
    after = torch.tensor([math.comb(m - 1, k - 2) if k > 1 and m else 0 for m in range(group)], dtype=torch.float64)
    later = after.to(rewards.device) * ordered
    above = later.flip(-1).cumsum(-1).flip(-1) - later
    best = torch.empty_like(ordered).scatter(-1, order, (before * ordered + above) / sets)
    return (1 - alpha) * rewards + alpha * best.to(rewards.dtype)


def dra(samples: Samples, alpha: float) -> Tensor:
    """r_i / (1 + α · Σ_{j≠i} ⟨φ_i, φ_j⟩): a response pays for its likeness to the others. arXiv 2505.09655.

    The paper has α = 1. Likeness below zero counts as none, so that the divisor stays positive.
    """
    likeness = diversity.linear_kernel(embedded(samples)).clamp(min=0)
    others = likeness.sum(dim=-1) - likeness.diagonal(dim1=-2, dim2=-1)
    return samples.rewards / (1 + alpha * others.to(samples.rewards.dtype))


Partition = Callable[[Tensor], Tensor]
"""Embeddings [Q, G, D] -> label of each response [Q, G]; equal labels of a question mean the same thing said."""


def darling(samples: Samples, alpha: float, partition: Partition | None = None, threshold: float = 0.9) -> Tensor:
    """r_i · ((1 − α) + α · share of the others outside i's partition): quality × diversity. arXiv 2509.02534.

    The paper has α = 1 and learns the partition; any function will do. Without one, responses belong together that a chain of
    cosines of at least `threshold` connects.
    """
    labels = (partition or (lambda embeddings: clusters(embeddings, threshold)))(embedded(samples))
    apart = (labels.unsqueeze(-1) != labels.unsqueeze(-2)).sum(dim=-1)
    share = apart / max(1, labels.shape[-1] - 1)
    return samples.rewards * (1 - alpha + alpha * share.to(samples.rewards.dtype))


def clusters(embeddings_Q_G_D: Tensor, threshold: float = 0.9) -> Tensor:
    """Connected components of the graph of cosines ≥ `threshold`: labels [Q, G], the least index in the component.

    Empty responses, zero vectors, say the same: they are one component.
    """
    group = embeddings_Q_G_D.shape[-2]
    index = torch.arange(group, device=embeddings_Q_G_D.device)
    empty = (embeddings_Q_G_D == 0).all(dim=-1)
    near = (diversity.linear_kernel(embeddings_Q_G_D) >= threshold) | (empty.unsqueeze(-1) & empty.unsqueeze(-2))
    near = near | torch.eye(group, dtype=torch.bool, device=index.device)
    labels = index.expand(embeddings_Q_G_D.shape[:-1])
    for _ in range(group):  # a label travels along a chain, one link a round
        labels = labels.unsqueeze(-2).where(near, group).amin(dim=-1)
    return labels


SHAPERS: Mapping[str, Shaper] = {
    "none": plain,
    "dqo": dqo,
    "mean_distance": mean_distance,
    "unlikeliness": unlikeliness,
    "pass_at_k": pass_at_k,
    "dra": dra,
    "darling": darling,
}  # pyright: ignore[reportAssignmentType]
"""What a recipe's `diversity.shaper` names, beside `entropy`."""

SHARES = frozenset({"unlikeliness", "pass_at_k", "darling"})
"""Shapers whose α says which share of the reward they decide, from 0 to 1."""

EMBEDS = frozenset({"dqo", "mean_distance", "dra", "darling"})
"""Shapers that need embeddings."""


def embedded(samples: Samples) -> Tensor:
    return needed(samples.embeddings, "embeddings")


def needed(values: Tensor | None, name: str) -> Tensor:
    """`values`, or a `ValueError` where the shaper was not given them."""
    if values is None:
        raise ValueError(f"this shaper needs {name}, and the samples have none")
    return values

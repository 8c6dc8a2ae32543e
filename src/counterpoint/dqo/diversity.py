"""How much responses differ: determinantal point processes over their embeddings. Pure functions.

DQO (arXiv 2509.04784) pays response i the leave-one-out term

    d_i = log det(L + I) − log det(L_{−i} + I)

of the kernel L of its group's unit embeddings: what it adds to the squared volume that the group spans. Kulesza and Taskar,
"Determinantal Point Processes for Machine Learning" (arXiv 1207.6083), has the theory.

Axis suffixes: `_G` responses of a group, `_D` embedding; `...` any batch. A `mask` [..., G] (bool) says which places hold a
response; the others change nothing, whatever stands there, and get zero.

Kernels are float64, whatever the type of the embeddings: what tells near-copies apart is in the last digits. Determinants are
taken in float64 and returned in the type of the kernel that they are given; `unit` and `mean_distance` return the type of the
embeddings. All of it has a gradient.

    k = 1            d = log(1 + L_11): log 2 for a unit vector
    alike            d_i = log(1 + 1/k), the least that unit vectors can have
    orthogonal       d_i = log 2, the most
    zero vector      d_i = 0: an empty response spans nothing
    k > D            fine: L + I is always positive definite
    not finite       `ValueError` that names the response
"""

from typing import Literal

import torch
from torch import Tensor

KernelName = Literal["linear", "rbf", "cosine_power"]


def unit(embeddings_G_D: Tensor) -> Tensor:
    """Vectors [..., G, D] at length one; a zero vector stays zero. Raises `ValueError` for values that are not finite."""
    return _unit(embeddings_G_D).to(embeddings_G_D.dtype)


def linear_kernel(embeddings_G_D: Tensor, mask: Tensor | None = None) -> Tensor:
    """L_ij = ⟨φ_i, φ_j⟩ [..., G, G] of unit vectors: the paper's."""
    vectors = _unit(embeddings_G_D, mask)
    return vectors @ vectors.mT


def cosine_power_kernel(embeddings_G_D: Tensor, power: float = 2, mask: Tensor | None = None) -> Tensor:
    """L_ij = ⟨φ_i, φ_j⟩^p: likeness falls off faster. A whole p ≥ 1 keeps it positive semidefinite (Schur's product theorem)."""
    if power < 1 or power != int(power):
        raise ValueError(f"power must be a whole number of at least 1, got {power}: others give kernels that are not positive")
    return linear_kernel(embeddings_G_D, mask) ** int(power)


def rbf_kernel(embeddings_G_D: Tensor, bandwidth: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """L_ij = exp(−|φ_i − φ_j|² / (2 · bandwidth²)) of unit vectors. A zero vector is like nothing, itself included."""
    if bandwidth <= 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    vectors = _unit(embeddings_G_D, mask)
    there = (vectors != 0).any(dim=-1)
    both = there.unsqueeze(-1) & there.unsqueeze(-2)
    squares = (2 - 2 * vectors @ vectors.mT).clamp(min=0)
    return torch.exp(-squares / (2 * bandwidth**2)) * both


def kernel(name: KernelName, embeddings_G_D: Tensor, parameter: float | None = None, mask: Tensor | None = None) -> Tensor:
    """The kernel that a recipe names; `parameter` is the power or the bandwidth. Raises `ValueError` for an unknown name."""
    if name == "linear":
        return linear_kernel(embeddings_G_D, mask)
    if name == "rbf":
        return rbf_kernel(embeddings_G_D, 1.0 if parameter is None else parameter, mask)
    if name == "cosine_power":
        return cosine_power_kernel(embeddings_G_D, 2 if parameter is None else parameter, mask)
    raise ValueError(f"unknown kernel {name!r}; choose linear, rbf or cosine_power")


def quality_weighted(kernel_G_G: Tensor, rewards_G: Tensor, temperature: float) -> Tensor:
    """The kernel of ψ_i = sqrt(exp((r_i − 1) / temperature)) · φ_i: a bad response is a short vector and spans little.

    It is the reward-scaled embedding of the paper's optimum (its π_ref left out), scaled so that a response of reward 1, the
    most that a grader gives, keeps its length. Rewards [..., G].
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    length = torch.exp((rewards_G.to(kernel_G_G.dtype) - 1) / (2 * temperature))
    return length.unsqueeze(-1) * kernel_G_G * length.unsqueeze(-2)


def log_det(kernel_G_G: Tensor, mask: Tensor | None = None) -> Tensor:
    """log det(L + I) [...], finite however alike the responses are. For unit vectors between log(1 + k) and k · log 2."""
    factor = _factor(kernel_G_G, mask)
    return (2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)).to(kernel_G_G.dtype)


def leave_one_out(kernel_G_G: Tensor, mask: Tensor | None = None) -> Tensor:
    """d_i = log det(L + I) − log det(L_{−i} + I) = −log [(L + I)^{-1}]_ii, [..., G].

    By the Schur complement, det(A) = det(A_{−i}) / [A^{-1}]_ii: one Cholesky factorisation A = C Cᵀ gives all k terms, since
    [A^{-1}]_ii is the squared length of the i-th column of C^{-1}. The definition takes k + 1 determinants.
    """
    factor = _factor(kernel_G_G, mask)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    terms = -inverse.square().sum(dim=-2).log()
    if mask is not None:
        terms = terms.where(mask, 0.0)
    return terms.to(kernel_G_G.dtype)


def mean_distance(embeddings_G_D: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over the others of 1 − ⟨φ_i, φ_j⟩, [..., G]: the paper's ablation. Two far clusters satisfy it; 0 where alone.

    An empty response, the zero vector, is nowhere: it gets 0, not the distance 1, and is none of the others.
    """
    vectors = _unit(embeddings_G_D, mask)
    there = (vectors != 0).any(dim=-1)
    pairs = there.unsqueeze(-1) & there.unsqueeze(-2) & ~torch.eye(there.shape[-1], dtype=torch.bool, device=there.device)
    distances = (1 - vectors @ vectors.mT) * pairs
    return (distances.sum(dim=-1) / pairs.sum(dim=-1).clamp(min=1)).to(embeddings_G_D.dtype)


def _unit(embeddings_G_D: Tensor, mask: Tensor | None = None) -> Tensor:
    """`unit` in float64; zero vectors where the mask is False."""
    if embeddings_G_D.dim() < 2 or not embeddings_G_D.shape[-1]:
        raise ValueError(f"embeddings must be [..., G, D], D at least 1, got shape {list(embeddings_G_D.shape)}")
    vectors = embeddings_G_D.double()
    if mask is not None:
        _check_mask(mask, vectors.shape[:-1])
        vectors = vectors.where(mask.unsqueeze(-1), 0.0)  # before anything is computed of it: 0 · NaN is NaN in a gradient
    bad = (~torch.isfinite(vectors)).any(dim=-1).nonzero()
    if len(bad):
        raise ValueError(
            f"{len(bad)} embeddings are not finite, the first at {tuple(bad[0].tolist())}; look at the text and the encoder there"
        )
    largest = vectors.detach().abs().amax(dim=-1, keepdim=True)
    vectors = vectors / largest.where(largest > 0, 1.0)  # or the squares of a huge or tiny vector leave float64's range
    length = vectors.norm(dim=-1, keepdim=True)
    return vectors / length.where(length > 0, 1.0)


def _factor(kernel_G_G: Tensor, mask: Tensor | None) -> Tensor:
    """The Cholesky factor of L + I, float64 [..., G, G]; a masked row and column are those of I."""
    if kernel_G_G.dim() < 2 or kernel_G_G.shape[-1] != kernel_G_G.shape[-2]:
        raise ValueError(f"a kernel must be [..., G, G], got shape {list(kernel_G_G.shape)}")
    matrix = kernel_G_G.double()
    if mask is not None:
        _check_mask(mask, kernel_G_G.shape[:-1])
        matrix = matrix.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), 0.0)
    if not matrix.sum().isfinite():  # one pass; isfinite().all() takes up to half as long as the factorisation
        raise ValueError("the kernel has values that are not finite")
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device))
    if failed.any():
        raise ValueError("L + I is not positive definite, so L is no kernel: it must be symmetric, without negative eigenvalues")
    return factor


def _check_mask(mask: Tensor, shape: torch.Size) -> None:
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool {list(shape)}, got {mask.dtype} {list(mask.shape)}")

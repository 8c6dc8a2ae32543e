"""The diversity terms against their definition, their bounds, and what they do with bad input."""

import math

import pytest
import torch

from counterpoint.dqo.diversity import (
    cosine_power_kernel,
    kernel,
    leave_one_out,
    linear_kernel,
    log_det,
    mean_distance,
    quality_weighted,
    rbf_kernel,
    unit,
)


def by_definition(matrix):
    """log det(L + I) − log det(L_{−i} + I), one determinant for each."""
    size = len(matrix)
    whole = torch.linalg.slogdet(matrix + torch.eye(size, dtype=matrix.dtype)).logabsdet
    terms = []
    for i in range(size):
        rest = [j for j in range(size) if j != i]
        less = matrix[rest][:, rest] + torch.eye(size - 1, dtype=matrix.dtype)
        terms.append(whole - torch.linalg.slogdet(less).logabsdet)
    return torch.stack(terms)


def rows(kind, size, dimension=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(size, dimension, generator=generator, dtype=torch.float64)
    if kind == "duplicated":
        vectors = vectors[torch.arange(size) // 2]
    if kind == "near-duplicates":
        vectors = vectors[:1] + 1e-7 * vectors
    if kind == "with a zero":
        vectors[size // 2] = 0
    return unit(vectors)


@pytest.mark.parametrize("kind", ["random", "duplicated", "near-duplicates", "with a zero"])
def test_the_closed_form_is_the_definition(kind):
    for size in range(1, 65):
        matrix = linear_kernel(rows(kind, size, seed=size))
        assert torch.allclose(leave_one_out(matrix), by_definition(matrix), rtol=0, atol=1e-10), f"k = {size}"


def test_by_hand_for_two_responses():
    """det [[2, c], [c, 2]] = 4 − c², det [2] = 2: d = log((4 − c²) / 2) for both."""
    c = 0.6
    matrix = linear_kernel(torch.tensor([[1.0, 0.0], [c, 0.8]], dtype=torch.float64))
    assert leave_one_out(matrix).tolist() == pytest.approx([math.log((4 - c**2) / 2)] * 2)
    assert float(log_det(matrix)) == pytest.approx(math.log(4 - c**2))


@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_the_bounds_are_met_by_copies_and_by_orthogonal_responses(size):
    alike = linear_kernel(torch.ones(size, 3, dtype=torch.float64))
    assert leave_one_out(alike).tolist() == pytest.approx([math.log(1 + 1 / size)] * size)
    assert float(log_det(alike)) == pytest.approx(math.log(1 + size))
    apart = linear_kernel(torch.eye(size, dtype=torch.float64))
    assert leave_one_out(apart).tolist() == pytest.approx([math.log(2)] * size)
    assert float(log_det(apart)) == pytest.approx(size * math.log(2))
    for kind in ("random", "duplicated", "near-duplicates"):
        terms = leave_one_out(linear_kernel(rows(kind, size)))
        assert terms.min() >= math.log(1 + 1 / size) - 1e-12, kind
        assert terms.max() <= math.log(2) + 1e-12, kind


def test_permuting_responses_permutes_the_terms():
    vectors, order = rows("random", 9), torch.randperm(9, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(leave_one_out(linear_kernel(vectors[order])), leave_one_out(linear_kernel(vectors))[order])


def test_more_responses_than_dimensions_are_fine():
    matrix = linear_kernel(rows("random", 40, dimension=3))
    assert torch.allclose(leave_one_out(matrix), by_definition(matrix), rtol=0, atol=1e-10)


def test_any_batch_shape_is_many_groups():
    batch = torch.stack([torch.stack([rows("random", 5, seed=10 * a + b) for b in range(3)]) for a in range(2)])
    terms = leave_one_out(linear_kernel(batch))
    assert terms.shape == (2, 3, 5)
    assert torch.allclose(terms[1, 2], leave_one_out(linear_kernel(batch[1, 2])))
    assert log_det(linear_kernel(batch)).shape == (2, 3)


def test_a_mask_makes_ragged_groups():
    vectors = rows("random", 6)
    mask = torch.tensor([True] * 4 + [False] * 2)
    matrix = vectors @ vectors.mT
    matrix[4:] = math.nan
    assert torch.allclose(leave_one_out(matrix, mask)[:4], leave_one_out(linear_kernel(vectors[:4])))
    assert leave_one_out(matrix, mask)[4:].tolist() == [0, 0]
    assert torch.allclose(log_det(matrix, mask), log_det(linear_kernel(vectors[:4])))


@pytest.mark.parametrize("name", ["linear", "rbf", "cosine_power", "mean_distance"])
def test_what_stands_outside_the_mask_is_never_looked_at(name):
    mask = torch.tensor([True, False, True, True, False])
    vectors = rows("random", 5).clone()
    vectors[~mask] = math.nan
    vectors.requires_grad_()
    alone = vectors[mask].detach().requires_grad_()
    terms = mean_distance(vectors, mask) if name == "mean_distance" else leave_one_out(kernel(name, vectors, mask=mask), mask)
    expected = mean_distance(alone) if name == "mean_distance" else leave_one_out(kernel(name, alone))
    assert torch.allclose(terms[mask], expected)
    assert terms[~mask].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(terms.square().sum(), vectors)
    (of_alone,) = torch.autograd.grad(expected.square().sum(), alone)
    assert torch.allclose(gradient[mask], of_alone)
    assert gradient[~mask].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_type_of_embedding_gets_terms_as_exact_as_its_values_are(dtype):
    vectors = rows("near-duplicates", 32).to(dtype)
    exact = leave_one_out(linear_kernel(vectors.double()))
    assert linear_kernel(vectors).dtype == torch.float64
    assert torch.equal(leave_one_out(linear_kernel(vectors)), exact)
    assert leave_one_out(linear_kernel(vectors).to(dtype)).dtype == dtype
    assert mean_distance(vectors).dtype == unit(vectors).dtype == dtype
    assert torch.equal(mean_distance(vectors), mean_distance(vectors.double()).to(dtype))


@pytest.mark.parametrize(
    ("dtype", "length"),
    [(torch.float16, 6e4), (torch.bfloat16, 1e38), (torch.float32, 1e30), (torch.float32, 1e-40), (torch.float64, 1e-300)],
)
def test_a_vector_may_be_as_long_or_short_as_its_type_can_say(dtype, length):
    vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=dtype) * length
    assert unit(vectors).flatten().tolist() == pytest.approx([1, 0, 0.5**0.5, 0.5**0.5], rel=1e-2)
    assert linear_kernel(vectors).flatten().tolist() == pytest.approx([1, 0.5**0.5, 0.5**0.5, 1])


def test_a_matrix_that_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match="not positive definite"):
        leave_one_out(torch.tensor([[1.0, 3.0], [3.0, 1.0]]))


@pytest.mark.parametrize("name", ["linear", "rbf", "cosine_power"])
def test_gradients_are_those_of_finite_differences(name):
    vectors = rows("random", 4, dimension=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: leave_one_out(kernel(name, v)), vectors)
    assert torch.autograd.gradcheck(lambda v: log_det(kernel(name, v)), vectors)


def test_a_zero_vector_adds_nothing_and_has_no_gradient():
    vectors = rows("random", 4).clone()
    vectors[2] = 0
    vectors.requires_grad_()
    for name in ("linear", "rbf", "cosine_power"):
        terms = leave_one_out(kernel(name, vectors))
        assert terms[2] == 0
        (gradient,) = torch.autograd.grad(terms.sum(), vectors)
        assert torch.isfinite(gradient).all()


def test_an_empty_response_changes_nothing_for_the_others():
    full = rows("random", 4)
    with_empty = torch.cat([full[:2], torch.zeros(1, 24, dtype=torch.float64), full[2:]])
    others = [0, 1, 3, 4]
    for name in ("linear", "rbf", "cosine_power"):
        terms = leave_one_out(kernel(name, with_empty))
        assert torch.allclose(terms[others], leave_one_out(kernel(name, full)))
        assert torch.allclose(log_det(kernel(name, with_empty)), log_det(kernel(name, full)))
    distances = mean_distance(with_empty)
    assert distances[2] == 0  # or saying nothing would be as far from all as can be
    assert torch.allclose(distances[others], mean_distance(full))


def test_a_group_of_empty_responses_has_no_diversity():
    nothing = torch.zeros(3, 1)
    for name in ("linear", "rbf", "cosine_power"):
        assert leave_one_out(kernel(name, nothing)).tolist() == [0, 0, 0]
        assert log_det(kernel(name, nothing)) == 0
    assert mean_distance(nothing).tolist() == [0, 0, 0]


def test_kernels_by_hand():
    vectors = torch.tensor([[2.0, 0.0], [3.0, 3.0]], dtype=torch.float64)  # 45 degrees apart; lengths do not count
    cosine = math.sqrt(0.5)
    assert linear_kernel(vectors).flatten().tolist() == pytest.approx([1, cosine, cosine, 1])
    assert cosine_power_kernel(vectors, 2).flatten().tolist() == pytest.approx([1, 0.5, 0.5, 1])
    near = math.exp(-(2 - 2 * cosine) / (2 * 0.5**2))
    assert rbf_kernel(vectors, 0.5).flatten().tolist() == pytest.approx([1, near, near, 1])


def test_the_quality_weighted_kernel_shortens_bad_responses():
    matrix = linear_kernel(torch.eye(2, dtype=torch.float64))
    weighted = quality_weighted(matrix, torch.tensor([1.0, 0.0]), temperature=0.5)
    assert weighted.diagonal().tolist() == pytest.approx([1.0, math.exp(-2)])
    terms = leave_one_out(weighted)
    assert terms.tolist() == pytest.approx([math.log(2), math.log(1 + math.exp(-2))])


def test_mean_distance_by_hand():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert mean_distance(vectors).tolist() == pytest.approx([0.5, 0.5, 1.0])
    assert mean_distance(vectors[:1]).tolist() == [0]


def test_two_far_clusters_fool_the_mean_distance_and_not_the_determinant():
    """What the determinant is for: eight responses that say two things, beside eight that say eight."""
    two = torch.eye(8, dtype=torch.float64)[[0, 0, 0, 0, 1, 1, 1, 1]]
    two[4:] = -two[:4]  # as far apart as can be
    eight = torch.eye(8, dtype=torch.float64)
    assert mean_distance(two).mean() > mean_distance(eight).mean()
    assert log_det(linear_kernel(two)) < 0.5 * log_det(linear_kernel(eight))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_embedding_that_is_not_finite_is_named(value):
    vectors = torch.zeros(2, 3, 4)
    vectors[1, 2, 0] = value
    with pytest.raises(ValueError, match=r"1 embeddings are not finite, the first at \(1, 2\)"):
        linear_kernel(vectors)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: unit(torch.ones(3)), r"\[\.\.\., G, D\]"),
        (lambda: unit(torch.ones(3, 0)), "D at least 1"),
        (lambda: linear_kernel(torch.ones(3, 2), torch.ones(2, dtype=torch.bool)), "mask must be bool"),
        (lambda: leave_one_out(torch.ones(2, 3)), r"\[\.\.\., G, G\]"),
        (lambda: log_det(torch.eye(3), torch.ones(3)), "mask must be bool"),
        (lambda: log_det(torch.eye(3), torch.ones(2, dtype=torch.bool)), "mask must be bool"),
        (lambda: log_det(torch.full((2, 2), math.nan)), "not finite"),
        (lambda: leave_one_out(torch.tensor([[1.0, math.nan], [0.0, 1.0]])), "not finite"),
        (lambda: leave_one_out(torch.diag(torch.tensor([1.0, math.inf]))), "not finite"),
        (lambda: leave_one_out(torch.tensor([[1.0, math.inf], [-math.inf, 1.0]])), "not finite"),
        (lambda: cosine_power_kernel(torch.ones(2, 2), 1.5), "whole number"),  # pyright: ignore[reportArgumentType]
        (lambda: rbf_kernel(torch.ones(2, 2), 0.0), "bandwidth must be positive"),
        (lambda: quality_weighted(torch.eye(2), torch.ones(2), 0.0), "temperature must be positive"),
        (lambda: kernel("cosine", torch.ones(2, 2)), "unknown kernel 'cosine'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()

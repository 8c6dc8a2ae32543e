"""Chunked log-probabilities equal the plain ones, and never hold more logits than a chunk."""

import math

import pytest
import torch
from torch.nn.functional import linear

from counterpoint.policy.chunked import chunked_logprobs, rows_per_chunk

ROWS, HIDDEN, VOCABULARY = 13, 8, 50


def plain(hidden, targets, project, temperature=1.0):
    logprobs = torch.log_softmax(project(hidden).float() / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy.detach()


def inputs(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(ROWS, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden, weight, bias, targets


def heads(weight, bias):
    return {
        "without bias": lambda rows: linear(rows, weight),
        "with bias": lambda rows: linear(rows, weight, bias),
        "soft-capped": lambda rows: 3 * torch.tanh(linear(rows, weight) / 3),
    }


@pytest.mark.parametrize("chunk_rows", [1, 4, ROWS, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("head", ["without bias", "with bias", "soft-capped"])
def test_values_and_gradients_equal_the_plain_computation(head, temperature, chunk_rows):
    hidden, weight, bias, targets = inputs()
    project = heads(weight, bias)[head]
    upstream = torch.linspace(-1, 2, ROWS)  # every row's gradient counts differently

    expected, entropy = plain(hidden, targets, project, temperature)
    wanted = torch.autograd.grad((expected * upstream).sum(), [hidden, weight])
    logprobs, entropies = chunked_logprobs(hidden, targets, project, chunk_rows, temperature, with_entropy=True)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), [hidden, weight])

    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, entropy, atol=1e-5, rtol=1e-5)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-5, rtol=1e-5)


def test_two_tokens_by_hand():
    # Logits 0 and ln 3: probabilities 1/4 and 3/4; at temperature 1/2 logits double: 1/10 and 9/10.
    weight = torch.tensor([[0.0], [math.log(3)]])
    hidden, targets = torch.ones(2, 1), torch.tensor([0, 1])
    logprobs, entropy = chunked_logprobs(hidden, targets, lambda rows: linear(rows, weight), 1, with_entropy=True)
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.75])
    assert entropy[0].item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    cold = chunked_logprobs(hidden, targets, lambda rows: linear(rows, weight), 1, temperature=0.5)
    assert cold.exp().tolist() == pytest.approx([0.1, 0.9])


def test_a_bfloat16_head_gives_float32_logprobs_and_bfloat16_gradients():
    hidden, weight, bias, targets = inputs(torch.bfloat16)
    project = heads(weight, bias)["without bias"]
    expected, _ = plain(hidden, targets, project)
    wanted = torch.autograd.grad(expected.sum(), [hidden, weight])
    logprobs = chunked_logprobs(hidden, targets, project, 4)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)  # the same bfloat16 logits
    for gradient, want in zip(torch.autograd.grad(logprobs.sum(), [hidden, weight]), wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, want, atol=0.05, rtol=0.05)  # chunks are summed in bfloat16


def test_no_logits_larger_than_a_chunk_exist_and_none_are_kept_for_the_backward_pass():
    hidden, weight, _, targets = inputs()
    seen, kept = [], []

    def project(rows):
        seen.append(len(rows))
        return linear(rows, weight)

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs = chunked_logprobs(hidden, targets, project, 4)
    assert seen == [4, 4, 4, 1]
    assert max(kept, default=0) < VOCABULARY * 4
    logprobs.sum().backward()
    assert sorted(seen) == [1, 1, 4, 4, 4, 4, 4, 4]  # each chunk once more


def test_without_gradients_each_chunk_is_projected_once():
    hidden, weight, _, targets = inputs()
    calls = []

    def project(rows):
        calls.append(len(rows))
        return linear(rows, weight)

    with torch.no_grad():
        logprobs = chunked_logprobs(hidden, targets, project, 5)
    assert calls == [5, 5, 3]
    assert not logprobs.requires_grad


def test_entropy_is_detached_and_survives_impossible_tokens():
    hidden, weight, _, targets = inputs()
    ban = torch.zeros(VOCABULARY)
    ban[targets.unique().max() + 1 :] = -math.inf  # only tokens that are nobody's target
    _, entropy = chunked_logprobs(hidden, targets, lambda rows: linear(rows, weight) + ban, 4, with_entropy=True)
    assert not entropy.requires_grad
    assert torch.isfinite(entropy).all()


def test_no_rows_give_no_logprobs():
    _, weight, _, _ = inputs()
    empty = torch.zeros(0, dtype=torch.long)
    assert chunked_logprobs(torch.zeros(0, HIDDEN), empty, lambda rows: linear(rows, weight), 4).shape == (0,)


def test_rows_per_chunk_fills_the_budget_and_is_at_least_one():
    assert rows_per_chunk(1000, logits_bytes=12_000) == 3  # 3 rows of 1000 float32
    assert rows_per_chunk(151_936) == 110  # 2^26 / (4 * 151936) = 110.4
    assert rows_per_chunk(10**9) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3, 4), torch.zeros(2, dtype=torch.long), None, 1), r"\[3, 4\] and \[2\]"),
        ((torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), None, 0), "chunk_rows"),
        ((torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), None, 1, 0.0), "temperature"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        chunked_logprobs(*arguments)

"""Log-probabilities a slice of the vocabulary at a time equal the plain ones, and never hold more logits than a slice."""

import math

import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from counterpoint.policy import logprobs as module
from counterpoint.policy.logprobs import head_logprobs, logprobs_of_logits, slice_width

ROWS, HIDDEN, VOCABULARY = 13, 8, 50


def plain(logits, targets, temperature=1.0):
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return logprobs.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropy.detach()


def inputs(dtype=torch.float32, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = (scale * torch.randn(ROWS, HIDDEN, generator=generator)).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden, weight, bias, targets


@pytest.fixture(params=[1, 7, 49, 50])
def slices_of(request, monkeypatch):
    """So many tokens of the vocabulary at a time."""
    monkeypatch.setattr(module, "slice_width", lambda rows, vocabulary: request.param)


@pytest.mark.usefixtures("slices_of")
@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients_through_a_head_equal_the_plain_computation(with_bias, temperature, scale):
    hidden, weight, bias, targets = inputs(scale=scale)
    upstream = torch.linspace(-1, 2, ROWS)  # every row's gradient counts differently
    wrt = [hidden, weight, bias] if with_bias else [hidden, weight]

    expected, entropy = plain(linear(hidden, weight, bias if with_bias else None), targets, temperature)
    wanted = torch.autograd.grad((expected * upstream).sum(), wrt)
    logprobs, entropies = head_logprobs(hidden, weight, targets, temperature, bias if with_bias else None)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), wrt)

    torch.testing.assert_close(logprobs, expected, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, entropy, atol=2e-5, rtol=1e-5)
    assert not entropies.requires_grad
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, ROWS])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_of_given_logits_equal_the_plain_computation(temperature, rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    hidden, weight, _, targets = inputs()
    logits = (3 * torch.tanh(linear(hidden, weight) / 3)).detach().requires_grad_()
    upstream = torch.linspace(-1, 2, ROWS)
    expected, entropy = plain(logits, targets, temperature)
    [wanted] = torch.autograd.grad((expected * upstream).sum(), logits)
    logprobs, entropies = logprobs_of_logits(logits, targets, temperature)
    [gradient] = torch.autograd.grad((logprobs * upstream).sum(), logits)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropies, entropy, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


def test_two_tokens_by_hand():
    # Logits 0 and ln 3: probabilities 1/4 and 3/4; at temperature 1/2 logits double: 1/10 and 9/10.
    weight = torch.tensor([[0.0], [math.log(3)]])
    hidden, targets = torch.ones(2, 1), torch.tensor([0, 1])
    logprobs, entropy = head_logprobs(hidden, weight, targets)
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.75])
    assert entropy[0].item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))
    assert head_logprobs(hidden, weight, targets, 0.5)[0].exp().tolist() == pytest.approx([0.1, 0.9])


def test_a_frozen_head_or_frozen_states_get_no_gradient():
    hidden, weight, _, targets = inputs()
    head_logprobs(hidden, weight.detach(), targets)[0].sum().backward()
    head_logprobs(hidden.detach(), weight, targets)[0].sum().backward()
    expected, _ = plain(linear(hidden, weight), targets)
    wanted = torch.autograd.grad(expected.sum(), [hidden, weight])
    torch.testing.assert_close(hidden.grad, wanted[0])
    torch.testing.assert_close(weight.grad, wanted[1])


@pytest.mark.usefixtures("slices_of")
def test_a_bfloat16_head_gives_float32_logprobs_and_bfloat16_gradients():
    hidden, weight, _, targets = inputs(torch.bfloat16)
    expected, _ = plain(linear(hidden, weight), targets)
    wanted = torch.autograd.grad(expected.sum(), [hidden, weight])
    logprobs, entropies = head_logprobs(hidden, weight, targets)
    assert logprobs.dtype == entropies.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)  # the same bfloat16 logits
    for gradient, want in zip(torch.autograd.grad(logprobs.sum(), [hidden, weight]), wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient, want, atol=0.05, rtol=0.05)


class Largest(TorchDispatchMode):
    """The most elements that a tensor made within it has had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


def test_no_more_logits_than_a_slice_exist_and_none_are_kept_for_the_backward_pass(monkeypatch):
    monkeypatch.setattr(module, "NARROWEST", 16)
    monkeypatch.setattr(module, "SLICE_BYTES", 4 * 16 * 200)
    hidden, weight, targets = torch.randn(200, 4).requires_grad_(), torch.randn(1000, 4), torch.randint(1000, (200,))
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with Largest() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logprobs, _ = head_logprobs(hidden, weight, targets)
        logprobs.sum().backward()
    assert max(kept) == weight.numel()
    assert seen.elements == 16 * 200


def test_no_rows_give_no_logprobs():
    _, weight, _, _ = inputs()
    for found in head_logprobs(torch.zeros(0, HIDDEN), weight, torch.zeros(0, dtype=torch.long)):
        assert found.shape == (0,)


def test_a_slice_fills_the_budget_and_is_neither_narrow_nor_wider_than_the_vocabulary():
    assert slice_width(2048, 150_000) == 2048  # 2^24 / (4 * 2048)
    assert slice_width(100_000, 150_000) == 1024
    assert slice_width(2, 512) == 512
    assert slice_width(0, 512) == 512


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            head_logprobs,
            (torch.zeros(3, 4), torch.zeros(9, 4), torch.zeros(2, dtype=torch.long)),
            r"\[3, 4\], \[9, 4\] and \[2\]",
        ),
        (head_logprobs, (torch.zeros(3, 4), torch.zeros(9, 5), torch.zeros(3, dtype=torch.long)), r"\[9, 5\]"),
        (head_logprobs, (torch.zeros(3, 4), torch.zeros(9, 4), torch.zeros(3, dtype=torch.long), 0.0), "temperature"),
        (logprobs_of_logits, (torch.zeros(3, 4), torch.zeros(2, dtype=torch.long)), r"\[3, 4\] and \[2\]"),
        (logprobs_of_logits, (torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), 0.0), "temperature"),
    ],
)
def test_wrong_arguments_are_refused(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)

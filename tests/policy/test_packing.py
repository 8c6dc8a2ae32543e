"""Sequences packed into one row: what stands where, what is computed once, and that a model makes the same of them."""

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from counterpoint.errors import DataError
from counterpoint.policy.packing import of_like_length, pack, packed_batches
from counterpoint.policy.trainable import can_pack
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum

CPU = torch.device("cpu")


class Sequence(NamedTuple):
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


def groups_of(seed: int, longest: int = 40) -> list[Datum]:
    """Groups of completions of ragged lengths, of prompts of ragged lengths, some of one completion, in no order."""
    chance = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(10, 250) for _ in range(count))

    data = []
    for size in (1, 4, 2, 5):
        prompt = ids(chance.randint(1, longest))
        lengths = [chance.randint(1, longest) for _ in range(size)]
        data += [Datum(prompt, ids(length), tuple(chance.gauss(0, 1) for _ in range(length))) for length in lengths]
    chance.shuffle(data)
    return data


def test_a_shared_prompt_stands_once_and_a_last_token_not_at_all():
    packed = pack([Sequence((1, 2, 3), (4, 5)), Sequence((9, 8), (7, 6)), Sequence((1, 2, 3), (6,))], CPU)
    assert packed.ids_S.tolist() == [1, 2, 3, 4, 9, 8, 7]
    assert packed.positions_S.tolist() == [0, 1, 2, 3, 0, 1, 2]
    # 4 by the end of its prompt, 5 by 4; 7 by 8, 6 by 7; 6 by the end of the shared prompt
    assert packed.predicts_N.tolist() == [2, 3, 5, 6, 2]
    assert packed.targets_N.tolist() == [4, 5, 7, 6, 6]
    assert packed.mask.tolist() == [[True, True], [True, True], [True, False]]


def test_a_completion_without_tokens_asks_for_nothing():
    packed = pack([Sequence((1, 2), ()), Sequence((1, 2), (3,)), Sequence((5,), ())], CPU)
    assert packed.predicts_N.tolist() == [1]
    assert packed.mask.tolist() == [[False], [True], [False]]


def test_a_row_without_a_prompt_is_refused():
    with pytest.raises(DataError, match="no prompt"):
        pack([Sequence((), (1,))], CPU)


@pytest.mark.parametrize("tokens", [1, 60, 200, 10_000])
def test_batches_keep_within_their_tokens_and_groups_together(tokens):
    data = groups_of(0)
    batches = list(packed_batches(data, tokens))
    assert sorted(index for batch in batches for index in batch) == list(range(len(data)))
    sizes = [len(pack([data[i] for i in batch], CPU).ids_S) for batch in batches]
    assert all(size <= tokens or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    # a batch ends where the next row would not have fitted
    for batch, following, size in zip(batches, batches[1:], sizes, strict=False):
        row, prompts = data[following[0]], {data[i].prompt for i in batch}
        assert size + len(row.tokens) - 1 + (0 if row.prompt in prompts else len(row.prompt)) > tokens


def test_what_attends_together_is_of_like_length():
    lengths = [100, 90, 76, 60, 59, 58, 20, 5, 4]
    assert list(of_like_length(lengths, lambda length: length)) == [[100, 90, 76], [60, 59, 58], [20, 5, 4]]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3"])
def test_a_policy_says_the_same_of_packed_sequences_as_of_each_alone(kind, seed):
    options = {"sliding_window": 128} if kind == "gemma3" else {}
    policy = tiny_models.policy(kind, model_options=options, tokens_per_microbatch=150)
    assert policy._packs
    data = groups_of(seed)
    for found, datum in zip(policy.logprobs(data, 0.8), data, strict=True):
        expected = tiny_models.full_logprobs(policy.model, datum.prompt, datum.tokens, 0.8)
        assert found == pytest.approx(expected.tolist(), abs=2e-5)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_and_the_gradient_are_those_of_sequences_side_by_side(seed):
    found = []
    for packs in (True, False):
        policy = tiny_models.policy("llama", max_grad_norm=1e9)
        policy._packs = packs
        gradients: list[Tensor] = []
        assert policy.optimizer is not None
        keep = lambda *_, into=gradients, of=policy: into.extend(w.grad.clone() for w in of.masters if w.grad is not None)  # noqa: E731
        policy.optimizer.register_step_pre_hook(keep)
        metrics = policy.update(groups_of(seed), LossSpec(), learning_rate=1e-6)
        found.append((metrics["loss"], torch.cat([gradient.flatten() for gradient in gradients])))
    (loss, gradient), (plain_loss, plain_gradient) = found
    assert loss == pytest.approx(plain_loss, rel=1e-5, abs=1e-7)
    assert float((gradient - plain_gradient).norm()) < 1e-5 * float(plain_gradient.norm())


def test_the_model_is_left_with_the_attention_it_had():
    policy = tiny_models.policy()
    before = policy.model.config._attn_implementation
    policy.logprobs(groups_of(0))
    assert policy.model.config._attn_implementation == before


def test_rows_longer_than_a_layers_window_go_side_by_side():
    policy = tiny_models.policy("gemma3", model_options={"sliding_window": 16})
    shapes = []
    policy.model.get_decoder().register_forward_pre_hook(  # pyright: ignore
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    short = [Datum((2, 3, 4), (5, 6, 7), (1.0,) * 3), Datum((2, 3, 4), (8, 9), (1.0,) * 2)]
    policy.logprobs(short)
    policy.logprobs([*short, Datum((2,) * 10, (3,) * 7, (1.0,) * 7)])
    assert shapes == [(1, 6), (3, 17)]


@pytest.mark.parametrize(("kind", "packs"), [("llama", True), ("gemma3", False), ("gemma2", False)])
def test_a_model_that_attends_in_a_way_of_its_own_is_not_packed(kind, packs):
    """gemma2 caps its attention's logits; both have a window of four tokens."""
    assert tiny_models.policy(kind)._packs is packs


class Forgetful(nn.Module):
    """Passes on all but the positions."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, position_ids: Any = None, **inputs: Any) -> Any:
        return self.decoder(**inputs)


def test_a_model_that_takes_no_notice_of_positions_is_not_packed():
    policy = tiny_models.policy("llama")
    policy.model.model = Forgetful(policy.model.model)
    policy.model.get_decoder = lambda: policy.model.model  # pyright: ignore
    assert not can_pack(policy)

"""Sequences packed into one row: what stands where, what is computed once, and that a model makes the same of them."""

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Lfm2Config,
    Lfm2Model,
    Llama4ForCausalLM,
    Llama4TextConfig,
    MptConfig,
    MptForCausalLM,
)

import tiny_models
from counterpoint.errors import DataError
from counterpoint.policy import trainable
from counterpoint.policy.critic import Critic
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.packing import GATHERED, of_like_length, pack, packed_attention, packed_batches
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


def test_completions_may_all_be_without_tokens():
    data = [Datum((1, 2), (), ()), Datum((1, 2), (), ()), Datum((5,), (), ())]
    policy = tiny_models.policy("llama")
    assert policy._packs
    assert policy.logprobs(data) == [(), (), ()]


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


def keys_of(rows: list[Sequence]) -> int:
    buckets = pack(rows, CPU).buckets
    return sum((bucket.queries_R_Q if bucket.keys_R_K is None else bucket.keys_R_K).numel() for bucket in buckets)


def test_a_batch_gathers_no_more_keys_than_so_many_times_its_tokens():
    """Sixty completions of two tokens after a prompt of 300 are 360 tokens, and more than 18,000 keys."""
    rows = [Sequence(tuple(range(2, 302)), (7, index)) for index in range(60)]
    batches = list(packed_batches(rows, 500))
    assert sorted(index for batch in batches for index in batch) == list(range(60))
    after_prompt = [keys_of([rows[i] for i in batch]) - 300 for batch in batches]
    assert max(after_prompt) <= GATHERED * 500 < max(after_prompt) + 301


def test_a_long_prompt_does_not_lengthen_the_keys_of_others():
    short = [Sequence((2, 3), (4, index)) for index in range(20)]
    long = [Sequence(tuple(range(2, 602)), (4, index)) for index in range(2)]
    assert keys_of([*short, *long]) == keys_of(short) + keys_of(long)


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


def gradient_of(policy: LocalPolicy, data: list[Datum]) -> Tensor:
    found: list[Tensor] = []
    assert policy.optimizer is not None
    policy.optimizer.register_step_pre_hook(lambda *_: found.extend(w.grad.clone() for w in policy.masters if w.grad is not None))
    policy.update(data, LossSpec(), learning_rate=1e-6)
    return torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_gradient_is_right_where_the_backward_pass_runs_the_layers_again(reentrant):
    plain, again = tiny_models.policy("llama", max_grad_norm=1e9), tiny_models.policy("llama", max_grad_norm=1e9)
    again.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    again.model.enable_input_require_grads()  # which reentrant checkpoints need
    shapes = []
    again.model.get_decoder().register_forward_pre_hook(  # pyright: ignore
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    expected, found = gradient_of(plain, groups_of(0)), gradient_of(again, groups_of(0))
    assert [rows for rows, _ in shapes] == [1]  # packed
    assert float((found - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"softcap": 5.0}, "softcap"),
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"indices": torch.zeros(1, 3, 2)}, "indices"),
        ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "a mask"),
        ({"is_causal": False}, "comes after"),
    ],
)
def test_a_layer_that_hands_over_more_than_queries_keys_and_values_is_refused(own, named):
    """In the few tokens that a model is tried on, a choice of some of 2,048 keys is all of them."""
    states = torch.randn(1, 2, 3, 4)
    packed = pack([Sequence((1, 2), (3, 4))], CPU)
    given: dict[str, Any] = {"attention_mask": None, "position_ids": torch.arange(3)[None], "packed": packed}
    assert packed_attention(nn.Module(), states, states, states, **given)[0].shape == (1, 3, 2, 4)
    with pytest.raises(NotImplementedError, match=named):
        packed_attention(nn.Module(), states, states, states, **(given | own))


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


def small_mpt() -> Any:
    """Makes a mask of its own, and fails without: AttributeError."""
    return MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=1, max_seq_len=256, vocab_size=304))


def small_bloom() -> Any:
    """Attends to all of a row, by distances in it; as a new model in bfloat16, that is within the rounding."""
    torch.manual_seed(0)
    return BloomForCausalLM(BloomConfig(hidden_size=32, n_head=4, n_layer=4, vocab_size=304)).bfloat16()


def small_llama4() -> Any:
    """Scales queries by their place in a row from the 8,192nd on, which no short trial shows."""
    options = tiny_models.shape(304, {"intermediate_size_mlp": 48, "num_local_experts": 2, "no_rope_layers": [1, 0]})
    return Llama4ForCausalLM(Llama4TextConfig(**options))


@pytest.mark.parametrize("make", [small_mpt, small_bloom, small_llama4])
def test_a_model_that_would_fail_or_differ_when_packed_goes_side_by_side(make):
    policy = LocalPolicy(make(), tiny_models.tokenizer())
    assert not policy._packs
    assert len(policy.logprobs([Datum((2, 3), (4, 5), (1.0,) * 2)])[0]) == 2


def test_a_decoder_with_convolutions_is_not_packed():
    """A new one's do so little that packed sequences look the same."""
    options = tiny_models.shape(304, {"layer_types": ["conv", "full_attention"], "initializer_range": 0.02})
    assert not Critic(Lfm2Model(Lfm2Config(**options)))._packs


def test_an_update_packs_each_micro_batch_once_and_no_old_one_again(monkeypatch: pytest.MonkeyPatch):
    packed: list[list[Datum]] = []

    def counted(rows: list[Datum], device: torch.device):
        packed.append(list(rows))
        return pack(rows, device)

    policy = LocalPolicy(tiny_models.model("llama"), tiny_models.tokenizer(), tokens_per_microbatch=60)
    monkeypatch.setattr(trainable, "pack", counted)
    first, second = groups_of(0), groups_of(1)
    for data in (first, second, first):
        packed.clear()
        policy.update(data, LossSpec(), 1e-3)
        assert sorted(id(row) for rows in packed for row in rows) == sorted(map(id, data))
        assert len(packed) > 1

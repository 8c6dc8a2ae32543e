"""A policy's updates against a plain implementation, and what is kept, skipped and refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import tiny_models
from counterpoint.config import LoraConfig, ModelConfig
from counterpoint.errors import DataError, ModelError
from counterpoint.policy.load import load_policy
from counterpoint.policy.local import LocalPolicy, head_is_plain
from counterpoint.policy.trainable import split_evenly
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum, SamplingParams

SHAPES = [(5, 3), (2, 9), (7, 1), (2, 6), (5, 4), (5, 1)]
"""Tokens of the prompt and of the completion, of each datum. Prompts of one length are one prompt."""
AGGREGATIONS = [
    LossSpec(aggregation="token"),
    LossSpec(aggregation="sequence"),
    LossSpec(aggregation="constant", constant_length=8),
]
# some importance weights between 0.8 and 1.3, with and without clipping, KL and temperature
SPECS = [
    *AGGREGATIONS,
    LossSpec("importance_sampling", temperature=0.7),
    LossSpec("cispo", clip_high=0.05, aggregation="sequence"),
    LossSpec("gspo", clip_low=0.01, clip_high=0.01),
    LossSpec("clipped", kl_coefficient=0.1, kl_kind="k3", max_importance_weight=1.05),
]


def data_of(policy: LocalPolicy, off_policy: bool = True, **fields: Any) -> list[Datum]:
    """Data with advantages of both signs that differ by token; off-policy, a little beside the present policy."""
    generator = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(10, 250, (n,), generator=generator).tolist())

    def near(row: tuple[float, ...]) -> tuple[float, ...]:
        return tuple((torch.tensor(row) + 0.2 * torch.randn(len(row), generator=generator)).tolist())

    prompts = {length: ids(length) for length, _ in SHAPES}
    bare = [Datum(prompts[p], ids(t), tuple(torch.randn(t, generator=generator).tolist())) for p, t in SHAPES]
    if not off_policy:
        return bare
    return [
        Datum(d.prompt, d.tokens, d.advantages, near(row), near(row), near(row), **fields)
        for d, row in zip(bare, policy.logprobs(bare), strict=True)
    ]


def plain_token_losses(spec: LossSpec, datum: Datum, logprobs: torch.Tensor) -> torch.Tensor:
    """The losses again, written for one sequence, by the papers' formulas."""
    advantages = torch.tensor(datum.advantages)
    old = torch.tensor(datum.old_logprobs) if datum.old_logprobs else logprobs.detach()
    ratio = (logprobs - old).exp()
    low, high = 1 - spec.clip_low, 1 + spec.clip_high
    if spec.name == "gspo":
        ratio = (logprobs - old).mean().exp().detach() * (logprobs - logprobs.detach()).exp()
    if spec.name == "importance_sampling":
        losses = -ratio * advantages
    elif spec.name == "cispo":
        losses = -ratio.detach().clamp(max=high) * advantages * logprobs
    else:
        losses = -torch.min(ratio * advantages, ratio.clamp(low, high) * advantages)
    if spec.max_importance_weight:
        losses = losses * (old - torch.tensor(datum.logprobs)).exp().clamp(max=spec.max_importance_weight)
    if spec.kl_coefficient:
        log_ratio = torch.tensor(datum.reference_logprobs) - logprobs
        losses = losses + spec.kl_coefficient * (log_ratio.exp() - 1 - log_ratio)
    return losses


def plain_gradient(model: PreTrainedModel, data: list[Datum], spec: LossSpec) -> tuple[list[torch.Tensor], float]:
    """Gradient and loss from full logits, one unpadded sequence at a time."""
    model.zero_grad()
    rows = [plain_token_losses(spec, d, tiny_models.full_logprobs(model, d.prompt, d.tokens, spec.temperature)) for d in data]
    if spec.aggregation == "token":
        loss = torch.cat(rows).mean()
    elif spec.aggregation == "sequence":
        loss = torch.stack([row.mean() for row in rows]).mean()
    else:
        assert spec.constant_length
        loss = torch.stack([row.sum() / spec.constant_length for row in rows]).mean()
    loss.backward()
    gradient = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    return gradient, loss.item()


class Recorder:
    """Keeps the gradients that a policy's optimizer is asked to step with."""

    def __init__(self, policy: LocalPolicy):
        self.steps: list[list[torch.Tensor]] = []
        assert policy.optimizer is not None
        policy.optimizer.register_step_pre_hook(
            lambda *_: self.steps.append([weight.grad.clone() for weight in policy.masters if weight.grad is not None])
        )


def weights_of(policy: LocalPolicy) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in policy.model.parameters()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shapes_of_forwards(policy: LocalPolicy) -> list[tuple[int, ...]]:
    """Fills with the shape of what goes into each pass through the decoder."""
    shapes: list[tuple[int, ...]] = []
    decoder: nn.Module = policy.model.get_decoder()  # pyright: ignore
    decoder.register_forward_pre_hook(lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True)
    return shapes


# The gradient


@pytest.mark.parametrize("budget", [1, 24, 10_000], ids=["one row", "a few rows", "all rows"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.name}-{spec.aggregation}")
def test_the_gradient_is_that_of_a_plain_implementation_however_it_is_cut(spec, budget):
    policy = tiny_models.policy(tokens_per_microbatch=budget, max_grad_norm=1e9)
    recorder, data = Recorder(policy), data_of(policy)
    expected, loss = plain_gradient(policy.model, data, spec)
    metrics = policy.update(data, spec, learning_rate=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for ours, plain in zip(recorder.steps[0], expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * scale)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert metrics["grad_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in expected]).norm()), rel=1e-4)


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gemma2"])
def test_the_gradient_is_right_for_other_families(kind, packs, monkeypatch):
    if not packs:
        monkeypatch.setattr("counterpoint.policy.trainable.can_pack", lambda trainable: False)
    policy = tiny_models.policy(kind, tokens_per_microbatch=30, max_grad_norm=1e9)
    recorder, data = Recorder(policy), data_of(policy)
    expected, _ = plain_gradient(policy.model, data, LossSpec())
    policy.update(data, LossSpec(), learning_rate=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for ours, plain in zip(recorder.steps[0], expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * scale)


def test_on_policy_the_ratio_is_one_and_the_gradient_that_of_reinforce():
    policy = tiny_models.policy(max_grad_norm=1e9)
    recorder, data = Recorder(policy), data_of(policy, off_policy=False)
    for datum in data:
        rows = tiny_models.full_logprobs(policy.model, datum.prompt, datum.tokens)
        (-(rows * torch.tensor(datum.advantages)).sum() / sum(t for _, t in SHAPES)).backward()
    expected = [weight.grad.clone() for weight in policy.weights if weight.grad is not None]
    policy.model.zero_grad()
    metrics = policy.update(data, LossSpec(), learning_rate=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in expected)
    for ours, plain in zip(recorder.steps[0], expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * scale)
    assert metrics["ratio"] == 1.0
    assert metrics["clipped_share"] == 0.0


def test_an_on_policy_update_makes_one_forward_pass_a_microbatch_and_no_more():
    policy = tiny_models.policy(tokens_per_microbatch=24)
    data = data_of(policy, off_policy=False)
    shapes = shapes_of_forwards(policy)
    policy.update(data, LossSpec(), learning_rate=1e-6)
    # 5 + 2 + 3 + 0 of the first prompt's, 2 + 8 + 5 of the second's, of which 5 come with their prompt in the next batch, 7 + 0
    assert shapes == [(1, 20), (1, 14)]


def test_without_packing_too(monkeypatch):
    monkeypatch.setattr("counterpoint.policy.trainable.can_pack", lambda trainable: False)
    policy = tiny_models.policy(tokens_per_microbatch=24)
    shapes = shapes_of_forwards(policy)
    policy.update(data_of(policy, off_policy=False), LossSpec(), learning_rate=1e-6)
    # lengths 11, 9, 8, 8, 8, 6
    assert shapes == [(2, 11), (3, 8), (1, 6)]


def test_the_gradient_is_clipped_to_the_norm():
    policy = tiny_models.policy(max_grad_norm=0.01)
    recorder = Recorder(policy)
    metrics = policy.update(data_of(policy), LossSpec(), learning_rate=1e-6)
    assert metrics["grad_norm"] > 0.02  # the norm before
    assert float(torch.cat([g.flatten() for g in recorder.steps[0]]).norm()) == pytest.approx(0.01, rel=1e-3)


def test_two_optimizer_steps_take_two_steps_on_halves_of_the_data():
    policy, single = tiny_models.policy(), tiny_models.policy()
    recorder, data = Recorder(policy), data_of(policy)
    policy.update(data, LossSpec(), learning_rate=1e-3, optimizer_steps=2)
    assert len(recorder.steps) == 2
    for half in split_evenly(data, 2):
        single.update(half, LossSpec(), learning_rate=1e-3)
    assert same(weights_of(policy), weights_of(single))


def test_more_optimizer_steps_than_data_take_one_step_a_datum():
    policy = tiny_models.policy()
    recorder = Recorder(policy)
    policy.update(data_of(policy)[:2], LossSpec(), learning_rate=1e-3, optimizer_steps=5)
    assert len(recorder.steps) == 2


def test_the_learning_rate_is_that_of_the_call():
    policy = tiny_models.policy()
    before = weights_of(policy)
    policy.update(data_of(policy), LossSpec(), learning_rate=1e-4)
    # Adam's first step moves a weight by the learning rate
    moved = max(float((new - old).abs().max()) for old, new in zip(before, weights_of(policy), strict=True))
    assert moved == pytest.approx(1e-4, rel=1e-2)


def test_the_metrics_of_an_update_are_those_of_its_tokens():
    policy = tiny_models.policy(tokens_per_microbatch=24)
    data = data_of(policy)
    with torch.no_grad():
        logits = [policy.model(torch.tensor([d.prompt + d.tokens])).logits[0, len(d.prompt) - 1 : -1] for d in data]
    distributions = torch.cat(logits).log_softmax(-1)
    rows = torch.tensor([x for row in policy.logprobs(data) for x in row])
    old = torch.tensor([x for d in data for x in d.old_logprobs or ()])
    metrics = policy.update(data, LossSpec(), learning_rate=1e-6)
    assert metrics["logprob"] == pytest.approx(float(rows.mean()), abs=1e-5)
    assert metrics["entropy"] == pytest.approx(float(-(distributions.exp() * distributions).sum(-1).mean()), abs=1e-4)
    assert metrics["ratio"] == pytest.approx(float((rows - old).exp().mean()), abs=1e-4)
    assert metrics["skipped_updates"] == 0.0


# Learning


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_thirty_updates_teach_the_better_of_two_answers(seed):
    policy = tiny_models.policy(seed=seed)
    good = Datum((20, 21, 22), (40, 41, 42, 43), (1.0,) * 4)
    bad = Datum((20, 21, 22), (50, 51, 52, 53), (-1.0,) * 4)
    margins = []
    for _ in range(30):
        right, wrong = policy.logprobs([good, bad])
        margins.append(sum(right) - sum(wrong))
        policy.update([good, bad], LossSpec(), learning_rate=2e-3)
    right, wrong = policy.logprobs([good, bad])
    assert sum(right) - sum(wrong) > margins[0] + 8  # e^8 times likelier than it was
    assert sum(right) > -2
    assert policy.sample([good.prompt], 1, SamplingParams(4, temperature=0.0), seed=0)[0][0].tokens == good.tokens


# Types


def test_a_bfloat16_model_keeps_steps_that_are_smaller_than_its_rounding():
    policy = LocalPolicy(tiny_models.model().to(torch.bfloat16), tiny_models.tokenizer())
    data = data_of(policy, off_policy=False)
    assert all(master.dtype == torch.float32 for master in policy.masters)
    assert all(weight.dtype == torch.bfloat16 for weight in policy.model.parameters())
    masters = [master.clone() for master in policy.masters]
    policy.update(data, LossSpec(), learning_rate=1e-6)
    moved = torch.cat([(new - old).abs().flatten() for old, new in zip(masters, policy.masters, strict=True)])
    assert float(moved.max()) == pytest.approx(1e-6, rel=0.1)


def test_many_small_steps_add_up_in_a_bfloat16_model():
    def moved(policy: LocalPolicy) -> int:
        """Weights that changed of those which a step of 1e-5 is too small for: half the gap between neighbours is 6e-5 there."""
        before = weights_of(policy)
        for _ in range(20):
            policy.update(data_of(policy, off_policy=False), LossSpec(), learning_rate=1e-5)
        pairs = zip(before, weights_of(policy), strict=True)
        return sum(int(((old != new) & (old.abs() > 0.03)).sum()) for old, new in pairs)

    policy, rounding = (LocalPolicy(tiny_models.model().to(torch.bfloat16), tiny_models.tokenizer()) for _ in range(2))
    rounding.masters = rounding.weights  # as it would be without float32 masters
    rounding.optimizer = torch.optim.AdamW(rounding.weights, lr=0.0, weight_decay=0.0)
    assert moved(rounding) == 0
    assert moved(policy) > 100


def test_bfloat16_weights_are_their_masters_rounded():
    policy = LocalPolicy(tiny_models.model().to(torch.bfloat16), tiny_models.tokenizer())
    policy.update(data_of(policy), LossSpec(), learning_rate=1e-2)
    assert same([weight.detach() for weight in policy.weights], [master.to(torch.bfloat16) for master in policy.masters])


# LoRA


def saved_base(directory: Path) -> str:
    tiny_models.model(vocabulary=len(tiny_models.tokenizer())).save_pretrained(directory)
    tiny_models.tokenizer().save_pretrained(directory)
    return str(directory)


def lora_policy(directory: Path, dtype: Any = "float32", **options: Any) -> LocalPolicy:
    config = ModelConfig(model=saved_base(directory), lora=LoraConfig(rank=4, alpha=8), dtype=dtype, device="cpu", **options)  # pyright: ignore
    return load_policy(config)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_changes_adapters_only(tmp_path, dtype):
    policy = lora_policy(tmp_path, dtype)
    before = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    assert policy.weights
    policy.update(data_of(policy), LossSpec(), learning_rate=1e-2)
    changed = {name for name, weight in policy.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_the_reference_of_a_lora_policy_is_its_base_model(tmp_path):
    policy = lora_policy(tmp_path)
    data = data_of(policy, off_policy=False)
    reference, start = policy.reference(), policy.logprobs(data)
    greedy = SamplingParams(12, temperature=0.0)
    said = policy.sample([data[0].prompt], 1, greedy, seed=0)
    for _ in range(5):
        policy.update(data, LossSpec(), learning_rate=3e-2)
    assert policy.logprobs(data)[0] != pytest.approx(start[0], abs=0.1)
    for row, its_start in zip(reference.logprobs(data), start, strict=True):
        assert row == pytest.approx(its_start, abs=1e-5)
    assert policy.sample([data[0].prompt], 1, greedy, seed=0)[0][0].tokens != said[0][0].tokens
    assert reference.sample([data[0].prompt], 1, greedy, seed=0)[0][0].tokens == said[0][0].tokens
    with pytest.raises(ModelError, match="no weights to train"):
        reference.update(data, LossSpec(), 1e-3)


def test_saved_adapters_load_with_from_pretrained(tmp_path):
    policy = lora_policy(tmp_path / "base")
    data = data_of(policy)
    policy.update(data, LossSpec(), learning_rate=1e-2)
    policy.save(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    for datum, row in zip(data, policy.logprobs(data), strict=True):
        with torch.no_grad():
            assert tiny_models.full_logprobs(loaded, datum.prompt, datum.tokens).tolist() == pytest.approx(row, abs=1e-5)
    frozen = load_policy(ModelConfig(model=str(tmp_path / "saved"), train=False, device="cpu"))  # pyright: ignore
    assert frozen.logprobs(data)[0] == pytest.approx(policy.logprobs(data)[0], abs=1e-5)


def test_a_lora_policy_samples_from_its_adapters(tmp_path):
    policy = lora_policy(tmp_path)
    for _ in range(3):
        policy.update(data_of(policy), LossSpec(), learning_rate=3e-2)
    completion = policy.sample([(20, 21, 22)], 1, SamplingParams(12), seed=0)[0][0]
    with torch.no_grad():
        plain = tiny_models.full_logprobs(policy.model, completion.prompt, completion.tokens)
    assert completion.logprobs == pytest.approx(plain.tolist(), abs=1e-4)


# Reference, save and load


def test_the_reference_stays_what_the_policy_was():
    policy = tiny_models.policy()
    data = data_of(policy)
    start, reference = policy.logprobs(data), policy.reference()
    policy.update(data, LossSpec(), learning_rate=1e-2)
    assert policy.logprobs(data) != start
    assert reference.logprobs(data) == start
    assert reference.optimizer is None


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "lora"])
def test_going_on_after_save_and_load_is_as_if_nothing_had_been_interrupted(tmp_path, variant):
    def fresh(seed: int) -> LocalPolicy:
        torch.manual_seed(seed)
        if variant == "lora":
            return lora_policy(tmp_path / "base")
        return LocalPolicy(tiny_models.model(seed=seed).to(getattr(torch, variant)), tiny_models.tokenizer(), weight_decay=0.01)

    unbroken = fresh(0)
    data = data_of(unbroken, off_policy=False)
    for _ in range(3):
        unbroken.update(data, LossSpec(), learning_rate=1e-3)
    unbroken.save(tmp_path / "saved")
    resumed = fresh(1)
    assert not same(weights_of(resumed), weights_of(unbroken))
    resumed.load(tmp_path / "saved")
    assert same(weights_of(resumed), weights_of(unbroken))
    for policy in (unbroken, resumed):
        for _ in range(3):
            policy.update(data, LossSpec(), learning_rate=1e-3)
    assert same(weights_of(resumed), weights_of(unbroken))
    assert same(resumed.masters, unbroken.masters)


def test_saved_weights_load_with_from_pretrained(tmp_path):
    policy = tiny_models.policy()
    policy.update(data_of(policy), LossSpec(), learning_rate=1e-2)
    policy.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert same(list(loaded.parameters()), list(policy.model.parameters()))


# What is refused, and what is skipped


def test_a_frozen_policy_refuses_to_update():
    policy = LocalPolicy(tiny_models.model().requires_grad_(False), tiny_models.tokenizer())
    with pytest.raises(ModelError, match="no weights to train; it was loaded frozen"):
        policy.update(data_of(policy), LossSpec(), learning_rate=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(bad, dtype):
    policy = LocalPolicy(tiny_models.model().to(dtype), tiny_models.tokenizer())
    data = data_of(policy, off_policy=False)
    before = weights_of(policy)
    broken = [*data[:-1], Datum(data[-1].prompt, data[-1].tokens, (bad, *data[-1].advantages[1:]))]
    assert policy.update(broken, LossSpec(), learning_rate=1e-2)["skipped_updates"] == 1.0
    assert same(before, weights_of(policy))
    # nothing of it is left for the next one
    untouched = LocalPolicy(tiny_models.model().to(dtype), tiny_models.tokenizer())
    assert policy.update(data, LossSpec(), learning_rate=1e-2)["skipped_updates"] == 0.0
    untouched.update(data, LossSpec(), learning_rate=1e-2)
    assert same(weights_of(policy), weights_of(untouched))


def test_metrics_are_of_the_steps_that_were_taken():
    policy, only = tiny_models.policy(), tiny_models.policy()
    data = data_of(policy)
    broken = [Datum(d.prompt, d.tokens, (math.nan,) * len(d.tokens), d.logprobs, d.old_logprobs) for d in data[:2]]
    metrics = policy.update([data[0], data[1], broken[0], broken[1]], LossSpec(), 1e-6, optimizer_steps=2)
    assert metrics["skipped_updates"] == 1.0
    alone = only.update(data[:2], LossSpec(), 1e-6)
    assert {name: metrics[name] for name in ("loss", "grad_norm", "ratio")} == pytest.approx(
        {name: alone[name] for name in ("loss", "grad_norm", "ratio")}
    )


def test_a_prompt_that_does_not_fit_the_context_is_refused_with_its_lengths():
    policy = tiny_models.policy(model_options={"max_position_embeddings": 32})
    with pytest.raises(DataError, match=r"prompt of 20 tokens and 13 tokens.*context of 32"):
        policy.sample([(20,) * 20], 1, SamplingParams(13), seed=0)
    assert len(policy.sample([(20,) * 20], 1, SamplingParams(12), seed=0)) == 1


def test_an_empty_prompt_is_refused():
    policy = tiny_models.policy()
    with pytest.raises(DataError, match="no tokens"):
        policy.sample([(20,), ()], 1, SamplingParams(2), seed=0)
    with pytest.raises(DataError, match="no prompt"):
        policy.logprobs([Datum((), (20, 21), (1.0, 1.0))])


def test_no_data_are_refused_by_an_update_and_have_no_logprobs():
    policy = tiny_models.policy()
    with pytest.raises(DataError, match="no data to learn from"):
        policy.update([], LossSpec(), learning_rate=1e-3)
    assert policy.logprobs([]) == []


def test_numbers_that_do_not_match_the_tokens_are_refused():
    policy = tiny_models.policy()
    data = [Datum((20, 21), (22, 23), (1.0, 1.0, 1.0)), Datum((20, 21), (22, 23), (1.0,))]
    with pytest.raises(DataError, match="advantages must have one number for each"):
        policy.update(data, LossSpec(), learning_rate=1e-3)


def test_log_probabilities_for_some_data_only_are_refused():
    policy = tiny_models.policy()
    data = [Datum((20, 21), (22,), (1.0,), old_logprobs=(-1.0,)), Datum((20, 21), (22,), (1.0,))]
    with pytest.raises(DataError, match="some data have old_logprobs and some have not"):
        policy.update(data, LossSpec(), learning_rate=1e-3)


# The head


@pytest.mark.parametrize(("kind", "plain"), [("qwen3", True), ("llama", True), ("gemma3", True), ("gemma2", False)])
@pytest.mark.parametrize("scale", [0.25, 0.002])
def test_a_soft_cap_on_the_logits_is_noticed_however_small_they_are(kind, plain, scale):
    model = tiny_models.model(kind, initializer_range=scale)
    model.train()
    assert head_is_plain(model) == plain
    assert model.training


def test_a_model_with_a_soft_cap_gets_the_log_probabilities_of_its_full_forward_pass():
    policy = tiny_models.policy("gemma2", tokens_per_microbatch=24)
    data = data_of(policy, off_policy=False)
    capped = policy.logprobs(data)
    for datum, row in zip(data, capped, strict=True):
        with torch.no_grad():
            assert row == pytest.approx(tiny_models.full_logprobs(policy.model, datum.prompt, datum.tokens).tolist(), abs=1e-5)
    policy.model.config.final_logit_softcapping = None  # the cap matters here
    assert policy.logprobs(data)[0] != pytest.approx(capped[0], abs=0.1)


def test_logprobs_come_in_the_order_of_the_data_however_they_were_cut():
    policy, whole = tiny_models.policy(tokens_per_microbatch=1), tiny_models.policy()
    data = data_of(policy, off_policy=False)
    for one, other, datum in zip(policy.logprobs(data, 0.7), whole.logprobs(data, 0.7), data, strict=True):
        assert len(one) == len(datum.tokens)
        assert one == pytest.approx(other, abs=1e-5)


def test_parts_of_an_update_keep_neighbours_together():
    assert [list(part) for part in split_evenly(list(range(8)), 2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [len(part) for part in split_evenly(list(range(7)), 3)] == [2, 2, 3]
    assert split_evenly([1], 4) == [[1]]


def test_bfloat16_gradients_of_many_micro_batches_are_summed_in_float32():
    """300 equal gradients: a sum in bfloat16 stops growing long before."""
    policy = tiny_models.policy()
    policy.model.to(torch.bfloat16)
    policy = LocalPolicy(policy.model, policy.tokenizer, tokens_per_microbatch=1, max_grad_norm=1e9)
    datum = Datum((20, 21), (22,), (1.0,))
    loss = LossSpec("importance_sampling", aggregation="constant", constant_length=1)
    one = policy.update([datum], loss, 1e-30)["grad_norm"]
    many = policy.update([datum] * 300, loss, 1e-30)["grad_norm"]
    assert many == pytest.approx(one, rel=0.02)

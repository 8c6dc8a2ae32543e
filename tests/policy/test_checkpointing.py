"""Layers run again in the backward pass: when, that no number changes, and what memory there is."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny_models
from counterpoint.config import LoraConfig, ModelConfig
from counterpoint.policy import trainable
from counterpoint.policy.checkpointing import MARGIN, checkpointing, free_memory, free_system_memory, keeping
from counterpoint.policy.critic import Critic
from counterpoint.policy.load import with_adapters
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.trainable import TrainableModel
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum

NONE, PLENTY = 0, 1 << 60
MAKE = Callable[[], TrainableModel]


def groups_of(seed: int, longest: int = 40) -> list[Datum]:
    """Groups of completions of ragged lengths after prompts of ragged lengths."""
    chance = random.Random(seed)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(10, 250) for _ in range(count))

    data = []
    for size in (1, 4, 2, 5):
        prompt = ids(chance.randint(1, longest))
        lengths = [chance.randint(1, longest) for _ in range(size)]
        data += [Datum(prompt, ids(length), tuple(chance.gauss(0, 1) for _ in range(length))) for length in lengths]
    return data


def set_free(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(trainable, "free_memory", lambda _: size)


def policy(kind: str = "llama", **options: Any) -> LocalPolicy:
    return tiny_models.policy(kind, model_options=options, max_grad_norm=1e9, tokens_per_microbatch=150)


def side_by_side() -> LocalPolicy:
    made = policy()
    made._packs = False
    return made


def adapted(dtype: torch.dtype = torch.float32) -> LocalPolicy:
    """A frozen model with adapters that do something."""
    model = with_adapters(tiny_models.model("llama").to(dtype), ModelConfig(model="", lora=LoraConfig(rank=4)))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) / 4)
    return LocalPolicy(model, tiny_models.tokenizer(), max_grad_norm=1e9, tokens_per_microbatch=150)


def critic() -> Critic:
    made = Critic(tiny_models.model("llama").get_decoder(), max_grad_norm=1e9, tokens_per_microbatch=150)
    torch.nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(0))
    return made


def update(model: TrainableModel, data: list[Datum]) -> dict[str, float]:
    if isinstance(model, Critic):
        goals = [datum.advantages for datum in data]
        return model.update(data, goals, [(0.0,) * len(goal) for goal in goals], 1e-6, 1e9)
    assert isinstance(model, LocalPolicy)
    return model.update(data, LossSpec(), 1e-6)


def learned(model: TrainableModel, data: list[Datum]) -> tuple[dict[str, float], Tensor]:
    """The metrics of an update and its gradient."""
    found: list[Tensor] = []
    assert model.optimizer is not None
    model.optimizer.register_step_pre_hook(lambda *_: found.extend(w.grad.clone() for w in model.masters if w.grad is not None))
    torch.manual_seed(0)
    return update(model, data), torch.cat([gradient.flatten() for gradient in found])


def layer_runs(model: TrainableModel) -> list[int]:
    """Calls of the first layer's MLP, in a list that grows with them."""
    calls: list[int] = []
    [first, *_] = [module for name, module in model.model.named_modules() if name.endswith("layers.0.mlp")]
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


MODELS = [
    policy,
    side_by_side,
    adapted,
    lambda: adapted(torch.bfloat16),
    critic,
    lambda: policy("qwen3"),
    lambda: policy("gemma3", sliding_window=16),
    lambda: policy("llama", attention_dropout=0.2),
]
NAMES = ["packed", "side by side", "adapters", "adapters, bfloat16", "critic", "qwen3", "gemma3, a window", "dropout"]


@pytest.mark.parametrize("make", MODELS, ids=NAMES)
def test_an_update_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch, make: MAKE) -> None:
    data = groups_of(0)
    set_free(monkeypatch, PLENTY)
    plain_model = make()
    runs = layer_runs(plain_model)
    plain, gradient = learned(plain_model, data)
    microbatches = len(list(plain_model._microbatches(data)))
    probes = len(runs) - microbatches  # none, unless packing was switched off afterwards
    assert microbatches > 2

    set_free(monkeypatch, NONE)
    model = make()
    runs = layer_runs(model)
    metrics, found = learned(model, data)
    assert len(runs) - probes == 2 * microbatches
    assert metrics.pop("checkpointed_microbatches") == microbatches
    assert metrics == plain
    assert torch.equal(found, gradient)
    assert float(gradient.norm()) > 0


def test_what_the_forward_pass_keeps_is_the_inputs_of_layers() -> None:
    model = policy(num_hidden_layers=8)
    model.model.train()
    rows, layers = groups_of(0), trainable.checkpointable(model.model)
    sizes = []
    for chosen in ([], layers):
        with checkpointing(chosen), keeping(model.model) as kept:
            states = model._states(rows)
        sizes.append(sum(kept.values()))
        del states
    assert sizes[1] < sizes[0] / 8


def test_layers_run_again_where_the_margin_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = policy(), groups_of(3)
    batches = list(model._microbatches(data))
    gradients = sum(weight.numel() * 4 for weight in model.weights)
    kept = [MARGIN * model._kept_bytes([data[i] for i in batch]) for batch in batches]
    assert kept[0] < max(kept) < kept[0] + gradients
    for free, count in [
        (max(kept[0] + gradients, *kept) + 1, 0),
        (kept[0] + gradients - 1, sum(size > kept[0] + gradients - 1 for size in kept[1:]) + 1),  # then the gradients are there
        (min(kept) - 1, len(batches)),
    ]:
        set_free(monkeypatch, int(free))
        assert update(model, data).get("checkpointed_microbatches", 0) == count


def test_a_sequence_longer_than_a_micro_batch_is_run_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy()
    long = Datum((5, 6, 7), (8, 9) * 90, (0.5,) * 180)
    data = [*[Datum((index, 3), (4, 5, 6), (1.0, -1.0, 0.5)) for index in range(10, 14)], long]
    assert len(list(model._microbatches(data))) == 2
    set_free(monkeypatch, int(MARGIN * model._kept_bytes([long])) - 1)
    # gradients are there by then, and small beside what it keeps
    gradients = sum(weight.numel() * 4 for weight in model.weights)
    assert MARGIN * model._kept_bytes(data[:-1]) + gradients < MARGIN * model._kept_bytes([long]) - 1
    assert update(model, data)["checkpointed_microbatches"] == 1


def test_where_free_memory_is_not_known_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, None)
    assert "checkpointed_microbatches" not in update(policy(), groups_of(0))


def test_a_model_that_cannot_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, NONE)
    model = policy()
    monkeypatch.setattr(type(model.model), "supports_gradient_checkpointing", False)
    assert "checkpointed_microbatches" not in update(model, groups_of(0))


def test_the_layers_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, NONE)
    model = policy()
    attention = model.model.config._attn_implementation
    update(model, groups_of(0))
    assert not model.model.is_gradient_checkpointing
    assert model.model.config._attn_implementation == attention
    assert not model.model.get_input_embeddings()._forward_hooks


def test_a_user_who_has_switched_it_on_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, NONE)
    model = policy()
    model.model.gradient_checkpointing_enable({"use_reentrant": False})
    runs, data = layer_runs(model), groups_of(0)
    assert "checkpointed_microbatches" not in update(model, data)
    assert len(runs) == 2 * len(list(model._microbatches(data)))
    assert model.model.is_gradient_checkpointing


def test_what_autograd_keeps_counts_once_and_weights_do_not() -> None:
    layer, inputs = nn.Linear(4, 3), torch.randn(5, 4)
    with keeping(layer) as kept:
        outputs = (layer(inputs) + layer(inputs.view(5, 4))).tanh()
    assert sum(kept.values()) == 4 * (inputs.numel() + outputs.numel())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3", "gemma2"])
def test_the_estimate_is_what_is_kept(kind: str, dtype: torch.dtype, seed: int) -> None:
    options = {"sliding_window": 128} if kind.startswith("gemma") else {}
    model = LocalPolicy(tiny_models.model(kind, **options).to(dtype), tiny_models.tokenizer())
    check_estimate(model, groups_of(seed))


def test_the_estimate_counts_logits_where_the_head_is_not_plain() -> None:
    model = policy("gemma2", vocab_size=5000)
    assert not model._head_is_plain
    check_estimate(model, groups_of(0))


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_is_what_is_kept_with_adapters(dtype: torch.dtype, packs: bool) -> None:
    model = adapted(dtype)
    model._packs = packs
    check_estimate(model, groups_of(0))


def check_estimate(model: LocalPolicy, rows: list[Datum]) -> None:
    model.model.train()
    with keeping(model.model) as kept:
        logprobs = model._forward(rows, 1.0)
    assert model._kept_bytes(rows) == pytest.approx(sum(kept.values()), rel=0.1)
    del logprobs


@torch.no_grad()
def test_the_estimate_takes_no_random_numbers_and_leaves_the_mode() -> None:
    model = policy("llama", attention_dropout=0.2)
    expected = model._rates.copy()
    assert expected[True][0] > 0  # without a gradient nothing would be kept
    before = torch.get_rng_state()
    for training in (True, False):
        model.model.train(training)
        model._rates.clear()
        model._kept_bytes(groups_of(0))
        assert model._rates == expected
        assert model.model.training is training
    assert torch.equal(torch.get_rng_state(), before)


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\n"}
TWO = {"proc/self/cgroup": "0::/a/b\n"}
ONE = {"proc/self/cgroup": "9:cpu:/x\n4:memory,hugetlb:/host/path\n0::/\n"}


def two(folder: str, most: str, now: int, files: int) -> dict[str, str]:
    named = {"memory.max": f"{most}\n", "memory.current": f"{now}\n", "memory.stat": f"file 7\ninactive_file {files}\n"}
    return {f"sys/fs/cgroup/{folder}/{name}": text for name, text in named.items()}


LIMITED = {
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "700\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50\n",
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9000 kB\n"}, None),
        (MEMINFO, 4000 * 1024),
        (MEMINFO | TWO | two("a/b", "max", 5, 0), 4000 * 1024),
        (MEMINFO | TWO | two("a/b", "3000", 1000, 200), 2200),
        (MEMINFO | TWO | two("a/b", "max", 1000, 200) | two("a", "5000", 3000, 0), 2000),
        (MEMINFO | TWO | two("a/b", "3000", 4000, 0), 0),
        (MEMINFO | ONE | LIMITED, 350),
    ],
    ids=["not Linux", "an old Linux", "no limit", "max", "a limit", "of a group above", "passed", "version 1 in a container"],
)
def test_what_the_system_leaves(tmp_path: Path, files: dict[str, str], free: int | None) -> None:
    assert free_system_memory(system(tmp_path, files)) == free


def test_a_gpu_has_what_the_driver_leaves_and_what_is_reserved_and_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 40)
    assert free_memory(torch.device("cuda")) == 130
    assert free_memory(torch.device("mps")) is None


def test_a_model_of_few_tokens_loads_and_learns_without_an_estimate() -> None:
    policy = LocalPolicy(tiny_models.model("llama", max_position_embeddings=8), tiny_models.tokenizer())
    metrics = policy.update([Datum((20, 21), (22, 23), (1.0, 1.0), (-1.0, -1.0))], LossSpec(), 1e-3)
    assert metrics["grad_norm"] > 0
    assert "checkpointed_microbatches" not in metrics

"""A transformers model in this process with its optimizer: what a policy and its critic have in common.

Axis suffixes: `_N` sequences of a micro-batch, `_T` tokens that are learned from, padded to the longest.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from counterpoint.errors import DataError
from counterpoint.policy.checkpointing import MARGIN, checkpointable, checkpointing, free_memory, keeping
from counterpoint.policy.packing import (
    NAME,
    Packed,
    Row,
    attending,
    only_attends,
    pack,
    packed_batches,
    window_of,
)
from counterpoint.rl.state import CHECKPOINTED

OPTIMIZER_FILE = "optimizer.pt"


AnyRow = TypeVar("AnyRow", bound=Row)
Item = TypeVar("Item")


class TrainableModel:
    """A model that takes gradient steps over sequences, in micro-batches of like length.

    The optimizer is AdamW over float32 weights. A model in a smaller type keeps a float32 copy of what is trained, since a step
    of 1e-6 is lost in the rounding of bfloat16.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        weights: Sequence[nn.Parameter],
        *,
        tokens_per_microbatch: int,
        max_grad_norm: float,
        weight_decay: float,
    ):
        self.model = model
        self.tokens_per_microbatch = tokens_per_microbatch
        self.max_grad_norm = max_grad_norm
        self.weights = [weight for weight in weights if weight.requires_grad]
        self.masters = [w if w.dtype == torch.float32 else w.detach().float().clone() for w in self.weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=weight_decay, fused=True) if self.masters else None
        self._packs = can_pack(self)
        self._asked_for: tuple[Sequence[Row], Packed | None] = (), None
        self._rates: dict[bool, tuple[float, float, int]] = {}
        """`kept_rates`, packed and side by side, as far as they were asked for."""
        if self.weights:
            self._rates_for(self._packs)  # now, not within an update
        self.version = 0
        """Counts how often the weights were changed, for a sampler that has a copy of them."""

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        """What the model makes of its inputs, [N, L, D]."""
        raise NotImplementedError

    def _states(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """What the model makes of the places that predict the rows' tokens [n, D], those tokens [n], where they stand [N, T]."""
        if self._packs_all(rows):
            packed = self._pack(rows)
            return self._packed_states(packed), packed.targets_N, packed.mask
        batch = side_by_side(rows, self.model.device)
        return self._batch_states(batch), batch.targets(), batch.mask

    def _batch_states(self, batch: "Batch") -> Tensor:
        """What the model makes of the places that predict, [n, D]."""
        return self._run({"input_ids": batch.ids, "attention_mask": batch.padding})[batch.predicts]

    def _packed_states(self, packed: Packed) -> Tensor:
        """The same."""
        inputs = {"input_ids": packed.ids_S[None], "position_ids": packed.positions_S[None], "packed": packed}
        with attending(self.model, NAME):
            return self._run(inputs)[0].index_select(0, packed.predicts_N)

    def _pack(self, rows: Sequence[Row]) -> Packed:
        """The rows in one: made already, and given out once, where the memory that they take was asked for first."""
        (before, packed), self._asked_for = self._asked_for, ((), None)
        same = len(before) == len(rows) and all(a is b for a, b in zip(before, rows, strict=True))
        return packed if packed is not None and same else pack(rows, self.model.device)

    def _packs_all(self, rows: Sequence[Row]) -> bool:
        """Whether the rows go into the model packed: where a layer's window is shorter than one of them, they do not."""
        longest = max(len(row.prompt) + len(row.tokens) for row in rows)
        return self._packs and longest <= (window_of(self.model) or longest)

    def _layers_to_run_again(self, rows: Sequence[Row]) -> list[Any]:
        """Layers whose activations the backward pass computes again: all, where what a forward pass over the rows keeps may not
        fit into free memory beside the gradients that are still to come."""
        free = free_memory(self.model.device)
        layers = checkpointable(base_model(self.model)) if free is not None else []
        if free is None or not layers:
            return []
        gradients = sum(weight.numel() * weight.dtype.itemsize for weight in self.weights if weight.grad is None)
        return [] if MARGIN * self._kept_bytes(rows) + gradients <= free else layers

    def _kept_bytes(self, rows: Sequence[Row]) -> float:
        """What a forward pass over the rows keeps for its backward pass, from what it keeps of a few tokens."""
        packed = pack(rows, self.model.device) if self._packs_all(rows) else None
        self._asked_for = tuple(rows), packed
        of_token, of_attention, of_state = self._rates_for(packed is not None)
        tokens, attention = extent(rows, packed)
        return of_token * tokens + of_attention * attention + of_state * sum(len(row.tokens) for row in rows)

    def _rates_for(self, packed: bool) -> tuple[float, float, int]:
        if packed not in self._rates:
            self._rates[packed] = kept_rates(self, packed)
        return self._rates[packed]

    def _microbatches(self, data: Sequence[Row]) -> Iterator[list[int]]:
        cut = packed_batches if data and self._packs_all(data) else microbatches
        return cut(data, self.tokens_per_microbatch)

    @torch.no_grad()
    def _of_each_token(
        self, data: Sequence[AnyRow], forward: Callable[[Sequence[AnyRow]], tuple[Tensor, Tensor]]
    ) -> list[tuple[float, ...]]:
        """What `forward`, rows -> (numbers [N, T], mask [N, T]), says of each token of each row, in the order of `data`."""
        numbers: list[tuple[float, ...]] = [()] * len(data)
        self.model.eval()
        for batch in self._microbatches(data):
            values, mask = forward([data[i] for i in batch])
            for i, row, kept in zip(batch, values, mask, strict=True):
                numbers[i] = tuple(row[kept].tolist())
        return numbers

    def _take_steps(
        self,
        data: Sequence[AnyRow],
        learning_rate: float,
        optimizer_steps: int,
        step: Callable[[Sequence[AnyRow]], dict[str, float]],
    ) -> dict[str, float]:
        """Split `data` evenly among optimizer steps and sum what they report; `loss` and `grad_norm` are means of steps taken."""
        assert self.optimizer is not None
        if not data:
            raise DataError("there is no data to learn from; skip the update of a step without any")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        totals: dict[str, float] = {"skipped_updates": 0.0}
        parts = split_evenly(data, optimizer_steps)
        for part in parts:
            for name, value in step(part).items():
                totals[name] = totals.get(name, 0.0) + value
        taken = max(1.0, len(parts) - totals["skipped_updates"])
        return totals | {name: totals[name] / taken for name in ("loss", "grad_norm") if name in totals}

    def _optimizer_step(
        self, data: Sequence[Row], loss_of: Callable[[list[int]], tuple[Tensor, dict[str, Tensor | float]]]
    ) -> dict[str, float]:
        """Accumulate the gradient over micro-batches, clip it, step. A step that is not finite is not taken.

        `loss_of` takes the indices of a micro-batch to its share of the loss, a scalar, and to sums for the log.
        """
        assert self.optimizer is not None
        self.model.train()
        totals: dict[str, float] = {}
        for batch in self._microbatches(data):
            rows = [data[i] for i in batch]
            layers = self._layers_to_run_again(rows)
            # around the backward pass too: layers that it runs again must attend as they did
            with attending(self.model, NAME) if self._packs_all(rows) else nullcontext(), checkpointing(layers):
                loss, sums = loss_of(batch)
                loss.backward()
            self._gather_gradients()
            of_all = {"loss": loss.detach(), **({CHECKPOINTED: 1.0} if layers else {})}
            for name, number in {**sums, **of_all}.items():
                totals[name] = totals.get(name, 0.0) + float(number)
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm))
        if torch.isfinite(torch.tensor([norm, totals["loss"]])).all():
            self.optimizer.step()
            for master, weight in zip(self.masters, self.weights, strict=True):
                if master is not weight:
                    weight.data.copy_(master)
            self.version += 1
            totals["grad_norm"] = norm
        else:
            totals = {"skipped_updates": 1.0}
        self.optimizer.zero_grad()
        return totals

    def _gather_gradients(self) -> None:
        """Move gradients to the float32 masters after each micro-batch: a long sum in bfloat16 would lose its last terms."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            if master is not weight and weight.grad is not None:
                gradient, weight.grad = weight.grad.float(), None
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def _save_optimizer(self, directory: Path) -> None:
        if self.optimizer is None:
            return
        state = {"optimizer": self.optimizer.state_dict(), "masters": None}
        if any(master is not weight for master, weight in zip(self.masters, self.weights, strict=True)):
            state["masters"] = [master.detach() for master in self.masters]
        torch.save(state, directory / OPTIMIZER_FILE)

    def _load_model(self, directory: Path) -> None:
        if is_lora(self.model):
            from peft import set_peft_model_state_dict
            from safetensors.torch import load_file

            set_peft_model_state_dict(self.model, load_file(directory / "adapter_model.safetensors"))  # pyright: ignore
        else:
            saved = type(self.model).from_pretrained(directory, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())
        self.version += 1

    def _load_optimizer(self, directory: Path) -> None:
        """Goes last: masters that are the weights themselves are loaded with the weights."""
        if self.optimizer is None:
            return
        state = torch.load(directory / OPTIMIZER_FILE, map_location=self.model.device, weights_only=True)
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for i, (master, weight) in enumerate(zip(self.masters, self.weights, strict=True)):
                if master is not weight:
                    master.copy_(state["masters"][i])


class Batch(NamedTuple):
    """Sequences side by side, as a decoder takes them."""

    ids: Tensor
    """Token ids of prompts and tokens, zero after them, [N, longest]."""
    padding: Tensor | None
    """The attention mask, [N, longest]; None where no row is shorter than another."""
    predicts: Tensor
    """bool [N, longest]: the positions whose next token is one of the row's `tokens`."""
    mask: Tensor
    """bool [N, T]: where a row has tokens. It has as many True as `predicts`, in the same order."""

    def targets(self) -> Tensor:
        """The token that each position of `predicts` predicts."""
        return self.ids.roll(-1, dims=1)[self.predicts]


def side_by_side(rows: Sequence[Row], device: torch.device) -> Batch:
    """The rows as one batch. Padding is on the right, where causal attention keeps it from every token that counts."""
    longest = max(len(row.prompt) + len(row.tokens) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention = torch.zeros(len(rows), longest, dtype=torch.long)
    predicts = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        if not row.prompt:
            raise DataError("a datum has no prompt; its first token needs one to be predicted from")
        prompt, end = len(row.prompt), len(row.prompt) + len(row.tokens)
        ids[i, :end] = torch.tensor(row.prompt + row.tokens)
        attention[i, :end] = 1
        predicts[i, prompt - 1 : end - 1] = True
    padding = attention.to(device) if bool((attention == 0).any()) else None
    lengths = torch.tensor([len(row.tokens) for row in rows], device=device)
    mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    return Batch(ids.to(device), padding, predicts.to(device), mask)


class Probe(NamedTuple):
    """A sequence to try a model on."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


@torch.no_grad()
def can_pack(trainable: TrainableModel) -> bool:
    """Whether the model makes of packed sequences what it makes of them side by side, every layer by packed attention.

    Numbers alone do not tell in bfloat16: layers of a new model that mix sequences up can be within its rounding.
    """
    model = trainable.model
    rows = [Probe((2, 3, 4), (5, 6, 7, 8)), Probe((5, 4), (3, 2)), Probe((2, 3, 4), (8, 7)), Probe((2, 3, 4), (6,))]
    if not only_attends(model) or (window_of(model) or math.inf) < max(len(row.prompt) + len(row.tokens) for row in rows):
        return False
    training, packed = model.training, pack(rows, model.device)
    model.eval()
    try:
        expected = trainable._batch_states(side_by_side(rows, model.device)).float()
        found = trainable._packed_states(packed).float()
    except Exception:  # noqa: BLE001  (it takes no positions, or attends in a way of its own, and says so in any way it likes)
        return False
    finally:
        model.train(training)
    if len(packed.attended) < getattr(model.config.get_text_config(), "num_hidden_layers", 1):
        return False
    return bool((found - expected).norm() <= (1e-3 if model.dtype == torch.float32 else 0.05) * expected.norm())


@torch.enable_grad()
def kept_rates(trainable: TrainableModel, packed: bool) -> tuple[float, float, int]:
    """Bytes that a forward pass in training keeps of each token, and of each unit of attention, see `extent`; measured. And what
    the loss keeps of each token that is learned from: its state, which is a row of logits where the head is not plain."""
    model, device, training = trainable.model, trainable.model.device, trainable.model.training
    longest = 32
    if (getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest) < longest:
        return 0.0, 0.0, 0  # what so few tokens take needs no estimate

    def probe(prompt: int, *tokens: int) -> list[Probe]:
        return [Probe((2,) * prompt, (2,) * number) for number in tokens]

    of_state = 0

    def kept(rows: Sequence[Row]) -> tuple[int, int, int]:
        nonlocal of_state
        made = pack(rows, device) if packed else None
        with keeping(model) as sizes:
            states = trainable._batch_states(side_by_side(rows, device)) if made is None else trainable._packed_states(made)
        of_state = states.shape[-1] * states.element_size()
        del states  # held until all is counted
        return sum(sizes.values()), *extent(rows, made)

    half, eighth = longest // 2, longest // 8
    if packed:
        trials = probe(half, half), probe(half, *[eighth] * 4)
    else:  # of as many tokens, and padded: masks are kept too
        trials = probe(1, eighth - 1, *[eighth - 2] * 15), probe(1, longest - 1, longest - 2)
    model.train()
    try:
        # dropout must not take numbers from a seeded update
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            (few, tokens, attention), (more, more_tokens, more_attention) = map(kept, trials)
    finally:
        model.train(training)
    of_attention = (more * tokens - few * more_tokens) / (more_attention * tokens - attention * more_tokens)
    return (few - of_attention * attention) / tokens, of_attention, of_state


def extent(rows: Sequence[Row], packed: Packed | None) -> tuple[int, int]:
    """What a forward pass over the rows keeps grows with two numbers: with its tokens, and, for attention, with queries and keys
    that are gathered anew if it is packed, with pairs of tokens (matrices, masks) if not."""
    if packed is not None:
        read = [(bucket.queries_R_Q, bucket.keys_R_K) for bucket in packed.buckets]
        gathered = sum(queries.numel() + (queries if keys is None else keys).numel() for queries, keys in read)
        return len(packed.ids_S), gathered - 2 * len(packed.ids_S)
    longest = max(len(row.prompt) + len(row.tokens) for row in rows)
    return len(rows) * longest, len(rows) * longest**2


def spread_over(mask: Tensor, flat: Tensor) -> Tensor:
    """`flat`, a number for each True of the mask, where they are True, and zeros elsewhere; the gradient goes through."""
    return torch.zeros(mask.shape, dtype=flat.dtype, device=mask.device).masked_scatter(mask, flat)


def padded(rows: Sequence[Any], field: str, mask: Tensor) -> Tensor | None:
    """A per-token field of the rows as a float tensor [N, T], zero where the mask is False; None where no row has it."""
    values = [getattr(row, field) for row in rows]
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        raise DataError(f"some data have {field} and some have not; give it for all or for none")
    if any(len(value) != len(row.tokens) for value, row in zip(values, rows, strict=True)):
        raise DataError(f"{field} must have one number for each of a datum's tokens")
    return spread_over(mask, torch.tensor([x for value in values for x in value], dtype=torch.float32, device=mask.device))


def microbatches(data: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Indices of `data`, longest first, cut so that rows x longest stays within `tokens`."""
    lengths = [len(row.prompt) + len(row.tokens) for row in data]
    batch: list[int] = []
    for i in sorted(range(len(data)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def split_evenly(data: Sequence[Item], parts: int) -> list[Sequence[Item]]:
    """`data` in at most `parts` parts whose sizes differ by one at most, none empty; a group's neighbours stay together."""
    parts = max(1, min(parts, len(data)))
    return [data[i * len(data) // parts : (i + 1) * len(data) // parts] for i in range(parts)]


def is_lora(model: nn.Module) -> bool:
    """Whether peft has put adapters around the model."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def base_model(model: Any) -> Any:
    """The transformers model, adapters within it active, of a model that peft may have wrapped."""
    return model.get_base_model() if is_lora(model) else model

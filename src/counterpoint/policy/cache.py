"""What a model has read of rows that are sampled together: each prompt's keys and values once, and those of what was sampled.

Sampling on a CPU or a small GPU is a matter of the bytes that attention reads. Completions of one prompt share its keys and
values, so `Grouped` lets them read these together, as one product, and keeps only what was sampled row by row, which needs no
padding either. A decoder takes part if it attends through transformers' attention interface; `can_group` finds out by comparing.
`Separate`, in which every row has all of its keys for itself, takes any decoder.

Axis suffixes: `_R` rows, `_P` prompts, `_H` heads of keys, `_G` heads of queries that share one, `_Q` queries of a prompt,
`_L` tokens of the prompts, padded on the left to the longest, `_T` tokens sampled so far, `_D` width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from counterpoint.policy.packing import attending, beyond_plain, only_attends, window_of

NAME = "counterpoint_grouped"
"""Of the attention function, in transformers' registry."""


class GrowingLayer(DynamicLayer):
    """A cache layer that writes into spare room and doubles it when it is used up, instead of copying all of it each token."""

    used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.used + key_states.shape[-2]
        if not self.is_initialized or end > self._room_keys.shape[-2]:
            self._grow(key_states, value_states, room=max(2 * end, 32))
        self._room_keys[..., self.used : end, :] = key_states
        self._room_values[..., self.used : end, :] = value_states
        self.used = end
        held = self.held()
        self.keys, self.values = held
        return held

    def _grow(self, key_states: Tensor, value_states: Tensor, room: int) -> None:
        fresh = not self.is_initialized
        old_keys, old_values = (None, None) if fresh else (self.keys, self.values)
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        # keys and values may differ in width (multi-head latent attention)
        self._room_keys = key_states.new_empty(*key_states.shape[:-2], room, key_states.shape[-1])
        self._room_values = value_states.new_empty(*value_states.shape[:-2], room, value_states.shape[-1])
        if old_keys is not None and old_values is not None:
            self._room_keys[..., : self.used, :] = old_keys
            self._room_values[..., : self.used, :] = old_values

    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values, without the spare room."""
        return self._room_keys[..., : self.used, :], self._room_values[..., : self.used, :]

    def get_seq_length(self) -> int:
        return self.used

    def select_rows(self, rows: Tensor) -> None:
        """Keep (or repeat) rows of the batch, in the order of `rows`."""
        self._room_keys = self._room_keys.index_select(0, rows)
        self._room_values = self._room_values.index_select(0, rows)
        self.keys, self.values = self.held()


@dataclass(frozen=True)
class Prefilled:
    """Prompts that a model has read."""

    logits_P_V: Tensor
    """Of the token after each prompt."""
    layers: list[GrowingLayer]
    mask_P_L: Tensor
    """int: 1 where a prompt has a token."""
    positions_P: Tensor
    """Of each prompt's last token."""


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Prompts, left-padded, through the model once."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.as_tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    layers = empty_layers(model)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=Cache(layers=list(layers)),
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    return Prefilled(logits, layers, mask, positions[:, -1])


def empty_layers(model: PreTrainedModel) -> list[GrowingLayer]:
    """Every layer keeps all keys; a sliding window is a matter of the mask alone."""
    return [GrowingLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]


class Separate:
    """Rows that each have their prompt's keys and values for themselves. Prompt by prompt, `n` rows each."""

    def __init__(self, model: PreTrainedModel, prompts: Prefilled, n: int):
        self.model, self.layers = model, prompts.layers
        self.mask, self.positions = prompts.mask_P_L, prompts.positions_P
        self.keep(torch.arange(len(self.positions), device=model.device).repeat_interleave(n))
        self.padded = not bool(self.mask.all())

    def read(self, tokens_R: Tensor) -> Tensor:
        """The rows' next tokens; logits [R, V] of those after them."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens_R), 1)], dim=1)
        self.positions = self.positions + 1
        return self.model(
            input_ids=tokens_R[:, None],
            attention_mask=self.mask if self.padded else None,
            position_ids=self.positions[:, None],
            past_key_values=Cache(layers=list(self.layers)),
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        for layer in self.layers:
            layer.select_rows(rows)


class Grouped:
    """Rows that share their prompts' keys and values. Prompt by prompt, `n` rows each."""

    def __init__(self, model: PreTrainedModel, prompts: Prefilled, n: int):
        self.model, self.layers = model, empty_layers(model)
        self.prompts = [layer.held() for layer in prompts.layers]
        """Keys and values [P, H, L, D] of each layer."""
        self.absent_P_L = None if bool(prompts.mask_P_L.all()) else prompts.mask_P_L == 0
        self.prompt_R = torch.arange(len(prompts.positions_P), device=model.device).repeat_interleave(n)
        self.positions = prompts.positions_P[self.prompt_R]
        self.attended = 0
        """Layers that have attended."""
        self._arrange()

    def read(self, tokens_R: Tensor) -> Tensor:
        """The rows' next tokens; logits [R, V] of those after them."""
        self.positions = self.positions + 1
        with attending(self.model, NAME):
            return self.model(
                input_ids=tokens_R[:, None],
                attention_mask=None,
                position_ids=self.positions[:, None],
                past_key_values=Cache(layers=list(self.layers)),
                use_cache=True,
                logits_to_keep=1,
                grouped=self,
            ).logits[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone; in order, so that a prompt's stay side by side."""
        self.positions, self.prompt_R = self.positions[rows], self.prompt_R[rows]
        for layer in self.layers:
            if layer.is_initialized:
                layer.select_rows(rows)
        self._arrange()

    def _arrange(self) -> None:
        """Drop prompts that have no rows left, and give each row a place among as many for every prompt."""
        counts = torch.bincount(self.prompt_R)
        left = counts.nonzero().flatten()
        if len(left) < len(self.prompts[0][0]):
            self.prompts = [(keys.index_select(0, left), values.index_select(0, left)) for keys, values in self.prompts]
            self.absent_P_L = None if self.absent_P_L is None else self.absent_P_L[left]
            self.prompt_R = ((counts > 0).cumsum(0) - 1)[self.prompt_R]
            counts = counts[left]
        first = counts.cumsum(0) - counts
        self.most = int(counts.max())
        place_R = torch.arange(len(self.prompt_R), device=counts.device) - first[self.prompt_R] + self.most * self.prompt_R
        self.place_R = None if len(place_R) == len(counts) * self.most else place_R

    def by_prompt(self, states_R_H_G_D: Tensor) -> Tensor:
        """[P, H, Q, D]: the rows of a prompt beside one another; zeros for those that have ended."""
        _, heads, each, width = states_R_H_G_D.shape
        states, count = states_R_H_G_D, len(self.prompts[0][0])
        if self.place_R is not None:
            spread = states.new_zeros(count * self.most, heads, each, width)
            states = spread.index_copy_(0, self.place_R, states)
        return states.reshape(count, self.most, heads, each, width).transpose(1, 2).reshape(count, heads, -1, width)

    def by_row(self, states_P_H_Q_D: Tensor) -> Tensor:
        """[R, H, G, D]: the inverse."""
        count, heads, _, width = states_P_H_Q_D.shape
        states = states_P_H_Q_D.reshape(count, heads, self.most, -1, width).transpose(1, 2).flatten(0, 1)
        return states if self.place_R is None else states.index_select(0, self.place_R)


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    grouped: Grouped | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one token a row, for transformers' attention interface: query [R, heads, 1, D]; key and value, of what was
    sampled, [R, H, T, D]; to these and to the row's prompt. [R, 1, heads, D].

    Raises `NotImplementedError` where a model asks for more than plain attention.
    """
    strange = beyond_plain(module, attention_mask, others)
    if grouped is None or strange or query.shape[2] != 1 or dropout:
        raise NotImplementedError(f"grouped attention does not do {', '.join(strange) or 'this'}")
    grouped.attended += 1
    keys_P_H_L_D, values_P_H_L_D = grouped.prompts[module.layer_idx]  # pyright: ignore[reportArgumentType, reportCallIssue]
    rows, heads, _, width = query.shape
    query = (query * (width**-0.5 if scaling is None else scaling)).view(rows, key.shape[1], -1, width)
    to_prompt = grouped.by_prompt(query) @ keys_P_H_L_D.transpose(-1, -2)
    if grouped.absent_P_L is not None:
        to_prompt = to_prompt.masked_fill(grouped.absent_P_L[:, None, None, :], -torch.inf)
    scores = torch.cat([grouped.by_row(to_prompt), query @ key.transpose(-1, -2)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    of_prompt, of_own = weights.split([to_prompt.shape[-1], key.shape[2]], dim=-1)
    result = of_own @ value + grouped.by_row(grouped.by_prompt(of_prompt) @ values_P_H_L_D)
    return result.reshape(rows, heads, 1, -1).transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(NAME, grouped_attention)


@torch.inference_mode()
def can_group(model: PreTrainedModel) -> bool:
    """Whether the model makes of grouped rows what it makes of separate ones, every layer by grouped attention."""
    prompts, tokens = [(2, 3, 4), (5, 4)], torch.tensor([[5, 6], [7, 8], [4, 3], [6, 2]], device=model.device).T
    if not only_attends(model) or not fits_window(model, 3 + len(tokens)):
        return False
    training = model.training
    model.eval()
    try:
        separate, grouped = Separate(model, prefill(model, prompts), 2), Grouped(model, prefill(model, prompts), 2)
        expected, found = (torch.stack([rows.read(token) for token in tokens]).float() for rows in (separate, grouped))
    except Exception:  # noqa: BLE001  (it attends in a way of its own, and says so in any way it likes)
        return False
    finally:
        model.train(training)
    if grouped.attended < len(tokens) * len(grouped.layers):
        return False
    return bool((found - expected).norm() <= (1e-3 if model.dtype == torch.float32 else 0.05) * expected.norm())


def fits_window(model: PreTrainedModel, tokens: int) -> bool:
    """Whether every layer attends to all of so many tokens."""
    return tokens <= (window_of(model) or tokens)

"""Sequences without padding: a prompt that several completions share is computed once, and every other token too.

All tokens stand in one row, so that whatever a decoder does to a token alone, which is nearly all of its arithmetic, is done for
tokens that count. Attention alone looks across tokens: it gathers each sequence's queries and keys, pads them to others of like
length, and puts the results back. A decoder takes part if it attends through transformers' attention interface and takes
positions; `can_pack` finds out by comparing.

Axis suffixes: `_S` tokens in the row, `_R` sequences of a bucket, `_Q` and `_K` their queries and keys, padded to the longest.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from counterpoint.errors import DataError

NAME = "counterpoint_packed"
"""Of the attention function, in transformers' registry."""
LIKE = 0.75
"""Sequences are of like length, and attend together, if none is shorter than this share of the longest."""
NEAR = 16
"""Or if none has so many tokens fewer."""
PROMPTS_LIKE, PROMPTS_NEAR = 0.5, 256
"""The same of their prompts, whose padding costs memory but little arithmetic."""
GATHERED = 4
"""Attention gathers each completion's keys, its prompt's among them, for itself: so many times a batch's tokens at most."""
ATTENDING = {"full_attention", "sliding_attention", "chunked_attention"}
"""Types of layers that mix tokens by attention alone, as configurations name them."""


class Row(Protocol):
    """One sequence: what stands before it, and the tokens that something is asked about."""

    @property
    def prompt(self) -> tuple[int, ...]: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Bucket:
    """Sequences of like length that attend together."""

    queries_R_Q: Tensor
    """Where in the row they are; padded with any place."""
    keys_R_K: Tensor | None
    """What they attend to, a shared prompt first; None: the queries' own places, each to those up to it."""
    allowed_R_Q_K: Tensor | None
    """bool; None with `keys_R_K`."""


@dataclass(frozen=True)
class Packed:
    """Sequences in one row, as a decoder takes them."""

    ids_S: Tensor
    positions_S: Tensor
    """Each token's place in its own sequence."""
    buckets: tuple[Bucket, ...]
    places_S: Tensor
    """Where each token's result is in the buckets' results, one after the other."""
    predicts_N: Tensor
    """Places of the tokens that predict the rows' `tokens`, in their order. A prompt's last one is there once a completion."""
    targets_N: Tensor
    """The tokens that they predict."""
    mask: Tensor
    """bool [rows, longest]: where a row has tokens."""
    attended: list[nn.Module] = field(default_factory=list)
    """Layers that have attended to it, one after the other."""


def pack(rows: Sequence[Row], device: torch.device) -> Packed:
    """The rows as one. A completion's last token predicts nothing, and is left out."""
    ids: list[int] = []
    positions: list[int] = []
    predicts: list[list[int]] = [[] for _ in rows]
    whole: list[range] = []
    """Sequences that share nothing: their places."""
    parts: list[tuple[range, range]] = []
    """Completions after a shared prompt: the prompt's places and their own."""
    for prompt, members in by_prompt(rows).items():
        if len(members) == 1:
            tokens = prompt + rows[members[0]].tokens[:-1]
            whole.append(range(len(ids), len(ids) + len(tokens)))
            predicts[members[0]] = list(whole[-1][len(prompt) - 1 :])[: len(rows[members[0]].tokens)]
            ids += tokens
            positions += range(len(tokens))
            continue
        shared = range(len(ids), len(ids) + len(prompt))
        whole.append(shared)
        ids += prompt
        positions += range(len(prompt))
        for member in members:
            tokens = rows[member].tokens[:-1]
            own = range(len(ids), len(ids) + len(tokens))
            predicts[member] = [shared[-1], *own][: len(rows[member].tokens)]
            if tokens:
                parts.append((shared, own))
                ids += tokens
                positions += range(len(prompt), len(prompt) + len(tokens))
    buckets = [alone(group) for group in of_like_length(whole, len)]
    for group in of_like_length(parts, lambda part: len(part[0]), PROMPTS_LIKE, PROMPTS_NEAR):
        in_order = sorted(group, key=lambda part: part[1].start)
        buckets += [after_prompts(alike) for alike in of_like_length(in_order, lambda part: len(part[1]))]
    places = torch.empty(len(ids), dtype=torch.long)
    start = 0
    for bucket, lengths in buckets:
        size = bucket.queries_R_Q.shape
        real = torch.arange(size[1]) < lengths[:, None]
        places[bucket.queries_R_Q[real]] = start + torch.arange(size.numel()).view(size)[real]
        start += size.numel()
    lengths = torch.tensor([len(row.tokens) for row in rows])
    return Packed(
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        tuple(moved(bucket, device) for bucket, _ in buckets),
        places.to(device),
        torch.tensor([place for of_row in predicts for place in of_row], dtype=torch.long, device=device),
        torch.tensor([token for row in rows for token in row.tokens], dtype=torch.long, device=device),
        (torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
    )


def by_prompt(rows: Sequence[Row]) -> dict[tuple[int, ...], list[int]]:
    """Indices of the rows that have a prompt in common. Raises `DataError` for a row without one."""
    members: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        if not row.prompt:
            raise DataError("a datum has no prompt; its first token needs one to be predicted from")
        members.setdefault(row.prompt, []).append(index)
    return members


def packed_batches(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Indices of rows, those of a prompt together, cut so that `pack` makes no more than `tokens` of them (one row at least).

    Nor more than `GATHERED` times as many keys: many short completions of a long prompt are few tokens, and much attention.
    """
    batch: list[int] = []
    size = keys = 0
    for prompt, members in by_prompt(rows).items():
        shared = False
        for member in members:
            own = len(rows[member].tokens[:-1])
            grows = own + (0 if shared else len(prompt))
            if batch and (size + grows > tokens or keys + len(prompt) + own > GATHERED * tokens):
                yield batch
                batch, size, keys = [], 0, 0
                grows = own + len(prompt)
            size += grows
            keys += len(prompt) + own
            shared = True
            batch.append(member)
    if batch:
        yield batch


def of_like_length(items: Sequence[Any], length: Any, like: float = LIKE, near: int = NEAR) -> Iterator[list[Any]]:
    """The items, longest first, in groups of like length."""
    group: list[Any] = []
    for item in sorted(items, key=length, reverse=True):
        if group and length(item) < min(like * length(group[0]), length(group[0]) - near):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def alone(sequences: Sequence[range]) -> tuple[Bucket, Tensor]:
    """Sequences that attend to themselves alone, and their lengths. Padding comes after every token that counts."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    return Bucket(places_of(sequences, int(lengths.max())), None, None), lengths


def after_prompts(parts: Sequence[tuple[range, range]]) -> tuple[Bucket, Tensor]:
    """Completions that attend to a prompt that is computed elsewhere, and to themselves; and their lengths."""
    prompts, own = [prompt for prompt, _ in parts], [own for _, own in parts]
    before, lengths = torch.tensor([len(p) for p in prompts]), torch.tensor([len(o) for o in own])
    longest, queries = int(before.max()), places_of(own, int(lengths.max()))
    keys = torch.cat([places_of(prompts, longest), queries], dim=1)
    in_prompt = (torch.arange(longest) < before[:, None])[:, None, :].expand(-1, queries.shape[1], -1)
    up_to_it = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool).tril().expand(len(parts), -1, -1)
    allowed = torch.cat([in_prompt, up_to_it], dim=-1)
    if bool((before == longest).all()):
        allowed = allowed[:1]
    return Bucket(queries, keys, allowed), lengths


def places_of(sequences: Sequence[range], longest: int) -> Tensor:
    """[R, longest]: after its own places, a sequence's first one again."""
    return torch.tensor([[*sequence, *[sequence[0]] * (longest - len(sequence))] for sequence in sequences])


def moved(bucket: Bucket, device: torch.device) -> Bucket:
    keys, allowed = bucket.keys_R_K, bucket.allowed_R_Q_K
    return Bucket(
        bucket.queries_R_Q.to(device),
        None if keys is None else keys.to(device),
        None if allowed is None else allowed.to(device),
    )


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed: Packed | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of tokens in one row, [1, heads, S, width] each, for transformers' attention interface; [1, S, heads, width].

    Raises `NotImplementedError` where a model asks for more than plain causal attention: with any tensor of its own (a bias,
    sinks, chosen keys), which need not show in the few tokens that a model is tried on.
    """
    strange = beyond_plain(module, attention_mask, others)
    if packed is None or strange or query.shape[0] != 1:
        raise NotImplementedError(f"packed attention does not do {', '.join(strange) or 'this'}")
    packed.attended.append(module)
    query_S, key_S, value_S = (states[0].transpose(0, 1) for states in (query, key, value))
    groups = query_S.shape[1] // key_S.shape[1]
    results = []
    for bucket in packed.buckets:
        keys = bucket.queries_R_Q if bucket.keys_R_K is None else bucket.keys_R_K
        allowed = bucket.allowed_R_Q_K
        result = scaled_dot_product_attention(
            gathered(query_S, bucket.queries_R_Q),
            gathered(key_S, keys, groups),
            gathered(value_S, keys, groups),
            attn_mask=None if allowed is None else allowed[:, None],
            dropout_p=dropout,
            is_causal=allowed is None,
            scale=scaling,
        )
        results.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(results).index_select(0, packed.places_S)[None], None


def beyond_plain(module: nn.Module, attention_mask: Tensor | None, others: dict[str, Any]) -> list[str]:
    """What a model asks of an attention function besides plain causal attention."""
    own = {name: value for name, value in others.items() if name not in ("position_ids", "cache_position")}
    strange = [name for name, value in own.items() if isinstance(value, Tensor) or (name == "softcap" and value is not None)]
    if attention_mask is not None:
        strange.append("a mask of the model's own")
    if own.get("is_causal") is False or not getattr(module, "is_causal", True):
        strange.append("attention to what comes after")
    if getattr(module, "attn_temperature_tuning", False):  # Llama 4's queries grow with their place in the row, from the 8,192nd
        strange.append("attn_temperature_tuning")
    return strange


def gathered(states_S: Tensor, places: Tensor, groups: int = 1) -> Tensor:
    """States [S, heads, width] at places [R, L], each head so many times: [R, heads, L, width]."""
    states = states_S.index_select(0, places.flatten()).view(*places.shape, *states_S.shape[1:]).transpose(1, 2)
    return states.repeat_interleave(groups, dim=1) if groups > 1 else states


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)


@contextmanager
def attending(model: PreTrainedModel, name: str) -> Iterator[None]:
    """Within it, the model attends by the attention function of this name."""
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def window_of(model: PreTrainedModel) -> int | None:
    """Tokens that some layer attends to at most; None: all."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window), default=None)


def only_attends(model: PreTrainedModel) -> bool:
    """Whether no layer says that it mixes tokens in another way: a new model's convolution is too weak to show in a trial."""
    return set(getattr(model.config.get_text_config(), "layer_types", None) or ()) <= ATTENDING

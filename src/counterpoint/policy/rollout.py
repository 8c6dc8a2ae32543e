"""Sampling from a transformers causal model: one prefill a prompt, one model call a token, no work for rows that ended.

What is drawn depends on the seed, the prompt's place in the call and the model alone, not on how prompts were batched or padded:
every row gets its own uniform numbers, and a token is read off the inverse of its cumulative distribution.
"""

from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from counterpoint.errors import ModelError
from counterpoint.policy.cache import Grouped, Separate, can_group, fits_window, prefill
from counterpoint.policy.packing import ATTENDING
from counterpoint.policy.repacked import repacked
from counterpoint.rl.types import Completion, SamplingParams, StopReason

COMPACT_SHARE = 8
"""Ended rows leave the batch once they are 1/8 of it: copying the cache for each one would cost more than it saves."""
BLOCK = 512
"""Tokens of a large vocabulary whose probabilities are summed before they are cumulated."""
NOT_TEXT = "\N{REPLACEMENT CHARACTER}"
"""What bytes decode to that are not whole characters."""
OnTokens = Callable[[list[int], list[int], list[float]], None]
"""Hears of each step: the rows (prompt · n + sample) that have not ended, their new tokens, the log-probabilities of these, which
are untempered, as servers usually report them. What it raises ends the sampling."""


class Sampler(Protocol):
    """An engine that samples from a policy's weights as they are."""

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int, on_tokens: OnTokens | None = None
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; see `Policy.sample`."""
        ...


class StopStrings:
    """Finds stop strings at the end of token rows; decodes only rows whose newest token could complete one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]):
        self.tokenizer = tokenizer
        self.stops = tuple(stops)
        # a stop string spans at most one token a byte, and one more that it may start within
        self.window = max(len(stop.encode()) for stop in self.stops) + 1
        # tokens are looked at as they are drawn: few of a vocabulary are, and a server is given new stop strings all day
        self.may_end = cache(self._may_end)

    def _may_end(self, token: int) -> bool:
        """Whether a row could end in a stop string by this token."""
        if token >= len(self.tokenizer):  # the model's vocabulary may be padded
            return False
        text = str(self.tokenizer.decode([token]))
        # a token that is not whole characters may complete one of a stop string
        return any(
            stop in text
            or any(text.startswith(stop[-size:]) for size in range(1, len(stop)))
            or (NOT_TEXT in text and not stop.isascii())
            for stop in self.stops
        )

    def ended(self, tokens: Tensor, newest: Tensor) -> Tensor:
        """Which rows of `tokens` [rows, T] now end in (or just passed) a stop string; `newest` [rows] are their last tokens."""
        ended = torch.zeros(len(newest), dtype=torch.bool)
        for row in [row for row, token in enumerate(newest.tolist()) if self.may_end(token)]:
            tail = self.tokenizer.decode(tokens[row, -self.window :])
            ended[row] = any(stop in tail for stop in self.stops)
        return ended.to(newest.device)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first stop string in it."""
    ends = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(ends)] if ends else text


def draw(logits: Tensor, uniforms: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """One token a row from logits [rows, V] and uniforms [rows] in [0, 1).

    Returns token ids [rows] and their log-probabilities [rows] under the tempered, untruncated distribution (greedy: untempered).
    """
    logits = logits.float()
    if params.temperature == 0:
        token = logits.argmax(-1)
        return token, logprobs_of(logits, token)
    if params.temperature != 1:
        logits = logits / params.temperature
    most = logits.amax(-1, keepdim=True)
    weights = (logits - most).exp_()
    token = invert(truncate(weights, params.top_p, params.top_k), uniforms)
    return token, (logits.gather(-1, token[:, None]) - most)[:, 0] - weights.sum(-1).log()


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The index [rows] at which the cumulated weights [rows, N] pass a share of their sum; `uniforms` [rows] in [0, 1)."""
    size = weights.shape[-1]
    if size <= 8 * BLOCK:
        return passed(weights.cumsum(-1), uniforms)[0]
    # sums of blocks first: cumulating a large vocabulary takes as long as all else together
    whole = size - size % BLOCK
    blocks = torch.cat([weights[:, :whole].unflatten(-1, (-1, BLOCK)).sum(-1), weights[:, whole:].sum(-1, keepdim=True)], dim=-1)
    block, rest = passed(blocks.cumsum(-1), uniforms)
    places = BLOCK * block[:, None] + torch.arange(BLOCK, device=weights.device)
    within = weights.gather(-1, places.clamp(max=size - 1)).where(places < size, 0.0)
    return BLOCK * block + passed(within.cumsum(-1), rest)[0]


def passed(cumulative: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where the share of the last cumulative value is passed, [rows], and how far past the entry before it, [rows] in [0, 1]."""
    threshold = uniforms[:, None].clamp(max=1 - 2**-24) * cumulative[:, -1:]
    # right=True passes over entries without weight, whose cumulative value equals their neighbour's
    index = torch.searchsorted(cumulative, threshold, right=True).clamp(max=cumulative.shape[-1] - 1)
    before = cumulative.gather(-1, (index - 1).clamp(min=0)).where(index > 0, 0.0)
    return index[:, 0], ((threshold - before) / (cumulative.gather(-1, index) - before))[:, 0].clamp(0, 1)


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [rows] of tokens [rows] under logits [rows, V], as they are."""
    return logits.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]


def entropy(logits: Tensor, temperature: float) -> Tensor:
    """Entropy in nats [rows] of the tempered, untruncated distribution of logits [rows, V]; of the untempered one if greedy."""
    logprobs = (logits.float() / (temperature or 1.0)).log_softmax(-1)
    return torch.special.entr(logprobs.exp()).sum(-1)


def truncate(probabilities: Tensor, top_p: float, top_k: int) -> Tensor:
    """Zero all but the `top_k` likeliest tokens and, of those, the smallest set that holds `top_p`; [rows, V].

    `probabilities` may be weights that are proportional to them.
    """
    if top_k:
        least = probabilities.topk(min(top_k, probabilities.shape[-1]), dim=-1).values[:, -1:]
        probabilities = probabilities.where(probabilities >= least, 0.0)
    if top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.where(before < top_p * ordered.sum(-1, keepdim=True), 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered)
    return probabilities


class TransformersSampler:
    """Samples from a transformers model in this process. It never changes the model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tokens_per_batch: int):
        check_cache(model)
        self.model = model
        self.tokenizer = tokenizer
        self.tokens_per_batch = tokens_per_batch
        self.groups = can_group(model)
        self.stop_strings = lru_cache(maxsize=64)(partial(StopStrings, tokenizer))
        self.end_tokens = torch.tensor(sorted(end_tokens(model, tokenizer)), dtype=torch.long, device=model.device)

    @torch.inference_mode()
    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int, on_tokens: OnTokens | None = None
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; see `Policy.sample`. `on_tokens` hears what is drawn and changes nothing of it."""
        generator = torch.Generator().manual_seed(seed)
        uniforms = torch.rand(len(prompts), n, params.max_tokens, generator=generator)
        completions: list[list[Completion]] = [[] for _ in prompts]
        training, self.model.training = self.model.training, False
        self.model.eval()
        try:
            with repacked(self.model, len(prompts) * n, params.max_tokens):
                for batch in self._batches(prompts, n, params.max_tokens):
                    heard = by_place(on_tokens, batch, n) if on_tokens is not None else None
                    drawn = self._sample_batch([prompts[i] for i in batch], n, params, uniforms[batch], heard)
                    for i, group in zip(batch, drawn, strict=True):
                        completions[i] = group
        finally:
            self.model.train(training)
        return completions

    def _batches(self, prompts: Sequence[Sequence[int]], n: int, max_tokens: int) -> list[list[int]]:
        """Prompts of like length together, each batch within the token budget (one prompt at least)."""
        batches: list[list[int]] = []
        for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
            longest = len(prompts[batches[-1][0]]) if batches else 0
            if not batches or (len(batches[-1]) + 1) * n * (longest + max_tokens) > self.tokens_per_batch:
                batches.append([])
            batches[-1].append(i)
        return batches

    def _sample_batch(
        self, prompts: list[Sequence[int]], n: int, params: SamplingParams, uniforms: Tensor, on_tokens: OnTokens | None
    ) -> list[list[Completion]]:
        device = self.model.device
        uniforms = uniforms.flatten(0, 1).to(device)
        total = len(prompts) * n
        tokens = torch.zeros(total, params.max_tokens, dtype=torch.long, device=device)
        logprobs = torch.zeros(total, params.max_tokens, device=device)
        entropies = torch.zeros_like(logprobs) if params.entropies else None
        lengths = torch.full((total,), params.max_tokens, device=device)
        stopped = torch.zeros(total, dtype=torch.bool, device=device)
        ended_at_end = torch.zeros(total, dtype=torch.bool, device=device)

        read = prefill(self.model, prompts)
        logits = read.logits_P_V.repeat_interleave(n, dim=0)
        grouped = self.groups and fits_window(self.model, read.mask_P_L.shape[1] + params.max_tokens)
        past = (Grouped if grouped else Separate)(self.model, read, n)
        rows = torch.arange(total, device=device)  # the rows still being computed
        running = torch.ones(total, dtype=torch.bool, device=device)  # of those, the ones that have not ended

        for t in range(params.max_tokens):
            token, logprob = draw(logits, uniforms[rows, t], params)
            tokens[rows, t], logprobs[rows, t] = token, logprob
            if entropies is not None:
                entropies[rows, t] = entropy(logits, params.temperature)
            if on_tokens is not None:
                of_model = logprobs_of(logits[running], token[running])
                on_tokens(rows[running].tolist(), token[running].tolist(), of_model.tolist())
            at_end = running & torch.isin(token, self.end_tokens)
            at_stop = running & ~at_end & self._at_stop(tokens[rows, : t + 1], token, params.stop)
            ended = at_end | at_stop
            lengths[rows[ended]] = t + 1
            ended_at_end[rows[at_end]] = True
            stopped[rows[at_stop]] = True
            running = running & ~ended
            left = int(running.sum())
            if left == 0 or t + 1 == params.max_tokens:
                break
            if (len(rows) - left) * COMPACT_SHARE >= len(rows):
                keep = running.nonzero().flatten()
                rows, running, token = rows[keep], running[keep], token[keep]
                past.keep(keep)
            logits = past.read(token)

        return self._completions(prompts, n, params, tokens, logprobs, entropies, lengths, stopped, ended_at_end)

    def _at_stop(self, tokens: Tensor, newest: Tensor, stops: tuple[str, ...]) -> Tensor:
        if not stops:
            return torch.zeros_like(newest, dtype=torch.bool)
        return self.stop_strings(stops).ended(tokens, newest)

    def _completions(
        self,
        prompts: list[Sequence[int]],
        n: int,
        params: SamplingParams,
        tokens: Tensor,
        logprobs: Tensor,
        entropies: Tensor | None,
        lengths: Tensor,
        stopped: Tensor,
        ended_at_end: Tensor,
    ) -> list[list[Completion]]:
        token_rows, logprob_rows, counts = tokens.tolist(), logprobs.tolist(), lengths.tolist()
        entropy_rows = entropies.tolist() if entropies is not None else None
        token_rows = [row[:count] for row, count in zip(token_rows, counts, strict=True)]
        texts: list[str] = list(self.tokenizer.batch_decode(token_rows, skip_special_tokens=True))
        groups: list[list[Completion]] = []
        for p, prompt in enumerate(prompts):
            group: list[Completion] = []
            for row in range(p * n, p * n + n):
                stop: StopReason = "stop" if stopped[row] else "end" if ended_at_end[row] else "length"
                text = cut_at_stop(texts[row], params.stop) if stop == "stop" else texts[row]
                group.append(
                    Completion(
                        prompt=tuple(prompt),
                        tokens=tuple(token_rows[row]),
                        logprobs=tuple(logprob_rows[row][: counts[row]]),
                        text=text,
                        stop=stop,
                        entropies=tuple(entropy_rows[row][: counts[row]]) if entropy_rows else None,
                    )
                )
            groups.append(group)
        return groups


def by_place(on_tokens: OnTokens, batch: Sequence[int], n: int) -> OnTokens:
    """`on_tokens` for one batch: `batch` says which prompts of the call are in it."""

    def heard(rows: list[int], tokens: list[int], logprobs: list[float]) -> None:
        on_tokens([batch[row // n] * n + row % n for row in rows], tokens, logprobs)

    return heard


def check_cache(model: PreTrainedModel) -> None:
    """Raise `ModelError` for a model whose layers keep something else than keys and values of their own."""
    config = model.config.get_text_config()
    strange: list[str] = sorted(set(getattr(config, "layer_types", None) or ()) - ATTENDING)
    if getattr(config, "num_kv_shared_layers", 0):
        strange.append("layers that share keys and values")
    if strange:
        raise ModelError(
            f"{type(model).__name__} has {', '.join(strange)}, which the sampler's cache does not support; "
            "use a model in which every layer is plain, sliding or chunked attention"
        )


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token id that ends a sequence, by the generation config and by the tokenizer."""
    ids: set[int] = set()
    for source in (model.generation_config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        ids |= set(found) if isinstance(found, list | tuple) else {found} if found is not None else set()
    return {int(token) for token in ids}

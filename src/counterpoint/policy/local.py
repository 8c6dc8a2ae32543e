"""A transformers causal model in this process, on the CPU or one GPU, with full weights or LoRA."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from counterpoint.errors import DataError, ModelError
from counterpoint.policy.chunked import chunked_logprobs, rows_per_chunk
from counterpoint.policy.rollout import TransformersSampler
from counterpoint.rl.losses import LossSpec, aggregation_weights, token_losses
from counterpoint.rl.types import Completion, Datum, SamplingParams

OPTIMIZER_FILE = "optimizer.pt"


class LocalPolicy:
    """The five verbs of `Policy` over a transformers model.

    The optimizer is AdamW over float32 weights. A model in a smaller type keeps a float32 copy of what is trained, since a step
    of 1e-6 is lost in the rounding of bfloat16.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens_per_microbatch: int = 16_384,
        tokens_per_rollout: int = 262_144,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.tokens_per_microbatch = tokens_per_microbatch
        self.max_grad_norm = max_grad_norm
        self.sampler = TransformersSampler(base_model(model), tokenizer, tokens_per_rollout)
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.masters = [w if w.dtype == torch.float32 else w.detach().float().clone() for w in self.weights]
        self.optimizer = torch.optim.AdamW(self.masters, lr=0.0, weight_decay=weight_decay) if self.masters else None
        self._head_is_plain = head_is_plain(base_model(model))

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its completion may have together; a large number where the model names no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def sample(self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
        for prompt in prompts:
            if not prompt:
                raise DataError("a prompt has no tokens; check the prompt template")
            if len(prompt) + params.max_tokens > self.context_length:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens and {params.max_tokens} tokens to sample do not fit into the model's "
                    f"context of {self.context_length}; shorten one of them. The prompt begins: {self.decode(prompt[:40])!r}"
                )
        return self.sampler.sample(prompts, n, params, seed)

    def logprobs(self, data: Sequence[Datum], temperature: float = 1.0) -> list[tuple[float, ...]]:
        rows: list[tuple[float, ...]] = [()] * len(data)
        self.model.eval()
        with torch.no_grad():
            for batch in self._microbatches(data):
                logprobs, mask, _ = self._forward([data[i] for i in batch], temperature)
                for i, row, kept in zip(batch, logprobs, mask, strict=True):
                    rows[i] = tuple(row[kept].tolist())
        return rows

    def update(self, data: Sequence[Datum], loss: LossSpec, learning_rate: float, optimizer_steps: int = 1) -> dict[str, float]:
        if self.optimizer is None:
            raise ModelError("this policy has no weights to train; it was loaded frozen")
        if not data:
            raise DataError("there is no data to learn from; skip the update of a step without any")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        totals: dict[str, float] = {"skipped_updates": 0.0}
        parts = split_evenly(data, optimizer_steps)
        for part in parts:
            for name, value in self._optimizer_step(part, loss).items():
                totals[name] = totals.get(name, 0.0) + value
        taken = max(1.0, len(parts) - totals["skipped_updates"])
        tokens = max(1.0, totals.pop("tokens", 0.0))
        metrics = {name: totals[name] / taken for name in ("loss", "grad_norm") if name in totals}
        metrics["skipped_updates"] = totals["skipped_updates"]
        names = {
            "ratio_sum": "ratio",
            "clipped_tokens": "clipped_share",
            "old_kl_sum": "old_kl",
            "kl_sum": "kl",
        }
        names |= {"entropy_sum": "entropy", "logprob_sum": "logprob", "truncated_tokens": "truncated_share"}
        return metrics | {new: totals[old] / tokens for old, new in names.items() if old in totals}

    def _optimizer_step(self, data: Sequence[Datum], loss: LossSpec) -> dict[str, float]:
        """Accumulate the gradient over micro-batches of like length, clip it, step. A step that is not finite is not taken."""
        assert self.optimizer is not None
        self.model.train()
        lengths = torch.tensor([len(datum.tokens) for datum in data])
        weights = aggregation_weights(lengths, loss.aggregation, loss.constant_length).to(self.model.device)
        # on-policy: the sampler's log-probabilities are this model's own, so none are recomputed and the ratio is 1
        totals: dict[str, float] = {}
        for batch in self._microbatches(data):
            rows = [data[i] for i in batch]
            logprobs, mask, entropy = self._forward(rows, loss.temperature, with_entropy=True)
            losses, sums = token_losses(
                loss,
                logprobs,
                padded(rows, "old_logprobs", mask),
                padded(rows, "advantages", mask),  # pyright: ignore[reportArgumentType]
                mask,
                sampler_logprobs=padded(rows, "logprobs", mask),
                reference_logprobs=padded(rows, "reference_logprobs", mask),
            )
            value = (losses.sum(dim=1) * weights[batch]).sum()
            value.backward()
            self._gather_gradients()
            sums |= {
                "loss": value.detach(),
                "entropy_sum": entropy,
                "logprob_sum": logprobs.detach()[mask].sum(),
            }
            for name, number in sums.items():
                totals[name] = totals.get(name, 0.0) + float(number)
        norm = float(nn.utils.clip_grad_norm_(self.masters, self.max_grad_norm))
        if torch.isfinite(torch.tensor([norm, totals["loss"]])).all():
            self.optimizer.step()
            for master, weight in zip(self.masters, self.weights, strict=True):
                if master is not weight:
                    weight.data.copy_(master)
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

    def _microbatches(self, data: Sequence[Datum]) -> Iterator[list[int]]:
        """Indices of `data`, longest first, cut so that rows x longest stays within the token budget."""
        lengths = [len(datum.prompt) + len(datum.tokens) for datum in data]
        batch: list[int] = []
        for i in sorted(range(len(data)), key=lambda i: -lengths[i]):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self.tokens_per_microbatch:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _forward(self, rows: Sequence[Datum], temperature: float, with_entropy: bool = False) -> tuple[Tensor, Tensor, float]:
        """Log-probabilities [N, T] of the rows' tokens, where they stand [N, T], and the sum of entropies over them."""
        model, device = base_model(self.model), self.model.device
        longest = max(len(row.prompt) + len(row.tokens) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        attention = torch.zeros(len(rows), longest, dtype=torch.long)
        predicts = torch.zeros(len(rows), longest, dtype=torch.bool)  # positions whose next token is learned from
        for i, row in enumerate(rows):
            if not row.prompt:
                raise DataError("a datum has no prompt; its first token needs one to be predicted from")
            prompt, end = len(row.prompt), len(row.prompt) + len(row.tokens)
            ids[i, :end] = torch.tensor(row.prompt + row.tokens)
            attention[i, :end] = 1
            predicts[i, prompt - 1 : end - 1] = True
        targets = ids.roll(-1, dims=1)[predicts].to(device)
        ids, attention, predicts = ids.to(device), attention.to(device), predicts.to(device)
        # padding is on the right, where causal attention keeps it from every token that counts
        padding = attention if bool((attention == 0).any()) else None
        if self._head_is_plain:
            hidden = model.get_decoder()(input_ids=ids, attention_mask=padding, use_cache=False).last_hidden_state[predicts]
            head: Any = model.get_output_embeddings()
            vocabulary = head.weight.shape[0]
        else:
            hidden = model(input_ids=ids, attention_mask=padding, use_cache=False).logits[predicts]
            head, vocabulary = nn.Identity(), hidden.shape[-1]
        chunk = rows_per_chunk(vocabulary)
        entropy = 0.0
        if with_entropy:
            flat, entropies = chunked_logprobs(hidden, targets, head, chunk, temperature, with_entropy=True)
            entropy = float(entropies.sum())
        else:
            flat = chunked_logprobs(hidden, targets, head, chunk, temperature)
        lengths = torch.tensor([len(row.tokens) for row in rows], device=device)
        mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
        logprobs = torch.zeros(mask.shape, dtype=flat.dtype, device=device).masked_scatter(mask, flat)
        return logprobs, mask, entropy

    def reference(self) -> "LocalPolicy":
        """The policy as it is now, frozen. A LoRA policy shares its base weights: its reference is the model without adapters."""
        if is_lora(self.model):
            return AdapterOff(self)
        model = copy.deepcopy(self.model).requires_grad_(False)
        return LocalPolicy(model, self.tokenizer, tokens_per_microbatch=self.tokens_per_microbatch)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        if self.optimizer is not None:
            state = {"optimizer": self.optimizer.state_dict(), "masters": None}
            if any(master is not weight for master, weight in zip(self.masters, self.weights, strict=True)):
                state["masters"] = [master.detach() for master in self.masters]
            torch.save(state, directory / OPTIMIZER_FILE)

    def load(self, directory: Path) -> None:
        if is_lora(self.model):
            from peft import set_peft_model_state_dict
            from safetensors.torch import load_file

            set_peft_model_state_dict(self.model, load_file(directory / "adapter_model.safetensors"))  # pyright: ignore
        else:
            saved = AutoModelForCausalLM.from_pretrained(directory, dtype=self.model.dtype)
            self.model.load_state_dict(saved.state_dict())
        if self.optimizer is not None:
            state = torch.load(directory / OPTIMIZER_FILE, map_location=self.model.device, weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            with torch.no_grad():
                for i, (master, weight) in enumerate(zip(self.masters, self.weights, strict=True)):
                    if master is not weight:
                        master.copy_(state["masters"][i])


class AdapterOff(LocalPolicy):
    """A LoRA policy's base model: what it was before training."""

    def __init__(self, policy: LocalPolicy):
        self.__dict__ = dict(policy.__dict__)
        self.optimizer = None

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
        with self._off():
            return super().sample(*args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, float]:
        with self._off():
            return super()._forward(*args, **kwargs)

    def _off(self) -> AbstractContextManager[Any]:
        return self.model.disable_adapter()  # pyright: ignore[reportCallIssue]


def is_lora(model: nn.Module) -> bool:
    """Whether peft has put adapters around the model."""
    return hasattr(model, "peft_config") and hasattr(model, "disable_adapter")


def base_model(model: Any) -> Any:
    """The transformers model, adapters within it active, of a model that peft may have wrapped."""
    return model.get_base_model() if is_lora(model) else model


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether logits are the output embedding of the decoder's last hidden state and nothing more (no soft cap, no scale)."""
    decoder = model.get_decoder()
    head = model.get_output_embeddings()
    if decoder is None or head is None or decoder is model:
        return False
    training = model.training
    model.eval()
    # logits of a new model are so small that a soft cap would not show
    amplified = decoder.register_forward_hook(amplify)
    try:
        ids = torch.arange(2, 6, device=model.device)[None]
        plain = head(decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
        logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        amplified.remove()
        model.train(training)
    return plain.shape == logits.shape and torch.allclose(plain, logits, rtol=1e-3, atol=1e-4)


def amplify(_decoder: nn.Module, _inputs: Any, output: Any) -> Any:
    """A forward hook that makes hidden states a thousand times larger."""
    output.last_hidden_state = 1000 * output.last_hidden_state
    return output


def padded(rows: Sequence[Datum], field: str, mask: Tensor) -> Tensor | None:
    """A per-token field of the rows as a float tensor [N, T], zero where the mask is False; None where no row has it."""
    values = [getattr(row, field) for row in rows]
    if all(value is None for value in values):
        return None
    if any(value is None for value in values):
        raise DataError(f"some data have {field} and some have not; give it for all or for none")
    if any(len(value) != len(row.tokens) for value, row in zip(values, rows, strict=True)):
        raise DataError(f"{field} must have one number for each of a datum's tokens")
    flat = torch.tensor([x for value in values for x in value], dtype=torch.float32, device=mask.device)
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, flat)


def split_evenly(data: Sequence[Datum], parts: int) -> list[Sequence[Datum]]:
    """`data` in at most `parts` parts whose sizes differ by one at most, none empty; a group's neighbours stay together."""
    parts = max(1, min(parts, len(data)))
    return [data[i * len(data) // parts : (i + 1) * len(data) // parts] for i in range(parts)]

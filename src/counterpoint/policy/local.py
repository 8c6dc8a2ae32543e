"""A transformers causal model in this process, on the CPU or one GPU, with full weights or LoRA."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from counterpoint.errors import DataError, ModelError
from counterpoint.policy.logprobs import head_logprobs, logprobs_of_logits
from counterpoint.policy.rollout import OnTokens, Sampler, TransformersSampler
from counterpoint.policy.trainable import TrainableModel, base_model, is_lora, padded, spread_over
from counterpoint.rl.losses import LossSpec, aggregation_weights, token_losses
from counterpoint.rl.state import CHECKPOINTED
from counterpoint.rl.types import Completion, Datum, SamplingParams


class LocalPolicy(TrainableModel):
    """The five verbs of `Policy` over a transformers model."""

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
        self._head_is_plain = head_is_plain(base_model(model))
        super().__init__(
            model,
            list(model.parameters()),
            tokens_per_microbatch=tokens_per_microbatch,
            max_grad_norm=max_grad_norm,
            weight_decay=weight_decay,
        )
        self.tokenizer = tokenizer
        self.sampler: Sampler = TransformersSampler(base_model(model), tokenizer, tokens_per_rollout)
        self.tokens_per_rollout = tokens_per_rollout

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its completion may have together; a large number where the model names no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int, on_tokens: OnTokens | None = None
    ) -> list[list[Completion]]:
        for prompt in prompts:
            if not prompt:
                raise DataError("a prompt has no tokens; check the prompt template")
            if len(prompt) + params.max_tokens > self.context_length:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens and {params.max_tokens} tokens to sample do not fit into the model's "
                    f"context of {self.context_length}; shorten one of them. The prompt begins: {self.decode(prompt[:40])!r}"
                )
        return self.sampler.sample(prompts, n, params, seed, on_tokens)

    def logprobs(self, data: Sequence[Datum], temperature: float = 1.0) -> list[tuple[float, ...]]:
        return self._of_each_token(data, lambda rows: self._forward(rows, temperature)[:2])

    def update(self, data: Sequence[Datum], loss: LossSpec, learning_rate: float, optimizer_steps: int = 1) -> dict[str, float]:
        if self.optimizer is None:
            raise ModelError("this policy has no weights to train; it was loaded frozen")
        totals = self._take_steps(data, learning_rate, optimizer_steps, lambda part: self._step_on(part, loss))
        tokens = max(1.0, totals.pop("tokens", 0.0))
        metrics = {name: totals[name] for name in ("loss", "grad_norm", "skipped_updates", CHECKPOINTED) if name in totals}
        names = {
            "ratio_sum": "ratio",
            "clipped_tokens": "clipped_share",
            "old_kl_sum": "old_kl",
            "kl_sum": "kl",
        }
        names |= {"entropy_sum": "entropy", "logprob_sum": "logprob", "truncated_tokens": "truncated_share"}
        return metrics | {new: totals[old] / tokens for old, new in names.items() if old in totals}

    def _step_on(self, data: Sequence[Datum], loss: LossSpec) -> dict[str, float]:
        """One optimizer step on the loss over `data`."""
        lengths = torch.tensor([len(datum.tokens) for datum in data])
        weights = aggregation_weights(lengths, loss.aggregation, loss.constant_length).to(self.model.device)

        # on-policy: the sampler's log-probabilities are this model's own, so none are recomputed and the ratio is 1
        def loss_of(batch: list[int]) -> tuple[Tensor, dict[str, Tensor | float]]:
            rows = [data[i] for i in batch]
            logprobs, mask, entropies = self._forward(rows, loss.temperature)
            losses, sums = token_losses(
                loss,
                logprobs,
                padded(rows, "old_logprobs", mask),
                padded(rows, "advantages", mask),  # pyright: ignore[reportArgumentType]
                mask,
                sampler_logprobs=padded(rows, "logprobs", mask),
                reference_logprobs=padded(rows, "reference_logprobs", mask),
            )
            of_all = {"entropy_sum": entropies.sum(), "logprob_sum": logprobs.detach()[mask].sum()}
            return (losses.sum(dim=1) * weights[batch]).sum(), {**sums, **of_all}

        return self._optimizer_step(data, loss_of)

    def _forward(self, rows: Sequence[Datum], temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [N, T] of the rows' tokens, where they stand [N, T], and the entropies [n] there."""
        states, targets, mask = self._states(rows)
        if self._head_is_plain:
            head: Any = base_model(self.model).get_output_embeddings()
            logprobs, entropies = head_logprobs(states, head.weight, targets, temperature, head.bias)
        else:
            logprobs, entropies = logprobs_of_logits(states, targets, temperature)
        return spread_over(mask, logprobs), mask, entropies

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        """Hidden states, or logits where the head is not plain."""
        model = base_model(self.model)
        if self._head_is_plain:
            return model.get_decoder()(**inputs, use_cache=False).last_hidden_state
        return model(**inputs, use_cache=False).logits

    def reference(self) -> "LocalPolicy":
        """The policy as it is now, frozen. A LoRA policy shares its base weights: its reference is the model without adapters."""
        if is_lora(self.model):
            return AdapterOff(self)
        model = copy.deepcopy(self.model).requires_grad_(False)
        return LocalPolicy(model, self.tokenizer, tokens_per_microbatch=self.tokens_per_microbatch)

    def save(self, directory: Path) -> None:
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        self._save_optimizer(directory)

    def load(self, directory: Path) -> None:
        self._load_model(directory)
        self._load_optimizer(directory)


class AdapterOff(LocalPolicy):
    """A LoRA policy's base model: what it was before training."""

    def __init__(self, policy: LocalPolicy):
        self.__dict__ = dict(policy.__dict__)
        self.optimizer = None
        # the policy's own may have a copy of the weights, adapters merged
        self.sampler = TransformersSampler(base_model(self.model), self.tokenizer, self.tokens_per_rollout)

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Completion]]:
        with self._off():
            return super().sample(*args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        with self._off():
            return super()._forward(*args, **kwargs)

    def _off(self) -> AbstractContextManager[Any]:
        return self.model.disable_adapter()  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def head_is_plain(model: PreTrainedModel) -> bool:
    """Whether logits are a linear layer of the decoder's last hidden state and nothing more (no soft cap, scale or adapter)."""
    decoder = model.get_decoder()
    head = model.get_output_embeddings()
    if decoder is None or type(head) is not nn.Linear or decoder is model:
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

"""The critic of PPO: a transformers decoder with a head that says what a state is worth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from counterpoint.config import CriticConfig, ModelConfig
from counterpoint.errors import ModelError
from counterpoint.policy.load import load_model, load_tokenizer, with_adapters
from counterpoint.policy.trainable import TrainableModel, base_model, padded, spread_over
from counterpoint.rl.state import CHECKPOINTED
from counterpoint.rl.types import Datum
from counterpoint.rl.values import explained_variance, value_loss

HEAD_FILE = "value_head.safetensors"


@dataclass(frozen=True)
class ValueRow:
    """One sequence for a critic to learn from."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    returns: tuple[float, ...]
    """What the value before each token should have been."""
    old_values: tuple[float, ...]
    """What it was when the advantages were made."""


class Critic(TrainableModel):
    """Values of the states of a completion, on the scale of the rewards.

    The head is float32 whatever the decoder's type, and starts as zero: a new critic says 0 of everything, so the first
    advantages are the rewards themselves, not the noise of random weights over hidden states whose size differs between models.
    """

    def __init__(
        self,
        decoder: PreTrainedModel,
        *,
        tokens_per_microbatch: int = 16_384,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
    ):
        hidden_size = base_model(decoder).config.get_text_config().hidden_size
        self.head = nn.Linear(hidden_size, 1, dtype=torch.float32, device=decoder.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        super().__init__(
            decoder,
            [*decoder.parameters(), *self.head.parameters()],
            tokens_per_microbatch=tokens_per_microbatch,
            max_grad_norm=max_grad_norm,
            weight_decay=weight_decay,
        )

    def values(self, data: Sequence[Datum]) -> list[tuple[float, ...]]:
        """Value of the state before each token of each datum, from the hidden state at the position that predicts the token."""
        return self._of_each_token(data, self._forward)

    def update(
        self,
        data: Sequence[Datum],
        returns: Sequence[tuple[float, ...]],
        old_values: Sequence[tuple[float, ...]],
        learning_rate: float,
        value_clip: float,
        optimizer_steps: int = 1,
    ) -> dict[str, float]:
        """Take `optimizer_steps` gradient steps of the values towards `returns`, each on a part of `data`.

        Returns `value_loss`, the mean over tokens; `explained_variance` of the returns by `old_values`, so before the update;
        `clipped_share` of tokens that the value clip kept from learning; `grad_norm`; and `skipped_updates`, the steps that
        were not taken because loss or gradient were not finite. What is not finite is left out.
        """
        parts = zip(data, returns, old_values, strict=True)
        rows = [ValueRow(datum.prompt, datum.tokens, goal, old) for datum, goal, old in parts]
        totals = self._take_steps(rows, learning_rate, optimizer_steps, lambda part: self._step_on(part, value_clip))
        before, goals = (torch.tensor([x for row in numbers for x in row]) for numbers in (old_values, returns))
        metrics = {"skipped_updates": totals["skipped_updates"], "explained_variance": explained_variance(before, goals)}
        if "tokens" in totals:
            metrics["value_loss"] = totals["loss"]
            metrics["grad_norm"] = totals["grad_norm"]
            metrics["clipped_share"] = totals["clipped_tokens"] / max(1.0, totals["tokens"])
        if CHECKPOINTED in totals:
            metrics[CHECKPOINTED] = totals[CHECKPOINTED]
        return {name: number for name, number in metrics.items() if math.isfinite(number)}

    def _step_on(self, rows: Sequence[ValueRow], clip: float) -> dict[str, float]:
        """One optimizer step on the mean loss over the tokens of `rows`."""
        tokens = max(1, sum(len(row.tokens) for row in rows))

        def loss_of(batch: list[int]) -> tuple[Tensor, dict[str, Tensor | float]]:
            part = [rows[i] for i in batch]
            values, mask = self._forward(part)
            old, goals = padded(part, "old_values", mask), padded(part, "returns", mask)
            assert old is not None
            assert goals is not None
            # padding is zero in all three, so it adds nothing to the loss
            losses, clipped = value_loss(values, old, goals, clip)
            return losses.sum() / tokens, {"tokens": mask.sum(), "clipped_tokens": clipped.sum()}

        return self._optimizer_step(rows, loss_of)

    def _forward(self, rows: Sequence[Datum] | Sequence[ValueRow]) -> tuple[Tensor, Tensor]:
        """Values before the rows' tokens [N, T], and where they stand [N, T]."""
        hidden, _, mask = self._states(rows)
        return spread_over(mask, self.head(hidden.float()).squeeze(-1)), mask

    def _run(self, inputs: dict[str, Any]) -> Tensor:
        return base_model(self.model)(**inputs, use_cache=False).last_hidden_state

    def save(self, directory: Path) -> None:
        """Write the decoder (or its adapters) as transformers (or peft) does, the head, and the optimizer's state."""
        self.model.save_pretrained(directory)
        save_file({name: weight.detach() for name, weight in self.head.named_parameters()}, directory / HEAD_FILE)
        self._save_optimizer(directory)

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""
        self._load_model(directory)
        self.head.load_state_dict(load_file(directory / HEAD_FILE))
        self._load_optimizer(directory)


def load_critic(config: ModelConfig) -> Critic:
    """A new critic over the decoder of a causal model; `train` is not looked at, since a critic that does not learn is none.

    Raises `ModelError` for a model that cannot be loaded or has no decoder of its own.
    """
    model = load_model(config)
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        raise ModelError(f"{config.model} has no decoder apart from its head, which a critic needs; name another critic model")
    if config.lora is not None:
        decoder = with_adapters(decoder, config, "FEATURE_EXTRACTION")
    return Critic(
        decoder,
        tokens_per_microbatch=config.tokens_per_microbatch,
        max_grad_norm=config.max_grad_norm,
        weight_decay=config.weight_decay,
    )


def critic_for(settings: CriticConfig, policy: ModelConfig, tokenizer: PreTrainedTokenizerBase) -> Critic:
    """The critic of a policy: `policy` is its section and `tokenizer` its own.

    Raises `ModelError` as `load_critic` does, and for a critic model that reads other token ids than the policy writes.
    """
    if settings.model is None:
        return load_critic(policy)
    config = policy.model_copy(update={"model": settings.model, "gguf_file": None})
    if load_tokenizer(config).get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"the critic's model {settings.model} has another vocabulary than the policy {policy.model}: it would read other "
            "words than the policy wrote. Take one of the policy's family, or leave the critic's model out"
        )
    return load_critic(config)

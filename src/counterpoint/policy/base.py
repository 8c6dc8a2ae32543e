"""What a training loop asks of a model: five verbs, and no idea of the algorithm.

They are the verbs of the Tinker API (sample, forward_backward + optim_step, compute_logprobs, save_state, load_state), so one
loop drives a model in this process or one on a cluster.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Completion, Datum, SamplingParams


class Saved(Protocol):
    """What a checkpoint holds: a policy, or a critic beside it."""

    def save(self, directory: Path) -> None:
        """Write weights and optimizer state; the weights in a layout that `from_pretrained` reads."""
        ...

    def load(self, directory: Path) -> None:
        """Restore what `save` wrote."""
        ...


class Policy(Saved, Protocol):
    """A causal language model that can be sampled from and updated."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens in the text recognised, none added."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        ...

    def sample(self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
        """Draw `n` completions of each prompt. Equal arguments and weights give equal completions."""
        ...

    def update(self, data: Sequence[Datum], loss: LossSpec, learning_rate: float, optimizer_steps: int = 1) -> dict[str, float]:
        """Take `optimizer_steps` gradient steps over `data`, split evenly among them; returns averaged metrics.

        A step whose loss or gradient is not finite leaves the weights alone and is counted in `skipped_updates`.
        """
        ...

    def logprobs(self, data: Sequence[Datum], temperature: float = 1.0) -> list[tuple[float, ...]]:
        """Log-probability in nats of each token of each datum under the present weights."""
        ...

    def save(self, directory: Path) -> None:
        """Write weights, tokenizer and optimizer state; the weights in a layout that `from_pretrained` reads."""
        ...

"""The nouns that every loop shares. Frozen: a sample is a fact, it does not change after it was drawn.

Axis suffixes used across the library: `_Q` questions, `_G` samples of a group, `_T` tokens, `_D` embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

StopReason = Literal["stop", "end", "length"]
"""Why a completion ended: a stop string, the end-of-sequence token, or the token budget."""


@dataclass(frozen=True)
class Question:
    """One thing to be asked, with what a grader needs to judge a response."""

    id: str
    """Unique within its task; error messages and sample files name it."""
    text: str
    """What the model reads, without any template."""
    answer: str
    """The reference answer, as the grader wants it."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What else a grader needs (the choices, the entry of a procedural generator)."""
    trace: str | None = None
    """A worked solution without the answer line, for warm-up; None where the task has none."""


@dataclass(frozen=True)
class Completion:
    """One sampled continuation of a prompt."""

    prompt: tuple[int, ...]
    """Token ids of the prompt, length P."""
    tokens: tuple[int, ...]
    """Sampled token ids, length T, the stop tokens included: they were paid for."""
    logprobs: tuple[float, ...]
    """Log-probability in nats of each sampled token, length T, under the tempered but untruncated distribution."""
    text: str
    """The decoded continuation, without the stop string and without special tokens at its end."""
    stop: StopReason
    entropies: tuple[float, ...] | None = None
    """Entropy in nats of the tempered distribution that each token was drawn from, length T; None unless asked for."""


@dataclass(frozen=True)
class Datum:
    """One sequence to learn from: a completion and the advantage of each of its tokens."""

    prompt: tuple[int, ...]
    """Token ids of the prompt, length P."""
    tokens: tuple[int, ...]
    """Token ids that the gradient goes through, length T."""
    advantages: tuple[float, ...]
    """Advantage of each token, length T."""
    logprobs: tuple[float, ...] | None = None
    """Log-probabilities under the engine that sampled, length T; needed only where that is not the trainer."""
    old_logprobs: tuple[float, ...] | None = None
    """Log-probabilities under the policy before this step's first update, length T. None: the present policy's own, which is
    right for a single update on fresh samples."""
    reference_logprobs: tuple[float, ...] | None = None
    """Log-probabilities under the reference policy, length T; needed only for KL in the loss."""


@dataclass(frozen=True)
class SamplingParams:
    """How to draw a completion."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are cut from its text and kept in its tokens."""
    entropies: bool = False
    """Whether completions say the entropy at each of their tokens."""

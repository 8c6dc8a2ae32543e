"""A recipe's `[diversity]` section at work: the responses of a step, embedded, and what their rewards become."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from counterpoint.config import DiversityConfig
from counterpoint.config_files import validate_as
from counterpoint.dqo import diversity, shaping
from counterpoint.dqo.embed import Embedder, load_embedder, part_of, policy_states
from counterpoint.dqo.options import OPTIONS, NoOptions, PassAtKOptions
from counterpoint.errors import ConfigError
from counterpoint.policy.base import Policy
from counterpoint.rl import control
from counterpoint.rl.types import Completion
from counterpoint.tasks.answers import Extractor

ENTROPY = "entropy"
"""The shaper that acts on advantages of tokens; see `advantages.entropy_bonus`."""


@dataclass(frozen=True)
class Diversity:
    """How rewards are shaped; `embedder` only where the shaper needs one."""

    settings: DiversityConfig
    embedder: Embedder | None

    @property
    def by_token(self) -> bool:
        """Whether the shaper acts on tokens, not on rewards."""
        return self.settings.shaper == ENTROPY

    def shape(
        self, responses_Q_G: Sequence[Sequence[Completion]], rewards_Q_G: Tensor, alpha: float, extract: Extractor | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """Shaped rewards [Q, G] and what to log: the span of the groups, and what the encoder could not see.

        `extract` is the grader's way to find an answer (`graders.extractor_of`), for a section whose part is the answer.
        """
        if self.by_token:
            return rewards_Q_G, {}
        embeddings, metrics = None, {}
        if self.embedder is not None:
            texts = [part_of(response.text, self.settings.part, extract) for group in responses_Q_G for response in group]
            embedded = self.embedder(texts)
            embeddings = embedded.vectors.unflatten(0, rewards_Q_G.shape)
            metrics = {
                "log_det": float(diversity.log_det(diversity.linear_kernel(embeddings)).mean()),
                "embeddings_truncated": float(embedded.truncated),
                "responses_empty": float(sum(not text.strip() for text in texts)),
            }
        logprobs = torch.tensor([[sum(response.logprobs) for response in group] for group in responses_Q_G])
        samples = shaping.Samples(rewards_Q_G, embeddings, logprobs)
        shaped = shaping.SHAPERS[self.settings.shaper](samples, alpha, **self.settings.options)
        return shaped, metrics | {"diversity_reward": float((shaped - rewards_Q_G).mean())}


def load_diversity(settings: DiversityConfig, policy: Policy, group: int) -> Diversity:
    """What a section names, ready to use on groups of so many. Raises `ConfigError` for an option that the shaper refuses."""
    kind = OPTIONS.get(settings.shaper, NoOptions)
    options = validate_as(kind, settings.options, f"diversity.options of the shaper {settings.shaper}")
    if isinstance(options, PassAtKOptions) and options.k > group:
        raise ConfigError(f"diversity.options: the shaper pass_at_k has k = {options.k}, and a group is {group}; lower k")
    if settings.shaper in shaping.SHARES and largest_alpha(settings) > 1:
        raise ConfigError(
            f"diversity: α of the shaper {settings.shaper} is a share of the reward, so at most 1; above it, right responses "
            "would earn less than wrong ones. Lower alpha, alpha_end or maximum"
        )
    if settings.shaper not in shaping.EMBEDS:
        return Diversity(settings, None)
    return Diversity(settings, policy_states(policy) if settings.embedder == "policy" else load_embedder(settings.embedder))


def largest_alpha(settings: DiversityConfig) -> float:
    """The most that α can become in a run."""
    ends = {"constant": settings.alpha, "linear": settings.alpha_end, "quality_floor": settings.maximum}
    return max(settings.alpha, ends[settings.control])


def alpha_controller(settings: DiversityConfig, steps: int) -> control.Controller:
    """Who sets α in a run of so many steps."""
    if settings.control == "constant":
        return control.Constant(settings.alpha)
    if settings.control == "linear":
        between = max(1, steps - 1)  # the first step has the one end, the last step the other
        return control.Linear(settings.alpha, settings.alpha, settings.alpha_end, between)
    return control.QualityFloor(
        floor=settings.floor,
        value=settings.alpha,
        rate=settings.rate,
        gain=settings.gain,
        tolerance=settings.tolerance,
        maximum=settings.maximum,
        grace=settings.grace,
    )

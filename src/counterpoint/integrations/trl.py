"""DQO in TRL: a reward function that adds α · d_i (arXiv 2509.04784) to the others' rewards.

    from trl import GRPOConfig, GRPOTrainer
    from counterpoint.integrations.trl import DQOReward

    arguments = GRPOConfig(...)
    GRPOTrainer(model, reward_funcs=[correct, DQOReward(alpha=1.0)], args=arguments, ...).train()

Tested with TRL 1.16; `GRPOTrainer` and `RLOOTrainer` take it as it is. TRL itself is not imported.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from counterpoint.dqo.diversity import KernelName
from counterpoint.dqo.embed import Embedder, Part, load_embedder
from counterpoint.errors import ConfigError, TrainingError
from counterpoint.integrations.terms import group_terms
from counterpoint.policy.prompting import SIGNAL_CLOSE

RewardFunction = Callable[..., Sequence[float | None]]
"""As TRL calls it: prompts, completions, completion_ids and the data set's columns by name -> a reward a completion."""

REMEDY = (
    "Let per_device_train_batch_size · steps_per_generation (in evaluation, per_device_eval_batch_size) be a multiple of the "
    "number of generations"
)


class DQOReward:
    """α · d_i of each completion: how much it adds to the squared volume that its group's meanings span.

    The groups are the runs of equal prompts, in which order TRL samples. They must all be of one size, and whole on this
    process; where TRL splits one across processes, every call raises `TrainingError`. A prompt that the data set has twice can
    come twice in a row: a longer run among others raises, too, unless `num_generations` says where to cut. A group of one has
    nothing to differ from: each of its completions gets α · log 2.

    TRL's default, `scale_rewards="group"`, divides by the standard deviation of a group, which blows up small terms where the
    other rewards tie; `scale_rewards="none"` lets α mean the same in every group.

    Args:
        alpha: the strength; the paper's is 0.5 to 2. TRL's `reward_weights` multiply it further.
        embedder: what compares completions, by name (`embed.load_embedder`) or itself. It is loaded here: make the trainer's
            configuration first, which gives each process its own device.
        part: what of a completion is embedded: all of it, what is before the last `</think>`, or what is after.
        kernel: of likeness; see `diversity`.
        correct_only: a reward function. Only completions that it gives at least 0.5 count and are paid: the cure for noise that
            is appended to look diverse. TRL tells reward functions nothing of each other, so it runs here a second time. A
            coroutine function is not awaited.
        num_generations: the size of a group, for a data set with repeated prompts; evaluation must then have the same size.

    Raises:
        ConfigError: an embedder that does not exist, or a group size below one.
        ModelError: an embedder that cannot be loaded.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        embedder: str | Embedder = "minilm",
        part: Part = "response",
        kernel: KernelName = "linear",
        correct_only: RewardFunction | None = None,
        num_generations: int | None = None,
    ) -> None:
        if num_generations is not None and num_generations < 1:
            raise ConfigError(f"num_generations must be at least 1, got {num_generations}; give the trainer's, or leave it out")
        self.alpha = alpha
        self.embedder = load_embedder(embedder) if isinstance(embedder, str) else embedder
        self.part: Part = part
        self.kernel: KernelName = kernel
        self.correct_only = correct_only
        self.num_generations = num_generations
        self.__name__ = "dqo" if part == "response" else f"dqo_{part}"
        """TRL logs `rewards/dqo/mean` by it."""

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """α · d_i of each completion. `columns` are what else TRL gives a reward function. Logs the share of cut texts."""
        size = self.group_size(prompts)
        told = {} if log_metric is None else {"log_metric": log_metric}  # correct_only may log, too
        rewards_Q_G = self.quality(prompts, completions, columns | told).reshape(-1, size)
        terms_Q_G, cut = group_terms(
            [text_of(completion) for completion in completions],
            rewards_Q_G,
            self.embedder,
            self.part,
            self.kernel,
            correct_only=self.correct_only is not None,
        )
        if log_metric is not None:
            log_metric(f"{self.__name__}/texts_cut", cut / len(completions))
        return (self.alpha * terms_Q_G).flatten().tolist()

    def quality(self, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> Tensor:
        """What `correct_only` gives each completion [N]; zeros without it, NaN (never correct) for a None."""
        if self.correct_only is None:
            return torch.zeros(len(completions))
        rewards = list(self.correct_only(prompts=prompts, completions=completions, **columns))
        if len(rewards) != len(completions):
            raise TrainingError(f"correct_only returned {len(rewards)} rewards for {len(completions)} completions")
        return torch.tensor([torch.nan if reward is None else float(reward) for reward in rewards])

    def group_size(self, prompts: Sequence[Any]) -> int:
        """How many completions a group has. Raises `TrainingError` where this process, or one beside it, has part of a group."""
        if self.num_generations is not None:
            check_blocks(prompts, self.num_generations)
            return self.num_generations
        check_borders(prompts)
        runs = run_lengths(prompts)
        if len(set(runs)) > 1:
            raise TrainingError(
                f"DQOReward found groups of unequal size in the batch of this process: runs of equal prompts of lengths {runs}. "
                f"Either a group is split across processes: {REMEDY}. Or the data set has a prompt twice: give "
                "DQOReward(num_generations=...), the trainer's"
            )
        if runs[0] == 1 and len(prompts) > 1:
            warnings.warn("DQOReward found no two equal prompts in a row: with groups of one it changes nothing", stacklevel=2)
        return runs[0]


def run_lengths(prompts: Sequence[Any]) -> list[int]:
    """Lengths of the runs of equal prompts; prompts may be lists of messages, which have no hash."""
    starts = [i for i in range(len(prompts)) if i == 0 or prompts[i] != prompts[i - 1]]
    return [end - start for start, end in zip(starts, [*starts[1:], len(prompts)], strict=True)]


def check_blocks(prompts: Sequence[Any], size: int) -> None:
    """Raises `TrainingError` unless prompts are blocks of `size` equal ones."""
    if len(prompts) % size:
        raise TrainingError(
            f"DQOReward: the {len(prompts)} completions on this process are not whole groups of {size}, so a group is split "
            f"across processes. {REMEDY}"
        )
    for start in range(0, len(prompts), size):
        if any(prompt != prompts[start] for prompt in prompts[start : start + size]):
            raise TrainingError(
                f"DQOReward: completions {start} to {start + size - 1} of this process should be one group, but their prompts "
                f"differ. Give the trainer's num_generations ({size} was given), in evaluation too, or leave it out"
            )


def check_borders(prompts: Sequence[Any]) -> None:
    """Raises `TrainingError`, on every process, where one process ends with the prompt that the next begins with."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    ends: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ends, (prompts[0], prompts[-1]))
    for process in range(len(ends) - 1):
        if ends[process][1] == ends[process + 1][0]:
            raise TrainingError(
                f"DQOReward: the group of one prompt is split across processes {process} and {process + 1}, and its terms need "
                f"all of it. {REMEDY}. If it is two groups of one prompt, give DQOReward(num_generations=...), the trainer's"
            )


def text_of(completion: Any) -> str:
    """A completion as text: itself, or what the assistant's messages say, thinking that TRL took apart put back in its tags."""
    if isinstance(completion, str):
        return completion
    return "\n".join(said(message) for message in completion if message["role"] == "assistant")


def said(message: dict[str, Any]) -> str:
    """The text of one message, whose content may be None (a call of a tool), a string or a list of parts."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text", "") for part in content)
    thinking = message.get("reasoning_content") or message.get("thinking")
    return f"{thinking}{SIGNAL_CLOSE}{content}" if thinking else content

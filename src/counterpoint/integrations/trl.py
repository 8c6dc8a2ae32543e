"""DQO in TRL: a reward function that adds α · d_i (arXiv 2509.04784) to the others' rewards.

    from trl import GRPOConfig, GRPOTrainer
    from counterpoint.integrations.trl import DQOReward

    arguments = GRPOConfig(...)
    GRPOTrainer(model, reward_funcs=[correct, DQOReward(alpha=1.0)], args=arguments, ...).train()

Tested with TRL 1.16; `GRPOTrainer` and `RLOOTrainer` take it as it is. TRL itself is not imported.
"""

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from counterpoint.config_files import validate_as
from counterpoint.dqo.embed import Embedder, load_embedder
from counterpoint.errors import ConfigError, TrainingError
from counterpoint.integrations.terms import TermOptions, group_terms
from counterpoint.policy.prompting import SIGNAL_CLOSE

RewardFunction = Callable[..., Sequence[float | None]]
"""As TRL calls it: prompts, completions, completion_ids and the data set's columns by name -> a reward a completion."""

REMEDY = (
    "Let per_device_train_batch_size · steps_per_generation (in evaluation, per_device_eval_batch_size) be a multiple of the "
    "number of generations"
)
PASS_ON = "let TRL call DQOReward itself, or pass the log_metric on that it gives, by which the trainer's own sizes are known"


class DQOReward:
    """α · d_i of each completion: how much it adds to the squared volume that its group's meanings span.

    A group is what the trainer says: `num_generations` completions in training, `num_generations_eval` in evaluation. TRL gives
    reward functions its method `log_metric`, and so the trainer: a function around this one must pass it on. Groups must be
    whole on this process; where TRL splits one across processes, every call raises `TrainingError`.

    Called without a trainer, it takes the runs of equal prompts as groups, of one size in all calls, and cannot see everything:
    if from the first call on every prompt comes twice in a row, two groups of it are taken as one.

    A group of one has nothing to differ from: each of its completions gets α · log 2.

    TRL's default, `scale_rewards="group"`, divides by the standard deviation of a group, which blows up small terms where the
    other rewards tie; `scale_rewards="none"` lets α mean the same in every group.

    Args:
        alpha: the strength; the paper's is 0.5 to 2. TRL's `reward_weights` multiply it further.
        embedder: what compares completions, by name (`embed.load_embedder`) or itself. It is loaded here: make the trainer's
            configuration first, which gives each process its own device.
        quality: a reward function, for the options that go by quality. TRL tells reward functions nothing of each other, so it
            runs here a second time.
        options: how completions are compared: part, extract, kernel, parameter, and with a quality correct_only, threshold and
            quality_temperature, the cures for noise that is appended to look diverse; see `TermOptions` and `shaping.dqo`.
            Best is the answer alone, `part="answer"`, with your grader's own way to find it as `extract`.

    Raises:
        ConfigError: an embedder or option that does not exist, or options that contradict each other.
        ModelError: an embedder that cannot be loaded.
    """

    def __init__(
        self, alpha: float = 1.0, embedder: str | Embedder = "minilm", quality: RewardFunction | None = None, **options: Any
    ) -> None:
        self.options = validate_as(TermOptions, {"alpha": alpha, **options}, "DQOReward")
        by_quality = self.options.correct_only or self.options.quality_temperature is not None
        if by_quality and quality is None:
            raise ConfigError(
                "DQOReward: correct_only and quality_temperature go by a quality; give a reward function as quality"
            )
        if quality is not None and not by_quality:
            raise ConfigError("DQOReward: quality does nothing alone; set correct_only or quality_temperature, or leave it out")
        if inspect.iscoroutinefunction(quality):
            raise ConfigError("DQOReward: quality is a coroutine function, which nobody awaits here; give one that is not async")
        self.embedder = load_embedder(embedder) if isinstance(embedder, str) else embedder
        self.quality = quality
        self.extract = self.options.extractor()
        self.sizes: set[int] = set()
        """Of the groups seen without a trainer."""
        self.__name__ = "dqo" if self.options.part == "response" else f"dqo_{self.options.part}"
        """TRL logs `rewards/dqo/mean` by it."""

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float]:
        """α · d_i of each completion. `columns` are what else TRL gives a reward function. Logs the share of cut texts."""
        if not prompts:
            return []
        size = self.group_size(prompts, getattr(log_metric, "__self__", None))
        told = {} if log_metric is None else {"log_metric": log_metric}  # quality may log, too
        rewards_Q_G = self.qualities(prompts, completions, columns | told).reshape(-1, size)
        texts = [text_of(completion) for completion in completions]
        terms_Q_G, cut = group_terms(texts, rewards_Q_G, self.embedder, self.options, self.extract)
        if log_metric is not None:
            log_metric(f"{self.__name__}/texts_cut", cut / len(completions))
        return (self.options.alpha * terms_Q_G).flatten().tolist()

    def qualities(self, prompts: Sequence[Any], completions: Sequence[Any], columns: dict[str, Any]) -> Tensor:
        """What `quality` gives each completion [N]; zeros where none is asked for."""
        if self.quality is None:
            return torch.zeros(len(completions))
        rewards = list(self.quality(prompts=prompts, completions=completions, **columns))
        if len(rewards) != len(completions):
            raise TrainingError(f"quality returned {len(rewards)} rewards for {len(completions)} completions")
        # a completion without a reward is never correct, and spans nothing
        return torch.tensor([-torch.inf if reward is None else float(reward) for reward in rewards])

    def group_size(self, prompts: Sequence[Any], trainer: Any) -> int:
        """How many completions a group has. Raises `TrainingError` where this process, or one beside it, has part of a group."""
        if hasattr(trainer, "num_generations"):
            size = trainer.num_generations if trainer.model.training else trainer.num_generations_eval
            check_blocks(prompts, size)
        else:
            size = self.size_of_runs(prompts)
        if size == 1 and len(prompts) > 1:
            warnings.warn("DQOReward got groups of one: it changes nothing", stacklevel=3)
        return size

    def size_of_runs(self, prompts: Sequence[Any]) -> int:
        """The length of all runs of equal prompts, in this call and those before."""
        check_borders(prompts)
        runs = run_lengths(prompts)
        self.sizes.update(runs)
        if len(self.sizes) > 1:
            raise TrainingError(
                f"DQOReward found groups of unequal size on this process: runs of equal prompts of lengths {runs}, "
                f"{sorted(self.sizes)} in all. Either a group is split across processes: {REMEDY}. Or the data set has a prompt "
                f"twice, or evaluation has groups of another size: {PASS_ON}"
            )
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
                f"differ; so a group is split across processes. {REMEDY}"
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
                f"all of it. {REMEDY}. If it is two groups of one prompt: {PASS_ON}"
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

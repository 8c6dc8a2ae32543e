"""DQO in verl: a reward manager that adds α · d_i (arXiv 2509.04784) to the graders' rewards, and an advantage estimator.

Both are registered under the name `counterpoint_dqo` when this module is imported; verl imports it where it is told to:

    VERL_USE_EXTERNAL_MODULES=counterpoint.integrations.verl python -m verl.trainer.main_ppo \\
        reward.reward_manager.name=counterpoint_dqo algorithm.adv_estimator=counterpoint_dqo reward.num_workers=1 \\
        actor_rollout_ref.rollout.n=4 actor_rollout_ref.rollout.val_kwargs.n=4 \\
        +reward.reward_kwargs.alpha=1.0 +reward.reward_kwargs.embedder=minilm ...

Written for and tested with verl 0.9.1. What it asks for follows from how verl rewards. A reward manager is given one response at
a time, as its sampling ends, by workers chosen at random; an advantage estimator is given no text. So the responses of a group
meet in the reward manager of the one worker: each waits there until its group is whole. A response of validation looks like any
other, so its groups must have the size of training's; verl's validation reports `acc`, which is the reward without the term.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from verl import DataProto  # pyright: ignore[reportMissingImports]
from verl.experimental.reward_loop.reward_manager import register  # pyright: ignore[reportMissingImports]
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager  # pyright: ignore[reportMissingImports]
from verl.trainer.ppo.core_algos import register_adv_est  # pyright: ignore[reportMissingImports]

from counterpoint.config_files import validate_as
from counterpoint.dqo.embed import load_embedder
from counterpoint.errors import ConfigError, TrainingError
from counterpoint.integrations.terms import TermOptions, group_terms
from counterpoint.rl.advantages import dr_grpo

NAME = "counterpoint_dqo"

WORKER_CALLS = 1000
"""Calls that one Ray actor serves at a time (its default, which verl leaves): if all of those wait, they do so for ever."""


class Options(TermOptions):
    """`reward.reward_kwargs` of verl's configuration: DQO's own (`dqo/options.py`), those of `TermOptions`, and these.

    `correct_only` and `quality_temperature` go by the graders' reward. `extract` is a name, of `graders.EXTRACTORS` or of a
    `module:function` of yours.
    """

    embedder: str = "minilm"
    """What compares responses; see `embed.load_embedder`."""
    patience: float = Field(3600.0, gt=0)
    """Seconds that a response waits for the rest of its group before its sampling is given up as failed."""


@dataclass
class Meeting:
    """The responses of one group that have come so far."""

    whole: asyncio.Future[None]
    texts: list[str] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terms: list[float] | None = None
    """d_i of each, once computed."""
    cut: float = 0.0
    """The share of texts that were longer than the encoder reads, once computed."""


@register(NAME)
class DQORewardManager(NaiveRewardManager):
    """verl's `naive` reward manager, so any `compute_score`, and r_i + α · d_i for its r_i.

    `reward_extra_info` has `diversity`, d_i, besides, `texts_cut`, the share of its group's texts that the encoder could not read
    whole, and `acc`, r_i, unless the grader gives an `acc` of its own.

    Raises:
        ConfigError: a configuration under which groups would not meet, or an option that does not exist.
        ModelError: an embedder that cannot be loaded.
        TrainingError: from `run_single`, for a group that does not become whole. verl logs it and drops the group.
    """

    def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **router: Any) -> None:
        check(config)
        super().__init__(config, tokenizer, compute_score, **router)
        self.options = options_of(config)
        self.embedder = load_embedder(self.options.embedder)
        self.extract = self.options.extractor()
        self.group_size: int = config.actor_rollout_ref.rollout.n
        self.meetings: dict[str, Meeting] = {}

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Grades the response in `data` (the last, where a trajectory has several), and waits for its group."""
        result = await super().run_single(data)
        last = data[-1]
        tokens = last.batch["responses"]
        length = int(last.batch["attention_mask"][-len(tokens) :].sum())
        text = self.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        reward = float(result["reward_score"])
        term, cut = await self.term(str(last.non_tensor_batch["uid"]), text, reward)
        extra = {"acc": reward} | result["reward_extra_info"] | {"diversity": term, "texts_cut": cut}
        return {"reward_score": reward + self.options.alpha * term, "reward_extra_info": extra}

    async def term(self, uid: str, text: str, reward: float) -> tuple[float, float]:
        """d_i of a response to the prompt `uid`, and the share of its group's texts that were cut, once all have come."""
        if uid not in self.meetings:
            self.meetings[uid] = Meeting(asyncio.get_running_loop().create_future())
        meeting = self.meetings[uid]
        place = len(meeting.texts)
        meeting.texts.append(text)
        meeting.rewards.append(reward)
        if len(meeting.texts) == self.group_size:
            del self.meetings[uid]
            meeting.whole.set_result(None)
        elif sum(len(other.texts) for other in self.meetings.values()) >= WORKER_CALLS:
            self.give_up()
        await self.wait(uid, meeting)
        if meeting.terms is None:
            meeting.terms, meeting.cut = self.terms(meeting)
        return meeting.terms[place], meeting.cut

    async def wait(self, uid: str, meeting: Meeting) -> None:
        """Returns once the group is whole. Raises `TrainingError` if it is not in time."""
        try:
            # shielded: one that gives up must not cancel the others' wait
            await asyncio.wait_for(asyncio.shield(meeting.whole), self.options.patience)
        except TimeoutError as error:
            self.meetings.pop(uid, None)
            raise TrainingError(
                f"after {self.options.patience} s only {len(meeting.texts)} of the {self.group_size} responses to prompt {uid} "
                "have come. If sampling is that slow, raise reward.reward_kwargs.patience; else verl's log has why others failed"
            ) from error

    def give_up(self) -> None:
        """Fails all who wait: they fill the worker, so that nobody whom they wait for can come any more."""
        for meeting in self.meetings.values():
            meeting.whole.set_exception(
                TrainingError(
                    f"{WORKER_CALLS} responses wait for their groups, more than a reward worker of verl serves at a time; lower "
                    "data.train_batch_size and data.val_batch_size until prompts · (rollout.n - 1) stays below that"
                )
            )
        self.meetings.clear()

    def terms(self, meeting: Meeting) -> tuple[list[float], float]:
        """d_i of each response of a whole group, and the share of them that the encoder had to cut."""
        rewards_1_G = torch.tensor([meeting.rewards])
        terms_1_G, cut = group_terms(meeting.texts, rewards_1_G, self.embedder, self.options, self.extract)
        return terms_1_G[0].tolist(), cut / len(meeting.texts)


def options_of(config: Any) -> Options:
    """The options in a verl configuration. Raises `ConfigError` for one that does not exist, or has a value that it cannot."""
    return validate_as(Options, dict(config.reward.get("reward_kwargs") or {}), "reward.reward_kwargs")


def check(config: Any) -> None:
    """Raises `ConfigError` for a verl configuration under which groups would never be whole, or the manager never asked."""
    reward, rollout = config.reward, config.actor_rollout_ref.rollout
    if reward.reward_model.enable and reward.custom_reward_function.path is None:
        raise ConfigError(
            "with reward.reward_model.enable and no reward.custom_reward_function verl asks the reward model, not the reward "
            f"manager, so {NAME} would do nothing; give a custom reward function that asks the reward model"
        )
    if reward.num_workers != 1:
        raise ConfigError(
            f"reward.num_workers is {reward.num_workers}: verl would split groups across them at random. Set it to 1"
        )
    if rollout.val_kwargs.n != rollout.n:
        raise ConfigError(
            f"rollout.val_kwargs.n is {rollout.val_kwargs.n} and rollout.n is {rollout.n}: verl does not tell a "
            "reward manager which of them a response is of, so groups would not become whole in validation. Set both alike"
        )
    waiting = config.data.train_batch_size * (rollout.n - 1)
    if waiting >= WORKER_CALLS:
        raise ConfigError(
            f"up to data.train_batch_size · (rollout.n - 1) = {waiting} responses would wait for their groups in one reward "
            f"worker, which serves {WORKER_CALLS} at a time; lower one of them"
        )


@register_adv_est(NAME)
def advantages(
    token_level_rewards: Tensor, response_mask: Tensor, index: Sequence[Any], config: Any = None, **others: Any
) -> tuple[Tensor, Tensor]:
    """A = r − mean r over the responses of one `index`, for each of their tokens: advantages and returns, both [N, T].

    r is the sum of a response's `token_level_rewards` [N, T]. It is Dr. GRPO's (`advantages.dr_grpo`, arXiv 2503.20783), which
    keeps α what it is: divided by the standard deviation, as in verl's `grpo`, the terms of a group whose rewards tie are scaled
    to the size of a whole reward. Raises `ValueError` for a group of one.
    """
    rewards_N = token_level_rewards.sum(dim=-1)
    rows: dict[Any, list[int]] = {}
    for row, question in enumerate(index):
        rows.setdefault(question, []).append(row)
    advantages_N = torch.empty_like(rewards_N)
    for group in rows.values():
        advantages_N[group] = dr_grpo(rewards_N[group].unsqueeze(0))[0]
    advantages_N_T = advantages_N.unsqueeze(-1) * response_mask
    return advantages_N_T, advantages_N_T

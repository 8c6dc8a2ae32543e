"""What a training step leaves to the next one: the multiplier's controller, the floor, and the counts that end a bad run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from counterpoint.errors import TrainingError
from counterpoint.rl import control

FLAT_STEPS_BEFORE_WARNING = 10
NOT_FINITE_BEFORE_STOP = 5
SKIPPED = "skipped_updates"
CHECKPOINTED = "checkpointed_microbatches"


@dataclass(frozen=True)
class State:
    """All that a step leaves to the next, besides the weights. It is in every checkpoint."""

    controller: control.Controller
    """Of the loop's own multiplier: DUET's λ, DQO's α."""
    floor: float | None = None
    capable_alone: float | None = None
    alpha: control.Controller | None = None
    """Of the diversity term's strength in a DUET run that has one."""
    flat_steps: int = 0
    not_finite: int = 0
    """Steps with an update that was not finite, or with nothing right after it, since every model's last update was good."""
    failing: tuple[str, ...] = ()
    """Models whose last update was not finite, by role."""

    def to_dict(self) -> dict[str, Any]:
        alpha = None if self.alpha is None else control.to_dict(self.alpha)
        return {**self.__dict__, "controller": control.to_dict(self.controller), "alpha": alpha}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "State":
        alpha = values.get("alpha")
        controllers = {
            "controller": control.from_dict(values["controller"]),
            "alpha": None if alpha is None else control.from_dict(alpha),
        }
        return cls(**{**values, **controllers, "failing": tuple(values.get("failing", ()))})


def after(state: State, controller: control.Controller, metrics: dict[str, float], quality: float) -> State:
    """The next state: the controller moved, steps without signal and updates that were not finite counted in a row.

    `quality` is the mean reward before any shaping. What is shaped gives groups a spread even where every response is wrong;
    such steps teach nothing but silence (lengths) or noise (diversity).

    A model that its updates have broken is wrong in most steps whatever it says, so that its groups tie and no update is tried.
    So the count of updates that were not finite outlives a step without an update, and one in which only the other model
    learns; and a step without a right response adds to it while a model's last update was not finite.
    """
    groups = sum(value for name, value in metrics.items() if name.endswith("groups"))
    dropped = sum(value for name, value in metrics.items() if name.endswith("groups_dropped"))
    skipped = {updated_model(name): value > 0 for name, value in metrics.items() if name.endswith(SKIPPED)}
    failing = {role for role in state.failing if skipped.get(role, True)} | {role for role, bad in skipped.items() if bad}
    return replace(
        state,
        controller=controller,
        flat_steps=state.flat_steps + 1 if dropped == groups or quality == 0 else 0,
        not_finite=state.not_finite + (any(skipped.values()) or quality == 0) if failing else 0,
        failing=tuple(sorted(failing)),
    )


def updated_model(metric: str, name: str = SKIPPED) -> str:
    """Whose updates a metric such as `capable_skipped_updates` counts: the role before its name, DQO's policy where none is."""
    return metric.removesuffix(name).rstrip("_") or "policy"


def check_progress(state: State, warn: Callable[[str], None]) -> None:
    """Warn when no group has taught anything for a while; stop when updates keep being not finite."""
    if state.flat_steps and state.flat_steps % FLAT_STEPS_BEFORE_WARNING == 0:
        warn(
            f"no group had any spread in its rewards for {state.flat_steps} steps, so nothing was learned: every sample of "
            "a question was right, or every one wrong. Use questions of another difficulty, more samples a question, "
            "a higher temperature, or start from better warmed-up models"
        )
    check_finite(state.not_finite)


def check_texts(step: int, metrics: Mapping[str, float], warn: Callable[[str], None]) -> None:
    """Warn when the encoder that compares texts did not read all of them; `step` counts from 1."""
    if cut := metrics.get("embeddings_truncated", 0.0):
        warn(
            f"step {step}: the encoder cut {cut:.0f} of the texts that it compared, so those that differ only in their ends look "
            "alike; use an encoder that reads more (diversity.embedder), or in DQO diversity.part = 'answer'"
        )


def check_diversity(step: int, metrics: Mapping[str, float], warn: Callable[[str], None]) -> bool:
    """Warn when a diversity term that is there does nothing, and say whether it was so; `step` counts from 1."""
    if metrics.get("log_det") == 0:
        warn(
            f"step {step}: every text that is compared is empty, so diversity pays nothing. diversity.part 'reasoning' needs a "
            "model that writes </think>, 'answer' responses in which the grader finds one"
        )
        return True
    quality = metrics.get("reward", metrics.get("aided_accuracy", 0.0))
    if "log_det" in metrics and metrics.get("diversity_reward") == 0 and metrics.get("alpha", 0.0) > 0 and quality > 0:
        warn(
            f"step {step}: the diversity term changed no reward, though the mean reward is {quality:.3g}: no response reaches "
            "the threshold in diversity.options (it is 0.5 if not set), or to this shaper all are alike or all different"
        )
        return True
    return False


def check_memory(step: int, metrics: Mapping[str, float], warn: Callable[[str], None]) -> bool:
    """Say that layers were run again for want of memory, and whether it was so; `step` counts from 1."""
    roles = [updated_model(name, CHECKPOINTED) for name, value in metrics.items() if name.endswith(CHECKPOINTED) and value > 0]
    if roles:
        warn(
            f"step {step}: a micro-batch of {' and '.join(roles)} did not fit into free memory, so layers were computed again in "
            "the backward pass (activation checkpointing): the same numbers, and up to a third more time. A lower "
            "tokens_per_microbatch may do without, unless single sequences are that long"
        )
    return bool(roles)


def check_end(state: State, warn: Callable[[str], None]) -> None:
    """Warn when a run ends with a model whose last update was not finite: too late to stop, and it may be broken."""
    if state.failing:
        warn(
            f"the run ends with updates that were not finite and were not applied, of {' and '.join(state.failing)}: what they "
            "were to change may be broken. Look at metrics.jsonl for what grew; if accuracy fell, train again with a lower "
            "learning rate or float32"
        )


def check_finite(not_finite: int) -> None:
    """Stop after so many steps with an update that was not finite; the caller says between which good ones it counts."""
    if not_finite >= NOT_FINITE_BEFORE_STOP:
        raise TrainingError(
            f"{not_finite} steps in a row had a loss or gradient that is not finite and was not applied, or no right response "
            "after it. Lower the learning rate, use float32, or look at the last entries of metrics.jsonl for what grew"
        )

"""What a DUET step costs beside the same tokens in plain steps of its two models.

    python benchmarks/duet_cost.py

Takes steps of the quickstart's pair, and after each one samples the same completions from the same prompts once more, and learns
from the same tokens once more, each model by itself: nothing is scored, shaped or encoded, so that is the least that two plain
steps of so many tokens could cost. Prints medians and the ratio with its range.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from counterpoint.config_files import load_recipe
from counterpoint.duet.start import start_state
from counterpoint.duet.train import duet_step
from counterpoint.jobs import learner_of, task_of
from counterpoint.recipe import DuetRecipe, of_kind
from counterpoint.rl.data import question_batch

STEPS = 15


class Remembered:
    """A policy's method that remembers what it was asked for since it was last looked at."""

    def __init__(self, policy: Any, method: str) -> None:
        self.calls: list[Callable[[], Any]] = []
        self.original = getattr(policy, method)
        setattr(policy, method, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(lambda: self.original(*arguments, **named))
        return self.original(*arguments, **named)

    def again(self) -> float:
        """Seconds that it takes once more."""
        began = time.perf_counter()
        for call in self.calls:
            call()
        self.calls.clear()
        return time.perf_counter() - began


def main() -> None:
    recipe = of_kind(load_recipe("quickstart-duet"), DuetRecipe)
    task = task_of(recipe)
    questions = task.training_questions()
    pair = learner_of(recipe.capable, ""), learner_of(recipe.light, "")
    state = start_state(recipe, pair[0].speaker, questions, task)
    remembered = {
        (role, method): Remembered(learner.speaker.policy, method)
        for role, learner in zip(("M", "m"), pair, strict=True)
        for method in ("sample", "update")
    }
    rows: list[dict[str, float]] = []
    for step in range(STEPS + 1):
        batch = question_batch(questions, step, recipe.duet.questions, recipe.run.seed)
        began = time.perf_counter()
        _, state = duet_step(step, batch, *pair, task, recipe, state)
        row = {"step": time.perf_counter() - began}
        weights = [copied(learner.speaker.policy.model) for learner in pair]
        row |= {f"{role} {method}": calls.again() for (role, method), calls in remembered.items()}
        for learner, saved in zip(pair, weights, strict=True):
            learner.speaker.policy.model.load_state_dict(saved)
        if step:
            rows.append(row)
    ratios = [row["step"] / (sum(row.values()) - row["step"]) for row in rows]
    print(f"{STEPS} steps of the quickstart's pair, {torch.get_num_threads()} threads\n")
    print("| | median, s | range |\n| --- | ---: | --- |")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"| {name} | {statistics.median(values):.3f} | {min(values):.3f}–{max(values):.3f} |")
    print(f"\nA step costs {statistics.median(ratios):.3f} times its parts ({min(ratios):.3f}–{max(ratios):.3f})")


def copied(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


if __name__ == "__main__":
    main()

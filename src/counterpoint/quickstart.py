"""The first thing a newcomer runs: train the built-in pair, measure it, say where everything is."""

import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from counterpoint import jobs
from counterpoint.config import Recipe, load_recipe
from counterpoint.evaluate.run import EVALUATION
from counterpoint.run import CONFIG, Run


def quickstart(overrides: Sequence[str], screen: jobs.ScreenMaker, quiet: bool = False) -> Path:
    """DUET on the tiny pair, the baseline M alone with the same penalty, the evaluation of both. Returns the run directory.

    One that was interrupted goes on where it stopped.
    """
    began = time.monotonic()
    recipe = unfinished_or_new(load_recipe("quickstart-duet", overrides))
    directory = directory_of(recipe)
    finish(recipe, "duet", jobs.duet, screen)
    if recipe.evaluation.solo:
        finish(jobs.alone_recipe(recipe), "alone", jobs.alone, screen)
    jobs.evaluate(str(directory), (), None, quiet)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Everything is in {directory}:")
    for name, what in CONTENTS.items():
        console.print(f"  {name:<18} {what}")
    return directory


CONTENTS = {
    "evaluation.json": "the table above, with intervals",
    "evaluation.png": "accuracy against M's tokens",
    "models/": "the trained pair; transformers' from_pretrained loads each",
    "samples.jsonl": "what the models said on the way",
    "metrics.jsonl": "every step",
    "config.toml": "the recipe with every default written out",
}


def unfinished_or_new(recipe: Recipe) -> Recipe:
    """The recipe under the first name (name, name-2, name-3, ...) that is unused, or that was interrupted with this recipe."""
    for number in count(1):
        name = recipe.run.name if number == 1 else f"{recipe.run.name}-{number}"
        named = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})
        directory = directory_of(named)
        if not directory.exists() and not directory_of(jobs.alone_recipe(named)).exists():
            return named
        interrupted = (directory / CONFIG).is_file() and not (directory / EVALUATION).exists()
        if interrupted and Run.open(directory).recipe == named:
            return named
    raise AssertionError("there is always a next number")


def finish(recipe: Recipe, kind: str, job: Callable[[Run, jobs.ScreenMaker], Any], screen: jobs.ScreenMaker) -> None:
    """Train a run to its end: from its start, from where it was interrupted, or not at all if it has ended."""
    directory = directory_of(recipe)
    run = Run.open(directory) if (directory / CONFIG).is_file() else Run.create(recipe, kind, sys.argv)
    if run.status != "finished":
        job(run, screen)


def directory_of(recipe: Recipe) -> Path:
    return Path(recipe.run.directory) / recipe.run.name

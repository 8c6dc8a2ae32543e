"""The first thing a newcomer runs: train the built-in pair, measure it, say where everything is."""

import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from rich.console import Console

from counterpoint import jobs
from counterpoint.config import Recipe, load_recipe
from counterpoint.run import Run


def quickstart(overrides: Sequence[str], screen: jobs.ScreenMaker, quiet: bool = False) -> Path:
    """DUET on the tiny pair, the baseline M alone with the same penalty, the evaluation of both. Returns the run directory."""
    began = time.monotonic()
    recipe = unused_name(load_recipe("quickstart-duet", overrides))
    run = Run.create(recipe, "duet", sys.argv)
    jobs.duet(run, screen)
    if recipe.evaluation.solo:
        jobs.alone(Run.create(jobs.alone_recipe(recipe), "alone", sys.argv), screen)
    jobs.evaluate(str(run.directory), (), None, quiet)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Everything is in {run.directory}:")
    for name, what in CONTENTS.items():
        console.print(f"  {name:<18} {what}")
    return run.directory


CONTENTS = {
    "evaluation.json": "the table above, with intervals",
    "evaluation.png": "accuracy against M's tokens",
    "models/": "the trained pair; transformers' from_pretrained loads each",
    "samples.jsonl": "what the models said on the way",
    "metrics.jsonl": "every step",
    "config.toml": "the recipe with every default written out",
}


def unused_name(recipe: Recipe) -> Recipe:
    """The recipe under a name that no run directory has yet: name, name-2, name-3, ..."""
    for number in count(1):
        name = recipe.run.name if number == 1 else f"{recipe.run.name}-{number}"
        if not any((Path(recipe.run.directory) / taken).exists() for taken in (name, f"{name}-alone")):
            return recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})
    raise AssertionError("there is always a next number")

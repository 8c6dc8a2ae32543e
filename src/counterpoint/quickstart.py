"""The first thing a newcomer runs: both methods on tiny built-in models, measured, and where everything is."""

import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console

from counterpoint import jobs
from counterpoint.config_files import load_recipe
from counterpoint.errors import ConfigError
from counterpoint.evaluate.command import evaluate
from counterpoint.evaluate.run import EVALUATION
from counterpoint.recipe import AnyRecipe, DqoRecipe, DuetRecipe, Recipe, of_kind
from counterpoint.report.command import report
from counterpoint.report.page import library
from counterpoint.run import CONFIG, Run

DUET_ALONE, DQO_ALONE = {"capable", "light", "duet", "control"}, {"policy", "dqo", "critic", "diversity"}
"""Tables that are for one of the two recipes."""
NEEDS_ONLY = {"task", "algorithm"}
"""Tables that both recipes have, and each needs its own."""
CONTENTS = {
    "report.html": "what training did, in one page: open it in a browser",
    "evaluation.json": "the table above, with intervals",
    "evaluation.png": "the same as a picture",
    "models/": "what was trained; transformers' from_pretrained loads each",
    "samples.jsonl": "what the models said on the way",
    "metrics.jsonl": "every step",
    "config.toml": "the recipe with every default written out",
}


def quickstart(overrides: Sequence[str], screen: jobs.ScreenMaker, quiet: bool = False, only: str | None = None) -> list[Path]:
    """DUET on the tiny pair, then DQO on the tiny policy, each beside its baseline; `only` does one. Returns the run directories.

    An override goes to the recipe that its table is for, those of `run` and `evaluation` to both. What was interrupted goes on
    where it stopped.
    """
    began = time.monotonic()
    library()  # what the reports need: better to know before minutes of training
    for override in overrides if only is None else ():
        if section_of(override) in NEEDS_ONLY or names_a_run(override):
            raise ConfigError(f"--set {override} needs --only duet or --only dqo: it cannot be meant for both runs")
    directories = []
    if only != "dqo":
        directories.append(duet_part([o for o in overrides if only or section_of(o) not in DQO_ALONE], screen, quiet))
    if only != "duet":
        directories.append(dqo_part([o for o in overrides if only or section_of(o) not in DUET_ALONE], screen, quiet))
    console = Console(highlight=False, soft_wrap=True)
    places = " and ".join(str(directory) for directory in directories)
    console.print(f"\nDone in {(time.monotonic() - began) / 60:.1f} minutes. Everything is in {places}:")
    for name, what in CONTENTS.items():
        console.print(f"  {name:<18} {what}")
    return directories


def duet_part(overrides: Sequence[str], screen: jobs.ScreenMaker, quiet: bool) -> Path:
    """The tiny pair, the baseline M alone with the same penalty, the evaluation of both."""
    recipe = unfinished_or_new(of_kind(load_recipe("quickstart-duet", overrides), DuetRecipe), jobs.alone_recipe)
    finish(recipe, "duet", jobs.duet, screen)
    runs = [directory_of(recipe)]
    if recipe.evaluation.solo:
        finish(jobs.alone_recipe(recipe), "alone", jobs.alone, screen)
        runs.append(directory_of(jobs.alone_recipe(recipe)))
    evaluate([str(runs[0])], (), None, quiet)
    report(runs)
    return runs[0]


def dqo_part(overrides: Sequence[str], screen: jobs.ScreenMaker, quiet: bool) -> Path:
    """The tiny policy by GRPO, then from the same start by DQO, the evaluation of both."""
    recipe = unfinished_or_new(of_kind(load_recipe("quickstart-dqo", overrides), DqoRecipe), grpo_recipe)
    for each in (grpo_recipe(recipe), recipe):
        finish(each, "dqo", jobs.dqo, screen)
    runs = [directory_of(recipe), directory_of(grpo_recipe(recipe))]
    evaluate([str(run) for run in runs], (), None, quiet)
    report(runs)
    return runs[0]


def grpo_recipe(recipe: DqoRecipe) -> DqoRecipe:
    """The recipe of the baseline: the same in all but the diversity."""
    run = recipe.run.model_copy(update={"name": f"{recipe.run.name}-grpo"})
    diversity = recipe.diversity.model_copy(update={"shaper": "none", "control": "constant", "options": {}})
    return recipe.model_copy(update={"run": run, "diversity": diversity})


def section_of(override: str) -> str:
    """The table that `section.key=value` is for."""
    return override.partition("=")[0].partition(".")[0].strip()


def names_a_run(override: str) -> bool:
    """Whether `run.name=...` or a whole `run={...}`, in whose place the name would be the same for both."""
    return override.partition("=")[0].strip() in ("run", "run.name")


def unfinished_or_new(recipe: AnyRecipe, baseline: Callable[[AnyRecipe], AnyRecipe]) -> AnyRecipe:
    """The recipe under the first name (name, name-2, name-3, ...) that is unused, or that was interrupted with this recipe."""
    for number in count(1):
        name = recipe.run.name if number == 1 else f"{recipe.run.name}-{number}"
        named = recipe.model_copy(update={"run": recipe.run.model_copy(update={"name": name})})
        runs = (named, baseline(named))
        if not any(directory_of(each).exists() for each in runs):
            return named
        begun = [each for each in runs if (directory_of(each) / CONFIG).is_file()]
        ended = (directory_of(named) / EVALUATION).exists()
        if begun and not ended and all(Run.open(directory_of(each)).recipe == each for each in begun):
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

"""Runs to report on: the quickstart's recipes with a few steps, trained by the tests; and what they wrote, read back plainly."""

import json
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from counterpoint import jobs
from counterpoint.cli import screens
from counterpoint.config_files import load_recipe
from counterpoint.errors import GraderError
from counterpoint.quickstart import quickstart
from counterpoint.recipe import DqoRecipe, of_kind
from counterpoint.run import Run

STEPS = 4
DUET = (
    f"run.steps={STEPS}", "run.checkpoint_every=2", "run.sample_every=2", "control.kind=constant",
    "duet.questions=2", "duet.signals=2", "duet.max_signal_tokens=60", "duet.unaided_every=2",
    "evaluation.questions=8", "evaluation.samples=2", "evaluation.batch=8",
)  # fmt: skip
DQO = (
    f"run.steps={STEPS}", "run.checkpoint_every=2", "run.sample_every=2", "dqo.questions=2", "dqo.samples=4",
    "evaluation.questions=8", "evaluation.samples=4", "evaluation.pass_at=[1,4]", "task.train_limit=40",
)  # fmt: skip


def duet_in(folder: Path, *overrides: str) -> Path:
    """The quickstart of DUET, a pair and M trained alone, evaluated. Returns the pair's run."""
    [directory] = quickstart([*DUET, f"run.directory={folder}", *overrides], screens(True), quiet=True, only="duet")
    return directory


def dqo_in(folder: Path, *overrides: str) -> Path:
    """The quickstart of DQO, with GRPO beside it in `<name>-grpo`, evaluated. Returns DQO's run."""
    [directory] = quickstart([*DQO, f"run.directory={folder}", *overrides], screens(True), quiet=True, only="dqo")
    return directory


def recipe_of_dqo(folder: Path, *overrides: str) -> DqoRecipe:
    return of_kind(load_recipe("quickstart-dqo", [*DQO, f"run.directory={folder}", *overrides]), DqoRecipe)


def running_in(folder: Path) -> Path:
    """What a run of DQO looks like when two of its steps have ended: a copy of its directory, made by this live process."""
    recipe = recipe_of_dqo(folder / "whole", "run.name=going")

    class Screen:
        def update(self, step: int, metrics: Any, signal: str | None = None) -> None:
            if step == 2:
                shutil.copytree(folder / "whole" / "going", folder / "going")

        def warn(self, message: str) -> None: ...

    @contextmanager
    def screen(title: str, steps: int, start: int) -> Any:
        yield Screen()

    jobs.dqo(Run.create(recipe, "dqo", ["counterpoint", "dqo", "quickstart-dqo"]), screen)
    return folder / "going"


def failed_in(folder: Path) -> Path:
    """A run of DQO whose grader raises in the third step."""
    graded.clear()
    recipe = recipe_of_dqo(folder, "run.name=broken", "task.grader=report.runs:grader_of_two_steps")
    with suppress(GraderError):
        jobs.dqo(Run.create(recipe, "dqo"), screens(True))
    return folder / "broken"


graded: list[str] = []


def grader_of_two_steps(question: Any, response: str) -> float:
    """Half of all is right; after two steps of eight responses each it has had enough."""
    if len(graded) == 16:
        raise ValueError("no <b>more</b>")
    graded.append(response)
    return float(len(graded) % 2)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def metrics_of(directory: Path, name: str) -> dict[int, float]:
    """A field of metrics.jsonl by step, where there is a number; as the file has it."""
    return {line["step"]: line[name] for line in lines(directory / "metrics.jsonl") if line.get(name) is not None}


def systems_of(directory: Path) -> dict[str, dict[str, Any]]:
    return json.loads((directory / "evaluation.json").read_text("utf-8"))["systems"]

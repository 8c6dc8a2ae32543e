"""What the commands do: from a recipe to models, a task, a run and an evaluation."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from rich.progress import Progress

from counterpoint.config import ModelConfig, Recipe, WarmupConfig, apply_override, load_recipe, validate
from counterpoint.duet.alone import alone_step
from counterpoint.duet.state import State
from counterpoint.duet.train import Observer, train
from counterpoint.errors import ConfigError, RunError
from counterpoint.evaluate.baselines import capable_alone, light_alone, pair
from counterpoint.evaluate.run import (
    REFERENCE,
    Evaluation,
    Shapes,
    Speakers,
    evaluate_pair,
    evaluate_systems,
)
from counterpoint.evaluate.show import plot, print_table
from counterpoint.flops import shape_of
from counterpoint.policy.load import load_policy
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.rl.learn import Learner
from counterpoint.run import Run
from counterpoint.tasks.base import Task
from counterpoint.tasks.graders import load_grader
from counterpoint.tasks.load import load_task
from counterpoint.warmup import warm_up, worked


class Screen(Protocol):
    """Where a running job shows itself."""

    def update(self, step: int, metrics: Mapping[str, float], signal: str | None = None) -> None: ...

    def warn(self, message: str) -> None: ...


ScreenMaker = Callable[[str, int, int], AbstractContextManager[Screen]]
"""(title, total steps, first step) -> a screen."""


def task_of(recipe: Recipe) -> Task:
    """The task that a recipe names, with its grader."""
    settings = recipe.task
    return load_task(
        settings.name,
        path=settings.path,
        seed=recipe.run.seed,
        train_limit=settings.train_limit,
        test_limit=settings.test_limit or recipe.evaluation.questions,
        grader=load_grader(settings.grader, **settings.grader_options) if settings.grader else None,
        options=settings.options,
    )


def speaker_of(config: ModelConfig, instruction: str) -> Speaker:
    """A model of a recipe, and how it is asked."""
    policy = load_policy(config)
    return Speaker(policy, Renderer(policy.tokenizer, policy.context_length, instruction, config.template))


def learner_of(config: ModelConfig, instruction: str) -> Learner:
    """A model of a recipe, ready to learn; with a KL term it keeps a frozen copy of where it started."""
    speaker = speaker_of(config, instruction)
    held = config.train and config.kl_coefficient > 0
    return Learner(speaker, config, speaker.policy.reference() if held else None)  # pyright: ignore[reportAttributeAccessIssue]


def duet(run: Run, screen: ScreenMaker) -> State:
    """Train the pair of a run, from its last checkpoint if it has one, and write its models."""
    recipe = run.recipe
    with run:
        task = task_of(recipe)
        capable, light = learner_of(recipe.capable, task.instruction), learner_of(recipe.light, task.instruction)
        with screen(f"DUET · {recipe.run.name}", recipe.run.steps, 0) as shown:
            state = train(run, capable, light, task, showing(shown), shown.warn)
        run.finish({"capable": capable.speaker.policy, "light": light.speaker.policy}, summary_of(state))
    return state


def alone(run: Run, screen: ScreenMaker) -> State:
    """Train M alone with the same length penalty; its run directory holds one model, `capable`."""
    recipe = run.recipe
    with run:
        task = task_of(recipe)
        capable = learner_of(recipe.capable, task.instruction)
        nobody = Learner(capable.speaker, recipe.light.model_copy(update={"train": False}))
        with screen(f"M alone · {recipe.run.name}", recipe.run.steps, 0) as shown:
            state = train(run, capable, nobody, task, showing(shown), shown.warn, step_function=alone_step)
        run.finish({"capable": capable.speaker.policy}, summary_of(state))
    return state


def warmup(run: Run, screen: ScreenMaker) -> None:
    """Train one model of a recipe on worked solutions, from random weights if the recipe says so."""
    recipe = run.recipe
    settings = recipe.warmup or WarmupConfig()  # pyright: ignore[reportCallIssue]
    config: ModelConfig = getattr(recipe, settings.role)
    with run:
        task = task_of(recipe)
        speaker = (
            new_speaker(config, settings, task, recipe.run.seed) if settings.new_model else speaker_of(config, task.instruction)
        )
        with screen(f"Warm-up · {recipe.run.name}", recipe.run.steps, 0) as shown:
            warm_up(run, speaker, task, lambda step, metrics: shown.update(step, metrics))
        run.finish({settings.role: speaker.policy}, {})


def new_speaker(config: ModelConfig, settings: WarmupConfig, task: Task, seed: int) -> Speaker:
    """A model with random weights and a tokenizer learned from the task's own text."""
    assert settings.new_model is not None
    texts = (f"{q.text}\n{q.trace}\n\n{q.answer}" for q in worked(task)[:5000])
    tokenizer = learn_tokenizer(texts)
    model = new_model(tokenizer, **settings.new_model, seed=seed)
    policy = LocalPolicy(model, tokenizer, tokens_per_microbatch=config.tokens_per_microbatch)
    return Speaker(policy, Renderer(tokenizer, policy.context_length, task.instruction, config.template))


def evaluate(what: str, overrides: Sequence[str], out: Path | None, quiet: bool) -> Evaluation:
    """Measure what a run trained, with every baseline, or the untrained models of a recipe; print the table, write the rest.

    The baseline "M trained alone" is taken from the run directory beside it whose name ends in -alone, if it has finished.
    """
    from rich.console import Console

    directory = Path(what)
    console = Console(width=None if sys.stdout.isatty() else 110)
    is_run = directory.is_dir()
    if is_run and overrides and out is None:
        raise ConfigError(f"--set changes what is measured; name a folder for it with --out; {directory} holds the run's own")
    recipe = with_overrides(Run.open(directory).recipe if is_run else load_recipe(what), overrides)
    out = out or (directory if is_run else Path(recipe.run.directory) / f"{recipe.run.name}-untrained")
    out.mkdir(parents=True, exist_ok=True)
    task = task_of(recipe)
    frozen = {role: getattr(recipe, role).model_copy(update={"train": False}) for role in ("capable", "light")}
    capable, light = (speaker_of(frozen[role], task.instruction) for role in ("capable", "light"))
    shapes = Shapes(shape_of(capable.policy.model.config), shape_of(light.policy.model.config))  # pyright: ignore
    with Progress(console=console, transient=True, disable=quiet) as progress:
        bars: dict[str, Any] = {}

        def on_progress(system: str, done: int, total: int) -> None:
            bars[system] = bars[system] if system in bars else progress.add_task(system, total=total)
            progress.update(bars[system], completed=done)

        measure = {"shapes": shapes, "directory": out, "on_progress": on_progress}
        if is_run:
            run = Run.open(directory)
            if run.kind != "duet":
                raise RunError(
                    f"{directory} is a run of kind {run.kind}, without a pair; evaluate the run that `counterpoint duet` made"
                )
            beside = directory.with_name(f"{directory.name}-alone")
            solo = frozen["capable"].model_copy(update={"model": str(beside / "models" / "capable"), "gguf_file": None})
            speakers = Speakers(
                initial_capable=capable,
                initial_light=light,
                trained_capable=speaker_of(trained_model(run, "capable", frozen["capable"]), task.instruction),
                trained_light=speaker_of(trained_model(run, "light", frozen["light"]), task.instruction),
                solo_capable=speaker_of(solo, task.instruction) if recipe.evaluation.solo and Path(solo.model).is_dir() else None,
            )
            evaluation = evaluate_pair(speakers, task, recipe, **measure)
            if speakers.solo_capable is None:
                console.print(f"To see what m contributes, train M alone too: counterpoint duet {directory}/config.toml --alone")
        else:
            systems = {REFERENCE: capable_alone(capable), "m alone": light_alone(light), "untrained pair": pair(capable, light)}
            evaluation = evaluate_systems(systems, task, recipe, **measure)
    print_table(evaluation, console)
    plot(evaluation, out / "evaluation.png")
    console.print(
        f"{out}/evaluation.json has the numbers, evaluation.png the plot, evaluation_samples.jsonl every response", soft_wrap=True
    )
    return evaluation


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A recipe with `--set` overrides applied."""
    values = recipe.model_dump(exclude_none=True)
    if any(override.partition("=")[0].strip() == "task.name" for override in overrides):
        values["task"] = {}  # another task: the path, grader and options were for the first
    for override in overrides:
        apply_override(values, override)
    return validate(values, "the run's recipe")


def showing(screen: Screen) -> Observer:
    """An observer that shows each step, with the first signal that was sampled in it."""

    def observe(step: int, metrics: dict[str, float], samples: Sequence[dict[str, Any]]) -> None:
        screen.update(step, metrics, samples[0]["signal"] if samples else None)

    return observe


def summary_of(state: State) -> dict[str, Any]:
    """What a run ends with."""
    return {"floor": state.floor, "capable_alone_accuracy": state.capable_alone, "multiplier": state.controller.value}


def alone_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the baseline that belongs to a pair's recipe."""
    run = recipe.run.model_copy(update={"name": f"{recipe.run.name}-alone"})
    light = recipe.light.model_copy(update={"train": False})
    capable = recipe.capable.model_copy(update={"train": True})
    return recipe.model_copy(update={"run": run, "light": light, "capable": capable})


def trained_model(run: Run, role: str, config: ModelConfig) -> ModelConfig:
    """The section of a recipe for a model that a run has trained. Raises `RunError` if the run has not finished."""
    directory = Path(run.directory) / "models" / role
    if not directory.is_dir():
        raise RunError(f"{run.directory} has no trained {role} model yet; finish it with: counterpoint resume {run.directory}")
    return config.model_copy(update={"model": str(directory), "gguf_file": None, "train": False, "lora": None})

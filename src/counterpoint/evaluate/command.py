"""`counterpoint eval`: what a run trained, with every baseline, or the untrained models of a recipe."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from counterpoint.config import ModelConfig
from counterpoint.config_files import apply_override, load_recipe, validate
from counterpoint.dqo.embed import load_embedder, policy_states
from counterpoint.errors import ConfigError, RunError
from counterpoint.evaluate.baselines import System, capable_alone, light_alone, pair, responder
from counterpoint.evaluate.diversity import check_packages
from counterpoint.evaluate.gateway import CAPABLE, policies_of
from counterpoint.evaluate.plot import plot, plot_diversity
from counterpoint.evaluate.results import Evaluation, Measures, Shapes, TrainedBy
from counterpoint.evaluate.run import (
    BEFORE,
    LIGHT_ALONE,
    REFERENCE,
    SOLO,
    START,
    TRAINED_PAIR,
    Speakers,
    embedder_name,
    evaluate_pair,
    evaluate_systems,
)
from counterpoint.evaluate.show import print_diversity, print_table
from counterpoint.flops import shape_of
from counterpoint.jobs import alone_recipe, speaker_of, task_of
from counterpoint.policy.prompting import Speaker
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe, of_kind
from counterpoint.run import CONFIG, Run, read_metrics

NOT_OF_THE_RESULT = frozenset(
    f"run.{name}" for name in ("name", "directory", "loggers", "checkpoint_every", "keep_checkpoints", "sample_every")
)
"""Settings in which two runs may differ and still be trained alike."""


def evaluate(
    what: Sequence[str], overrides: Sequence[str], out: Path | None, quiet: bool, gateway: str | None = None
) -> Evaluation:
    """Measure run directories, or the untrained models of a recipe; print the table, write the rest.

    Of DUET one run; of DQO several, whose policies are measured side by side on the task of the first. With the URL of a
    `gateway`, its policies are measured on the task of a run or recipe of DUET, and no model is loaded.
    """
    first = Path(what[0])
    is_run = first.is_dir()
    if not is_run and len(what) > 1:
        raise ConfigError(f"{first} is no run directory; give run directories of DQO side by side, or one recipe alone")
    if is_run and overrides and out is None and gateway is None:
        raise ConfigError(f"--set changes what is measured; name a folder for it with --out; {first} holds the run's own")
    recipe = with_overrides(Run.open(first).recipe if is_run else load_recipe(first), overrides)
    if gateway is not None:
        recipe = of_kind(recipe, DuetRecipe)
    out = out or folder_of(first if is_run else None, recipe, gateway is not None)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 110)
    if isinstance(recipe, DqoRecipe):
        evaluation = of_policies([Path(name) for name in what] if is_run else [], recipe, out, console, quiet)
        plot_diversity(evaluation, out / "evaluation.png")
    else:
        if len(what) > 1:
            raise ConfigError("runs of DUET are measured one at a time: give one run directory")
        pair_recipe = of_kind(recipe, DuetRecipe)
        if gateway is None:
            evaluation = of_pair(first if is_run else None, pair_recipe, out, console, quiet)
        else:
            evaluation = of_gateway(gateway, pair_recipe, out, console, quiet)
        plot(evaluation, out / "evaluation.png")
    console.print(
        f"{out}/evaluation.json has the numbers, evaluation.png the plot, evaluation_samples.jsonl every response", soft_wrap=True
    )
    return evaluation


def folder_of(run: Path | None, recipe: Recipe, is_gateway: bool) -> Path:
    """Where an evaluation is written unless the user says so. A gateway's is not put over the run's own, which it reads."""
    if run is not None:
        return run / "gateway" if is_gateway else run
    return Path(recipe.run.directory) / f"{recipe.run.name}-{'gateway' if is_gateway else 'untrained'}"


def of_pair(directory: Path | None, recipe: DuetRecipe, out: Path, console: Console, quiet: bool) -> Evaluation:
    """The pair of a run with every baseline, or the models of a recipe untrained; for "M trained alone" see `solo_model`."""
    task = task_of(recipe)
    frozen = {role: measured(model) for role, model in recipe.models.items()}
    capable, light = (speaker_of(frozen[role], task.instruction) for role in ("capable", "light"))
    with progress(console, quiet) as on_progress:
        measure = {"measures": measures_of(recipe, capable, light), "directory": out, "on_progress": on_progress}
        if directory is None:
            systems = {REFERENCE: capable_alone(capable), LIGHT_ALONE: light_alone(light), BEFORE: pair(capable, light)}
            evaluation = evaluate_systems(systems, task, recipe, **measure)
        else:
            run = Run.open(directory)
            if run.kind != "duet":
                raise RunError(
                    f"{directory} is a run of kind {run.kind}, without a pair; evaluate the run that `counterpoint duet` made"
                )
            solo = solo_model(run, frozen["capable"]) if recipe.evaluation.solo else None
            trained_by = by_runs({TRAINED_PAIR: run} | ({SOLO: Run.open(solo_beside(run))} if solo else {}))
            speakers = Speakers(
                initial_capable=capable,
                initial_light=light,
                trained_capable=speaker_of(trained_model(run, "capable", frozen["capable"]), task.instruction),
                trained_light=speaker_of(trained_model(run, "light", frozen["light"]), task.instruction),
                solo_capable=speaker_of(solo, task.instruction) if solo else None,
            )
            evaluation = evaluate_pair(speakers, task, recipe, trained_by=trained_by, **measure)
            if speakers.solo_capable is None:
                console.print(f"To see what m contributes, train M alone too: counterpoint duet {directory}/config.toml --alone")
    print_table(evaluation, console)
    if recipe.evaluation.embedder:
        print_diversity(evaluation, console)
    return evaluation


def of_gateway(url: str, recipe: DuetRecipe, out: Path, console: Console, quiet: bool) -> Evaluation:
    """The policies of a running gateway, on the test questions of a recipe."""
    if recipe.evaluation.embedder == "policy":
        raise ConfigError("evaluation.embedder is policy, and a gateway shows no hidden states; choose another with --set")
    measures = Measures(embedder=load_embedder(recipe.evaluation.embedder) if recipe.evaluation.embedder else None)
    systems, task = policies_of(url), task_of(recipe)
    with progress(console, quiet) as on_progress:
        evaluation = evaluate_systems(
            systems, task, recipe, measures=measures, directory=out, on_progress=on_progress, reference=CAPABLE
        )
    print_table(evaluation, console)
    if measures.embedder:
        print_diversity(evaluation, console)
    console.print(f"asked at {url}, whose models have a top_k of their own", style="dim", highlight=False)
    return evaluation


def solo_beside(run: Run) -> Path:
    """Where M trained alone for a pair is, if it was."""
    return run.directory.with_name(f"{run.directory.name}-alone")


def by_runs(systems: Mapping[str, Run]) -> dict[str, TrainedBy]:
    """By which run and after which step each system was trained; without those of older versions, which have no id."""
    return {name: TrainedBy(str(run.info["id"]), last_step(run)) for name, run in systems.items() if run.info.get("id")}


def last_step(run: Run) -> int | None:
    """The last step that a run wrote down; None where its metrics are lost or damaged: it is measured all the same."""
    try:
        return max((int(line["step"]) for line in read_metrics(run.directory)), default=None)
    except RunError:
        return None


def solo_model(run: Run, config: ModelConfig) -> ModelConfig | None:
    """`config` for M trained alone, of the run beside the pair's whose name ends in -alone; None if none has finished.

    Raises `RunError` if that run is not the baseline of this one: the pair was trained again with other settings, say.
    """
    beside = solo_beside(run)
    if not (beside / "models" / "capable").is_dir():
        return None
    other, expected = Run.open(beside), alone_recipe(of_kind(run.recipe, DuetRecipe))
    differences = differing(other.recipe.model_dump(), expected.model_dump())
    differences = [name for name in differences if name not in NOT_OF_THE_RESULT]
    if other.kind != "alone" or differences:
        why = f"its settings differ in {', '.join(differences)}" if differences else f"it is a run of kind {other.kind}"
        raise RunError(
            f"{beside} is not M trained alone for the pair of {run.directory}: {why}. Move it away and train M alone again with "
            f"`counterpoint duet {run.directory}/{CONFIG} --alone`, or measure without it: --set evaluation.solo=false "
            "--out FOLDER"
        )
    return trained_model(other, "capable", config)


def differing(one: Mapping[str, Any], other: Mapping[str, Any], parents: str = "") -> list[str]:
    """Dotted names of the settings that two recipes, as plain values, do not have alike."""
    names: list[str] = []
    for key in sorted(one.keys() | other.keys()):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            names += differing(left, right, f"{parents}{key}.")
        elif left != right:
            names.append(f"{parents}{key}")
    return names


def of_policies(directories: Sequence[Path], recipe: DqoRecipe, out: Path, console: Console, quiet: bool) -> Evaluation:
    """The policy that a recipe starts from, and those that runs have trained, by the names of the runs."""
    check_alike(directories)
    task = task_of(recipe)
    frozen = measured(recipe.policy)
    start = speaker_of(frozen, task.instruction)
    systems: dict[str, System] = {START: responder(start)}
    runs: dict[str, Run] = {}
    for directory in directories:
        run = Run.open(directory)
        policy = of_kind(run.recipe, DqoRecipe).policy
        if run.recipe.run.name in systems:
            raise ConfigError(f"{directory}: there is a {run.recipe.run.name} in the table already; name the runs differently")
        runs[run.recipe.run.name] = run
        systems[run.recipe.run.name] = responder(speaker_of(trained_model(run, "policy", policy), task.instruction))
    measures = measures_of(recipe, start, start)
    with progress(console, quiet) as on_progress:
        evaluation = evaluate_systems(
            systems, task, recipe, measures=measures, directory=out, on_progress=on_progress, reference=START,
            trained_by=by_runs(runs),
        )  # fmt: skip
    print_diversity(evaluation, console)
    return evaluation


def check_alike(directories: Sequence[Path]) -> None:
    """Raise `ConfigError` for runs that cannot stand in one table: another start, another task, or another budget."""
    recipes = [of_kind(Run.open(directory).recipe, DqoRecipe) for directory in directories]
    compared = [
        {"policy": {"model": r.policy.model}, "task": r.task.model_dump(), "dqo": {"max_tokens": r.dqo.max_tokens}}
        for r in recipes
    ]
    for directory, settings in zip(directories, compared, strict=True):
        if names := differing(compared[0], settings):
            raise ConfigError(
                f"{directory} cannot be measured beside {directories[0]}: {', '.join(names)} of the two differ. Runs in one "
                "table have one start, one task and one budget; evaluate this one by itself"
            )


def measures_of(recipe: Recipe, capable: Speaker, light: Speaker) -> Measures:
    """What is counted beside accuracy and tokens."""
    shapes = Shapes(shape_of(capable.policy.model.config), shape_of(light.policy.model.config))  # pyright: ignore
    name = embedder_name(recipe)
    if name is not None:
        check_packages()
    if name == "policy":
        return Measures(shapes, policy_states(capable.policy))
    return Measures(shapes, load_embedder(name) if name else None)


@contextmanager
def progress(console: Console, quiet: bool) -> Iterator[Any]:
    """A bar a system."""
    with Progress(console=console, transient=True, disable=quiet) as shown:
        bars: dict[str, Any] = {}

        def on_progress(system: str, done: int, total: int) -> None:
            bars[system] = bars[system] if system in bars else shown.add_task(system, total=total)
            shown.update(bars[system], completed=done)

        yield on_progress


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A recipe with `--set` overrides applied."""
    values: dict[str, Any] = recipe.model_dump(exclude_none=True)
    if any(override.partition("=")[0].strip() == "task.name" for override in overrides):
        values["task"] = {}  # another task: the path, grader and options were for the first
    for override in overrides:
        apply_override(values, override)
    return validate(values, "the run's recipe")


def trained_model(run: Run, role: str, config: ModelConfig) -> ModelConfig:
    """The section of a recipe for a model that a run has trained. Raises `RunError` if the run has not finished."""
    directory = Path(run.directory) / "models" / role
    if not directory.is_dir():
        raise RunError(f"{run.directory} has no trained {role} model yet; finish it with: counterpoint resume {run.directory}")
    return measured(config).model_copy(update={"model": str(directory), "gguf_file": None, "lora": None})


def measured(config: ModelConfig) -> ModelConfig:
    """The section of a model that is measured, not trained. Many are loaded together, which vLLM's share of a GPU is not for."""
    return config.model_copy(update={"train": False, "sampler": "transformers"})

"""What the commands do: from a recipe to models, a task, a run and an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from counterpoint.config import ModelConfig, WarmupConfig
from counterpoint.dqo.shape import load_diversity
from counterpoint.dqo.train import train as train_dqo
from counterpoint.duet.alone import alone_step
from counterpoint.duet.train import train
from counterpoint.errors import ConfigError
from counterpoint.policy.critic import critic_for
from counterpoint.policy.load import load_policy
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.prompting import Renderer, Speaker
from counterpoint.policy.tiny import learn_tokenizer, new_model
from counterpoint.recipe import DqoRecipe, DuetRecipe, Recipe, of_kind
from counterpoint.rl.learn import Learner
from counterpoint.rl.loop import Observer
from counterpoint.rl.state import State
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
    recipe = of_kind(run.recipe, DuetRecipe)
    with run:
        task = task_of(recipe)
        capable, light = learner_of(recipe.capable, task.instruction), learner_of(recipe.light, task.instruction)
        diversity = load_diversity(recipe.diversity, capable.speaker.policy, recipe.duet.signals) if recipe.diversity else None
        with screen(f"DUET · {recipe.run.name}", recipe.run.steps, 0) as shown:
            state = train(run, capable, light, task, showing(shown), shown.warn, diversity=diversity)
        run.finish({"capable": capable.speaker.policy, "light": light.speaker.policy}, summary_of(state))
    return state


def alone(run: Run, screen: ScreenMaker) -> State:
    """Train M alone with the same length penalty; its run directory holds one model, `capable`."""
    recipe = of_kind(run.recipe, DuetRecipe)
    with run:
        task = task_of(recipe)
        capable = learner_of(recipe.capable, task.instruction)
        nobody = Learner(capable.speaker, recipe.light.model_copy(update={"train": False}))
        with screen(f"M alone · {recipe.run.name}", recipe.run.steps, 0) as shown:
            state = train(run, capable, nobody, task, showing(shown), shown.warn, step_function=alone_step)
        run.finish({"capable": capable.speaker.policy}, summary_of(state))
    return state


def dqo(run: Run, screen: ScreenMaker) -> State:
    """Train the policy of a run, from its last checkpoint if it has one, and write its model."""
    recipe = of_kind(run.recipe, DqoRecipe)
    with run:
        task = task_of(recipe)
        policy = learner_of(recipe.policy, task.instruction)
        diversity = load_diversity(recipe.diversity, policy.speaker.policy, recipe.dqo.samples)
        critic = None
        if recipe.critic is not None:
            torch.manual_seed(recipe.run.seed)  # a critic with adapters draws them
            critic = critic_for(recipe.critic, recipe.policy, policy.speaker.policy.tokenizer)  # pyright: ignore
        with screen(f"DQO · {recipe.run.name}", recipe.run.steps, 0) as shown:
            state = train_dqo(run, policy, diversity, task, showing(shown), shown.warn, critic)
        summary = {"floor": state.floor} | ({} if recipe.diversity.shaper == "none" else {"alpha": state.controller.value})
        run.finish({"policy": policy.speaker.policy}, summary)
    return state


def warmup(run: Run, screen: ScreenMaker) -> None:
    """Train one model of a recipe on worked solutions, from random weights if the recipe says so."""
    recipe = run.recipe
    settings = recipe.warmup or WarmupConfig()  # pyright: ignore[reportCallIssue]
    if settings.role not in recipe.models:
        raise ConfigError(f"warmup.role is {settings.role}, and the recipe has {' and '.join(recipe.models)}")
    config = recipe.models[settings.role].model_copy(update={"sampler": "transformers"})  # it samples nothing
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
    sizes = dict(settings.new_model)
    vocabulary = {"vocabulary_size": sizes.pop("vocabulary_size")} if "vocabulary_size" in sizes else {}
    tokenizer = learn_tokenizer(texts, **vocabulary)
    model = new_model(tokenizer, **sizes, seed=seed)
    policy = LocalPolicy(model, tokenizer, tokens_per_microbatch=config.tokens_per_microbatch)
    return Speaker(policy, Renderer(tokenizer, policy.context_length, task.instruction, config.template))


def showing(screen: Screen) -> Observer:
    """An observer that shows each step, with the first signal or response that was sampled in it."""

    def observe(step: int, metrics: dict[str, float], samples: Sequence[dict[str, Any]]) -> None:
        said = samples[0] if samples else {}
        screen.update(step, metrics, said.get("signal", said.get("responses", [None])[0]))

    return observe


def summary_of(state: State) -> dict[str, Any]:
    """What a run ends with."""
    return {"floor": state.floor, "capable_alone_accuracy": state.capable_alone, "multiplier": state.controller.value}


def alone_recipe(recipe: DuetRecipe) -> DuetRecipe:
    """The recipe of the baseline that belongs to a pair's recipe: M with the length penalty alone.

    A diversity section is left out: the baseline's M writes no signals for it to shape, but reasons and answers in one.
    """
    run = recipe.run.model_copy(update={"name": f"{recipe.run.name}-alone"})
    light = recipe.light.model_copy(update={"train": False})
    capable = recipe.capable.model_copy(update={"train": True})
    return recipe.model_copy(update={"run": run, "light": light, "capable": capable, "diversity": None})

"""A single policy for DQO, small enough to train within a test, and a recipe for it. What it is asked is in pairs.py."""

import pytest

from counterpoint.dqo.shape import load_diversity
from counterpoint.dqo.train import train
from counterpoint.policy.critic import Critic
from counterpoint.recipe import DqoRecipe
from counterpoint.run import Run, read_metrics
from pairs import learner, tiny_policy, toy_task, without_times


def dqo_recipe_in(directory, **sections):
    """A recipe whose steps take milliseconds; a section given is laid over it."""
    values = {
        "run": {"name": "trial", "directory": str(directory), "steps": 3, "checkpoint_every": 2, "sample_every": 1},
        "policy": {"model": "none", "learning_rate": 1e-2, "device": "cpu"},
        "dqo": {"questions": 2, "samples": 4, "max_tokens": 8},
        "diversity": {"embedder": "ngrams"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return DqoRecipe.model_validate(values)


def tiny_learner(recipe, seed=0):
    return learner(tiny_policy(seed), recipe.policy)


def tiny_critic(seed=0):
    return Critic(tiny_policy(seed).model.get_decoder())


def trained_dqo(
    recipe,
    policy=None,
    critic=None,
    task=None,
    observe=lambda step, metrics, samples: None,
    warn=pytest.fail,
    run=None,
    diversity=None,
):
    """(policy, metrics without times, final state) of a run from where it stands to its end."""
    policy = policy or tiny_learner(recipe)
    diversity = diversity or load_diversity(recipe.diversity, policy.speaker.policy, recipe.dqo.samples)
    with run or Run.create(recipe, "dqo") as run:
        state = train(run, policy, diversity, task or toy_task(), observe, warn, critic)
    return policy, without_times(read_metrics(run.directory)), state

"""Noise appended to look diverse: who learns it, who does not, what the cures cannot see. benchmarks/noise.py in small."""

import importlib.util
import statistics
from functools import cache
from pathlib import Path

import pytest

SEEDS = (0, 1, 2)
STEPS, ALPHA = 20, 2.0


def load_benchmark():
    spec = importlib.util.spec_from_file_location("noise", Path(__file__).parents[2] / "benchmarks" / "noise.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


noise = load_benchmark()


@cache
def start(seed):
    return noise.started(seed, noise.recipe_of(noise.VARIANTS["GRPO"], seed, STEPS, ALPHA), steps=120)


@cache
def noisy_share(seed, world, name):
    """Of responses after a short training."""
    variant = noise.VARIANTS[name]
    recipe = noise.recipe_of(variant, seed, STEPS, ALPHA)
    recipe = recipe.model_copy(update={"dqo": recipe.dqo.model_copy(update={"questions": 8})})
    return noise.trained(start(seed), variant, noise.WORLDS[world], recipe, every=STEPS)[-1]["noisy"]


def mean_share(world, name):
    return statistics.fmean(noisy_share(seed, world, name) for seed in SEEDS)


@pytest.mark.parametrize("cure", ["dqo, correct_only", "dqo, quality_temperature 0.25"])
def test_noise_that_can_break_an_answer_is_learned_by_plain_dqo_and_not_by_its_cures(cure):
    assert mean_share("half breaks", "dqo") > mean_share("half breaks", cure) + 0.1


@pytest.mark.parametrize("pays", ["dqo", "dqo, correct_only"])
def test_noise_that_costs_nothing_is_learned_even_by_a_cure_and_not_where_the_answer_alone_is_embedded(pays):
    assert mean_share("free", pays) > mean_share("free", "dqo, correct_only, answer embedded") + 0.2
